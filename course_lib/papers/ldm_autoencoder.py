"""The first stage of latent diffusion: an autoencoder with a KL penalty.

High-Resolution Image Synthesis with Latent Diffusion Models.  Rombach et al., 2021, arXiv
2112.10752, section 3.1 and appendix G.  The second stage is `course_lib.papers.ldm`.

Reading order: the configurations; the autoencoder, whose encoder and decoder are VQGAN's without
the codebook; the Gaussian that an image is encoded to; the factor that gives latents unit deviation
(appendix G); the loss (Eq. 25).

Differs from the paper, following the official code:
- The reconstruction loss is the absolute difference plus LPIPS, each summed over all values of an
  image: a distance counts once for every one of them.  The KL term is summed likewise.
- The loss is divided by exp(s) with s the log variance of the pixels; s = 0 is never trained.
- The log variance of the latents is clamped to [-30, 20].
- The discriminator's weight is VQGAN's lambda times 0.5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from course_lib.losses.adversarial import (
    adaptive_weight,
    hinge_generator_loss,
)
from course_lib.papers.vqgan import Decoder, Encoder, VQGANConfig, VQGANLoss
from course_lib.shapes import Batch, Float, PerSample, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class AutoencoderConfig:
    """The first stage with a KL penalty.  Defaults: KL-f8 with 4 channels, Stable Diffusion's."""

    # The side of a training image in pixels.  It fixes which levels attend; other sizes work too.
    image_size: int = 256
    channels: int = 3
    width: int = 128
    # How many times the width each resolution has; the encoder halves between two of them.
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2  # residual blocks per resolution
    attention: tuple[int, ...] = ()  # sides of the feature maps that attend, besides the coarsest
    latent: int = 4  # channels of a latent
    groups: int = 32
    dropout: float = 0.0

    def __post_init__(self):
        self.network(self.latent)  # refuses what VQGAN's networks refuse

    @property
    def downsampling(self) -> int:
        """f: pixels per latent along a side."""
        return 2 ** (len(self.multipliers) - 1)

    def network(self, latent: int) -> VQGANConfig:
        """Return the shape of VQGAN's encoder or decoder next to this many channels."""
        return VQGANConfig(
            image_size=self.image_size,
            channels=self.channels,
            width=self.width,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention=self.attention,
            latent=latent,
            groups=self.groups,
            dropout=self.dropout,
        )


AUTOENCODER_CONFIGS = {
    "kl-f4": AutoencoderConfig(multipliers=(1, 2, 4), latent=3),
    "kl-f8": AutoencoderConfig(),
    "kl-f16": AutoencoderConfig(multipliers=(1, 1, 2, 2, 4), attention=(16,), latent=16),
    "kl-tiny": AutoencoderConfig(
        image_size=64, width=16, multipliers=(1, 2, 4, 4), blocks=1, groups=8
    ),
}


# ---------------------------------------------------------------- 3.1 the autoencoder


class AutoencoderKL(nn.Module):
    """Images (b c h w) in [-1, 1] to a Gaussian over latents (b d h/f w/f), and latents back."""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.network(2 * config.latent))
        self.to_moments = nn.Conv2d(2 * config.latent, 2 * config.latent, 1)
        self.from_latents = nn.Conv2d(config.latent, config.latent, 1)
        self.decoder = Decoder(config.network(config.latent))

    def forward(
        self, image: Float[Tensor, "b c h w"], noise: Float[Tensor, "b d h2 w2"]
    ) -> tuple[Float[Tensor, "b c h w"], "Posterior"]:
        """Return the reconstruction from latents drawn with this noise, and their Gaussian."""
        posterior = self.encode(image)
        return self.decode(posterior.sample(noise)), posterior

    def encode(self, image: Float[Tensor, "b c h w"]) -> "Posterior":
        """Return q(z | x).  Raises ValueError for sides that f does not divide."""
        f = self.config.downsampling
        if image.shape[2] % f or image.shape[3] % f:
            raise ValueError(f"expected sides divisible by {f}, got {tuple(image.shape[2:])}")
        moments = self.to_moments(self.encoder(image))  # b 2*d h/f w/f
        mean, log_variance = moments.chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-30, 20))

    def decode(self, latents: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b c h w"]:
        """Return D(z), the image of latents as the encoder makes them (not scaled)."""
        return self.decoder(self.from_latents(latents))


class Posterior(NamedTuple):
    """A Gaussian with independent values: what an image, or a clip, is encoded to."""

    mean: Float[Tensor, "b d *places"]  # also its mode
    log_variance: Float[Tensor, "b d *places"]

    def sample(self, noise: Float[Tensor, "b d *places"]) -> Float[Tensor, "b d *places"]:
        """Return the latents that standard normal noise becomes."""
        return self.mean + (0.5 * self.log_variance).exp() * noise


def kl_term(mean: Batch, log_variance: Batch) -> PerSample:
    """Return KL(N(mean, variance) || N(0, 1)) of every sample, in nats: the sum over its values."""
    nats = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return nats.flatten(1).sum(1)


def scale_factor(latents: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """Appendix G: return 1 / sigma, by which latents are multiplied before they are diffused.

    sigma is the standard deviation of all their values together, around their one mean.
    """
    return 1 / latents.std(correction=0)


# ---------------------------------------------------------------- the loss


@dataclass(frozen=True)
class FirstStageLoss:
    """Eq. 25 with its weights.  `perceptual(x, y)` gives one distance per image (b,)."""

    perceptual: Callable[[Tensor, Tensor], PerSample] | None
    perceptual_weight: float = 1.0
    kl_weight: float = 1e-6
    discriminator_weight: float = 0.5

    def generator_loss(
        self,
        image: Float[Tensor, "b c h w"],
        reconstruction: Float[Tensor, "b c h w"],
        posterior: Posterior,
        discriminator: nn.Module | None,
        last_layer: Float[Tensor, "..."],
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return what encoder and decoder minimize, and its parts by name: sums over an image.

        Without a discriminator there is no adversarial part yet.  `last_layer` is the weight of the
        decoder's last convolution, on which lambda compares the two gradients.
        """
        values = image[0].numel()
        parts = {"absolute": values * (image - reconstruction).abs().mean()}
        rebuilding = parts["absolute"]
        if self.perceptual is not None:
            distance = self.perceptual(image, reconstruction).mean()
            parts["perceptual"] = self.perceptual_weight * values * distance
            rebuilding = rebuilding + parts["perceptual"]

        parts["kl"] = self.kl_weight * kl_term(*posterior).mean()
        total = rebuilding + parts["kl"]

        if discriminator is not None:
            fooling = hinge_generator_loss(discriminator(reconstruction))
            weight = self.discriminator_weight * adaptive_weight(rebuilding, fooling, last_layer)
            parts["adversarial"] = weight * fooling
            total = total + parts["adversarial"]

        return total, parts

    discriminator_loss = staticmethod(VQGANLoss.discriminator_loss)
