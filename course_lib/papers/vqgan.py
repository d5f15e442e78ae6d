"""Taming Transformers for High-Resolution Image Synthesis (VQGAN).  Esser, Rombach and Ommer, 2020,
arXiv 2012.09841.

Reading order: the configurations; stage one (section 3.1), the autoencoder and its loss (Eq. 4 to
7), whose discriminator is `course_lib.nn.patchgan`; stage two (3.2), the transformer on codes, its
loss and sampling (Eq. 8 to 10); images larger than its context (Figure 3).

Differs from the paper, following the official code:
- The reconstruction loss is the absolute difference plus LPIPS (Eq. 4 has the squared difference,
  section 3.1 only LPIPS).
- delta of Eq. 7 is 1e-4 (paper: 1e-6), and lambda is clamped to 1e4 and multiplied by 0.8.
- The published models were trained with beta on the codebook's term of Eq. 4:
  `VectorQuantizer(legacy=True)`.
- The class of an image is a token like any other, so that class c and code c share their
  embedding.
- There is no dropout on the attention's weights (the code has as much there as elsewhere).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.lm.kv_cache import KVCache
from course_lib.lm.sampling import draw_tokens, generate, next_token_probabilities
from course_lib.losses.adversarial import (
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from course_lib.nn.attention import SpatialAttention, causal_attention
from course_lib.nn.norm import GroupNorm
from course_lib.nn.resnet import Downsample, ResBlock, Upsample
from course_lib.quantize.vq import Quantized, VectorQuantizer
from course_lib.shapes import Float, Int, PerSample, Tensor

NORM_EPS = 1e-6  # of every group norm

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class VQGANConfig:
    """The autoencoder and its codebook.  Defaults: ImageNet at f = 16, as released."""

    # The side of a training image in pixels.  It fixes which levels attend; other sizes work too.
    image_size: int = 256
    channels: int = 3
    width: int = 128
    # How many times the width each resolution has; the encoder halves between two of them.
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2  # residual blocks per resolution
    attention: tuple[int, ...] = (16,)  # sides of the feature maps that attend to themselves
    attend_middle: bool = True  # whether the layers next to the codes do
    latent: int = 256  # channels of the encoder's output
    code_dim: int = 256
    num_codes: int = 1024
    beta: float = 0.25
    update: Literal["loss", "ema"] = "loss"  # how the codebook learns
    legacy: bool = False  # beta on the wrong term, as released
    groups: int = 32
    dropout: float = 0.0

    def __post_init__(self):
        if self.image_size % self.downsampling:
            raise ValueError(
                f"expected an image_size divisible by {self.downsampling}, got {self.image_size}"
            )
        misfits = [width for width in self.widths if width % self.groups]
        if misfits:
            raise ValueError(
                f"expected widths that {self.groups} groups share evenly, got {misfits}"
            )

    @property
    def downsampling(self) -> int:
        """f: pixels per code along a side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def widths(self) -> list[int]:
        """Channels at every resolution, from fine to coarse."""
        return [self.width * multiplier for multiplier in self.multipliers]

    @property
    def attends(self) -> list[bool]:
        """Whether each resolution attends to itself, from fine to coarse."""
        sides = [self.image_size >> level for level in range(len(self.multipliers))]
        return [side in self.attention for side in sides]


VQGAN_CONFIGS = {
    "imagenet-f16-1024": VQGANConfig(),
    "imagenet-f16-16384": VQGANConfig(num_codes=16384),
    "tiny": VQGANConfig(
        image_size=32,
        width=24,
        multipliers=(1, 1, 2),
        blocks=1,
        attention=(),
        latent=32,
        code_dim=32,
        num_codes=256,
        update="ema",
        groups=8,
    ),
}


@dataclass(frozen=True)
class TransformerConfig:
    """The transformer on codes.  Defaults: class-conditional ImageNet, as released."""

    vocabulary: int = 16384
    length: int = 256  # of the context: the condition's tokens and all codes but the last
    depth: int = 48
    heads: int = 16
    width: int = 1536
    dropout: float = 0.0

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of width {self.width}, got {self.heads}")


