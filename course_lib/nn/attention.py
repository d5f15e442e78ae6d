"""Attention that several papers share: over the positions of a feature map, and causal.

Where the other kinds are:

    papers/vit.py      multi-head attention of image tokens, which vivit.py takes over
    papers/vivit.py    its factorised forms, over space and over time
    papers/ldm.py      to a text or an image (cross-attention); papers/svd.py: over time
    papers/vqgan.py    `Block`: causal attention in a transformer, with a cache of keys and values
                       (`course_lib.lm.kv_cache`); MAGVIT-v2's causal language model uses it
    lm/llama.py        `Block`: causal attention with rotary positions and a cache, LLaMA's;
                       LVM's and VideoPoet's transformers are made of it
    nn/transformer.py  bidirectional attention with the norm after it, as in BERT: MAGVIT's
                       masked transformer
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.nn.norm import GroupNorm
from course_lib.shapes import Bool, Float, Tensor

# ---------------------------------------------------------------- over a feature map


class SpatialAttention(nn.Module):
    """Self-attention over all positions of a feature map, around the identity.

    DDPM (arXiv 2006.11239, appendix B) has it in its U-Net, VQGAN in its autoencoder.
    """

    def __init__(self, channels: int, heads: int, groups: int, eps: float):
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads: expected a divisor of the {channels} channels, got {heads}")
        self.heads = heads
        self.norm = GroupNorm(groups, channels, eps)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        tokens = rearrange(self.norm(x), "b c h w -> b (h w) c")
        qkv = _pointwise(self.qkv, tokens)  # b h*w 3*c
        qkv = rearrange(qkv, "b n (three heads d) -> three b heads n d", three=3, heads=self.heads)
        h = F.scaled_dot_product_attention(*qkv)  # b heads h*w d
        h = _pointwise(self.out, rearrange(h, "b heads n d -> b n (heads d)"))  # b h*w c
        return x + rearrange(h, "b (h w) c -> b c h w", h=x.shape[2])


def _pointwise(conv: nn.Conv2d, tokens: Float[Tensor, "b n c_in"]) -> Float[Tensor, "b n c"]:
    """Apply a 1x1 convolution to tokens as a linear layer, which computes faster on a CPU."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)


# ---------------------------------------------------------------- causal


def causal_mask(m: int, n: int) -> Bool[Tensor, "m n"]:
    """Return True where one of the last m of n tokens (row) may look at a token (column).

    Each looks at itself and at all tokens before it.
    """
    return torch.ones(m, n, dtype=torch.bool).tril(n - m)  # query i is token n - m + i


def causal_attention(
    q: Float[Tensor, "b heads m d"],
    k: Float[Tensor, "b heads n d"],
    v: Float[Tensor, "b heads n d_v"],
) -> Float[Tensor, "b heads m d_v"]:
    """Let each of the last m of n tokens attend to itself and to all tokens before it.

    torch's `is_causal` counts from the first key, so that with a past (m < n) query i would see
    i + 1 keys only; it is only correct for m = n.  A single query sees all keys and needs no mask.
    Raises ValueError when m > n.
    """
    m, n = q.shape[2], k.shape[2]
    if m > n:
        raise ValueError(f"expected at least as many keys as queries, got {n} keys for {m} queries")

    if m in (1, n):
        return F.scaled_dot_product_attention(q, k, v, is_causal=m > 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_mask(m, n).to(q.device))
