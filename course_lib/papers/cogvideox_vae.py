"""The 3D causal autoencoder of CogVideoX: clips to latents of a quarter of the frames, and back.

CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer.  Yang et al., 2024, arXiv
2408.06072, section 2.1.  The transformer is `course_lib.papers.cogvideox`.

Reading order: the configurations; the autoencoder; its encoder and its decoder; the blocks; how
much of the future leaks into the first latent.

A clip has 1 + f n frames, and the first one is a still: its latent has seen no other.  Pooling and
repeating leave it alone.  What a causal layer sees before its first frame, `timeline` knows.

Differs from the paper, following the official code:
- The norms average over time as well (`norm="group"`), so the released network is not causal:
  `change_per_latent` measures by how much.  `norm="frame"` is strictly causal, as the paper says.
- Four stages have three changes of size between them.  Time is halved by the first two, and doubled
  by the first two of the decoder, which therefore does not mirror the encoder.

Differs from the official code:
- Gradients flow through the frames that are repeated before the first; there, they are dropped.
- The scale and the shift of a decoder's norm are computed at the latents' size and then repeated,
  frames are repeated after the convolution that looks at each alone: the same, with less work.
- diffusers takes the first frame for a still where the frames of a piece are odd; here it always is
  one.  They are equal for clips of 8 n + 1 frames, all that the released models make.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from course_lib.nn.norm import GroupNorm
from course_lib.nn.timeline import Stream, Timeline, pool_frames, repeat_frames
from course_lib.papers.ldm_autoencoder import Posterior
from course_lib.shapes import Float, Tensor

NORMS = ("group", "frame")
NORM_EPS = 1e-6
MIDDLE_BLOCKS = 2

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class CogVideoXVAEConfig:
    """The autoencoder.  Defaults: the released one, 4 x 8 x 8."""

    channels: int = 3
    patch: int = 1  # side in pixels of the squares that become channels, before anything else
    widths: tuple[int, ...] = (128, 256, 256, 512)  # of the stages, from fine to coarse
    # (time, height and width): by how much the encoder shrinks a clip from stage to stage.
    down: tuple[tuple[int, int], ...] = ((2, 2), (2, 2), (1, 2))
    # By how much the decoder enlarges it, from coarse to fine.
    up: tuple[tuple[int, int], ...] = ((2, 2), (2, 2), (1, 2))
    blocks: int = 3  # residual blocks in a stage of the encoder; the decoder has one more
    latent: int = 16  # channels
    groups: int = 32
    norm: str = "group"  # over all frames together, or "frame": over each by itself

    def __post_init__(self):
        smallest = min(self.channels, self.patch, self.blocks, self.latent, self.groups)
        if smallest < 1 or not self.widths:
            raise ValueError(f"expected positive numbers and at least one stage, got {self}")
        if any(width < 1 or width % self.groups for width in self.widths):
            raise ValueError(f"expected widths divisible by {self.groups}, got {self.widths}")
        if self.norm not in NORMS:
            raise ValueError(f"expected a norm of {', '.join(NORMS)}, got {self.norm!r}")
        for name, factors in (("down", self.down), ("up", self.up)):
            twos = all(len(pair) == 2 and set(pair) <= {1, 2} for pair in factors)
            if len(factors) != len(self.widths) - 1 or not twos:
                raise ValueError(
                    f"{name}: expected a pair of factors 1 or 2 between any two of"
                    f" {len(self.widths)} stages, got {factors}"
                )
        if _total(self.down) != _total(self.up):
            raise ValueError(
                f"expected as much up as down, {_total(self.down)}, got {_total(self.up)}"
            )

    @property
    def frames_per_latent(self) -> int:
        """By how much time shrinks: 1 + f n frames become 1 + n latents."""
        return _total(self.down)[0]

    @property
    def pixels_per_latent(self) -> int:
        """By how much height and width shrink."""
        return _total(self.down)[1] * self.patch


def _total(factors: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Return the products of the factors in time and in space."""
    return prod(time for time, _ in factors), prod(space for _, space in factors)


