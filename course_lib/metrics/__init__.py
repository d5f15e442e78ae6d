"""Measuring models: likelihood, fidelity, maps, sounds, sets, gradient noise, probes, judges."""

from course_lib.metrics.bits_per_dim import Likelihood, likelihood
from course_lib.metrics.calibration import calibration_error, fit_temperature
from course_lib.metrics.few_shot import few_shot_accuracy, ridge
from course_lib.metrics.fidelity import psnr, ssim
from course_lib.metrics.frechet import frechet_distance
from course_lib.metrics.gradient_noise import (
    GradientNoise,
    gradient_noise,
    objective_noise,
    step_losses,
)
from course_lib.metrics.judge import Judge, JudgeConfig
from course_lib.metrics.label_judge import CLIP_LABELS, IMAGE_LABELS, LabelJudge
from course_lib.metrics.maps import (
    centre_error,
    depth_error,
    edge_f1,
    image_iou,
    mean_iou,
    normal_angle,
    pck,
)
from course_lib.metrics.perceptual import perceptual
from course_lib.metrics.precision_recall import precision_recall
from course_lib.metrics.sound import (
    log_spectral_distance,
    onset_f1,
    onset_matches,
    onset_precision_recall,
    onsets,
)

__all__ = [
    "CLIP_LABELS",
    "IMAGE_LABELS",
    "GradientNoise",
    "Judge",
    "JudgeConfig",
    "LabelJudge",
    "Likelihood",
    "calibration_error",
    "centre_error",
    "depth_error",
    "edge_f1",
    "few_shot_accuracy",
    "fit_temperature",
    "frechet_distance",
    "gradient_noise",
    "image_iou",
    "likelihood",
    "log_spectral_distance",
    "mean_iou",
    "normal_angle",
    "objective_noise",
    "onset_f1",
    "onset_matches",
    "onset_precision_recall",
    "onsets",
    "pck",
    "perceptual",
    "precision_recall",
    "psnr",
    "ridge",
    "ssim",
    "step_losses",
]
