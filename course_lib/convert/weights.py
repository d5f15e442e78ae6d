"""Weights by name, from a dict or a file: nothing in the file is run, nothing odd gets through."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, load_file
from torch import Tensor, nn
from torch.serialization import safe_globals

DEEPEST = 16  # dicts in dicts; a dict may hold itself
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)


def read_weights(source: Mapping | str | os.PathLike) -> dict[str, Tensor]:
    """Return the tensors by name, from a dict or a file.

    Of dicts in dicts, the names are joined by dots.  From a pickle only plain values and tensors
    are read.  Raises ValueError for what is no dict of
    tensors by name, no file of one, and, naming them, for names that are no text and for tensors
    whose numbers are not simply there: sparse, nested, on the meta device, of another library.
    """
    if not isinstance(source, Mapping):
        source = _read_file(source)
    for whole in ("state_dict", "module"):  # of PyTorch Lightning, and of DeepSpeed
        if isinstance(source, Mapping) and isinstance(source.get(whole), Mapping):
            source = source[whole]  # next to it are the optimizer, the step and so on
    if not isinstance(source, Mapping):
        raise ValueError(f"expected a dict of tensors by name, got {type(source).__name__}")
    unnamed = [f"{key!r} ({type(key).__name__})" for key in source if not isinstance(key, str)]
    if unnamed:
        raise ValueError(f"expected names of tensors as keys, got {first_few(unnamed)}")
    if source and all(isinstance(value, Mapping) for value in source.values()):
        source = dict(_leaves(source))
    weights = {key: _tensor(value) for key, value in source.items()}
    _require(weights, _is_plain)
    return weights


def require_floats(weights: Mapping[str, Tensor]) -> None:
    """Refuse tensors of another type than the three that weights have (ValueError naming them)."""
    _require(weights, lambda value: value.dtype in PRECISIONS)


def require_finite(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights with NaN or infinity among them (ValueError naming them)."""
    others = [key for key, value in weights.items() if value.numel() and not _is_finite(value)]
    if others:
        raise ValueError(f"expected finite weights, got NaN or infinity in {first_few(others)}")


def first_few(items: list[str], most: int = 8) -> str:
    """Name the first few of a list, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return (", ".join(items[:most]) or "no keys") + more


# ---------------------------------------------------------------- files


class Callback:
    """A stand-in for the class under whose name PyTorch Lightning once filed a callback's state."""


CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"


def _read_file(source: Any) -> Any:
    """Return what a file of weights holds; ValueError in one sentence for what is none."""
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            f"expected a dict of tensors by name or the path of a file, got {type(source).__name__}"
        )
    path = Path(source)
    shown = os.fsencode(path).decode(errors="backslashreplace")
    if not _is_file(path):
        what = "a folder" if os.path.isdir(path) else "no file"
        raise ValueError(f"expected a file of weights, got {what} at {shown[:200]}")
    try:
        return _load(path)
    except Exception as error:  # a broken file can make its reader raise anything
        why = "it is empty" if path.stat().st_size == 0 else _reason(error)
    # Not `from error`: what torch says there is how to run the code that is in the file.
    raise ValueError(f"expected tensors by name, got none: {shown} is not a file of weights: {why}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name no file can have
        return False


def _load(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        is_text = _is_utf8(path)
        return load_file(path) if is_text else load(path.read_bytes())
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    with safe_globals([(Callback, CALLBACK)]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    """Say why a reader refused a file, without its advice to trust it."""
    said = str(error)
    if "TorchScript" in said:
        return "it is a program (TorchScript); save its state dict as safetensors"
    if named := re.search(r"GLOBAL (\w[\w.]*)", said):
        return (
            f"this pickle calls {named[1]}, and reading it could run any code;"
            " ask for the weights as safetensors"
        )
    if said.startswith("Object arrays cannot be loaded"):
        return "Object arrays cannot be loaded: they are pickles, which could run any code"
    if "weights_only" in said or "allow_pickle" in said or "pickle" in said.lower():
        return "it is damaged, or a pickle of more than tensors and plain values"
    return (said.splitlines() or [type(error).__name__])[0]


def _is_utf8(path: Path) -> bool:
    """Tell whether safetensors' own reader, which takes no other, can open a file of this name."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------------- tensors


def _leaves(tree: Mapping, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Give what is in dicts of dicts, as flax keeps its weights, with its names joined by dots."""
    for name, value in tree.items():
        path = (*names, str(name))
        if isinstance(value, Mapping) and len(path) < DEEPEST:
            yield from _leaves(value, path)
        else:
            yield ".".join(path), value


def _tensor(value: Any) -> Any:
    """Return an array of floats as a tensor; everything else as it is."""
    is_array = isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray)
    if is_array and value.dtype in (np.float32, np.float16):
        # torch accepts neither mirrored nor read-only arrays.
        return torch.from_numpy(np.require(value, requirements="CW"))
    return value


def _is_plain(value: Any) -> bool:
    """Tell whether a value is torch's own dense tensor with its numbers in memory."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and not value.is_nested
        and not value.is_meta
        and not _is_freed(value)
    )


def _is_freed(value: Tensor) -> bool:
    """Tell whether the memory of a dense tensor was given back, as sharded training does."""
    return value.numel() > 0 and value.untyped_storage().nbytes() == 0


def _is_finite(value: Tensor) -> bool:
    # The extremes are NaN if any number is; no mask as large as the tensor is made.
    return bool(torch.stack(value.detach().aminmax()).isfinite().all())


def _require(weights: Mapping, fits: Callable[[Any], bool]) -> None:
    """Refuse weights with values that do not fit (ValueError naming them)."""
    others = [f"{key} ({_describe(value)})" for key, value in weights.items() if not fits(value)]
    if others:
        raise ValueError(
            "expected float32, float16 or bfloat16 tensors by name; got some that these are not:"
            f" {first_few(others)}"
        )


def _describe(value: Any) -> str:
    """Say what a value is instead of a plain tensor."""
    kind = type(value).__name__
    if isinstance(value, np.ma.MaskedArray):
        return f"{value.dtype}, masked"
    if not isinstance(value, Tensor):
        return str(getattr(value, "dtype", kind))
    if type(value) not in (Tensor, nn.Parameter):
        return kind
    marks = {
        str(value.layout): value.layout != torch.strided,
        "nested": value.is_nested,
        "on the meta device": value.is_meta,
        "freed": value.layout == torch.strided and not value.is_nested and _is_freed(value),
    }
    return ", ".join([str(value.dtype), *(mark for mark, holds in marks.items() if holds)])
