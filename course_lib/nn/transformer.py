"""The transformer that several papers share, and what a transformer costs.

A paper that brings its own keeps it in its file: ViT's pre-norm `Block` is in `papers/vit.py`,
ViViT's in `papers/vivit.py`, the causal one of VQGAN in `papers/vqgan.py`.  MAGVIT and MAGVIT-v2
share `Bert`, the bidirectional transformer of BERT (Devlin et al., arXiv 1810.04805), whose norms
come after the residual sums.  How tokens become vectors and vectors become logits is each paper's
own.  Following their official code, GELU is its tanh form, LayerNorm's epsilon is 1e-12, and all
weights start as normal numbers of deviation 0.02, cut off at two deviations.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.shapes import Float, Tensor


class Bert(nn.Module):
    """Embedded tokens (b n d), of at most `length`, to one vector each that has seen all others."""

    def __init__(
        self, length: int, width: int, depth: int, heads: int, mlp: int, dropout: float = 0.0
    ):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.norm = nn.LayerNorm(width, 1e-12)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(BertLayer(width, heads, mlp, dropout) for _ in range(depth))
        truncated_normal_(self.positions)

    def forward(self, embedded: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        if embedded.shape[1] > len(self.positions):
            raise ValueError(
                f"expected at most {len(self.positions)} tokens, got {embedded.shape[1]}"
            )
        x = self.dropout(self.norm(embedded + self.positions[: embedded.shape[1]]))
        for layer in self.layers:
            x = layer(x)
        return x


class BertLayer(nn.Module):
    """Attention, then an MLP, each added to its input and then normalised."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} for {width}")
        self.heads, self.rate = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, 1e-12)
        self.mlp1, self.mlp2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.norm2 = nn.LayerNorm(width, 1e-12)
        self.dropout = nn.Dropout(dropout)
        initialize(self)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = self.norm1(x + self.dropout(self.attend(x)))
        h = self.mlp2(F.gelu(self.mlp1(x), approximate="tanh"))
        return self.norm2(x + self.dropout(h))

    def attend(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Every token to every token."""
        q, k, v = rearrange(
            self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads
        )
        # b heads n d_h
        h = F.scaled_dot_product_attention(q, k, v, dropout_p=self.rate if self.training else 0.0)
        return self.out(rearrange(h, "b heads n d -> b n (heads d)"))


class BertHead(nn.Module):
    """What BERT does to a vector before it is compared with the tokens' embeddings: a layer, a
    GELU, a norm.
    """

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, 1e-12)
        initialize(self)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.norm(F.gelu(self.dense(x), approximate="tanh"))


def initialize(model: nn.Module) -> None:
    """Linear layers: weights from `truncated_normal_`, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            truncated_normal_(module.weight)
            nn.init.zeros_(module.bias)


def truncated_normal_(weight: Tensor) -> None:
    """Fill in place with normal numbers of deviation 0.02, none beyond 0.04."""
    nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)


# ---------------------------------------------------------------- what an encoder costs


def encoder_parameters(width: int, mlp: int, depth: int) -> int:
    """Weights and biases of `depth` layers of attention and MLP, each behind a norm, and the norm
    after them.
    """
    attention = 4 * (width * width + width)
    return depth * (attention + 2 * width * mlp + mlp + width + 2 * 2 * width) + 2 * width


def encoder_macs(tokens: int, attended: int | float, width: int, mlp: int, depth: int) -> int:
    """Multiply-adds of `depth` layers on `tokens` tokens, each of which attends to `attended`
    tokens.

    Matrix products alone, as papers count: four projections, q k^T and A v, two layers of the MLP.
    """
    return int(depth * tokens * (4 * width * width + 2 * width * attended + 2 * width * mlp))
