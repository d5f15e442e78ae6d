"""High-Resolution Image Synthesis with Latent Diffusion Models.  Rombach et al., 2021, arXiv
2112.10752.

The networks are the paper's and those of its successors, Stable Diffusion 1 and 2.

Reading order: the configurations; the U-Net with cross-attention (section 3.3, Figure 3).  The
autoencoder whose latents it denoises (section 3.1) is `course_lib.papers.ldm_autoencoder`.

Differs from the paper, following the official code:
- The feed-forward network of a transformer block gates its values (GEGLU).
- The network predicts the noise (Eq. 2), or, in Stable Diffusion 2 at 768 pixels, v.
Differs from the official code: where there is no context, a transformer block has no
cross-attention at all (there, it attends to its own tokens a second time).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.nn.embeddings import timestep_embedding
from course_lib.nn.resnet import ResBlock, Upsample
from course_lib.shapes import Float, Shaped, Tensor

TRANSFORMER_NORM_EPS = 1e-6  # of the group norm before a transformer

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class LDMConfig:
    """The U-Net's shape and what it predicts.  Defaults: Stable Diffusion 2.1."""

    in_channels: int = 4
    out_channels: int = 4
    width: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # width of each level, in units of `width`
    blocks: int = 2  # residual blocks per level on the way down; one more on the way up
    attends: tuple[bool, ...] = (True, True, True, False)  # which levels have transformers
    heads: tuple[int, ...] = (5, 10, 20, 20)  # of each level
    depth: int = 1  # blocks of a transformer
    context: int | None = 1024  # width of a token of the condition; None: there is no condition
    linear_projection: bool = True  # into and out of a transformer; False: 1x1 convolutions
    groups: int = 32
    norm_eps: float = 1e-5  # of every group norm but the transformers'
    prediction: Literal["eps", "v"] = "v"

    def __post_init__(self):
        for name in ("attends", "heads"):
            given = len(getattr(self, name))
            if given != len(self.multipliers):
                raise ValueError(
                    f"{name}: expected one for each of {len(self.multipliers)} levels, got {given}"
                )
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads or width % self.groups:
                raise ValueError(
                    f"expected widths that heads and {self.groups} groups share evenly, got"
                    f" {heads} heads at width {width}"
                )
        if self.prediction not in ("eps", "v"):
            raise ValueError(f"prediction: expected 'eps' or 'v', got {self.prediction!r}")

    @property
    def widths(self) -> list[int]:
        """Channels at every level, from fine to coarse."""
        return [self.width * multiplier for multiplier in self.multipliers]

    @property
    def downsampling(self) -> int:
        """How many times smaller than the latent the coarsest level is, along a side."""
        return 2 ** (len(self.multipliers) - 1)


LDM_CONFIGS = {
    "SD-2.1": LDMConfig(),
    "SD-1.5": LDMConfig(heads=(8, 8, 8, 8), context=768, linear_projection=False, prediction="eps"),
    "txt2img-1.4B": LDMConfig(
        heads=(8, 8, 8, 8), context=1280, linear_projection=False, prediction="eps"
    ),
    "tiny": LDMConfig(
        width=64,
        multipliers=(1, 1),
        blocks=1,
        attends=(True, False),
        heads=(1, 1),
        context=64,
        groups=16,
        prediction="v",
    ),
}


# ---------------------------------------------------------------- 3.3 the U-Net


