"""The tokenizer of MAGVIT, 3D-VQ.  Yu et al., 2022, arXiv 2212.05199, section 3.1 and appendix A.

Reading order: the configurations; the tokenizer; how it starts from a tokenizer of images (3.1,
Table 7); its discriminator; its loss (appendix A).  What MAGVIT does with the tokens is in
`course_lib.papers.magvit`.  Clips are (b c t h w) in [-1, 1], tokens are a grid (b t h w).

Differs from the paper, following the official code:
- That code pads with zeros by default, where the paper says by reflection: `padding`.

MAGVIT-v2 uses the discriminator and the loss, too, with other settings.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from course_lib.losses.adversarial import (
    LeCam,
    non_saturating_discriminator_loss,
    non_saturating_generator_loss,
    r1_penalty,
)
from course_lib.nn.conv3d import SameConv3d
from course_lib.quantize.vq import Quantized, VectorQuantizer
from course_lib.shapes import Float, Int, PerSample, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class TokenizerConfig:
    """The autoencoder and its codebook.

    Defaults: 3D-VQ-B, 16 x 128 x 128 pixels to 4 x 16 x 16 tokens (Table 6).
    """

    filters: int = 64
    # Multiples of `filters`, one per resolution; each resolution but the last is halved.
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    # Which of these halvings also take pairs of frames.
    halve_time: tuple[bool, ...] = (True, True, False)
    blocks: int = 2  # residual blocks per resolution
    code_dim: int = 256
    num_codes: int = 1024
    kernel_frames: int = 3  # 1: two-dimensional convolutions, every frame for itself
    padding: str = "reflect"  # or "zeros"
    groups: int = 32
    channels: int = 3
    commitment: float = 0.25
    entropy: float = 0.1

    def __post_init__(self):
        if len(self.halve_time) != len(self.multipliers) - 1:
            raise ValueError(
                f"expected {len(self.multipliers) - 1} halvings, got halve_time={self.halve_time}"
            )
        if self.kernel_frames == 1 and any(self.halve_time):
            raise ValueError(
                "expected no halving of time by a tokenizer of single frames (kernel_frames=1),"
                f" got halve_time={self.halve_time}"
            )
        misfits = [width for width in self.widths if width % self.groups]
        if misfits:
            raise ValueError(
                f"expected widths that {self.groups} groups share evenly, got {misfits}"
            )

    @property
    def widths(self) -> list[int]:
        """Channels at every resolution, from fine to coarse."""
        return [self.filters * multiplier for multiplier in self.multipliers]

    @property
    def cell(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the pixels that one token stands for (the supervoxel)."""
        side = 2 ** len(self.halve_time)
        return 2 ** sum(self.halve_time), side, side


# 16 x 32 x 32 pixels to 4 x 8 x 8 tokens
_TINY = TokenizerConfig(
    filters=8, multipliers=(1, 2, 4), halve_time=(True, True), blocks=1, code_dim=32, groups=4
)

TOKENIZER_CONFIGS = {  # Tables 6 and 7
    "3D-VQ-B": TokenizerConfig(),
    "3D-VQ-L": TokenizerConfig(filters=128),
    # 64 x 64 pixels
    "3D-VQ-B BAIR": TokenizerConfig(multipliers=(1, 2, 4), halve_time=(True, True)),
    "2D-VQ-B": TokenizerConfig(kernel_frames=1, halve_time=(False, False, False)),
    "2D-VQ-L": TokenizerConfig(filters=128, kernel_frames=1, halve_time=(False, False, False)),
    "tiny": _TINY,
    "tiny 2D": replace(_TINY, kernel_frames=1, halve_time=(False, False)),
}


@dataclass(frozen=True)
class DiscriminatorConfig:
    """StyleGAN's discriminator in three dimensions.  Defaults: that of 3D-VQ-B (appendix A)."""

    size: tuple[int, int, int] = (16, 128, 128)  # frames, rows and columns of its clips
    filters: int = 64
    # Multiples of `filters`, one per block, which halves frames, rows and columns (rounding up).
    multipliers: tuple[int, ...] = (2, 4, 4, 4, 4)
    channels: int = 3
    halve: Literal["average", "blur"] = "average"  # MAGVIT-v2 blurs

    @property
    def widths(self) -> list[int]:
        """Channels before the first block and after each block."""
        return [self.filters, *(self.filters * multiplier for multiplier in self.multipliers)]

    @property
    def cells(self) -> int:
        """Places that are left of a clip after the last block."""
        return math.prod(math.ceil(n / 2 ** len(self.multipliers)) for n in self.size)


