"""What the pipelines share: where and in which precision they run, and how a part is loaded."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib.busy import busy
from course_lib.pipelines import memory
from course_lib.pipelines.folder import Folder
from course_lib.shapes import Float, Tensor
from course_lib.training.distributed import choose_device

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Machine:
    """A device, and the precision of the networks on it."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, device: str | None, dtype: str | None) -> "Machine":
        """Choose what is not given: the best device there is, half precision except on a CPU.

        Raises ValueError for a device that is not here and for an unknown precision.
        """
        chosen = choose_device(device)
        if dtype is None:
            dtype = "float32" if chosen.type == "cpu" else "float16"
        if dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
        return cls(chosen, DTYPES[dtype])

    @property
    def half(self) -> bool:
        """Whether numbers have two bytes."""
        return self.bytes_each == 2

    @property
    def bytes_each(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize

    def load(self, folder: Folder, part: str, model: str, config: Any) -> Any:
        """Load a part of ours with a folder's weights, ready to run in this precision."""
        with busy(f"Reading {part}/"), self.device, _built_in(self.dtype):
            loaded = folder.load(part, model, config, self.half)
            return loaded.to(self.dtype).eval().requires_grad_(False)


@contextmanager
def _built_in(dtype: torch.dtype) -> Iterator[None]:
    """Let new layers have this precision from the beginning: half of it takes half the memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Published:
    """A published folder, opened, and the machine that will run it; nothing is loaded yet."""

    def __init__(self, weights: Path, pipeline: str, device: str | None, dtype: str | None):
        """Open the folder of a pipeline of diffusers.  Raises ValueError."""
        self.folder = Folder(weights, pipeline)
        self.machine = Machine.of(device, dtype)

    def config(self, part: str, kind: str, read: Callable, name: str = "config.json") -> Any:
        """Read the config of a part, in the words of ours.  Raises ValueError naming the file."""
        given = self.folder.config(part, kind, name)
        try:
            return read(given)
        except (ValueError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
            raise ValueError(f"{self.folder.path / part / name}: {error}") from error

    def autoencoder_machine(self, upcast: bool) -> Machine:
        """Return where the autoencoder runs: in full precision, if half will not do."""
        return Machine(self.machine.device, torch.float32) if upcast else self.machine

    def count(self, *parts: str) -> None:
        """Count the weights of parts, whose files are found to be there.  Raises ValueError."""
        self.counts = {part: self.folder.parameters(part, self.machine.half) for part in parts}

    def require_memory_to_load(self) -> None:
        """Raise RuntimeError where one of the parts is too large."""
        machine = self.machine
        stages = {
            f"loading {part}": memory.loading_bytes(count, machine.device, machine.bytes_each)
            for part, count in self.counts.items()
        }
        memory.require_memory(machine.device, stages, "close what else takes it")


def compute_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Let a network compute in its own precision between a sampler's numbers of full precision."""
    network.register_forward_pre_hook(lambda _, args: (args[0].to(dtype), *args[1:]))
    network.register_forward_hook(lambda _, args, output: output.float())


def require_finite(latents: Float[Tensor, "..."], dtype: torch.dtype) -> Float[Tensor, "..."]:
    """Return sampled latents.  Raises RuntimeError where the network's numbers have run over."""
    if not torch.isfinite(latents).all():
        name = str(dtype).removeprefix("torch.")
        raise RuntimeError(f"the network's numbers ran over in {name}: another --dtype may do")
    return latents


def require_fit(part: str, gives: int, expected: int | None, taker: str = "U-Net") -> None:
    """Raise ValueError unless a part gives as many numbers as another takes."""
    if gives != expected:
        raise ValueError(f"{part}: expected {expected} numbers for the {taker}, got {gives}")


def require_size(size: tuple[int, int], multiple: int) -> None:
    """Raise ValueError unless both sides are multiples of what the networks halve."""
    if min(size) < multiple or size[0] % multiple or size[1] % multiple:
        raise ValueError(
            f"size: expected multiples of {multiple}, got {size[0]}x{size[1]}; the nearest are"
            f" {'x'.join(str(max(multiple, round(side / multiple) * multiple)) for side in size)}"
        )


def require_range(low: int, high: int | float, **numbers: int | float) -> None:
    """Raise ValueError for a number that is not from `low` to `high`, or is none."""
    for name, number in numbers.items():
        if not low <= number <= high:
            most = "" if high == math.inf else f" and at most {high}"
            raise ValueError(f"{name}: expected at least {low}{most}, got {number}")
