"""The tokenizers of LVM.  Bai et al., 2023, arXiv 2312.00785, section 4.1.

The paper: Sequential Modeling Enables Scalable Learning for Large Vision Models.  Reading order:
the configurations; the tokenizer of the paper's time; the one that was released later.  Both make
16 x 16 tokens of an image of 256 x 256, from 8,192 codes.  Images are (b c h w) in [-1, 1], as
everywhere in the course; the networks see them in [0, 1], as they were trained.

Differs from the paper, following the official code:
- The paper takes VQGAN.  The first tokenizer has MaskGIT's form of it: no attention, no biases in
  the blocks, average pooling on the way down.
- The release says nothing on how either was trained.  Its first file weighs the commitment with 0,
  where VQGAN has `beta` = 0.25, as here by default; its second puts beta on the codebook's term:
  `VQGANConfig(legacy=True)`.
- `tokenizer-tiny` is `local`: a code says what is near its place, and nothing else.  A group norm
  sees the whole image, so that the code of a bare wall depends on what stands elsewhere; then a
  map's codes are hard to predict.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.nn.norm import ChannelRMSNorm, GroupNorm
from course_lib.papers.vqgan import VQGAN, VQGANConfig
from course_lib.quantize.vq import Quantized, VectorQuantizer
from course_lib.shapes import Float, Int, Tensor

NORM_EPS = 1e-6  # of every group norm
# Of norms over a black pixel's channels, all of which are 0: less would blow its gradient up.
LOCAL_EPS = 1e-2

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class TokenizerConfig:
    """The autoencoder and its codebook.  Defaults: the tokenizer of the paper's time."""

    channels: int = 3
    width: int = 128
    # How many times the width each resolution has; the encoder halves between two of them.
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2  # residual blocks per resolution, and as many next to the codes
    code_dim: int = 32
    num_codes: int = 8192
    beta: float = 0.25
    update: Literal["loss", "ema"] = "loss"  # how the codebook learns
    groups: int = 32
    # Whether norms are over each place's channels, and only the encoder's finest blocks look around
    local: bool = False

    def __post_init__(self):
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


TINY = TokenizerConfig(  # 32 x 32 pixels to 8 x 8 tokens
    width=24, multipliers=(1, 2, 4), blocks=1, num_codes=512, update="ema", groups=8
)
TOKENIZER_CONFIGS = {
    "tokenizer": TokenizerConfig(),
    "tokenizer-tiny": replace(TINY, local=True),
    "tokenizer-tiny-global": TINY,
}

MUSE_CONFIGS = {  # as in config.json beside the released weights, Emma02/vqvae_ckpts
    "tokenizer-muse": VQGANConfig(
        multipliers=(1, 2, 2, 4, 6),
        attention=(),
        attend_middle=False,
        latent=64,
        code_dim=64,
        num_codes=8192,
        legacy=True,
    ),
}

# ---------------------------------------------------------------- 4.1 the tokenizer


