"""SoundStream: An End-to-End Neural Audio Codec.  Zeghidour et al., 2021, arXiv 2107.03312.

A codec that is learned as a whole: a causal convolutional encoder turns 320 samples of sound into a
vector, a residual quantizer turns the vector into eight numbers, and a decoder turns these into
samples again.  Losses on spectra and discriminators say what sounds alike.  Any number of levels
can be left out on the way, and nothing waits for later samples, so that one model serves every bit
rate and a conversation.

Reading order: the configurations; the codec (sections III-A and III-B), to which belong its layers
`course_lib.nn.causal_conv1d` and its quantizer `course_lib.quantize.rvq` (III-C); the switch for
denoising (III-F); the discriminators (III-D); the losses (III-E), with the spectral one in
`course_lib.losses.spectral`.  Sound is (b n) in [-1, 1], tokens are (b n levels).

Differs from the paper, which released no code:
- D, the numbers of a latent, is not in the text: 512 as in AudioLM's re-implementation; EnCodec has
  128, Lyra v2 64.
- Where ELU stands is not in the text: before every convolution but the first, as in EnCodec.
- Samples that do not fill a frame are dropped: n become floor(n / 320) frames, so that the 34,000
  samples of VideoPoet's clips become 106.
- The quantizer's commitment, as VQ-VAE has it, is part of what is minimized.
- The discriminators of the waveform have MelGAN's form: leaky ReLU of .2, as the other has it, too,
  and averages of four samples, every two, between scales.  The other leaves out the top one of 513
  frequencies, so that 64 divides the rest; widths double in its first, second, fourth and sixth
  unit, and shortcuts average, then project.
- Norms are means over frames and over features, where the paper has sums over some: no weight
  depends on the length of a clip.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.losses.spectral import multi_scale_mel_loss, stft
from course_lib.nn.causal_conv1d import CausalConv1d, CausalConvTranspose1d, Pieces
from course_lib.quantize.rvq import ResidualVQ
from course_lib.quantize.vq import Quantized
from course_lib.shapes import Bool, Float, Int, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class SoundStreamConfig:
    """The codec.  Defaults: 24 kHz at 75 frames and 6,000 bits a second."""

    sample_rate: int = 24_000  # samples a second
    width: int = 32  # C
    # How many times the width each resolution has; the encoder strides between two of them.
    multipliers: tuple[int, ...] = (1, 2, 4, 8, 16)
    strides: tuple[int, ...] = (2, 4, 5, 8)
    dilations: tuple[int, ...] = (1, 3, 9)  # one residual unit each, at every resolution
    dim: int = 512  # D, of a latent
    levels: int = 8  # codebooks
    num_codes: int = 1024  # of each
    commitment: float = 0.25
    decay: float = 0.99  # of the codebooks' averages
    film: Literal["none", "encoder", "decoder"] = "none"  # which side denoising is switched on

    def __post_init__(self):
        if len(self.strides) != len(self.multipliers) - 1:
            raise ValueError(f"expected {len(self.multipliers) - 1} strides, got {self.strides}")
        if self.film not in ("none", "encoder", "decoder"):
            raise ValueError(f"expected film 'none', 'encoder' or 'decoder', got {self.film!r}")

    @property
    def widths(self) -> list[int]:
        """Channels at every resolution, from fine to coarse."""
        return [self.width * multiplier for multiplier in self.multipliers]

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop

    def bit_rate(self, levels: int) -> float:
        """Return the bits a second of so many levels."""
        return levels * math.log2(self.num_codes) * self.frame_rate


SOUNDSTREAM_CONFIGS = {
    "24khz": SoundStreamConfig(),
    "24khz-denoising": SoundStreamConfig(film="encoder"),  # III-F
    # VideoPoet (arXiv 2312.14125): 2.125 seconds to 106 frames; its widths are not published.
    "videopoet": SoundStreamConfig(sample_rate=16_000, levels=4),
    # The little world's 16,000 samples to 64 frames, four between two frames of its clips.
    "tiny": SoundStreamConfig(
        sample_rate=8_000,
        width=8,
        multipliers=(1, 2, 4, 4, 8),
        strides=(5, 5, 5, 2),
        dim=16,
        levels=4,
        num_codes=64,
    ),
}


@dataclass(frozen=True)
class DiscriminatorConfig:
    """All discriminators.  Defaults: the paper's."""

    scales: int = 3  # of the waveform, each half as fine as the one before
    wave_width: int = 16
    max_wave_width: int = 1024
    stft_width: int = 32
    window: int = 1024  # samples of a spectrum
    hop: int = 256  # samples between two spectra

    def __post_init__(self):
        if self.window % 128:
            raise ValueError(f"expected a window divisible by 128, got {self.window}")


