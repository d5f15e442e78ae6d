"""The phrases and sentences that tell a student what was expected and what came instead."""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.checking.exercise import Case
from course_lib.checking.observe import Leaf
from course_lib.checking.tolerance import axis_order, close, excess

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
    if isinstance(value, Tensor):
        if value.ndim < 2 and value.numel() <= 6 and not value.is_floating_point():
            return str(value.tolist())
        return f"{tuple(value.shape)} {dtype_name(value.dtype)}"
    printable = isinstance(value, (bool, int, float, str, type(None)))
    return repr(value)[:60] if printable else type(value).__name__


def container(leaves: dict[str, Leaf]) -> str:
    """Name the outermost container: "a tuple of 2", "an object with the fields mean, variance"."""
    heads = list(dict.fromkeys(HEAD.match(path).group() for path in leaves))
    if heads == [""]:
        return kind_of(leaves[""])
    if heads[0].startswith("."):
        return f"an object with the fields {', '.join(head[1:] for head in heads)}"
    if re.fullmatch(r"\[\d+\]", heads[0]):
        return f"a tuple of {len(heads)}"
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
    several = expected.numel() > 1
    sentence = (
        f"The shape and dtype of {where} are right, the values are not."
        f" {'The largest difference is' if several else 'It differs'}"
        f"{_at(place) if expected.ndim else ''}:"
        f" expected {_number(expected[place])}, got {_number(got[place])}."
    )
    if several:
        sentence += f" {int((beyond > 0).sum()):,} of {expected.numel():,} values differ."
    return sentence


def simple_relation(expected: Tensor, got: Tensor, tolerance: float) -> str:
    """Name a sign, a factor, an offset or an order of axes that explains the whole difference."""
    if not expected.is_floating_point() or expected.numel() < 2:
        return ""
    if not got.isfinite().all() or not expected.isfinite().all():
        return ""
    e = expected.double()
    g = got.double()
    square = float((e * e).sum())
    factor = float((e * g).sum()) / square if square else 0.0
    if factor and close(factor * e, g, tolerance):
        if abs(factor + 1) < tolerance:
            return "has the wrong sign."
        return f"is {factor:.4g} times what is expected."
    offset = float((g - e).mean())
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
