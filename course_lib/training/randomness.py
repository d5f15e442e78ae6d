"""Randomness that depends on (seed, step, place in the whole batch) and on nothing else.

Nothing is carried from step to step, so a run resumes bit-for-bit; and every process draws for the
whole batch and keeps its own part, so that two processes train as one does.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def seed_of(*numbers: int) -> int:
    """Return one well-mixed 64-bit seed from several non-negative numbers."""
    # The length goes first because SeedSequence takes (1, 0) for (1,).
    sequence = np.random.SeedSequence((len(numbers), *numbers))
    return int(sequence.generate_state(1, np.uint64)[0])


class RandomSource:
    """Random tensors for one step, whose first axis is b, this process's part of the batch.

    `RandomSource(seed)` is for a single process; rank r of several gets rows [r b, (r + 1) b) of
    the same numbers.
    """

    def __init__(
        self, seed: int, device: torch.device | str = "cpu", rank: int = 0, processes: int = 1
    ):
        self.device = torch.device(device)
        self.rank = rank
        self.processes = processes
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def randn(self, *shape: int) -> Tensor:
        """Draw standard normal noise."""
        return self._part(torch.randn, shape)

    def randn_like(self, x: Tensor) -> Tensor:
        """Draw standard normal noise of the shape and dtype of x."""
        return self.randn(*x.shape).to(x.dtype)

    def rand(self, *shape: int) -> Tensor:
        """Draw uniform numbers in [0, 1)."""
        return self._part(torch.rand, shape)

    def randint(self, low: int, high: int, *shape: int) -> Tensor:
        """Draw integers low <= i < high, int64."""
        return self._part(lambda size, **where: torch.randint(low, high, size, **where), shape)

    def choice(self, weights: Tensor, b: int) -> Tensor:
        """Draw b indices in proportion to 1-D weights, the same in every process, with repeats."""
        drawn = torch.multinomial(
            weights, b * self.processes, replacement=True, generator=self.generator
        )
        return drawn[self.rank * b : (self.rank + 1) * b]

    def _part(self, function: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        """Draw for the whole batch and return this process's part."""
        b, *rest = shape
        whole = function((b * self.processes, *rest), generator=self.generator, device=self.device)
        return whole[self.rank * b : (self.rank + 1) * b]


def batch_indices(seed: int, step: int, batch_size: int, length: int) -> Tensor:
    """Return which samples a step sees: every epoch is a fresh permutation of all the data."""
    places = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // length
    indices = torch.empty_like(places)
    for epoch in epochs.unique().tolist():
        in_epoch = epochs == epoch
        indices[in_epoch] = _permutation(seed, epoch, length)[places[in_epoch] % length]
    return indices


@lru_cache(maxsize=2)  # a batch may reach from one epoch into the next
def _permutation(seed: int, epoch: int, length: int) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed_of(seed, epoch)))
