"""Masked tokens, decoded many at a time.  Chang et al., MaskGIT, 2022, arXiv 2202.04200, sections
3.2 and 3.3.

At each step the model guesses every unknown token; those it is least sure of are forgotten again,
fewer at each step. MAGVIT (Yu et al., 2022, arXiv 2212.05199, Algorithm 1) decodes in the same way
and differs in what stands where a token is unknown: there `canvas` has the condition's own token
wherever the condition touches it, and [MASK] elsewhere.

Differs from the papers in the manner of the official code: gamma n is rounded down, not up, and
kept within [1, unknown - 1]; the confidence is the logarithm of the probability, with Gumbel noise
that fades out.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange

from course_lib.lm.sampling import draw_tokens
from course_lib.shapes import Bool, Float, Int, Tensor

# gamma(r) for r in [0, 1] and n tokens: concave, linear and convex ones (MaskGIT, section 3.3)
SCHEDULES = {
    "cosine": lambda r, n: torch.cos(math.pi / 2 * r),
    "square": lambda r, n: 1 - r**2,
    "cubic": lambda r, n: 1 - r**3,
    "exp": lambda r, n: 1 - n ** (r - 1),
    "linear": lambda r, n: 1 - r,
    "sqrt": lambda r, n: 1 - r**0.5,
    "log": lambda r, n: -torch.log(r) / math.log(n),
}


class Decoding(NamedTuple):
    """Every step of a decoding, the first step first."""

    tokens: Int[Tensor, "steps b n"]  # the guess for every place; the last one is the result
    # the places whose guess is forgotten before the next step; at last none
    unknown: Bool[Tensor, "steps b n"]


def mask_ratio(
    r: Float[Tensor, "..."] | int | float, schedule: str = "cosine", n: int | None = None
) -> Float[Tensor, "..."]:
    """gamma(r): the share of tokens that are unknown when the share r of all steps is done; from 1
    down to 0.

    schedule: a key of SCHEDULES.  "exp" and "log" depend on the number n of tokens, and gamma(0) is
    1 - 1/n for "exp". Raises ValueError for another schedule, for r outside [0, 1], and where these
    two lack n.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"expected a schedule of {', '.join(SCHEDULES)}, got {schedule!r}")
    if schedule in ("exp", "log") and (n is None or n < 2):
        raise ValueError(f"expected n of at least 2 tokens for the schedule {schedule!r}, got {n}")
    r = torch.as_tensor(r) * 1.0
    if not ((r >= 0) & (r <= 1)).all():
        raise ValueError(f"expected r in [0, 1], got {r}")
    return SCHEDULES[schedule](r, n).clamp(0, 1)


def num_masked(
    gamma: Float[Tensor, ""], n: Int[Tensor, " b"], left: Int[Tensor, " b"]
) -> Int[Tensor, " b"]:
    """floor(gamma n), of n tokens that were unknown at first, but at least 1 and fewer than are
    `left` now.

    So every step but the last leaves something to do and does something; with 1 or none left, none
    remains.
    """
    wanted = (gamma * n + 1e-6).floor().long()  # (1 - 0.8) 5 is 0.9999999999999998
    return wanted.clamp(min=1).minimum(left - 1).clamp(min=0)


def unknown_after(
    steps: int, n: Int[Tensor, " b"], schedule: str = "cosine", length: int | None = None
) -> Int[Tensor, "steps b"]:
    """How many of n tokens are still unknown after each of the steps: as gamma(1 / steps), gamma(2
    / steps), ... say, and 0 after the last.  "exp" and "log" need the length of the whole
    sequence.  Raises ValueError unless steps >= 1.
    """
    if steps < 1:
        raise ValueError(f"expected at least one step, got {steps}")
    counts = [n]
    for gamma in mask_ratio(torch.arange(1, steps, dtype=torch.float64) / steps, schedule, length):
        counts.append(num_masked(gamma, n, counts[-1]))
    return torch.stack([*counts[1:], torch.zeros_like(n)])


def gumbel_noise(
    temperature: int | float, step: int, steps: int, uniform: Float[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    """temperature (1 - (step + 1) / steps) times Gumbel noise, -ln(-ln uniform).

    step counts from 0, so the last one has no noise.  uniform is in [0, 1); a 0 stands for the
    smallest number above.
    """
    gumbel = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(uniform.dtype).tiny)))
    return temperature * (1 - (step + 1) / steps) * gumbel


def remask(confidence: Float[Tensor, "b n"], number: Int[Tensor, " b"]) -> Bool[Tensor, "b n"]:
    """True for the `number` lowest of each row; of equals the first."""
    rank = confidence.argsort(dim=1, stable=True).argsort(dim=1)  # b n
    return rank < number[:, None]


def decode_step(
    logits: Float[Tensor, "b n v"],
    tokens: Int[Tensor, "b n"],
    unknown: Bool[Tensor, "b n"],
    number: Int[Tensor, " b"],
    uniform: Float[Tensor, "b n"],
    noise: Float[Tensor, "b n"],
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """One step: the tokens with a guess in every unknown place, and the `number` places of each row
    to be forgotten.

    A guess is the first code whose cumulative probability exceeds `uniform`.  Forgotten are the
    guesses of the lowest ln p + noise; known tokens are kept for good.
    """
    guess = draw_tokens(
        rearrange(logits.softmax(-1), "b n v -> (b n) v"), uniform.flatten()
    ).view_as(tokens)
    log_p = logits.log_softmax(-1).gather(2, guess[..., None])[..., 0]  # b n
    confidence = (log_p + noise).masked_fill(~unknown, torch.inf)
    return torch.where(unknown, guess, tokens), remask(confidence, number)


@torch.no_grad()
def parallel_decode(
    model: Callable,
    canvas: Int[Tensor, "b n"],
    unknown: Bool[Tensor, "b n"],
    steps: int,
    *,
    schedule: str = "cosine",
    temperature: int | float = 4.5,
    generator: torch.Generator | None = None,
) -> Decoding:
    """Decode the unknown tokens in `steps` steps; `tokens[-1]` of the result has them all.

    model(tokens (b n)) -> logits (b n v) of the v codes alone, without [MASK].  It sees the canvas
    where a token is unknown and the tokens known so far elsewhere.  What it should see besides (a
    class, a prefix, guidance), and a sampling temperature or filter of its logits, are for the
    caller to wrap around it.

    MaskGIT: canvas holds the known tokens and [MASK], and unknown is canvas == mask.  MAGVIT's
    COMMIT: canvas holds the tokens of the padded condition where its supervoxel touches condition
    pixels and [MASK] elsewhere, and all is unknown: condition tokens are refined too.

    temperature is that of the confidence; random numbers come from the CPU, so that they are the
    same for every device. Raises ValueError unless steps >= 1.
    """
    # steps b
    numbers = unknown_after(steps, unknown.sum(dim=1).cpu(), schedule, canvas.shape[1]).to(
        canvas.device
    )
    tokens, history = canvas, []
    for step, number in enumerate(numbers):
        logits = model(torch.where(unknown, canvas, tokens)).float()  # b n v
        # b n, b n
        for_guess, for_noise = torch.rand(2, *canvas.shape, generator=generator).to(canvas.device)
        noise = gumbel_noise(temperature, step, steps, for_noise)
        tokens, unknown = decode_step(logits, tokens, unknown, number, for_guess, noise)
        history.append((tokens, unknown))
    return Decoding(*(torch.stack(each) for each in zip(*history, strict=True)))
