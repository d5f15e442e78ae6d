"""Masked tokens, decoded many at a time.  Chang et al., MaskGIT, 2022, arXiv 2202.04200, sections
3.2 and 3.3.

At each step the model guesses every unknown token; those it is least sure of are forgotten again,
fewer at each step.  MAGVIT (Yu et al., 2022, arXiv 2212.05199, Algorithm 1) decodes in the same way
and differs in what the model sees where a token is unknown: there `canvas` has the condition's own
token wherever the condition touches it, and [MASK] elsewhere.

Differs from the papers, following the official code: gamma n is rounded down, not up, and kept
within [1, unknown - 1]; the confidence is the logarithm of the probability, with Gumbel noise that
fades out.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from einops import rearrange

from course_lib.lm.sampling import draw_factors, draw_tokens
from course_lib.shapes import Bool, Float, Int, Tensor

# gamma(r) for r in [0, 1] and n tokens: concave, linear and convex functions (MaskGIT, section 3.3)
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
    # The places whose guess is forgotten before the next step; none after the last step.
    unknown: Bool[Tensor, "steps b n"]


def mask_ratio(
    r: Float[Tensor, "..."] | int | float, schedule: str = "cosine", n: int | None = None
) -> Float[Tensor, "..."]:
    """Return gamma(r), the share of tokens still unknown when the share r of all steps is done.

    It falls from 1 to 0.  schedule: a key of SCHEDULES.  "exp" and "log" depend on the number n of
    tokens, and gamma(0) is 1 - 1/n for "exp".  Raises ValueError for another schedule, for r
    outside [0, 1], and where these two lack n.
    """
    if schedule not in list(SCHEDULES):
        raise ValueError(f"expected a schedule of {', '.join(SCHEDULES)}, got {schedule!r}")
    if schedule in ("exp", "log") and (n is None or not n >= 2):
        raise ValueError(f"expected n of at least 2 tokens for the schedule {schedule!r}, got {n}")
    r = torch.as_tensor(r) * 1.0
    if not ((r >= 0) & (r <= 1)).all():
        raise ValueError(f"expected r in [0, 1], got {r}")
    return SCHEDULES[schedule](r, n).clamp(0, 1)


def num_masked(
    gamma: Float[Tensor, ""], n: Int[Tensor, " b"], left: Int[Tensor, " b"]
) -> Int[Tensor, " b"]:
    """Return floor(gamma n), n tokens unknown at first, but at least 1 and fewer than `left` now.

    So every step but the last leaves something to do and does something; with 1 or none left, none
    remains.

    Differs from the official code, which takes the floor in float32: where gamma n is a whole
    number, such as n / 2 after 2/3 of the steps of "cosine", that may come out one lower.
    """
    wanted = (gamma * n + 1e-6).floor().long()  # (1 - 0.8) 5 is 0.9999999999999998
    return wanted.clamp(min=1).minimum(left - 1).clamp(min=0)


def unknown_after(
    steps: int, n: Int[Tensor, " b"], schedule: str = "cosine", length: int | None = None
) -> Int[Tensor, "steps b"]:
    """Return how many of n tokens are still unknown after each of the steps.

    gamma(1 / steps), gamma(2 / steps), ... say how many; after the last step there are 0.  "exp"
    and "log" need the length of the whole sequence.  Raises ValueError unless steps >= 1.
    """
    if not (isinstance(steps, Integral) and steps >= 1):
        raise ValueError(f"expected at least one step, got {steps}")
    ratios = torch.arange(1, steps, dtype=torch.float64) / steps
    counts = [n]
    for gamma in mask_ratio(ratios, schedule, length):
        counts.append(num_masked(gamma, n, counts[-1]))
    return torch.stack([*counts[1:], torch.zeros_like(n)])


def gumbel_noise(
    temperature: int | float, step: int, steps: int, uniform: Float[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    """Return temperature (1 - (step + 1) / steps) times Gumbel noise, -ln(-ln uniform).

    step counts from 0, so the last one has no noise.  uniform is in [0, 1); a 0 counts as the
    smallest number above it.
    """
    gumbel = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(uniform.dtype).tiny)))
    return temperature * (1 - (step + 1) / steps) * gumbel


def remask(confidence: Float[Tensor, "b n"], number: Int[Tensor, " b"]) -> Bool[Tensor, "b n"]:
    """Return True for the `number` lowest of each row; ties go to the first."""
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
    """Guess every unknown token, and choose which `number` guesses of each row to forget.

    A guess is the first code whose cumulative probability exceeds `uniform`.  The guesses with the
    lowest ln p + noise are forgotten; known tokens are kept for good.
    """
    probabilities = rearrange(logits.softmax(-1), "b n v -> (b n) v")
    guess = draw_tokens(probabilities, uniform.flatten()).view_as(tokens)  # b n
    log_p = logits.log_softmax(-1).gather(2, guess[..., None])[..., 0]  # b n
    confidence = (log_p + noise).masked_fill(~unknown, torch.inf)
    return torch.where(unknown, guess, tokens), remask(confidence, number)


def decode_factors_step(
    logits: Sequence[Float[Tensor, "b n _"]],
    tokens: Int[Tensor, "b n"],
    unknown: Bool[Tensor, "b n"],
    number: Int[Tensor, " b"],
    uniform: Float[Tensor, "b n"],
    noise: Float[Tensor, "b n"],
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Do as `decode_step` with tokens of several factors, given the logits of each.

    A token is the first factor's value, plus the second's times as many as the first has, and so
    on.  Guesses and choices are those from the logits of whole tokens, which are not computed: for
    MAGVIT-v2's 2^18 tokens they take gigabytes.
    """
    probabilities = [rearrange(each.softmax(-1), "b n v -> (b n) v") for each in logits]
    values = draw_factors(probabilities, uniform.flatten())  # b*n, for each factor
    guess = torch.zeros_like(tokens)
    log_p = torch.zeros_like(uniform)
    size = 1
    for each, flat in zip(logits, values, strict=True):
        value = flat.view_as(tokens)  # b n
        guess = guess + size * value
        log_p = log_p + each.log_softmax(-1).gather(2, value[..., None])[..., 0]
        size *= each.shape[-1]
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

    model(tokens (b n)) -> logits (b n v) of only the v codes, without [MASK]; or, for codes of
    several factors, a list of the logits of each, as in `decode_factors_step`.  It sees the canvas
    where a token is unknown and the tokens known so far elsewhere.  Whatever else it should see (a
    class, a prefix, guidance), and a sampling temperature or filter of its logits, are for the
    caller to wrap around it.

    MaskGIT: canvas holds the known tokens and [MASK], and unknown is canvas == mask.  MAGVIT's
    COMMIT: canvas holds the tokens of the padded condition where its supervoxel touches condition
    pixels and [MASK] elsewhere, and all is unknown: condition tokens are refined too.

    temperature is that of the confidence.  Random numbers come from the CPU, so that they are the
    same for every device.  Raises ValueError unless steps >= 1.
    """
    at_first = unknown.sum(dim=1).cpu()  # b
    numbers = unknown_after(steps, at_first, schedule, length=canvas.shape[1])  # steps b
    numbers = numbers.to(canvas.device)

    tokens = canvas
    history = []
    for step, number in enumerate(numbers):
        logits = model(torch.where(unknown, canvas, tokens))  # b n v, or one for each factor
        uniform = torch.rand(2, *canvas.shape, generator=generator).to(canvas.device)
        for_guess, for_noise = uniform  # b n, b n
        noise = gumbel_noise(temperature, step, steps, for_noise)
        drawing = (tokens, unknown, number, for_guess, noise)
        if isinstance(logits, Tensor):
            tokens, unknown = decode_step(logits.float(), *drawing)
        else:
            tokens, unknown = decode_factors_step([each.float() for each in logits], *drawing)
        history.append((tokens, unknown))
    return Decoding(*(torch.stack(each) for each in zip(*history, strict=True)))
