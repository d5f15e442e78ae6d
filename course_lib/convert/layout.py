"""What a file of this package states about each published layout of its paper's weights."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Source:
    """Where one of our tensors stands in an official state dict.

    The tensors named `keys`, each of the given shape, are stacked along their first axis; `rows`, where it
    is given, then says which row of the stack becomes each row of ours.
    """

    keys: tuple[str, ...]
    shape: tuple[int, ...]
    rows: Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """A published layout: the key it is recognised by, and the sources of a model's tensors by our names.

    `modern` brings a key's older spelling up to date.
    """

    marker: str
    sources: Callable[[nn.Module], dict[str, Source]]
    modern: Callable[[str], str] = str
