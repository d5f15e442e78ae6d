"""The layer of both of CLIP's towers.  Radford et al., 2021, arXiv 2103.00020, section 2.4."""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.shapes import Float, Tensor

NORM_EPS = 1e-5
Gelu = Literal[
    "exact", "quick"
]  # OpenCLIP's weights were trained with one, OpenAI's with the other


class Block(nn.Module):
    """Attention and an MLP, each after a norm and around the identity.

    causal: let a token see itself and those before it, as in the text tower.  depth: layers of the
    tower; as in OpenAI's code, weights start the smaller the more layers add to their input.
    """

    def __init__(self, width: int, heads: int, mlp: int, gelu: Gelu, depth: int, causal: bool):
        super().__init__()
        self.heads = heads
        self.gelu = gelu
        self.causal = causal
        self.norm1 = nn.LayerNorm(width, NORM_EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, NORM_EPS)
        self.mlp1 = nn.Linear(width, mlp)
        self.mlp2 = nn.Linear(mlp, width)
        added = (2 * width * depth) ** -0.5
        nn.init.normal_(self.qkv.weight, std=width**-0.5)
        nn.init.normal_(self.out.weight, std=added)
        nn.init.normal_(self.mlp1.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.mlp2.weight, std=added)
        for layer in (self.qkv, self.out, self.mlp1, self.mlp2):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = x + self.attend(self.norm1(x))  # b n d
        h = self.mlp1(self.norm2(x))  # b n mlp
        h = quick_gelu(h) if self.gelu == "quick" else F.gelu(h)  # b n mlp
        return x + self.mlp2(h)

    def attend(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Let every token attend to all others, or to those before it."""
        q, k, v = rearrange(
            self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads
        )
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)  # b heads n d_h
        return self.out(rearrange(h, "b heads n d -> b n (heads d)"))


def quick_gelu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return x sigmoid(1.702 x), OpenAI's approximation of GELU."""
    return x * torch.sigmoid(1.702 * x)


def require_shape(width: int, heads: int, gelu: str) -> None:
    """Raise ValueError unless the heads divide the width and the GELU is one of the two."""
    if heads < 1 or width % heads:
        raise ValueError(f"heads: expected a divisor of width {width}, got {heads}")
    if gelu not in ("exact", "quick"):
        raise ValueError(f"gelu: expected exact or quick, got {gelu!r}")
