"""open_clip's CLIP in PyTorch's own layers, with its names of all tensors.  Written from the paper
and from the names in published files, it shares nothing with ours.
"""

from collections import OrderedDict

import torch
from torch import nn


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width, heads, mlp, gelu):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        layers = [
            ("c_fc", nn.Linear(width, mlp)),
            ("gelu", nn.GELU() if gelu == "exact" else QuickGELU()),
            ("c_proj", nn.Linear(mlp, width)),
        ]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, config, layers):
        super().__init__()
        shape = (config.width, config.heads, config.mlp, config.gelu)
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(*shape) for _ in range(layers))

    def forward(self, x, mask=None, skipped=0):
        x = x.transpose(0, 1)  # length first
        for block in self.resblocks[: len(self.resblocks) - skipped]:
            x = block(x, mask)
        return x.transpose(0, 1)


class VisionTransformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, patch = config.width, config.patch_size
        self.conv1 = nn.Conv2d(config.channels, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(config.tokens, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(config, config.depth)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, config.projection))

    def forward(self, image):
        x = self.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class OpenCLIP(nn.Module):
    """Both towers.  unused: layers of the text tower that Stable Diffusion 2 leaves out."""

    def __init__(self, vision, text, unused=0):
        super().__init__()
        self.unused = unused
        self.visual = VisionTransformer(vision)
        self.transformer = Transformer(text, text.depth + unused)
        self.token_embedding = nn.Embedding(text.vocabulary, text.width)
        self.positional_embedding = nn.Parameter(torch.randn(text.length, text.width))
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.randn(text.width, vision.projection))
        self.register_buffer("logit_scale", torch.ones([]))

    def encode_text(self, tokens):
        n = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:n]
        mask = torch.full((n, n), float("-inf")).triu(1).to(x)
        return self.ln_final(self.transformer(x, mask, self.unused))
