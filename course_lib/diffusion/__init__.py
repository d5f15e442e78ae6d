"""Diffusion maths that several papers share: schedules, samplers, a mixture with known answers."""

from course_lib.diffusion.guidance import Guided, drop_context, guide
from course_lib.diffusion.likelihood import bits_per_dim, normal_kl
from course_lib.diffusion.mixture import GaussianMixture
from course_lib.diffusion.samplers import (
    ddim_step,
    ddim_step_towards,
    ddim_steps,
    dpm_solver_step,
    trailing_steps,
)
from course_lib.diffusion.schedules import (
    cosine_alphas_cumprod,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    shift_snr,
    validate_betas,
    zero_terminal_snr,
)
from course_lib.diffusion.steps import choose, gather_at, previous, validate_count, validate_steps

__all__ = [
    "GaussianMixture",
    "Guided",
    "bits_per_dim",
    "choose",
    "cosine_alphas_cumprod",
    "cosine_betas",
    "ddim_step",
    "ddim_step_towards",
    "ddim_steps",
    "dpm_solver_step",
    "drop_context",
    "gather_at",
    "guide",
    "linear_betas",
    "normal_kl",
    "previous",
    "scaled_linear_betas",
    "shift_snr",
    "trailing_steps",
    "validate_betas",
    "validate_count",
    "validate_steps",
    "zero_terminal_snr",
]
