"""Measuring what models make: likelihood, distances between sets of samples, gradient noise, the judge."""

from course_lib.metrics.bits_per_dim import Likelihood, likelihood
from course_lib.metrics.distance import frechet_distance, precision_recall
from course_lib.metrics.gradient_noise import gradient_noise_scale, objective_noise_scale, step_losses
from course_lib.metrics.judge import Judge, JudgeConfig

__all__ = [
    "Judge",
    "JudgeConfig",
    "Likelihood",
    "frechet_distance",
    "gradient_noise_scale",
    "likelihood",
    "objective_noise_scale",
    "precision_recall",
    "step_losses",
]
