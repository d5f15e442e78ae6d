"""Diffusion by noise levels: Karras et al. 2022 (EDM), arXiv 2206.00364, with data of variance 1.

The data keep their scale and the noise grows: x = x_start + sigma * eps, with sigma from almost 0
to far above 1.  A network F is wrapped so that what it sees and what it has to say are of unit size
at every sigma (`precondition`); the wrapped D estimates x_start (`denoise`).  Stable Video
Diffusion (arXiv 2311.15127, appendix D) trains and samples like this.

Differs from EDM: c_out is negative, as in Stable Video Diffusion, so that F is the v of latent
diffusion (with EDM's own sign it would be -v).

Every sigma is positive, and every other one raises ValueError.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch

from course_lib.shapes import Batch, Float, PerSample, Table, Tensor


class Preconditioning(NamedTuple):
    """The four numbers around a network at each noise level, each of the shape of sigma."""

    c_skip: Float[Tensor, "..."]
    c_out: Float[Tensor, "..."]
    c_in: Float[Tensor, "..."]
    c_noise: Float[Tensor, "..."]


def precondition(sigma: Float[Tensor, "..."]) -> Preconditioning:
    """EDM, Table 1 and Eq. 7: return the factors of D(x) = c_skip x + c_out F(c_in x, c_noise).

    c_in brings x = x_start + sigma eps to variance 1; c_noise = ln(sigma) / 4 is the time that the
    network is told.
    """
    _require_positive(sigma)
    c_skip = 1 / (sigma.square() + 1)
    c_out = -sigma * (sigma.square() + 1).rsqrt()
    c_in = (sigma.square() + 1).rsqrt()
    c_noise = sigma.log() / 4
    return Preconditioning(c_skip, c_out, c_in, c_noise)


def denoise(network: Callable[[Batch, PerSample], Batch], x: Batch, sigma: PerSample) -> Batch:
    """Return D(x; sigma), the estimate of x_start; `network` is F(c_in x, c_noise)."""
    c_skip, c_out, c_in, c_noise = (_like(c, x) for c in precondition(sigma))
    return c_skip * x + c_out * network(c_in * x, c_noise.flatten())


def loss_weight(sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return lambda = (1 + sigma^2) / sigma^2 = 1 / c_out^2, which makes all levels count alike."""
    _require_positive(sigma)
    return (1 + sigma.square()) / sigma.square()


def denoising_loss(
    network: Callable[[Batch, PerSample], Batch], x_start: Batch, sigma: PerSample, noise: Batch
) -> PerSample:
    """Return lambda |D(x_start + sigma eps) - x_start|^2, averaged over a sample's values."""
    if noise.shape != x_start.shape:
        raise ValueError(
            f"noise: expected the shape of x_start, {tuple(x_start.shape)}, got"
            f" {tuple(noise.shape)}"
        )
    denoised = denoise(network, x_start + _like(sigma, x_start) * noise, sigma)
    squared = (denoised - x_start).square().flatten(1).mean(1)  # b
    return loss_weight(sigma).to(squared) * squared


def noise_levels(normal: PerSample, p_mean: float, p_std: float) -> PerSample:
    """Draw training's sigmas: ln(sigma) is normal with mean p_mean and deviation p_std.

    `normal` holds one standard normal number per sample.
    """
    if not p_std >= 0:
        raise ValueError(f"p_std: expected at least 0, got {p_std}")
    return (p_mean + p_std * normal).exp()


def karras_sigmas(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 700.0, rho: float = 7.0
) -> Table:
    """EDM, Eq. 5: return `steps` noise levels from sigma_max down to sigma_min, and 0 after them.

    Their rho-th roots are evenly spaced.  The defaults are those of Stable Video Diffusion.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    if not 0 < sigma_min <= sigma_max:
        raise ValueError(f"sigmas: expected 0 < min <= max, got {sigma_min} and {sigma_max}")
    if not rho > 0:
        raise ValueError(f"rho: expected a positive number, got {rho}")
    roots = torch.linspace(
        sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps, dtype=torch.float64
    )
    return torch.cat([roots**rho, torch.zeros(1, dtype=torch.float64)])


def euler_step(
    x: Batch, denoised: Batch, sigma: Float[Tensor, "..."], sigma_next: Float[Tensor, "..."]
) -> Batch:
    """EDM, Algorithm 1: follow dx/dsigma = (x - D(x)) / sigma from sigma to sigma_next.

    Both sigmas broadcast against x; with sigma_next = 0 the step ends in `denoised`.
    """
    _require_positive(sigma)
    slope = (x - denoised) / sigma
    return x + (sigma_next - sigma) * slope


def euler_steps(
    denoiser: Callable[[Batch, PerSample], Batch], noise: Batch, sigmas: Table
) -> Iterator[tuple[Batch, Batch]]:
    """Sample with Euler's method: after every step yield x, and the estimate of x_start behind it.

    `denoiser(x, sigma)` is D, guided or not.  Sampling starts from noise of deviation
    sqrt(1 + sigmas[0]^2), the size of noisy data, and the last x is the sample.
    """
    x = noise * (1 + sigmas[0].square()).sqrt()
    for sigma, sigma_next in pairwise(sigmas):
        with torch.no_grad():
            denoised = denoiser(x, sigma.expand(len(x)).to(x))
            x = euler_step(x, denoised, sigma, sigma_next)
        yield x, denoised


def euler_sample(
    denoiser: Callable[[Batch, PerSample], Batch], noise: Batch, sigmas: Table
) -> Batch:
    """Return the sample in which `euler_steps` ends."""
    x = noise
    for x_next, _ in euler_steps(denoiser, noise, sigmas):
        x = x_next
    return x


def _require_positive(sigma: Tensor) -> None:
    """Refuse noise levels that are not above zero (ValueError)."""
    if sigma.numel() and not bool((sigma > 0).all()):
        raise ValueError(f"sigma: expected positive noise levels, got {float(sigma.min()):.4g}")


def _like(per_sample: Tensor, x: Tensor) -> Tensor:
    """Return one number per sample in x's dtype, shaped (b, 1, ..., 1) like x."""
    return per_sample.to(x).reshape(-1, *[1] * (x.ndim - 1))
