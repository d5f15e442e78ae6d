"""The convolutional parts of a U-Net: residual block, halving, doubling.

DDPM (arXiv 2006.11239, appendix B) put them together, with the attention over a feature map of
`course_lib.nn.attention`; the autoencoders and latent diffusion models that followed kept them.
"""

import torch.nn.functional as F
from torch import nn

from course_lib.nn.norm import GroupNorm
from course_lib.shapes import Float, Tensor


class ResBlock(nn.Module):
    """Two 3x3 convolutions around the identity; a denoiser adds the time vector between them."""

    def __init__(
        self, c_in: int, c_out: int, time_width: int | None, groups: int, eps: float, dropout: float
    ):
        super().__init__()
        self.norm1 = GroupNorm(groups, c_in, eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = None if time_width is None else nn.Linear(time_width, c_out)
        self.norm2 = GroupNorm(groups, c_out, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b c_in h w"], time: Float[Tensor, "b d"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        h = self.conv1(F.silu(self.norm1(x)))  # b c h w
        if self.time is not None:
            if time is None:
                raise ValueError("time: expected a vector per image, got None")
            h = h + self.time(F.silu(time))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.skip(x) + h


class Downsample(nn.Module):
    """Halve both sides by a convolution of stride 2, padded right and bottom as in TensorFlow."""

    padding = (0, 1, 0, 1)  # left, right, top, bottom

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h/2 w/2"]:
        return self.conv(F.pad(x, self.padding))


class Upsample(nn.Module):
    """Double both sides by repeating pixels, then convolve."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
