"""How noisy a stochastic gradient is."""

from collections.abc import Callable, Iterable
from numbers import Integral
from typing import NamedTuple

import torch

from course_lib.shapes import Batch, Float, Table, Tensor


class GradientNoise(NamedTuple):
    """The two parts of a gradient's noise scale.

    noise: tr(S), S the covariance of one sample's gradient.  signal: |G|^2, G the true gradient.
    """

    noise: float
    signal: float


def gradient_noise(
    loss: Callable[[int], Tensor], parameters: Iterable[Tensor], draws: int, batch: int
) -> GradientNoise:
    """Return both parts of the simple noise scale tr(S) / |G|^2.

    McCandlish et al. 2018, arXiv 1812.06162, Eq. 2.9: the scale is the batch size at which noise
    and signal are equally strong.  loss(i) is the mean loss of the i-th independent batch of
    `batch` samples.  |G|^2 is estimated without bias from the spread between the batches, so it
    can come out below zero where noise hides it.  ValueError for fewer than two draws.
    """
    if not (isinstance(draws, Integral) and draws >= 2):
        raise ValueError(f"draws: expected at least two, to see a spread, got {draws}")
    parameters = list(parameters)
    gradients = []
    for draw in range(draws):
        parts = torch.autograd.grad(loss(draw), parameters)
        gradients.append(torch.cat([part.flatten() for part in parts]).double())
    mean = torch.stack(gradients).mean(0)
    spread = sum((gradient - mean).square().sum() for gradient in gradients) / (draws - 1)
    noise = batch * spread  # the spread is tr(S) / batch
    signal = mean.square().sum() - spread / draws
    return GradientNoise(float(noise), float(signal))


def step_losses(
    objective: Callable, x_start: Batch, steps: int, k: int = 4
) -> Float[Tensor, "steps k"]:
    """Compute k losses of every step, which importance sampling keeps a record of.

    objective(x_start, t, noise) -> one loss per sample.  No gradients are kept.
    """
    t = torch.arange(steps).repeat_interleave(k)
    x = x_start[torch.arange(len(t)) % len(x_start)]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    losses = []
    with torch.no_grad():
        for part in zip(x.split(500), t.split(500), noise.split(500), strict=True):
            losses.append(objective(*part))
    return torch.cat(losses).reshape(steps, k)


def objective_noise(
    objective: Callable,
    parameters: Iterable[Tensor],
    x_start: Batch,
    probabilities: Table,
    draws: int = 24,
    batch: int = 64,
) -> GradientNoise:
    """Return the gradient noise of objective(x_start, t, noise) with t drawn by `probabilities`.

    Each loss is weighted by 1 / (T p), so that the true gradient does not depend on the
    probabilities and noises can be compared directly.
    """

    def loss(draw: int) -> Tensor:
        rng = torch.Generator().manual_seed(draw)
        t = torch.multinomial(probabilities, batch, replacement=True, generator=rng)
        x = x_start[torch.randint(0, len(x_start), (batch,), generator=rng)]
        noise = torch.randn(x.shape, generator=rng)
        weights = 1 / (len(probabilities) * probabilities[t])
        return (weights.to(x) * objective(x, t, noise)).mean()

    return gradient_noise(loss, parameters, draws, batch)
