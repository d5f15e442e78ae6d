"""What is trained: a recipe (the numbers) builds a trainable (the model and its loss).

A family of recipes is two small classes:

    class Denoiser(Trainable):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def loss(self, player, batch, rng):
            noise = rng.randn_like(batch["image"])
            return (self.model(batch["image"] + noise) - noise).square().mean()

    @dataclass(frozen=True)
    class DenoiserRecipe(Recipe):
        width: int = 32

        def build(self):
            return Denoiser(UNet(self.width))

        def data(self):
            return Tensors(image=...)

        def measure(self, model):
            return {"error": ...}

Every field of the recipe is recorded with the checkpoint; an interrupted run resumes only under
exactly the same fields.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from course_lib.training.randomness import RandomSource

Model = Any  # an nn.Module with methods of its own: what `build().model` is


@runtime_checkable
class Data(Protocol):
    """What a recipe trains on."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the samples of these indices as tensors whose first axis is b."""
        ...


class Tensors:
    """Named tensors of equal length in memory, such as `Tensors(image=x, label=y)`."""

    def __init__(self, **tensors: Tensor):
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"expected one or more tensors of one common length, got {lengths}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: tensor[indices] for name, tensor in self.tensors.items()}


class Trainable(nn.Module):
    """A model with its loss, and whatever else changes in training.

    `self.model` is what the checkpoint keeps.  The rest, such as a discriminator or running
    statistics, is saved only to resume training.
    """

    model: nn.Module

    def players(self) -> dict[str, Iterable[nn.Parameter]]:
        """Return the parameters of every player by name.

        Each player has its own optimizer and its own loss, and they take their steps in turn.
        """
        return {"model": [p for p in self.parameters() if p.requires_grad]}

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        """Return the player's loss on this process's part of the batch: a mean over b, a scalar.

        Take all randomness from `rng`: then the result does not depend on how many processes share
        the batch.  `all_gather(per_sample_losses)` gives those of the whole batch, in order.
        """
        raise NotImplementedError

    def forward(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        """Return the loss; DistributedDataParallel calls `forward`."""
        return self.loss(player, batch, rng)


LRSchedule = Literal["constant", "linear", "plateau"]
NAME = r"[A-Za-z0-9][\w.-]*"
LR_SCHEDULES = get_args(LRSchedule)
Precision = Literal["float32", "bfloat16"]
PRECISIONS = get_args(Precision)
CheckpointDType = Literal["float32", "float16"]
CHECKPOINT_DTYPES = get_args(CheckpointDType)


@dataclass(frozen=True)
class Recipe:
    """All the numbers of one run.  Subclasses add fields and define build, data and measure."""

    name: str
    steps: int
    batch_size: int = 64  # of all processes together
    seed: int = 0
    learning_rate: float = 2e-4
    warmup: int = 0  # steps of linear warm-up
    lr_schedule: LRSchedule = "constant"  # of the learning rate after the warm-up
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0  # AdamW's; with 0 it is Adam
    clip: float | None = 1.0  # largest gradient norm of a player
    ema: float = 0.999  # decay of the averaged weights; 0 keeps the plain ones
    # "bfloat16" is autocast, on processors that compute in it; others train in float32.
    precision: Precision = "float32"
    checkpoint_dtype: CheckpointDType = "float32"

    def __post_init__(self) -> None:
        """Raise ValueError for the first field that is out of range."""
        has_name = isinstance(self.name, str) and re.fullmatch(NAME, self.name, re.ASCII)
        self._expect(has_name, "name", "letters, digits and . _ -")
        for field, least in {"steps": 1, "batch_size": 1, "seed": 0, "warmup": 0}.items():
            number = getattr(self, field)
            is_whole = isinstance(number, Integral) and number >= least
            self._expect(is_whole, field, f"at least {least}")
        is_rate = 0 < self.learning_rate < math.inf
        self._expect(is_rate, "learning_rate", "a positive number")
        self._expect(self.lr_schedule in LR_SCHEDULES, "lr_schedule", _one_of(LR_SCHEDULES))
        self._expect(self.clip is None or self.clip > 0, "clip", "a positive number or None")
        self._expect(0 <= self.ema < 1, "ema", "a number in [0, 1)")
        self._expect(self.precision in PRECISIONS, "precision", _one_of(PRECISIONS))
        self._expect(
            self.checkpoint_dtype in CHECKPOINT_DTYPES,
            "checkpoint_dtype",
            _one_of(CHECKPOINT_DTYPES),
        )

    def _expect(self, accepted: object, field: str, expected: str) -> None:
        if not accepted:
            got = getattr(self, field)
            raise ValueError(f"recipe {self.name!r}: {field}: expected {expected}, got {got!r}")

    def build(self) -> Trainable:
        """Return a fresh trainable.  torch's global generator has just been seeded with `seed`."""
        raise NotImplementedError

    def untrained(self) -> Model:
        """Return a model that takes the checkpoint's weights.

        It is what `build` makes, unless that would read weights which the checkpoint replaces.
        """
        return self.build().model

    def data(self) -> Data:
        """Return what to train on; `Tensors` will do for anything that fits in memory."""
        raise NotImplementedError

    def complete(self, model: Model) -> None:
        """Finish the trained model, for example calibrate it, before it is measured and stored."""

    def measure(self, model: Model) -> dict:
        """Measure the finished model (in eval mode, on its device, without gradients).

        Numbers become the metrics of the checkpoint; lists, such as arrays for a figure, go only
        to the results file.
        """
        return {}

    def optimizer(self, player: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the player's optimizer, whose state consists of tensors."""
        return torch.optim.AdamW(
            parameters,
            lr=self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            fused=True,
        )

    def lr_scale(self, step: int) -> float:
        """Return the factor of the learning rate at this step, counted from 0.

        A linear warm-up comes first.  After it the factor stays 1 ("constant"), falls in a straight
        line to zero ("linear"), or stays 1 and falls to zero over the last third of all steps
        ("plateau").
        """
        scale = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        steps_left = self.steps - step
        if self.lr_schedule == "linear":
            return min(scale, steps_left / max(self.steps - self.warmup, 1))
        if self.lr_schedule == "plateau":
            return min(scale, 3 * steps_left / self.steps)
        return scale

    def fields(self) -> dict:
        """Return the fields as JSON has them (tuples are lists), with the name of the class."""
        return json.loads(json.dumps({"class": type(self).__name__, **asdict(self)}))


def _one_of(choices: tuple[str, ...]) -> str:
    return " or ".join(repr(choice) for choice in choices)
