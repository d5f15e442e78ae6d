"""Diffusion maths that several papers share: step tables, samplers, a mixture with known answers."""

from course_lib.diffusion.mixture import GaussianMixture
from course_lib.diffusion.samplers import ddim_step
from course_lib.diffusion.steps import at, check, check_betas

__all__ = ["GaussianMixture", "at", "check", "check_betas", "ddim_step"]