class UNet(nn.Module):
    """Figure 3: a U-Net of time-conditioned residual blocks and transformers that see the context.

    Stable Video Diffusion passes another kind of block, and calls `run` with what that needs.
    Weights are kept channels-last, the layout in which CPUs and GPUs convolve fastest.
    """

    def __init__(self, config: LDMConfig, block: "Callable[..., nn.Module] | None" = None):
        super().__init__()
        self.config = config
        make = Block if block is None else block
        time_width = 4 * config.width
        self.time_embed = nn.Sequential(
            nn.Linear(config.width, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        self.stem = nn.Conv2d(config.in_channels, config.width, 3, padding=1)
        self.down = nn.ModuleList()
        self.middle = nn.ModuleList()
        self.up = nn.ModuleList()

        c = config.width
        skips = [c]  # the width of every feature map that the way up concatenates
        coarsest = len(config.widths) - 1

        for level, width in enumerate(config.widths):
            for _ in range(config.blocks):
                self.down.append(make(config, c, width, level, config.attends[level]))
                c = width
                skips.append(c)
            if level < coarsest:
                self.down.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                skips.append(c)

        self.middle.append(make(config, c, c, coarsest, attends=True))
        self.middle.append(make(config, c, c, coarsest, attends=False))

        for level, width in reversed(list(enumerate(config.widths))):
            for _ in range(config.blocks + 1):
                self.up.append(make(config, c + skips.pop(), width, level, config.attends[level]))
                c = width
            if level > 0:
                self.up.append(Upsample(c))

        self.norm = nn.GroupNorm(config.groups, c, config.norm_eps)
        self.out = nn.Conv2d(c, config.out_channels, 3, padding=1)
        self.zero_last_layers()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Shaped[Tensor, " b"],
        context: Float[Tensor, "b n d"] | None = None,
    ) -> Float[Tensor, "b c_out h w"]:
        """Predict the noise, or v, in latents x at times t, which may lie between two steps.

        Raises ValueError for sides that cannot be halved at every level, and for a context that the
        config does not have, or that is left out.
        """
        self.validate(x, context)
        return self.run(x, self.embed_time(t).to(x), context)  # b c_out h w

    def embed_time(self, t: Shaped[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Return the vector that every residual block is told, of 4 * width numbers."""
        features = timestep_embedding(t, self.config.width)  # b width
        return self.time_embed(features.to(self.stem.weight.dtype))

    def run(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "b d"], *condition
    ) -> Float[Tensor, "b c_out h w"]:
        """Go down, through the middle and up again; `condition` is passed on to every block."""
        h = self.stem(x)  # b width h w
        skips = [h]

        for layer in self.down:  # b c h/2^level w/2^level
            h = layer(h) if isinstance(layer, nn.Conv2d) else layer(h, time, *condition)
            skips.append(h)

        for layer in self.middle:
            h = layer(h, time, *condition)  # b c h/2^levels w/2^levels

        for layer in self.up:
            if isinstance(layer, Upsample):
                h = layer(h)  # b c 2*h/2^level 2*w/2^level
            else:
                h = layer(torch.cat([h, skips.pop()], dim=1), time, *condition)

        return self.out(F.silu(self.norm(h)))  # b c_out h w

    def validate(self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b n d"] | None) -> None:
        """Refuse latents and contexts that the network cannot take (ValueError)."""
        factor = self.config.downsampling
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"latent: expected both sides divisible by {factor}, got {tuple(x.shape[2:])}"
            )
        given = None if context is None else context.shape[2]
        if given != self.config.context:
            raise ValueError(
                f"context: expected tokens of width {self.config.context}, got {given}"
            )

    def zero_last_layers(self) -> None:
        """Make the whole network start as zero, and every block as the identity."""
        last_layers = [self.out]
        for module in self.modules():
            if isinstance(module, ResBlock):
                last_layers.append(module.conv2)
            elif isinstance(module, SpatialTransformer):
                last_layers.append(module.proj_out)
        for layer in last_layers:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class Block(nn.Module):
    """A residual block, then a transformer where the level has them."""

    def __init__(self, config: LDMConfig, c_in: int, c_out: int, level: int, attends: bool):
        super().__init__()
        self.res = residual(config, c_in, c_out)
        self.attention = SpatialTransformer(config, c_out, config.heads[level]) if attends else None

    def forward(
        self,
        x: Float[Tensor, "b c_in h w"],
        time: Float[Tensor, "b d"],
        context: Float[Tensor, "b n d_context"] | None,
    ) -> Float[Tensor, "b c h w"]:
        x = self.res(x, time)  # b c h w
        return x if self.attention is None else self.attention(x, context)  # b c h w


def residual(config: LDMConfig, c_in: int, c_out: int) -> ResBlock:
    """Make a residual block that is told the time."""
    return ResBlock(
        c_in,
        c_out,
        time_width=4 * config.width,
        groups=config.groups,
        eps=config.norm_eps,
        dropout=0.0,
    )


# ---------------------------------------------------------------- 3.3 the transformer


class SpatialTransformer(nn.Module):
    """Appendix E.2.1: a transformer on the places of a feature map, around the identity."""

    def __init__(self, config: LDMConfig, channels: int, heads: int):
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, channels, TRANSFORMER_NORM_EPS)
        self.proj_in = projection(config, channels)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, heads, config.context) for _ in range(config.depth)
        )
        self.proj_out = projection(config, channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b m d"] | None
    ) -> Float[Tensor, "b c h w"]:
        tokens = self.tokens(x)  # b h*w c
        for block in self.blocks:
            tokens = block(tokens, context)  # b h*w c
        return x + self.feature_map(tokens, x.shape[2])  # b c h w

    def tokens(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
        """Return the normalised feature map's places, row by row, projected."""
        return pointwise(self.proj_in, rearrange(self.norm(x), "b c h w -> b (h w) c"))

    def feature_map(self, tokens: Float[Tensor, "b n c"], h: int) -> Float[Tensor, "b c h w"]:
        """Return tokens, projected, to their places in `h` rows."""
        return rearrange(pointwise(self.proj_out, tokens), "b (h w) c -> b c h w", h=h)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context if there is one, and a gated feed-forward network.

    Each comes after a norm and is added to its input.
    """

    def __init__(self, width: int, heads: int, context: int | None):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.norm2 = None if context is None else nn.LayerNorm(width)
        self.cross_attention = None if context is None else Attention(width, heads, context)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d_context"] | None
    ) -> Float[Tensor, "b n d"]:
        x = x + self.self_attention(self.norm1(x))  # b n d
        if self.cross_attention is not None:
            x = x + self.cross_attention(self.norm2(x), context)  # b n d
        return x + self.feed_forward(self.norm3(x))  # b n d


class Attention(nn.Module):
    """Let tokens look at a context of `context` numbers a token, or, without one, at each other."""

    def __init__(self, width: int, heads: int, context: int | None = None):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d_context"] | None = None
    ) -> Float[Tensor, "b n d"]:
        q = self.query(x)  # b n d
        k, v = self.key_value(x if context is None else context).chunk(2, dim=-1)  # b m d each
        return self.out(cross_attention(q, k, v, self.heads))  # b n d


def cross_attention(
    q: Float[Tensor, "b n d"], k: Float[Tensor, "b m d"], v: Float[Tensor, "b m d"], heads: int
) -> Float[Tensor, "b n d"]:
    """Section 3.3: return softmax(Q K^T / sqrt(d / heads)) V, for every head by itself.

    The n queries come from the feature map, the m keys and values from the context; a head owns
    d / heads neighbouring numbers of each.
    """
    q = rearrange(q, "b n (heads d) -> b heads n d", heads=heads)
    k = rearrange(k, "b m (heads d) -> b heads m d", heads=heads)
    v = rearrange(v, "b m (heads d) -> b heads m d", heads=heads)
    h = F.scaled_dot_product_attention(q, k, v)  # b heads n d
    return rearrange(h, "b heads n d -> b n (heads d)")


class FeedForward(nn.Module):
    """Widen each token four times, gate it (GEGLU, Shazeer, arXiv 2002.05202), narrow it again."""

    def __init__(self, width: int):
        super().__init__()
        self.values_and_gates = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        values, gates = self.values_and_gates(x).chunk(2, dim=-1)  # ... 4*d each
        return self.out(values * F.gelu(gates))  # ... d


def projection(config: LDMConfig, width: int) -> nn.Linear | nn.Conv2d:
    """Make the layer into or out of a transformer: linear, or, the same, a 1x1 convolution."""
    return nn.Linear(width, width) if config.linear_projection else nn.Conv2d(width, width, 1)


def pointwise(layer: nn.Linear | nn.Conv2d, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    """Apply a linear layer, or a 1x1 convolution as one: tokens need not become an image."""
    return F.linear(x, layer.weight.flatten(1), layer.bias)
