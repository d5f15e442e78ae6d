"""The phrases and sentences that tell a student what was expected and what came instead."""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.checking.exercise import Case
from course_lib.checking.observe import Leaf
from course_lib.checking.tolerance import axis_order, close, excess


def container(leaves: dict[str, Leaf]) -> str:
    """A phrase for the outermost container: "a tuple of 2", "an object with the fields mean,
    variance".
    """
    heads = list(
        dict.fromkeys(re.match(r"\[(?:'[^']*'|[^\]]*)\]|\.\w+|", path).group() for path in leaves)
    )
    if heads == [""]:
        return kind_of(leaves[""])
    if heads[0].startswith("."):
        return f"an object with the fields {', '.join(head[1:] for head in heads)}"
    if re.fullmatch(r"\[\d+\]", heads[0]):
        return f"a tuple of {len(heads)}"
    return f"a dict with the keys {', '.join(head[1:-1] for head in heads)}"


def kind_of(leaf: Leaf) -> str:
    """Name the kind of a leaf with its article: "a tensor", "a Python float", "None"."""
    if leaf.kind == "None":
        return "None"
    words = {
        "float": "a Python float",
        "int": "a Python int",
        "bool": "a Python bool",
        "array": "a NumPy array",
    }
    return words.get(leaf.kind, f"a {leaf.kind}")


def moved_axes(e: Tensor, g: Tensor, tolerance: float) -> str:
    """A hint when the numbers are right and only the axes are not."""
    if g.numel() != e.numel():
        return ""
    if g.squeeze().shape == e.squeeze().shape and close(e.squeeze(), g.squeeze(), tolerance):
        return "The numbers are right; only axes of length 1 differ."
    if order := axis_order(e, g, tolerance):
        return (
            f"The numbers are right, with the axes in another order: yours are {order} of the"
            " expected ones."
        )
    if close(e.flatten(), g.flatten(), tolerance):
        return "The numbers are right and in the right order; only the shape differs."
    return ""


def difference(e: Tensor, g: Tensor, where: str, tolerance: float) -> str:
    """Say where two tensors of one shape differ most, and in how many of their values."""
    beyond = excess(e, g, tolerance)
    if hint := simple_relation(e, g, tolerance):
        return f"{capital(where)} {hint}"
    place = np.unravel_index(int(beyond.flatten().argmax()), e.shape)
    at = f" at [{', '.join(str(int(i)) for i in place)}]" if e.ndim else ""
    wrong = int((beyond > 0).sum())
    many = f" {wrong:,} of {e.numel():,} values differ." if e.numel() > 1 else ""
    if g.isnan().any() and not e.isnan().any():
        at = (
            f", first at [{', '.join(str(int(i)) for i in g.isnan().nonzero()[0])}]"
            if e.ndim
            else ""
        )
        return f"{capital(where)} has {int(g.isnan().sum()):,} NaN{at}; none was expected."
    largest = "The largest difference is" if e.numel() > 1 else "It differs"
    numbers = f"{largest}{at}: expected {number(e[place])}, got {number(g[place])}."
    return f"The shape and dtype of {where} are right, the values are not. {numbers}{many}"


def simple_relation(e: Tensor, g: Tensor, tolerance: float) -> str:
    """A sign, a constant factor, a constant offset or transposed axes, if one of them explains
    everything.
    """
    if not (e.is_floating_point() and g.isfinite().all() and e.isfinite().all() and e.numel() > 1):
        return ""
    e, g = e.double(), g.double()
    square = float((e * e).sum())
    factor = float((e * g).sum()) / square if square else 0.0
    if factor and close(factor * e, g, tolerance):
        return (
            "has the wrong sign."
            if abs(factor + 1) < tolerance
            else f"is {factor:.4g} times what is expected."
        )
    offset = float((g - e).mean())
    if offset and close(e + offset, g, tolerance):
        return f"is {abs(offset):.4g} too {'large' if offset > 0 else 'small'} everywhere."
    order = axis_order(e, g, tolerance)
    return (
        f"has the right numbers with the axes in another order: {order} of the expected ones."
        if order
        else ""
    )


def argument(path: str) -> str:
    """Name an argument by the path of its leaf: "['x']" is "x"."""
    return path[2:-2] if re.fullmatch(r"\['\w+'\]", path) else path


def dtype_name(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def number(value: Tensor) -> str:
    """Write a tensor of one number for a student."""
    return f"{value.item():.6g}" if value.is_floating_point() else str(value.item())


def capital(text: str) -> str:
    """Capitalize the first letter."""
    return text[:1].upper() + text[1:]


def describe(case: Case) -> str:
    """One line on a case's arguments: "x_start (2, 3, 5, 7) float32, t [4, 0]"."""
    return ", ".join(f"{name} {_short(value)}" for name, value in case.items())


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.ndim < 2 and value.numel() <= 6 and not value.is_floating_point():
            return str(value.tolist())
        return f"{tuple(value.shape)} {dtype_name(value.dtype)}"
    return (
        repr(value)[:60]
        if isinstance(value, (bool, int, float, str, type(None)))
        else type(value).__name__
    )