DISCRIMINATOR_CONFIGS = {  # not included in the counts of parameters
    "24khz": DiscriminatorConfig(),
    "tiny": DiscriminatorConfig(
        scales=2, wave_width=4, max_wave_width=64, stft_width=4, window=256, hop=64
    ),
}


# ---------------------------------------------------------------- III-A and III-B the codec


class SoundStream(nn.Module):
    """Sound (b n) in [-1, 1] to tokens (b n/hop levels), and back.

    pieces: for a sound that comes piece by piece, one for the way in and one for the way out.
    denoise: for every frame whether what is not speech shall go (III-F), where `config.film` is the
    side that is asked; without it, all stays.
    """

    def __init__(self, config: SoundStreamConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = ResidualVQ(
            config.levels, config.num_codes, config.dim, config.commitment, config.decay
        )
        self.decoder = Decoder(config)
        self.film = None if config.film == "none" else FiLM(config.dim)

    def forward(
        self,
        sound: Float[Tensor, "b n"],
        use: Int[Tensor, " b"] | None = None,
        denoise: Bool[Tensor, "b t"] | None = None,
    ) -> tuple[Float[Tensor, "b n2"], Quantized]:
        """Return the reconstruction of all whole frames, and what the quantizer found.

        use: how many levels each example uses (`course_lib.quantize.rvq.draw_levels`).
        """
        quantized = self.quantizer(self.features(sound, denoise), use)
        return self.decode(quantized.latents, denoise), quantized

    def encode(self, sound: Float[Tensor, "b n"], **options) -> Quantized:
        """Quantize the encoder's output; the options are those of `features`."""
        return self.quantizer(self.features(sound, **options))

    def features(
        self,
        sound: Float[Tensor, "b n"],
        denoise: Bool[Tensor, "b t"] | None = None,
        pieces: Pieces | None = None,
    ) -> Float[Tensor, "b d t"]:
        """Return the encoder's output, before it is quantized: t = n // hop.

        Raises ValueError for less than a frame of sound, and for a piece that ends within one.
        """
        hop = self.config.hop
        n = sound.shape[1]
        if n < hop or (pieces is not None and n % hop):
            wanted = f"at least {hop} samples" if pieces is None else f"multiples of {hop} samples"
            raise ValueError(f"expected {wanted}, got {n}")
        latents = self.encoder(sound[:, None], pieces)  # b d t
        return self._switch("encoder", latents, denoise)

    def decode(
        self,
        latents: Float[Tensor, "b d t"],
        denoise: Bool[Tensor, "b t"] | None = None,
        pieces: Pieces | None = None,
    ) -> Float[Tensor, "b n"]:
        """Return the sound that the decoder makes of latents: n = t hop."""
        latents = self._switch("decoder", latents, denoise)
        return self.decoder(latents, pieces)[:, 0]

    def decode_indices(self, indices: Int[Tensor, "b t levels"], **options) -> Float[Tensor, "b n"]:
        """Return the sound of tokens, of all their levels or of the first ones.

        The options are those of `decode`.
        """
        return self.decode(self.quantizer.embed(indices), **options)

    def _switch(self, side: str, latents: Tensor, denoise: Tensor | None) -> Tensor:
        if self.film is None:
            if denoise is not None:
                raise ValueError("denoise: expected a model with film, got one without")
            return latents
        return self.film(latents, denoise) if self.config.film == side else latents


class Encoder(nn.Module):
    """A convolution, residual units and a stride at every resolution, and a convolution to D."""

    def __init__(self, config: SoundStreamConfig):
        super().__init__()
        widths = config.widths
        self.conv_in = CausalConv1d(1, widths[0], 7)
        self.blocks = nn.ModuleList(
            EncoderBlock(c_in, c_out, stride, config.dilations)
            for (c_in, c_out), stride in zip(pairwise(widths), config.strides, strict=True)
        )
        self.conv_out = CausalConv1d(widths[-1], config.dim, 3)

    def forward(
        self, x: Float[Tensor, "b 1 n"], pieces: Pieces | None = None
    ) -> Float[Tensor, "b d t"]:
        x = self.conv_in(x, pieces)  # b width n
        for block in self.blocks:
            x = block(x, pieces)
        return self.conv_out(F.elu(x), pieces)  # b d t


class Decoder(nn.Module):
    """The encoder backwards."""

    def __init__(self, config: SoundStreamConfig):
        super().__init__()
        widths = config.widths[::-1]
        self.conv_in = CausalConv1d(config.dim, widths[0], 7)
        self.blocks = nn.ModuleList(
            DecoderBlock(c_in, c_out, stride, config.dilations)
            for (c_in, c_out), stride in zip(pairwise(widths), config.strides[::-1], strict=True)
        )
        self.conv_out = CausalConv1d(widths[-1], 1, 7)

    def forward(
        self, x: Float[Tensor, "b d t"], pieces: Pieces | None = None
    ) -> Float[Tensor, "b 1 n"]:
        x = self.conv_in(x, pieces)  # b 16*width t
        for block in self.blocks:
            x = block(x, pieces)
        return self.conv_out(F.elu(x), pieces)  # b 1 n


class EncoderBlock(nn.Module):
    """Residual units, then a convolution that strides."""

    def __init__(self, c_in: int, c_out: int, stride: int, dilations: tuple[int, ...]):
        super().__init__()
        self.units = nn.ModuleList(ResidualUnit(c_in, dilation) for dilation in dilations)
        self.down = CausalConv1d(c_in, c_out, 2 * stride, stride)

    def forward(
        self, x: Float[Tensor, "b c_in n"], pieces: Pieces | None
    ) -> Float[Tensor, "b c_out n2"]:
        for unit in self.units:
            x = unit(x, pieces)  # b c_in n
        return self.down(F.elu(x), pieces)


class DecoderBlock(nn.Module):
    """A transposed convolution, then residual units."""

    def __init__(self, c_in: int, c_out: int, stride: int, dilations: tuple[int, ...]):
        super().__init__()
        self.up = CausalConvTranspose1d(c_in, c_out, stride)
        self.units = nn.ModuleList(ResidualUnit(c_out, dilation) for dilation in dilations)

    def forward(
        self, x: Float[Tensor, "b c_in n"], pieces: Pieces | None
    ) -> Float[Tensor, "b c_out n2"]:
        x = self.up(F.elu(x), pieces)  # b c_out n2
        for unit in self.units:
            x = unit(x, pieces)
        return x


class ResidualUnit(nn.Module):
    """A dilated convolution of 7 and one of 1, around the identity; no norms."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.conv1 = CausalConv1d(channels, channels, 7, dilation=dilation)
        self.conv2 = CausalConv1d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c n"], pieces: Pieces | None) -> Float[Tensor, "b c n"]:
        h = self.conv1(F.elu(x), pieces)  # b c n
        h = self.conv2(F.elu(h), pieces)  # b c n
        return x + h


# ---------------------------------------------------------------- III-F denoising


class FiLM(nn.Module):
    """Feature-wise modulation by a switch: each mode scales and shifts the channels of its frames.

    In training, targets are the inputs where the switch is off, and clean speech where it is on.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.modes = nn.Linear(2, 2 * dim)  # of a one-hot mode: off, on

        # The modes of a new model do nothing.
        nn.init.zeros_(self.modes.weight)
        with torch.no_grad():
            self.modes.bias.copy_(torch.cat([torch.ones(dim), torch.zeros(dim)]))

    def forward(
        self, x: Float[Tensor, "b d t"], on: Bool[Tensor, "..."] | None
    ) -> Float[Tensor, "b d t"]:
        """Return x as the switch (b t) wants each frame; without one, it is off.

        Raises ValueError for a switch of other frames.
        """
        frames = x[:, 0].shape
        if on is None:
            on = torch.zeros(frames, dtype=torch.bool, device=x.device)
        if on.shape != frames:
            raise ValueError(
                f"expected one switch per frame, {tuple(frames)}, got {tuple(on.shape)}"
            )
        modes = self.modes(F.one_hot(on.long(), 2).to(x.dtype))  # b t 2*d
        scale, shift = rearrange(modes, "b t (two d) -> two b d t", two=2)
        return scale * x + shift


# ---------------------------------------------------------------- III-D the discriminators


class Discriminator(nn.Module):
    """One on the waveform at every scale, and one on its complex spectra."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        self.waves = nn.ModuleList(WaveDiscriminator(config) for _ in range(config.scales))
        self.stft = STFTDiscriminator(config)

    def forward(self, sound: Float[Tensor, "b n"]) -> list[list[Tensor]]:
        """Return for each discriminator what its layers make of the sound; the last are logits."""
        outputs = []
        wave = sound[:, None]  # b 1 n
        for discriminator in self.waves:
            outputs.append(discriminator(wave))
            wave = F.avg_pool1d(wave, 4, stride=2, padding=1, count_include_pad=False)
        return [*outputs, self.stft(sound)]


class WaveDiscriminator(nn.Module):
    """Convolutions of 15 samples, four grouped ones of 41 that stride by 4, of 5 and of 3."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        width = config.wave_width
        self.layers = nn.ModuleList([nn.Conv1d(1, width, 15, padding=7)])
        for _ in range(4):
            wider = min(4 * width, config.max_wave_width)
            groups = width // 4  # of four channels each
            self.layers.append(nn.Conv1d(width, wider, 41, stride=4, padding=20, groups=groups))
            width = wider
        self.layers.append(nn.Conv1d(width, width, 5, padding=2))
        self.to_logits = nn.Conv1d(width, 1, 3, padding=1)

    def forward(self, x: Float[Tensor, "b 1 n"]) -> list[Float[Tensor, "b c n2"]]:
        outputs = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)  # b c n2
            outputs.append(x)
        return [*outputs, self.to_logits(x)]  # b 1 n/256


