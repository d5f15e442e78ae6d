"""Equality up to rounding, of two tensors of any dtype."""

import itertools

import torch
from torch import Tensor

# A float32 tensor whose largest entry is below ZERO is rounding noise around 0.
ZERO = 1e-6
ZERO_SLACK = 2e-6


def close(expected: Tensor, got: Tensor, tolerance: float) -> bool:
    """Say whether two tensors are equal up to rounding.

    Shapes and integers are compared exactly; NaN and infinities are at the same places.
    """
    if expected.shape != got.shape:
        return False
    if expected.dtype == got.dtype and expected.equal(got):
        return True
    return bool((excess(expected, got, tolerance) <= 0).all())


def excess(expected: Tensor, got: Tensor, tolerance: float) -> Tensor:
    """Return by how much each difference exceeds its allowance, as float64.

    The allowance is relative to each value, plus a tenth of it relative to the largest.  The excess
    is infinite where only one of the two values is finite.
    """
    whole = not (_is_inexact(expected) or _is_inexact(got))
    if whole:
        return (expected != got).double()
    resolution = 8 * max(torch.finfo(x.dtype).eps for x in (expected, got) if _is_inexact(x))
    relative = max(tolerance, resolution) if _is_inexact(expected) else 0.0

    wide = torch.complex128 if expected.is_complex() or got.is_complex() else torch.float64
    e = expected.to(wide)
    g = got.to(wide)
    finite = e.isfinite() & g.isfinite()
    same = (e.isnan() & g.isnan()) | (e == g)
    scale = float(e[finite].abs().max()) if finite.any() else 0.0
    noise = _is_inexact(expected) and scale <= ZERO
    slack = ZERO_SLACK if noise else relative / 10 * scale

    beyond = (g - e).abs() - relative * e.abs() - slack
    return torch.where(same, 0.0, torch.where(finite, beyond, torch.inf)).double()


def axis_order(expected: Tensor, got: Tensor, tolerance: float) -> tuple[int, ...] | None:
    """Find the order of the axes of `expected` that gives `got`.

    Returns None if there is none but the identity, and for fewer than two or more than five axes.
    """
    if not 2 <= expected.ndim <= 5 or got.ndim != expected.ndim:
        return None
    identity = tuple(range(expected.ndim))
    for order in itertools.permutations(identity):
        fits = all(expected.shape[axis] == n for axis, n in zip(order, got.shape, strict=True))
        if fits and order != identity and close(expected.permute(order), got, tolerance):
            return order
    return None


def _is_inexact(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()
