"""How noisy a stochastic gradient is."""

from collections.abc import Callable, Iterable

import torch

from course_lib.shapes import Tensor


def gradient_noise_scale(loss: Callable[[int], Tensor], parameters: Iterable[Tensor], draws: int, batch: int) -> float:
    """The simple noise scale tr(S) / |G|^2 (McCandlish et al. 2018, arXiv 1812.06162, Eq. 2.9).

    S is the covariance of one sample's gradient and G the true gradient: the batch size at which noise and
    signal are equally strong.  loss(i) is the mean loss of the i-th independent batch of `batch` samples.
    |G|^2 is estimated without bias from the spread between the batches, so `draws` must be at least 2.
    """
    if draws < 2:
        raise ValueError(f"at least two draws are needed to see a spread, got {draws}")
    parameters = list(parameters)
    gradients = []
    for draw in range(draws):
        parts = torch.autograd.grad(loss(draw), parameters)
        gradients.append(torch.cat([part.flatten() for part in parts]).double())
    mean = torch.stack(gradients).mean(0)
    spread = sum((gradient - mean).square().sum() for gradient in gradients) / (draws - 1)  # tr(S) / batch
    signal = mean.square().sum() - spread / draws
    return float(batch * spread / signal.clamp(min=1e-30))
