"""The autoencoder of Stable Video Diffusion (arXiv 2311.15127): images in, clips out.

Its encoder is that of latent diffusion's autoencoder, frame by frame.  Its decoder was trained
again with temporal layers, so that what it makes up does not flicker.

Reading order: the autoencoder; the decoder; its residual block.

Differs from the paper, following the official code: there is no attention over time, only
convolutions; nothing is between latents and decoder (latent diffusion has a 1x1 convolution).
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.nn.norm import GroupNorm
from course_lib.nn.resnet import ResBlock, Upsample
from course_lib.papers.ldm_autoencoder import AUTOENCODER_CONFIGS, AutoencoderConfig, Posterior
from course_lib.papers.svd import TemporalResBlock, blend
from course_lib.papers.vqgan import NORM_EPS, Encoder, VQGANConfig, attention
from course_lib.shapes import Float, Tensor

TEMPORAL_NORM_EPS = 1e-5  # of the group norms that see all frames

TEMPORAL_DECODER_CONFIGS = {
    "temporal-decoder": AUTOENCODER_CONFIGS["kl-f8"],
    "temporal-decoder-tiny": AUTOENCODER_CONFIGS["kl-tiny"],
}


class TemporalAutoencoder(nn.Module):
    """Images (b c h w) in [-1, 1] to a Gaussian over latents; latents of clips back to clips."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.network(2 * config.latent))
        self.to_moments = nn.Conv2d(2 * config.latent, 2 * config.latent, 1)
        self.decoder = TemporalDecoder(config.network(config.latent))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, clip: Float[Tensor, "b t c h w"], noise: Float[Tensor, "b_t d h2 w2"]
    ) -> tuple[Float[Tensor, "b t c h w"], Posterior]:
        """Return the reconstruction from latents drawn with this noise, and their Gaussian."""
        posterior = self.encode(rearrange(clip, "b t c h w -> (b t) c h w"))
        latents = posterior.sample(noise)  # b*t d h/f w/f
        return self.decode(rearrange(latents, "(b t) ... -> b t ...", t=clip.shape[1])), posterior

    def encode(self, image: Float[Tensor, "b c h w"]) -> Posterior:
        """Return q(z | x) of every image.  Raises ValueError for sides that f does not divide."""
        f = self.config.downsampling
        if image.shape[2] % f or image.shape[3] % f:
            raise ValueError(f"expected sides divisible by {f}, got {tuple(image.shape[2:])}")
        moments = self.to_moments(self.encoder(image))  # b 2*d h/f w/f
        mean, log_variance = moments.chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-30, 20))

    def decode(
        self, latents: Float[Tensor, "b t d h2 w2"], frames_at_once: int | None = None
    ) -> Float[Tensor, "b t c h w"]:
        """Return the clip of latents as the encoder makes them (not scaled).

        frames_at_once bounds the memory: frames further apart than that do not see each other.
        """
        return torch.cat(list(self.decode_in_parts(latents, frames_at_once)), dim=1)

    def decode_in_parts(
        self, latents: Float[Tensor, "b t d h2 w2"], frames_at_once: int | None = None
    ) -> Iterator[Float[Tensor, "b t2 c h w"]]:
        """Yield the clip a few frames at a time.  Raises ValueError for fewer than one."""
        most = latents.shape[1] if frames_at_once is None else frames_at_once
        if most < 1:
            raise ValueError(f"frames_at_once: expected at least 1, got {most}")
        for part in latents.split(most, dim=1):
            frames = part.shape[1]
            images = self.decoder(rearrange(part, "b t d h w -> (b t) d h w"), frames)
            yield rearrange(images, "(b t) c h w -> b t c h w", t=frames)


class TemporalDecoder(nn.Module):
    """VQGAN's decoder, with residual blocks that also convolve over time, and so its output."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        widths = config.widths[::-1]
        self.conv_in = nn.Conv2d(config.latent, widths[0], 3, padding=1)
        self.middle = nn.ModuleList()
        self.middle.append(SpatioTemporalResBlock(config, widths[0], widths[0]))
        self.middle.append(attention(config, widths[0]))
        self.middle.append(SpatioTemporalResBlock(config, widths[0], widths[0]))

        self.levels = nn.ModuleList()  # from coarse to fine
        steps = zip(pairwise([widths[0], *widths]), config.attends[::-1], strict=True)
        for (c_in, c_out), attends in steps:
            level = nn.ModuleList()
            for block in range(config.blocks + 1):
                level.append(SpatioTemporalResBlock(config, c_out if block else c_in, c_out))
                level.append(attention(config, c_out) if attends else nn.Identity())
            last = len(self.levels) == len(widths) - 1
            level.append(nn.Identity() if last else Upsample(c_out))
            self.levels.append(level)

        self.norm_out = GroupNorm(config.groups, widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.channels, 3, padding=1)
        self.time_conv_out = nn.Conv2d(config.channels, config.channels, (3, 1), padding=(1, 0))

    def forward(
        self, latents: Float[Tensor, "b_t d h2 w2"], frames: int
    ) -> Float[Tensor, "b_t c h w"]:
        x = self.conv_in(latents)  # b*t width h/f w/f
        for part in (self.middle, *self.levels):
            for layer in part:
                temporal = isinstance(layer, SpatioTemporalResBlock)
                x = layer(x, frames) if temporal else layer(x)
        x = F.silu(self.norm_out(x))  # b*t width h w
        x = self.conv_out(x)  # b*t c h w
        clip = rearrange(x, "(b t) c h w -> b c t (h w)", t=frames)
        clip = self.time_conv_out(clip)  # b c t h*w
        return rearrange(clip, "b c t (h w) -> (b t) c h w", h=x.shape[2])


class SpatioTemporalResBlock(ResBlock):
    """A residual block in space, blended with one over time: here alpha weighs the temporal one."""

    def __init__(self, config: VQGANConfig, c_in: int, c_out: int):
        super().__init__(
            c_in,
            c_out,
            time_width=None,
            groups=config.groups,
            eps=NORM_EPS,
            dropout=config.dropout,
        )
        self.temporal = TemporalResBlock(
            c_out, time_width=None, groups=config.groups, eps=TEMPORAL_NORM_EPS
        )
        self.mix = nn.Parameter(torch.zeros(1))  # alpha = 0.5

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "b_t c_in h w"], frames: int
    ) -> Float[Tensor, "b_t c h w"]:
        spatial = super().forward(x)  # b*t c h w
        return blend(self.temporal(spatial, frames), spatial, self.mix)  # b*t c h w
