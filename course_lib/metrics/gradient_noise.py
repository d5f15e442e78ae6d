"""How noisy a stochastic gradient is."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from course_lib.shapes import Batch, Float, Table, Tensor


class GradientNoise(NamedTuple):
    """noise: tr(S), S the covariance of one sample's gradient.  signal: |G|^2, G the true gradient."""

    noise: float
    signal: float


def gradient_noise(
    loss: Callable[[int], Tensor], parameters: Iterable[Tensor], draws: int, batch: int
) -> GradientNoise:
    """Both parts of the simple noise scale tr(S) / |G|^2 (McCandlish et al. 2018, arXiv 1812.06162,
    Eq. 2.9).

    The scale is the batch size at which noise and signal are equally strong.  loss(i) is the mean
    loss of the i-th independent batch of `batch` samples.  |G|^2 is estimated without bias from the
    spread between the batches, so that it may come out below zero where noise hides it.  ValueError
    for fewer than two draws.
    """
    if draws < 2:
        raise ValueError(f"at least two draws are needed to see a spread, got {draws}")
    parameters = list(parameters)
    gradients = []
    for draw in range(draws):
        parts = torch.autograd.grad(loss(draw), parameters)
        gradients.append(torch.cat([part.flatten() for part in parts]).double())
    mean = torch.stack(gradients).mean(0)
    # tr(S) / batch
    spread = sum((gradient - mean).square().sum() for gradient in gradients) / (draws - 1)
    return GradientNoise(float(batch * spread), float(mean.square().sum() - spread / draws))


def step_losses(
    objective: Callable, x_start: Batch, steps: int, k: int = 4
) -> Float[Tensor, "steps k"]:
    """k losses of every step, without gradients: what importance sampling keeps a record of.

    objective(x_start, t, noise) -> one loss per sample.
    """
    t = torch.arange(steps).repeat_interleave(k)
    x = x_start[torch.arange(len(t)) % len(x_start)]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = [
            objective(*part)
            for part in zip(x.split(500), t.split(500), noise.split(500), strict=True)
        ]
    return torch.cat(parts).reshape(steps, k)


def objective_noise(
    objective: Callable,
    parameters: Iterable[Tensor],
    x_start: Batch,
    probabilities: Table,
    draws: int = 24,
    batch: int = 64,
) -> GradientNoise:
    """The noise of objective(x_start, t, noise), its t drawn by `probabilities` and weighed by 1 /
    (T p).

    The true gradient does not depend on the probabilities, so that noises may be compared directly.
    """

    def loss(draw: int) -> Tensor:
        rng = torch.Generator().manual_seed(draw)
        t = torch.multinomial(probabilities, batch, replacement=True, generator=rng)
        x = x_start[torch.randint(0, len(x_start), (batch,), generator=rng)]
        weights = 1 / (len(probabilities) * probabilities[t])
        return (weights.to(x) * objective(x, t, torch.randn(x.shape, generator=rng))).mean()

    return gradient_noise(loss, parameters, draws, batch)
