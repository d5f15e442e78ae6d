"""From logits to the next token: filters, a draw, and sampling token by token.

Every draw takes its uniform number as an argument, so that it is a plain function that can be
tested, and so that the same numbers give the same tokens with a cache and without.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F

from course_lib.lm.kv_cache import KVCache
from course_lib.shapes import Float, Int, PerSample, Tensor


def top_k_filter(logits: Float[Tensor, "b v"], k: int) -> Float[Tensor, "b v"]:
    """Keep the k greatest logits of each row; the others become -inf.

    Tokens that tie with the k-th stay too: none is better than the other, and which came first is
    chance.  Raises ValueError unless 1 <= k <= v.
    """
    if not (isinstance(k, Integral) and 1 <= k <= logits.shape[-1]):
        raise ValueError(f"expected k from 1 to the {logits.shape[-1]} tokens there are, got {k}")
    least = logits.topk(k).values[:, -1:]  # b 1
    return logits.masked_fill(logits < least, -torch.inf)


def top_p_filter(logits: Float[Tensor, "b v"], p: int | float) -> Float[Tensor, "b v"]:
    """Keep the fewest most probable tokens that together have probability p; the rest become -inf.

    These are the nucleus of Holtzman et al., arXiv 1904.09751.  Tokens that tie with the last of
    them stay too.  Raises ValueError unless 0 < p <= 1.
    """
    if not 0 < p <= 1:
        raise ValueError(f"expected 0 < p <= 1, got {p}")
    if p == 1:  # rounding may bring the sum to 1 before the last token
        return logits
    ordered = logits.sort(descending=True).values  # b v
    # How many tokens together do not reach p, (b 1).
    before = (ordered.softmax(-1).cumsum(-1) < p).sum(-1, keepdim=True)
    least = ordered.gather(-1, before.clamp(max=logits.shape[-1] - 1))
    return logits.masked_fill(logits < least, -torch.inf)


def next_token_probabilities(
    logits: Float[Tensor, "b v"],
    temperature: int | float,
    top_k: int | None = None,
    top_p: int | float | None = None,
) -> Float[Tensor, "b v"]:
    """Return softmax(logits / temperature) over what the filters leave, top-k first.

    Raises ValueError unless temperature > 0.
    """
    if not temperature > 0:
        raise ValueError(
            "expected a temperature above 0 (the most probable token is top_k=1), got"
            f" {temperature}"
        )
    # The sums that follow need more digits than half precision has.
    logits = logits.float() / temperature
    if top_k is not None:
        logits = top_k_filter(logits, top_k)
    if top_p is not None:
        logits = top_p_filter(logits, top_p)
    return logits.softmax(-1)


def draw_tokens(probabilities: Float[Tensor, "b v"], uniform: PerSample) -> Int[Tensor, " b"]:
    """Draw for each row the first token whose cumulative probability exceeds `uniform`, as int64.

    Tokens come in the order of the vocabulary; probabilities need not sum to 1.  A token of
    probability 0 is never drawn, whatever the rounding.  Raises ValueError unless the sums are
    positive and finite and 0 <= uniform < 1.
    """
    # The cumulative probability of a token of probability 0 becomes 0, which exceeds nothing.
    cumulative = probabilities.cumsum(-1) * (probabilities > 0)
    total = F.pad(cumulative, (1, 0)).amax(-1, keepdim=True)  # 0 where there are no tokens
    u = uniform[:, None]
    if not (total.isfinite() & (total > 0) & (u >= 0) & (u < 1)).all():
        raise ValueError(
            f"expected positive sums and 0 <= uniform < 1, got {total[:, 0]} and {uniform}"
        )
    return (cumulative > u * total).byte().argmax(-1)  # argmax gives the first of equals


def draw_factors(
    probabilities: Sequence[Float[Tensor, "b _"]], uniform: PerSample
) -> list[Int[Tensor, " b"]]:
    """Draw a token of independent factors: one value of each, in the order given.

    One uniform number draws them all.  The last factor is drawn first, and how far the number lies
    within the value's share of it, from 0 to 1, draws the next.  So the token is the one that
    `draw_tokens` draws of all combinations, first factor fastest, whose probabilities are products;
    but these, which may be a million, are not computed.  Raises the ValueErrors of `draw_tokens`.
    """
    values = []
    left = uniform.double()
    for each in reversed(probabilities):
        p = each.double()
        value = draw_tokens(p, left)
        share = p.gather(-1, value[:, None])[:, 0]
        before = p.cumsum(-1).gather(-1, value[:, None])[:, 0] - share
        left = (left * p.sum(-1) - before) / share
        left = left.clamp(0, 1 - torch.finfo(left.dtype).eps)  # where it was rounded beyond
        values.append(value)
    return values[::-1]


def top_k_sample(
    logits: Float[Tensor, "b v"], k: int, temperature: int | float, uniform: PerSample
) -> Int[Tensor, " b"]:
    """Draw the next token from the k most probable ones.

    Raises the ValueErrors of `top_k_filter`, `next_token_probabilities` and `draw_tokens`.
    """
    return draw_tokens(next_token_probabilities(logits, temperature, k), uniform)


@torch.no_grad()
def generate(
    model: Any,
    prompt: Int[Tensor, "b n"],
    steps: int,
    *,
    temperature: int | float = 1.0,
    top_k: int | None = None,
    top_p: int | float | None = None,
    among: int | None = None,
    generator: torch.Generator | None = None,
    cache: bool = True,
) -> Int[Tensor, "b steps"]:
    """Draw `steps` tokens one by one, each given the prompt and the tokens drawn before it.

    The prompt itself is not returned.  model.next_logits(tokens (b m), cache) -> logits (b v) of
    the token after the last, in evaluation mode, is that of any causal model.  With a cache it is
    called with only the new tokens, and its `config.depth` is its number of layers; the tokens
    drawn are the same.  among: only tokens below this number can be drawn.  Random numbers come
    from the CPU, so that they are the same for every device.  Raises ValueError for an empty
    prompt.
    """
    return generate_from_uniform(
        model,
        prompt,
        torch.rand(steps, len(prompt), generator=generator).to(prompt.device),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        among=among,
        cache=cache,
    )


@torch.no_grad()
def generate_from_uniform(
    model: Any,
    prompt: Int[Tensor, "b n"],
    uniforms: Float[Tensor, "steps b"],
    *,
    temperature: int | float = 1.0,
    top_k: int | None = None,
    top_p: int | float | None = None,
    among: int | None = None,
    cache: bool = True,
) -> Int[Tensor, "b steps"]:
    """Draw a token with each row of uniform numbers: `generate` with the caller's.

    Raises ValueError for an empty prompt.
    """
    if not prompt.shape[1]:
        raise ValueError("expected a prompt of at least one token, got none")
    steps = len(uniforms)
    # The last token is drawn and not fed back, so the cache does not hold it.
    held = KVCache(model.config.depth, prompt.shape[1] + steps - 1) if cache else None
    drawn = prompt.new_empty(len(prompt), steps)
    new = prompt
    for step, uniform in enumerate(uniforms):
        tokens = new if cache else torch.cat([prompt, drawn[:, :step]], dim=1)
        logits = model.next_logits(tokens, held)[:, :among]  # b v
        probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
        new = draw_tokens(probabilities, uniform)[:, None].to(prompt.dtype)  # b 1
        drawn[:, step : step + 1] = new
    return drawn
