"""How much memory tensors take: at most at a time, and between a forward and a backward pass.

Both count tensors and nothing else, so that they give the same numbers on every machine; what a
library sets aside for itself inside a layer comes on top.
"""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_lib.nn.context_parallel import share_frames
from course_lib.nn.timeline import Timeline
from course_lib.papers.cogvideox_vae import CogVideoXVAE, CogVideoXVAEConfig
from course_lib.shapes import Tensor


class PeakMemory(TorchDispatchMode):
    """The most bytes of tensors that were made inside and alive at the same time.

    with torch.no_grad(), PeakMemory() as memory: ...; memory.peak_bytes
    """

    def __init__(self):
        super().__init__()
        self.bytes = 0
        self.peak_bytes = 0
        self._tensors: dict[int, int] = {}  # how many share the memory at an address

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                self._add(x)
        return result

    def _add(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        address = storage.data_ptr()
        count = self._tensors.get(address, 0)
        self._tensors[address] = count + 1
        if not count:
            self.bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.bytes)
        weakref.finalize(x, self._remove, address, storage.nbytes())

    def _remove(self, address: int, size: int) -> None:
        self._tensors[address] -= 1
        if not self._tensors[address]:
            self.bytes -= size


class Later(Timeline):
    """A later piece of a clip; what is before it only counts, so any frame will do."""

    @property
    def starts(self) -> bool:
        return False


def values_kept(
    config: CogVideoXVAEConfig, frames: int, height: int, width: int, ranks: int = 1
) -> list[int]:
    """Return how many numbers every rank keeps for the backward pass when a clip is encoded.

    The pass is on the meta device, so that any size costs nothing.  Weights do not count.  Raises
    ValueError as `course_lib.nn.context_parallel.share_frames` does.
    """
    sizes = share_frames(frames, ranks, config.frames_per_latent)
    with torch.device("meta"):
        model = CogVideoXVAE(config)
        pieces = [torch.empty(1, config.channels, size, height, width) for size in sizes]
    return [
        _values_kept(model, piece, Later() if rank else Timeline())
        for rank, piece in enumerate(pieces)
    ]


def _values_kept(model: CogVideoXVAE, piece: Tensor, timeline: Timeline) -> int:
    kept: dict[int, tuple[torch.UntypedStorage, int]] = {}  # every memory, and its numbers

    def keep(x: Tensor) -> Tensor:
        if not isinstance(x, torch.nn.Parameter):
            storage = x.untyped_storage()  # the same object for all views, while it is held
            kept[id(storage)] = storage, storage.nbytes() // x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.encode_piece(piece, timeline)
    return sum(numbers for _, numbers in kept.values())
