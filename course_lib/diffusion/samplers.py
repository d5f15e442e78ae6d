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


def trailing_steps(timesteps: int, count: int) -> Int[Tensor, " kept"]:
    """Return `count` of the steps 0..timesteps-1, evenly spaced down from the last of them.

    50 of 1000 are 19, 39, ..., 999: a chain from pure noise starts where there is nothing else,
    which it should if the schedule ends so (Lin et al. 2023, arXiv 2305.08891, section 3.3).
    Raises ValueError unless 2 <= count <= timesteps.
    """
    validate_count(timesteps, count)
    down = torch.arange(count, 0, -1, dtype=torch.float64) * timesteps / count
    return down.round().long().flip(0) - 1


def ddim_step_towards(
    x_t: Float[Tensor, "b ..."],
    x_start: Float[Tensor, "b ..."],
    alpha_bar: Float[Tensor, "..."],
    alpha_bar_prev: Float[Tensor, "..."],
) -> Float[Tensor, "b ..."]:
    """Take the deterministic step of `ddim_step` from an estimate of x_start.

    It needs no noise to be told, and so works where x_t is nothing but noise: alpha_bar = 0.
    """
    shrink = ((1 - alpha_bar_prev) / (1 - alpha_bar)).sqrt()
    return shrink * x_t + (alpha_bar_prev.sqrt() - alpha_bar.sqrt() * shrink) * x_start


def dpm_solver_step(
    x_t: Float[Tensor, "b ..."],
    x_start: Float[Tensor, "b ..."],
    alpha_bar: Float[Tensor, "..."],
    alpha_bar_prev: Float[Tensor, "..."],
    noise: Float[Tensor, "b ..."],
    before: tuple[Float[Tensor, "b ..."], Float[Tensor, "..."]] | None = None,
) -> Float[Tensor, "b ..."]:
    """Take a step of SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 4).

    before: the estimate of x_start of the step before, and its alpha_bar; the two are extended in a
    straight line in lambda = log(alpha_bar / (1 - alpha_bar)) / 2.  Without it, and in the last
    step to alpha_bar_prev = 1, the step is of first order.  From alpha_bar = 0 nothing of x_t is
    kept.
    """
    left = alpha_bar * (1 - alpha_bar_prev) / ((1 - alpha_bar) * alpha_bar_prev)  # e^(-2h)
    if before is not None and bool((alpha_bar_prev < 1).all()):
        x_start_before, alpha_bar_before = before
        h = torch.logit(alpha_bar_prev) - torch.logit(alpha_bar)  # both twice
        h_before = torch.logit(alpha_bar) - torch.logit(
            alpha_bar_before
        )  # infinite after pure noise
        x_start = x_start + h / (2 * h_before) * (x_start - x_start_before)
    keep = (1 - alpha_bar_prev) / (1 - alpha_bar) * (alpha_bar / alpha_bar_prev).sqrt()
    fresh = ((1 - alpha_bar_prev) * (1 - left)).sqrt()
    return keep * x_t + (1 - left) * alpha_bar_prev.sqrt() * x_start + fresh * noise
