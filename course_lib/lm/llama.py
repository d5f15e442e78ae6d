"""LLaMA's block: Touvron et al., 2023, arXiv 2302.13971, section 2.2.

LVM's transformer is LLaMA's.  VideoPoet's paper does not say which layers it has; here they are the
same.
"""

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.lm.kv_cache import KVCache
from course_lib.nn.attention import causal_attention
from course_lib.nn.norm import RMSNorm
from course_lib.nn.rope import turn
from course_lib.shapes import Bool, Float, Shaped, Tensor


class Block(nn.Module):
    """One layer: attention, then a gated MLP, each after a norm and around the identity."""

    def __init__(self, width: int, mlp: int, heads: int, norm_eps: float):
        super().__init__()
        self.heads = heads
        self.norm1 = RMSNorm(width, norm_eps)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm2 = RMSNorm(width, norm_eps)
        self.mlp1 = nn.Linear(width, 2 * mlp, bias=False)  # the gate's half first
        self.mlp2 = nn.Linear(mlp, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        turns: Shaped[Tensor, "n half"],
        layer: int,
        cache: KVCache | None,
        mask: Bool[Tensor, "... n m"] | None,
    ) -> Float[Tensor, "b n d"]:
        x = x + self.attend(self.norm1(x), turns, layer, cache, mask)  # b n d
        return x + swiglu(self.norm2(x), self.mlp1, self.mlp2)

    def attend(
        self,
        x: Float[Tensor, "b n d"],
        turns: Shaped[Tensor, "n half"],
        layer: int,
        cache: KVCache | None,
        mask: Bool[Tensor, "... n m"] | None,
    ) -> Float[Tensor, "b n d"]:
        """Let every token attend to itself and those before it, or to those that `mask` shows."""
        heads = rearrange(self.qkv(x), "b n (heads d) -> b n heads d", heads=3 * self.heads)
        qk, v = heads.split([2 * self.heads, self.heads], dim=2)
        q, k = rearrange(turn(qk, turns), "b n (two heads) d -> two b heads n d", two=2)
        v = rearrange(v, "b n heads d -> b heads n d")
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        if mask is None:
            h = causal_attention(q, k, v)  # b heads n d
        else:
            h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(h, "b heads n d -> b n (heads d)"))


def swiglu(
    x: Float[Tensor, "*b d"], into: Callable[[Tensor], Tensor], out: Callable[[Tensor], Tensor]
) -> Float[Tensor, "*b d"]:
    """Shazeer (2020), arXiv 2002.05202, Eq. 6: return (silu(x W) * x V) W2.

    into: both layers W and V in one, the gate's W first; out: W2.
    """
    gate, value = into(x).chunk(2, dim=-1)  # *b mlp, twice
    return out(F.silu(gate) * value)


def initialize(model: nn.Module) -> None:
    """Draw the weights of all linear layers and tables from N(0, 0.02^2)."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, 0.02)
