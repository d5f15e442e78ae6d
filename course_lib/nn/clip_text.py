"""CLIP's text tower: a caption to one vector per token.  Radford et al., 2021, arXiv 2103.00020.

With these vectors a U-Net's cross-attention looks up what to draw.  Stable Diffusion 1.5 reads
OpenAI's tower, of ViT-L/14.  Stable Diffusion 2 reads OpenCLIP's, of ViT-H/14, and leaves out the
last of its 24 layers: the final norm follows the last but one.  Attention is causal: what the tower
says of a token depends on it and on those before it.
"""

from dataclasses import dataclass

import torch
from torch import nn

from course_lib.nn.clip_block import NORM_EPS, Block, Gelu, require_shape
from course_lib.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class CLIPTextConfig:
    """The tower's shape.  Defaults: what Stable Diffusion 2 uses of OpenCLIP's ViT-H/14."""

    vocabulary: int = 49_408
    length: int = 77  # tokens, those of start and end included
    width: int = 1024
    depth: int = 23  # layers that are used
    heads: int = 16
    mlp: int = 4096  # width of the MLP's hidden layer
    gelu: Gelu = "exact"

    def __post_init__(self):
        require_shape(self.width, self.heads, self.gelu)


CLIP_TEXT_CONFIGS = {
    "CLIP-text-H": CLIPTextConfig(),
    "CLIP-text-L": CLIPTextConfig(width=768, depth=12, heads=12, mlp=3072, gelu="quick"),
}


class CLIPText(nn.Module):
    """The text tower, without a projection."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.config = c = config
        self.tokens = nn.Embedding(c.vocabulary, c.width)
        self.positions = nn.Parameter(torch.randn(c.length, c.width) * 0.01)
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, c.mlp, c.gelu, c.depth, causal=True) for _ in range(c.depth)
        )
        self.norm = nn.LayerNorm(c.width, NORM_EPS)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Return one vector per token.  Raises ValueError for more tokens than the tower reads."""
        if tokens.shape[1] > self.config.length:
            raise ValueError(f"expected at most {self.config.length} tokens, got {tokens.shape[1]}")
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]  # b n d
        for block in self.blocks:
            x = block(x)  # b n d
        return self.norm(x)