COGVIDEOX_VAE_CONFIGS = {
    "VAE": CogVideoXVAEConfig(),
    "VAE-tiny": CogVideoXVAEConfig(  # 17 x 32 x 32 x 3 to 5 x 8 x 8 x 4
        patch=2,
        widths=(32, 64, 64),
        down=((2, 2), (2, 1)),
        up=((2, 1), (2, 2)),
        blocks=1,
        latent=4,
        groups=8,
        norm="frame",
    ),
}


# ---------------------------------------------------------------- 2.1 the autoencoder


class CogVideoXVAE(nn.Module):
    """Clips (b c t h w) in [-1, 1] to a Gaussian over latents (b d t2 h2 w2), and back.

    Of 1 + f n frames, 1 + n become latents.  `frames_at_once` bounds the memory: the clip passes
    through in pieces of so many frames, the first of them also takes what is left over, and every
    convolution remembers the end of the piece before.  With `norm="frame"` the result is that of
    the whole clip; the released norms see a piece only.
    """

    def __init__(self, config: CogVideoXVAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        # Channels last: frames are images without a copy, and norms and repeats are up to 10 times
        # as fast on a CPU.
        for parameter in self.parameters():
            if parameter.ndim >= 4:
                parameter.data = _channels_last(parameter.data)

    def forward(
        self, video: Float[Tensor, "b c t h w"], noise: Float[Tensor, "b d t2 h2 w2"]
    ) -> tuple[Float[Tensor, "b c t h w"], Posterior]:
        """Return the reconstruction from latents drawn with this noise, and their Gaussian."""
        posterior = self.encode(video)
        return self.decode(posterior.sample(noise)), posterior

    def encode(
        self, video: Float[Tensor, "b c t h w"], frames_at_once: int | None = None
    ) -> Posterior:
        """Return q(z | x).  Raises ValueError for frames or sides that do not fit.

        frames_at_once: a multiple of f; the released models use 8.
        """
        parts = list(self.encode_in_parts(video, frames_at_once))
        return Posterior(*(torch.cat(values, dim=2) for values in zip(*parts, strict=True)))

    def encode_in_parts(
        self, video: Float[Tensor, "b c t h w"], frames_at_once: int | None = None
    ) -> Iterator[Posterior]:
        """Yield q(z | x) some latents at a time.  Raises ValueError as `encode` does."""
        self._require_fit(video, starts=True)
        f = self.config.frames_per_latent
        if frames_at_once is not None and (frames_at_once < 1 or frames_at_once % f):
            raise ValueError(f"frames_at_once: expected a multiple of {f}, got {frames_at_once}")
        stream = Stream()
        for part in stream.over(video.split(piece_sizes(video.shape[2], frames_at_once), dim=2)):
            yield self.encode_piece(part, stream)

    def encode_piece(self, video: Float[Tensor, "b c t h w"], timeline: Timeline) -> Posterior:
        """Return q(z | x) of the frames that are here; `timeline` knows those before."""
        self._require_fit(video, timeline.starts)
        mean, log_variance = self.encoder(video, timeline).chunk(2, dim=1)  # b d t2 h2 w2
        return Posterior(mean, log_variance.clamp(-30, 20))

    def decode(
        self, latents: Float[Tensor, "b d t2 h2 w2"], latents_at_once: int | None = None
    ) -> Float[Tensor, "b c t h w"]:
        """Return the clip of latents as the encoder makes them (not scaled).

        latents_at_once: the released models use 2.
        """
        return torch.cat(list(self.decode_in_parts(latents, latents_at_once)), dim=2)

    def decode_in_parts(
        self, latents: Float[Tensor, "b d t2 h2 w2"], latents_at_once: int | None = None
    ) -> Iterator[Float[Tensor, "b c t h w"]]:
        """Yield the clip some frames at a time.  Raises ValueError for fewer than one at once."""
        if latents_at_once is not None and latents_at_once < 1:
            raise ValueError(f"latents_at_once: expected at least 1, got {latents_at_once}")
        stream = Stream()
        sizes = piece_sizes(latents.shape[2], latents_at_once)
        for part in stream.over(latents.split(sizes, dim=2)):
            yield self.decode_piece(part, stream)

    def decode_piece(
        self, latents: Float[Tensor, "b d t2 h2 w2"], timeline: Timeline
    ) -> Float[Tensor, "b c t h w"]:
        """Return the frames of the latents that are here; `timeline` knows those before."""
        return self.decoder(latents, timeline)

    def _require_fit(self, video: Tensor, starts: bool) -> None:
        """Refuse a piece of a clip that does not become whole latents (ValueError)."""
        f, side = self.config.frames_per_latent, self.config.pixels_per_latent
        frames, *sides = video.shape[2:]
        if frames < 1 or (frames - starts) % f:
            wanted = f"1 + {f} n frames" if starts else f"a multiple of {f} frames"
            raise ValueError(f"expected {wanted}, got {frames}")
        if any(length % side for length in sides):
            raise ValueError(f"expected sides divisible by {side}, got {tuple(sides)}")


def piece_sizes(frames: int, at_once: int | None) -> list[int]:
    """Return how many frames each piece has: `at_once`, and the first one also what is left over.

    None: all in one.  Clips of fewer frames are one piece.
    """
    if at_once is None or frames < at_once:
        return [frames]
    return [at_once + frames % at_once] + [at_once] * (frames // at_once - 1)


# ---------------------------------------------------------------- encoder and decoder


class Encoder(nn.Module):
    """Clips to the moments of their latents: the mean and the log variance of every value."""

    def __init__(self, config: CogVideoXVAEConfig):
        super().__init__()
        widths = config.widths
        self.patch = config.patch
        self.conv_in = CausalConv(config.channels * config.patch**2, widths[0])
        self.stages = nn.ModuleList()  # from fine to coarse
        factors = (*config.down, (1, 1))
        for (c_in, c_out), factor in zip(pairwise([widths[0], *widths]), factors, strict=True):
            stage = nn.ModuleList()
            for block in range(config.blocks):
                stage.append(ResBlock(config, c_out if block else c_in, c_out, ClipNorm))
            stage.append(Downsample(c_out, *factor))
            self.stages.append(stage)
        self.middle = nn.ModuleList(
            ResBlock(config, widths[-1], widths[-1], ClipNorm) for _ in range(MIDDLE_BLOCKS)
        )
        self.norm_out = ClipNorm(config, widths[-1])
        self.conv_out = CausalConv(widths[-1], 2 * config.latent)

    def forward(
        self, video: Float[Tensor, "b c t h w"], timeline: Timeline
    ) -> Float[Tensor, "b m t2 h2 w2"]:
        x = rearrange(video, "b c t (h p) (w q) -> b (c p q) t h w", p=self.patch, q=self.patch)
        x = self.conv_in(_channels_last(x), timeline)  # b width t h w
        for stage in (*self.stages, self.middle):
            for layer in stage:
                x = layer(x, timeline)
        x = F.silu(self.norm_out(x, timeline))  # b width t2 h2 w2
        return self.conv_out(x, timeline)


class Decoder(nn.Module):
    """Latents to clips; every norm is told the latents."""

    def __init__(self, config: CogVideoXVAEConfig):
        super().__init__()
        widths = config.widths[::-1]
        self.patch = config.patch
        self.conv_in = CausalConv(config.latent, widths[0])
        self.middle = nn.ModuleList(
            ResBlock(config, widths[0], widths[0], SpatialNorm) for _ in range(MIDDLE_BLOCKS)
        )
        self.stages = nn.ModuleList()  # from coarse to fine
        factors = (*config.up, (1, 1))
        for (c_in, c_out), factor in zip(pairwise([widths[0], *widths]), factors, strict=True):
            stage = nn.ModuleList()
            for block in range(config.blocks + 1):
                stage.append(ResBlock(config, c_out if block else c_in, c_out, SpatialNorm))
            stage.append(Upsample(c_out, *factor))
            self.stages.append(stage)
        self.norm_out = SpatialNorm(config, widths[-1])
        self.conv_out = CausalConv(widths[-1], config.channels * config.patch**2)

    def forward(
        self, latents: Float[Tensor, "b d t2 h2 w2"], timeline: Timeline
    ) -> Float[Tensor, "b c t h w"]:
        latents = _channels_last(latents)
        x = self.conv_in(latents, timeline)  # b width t2 h2 w2
        for stage in (self.middle, *self.stages):
            for layer in stage:
                x = layer(x, timeline, latents)
        x = F.silu(self.norm_out(x, timeline, latents))  # b width t h/p w/p
        x = self.conv_out(x, timeline)  # b c*p*p t h/p w/p
        return rearrange(x, "b (c p q) t h w -> b c t (h p) (w q)", p=self.patch, q=self.patch)


# ---------------------------------------------------------------- blocks


class CausalConv(nn.Conv3d):
    """A convolution of `kernel` frames, rows and columns whose frames are this one and earlier."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3):
        super().__init__(c_in, c_out, kernel, padding=(0, kernel // 2, kernel // 2))

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "b c_in t h w"], timeline: Timeline
    ) -> Float[Tensor, "b c_out t h w"]:
        past = self.kernel_size[0] - 1
        return super().forward(timeline.extend(self, x, past))


class ClipNorm(nn.Module):
    """Group norm over all frames together or over each by itself, as the configuration says."""

    def __init__(self, config: CogVideoXVAEConfig, channels: int):
        super().__init__()
        self.norm = GroupNorm(config.groups, channels, NORM_EPS)
        self.each_frame = config.norm == "frame"

    def forward(
        self, x: Float[Tensor, "b c t h w"], timeline: Timeline, latents: Tensor | None = None
    ) -> Float[Tensor, "b c t h w"]:
        # Under autocast, torch's norm of bfloat16 with float32 weights takes 4 times as long.
        x = x.to(self.norm.weight.dtype)
        if self.each_frame:
            return _frame_by_frame(self.norm, x)
        return timeline.group_norm(self.norm, x)


class SpatialNorm(ClipNorm):
    """A norm whose scale and shift are read from the latents at every place.

    Movq, arXiv 2209.09002, has it for images.
    """

    def __init__(self, config: CogVideoXVAEConfig, channels: int):
        super().__init__(config, channels)
        self.scale_and_shift = nn.Conv3d(config.latent, 2 * channels, 1)

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "b c t h w"],
        timeline: Timeline,
        latents: Float[Tensor, "b d t2 h2 w2"],
    ) -> Float[Tensor, "b c t h w"]:
        moving = latents.shape[2] - timeline.starts
        times = (x.shape[2] - timeline.starts) // moving if moving else 1
        both = repeat_frames(self.scale_and_shift(latents), times, timeline.starts)
        scale, shift = both.chunk(2, dim=1)  # b c t h2 w2
        return scale_and_shift(super().forward(x, timeline), scale, shift)


class ResBlock(nn.Module):
    """Two causal convolutions around the identity."""

    def __init__(self, config: CogVideoXVAEConfig, c_in: int, c_out: int, norm: type[ClipNorm]):
        super().__init__()
        self.norm1 = norm(config, c_in)
        self.conv1 = CausalConv(c_in, c_out)
        self.norm2 = norm(config, c_out)
        self.conv2 = CausalConv(c_out, c_out)
        self.skip = nn.Conv3d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b c_in t h w"], timeline: Timeline, latents: Tensor | None = None
    ) -> Float[Tensor, "b c t h w"]:
        h = self.conv1(F.silu(self.norm1(x, timeline, latents)), timeline)  # b c t h w
        h = self.conv2(F.silu(self.norm2(h, timeline, latents)), timeline)
        return self.skip(x) + h


class Downsample(nn.Module):
    """Halve time by averaging, then height and width by a convolution of each frame."""

    def __init__(self, channels: int, time: int, space: int):
        super().__init__()
        self.halves_time = time == 2
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if space == 2 else None

    def forward(
        self, x: Float[Tensor, "b c t h w"], timeline: Timeline
    ) -> Float[Tensor, "b c t2 h2 w2"]:
        if self.halves_time:
            x = pool_frames(x, timeline.starts)  # b c t2 h w
        if self.conv is not None:
            x = _frame_by_frame(self.conv, F.pad(x, (0, 1, 0, 1)))  # b c t2 h/2 w/2
        return x


class Upsample(nn.Module):
    """Double height and width by repeating pixels, convolve each frame, then repeat frames."""

    def __init__(self, channels: int, time: int, space: int):
        super().__init__()
        self.time = time
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if space == 2 else None

    def forward(
        self, x: Float[Tensor, "b c t2 h2 w2"], timeline: Timeline, latents: Tensor | None = None
    ) -> Float[Tensor, "b c t h w"]:
        if self.conv is not None:
            x = F.interpolate(x, scale_factor=(1.0, 2.0, 2.0))  # b c t2 h w
            x = _frame_by_frame(self.conv, x)
        if self.time > 1:
            x = repeat_frames(x, self.time, timeline.starts)  # b c t h w
        return x


def _frame_by_frame(
    layer: nn.Module, x: Float[Tensor, "b c t h w"]
) -> Float[Tensor, "b c2 t h2 w2"]:
    """Apply a layer of images to every frame."""
    frames = layer(rearrange(x, "b c t h w -> (b t) c h w"))
    return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))


def scale_and_shift(
    x: Float[Tensor, "b c t h w"],
    scale: Float[Tensor, "b c t h2 w2"],
    shift: Float[Tensor, "b c t h2 w2"],
) -> Float[Tensor, "b c t h w"]:
    """Return x * scale + shift, in which a value of theirs is for a square of x's pixels.

    Only a row of scales is repeated, and used for several rows: half the time of repeating all.
    """
    p, q = x.shape[3] // scale.shape[3], x.shape[4] // scale.shape[4]
    rows = rearrange(x, "b c t (h p) w -> b t h p (w c)", p=p)
    scale, shift = (repeat(y, "b c t h w -> b t h 1 (w q c)", q=q) for y in (scale, shift))
    rows = torch.addcmul(shift, rows, scale)
    return rearrange(rows, "b t h p (w c) -> b c t (h p) w", c=x.shape[1])


def _channels_last(x: Tensor) -> Tensor:
    """Return images or clips with the same values, whose channels are neighbours in memory."""
    kind = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=kind)


# ---------------------------------------------------------------- the leak


@torch.no_grad()
def change_per_latent(
    model: CogVideoXVAE,
    video: Float[Tensor, "b c t h w"],
    other: Float[Tensor, "b c t h w"],
    frame: int,
    frames_at_once: int | None = None,
) -> Float[Tensor, " t2"]:
    """Return by how much each latent frame changes where `other` replaces `frame` and all later.

    The largest change of a mean.  A causal encoder changes none of the latents of earlier frames.
    """
    changed = torch.cat([video[:, :, :frame], other[:, :, frame:]], dim=2)
    before, after = (model.encode(clip, frames_at_once).mean for clip in (video, changed))
    return rearrange(after - before, "b d t h w -> t (b d h w)").abs().amax(dim=1)
