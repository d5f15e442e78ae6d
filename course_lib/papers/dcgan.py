"""Deep Convolutional Generative Adversarial Networks (DCGAN).

Radford, Metz and Chintala, 2015, arXiv 1511.06434.

The course's GAN, to compare the diffusion models with.  Reading order: configurations, generator,
discriminator (section 3, figure 1).  The losses are those of the first GAN paper: see
`course_lib.losses.adversarial`.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from course_lib.shapes import Float, Tensor


@dataclass(frozen=True)
class DCGANConfig:
    """Defaults: LSUN bedrooms at 64 pixels (figure 1).  The width halves when the side doubles."""

    image_size: int = 64
    channels: int = 3
    latent: int = 100
    width: int = 1024  # of the 4x4 feature map

    def __post_init__(self):
        doublings = math.log2(self.image_size / 4)
        if doublings < 1 or doublings % 1:
            raise ValueError(f"image_size: expected 8, 16, 32, ..., got {self.image_size}")

    @property
    def widths(self) -> list[int]:
        """The feature widths at 4x4, 8x8, ... below the full size."""
        levels = int(math.log2(self.image_size // 4))
        return [self.width >> level for level in range(levels)]


DCGAN_CONFIGS = {
    "LSUN": DCGANConfig(),
    "tiny": DCGANConfig(image_size=16, latent=64, width=96),
}


class DCGAN(nn.Module):
    """A generator and its discriminator."""

    def __init__(self, config: DCGANConfig):
        super().__init__()
        self.config = config
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)
        self.apply(initialize)

    def forward(self, latent: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Return images in [-1, 1] from latents drawn from a standard normal."""
        return self.generator(latent)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "b c h w"]:
        """Draw n images, in one pass each."""
        latent = torch.randn(n, self.config.latent, generator=generator)
        return self.generator(latent.to(next(self.parameters()).device))


class Generator(nn.Module):
    """Latent -> 4x4 features -> fractionally strided convolutions, batch norm and ReLU -> tanh."""

    def __init__(self, config: DCGANConfig):
        super().__init__()
        first = config.widths[0]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(config.latent, first, kernel_size=4, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        ]
        for c_in, c_out in pairwise(config.widths):
            layers += [
                nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
            ]
        last = nn.ConvTranspose2d(
            config.widths[-1], config.channels, kernel_size=4, stride=2, padding=1
        )
        self.layers = nn.Sequential(*layers, last, nn.Tanh())

    def forward(self, latent: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        return self.layers(latent[:, :, None, None])  # b c h w


class Discriminator(nn.Module):
    """Strided convolutions, batch norm (not on the input) and leaky ReLU -> one logit."""

    def __init__(self, config: DCGANConfig):
        super().__init__()
        widths = config.widths[::-1]
        layers: list[nn.Module] = [
            nn.Conv2d(config.channels, widths[0], kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for c_in, c_out in pairwise(widths):
            layers += [
                nn.Conv2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.LeakyReLU(0.2),
            ]
        last = nn.Conv2d(widths[-1], 1, kernel_size=4)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        return self.layers(image).flatten()  # b


def initialize(module: nn.Module) -> None:
    """Section 4: draw weights with a standard deviation of 0.02, the norms' scales around 1."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
