"""Noise schedules: how much noise each of T steps adds.  A later paper adds its own here.

A schedule is a table of betas, float64, with betas[0] the variance of the first step.
"""

import math
from numbers import Integral

import torch

from course_lib.diffusion.steps import previous
from course_lib.shapes import Table


def linear_betas(timesteps: int) -> Table:
    """DDPM, section 4: beta from 1e-4 to 0.02 for T = 1000.

    The factor 1000 / timesteps, from the code of Improved DDPM, lets any T end in the same noise.
    """
    scale = 1000 / timesteps
    return torch.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=torch.float64)


def scaled_linear_betas(
    timesteps: int = 1000, first: float = 0.00085, last: float = 0.012
) -> Table:
    """Latent diffusion's code: beta from first to last, evenly spaced in its square root.

    The defaults are Stable Diffusion's.  Raises ValueError unless 0 < first <= last < 1 and there
    are two steps or more.
    """
    if not (isinstance(timesteps, Integral) and timesteps >= 2 and 0 < first <= last < 1):
        raise ValueError(
            "expected 2 steps or more and 0 < first <= last < 1, got"
            f" {timesteps} steps from {first} to {last}"
        )
    return torch.linspace(first**0.5, last**0.5, timesteps, dtype=torch.float64).square()


def cosine_alphas_cumprod(timesteps: int, s: float = 0.008) -> Table:
    """Improved DDPM, Eq. 17: alpha_bar_t = f(t) / f(0) for t = 1..T.

    f(t) = cos^2((t/T + s) / (1 + s) * pi/2).
    """
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((t + s) / (1 + s) * math.pi / 2).square()
    return f[1:] / f[0]


def cosine_betas(timesteps: int) -> Table:
    """Return the betas that give Eq. 17, at most 0.999: the last would be 1."""
    alphas_cumprod = cosine_alphas_cumprod(timesteps)
    return (1 - alphas_cumprod / previous(alphas_cumprod)).clamp(max=0.999)


def shift_snr(alphas_cumprod: Table, scale: float) -> Table:
    """Make the signal-to-noise ratio, alpha_bar / (1 - alpha_bar), `scale` times lower everywhere.

    The larger a clip, the more noise it takes to hide it (Hoogeboom et al. 2023, arXiv 2301.11093);
    CogVideoX-2B (arXiv 2408.06072) has a scale of 3.  Raises ValueError for one not above 0.
    """
    if not scale > 0:
        raise ValueError(f"scale: expected a number above 0, got {scale}")
    return alphas_cumprod / (scale + (1 - scale) * alphas_cumprod)


def zero_terminal_snr(alphas_cumprod: Table, snr_shift: float = 1.0) -> Table:
    """Lin et al. 2023, arXiv 2305.08891, Algorithm 1: leave nothing of the signal at the last step.

    sqrt(alpha_bar) is moved and stretched so that the first value stays and the last is 0.
    snr_shift: the signal-to-noise ratio is made so many times lower before (`shift_snr`); done
    after, it would give other values between.  Raises ValueError unless the first value is the
    larger one, and for a shift not above 0.
    """
    root = shift_snr(alphas_cumprod, snr_shift).sqrt()
    first, last = root[0], root[-1]
    if not first > last:
        raise ValueError(
            f"alphas_cumprod: expected falling values, got {float(alphas_cumprod[0]):.4g} first and"
            f" {float(alphas_cumprod[-1]):.4g} last"
        )
    return ((root - last) * first / (first - last)).square()


def validate_betas(betas: Table) -> None:
    """Refuse (ValueError) all but two or more variances strictly between 0 and 1."""
    if betas.ndim != 1 or len(betas) < 2:
        raise ValueError(
            f"betas: expected a vector of at least two steps, got shape {tuple(betas.shape)}"
        )
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(
            "betas: expected values strictly between 0 and 1, got"
            f" {float(betas.min()):.4g}..{float(betas.max()):.4g}"
        )
