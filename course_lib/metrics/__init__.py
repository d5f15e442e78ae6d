"""Measuring what models make: likelihood, distances between sets of samples, gradient noise, the judge."""

from course_lib.metrics.bits_per_dim import Likelihood, likelihood
from course_lib.metrics.distance import frechet_distance, precision_recall
from course_lib.metrics.gradient_noise import GradientNoise, gradient_noise, objective_noise, step_losses
from course_lib.metrics.judge import Judge, JudgeConfig

__all__ = [
    "GradientNoise",
    "Judge",
    "JudgeConfig",
    "Likelihood",
    "frechet_distance",
    "gradient_noise",
    "likelihood",
    "objective_noise",
    "precision_recall",
    "step_losses",
]