TRANSFORMER_CONFIGS = {
    "transformer-cIN": TransformerConfig(),
    "transformer-faceshq": TransformerConfig(vocabulary=1024, length=512, depth=24, width=1024),
    "transformer-tiny": TransformerConfig(vocabulary=256, length=64, depth=4, heads=4, width=128),
}


# ---------------------------------------------------------------- 3.1 the autoencoder


class VQGAN(nn.Module):
    """Images (b c h w) in [-1, 1] to a grid of codes (b h/f w/f), and back."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.to_codes = nn.Conv2d(config.latent, config.code_dim, 1)
        self.quantizer = VectorQuantizer(
            config.num_codes,
            config.code_dim,
            beta=config.beta,
            update=config.update,
            legacy=config.legacy,
        )
        self.from_codes = nn.Conv2d(config.code_dim, config.latent, 1)
        self.decoder = Decoder(config)

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Quantized]:
        """Return the reconstruction and what the quantizer made of the image."""
        quantized = self.encode(image)
        return self.decode(quantized.latents), quantized

    def encode(self, image: Float[Tensor, "b c h w"]) -> Quantized:
        """Eq. 2: find the nearest code at every place of the encoder's output."""
        return self.quantizer(self.features(image))

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Return z^ = E(x), not yet quantized.  Raises ValueError for sides f does not divide."""
        f = self.config.downsampling
        if image.shape[2] % f or image.shape[3] % f:
            raise ValueError(f"expected sides divisible by {f}, got {tuple(image.shape[2:])}")
        return self.to_codes(self.encoder(image))

    def decode(self, latents: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b c h w"]:
        """Return x^ = G(z_q)."""
        return self.decoder(self.from_codes(latents))

    def decode_indices(self, indices: Int[Tensor, "b h2 w2"]) -> Float[Tensor, "b c h w"]:
        """Return the image of a grid of codes."""
        return self.decode(self.quantizer.embed(indices))


class Encoder(nn.Module):
    """Residual blocks at every resolution, halved in between; then two more around attention."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.channels, config.width, 3, padding=1)

        self.levels = nn.ModuleList()  # from fine to coarse
        steps = zip(pairwise([config.width, *widths]), config.attends, strict=True)
        for (c_in, c_out), attends in steps:
            last = len(self.levels) == len(widths) - 1
            resize = nn.Identity() if last else Downsample(c_out)
            self.levels.append(Level(config, c_in, c_out, config.blocks, attends, resize))

        self.middle = middle(config, widths[-1])
        self.norm_out = GroupNorm(config.groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.latent, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        x = self.conv_in(x)  # b width h w
        for level in self.levels:
            x = level(x)
        x = self.middle(x)  # b width h/f w/f
        x = F.silu(self.norm_out(x))
        return self.conv_out(x)  # b latent h/f w/f


class Decoder(nn.Module):
    """The encoder backwards, with one more block per resolution."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        widths = config.widths[::-1]
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.middle = middle(config, widths[0])

        self.levels = nn.ModuleList()  # from coarse to fine
        steps = zip(pairwise([widths[0], *widths]), config.attends[::-1], strict=True)
        for (c_in, c_out), attends in steps:
            last = len(self.levels) == len(widths) - 1
            resize = nn.Identity() if last else Upsample(c_out)
            self.levels.append(Level(config, c_in, c_out, config.blocks + 1, attends, resize))

        self.norm_out = GroupNorm(config.groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.channels, 3, padding=1)

    def forward(self, latents: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b c h w"]:
        x = self.conv_in(latents)  # b width h/f w/f
        x = self.middle(x)
        for level in self.levels:
            x = level(x)
        x = F.silu(self.norm_out(x))  # b width h w
        return self.conv_out(x)  # b c h w


class Level(nn.Sequential):
    """One resolution: residual blocks, each followed by attention if it attends; then `resize`."""

    def __init__(
        self,
        config: VQGANConfig,
        c_in: int,
        c_out: int,
        blocks: int,
        attends: bool,
        resize: nn.Module,
    ):
        layers: list[nn.Module] = []
        for block in range(blocks):
            layers.append(residual(config, c_in if block == 0 else c_out, c_out))
            layers.append(attention(config, c_out) if attends else nn.Identity())
        super().__init__(*layers, resize)


def residual(config: VQGANConfig, c_in: int, c_out: int) -> ResBlock:
    """Make a residual block without time."""
    return ResBlock(
        c_in,
        c_out,
        time_width=None,
        groups=config.groups,
        eps=NORM_EPS,
        dropout=config.dropout,
    )


def attention(config: VQGANConfig, width: int) -> SpatialAttention:
    """Make self-attention over a feature map, with one head."""
    return SpatialAttention(width, heads=1, groups=config.groups, eps=NORM_EPS)


def middle(config: VQGANConfig, width: int) -> nn.Sequential:
    """Make the layers next to the codes, at the coarsest resolution: block, attention, block."""
    attends = attention(config, width) if config.attend_middle else nn.Identity()
    before = residual(config, width, width)
    after = residual(config, width, width)
    return nn.Sequential(before, attends, after)


# ---------------------------------------------------------------- 3.1 the loss


@dataclass(frozen=True)
class VQGANLoss:
    """Eq. 4 to 7 with their weights.  `perceptual(x, y)` gives one distance per image (b,)."""

    perceptual: Callable[[Tensor, Tensor], PerSample] | None
    perceptual_weight: float = 1.0
    discriminator_weight: float = 0.8
    codebook_weight: float = 1.0

    def generator_loss(
        self,
        image: Float[Tensor, "b c h w"],
        reconstruction: Float[Tensor, "b c h w"],
        codebook_loss: Float[Tensor, ""],
        discriminator: nn.Module | None,
        last_layer: Float[Tensor, "..."],
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return what encoder, decoder and codebook minimize, and its parts by name.

        Without a discriminator there is no adversarial part yet.  `last_layer` is the weight of the
        decoder's last convolution, on which Eq. 7 compares the two gradients.
        """
        parts = {"absolute": (image - reconstruction).abs().mean()}
        rebuilding = parts["absolute"]
        if self.perceptual is not None:
            distance = self.perceptual(image, reconstruction).mean()
            parts["perceptual"] = self.perceptual_weight * distance
            rebuilding = rebuilding + parts["perceptual"]

        parts["codebook"] = self.codebook_weight * codebook_loss
        total = rebuilding + parts["codebook"]

        if discriminator is not None:
            fooling = hinge_generator_loss(discriminator(reconstruction))
            weight = self.discriminator_weight * adaptive_weight(rebuilding, fooling, last_layer)
            parts["adversarial"] = weight * fooling
            total = total + parts["adversarial"]

        return total, parts

    @staticmethod
    def discriminator_loss(
        discriminator: nn.Module,
        image: Float[Tensor, "b c h w"],
        reconstruction: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, ""]:
        """Return what the discriminator minimizes: the hinge form of Eq. 5."""
        real = discriminator(image)
        fake = discriminator(reconstruction.detach())
        return hinge_discriminator_loss(real, fake)


# ---------------------------------------------------------------- 3.2 the transformer


class Transformer(nn.Module):
    """Section 3.2: from the tokens so far to the logits of the next one, at every place."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config

        self.tokens: nn.Module = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(torch.zeros(1, config.length, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head: nn.Module = nn.Linear(config.width, config.vocabulary, bias=False)

        initialize(self)

    def forward(
        self, tokens: Int[Tensor, "b n"], cache: KVCache | None = None
    ) -> Float[Tensor, "b n v"]:
        """Return the logits of the token after each; a cache holds the tokens of earlier calls.

        Raises ValueError for more tokens than the context holds.
        """
        return self.head(self.features(tokens, cache))

    def next_logits(
        self, tokens: Int[Tensor, "b n"], cache: KVCache | None = None
    ) -> Float[Tensor, "b v"]:
        """Return the logits of the token after the last, and of no other."""
        return self.head(self.features(tokens, cache)[:, -1])

    def features(
        self, tokens: Int[Tensor, "b n"], cache: KVCache | None = None
    ) -> Float[Tensor, "b n d"]:
        """Return the vectors from which the head makes logits.

        Raises ValueError for more tokens than the context holds.
        """
        past = 0 if cache is None else len(cache)
        end = past + tokens.shape[1]
        if end > self.config.length:
            raise ValueError(f"expected at most {self.config.length} tokens, got {end}")

        x = self.tokens(tokens) + self.positions[:, past:end]  # b n d
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, cache)
        return self.norm(x)


class Block(nn.Module):
    """One layer, norms first: causal self-attention, then two linear layers with a GELU between."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads = config.heads
        self.norm1 = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width),
            nn.GELU(),
            nn.Linear(4 * config.width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "b n d"], layer: int, cache: KVCache | None
    ) -> Float[Tensor, "b n d"]:
        qkv = self.qkv(self.norm1(x))  # b n 3*d
        q, k, v = rearrange(
            qkv, "b n (three heads d) -> three b heads n d", three=3, heads=self.heads
        )
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        h = causal_attention(q, k, v)  # b heads n d
        h = self.out(rearrange(h, "b heads n d -> b n (heads d)"))
        x = x + self.dropout(h)
        return x + self.dropout(self.mlp(self.norm2(x)))  # b n d


