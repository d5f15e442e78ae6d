"""Equality up to rounding, of two tensors of any dtype."""

import itertools

import torch
from torch import Tensor

# a float32 tensor whose largest entry is below ZERO is rounding noise around 0
ZERO = 1e-6
ZERO_SLACK = 2e-6


def close(e: Tensor, g: Tensor, tolerance: float) -> bool:
    """Equal up to rounding: NaN and infinities at the same places, integers exactly, shapes equal."""
    if e.shape != g.shape:
        return False
    return bool((excess(e, g, tolerance) <= 0).all())


def excess(e: Tensor, g: Tensor, tolerance: float) -> Tensor:
    """By how much each difference exceeds its allowance; infinite where only one of the two is
    finite.
    """
    exact = not (e.is_floating_point() or e.is_complex())
    if exact and not (g.is_floating_point() or g.is_complex()):
        return (e != g).double()
    resolution = 8 * max(
        torch.finfo(x.dtype).eps for x in (e, g) if x.is_floating_point() or x.is_complex()
    )
    relative = 0.0 if exact else max(tolerance, resolution)
    wide = torch.complex128 if e.is_complex() or g.is_complex() else torch.float64
    e, g = e.to(wide), g.to(wide)
    finite = e.isfinite() & g.isfinite()
    same = (e.isnan() & g.isnan()) | (e == g)
    scale = float(e[finite].abs().max()) if finite.any() else 0.0
    slack = relative / 10 * scale if scale > ZERO or exact else ZERO_SLACK
    excess = (g - e).abs() - relative * e.abs() - slack
    return torch.where(same, 0.0, torch.where(finite, excess, torch.inf)).double()


def axis_order(e: Tensor, g: Tensor, tolerance: float) -> tuple[int, ...] | None:
    """Find the order of the axes of `e` that gives `g`; None if there is none but the identity."""
    if not 2 <= e.ndim <= 5 or g.ndim != e.ndim:
        return None
    for order in itertools.permutations(range(e.ndim)):
        if order != tuple(range(e.ndim)):
            moved = e.permute(order)
            if moved.shape == g.shape and close(moved, g, tolerance):
                return order
    return None
