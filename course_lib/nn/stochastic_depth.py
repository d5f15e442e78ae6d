"""Stochastic depth: layers that are sometimes skipped (Huang et al., arXiv 1603.09382)."""

import torch
from torch import nn

from course_lib.shapes import Batch


class StochasticDepth(nn.Module):
    """A residual branch, dropped for some samples in training and scaled up for the others."""

    def __init__(self, rate: float):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"expected a rate in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, branch: Batch) -> Batch:
        if not self.training or self.rate == 0:
            return branch
        kept = torch.rand(len(branch), *[1] * (branch.ndim - 1), device=branch.device) >= self.rate
        return branch * kept / (1 - self.rate)
