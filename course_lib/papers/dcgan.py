"""Deep Convolutional Generative Adversarial Networks.  Radford, Metz and Chintala, 2015, arXiv
1511.06434.

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
    """Defaults: LSUN bedrooms at 64 pixels (figure 1).  Widths halve at each doubling of the
    picture.
    """

    image_size: int = 64
    channels: int = 3
    latent: int = 100
    width: int = 1024  # of the 4x4 feature map

    def __post_init__(self):
        doublings = math.log2(self.image_size / 4)
        if doublings < 1 or doublings % 1:
            raise ValueError(f"image_size must be 8, 16, 32, ..., got {self.image_size}")

    @property
    def widths(self) -> list[int]:
        """The feature widths at 4x4, 8x8, ... below the full size."""
        return [self.width >> level for level in range(int(math.log2(self.image_size // 4)))]


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
        self.apply(initialise)

    def forward(self, latent: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        """Pictures in [-1, 1] from latents drawn from a standard normal."""
        return self.generator(latent)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "b c h w"]:
        """n pictures, in one pass each."""
        latent = torch.randn(n, self.config.latent, generator=generator)
        return self.generator(latent.to(next(self.parameters()).device))


class Generator(nn.Module):
    """Latent -> 4x4 features -> fractionally strided convolutions, batch norm and ReLU -> tanh."""

    def __init__(self, config: DCGANConfig):
        super().__init__()
        first = config.widths[0]
        layers = [
            nn.ConvTranspose2d(config.latent, first, 4, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
        ]
        for c_in, c_out in pairwise(config.widths):
            layers += [
                nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
            ]
        last = nn.ConvTranspose2d(config.widths[-1], config.channels, 4, 2, 1)
        self.layers = nn.Sequential(*layers, last, nn.Tanh())

    def forward(self, latent: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        return self.layers(latent[:, :, None, None])


class Discriminator(nn.Module):
    """Strided convolutions, batch norm (not on the input) and leaky ReLU -> one logit."""

    def __init__(self, config: DCGANConfig):
        super().__init__()
        widths = config.widths[::-1]
        layers = [nn.Conv2d(config.channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for c_in, c_out in pairwise(widths):
            layers += [
                nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4))

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        return self.layers(image).flatten()


def initialise(module: nn.Module) -> None:
    """Section 4: all weights from a normal of standard deviation 0.02 (the norms' scales around 1)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