class Tokenizer(nn.Module):
    """Images (b c h w) in [-1, 1] to a grid of codes (b h/f w/f), and back."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = VectorQuantizer(
            config.num_codes, config.code_dim, beta=config.beta, update=config.update
        )
        self.decoder = Decoder(config)

    def forward(
        self, image: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Quantized]:
        """Return the reconstruction and what the quantizer made of the image."""
        quantized = self.encode(image)
        return self.decode(quantized.latents), quantized

    def encode(self, image: Float[Tensor, "b c h w"]) -> Quantized:
        """Find the nearest code at every place of the encoder's output."""
        return self.quantizer(self.features(image))

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Return the encoder's output.  Raises ValueError for sides that f does not divide."""
        f = self.config.downsampling
        if image.shape[2] % f or image.shape[3] % f:
            raise ValueError(f"expected sides divisible by {f}, got {tuple(image.shape[2:])}")
        return self.encoder(to_unit_range(image))

    def decode(self, latents: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b c h w"]:
        """Return the image that the decoder makes of latents."""
        return from_unit_range(self.decoder(latents))

    def decode_indices(self, indices: Int[Tensor, "b h2 w2"]) -> Float[Tensor, "b c h w"]:
        """Return the image of a grid of codes."""
        return self.decode(self.quantizer.embed(indices))


class Encoder(nn.Module):
    """Residual blocks at every resolution, with average pooling between them; then some more."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.channels, config.width, 3, padding=1, bias=False)
        reach = 1 if config.local else 3
        self.levels = nn.ModuleList(  # from fine to coarse
            blocks(config, c_in, c_out, reach if level else 3)
            for level, (c_in, c_out) in enumerate(pairwise([config.width, *widths]))
        )
        self.middle = blocks(config, widths[-1], widths[-1], reach)
        self.norm_out = norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.code_dim, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        x = self.levels[0](self.conv_in(x))  # b width h w
        for level in self.levels[1:]:
            x = level(F.avg_pool2d(x, 2))
        x = self.middle(x)  # b width h/f w/f
        x = F.silu(self.norm_out(x))
        return self.conv_out(x)  # b code_dim h/f w/f


class Decoder(nn.Module):
    """The encoder backwards; depth-to-space doubles the sides."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        widths = config.widths[::-1]
        self.conv_in = nn.Conv2d(config.code_dim, widths[0], 3, padding=1)
        self.middle = blocks(config, widths[0], widths[0])
        self.levels = nn.ModuleList(  # from coarse to fine
            blocks(config, c_in, c_out) for c_in, c_out in pairwise([widths[0], *widths])
        )
        self.doublings = nn.ModuleList(DepthToSpace(width) for width in widths[:-1])
        self.norm_out = norm(config, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.channels, 3, padding=1)

    def forward(self, latents: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b c h w"]:
        x = self.conv_in(latents)  # b width h/f w/f
        x = self.levels[0](self.middle(x))
        for double, level in zip(self.doublings, self.levels[1:], strict=True):
            x = level(double(x))
        x = F.silu(self.norm_out(x))  # b width h w
        return self.conv_out(x)  # b c h w


class DepthToSpace(nn.Module):
    """Double both sides: a convolution to four times the channels, which become 2 x 2 pixels."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        x = self.conv(x)  # b 4*c h w
        return rearrange(x, "b (h2 w2 c) h w -> b c (h h2) (w w2)", h2=2, w2=2)


class Block(nn.Module):
    """Norm, swish and convolution, twice, around the identity; no biases."""

    def __init__(self, config: TokenizerConfig, c_in: int, c_out: int, kernel: int):
        super().__init__()
        self.norm1 = norm(config, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, kernel, padding="same", bias=False)
        self.norm2 = norm(config, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, kernel, padding="same", bias=False)
        self.skip = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c h w"]:
        h = self.conv1(F.silu(self.norm1(x)))  # b c h w
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h


def blocks(config: TokenizerConfig, c_in: int, c_out: int, kernel: int = 3) -> nn.Sequential:
    """Make the blocks of one resolution; the first one changes the width."""
    widths = [c_in] + [c_out] * config.blocks
    return nn.Sequential(*(Block(config, a, b, kernel) for a, b in pairwise(widths)))


def norm(config: TokenizerConfig, channels: int) -> nn.Module:
    """Make a norm over groups of channels of the image or, if local, over all of each place."""
    if config.local:
        return ChannelRMSNorm(channels, LOCAL_EPS)
    return GroupNorm(config.groups, channels, NORM_EPS)


# ---------------------------------------------------------------- the later release


class MuseTokenizer(VQGAN):
    """The tokenizer of the released 7B model: open-muse's VQGAN, which attends nowhere.

    Images are (b c h w) in [-1, 1], and so is what it makes of codes.
    """

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Return z^ = E(x), not yet quantized.  Raises ValueError for sides f does not divide."""
        return super().features(to_unit_range(image))

    def decode(self, latents: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b c h w"]:
        """Return x^ = G(z_q)."""
        return from_unit_range(super().decode(latents))


def to_unit_range(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Turn pixels in [-1, 1] into pixels in [0, 1]."""
    return (image + 1) / 2


def from_unit_range(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Turn pixels in [0, 1] into pixels in [-1, 1]."""
    return 2 * image - 1
