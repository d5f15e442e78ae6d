"""How faithful a reconstruction is: PSNR and SSIM of images in [-1, 1], one value per image.

Both equal scikit-image's, in double precision.  The frames of a clip are images: fold time into b
first.
"""

import torch
import torch.nn.functional as F

from course_lib.shapes import Float, PerSample, Tensor

RANGE = 2.0  # from -1 to 1
RADIUS = 5  # of the window, in pixels: 11 x 11
SIGMA = 1.5  # of the window's Gaussian, in pixels

Image = Float[Tensor, "b c h w"]


def psnr(x: Image, y: Float[Tensor, "..."]) -> PerSample:
    """Return the peak signal-to-noise ratio in decibels, 10 log10(range^2 / mean squared error).

    It is infinite for equal images.
    """
    _check(x, y)
    error = (x.double() - y.double()).square().mean((1, 2, 3))
    return 10 * (RANGE**2 / error).log10()


def ssim(x: Image, y: Float[Tensor, "..."]) -> PerSample:
    """Return the structural similarity of Wang, Bovik, Sheikh, Simoncelli 2004, Eq. 13 and 14.

    It is at most 1, for equal images.  Means, variances and the covariance are taken under a
    Gaussian of 1.5 pixels in a window of 11 x 11, for each channel; only windows that are entirely
    inside the image count.  Raises ValueError below 11 x 11 pixels.
    """
    _check(x, y)
    if min(x.shape[-2:]) < 2 * RADIUS + 1:
        raise ValueError(
            f"SSIM: expected at least {2 * RADIUS + 1} x {2 * RADIUS + 1} pixels, got"
            f" {tuple(x.shape)}"
        )
    x = x.double()
    y = y.double()
    mean_x = _local_mean(x)
    mean_y = _local_mean(y)
    variance_x = _local_mean(x * x) - mean_x**2
    variance_y = _local_mean(y * y) - mean_y**2
    covariance = _local_mean(x * y) - mean_x * mean_y

    c1 = (0.01 * RANGE) ** 2
    c2 = (0.03 * RANGE) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean((1, 2, 3))


def _local_mean(x: Tensor) -> Tensor:
    """Average under the window around every pixel that has one: (b c h w) to (b c h-10 w-10)."""
    place = torch.arange(-RADIUS, RADIUS + 1).to(x)
    weights = (-0.5 * (place / SIGMA) ** 2).softmax(0)
    flat = x.flatten(0, 1)[:, None]  # b*c 1 h w
    flat = F.conv2d(flat, weights.view(1, 1, -1, 1))
    flat = F.conv2d(flat, weights.view(1, 1, 1, -1))
    return flat.view(*x.shape[:2], *flat.shape[2:])


def _check(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise ValueError(
            f"expected two sets of images of one shape, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
