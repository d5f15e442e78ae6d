"""What a file of this package states about each published layout of its paper's weights."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

STACKED = "parts rows ... -> (parts rows) ..."


@dataclass(frozen=True)
class Source:
    """Where to find one of our tensors in an official state dict.

    The tensors named `keys`, each of the given shape, are stacked as parts along a new first axis,
    and `axes`, an einops pattern, turns them into ours (up to axes of length 1).  `rows`, where it
    is given, then says which row becomes each row of ours.  Without keys, the tensor is in no state
    dict, and stays what it is in a fresh model.
    """

    keys: tuple[str, ...]
    shape: tuple[int, ...]
    rows: Tensor | None = None
    axes: str = STACKED

    @classmethod
    def of(
        cls, tensor: Tensor, keys: tuple[str, ...], axes: str = STACKED, heads: int = 1
    ) -> "Source":
        """Return the source of our `tensor`; `axes`, applied backwards, gives its parts' shape."""
        theirs, ours = axes.split(" -> ")
        sizes = {"parts": len(keys), "heads": heads}
        named = {name: size for name, size in sizes.items() if name in re.findall(r"\w+", axes)}
        parts = rearrange(tensor, f"{ours} -> {theirs}", **named)
        return cls(keys, tuple(parts.shape[1:]), axes=axes)


def ignore_none(key: str, value: Tensor, model: nn.Module) -> bool:
    """Set no tensor aside, as most layouts do."""
    return False


@dataclass(frozen=True)
class Layout:
    """A published layout: the key that marks it, and the sources of a model's tensors by our names.

    `modern` brings a key's older spelling up to date, and the marker is in the newer one.  `model`
    is the class whose weights these are, where a paper has several.  `set_aside` says of a tensor,
    by its key in the file, whether it belongs to something other than this model: it may be there.
    """

    marker: str
    sources: Callable[[nn.Module], dict[str, Source]]
    modern: Callable[[str], str] = str
    model: type[nn.Module] = nn.Module
    set_aside: Callable[[str, Tensor, nn.Module], bool] = ignore_none


def torch_sources(model: nn.Module, names: Mapping[str, str]) -> dict[str, Source]:
    """Return the sources in a layout made of PyTorch's layers, by `names` of layers or tensors.

    Where one layer of ours is several of theirs, all are named, with spaces between.
    """
    sources = {}
    for ours, tensor in model.state_dict().items():
        layer, _, leaf = ours.rpartition(".")
        if ours in names:
            sources[ours] = Source.of(tensor, (names[ours],))
        elif layer in names:
            keys = tuple(f"{theirs}.{leaf}" for theirs in names[layer].split())
            sources[ours] = Source.of(tensor, keys)
    return sources
