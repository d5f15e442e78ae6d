"""Averaged weights: what diffusion models and GANs are sampled from."""

import copy

import torch
from torch import nn


class EMA:
    """The exponential moving average of a model's weights; buffers and whole numbers are copied.

    The decay starts small and grows, min(decay, (1 + step) / (10 + step)), so that the average
    reaches back over about a ninth of the training so far and a short run does not drag its random
    weights along.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.source, self.decay = model, decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, counted from 0."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        averages, weights = list(self.model.parameters()), list(self.source.parameters())
        torch._foreach_lerp_(averages, weights, rate)
        for kept, buffer in zip(self.model.buffers(), self.source.buffers(), strict=True):
            kept.copy_(buffer)
