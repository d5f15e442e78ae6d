"""T5's encoder, version 1.1: text to a vector per token.  Raffel et al., 2019, arXiv 1910.10683.

The XXL encoder reads the captions of CogVideoX.  VideoPoet's paper says "T5 XL" and no more.  What
sets it apart from other encoders of its day:

    - A token's place is not added to it.  A learned number per distance and head is added to the
      scores of attention (section 2.1); distances share buckets, fine when near and coarse when
      far.  The first layer owns the table, and all layers use it.
    - Scores are not divided by the square root of a head's width.  Queries start smaller instead.
    - Norms divide by the root mean square and scale: no mean, no bias.  No layer has a bias.
    - The MLP is gated, gelu(x W) * x V (Shazeer, 2020, arXiv 2002.05202), with GELU's tanh form.
      This is version 1.1; the paper's own is relu(x W).

Differs from the official code: q, k and v are one layer, and so are the MLP's two halves.  Nothing
is dropped out, as these encoders are frozen wherever the course uses them.  In half precision, the
sum that runs through the layers stays in float32, and in float16 what the MLP adds to it, too: in
the larger models it grows beyond float16's 65,504.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.nn.norm import RMSNorm
from course_lib.shapes import Bool, Float, Int, Tensor

NORM_EPS = 1e-6


@dataclass(frozen=True)
class T5Config:
    """The encoder's shape.  Defaults: version 1.1's XXL."""

    vocabulary: int = 32_128  # 32,100 tokens, and rows up to a multiple of 128
    width: int = 4096
    depth: int = 24
    heads: int = 64
    head_width: int = 64  # heads * head_width need not be the width
    mlp: int = 10_240  # width of the MLP's hidden layer
    buckets: int = 32  # of distances, half of them for tokens to the right
    farthest: int = 128  # tokens; from this distance on, all share a bucket

    def __post_init__(self):
        for name in ("vocabulary", "width", "depth", "heads", "head_width", "mlp"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.buckets < 4 or self.buckets % 4:
            raise ValueError(f"buckets: expected a multiple of 4, got {self.buckets}")
        if self.farthest <= self.buckets // 4:
            raise ValueError(
                f"farthest: expected more than {self.buckets // 4}, the distances that have their"
                f" own bucket, got {self.farthest}"
            )


T5_CONFIGS = {
    "T5-v1.1-XXL": T5Config(),
    "T5-v1.1-XL": T5Config(width=2048, heads=32, mlp=5120),
    "T5-tiny": T5Config(vocabulary=64, width=64, depth=3, heads=4, head_width=16, mlp=128),
}


class T5Encoder(nn.Module):
    """The encoder: embeddings, blocks, a last norm."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = c = config
        self.tokens = nn.Embedding(c.vocabulary, c.width)  # drawn from N(0, 1), as in T5
        self.distances = Distances(c)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm = RMSNorm(c.width, NORM_EPS)

    def forward(
        self, tokens: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Return one vector per token.

        mask: which tokens the others look at.  Without one they look at all, at padding too, as in
        CogVideoX.  Raises ValueError for a mask of another shape than the tokens'.
        """
        if mask is not None and mask.shape != tokens.shape:
            raise ValueError(
                f"expected a mask of the tokens' shape {tuple(tokens.shape)},"
                f" got {tuple(mask.shape)}"
            )
        x = self.tokens(tokens)  # b n d
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        bias = self.distances.bias(tokens.shape[1])  # heads n n
        if mask is not None:
            hidden = rearrange(~mask, "b n -> b 1 1 n")
            bias = bias.masked_fill(hidden, torch.finfo(bias.dtype).min)  # b heads n n
        for block in self.blocks:
            x = block(x, bias)  # b n d
        return self.norm(x)


class Distances(nn.Embedding):
    """A number for every bucket of distances and every head, which all layers share."""

    def __init__(self, config: T5Config):
        super().__init__(config.buckets, config.heads)
        self.farthest = config.farthest
        nn.init.normal_(self.weight, std=config.width**-0.5)

    def bias(self, n: int) -> Float[Tensor, "heads n n"]:
        """Return what is added to the scores of n queries (rows) and as many keys (columns)."""
        place = torch.arange(n, device=self.weight.device)
        ahead = place - rearrange(place, "n -> n 1")  # n n: keys minus queries
        bucket = distance_bucket(ahead, self.num_embeddings, self.farthest)  # n n
        return rearrange(self(bucket), "q k heads -> heads q k")


class Block(nn.Module):
    """Attention and a gated MLP, each after a norm and around the identity."""

    def __init__(self, config: T5Config):
        super().__init__()
        c = config
        inner = c.heads * c.head_width
        self.heads = c.heads
        self.norm1 = RMSNorm(c.width, NORM_EPS)
        self.qkv = nn.Linear(c.width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, c.width, bias=False)
        self.norm2 = RMSNorm(c.width, NORM_EPS)
        self.mlp1 = nn.Linear(c.width, 2 * c.mlp, bias=False)  # the gate's half, then the other
        self.mlp2 = nn.Linear(c.mlp, c.width, bias=False)
        nn.init.normal_(self.qkv.weight, std=c.width**-0.5)
        nn.init.normal_(self.qkv.weight[:inner], std=(c.width * c.head_width) ** -0.5)  # queries
        nn.init.normal_(self.out.weight, std=inner**-0.5)
        nn.init.normal_(self.mlp1.weight, std=c.width**-0.5)
        nn.init.normal_(self.mlp2.weight, std=c.mlp**-0.5)

    def forward(
        self, x: Float[Tensor, "b n d"], bias: Float[Tensor, "... n n"]
    ) -> Float[Tensor, "b n d"]:
        x = x + self.attend(self.norm1(x), bias)  # b n d
        return x + self.mlp(self.norm2(x))

    def attend(
        self, x: Float[Tensor, "b n d"], bias: Float[Tensor, "... n n"]
    ) -> Float[Tensor, "b n d"]:
        """Let every token attend to all; the scores are q k + bias, not scaled."""
        q, k, v = rearrange(
            self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads
        )
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)  # b heads n d_h
        return self.out(rearrange(h, "b heads n d -> b n (heads d)"))

    def mlp(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return gelu(x W) * x V, projected back; in float32 where float16 would run over."""
        gate, value = self.mlp1(x).chunk(2, dim=-1)  # b n mlp, twice
        h = F.gelu(gate, approximate="tanh") * value  # b n mlp
        if h.dtype == torch.float16:
            return F.linear(h.float(), self.mlp2.weight.float())
        return self.mlp2(h)


def distance_bucket(
    ahead: Int[Tensor, "..."], buckets: int = 32, farthest: int = 128
) -> Int[Tensor, "..."]:
    """Return the bucket of a key that is so many tokens `ahead` of the query (behind: below 0).

    Half the buckets are for keys ahead.  Of either half, one half is for the distances 0, 1, 2, ...
    themselves, the other for ranges that widen with the logarithm, up to `farthest` and beyond.
    """
    side = buckets // 2
    exact = side // 2
    distance = ahead.abs()
    octaves = torch.log(distance.clamp(min=1) / exact) / math.log(farthest / exact)  # 0 to 1
    coarse = exact + (octaves * (side - exact)).long()
    bucket = torch.where(distance < exact, distance, coarse.clamp(max=side - 1))
    return bucket + side * (ahead > 0)