class STFTDiscriminator(nn.Module):
    """A convolution of 7 x 7, six residual units, and one over all frequencies that are left."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.window = config.window
        self.hop = config.hop
        widths = [config.stft_width * multiplier for multiplier in (1, 2, 4, 4, 8, 8, 16)]
        self.conv_in = nn.Conv2d(2, widths[0], 7, padding=3)
        self.units = nn.ModuleList(
            SpectralUnit(c_in, c_out, stride)
            for (c_in, c_out), stride in zip(pairwise(widths), 3 * [(1, 2), (2, 2)], strict=True)
        )
        self.to_logits = nn.Conv2d(widths[-1], 1, (1, config.window // 128))

    def forward(self, sound: Float[Tensor, "b n"]) -> list[Float[Tensor, "b c t f"]]:
        spectra = stft(sound, self.window, self.hop)[..., :-1]  # b t f
        x = rearrange(torch.view_as_real(spectra), "b t f two -> b two t f")
        x = self.conv_in(x)  # b c t f
        outputs = [x]
        for unit in self.units:
            x = unit(x)
            outputs.append(x)
        return [*outputs, self.to_logits(F.leaky_relu(x, 0.2))]  # b 1 t/8 1


class SpectralUnit(nn.Module):
    """A convolution of 3 x 3 and one that strides over frames and frequencies."""

    def __init__(self, c_in: int, c_out: int, stride: tuple[int, int]):
        super().__init__()
        self.stride = stride
        kernel = (stride[0] + 2, stride[1] + 2)
        self.conv1 = nn.Conv2d(c_in, c_in, 3, padding=1)
        self.conv2 = nn.Conv2d(c_in, c_out, kernel, stride, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Float[Tensor, "b c_in t f"]) -> Float[Tensor, "b c_out t2 f2"]:
        h = self.conv1(F.leaky_relu(x, 0.2))  # b c_in t f
        h = self.conv2(F.leaky_relu(h, 0.2))  # b c_out t2 f2
        return self.skip(F.avg_pool2d(x, self.stride)) + h


# ---------------------------------------------------------------- III-E the losses


def discriminator_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Float[Tensor, ""]:
    """Return max(0, 1 - D(x)) + max(0, 1 + D(x^)): a mean over time, then over discriminators."""
    losses = [
        F.relu(1 - a[-1]).mean() + F.relu(1 + b[-1]).mean() for a, b in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(fake: list[list[Tensor]]) -> Float[Tensor, ""]:
    """Return max(0, 1 - D(x^)): a mean over time, then over discriminators."""
    return torch.stack([F.relu(1 - outputs[-1]).mean() for outputs in fake]).mean()


def feature_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Float[Tensor, ""]:
    """Return the mean absolute difference of what every layer below the logits made of the two."""
    losses = [
        F.l1_loss(b, a.detach())
        for ours, theirs in zip(real, fake, strict=True)
        for a, b in zip(ours[:-1], theirs[:-1], strict=True)
    ]
    return torch.stack(losses).mean()


@dataclass(frozen=True)
class SoundStreamLoss:
    """What encoder, decoder and quantizer minimize, with the paper's weights."""

    sample_rate: int
    adversarial: float = 1.0
    feature: float = 100.0
    reconstruction: float = 1.0
    floor: float = 1e-5  # of the logarithms; more where sounds have digital silence

    def generator_loss(
        self,
        sound: Float[Tensor, "b n"],
        made: Float[Tensor, "b n"],
        commitment: Float[Tensor, ""],
        discriminator: nn.Module | None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return the sum and its parts by name; without a discriminator, spectra alone decide."""
        distance = multi_scale_mel_loss(sound, made, self.sample_rate, floor=self.floor).mean()
        parts = {"reconstruction": self.reconstruction * distance, "commitment": commitment}
        if discriminator is not None:
            real = discriminator(sound)
            fake = discriminator(made)
            parts["adversarial"] = self.adversarial * adversarial_loss(fake)
            parts["feature"] = self.feature * feature_loss(real, fake)
        return torch.stack(list(parts.values())).sum(), parts
