"""The patch discriminator of pix2pix (Isola et al., arXiv 1611.07004, section 3.2.2)."""

from itertools import pairwise

from torch import nn

from course_lib.shapes import Float, Tensor


class PatchGAN(nn.Module):
    """One logit for every patch of an image.

    With the default three halvings, patches are of 70 x 70 pixels, 8 apart.  Convolutions of 4 x 4,
    batch norms (not after the first) and leaky ReLUs; each halving doubles the width, up to
    eightfold.  As in the authors' code, weights start from a normal distribution of standard
    deviation 0.02.
    """

    def __init__(self, channels: int = 3, width: int = 64, halvings: int = 3):
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(halvings + 1)]
        layers = [
            nn.Conv2d(channels, width, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for level, (c_in, c_out) in enumerate(pairwise(widths), start=1):
            stride = 2 if level < halvings else 1  # the last one keeps the size
            layers += [
                nn.Conv2d(c_in, c_out, kernel_size=4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, kernel_size=4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)

        for module in self.layers:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h2 w2"]:
        """Return the logits: high where a patch looks real."""
        return self.layers(image)
