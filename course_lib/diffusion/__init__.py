"""Diffusion maths that several papers share: step tables, samplers, a mixture with known answers."""

from course_lib.diffusion.likelihood import bits, normal_kl
from course_lib.diffusion.mixture import GaussianMixture
from course_lib.diffusion.samplers import ddim_step
from course_lib.diffusion.steps import at, check, check_betas, pick, shifted

__all__ = [
    "GaussianMixture",
    "at",
    "bits",
    "check",
    "check_betas",
    "ddim_step",
    "normal_kl",
    "pick",
    "shifted",
]
