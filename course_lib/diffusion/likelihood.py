"""Units and divergences of likelihoods."""

import math

import torch

from course_lib.shapes import Batch, PerSample, Tensor


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """Return KL(N1 || N2) between one-dimensional normals, element by element, in nats."""
    spread = log_variance2 - log_variance1 + torch.exp(log_variance1 - log_variance2)
    return 0.5 * (spread - 1 + (mean1 - mean2).square() * torch.exp(-log_variance2))


def bits_per_dim(nats: Batch) -> PerSample:
    """Turn nats per value into bits per dimension: the mean over a sample's values, over log 2."""
    return nats.flatten(1).mean(1) / math.log(2)