DISCRIMINATOR_CONFIGS = {  # appendix A; not included in the counts of parameters
    "3D-VQ-B": DiscriminatorConfig(),
    "3D-VQ-L": DiscriminatorConfig(filters=128),
    "3D-VQ-B BAIR": DiscriminatorConfig(size=(16, 64, 64), multipliers=(2, 4, 4, 4)),
    "tiny": DiscriminatorConfig(size=(16, 32, 32), filters=8, multipliers=(2, 4, 4)),
}


@dataclass(frozen=True)
class LossConfig:
    """The weights of the losses' terms.  Defaults: MAGVIT (appendix A and its code).

    LeCam's weight is MAGVIT-v2's (2310.05737, appendix A), which has 5 for the squared error;
    MAGVIT's released configurations have no LeCam.
    """

    squared_weight: float = 1.0
    perceptual_weight: float = 0.1
    adversarial_weight: float = 0.1
    r1_weight: float = 10.0
    lecam_weight: float = 0.001


# ---------------------------------------------------------------- 3.1 the tokenizer


class Tokenizer(nn.Module):
    """Clips (b c t h w) in [-1, 1] to a grid of codes, and back."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantizer = VectorQuantizer(
            config.num_codes,
            config.code_dim,
            config.commitment,
            entropy_weight=config.entropy,
            temperature=0.01,
        )
        bound = math.sqrt(3 / config.num_codes)
        nn.init.uniform_(self.quantizer.codebook, -bound, bound)

    def forward(
        self, clip: Float[Tensor, "b c t h w"]
    ) -> tuple[Float[Tensor, "b c t h w"], Quantized]:
        """Return the reconstruction, and what the quantizer found."""
        quantized = self.encode(clip)
        return self.decode(quantized.latents), quantized

    def encode(self, clip: Float[Tensor, "b c t h w"]) -> Quantized:
        """Find the nearest code to the encoder's output in every cell."""
        return self.quantizer(self.features(clip))

    def features(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        """Return the encoder's output, before it is quantized.

        Raises ValueError for a clip that is not made of whole cells.
        """
        if any(n % cell for n, cell in zip(clip.shape[2:], self.config.cell, strict=True)):
            raise ValueError(
                f"expected a clip of cells of {self.config.cell}, got {tuple(clip.shape[2:])}"
            )
        return self.run(self.encoder, clip)

    def decode(self, latents: Float[Tensor, "b d t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """Return the clip that the decoder makes of latents."""
        return self.run(self.decoder, latents)

    def decode_indices(self, indices: Int[Tensor, "b t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """Return the clip of a grid of codes."""
        return self.decode(self.quantizer.embed(indices))

    def run(
        self, layers: nn.Module, x: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b d t2 h2 w2"]:
        """Apply the layers to the whole clip, or frame by frame where kernels have one frame.

        Frame by frame, group norms average over one frame, too.
        """
        if self.config.kernel_frames > 1:
            return layers(x)

        frames = rearrange(x, "b c t h w -> (b t) c 1 h w")
        return rearrange(layers(frames), "(b t) d 1 h w -> b d t h w", b=len(x))


class Encoder(nn.Sequential):
    """Residual blocks at every resolution, with average pooling between them.

    Time is halved early.
    """

    def __init__(self, config: TokenizerConfig):
        widths = config.widths
        layers: list[nn.Module] = [conv(config, config.channels, config.filters, bias=False)]

        for level, (c_in, c_out) in enumerate(pairwise([config.filters, *widths])):
            layers += residuals(config, c_in, c_out)
            if level < len(config.halve_time):
                frames = 2 if config.halve_time[level] else 1
                layers.append(nn.AvgPool3d((frames, 2, 2)))

        layers += residuals(config, widths[-1], widths[-1])
        layers += [norm(config, widths[-1]), nn.SiLU()]
        super().__init__(*layers, SameConv3d(widths[-1], config.code_dim, 1))


class Decoder(nn.Sequential):
    """The encoder backwards: pixels are repeated and then convolved.

    Time is doubled late.
    """

    def __init__(self, config: TokenizerConfig):
        widths = config.widths[::-1]
        layers: list[nn.Module] = [conv(config, config.code_dim, widths[0])]
        layers += residuals(config, widths[0], widths[0])

        for level, (c_in, c_out) in enumerate(pairwise([widths[0], *widths])):
            layers += residuals(config, c_in, c_out)
            if level < len(config.halve_time):
                frames = 2.0 if config.halve_time[-1 - level] else 1.0
                layers.append(nn.Upsample(scale_factor=(frames, 2.0, 2.0), mode="nearest"))
                layers.append(conv(config, c_out, c_out))

        layers += [norm(config, widths[-1]), nn.SiLU()]
        super().__init__(*layers, conv(config, widths[-1], config.channels))


class ClipResBlock(nn.Module):
    """Norm, swish and convolution, twice, around the identity; no biases."""

    def __init__(self, config: TokenizerConfig, c_in: int, c_out: int):
        super().__init__()
        self.norm1 = norm(config, c_in)
        self.conv1 = conv(config, c_in, c_out, bias=False)
        self.norm2 = norm(config, c_out)
        self.conv2 = conv(config, c_out, c_out, bias=False)
        self.skip = SameConv3d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        h = self.conv1(F.silu(self.norm1(x)))  # b d t h w
        h = self.conv2(F.silu(self.norm2(h)))  # b d t h w
        return self.skip(x) + h


def conv(config: TokenizerConfig, c_in: int, c_out: int, bias: bool = True) -> SameConv3d:
    """Make the tokenizer's convolution: 3 x 3 pixels of `kernel_frames` frames."""
    return SameConv3d(c_in, c_out, (config.kernel_frames, 3, 3), config.padding, bias)


def norm(config: TokenizerConfig, channels: int) -> nn.GroupNorm:
    """Make the tokenizer's norm."""
    return nn.GroupNorm(config.groups, channels, eps=1e-6)


def residuals(config: TokenizerConfig, c_in: int, c_out: int) -> list[ClipResBlock]:
    """Make the blocks of one resolution; the first one changes the width."""
    first = ClipResBlock(config, c_in, c_out)
    return [first, *(ClipResBlock(config, c_out, c_out) for _ in range(config.blocks - 1))]


# ---------------------------------------------------------------- 3.1 a start from images


def inflate_central(kernel: Float[Tensor, "o i h w"], frames: int) -> Float[Tensor, "o i t h w"]:
    """Put the kernel at the middle frame, index frames // 2, and zeros at the others.

    Every frame is filtered as it was.
    """
    inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, frames // 2] = kernel
    return inflated


def inflate_average(kernel: Float[Tensor, "o i h w"], frames: int) -> Float[Tensor, "o i t h w"]:
    """Put the kernel at every frame, divided by their number.

    What does not move is filtered as it was.
    """
    return repeat(kernel / frames, "o i h w -> o i t h w", t=frames)


@torch.no_grad()
def inflate(
    model: Tokenizer, image_tokenizer: Tokenizer, kernel: Callable = inflate_central
) -> None:
    """Start a 3D tokenizer from a 2D one of the same widths, in place (Table 7).

    Convolutions of one frame that have several frames in `model` go through `kernel`; all else is
    copied.  Raises ValueError for other widths.
    """
    state = image_tokenizer.state_dict()
    image_layers = dict(image_tokenizer.named_modules())
    for name, layer in model.named_modules():
        source = image_layers.get(name)
        if isinstance(layer, SameConv3d) and isinstance(source, SameConv3d):
            frames = layer.kernel_size[0]
            if source.kernel_size[0] == 1 < frames:
                state[f"{name}.weight"] = kernel(source.weight.squeeze(2), frames)

    expected = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in state.items()}
    names = expected.keys() | found.keys()
    misfits = sorted(name for name in names if expected.get(name) != found.get(name))
    if misfits:
        raise ValueError(
            "expected tokenizers of the same widths and blocks, got other shapes of"
            f" {', '.join(misfits)}"
        )
    model.load_state_dict(state)


# ---------------------------------------------------------------- appendix A, the discriminator


class StyleGANDiscriminator(nn.Module):
    """Clips of one size to one logit each, high where a clip looks real.

    StyleGAN's discriminator (Karras et al., arXiv 1912.04958, figure 7) with its convolutions
    inflated from 2D to 3D.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = nn.Conv3d(config.channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(c_in, c_out, config.halve) for c_in, c_out in pairwise(widths)
        )
        self.conv_out = nn.Conv3d(widths[-1], widths[-1], 3, padding=1)
        self.hidden = nn.Linear(widths[-1] * config.cells, widths[-1])
        self.logit = nn.Linear(widths[-1], 1)

        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, " b"]:
        """Return the logits.  Raises ValueError for clips of another size."""
        if tuple(clip.shape[2:]) != self.config.size:
            raise ValueError(
                f"expected clips of {self.config.size} frames, rows, columns, got"
                f" {tuple(clip.shape[2:])}"
            )
        x = leaky_relu(self.conv_in(clip))  # b filters t h w
        for block in self.blocks:
            x = block(x)  # b c t/2 h/2 w/2, in the end b d t/2^n h/2^n w/2^n
        x = leaky_relu(self.conv_out(x)).flatten(1)  # b d*cells
        x = leaky_relu(self.hidden(x))  # b d
        return self.logit(x).squeeze(1)  # b


class DiscriminatorBlock(nn.Module):
    """Two convolutions with a halving between them, around a halved identity.

    The sum is divided by sqrt(2), which keeps its variance.
    """

    def __init__(self, c_in: int, c_out: int, halve: str = "average"):
        super().__init__()
        self.conv1 = nn.Conv3d(c_in, c_in, 3, padding=1)
        self.conv2 = nn.Conv3d(c_in, c_out, 3, padding=1)
        self.skip = nn.Conv3d(c_in, c_out, 1, bias=False)
        self.halve = blur_pool if halve == "blur" else average_pool

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        h = self.halve(leaky_relu(self.conv1(x)))  # b c t/2 h/2 w/2
        h = leaky_relu(self.conv2(h))  # b d t/2 h/2 w/2
        return (self.skip(self.halve(x)) + h) / math.sqrt(2)


def average_pool(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
    """Halve frames, rows and columns by averages of pairs.

    The last place of an odd axis has no partner and stays as it is.
    """
    window = tuple(min(2, n) for n in x.shape[2:])
    return F.avg_pool3d(x, window, ceil_mode=True)


def blur_pool(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
    """Halve frames, rows and columns (rounding up), each after a blur with weights 1 3 3 1 / 8.

    The blur makes the logit steadier under small shifts (Zhang, arXiv 1904.11486).  Zeros are
    padded as TensorFlow's SAME does: one before, one or two after.
    """
    for axis in (2, 3, 4):
        padded = F.pad(x.movedim(axis, 4), (1, 1 + x.shape[axis] % 2))
        a, b, c, d = padded.unfold(dimension=4, size=4, step=2).unbind(-1)
        x = ((a + d + 3 * (b + c)) / 8).movedim(4, axis)
    return x


def leaky_relu(x: Tensor) -> Tensor:
    """Apply a leaky ReLU of slope 0.2."""
    return F.leaky_relu(x, 0.2)


# ---------------------------------------------------------------- appendix A, the loss


@dataclass(frozen=True)
class TokenizerLoss:
    """What the tokenizer and its discriminator minimize.

    Clips are in [-1, 1]; the weights are those of images in [0, 1], so squared errors and R1 are
    computed in these units.  perceptual(x, y) gives one distance per frame (n,) of frames (n c h w)
    in [-1, 1]; None leaves this term out.
    """

    config: LossConfig
    perceptual: Callable[[Tensor, Tensor], PerSample] | None

    def generator_loss(
        self,
        clip: Float[Tensor, "b c t h w"],
        reconstruction: Float[Tensor, "b c t h w"],
        quantizer_loss: Float[Tensor, ""],
        discriminator: nn.Module | None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return what encoder, codebook and decoder minimize, and its parts.

        Without a discriminator there is no adversarial part.
        """
        parts = {
            "squared": self.config.squared_weight * F.mse_loss(reconstruction, clip) / 4,
            "quantizer": quantizer_loss,
        }
        if self.perceptual:
            original_frames = rearrange(clip, "b c t h w -> (b t) c h w")
            rebuilt_frames = rearrange(reconstruction, "b c t h w -> (b t) c h w")
            distances = self.perceptual(original_frames, rebuilt_frames)  # b*t
            parts["perceptual"] = self.config.perceptual_weight * distances.mean()
        if discriminator is not None:
            fooling = non_saturating_generator_loss(discriminator(reconstruction))
            parts["adversarial"] = self.config.adversarial_weight * fooling
        first, *others = parts.values()
        return sum(others, start=first), parts

    def discriminator_loss(
        self,
        discriminator: nn.Module,
        clip: Float[Tensor, "b c t h w"],
        reconstruction: Float[Tensor, "b c t h w"],
        lecam: LeCam,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return what the discriminator minimizes, and its parts.

        `lecam` takes the batch into its averages.  All is computed in full precision, also under
        autocast: on a CPU torch 2.13 gives weights of bfloat16 convolutions over three frames
        gradients of any size where the map has two frames, as the last one of a small
        discriminator has.
        """
        clip = clip.detach().clone().requires_grad_()
        with torch.autocast(clip.device.type, enabled=False):
            real = discriminator(clip)  # b
            fake = discriminator(reconstruction.detach().to(clip))  # b
            parts = {
                "game": non_saturating_discriminator_loss(real, fake),
                "r1": self.config.r1_weight * 4 * r1_penalty(clip, real),
                "lecam": self.config.lecam_weight * lecam(real, fake),
            }
        return parts["game"] + parts["r1"] + parts["lecam"], parts
