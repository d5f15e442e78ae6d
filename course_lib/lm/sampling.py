"""From logits to the next token: filters, a draw, and sampling token by token.

Every draw takes its uniform number as an argument, so that it is a plain function that can be
tested, and so that the same numbers give the same tokens with a cache and without.
"""

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
    generator: torch.Generator | None = None,
    cache: bool = True,
) -> Int[Tensor, "b steps"]:
    """Draw `steps` tokens one by one, each given the prompt and the tokens drawn before it.

    The prompt itself is not returned.  model(tokens (b m), cache=None) -> logits (b m v), in
    evaluation mode, is any causal model.  With a cache it is called with only the new tokens, and
    its `config.depth` is its number of layers; the tokens drawn are the same.  Random numbers come
    from the CPU, so that they are the same for every device.  Raises ValueError for an empty
    prompt.
    """
    if not prompt.shape[1]:
        raise ValueError("expected a prompt of at least one token, got none")
    uniforms = torch.rand(steps, len(prompt), generator=generator).to(prompt.device)
    # The last token is drawn and not fed back, so the cache does not hold it.
    held = KVCache(model.config.depth, prompt.shape[1] + steps - 1) if cache else None
    tokens = prompt
    new = prompt
    for uniform in uniforms:
        logits = model(new if cache else tokens, cache=held)[:, -1]  # b v
        probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
        new = draw_tokens(probabilities, uniform)[:, None]  # b 1
        tokens = torch.cat([tokens, new], dim=1)
    return tokens[:, prompt.shape[1] :]
