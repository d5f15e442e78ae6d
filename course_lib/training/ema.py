"""Averaged weights: what diffusion models and GANs are sampled from."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """The exponential moving average of a model's weights; its buffers are copied.

    The decay starts small and grows, min(decay, (1 + step) / (10 + step)), so that the average
    reaches back over about a ninth of the steps so far and a short run does not keep its random
    initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.source = model
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after `step`, counted from 0."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = list(self.model.parameters())
        weights: list[Tensor] = list(self.source.parameters())
        torch._foreach_lerp_(averages, weights, rate)
        for copied, buffer in zip(self.model.buffers(), self.source.buffers(), strict=True):
            copied.copy_(buffer)
