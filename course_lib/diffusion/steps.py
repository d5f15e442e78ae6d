"""Reading a table of the noise schedule at each sample's own step, and refusing what cannot be
right.
"""

from typing import Any

import torch

from course_lib.shapes import Shaped, Steps, Table, Tensor


def at(table: Table, t: Steps, x: Shaped[Tensor, "b ..."]) -> Tensor:
    """The table's entry for each sample's step, shaped (b, 1, ..., 1) to multiply x, in x's dtype.

    Tables are kept in float64: 1 - alpha_bar is near 1e-4 at the first steps, where float32 would
    leave only four digits of it.
    """
    return table[t.to(table.device)].to(x).reshape(-1, *[1] * (x.ndim - 1))


def shifted(alphas_cumprod: Table) -> Table:
    """alpha_bar of the step before: 1, which is no noise at all, before the first."""
    return torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])


def check(steps: int, t: Tensor, **tensors: Tensor) -> None:
    """Refuse steps outside 0..steps-1, tensors of unequal shape, and values that are not finite.

    Raises:
        ValueError: saying what was expected and what came, by the argument's name.
    """
    (first, x), *others = tensors.items()
    if t.is_floating_point() or t.shape != x.shape[:1]:
        raise ValueError(
            f"t must hold one step per sample: expected {len(x)} integers, got {t.dtype}"
            f" {tuple(t.shape)}"
        )
    if len(t) and not 0 <= int(t.min()) <= int(t.max()) < steps:
        raise ValueError(f"t must lie in 0..{steps - 1}, got {int(t.min())}..{int(t.max())}")
    for name, other in others:
        if other.shape != x.shape:
            raise ValueError(
                f"{name} must have the shape of {first}, {tuple(x.shape)}, got {tuple(other.shape)}"
            )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity")


def check_betas(betas: Table) -> None:
    """Refuse a schedule that is not at least two variances strictly between 0 and 1 (ValueError)."""
    if betas.ndim != 1 or len(betas) < 2:
        raise ValueError(
            f"betas must be a vector of at least two steps, got shape {tuple(betas.shape)}"
        )
    if not ((betas > 0) & (betas < 1)).all():
        raise ValueError(
            "betas must lie strictly between 0 and 1, got"
            f" {float(betas.min()):.4g}..{float(betas.max()):.4g}"
        )


def pick(options: dict[str, Any], name: str, what: str) -> Any:
    """The option of that name; ValueError naming all of them when there is none."""
    if name not in options:
        raise ValueError(f"{what} must be one of {', '.join(options)}, got {name!r}")
    return options[name]
