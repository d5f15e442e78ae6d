"""The transformer that several papers share, and what a transformer costs.

A paper that brings its own keeps it in its file: ViT's pre-norm `Block` is in `papers/vit.py`,
ViViT's in `papers/vivit.py`, the causal one of VQGAN in `papers/vqgan.py`; LLaMA's is in
`lm/llama.py`.  MAGVIT and MAGVIT-v2 share `Bert`, the bidirectional transformer of BERT (Devlin
et al., arXiv 1810.04805), whose norms come after the residual sums.  How tokens become vectors and
vectors become logits is each paper's own.  Following their official code, GELU is its tanh form,
LayerNorm's epsilon is 1e-12, and all weights start as normal numbers of deviation 0.02, cut off at
two deviations.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.shapes import Float, Tensor


class Bert(nn.Module):
    """At most `length` embedded tokens (b n d) to one vector each, which has seen all others."""

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
        x = self.norm(embedded + self.positions[: embedded.shape[1]])  # b n d
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x)
        return x


class BertLayer(nn.Module):
    """Attention, then an MLP, each added to its input and then normalised."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: expected a divisor of width {width}, got {heads}")
        self.heads = heads
        self.dropout_rate = dropout  # of the attention's weights
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, 1e-12)
        self.mlp1 = nn.Linear(width, mlp)
        self.mlp2 = nn.Linear(mlp, width)
        self.norm2 = nn.LayerNorm(width, 1e-12)
        self.dropout = nn.Dropout(dropout)
        initialize(self)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = self.norm1(x + self.dropout(self.attend(x)))  # b n d
        h = F.gelu(self.mlp1(x), approximate="tanh")  # b n mlp
        return self.norm2(x + self.dropout(self.mlp2(h)))

    def attend(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Let every token attend to every token."""
        q, k, v = rearrange(
            self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads
        )
        dropout = self.dropout_rate if self.training else 0.0
        h = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # b heads n d_h
        return self.out(rearrange(h, "b heads n d -> b n (heads d)"))


class BertHead(nn.Module):
    """A layer, a GELU and a norm, before a vector is compared with the tokens' embeddings."""

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, 1e-12)
        initialize(self)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.norm(F.gelu(self.dense(x), approximate="tanh"))


def initialize(model: nn.Module) -> None:
    """Draw the weights of all linear layers from `truncated_normal_`; set their biases to zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            truncated_normal_(module.weight)
            nn.init.zeros_(module.bias)


def truncated_normal_(weight: Tensor) -> None:
    """Fill in place with normal numbers of deviation 0.02, none beyond 0.04."""
    nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04)


# ---------------------------------------------------------------- what an encoder costs


def encoder_parameters(width: int, mlp: int, depth: int) -> int:
    """Count weights and biases of `depth` layers and of the norm after them.

    A layer is attention and an MLP, each after a norm.
    """
    attention = 4 * (width * width + width)
    hidden = 2 * width * mlp + mlp + width
    norm = 2 * width
    return depth * (attention + hidden + 2 * norm) + norm


def encoder_macs(tokens: int, attended: int | float, width: int, mlp: int, depth: int) -> int:
    """Count multiply-adds of `depth` layers on `tokens` tokens that attend to `attended` each.

    Only matrix products are counted, as in papers: four projections, q k^T and A v, two layers of
    the MLP.
    """
    projections = 4 * width * width
    attention = 2 * width * attended
    hidden = 2 * width * mlp
    return int(depth * tokens * (projections + attention + hidden))
