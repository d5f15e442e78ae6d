"""Samplers are plain functions: which steps to visit, and one step from x_t to x_s."""

from numbers import Integral

import torch

from course_lib.diffusion.steps import validate_count
from course_lib.shapes import Float, Int, Tensor


def ddim_steps(timesteps: int, count: int, offset: int = 0) -> Int[Tensor, " kept"]:
    """Return `count` of the steps 0..timesteps-1, evenly spaced from 0: floor(i * T / count).

    Where count divides T these are the published ones: 0, 20, ..., 980 are the "ddim50" of 1000 in
    improved-diffusion.  `offset` moves all of them towards the noise, as far as there are steps:
    latent diffusion's count from 1 (offset=1: 1, 21, ..., 981).

    The last one is T minus one stride, rounded: a chain from pure noise starts where almost nothing
    else is left.  Only where all steps are kept it is T - 1, from which the cosine schedule's noise
    predicts x_0 with no digit right.  An ancestral chain forgets that bad start, a deterministic
    one does not.

    Differs from the official codes where count does not divide T: improved-diffusion takes the
    stride ceil(T / count) if that gives as many steps, and refuses other counts; latent diffusion
    takes floor(T / count), which gives more steps than asked for.  Raises ValueError unless
    2 <= count <= timesteps and offset >= 0.
    """
    validate_count(timesteps, count)
    if not (isinstance(offset, Integral) and offset >= 0):
        raise ValueError(f"offset: expected 0 or more, got {offset}")
    kept = torch.arange(count) * timesteps // count
    return kept + min(offset, timesteps - 1 - int(kept[-1]))


def ddim_step(
    x_t: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    alpha_bar: Float[Tensor, "..."],
    alpha_bar_prev: Float[Tensor, "..."],
    eta: float = 0.0,
    noise: Float[Tensor, "b ..."] | None = None,
) -> Float[Tensor, "b ..."]:
    """Take one DDIM step (Song et al. 2021, arXiv 2010.02502, Eq. 12 and 16).

    alpha_bar belongs to x_t and alpha_bar_prev to the less noisy x_s; both broadcast against x_t.
    eta = 0 is deterministic; eta = 1 has the variance of DDPM's posterior and needs `noise`.
    """
    x_start = (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    variance = eta**2 * (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    towards_x_t = (1 - alpha_bar_prev - variance).clamp(min=0).sqrt() * eps
    x_s = alpha_bar_prev.sqrt() * x_start + towards_x_t
    return x_s if noise is None else x_s + variance.sqrt() * noise