def initialize(layers: nn.Module) -> None:
    """Draw weights from a normal distribution of standard deviation 0.02; biases start at zero."""
    for module in layers.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def next_code_loss(
    model: Transformer, condition: Int[Tensor, "b m"], codes: Int[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    """Eq. 9 and 10: return -ln p of every code given the condition and the codes before it.

    It is in nats.  The condition has at least one token.
    """
    tokens = torch.cat([condition, codes[:, :-1]], dim=1)  # b m+n-1
    logits = model(tokens)[:, condition.shape[1] - 1 :]  # b n v
    return F.cross_entropy(logits.mT, codes, reduction="none")


@torch.no_grad()
def sample_codes(
    model: Transformer,
    condition: Int[Tensor, "b m"],
    grid: tuple[int, int],
    temperature: int | float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "b h w"]:
    """Draw grids of codes of the size the model was trained on, code by code in reading order."""
    codes = generate(
        model,
        condition,
        steps=grid[0] * grid[1],
        temperature=temperature,
        top_k=top_k,
        generator=generator,
    )  # b h*w
    return rearrange(codes, "b (h w) -> b h w", h=grid[0])


# ---------------------------------------------------------------- 3.2 images beyond the context


def sliding_window(
    row: int, column: int, grid: tuple[int, int], window: tuple[int, int]
) -> tuple[int, int]:
    """Figure 3: return top and left of the window that a code is drawn in.

    The code is in its middle as far as the grid allows.
    """
    top = window_start(row, grid[0], window[0])
    left = window_start(column, grid[1], window[1])
    return top, left


def window_start(place: int, whole: int, size: int) -> int:
    """Return where a window of this size around `place` starts on an axis of length `whole`."""
    return min(max(place - size // 2, 0), whole - size)


@torch.no_grad()
def sample_large(
    model: Transformer,
    condition: Int[Tensor, "b m"],
    grid: tuple[int, int],
    window: tuple[int, int],
    temperature: int | float = 1.0,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "b h w"]:
    """Draw grids of codes larger than the window the model was trained on.

    Each code sees only its own window.  Raises ValueError for a grid smaller than the window.
    """
    if grid[0] < window[0] or grid[1] < window[1]:
        raise ValueError(f"expected a grid of at least the window's {window}, got {grid}")

    codes = torch.zeros(len(condition), *grid, dtype=torch.long, device=condition.device)
    for row in range(grid[0]):
        for column in range(grid[1]):
            top, left = sliding_window(row, column, grid, window)
            inside = codes[:, top : top + window[0], left : left + window[1]].flatten(1)  # b n
            drawn = (row - top) * window[1] + column - left  # the window's codes before this one
            logits = model.next_logits(torch.cat([condition, inside[:, :drawn]], dim=1))  # b v

            probabilities = next_token_probabilities(logits, temperature, top_k)
            uniform = torch.rand(len(codes), generator=generator).to(logits.device)
            codes[:, row, column] = draw_tokens(probabilities, uniform)
    return codes
