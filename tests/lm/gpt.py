"""A small causal transformer of odd sizes with random weights, for what samples from any such
model.
"""

from types import SimpleNamespace

import torch
from einops import rearrange
from torch import nn

from course_lib.nn.attention import causal_attention


class GPT(nn.Module):
    """Two layers of attention; it counts the tokens it was shown."""

    def __init__(self, vocabulary=11, length=13, width=15, heads=3, depth=2):
        super().__init__()
        self.config, self.heads, self.shown = SimpleNamespace(depth=depth), heads, 0
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.head = nn.Linear(width, vocabulary)
        rng = torch.Generator().manual_seed(8)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4, generator=rng)

    def forward(self, tokens, cache=None):
        self.shown += tokens.shape[1]
        past = len(cache) if cache is not None else 0
        x = self.tokens(tokens) + self.positions.weight[past : past + tokens.shape[1]]
        for layer, qkv in enumerate(self.qkv):
            q, k, v = rearrange(
                qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.heads
            )
            if cache is not None:
                k, v = cache.extend(layer, k, v)
            x = x + rearrange(causal_attention(q, k, v), "b heads n d -> b n (heads d)")
        return self.head(x)

    def next_logits(self, tokens, cache=None):
        return self(tokens, cache)[:, -1]
