"""The phrases and sentences that tell a student what was expected and what came instead."""

import re
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.checking.exercise import Case
from course_lib.checking.observe import Leaf
from course_lib.checking.tolerance import ZERO, axis_order, close, excess

MAX_SHOWN = 8  # values of a tensor, or parts of a tuple, that are shown one by one
MAX_SHORT = 60  # characters of a text
SIMPLE_FACTORS = (-1, 2, -2, 1 / 2, -1 / 2, 3, 1 / 3, 4, 1 / 4)  # believed of a single number
TINY_FACTOR = 1e-3  # up to which an answer is rather 0 than a multiple
KIND_PHRASES = {
    "None": "None",
    "float": "a Python float",
    "int": "a Python int",
    "bool": "a Python bool",
    "array": "a NumPy array",
}
HEAD = re.compile(r"\[(?:'[^']*'|[^\]]*)\]|\.\w+|")  # the first part of a leaf's path

# -------------------------------------------------------------------------------- what something is


def describe(case: Case) -> str:
    """Describe a case's arguments in one line: "x_start (2, 3, 5, 7) float32, t [4, 0]"."""
    return ", ".join(f"{name} {_short(value)}" for name, value in case.items())


def _short(value: Any) -> str:
    """Give a value itself where it is small, else its shape, dtype and range, or what it is."""
    if isinstance(value, Tensor):
        return _short_tensor(value.detach())
    if isinstance(value, (bool, int, float, str, type(None))):
        return repr(value)[:MAX_SHORT]
    if isinstance(value, (tuple, list)) and len(value) <= MAX_SHOWN:
        opened, closed = "[]" if isinstance(value, list) else "()"
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"{opened}{', '.join(map(_short, value))}{comma}{closed}"
    if is_dataclass(value) and not isinstance(value, type):
        changed = [f for f in fields(value) if f.repr and not _is_default(value, f)]
        parts = (f"{f.name}={_short(getattr(value, f.name))}" for f in changed)
        return f"{type(value).__name__}({', '.join(parts)})"
    return type(value).__name__


def _short_tensor(value: Tensor) -> str:
    usual = value.dtype in (torch.float32, torch.int64, torch.bool)
    if value.numel() <= MAX_SHOWN and not value.is_complex():
        numbers = re.sub(r"-?\d+\.\d+(e-?\d+)?", _rounded, str(value.tolist()))
        return numbers if usual and value.numel() else f"{numbers} {dtype_name(value.dtype)}"
    about = f"{tuple(value.shape)} {dtype_name(value.dtype)}"
    if value.is_complex() or value.dtype == torch.bool:
        return about
    low, high = value.min().item(), value.max().item()
    return f"{about} from {low:.4g} to {high:.4g}"


def _rounded(found: re.Match) -> str:
    return f"{float(found.group()):.4g}"


def _is_default(value: Any, field: Field) -> bool:
    return field.default is not MISSING and repr(getattr(value, field.name)) == repr(field.default)


def container(leaves: dict[str, Leaf]) -> str:
    """Name the outermost container: "a tuple of 2", "an object with the fields mean, variance"."""
    heads = list(dict.fromkeys(HEAD.match(path).group() for path in leaves))
    if heads == [""]:
        return kind_of(leaves[""])
    if heads[0].startswith("."):
        return f"an object with the fields {', '.join(head[1:] for head in heads)}"
    if re.fullmatch(r"\[\d+\]", heads[0]):
        return f"a tuple or list of {len(heads)}"
    return f"a dict with the keys {', '.join(head[1:-1] for head in heads)}"


def kind_of(leaf: Leaf) -> str:
    """Name the kind of a leaf with its article: "a tensor", "a Python float", "None"."""
    return KIND_PHRASES.get(leaf.kind, f"a {leaf.kind}")


def argument(path: str) -> str:
    """Name an argument by the path of its leaf: "['x']" is "x"."""
    return path[2:-2] if re.fullmatch(r"\['\w+'\]", path) else path


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def capital(text: str) -> str:
    """Capitalize the first letter."""
    return text[:1].upper() + text[1:]


# --------------------------------------------------------------------------- how two tensors differ


def difference(expected: Tensor, got: Tensor, where: str, tolerance: float) -> str:
    """Say how two tensors of one shape differ: by a rule, by NaNs, or where most."""
    if hint := simple_relation(expected, got, tolerance):
        return f"{capital(where)} {hint}"
    if got.isnan().any() and not expected.isnan().any():
        count = int(got.isnan().sum())
        first = f", first{_at(got.isnan().nonzero()[0])}" if expected.ndim else ""
        return f"{capital(where)} has {count:,} NaN{first}; none was expected."

    beyond = excess(expected, got, tolerance)
    place = np.unravel_index(int(beyond.flatten().argmax()), expected.shape)
    values = f"expected {_number(expected[place])}, got {_number(got[place])}."
    if not expected.ndim:
        return f"The value of {where} is not right: {values}"
    return (
        f"The shape and dtype of {where} are right, the values are not. The largest difference is"
        f"{_at(place)}: {values}"
        f" {int((beyond > 0).sum()):,} of {expected.numel():,} values differ."
    )


def simple_relation(expected: Tensor, got: Tensor, tolerance: float) -> str:
    """Name a sign, a factor, an offset or an order of axes that explains the whole difference."""
    if not expected.is_floating_point() or not expected.numel():
        return ""
    if not got.isfinite().all() or not expected.isfinite().all():
        return ""
    e = expected.double()
    g = got.double()
    square = float((e * e).sum())
    factor = float((e * g).sum()) / square if square > ZERO**2 else 0.0
    if e.numel() == 1:  # any number is some multiple of another
        factor = next((f for f in SIMPLE_FACTORS if abs(factor / f - 1) < tolerance), 0.0)
    if abs(factor) > TINY_FACTOR and close(factor * e, g, tolerance):
        if abs(factor + 1) < tolerance:
            return "has the wrong sign."
        return f"is {factor:.4g} times what is expected."
    offset = float((g - e).mean()) if e.numel() > 1 else 0.0
    if offset and close(e + offset, g, tolerance):
        return f"is {abs(offset):.4g} too {'large' if offset > 0 else 'small'} everywhere."
    if order := axis_order(e, g, tolerance):
        return (
            f"has the right numbers with the axes in another order: {order} of the expected ones."
        )
    return ""


def moved_axes(expected: Tensor, got: Tensor, tolerance: float) -> str:
    """Say so when the numbers are right and only the axes are not."""
    if got.numel() != expected.numel():
        return ""
    squeezed = expected.squeeze()
    if got.squeeze().shape == squeezed.shape and close(squeezed, got.squeeze(), tolerance):
        return "The numbers are right; only axes of length 1 differ."
    if order := axis_order(expected, got, tolerance):
        return (
            f"The numbers are right, with the axes in another order: yours are {order} of the"
            " expected ones."
        )
    if close(expected.flatten(), got.flatten(), tolerance):
        return "The numbers are right and in the right order; only the shape differs."
    return ""


def _at(place: Any) -> str:
    return f" at [{', '.join(str(int(i)) for i in place)}]"


def _number(value: Tensor) -> str:
    return f"{value.item():.6g}" if value.is_floating_point() else str(value.item())
