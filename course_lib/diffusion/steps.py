"""Looking up each sample's own step in a table of the noise schedule, and refusing bad input."""

from numbers import Integral
from typing import Any

import torch

from course_lib.shapes import Shaped, Steps, Table, Tensor


def gather_at(table: Table, t: Steps, x: Shaped[Tensor, "b ..."]) -> Tensor:
    """Return the table's entry for each sample's step, in x's dtype, shaped (b, 1, ..., 1) like x.

    Tables are kept in float64: 1 - alpha_bar is near 1e-4 at the first steps, where float32 would
    leave only four digits of it.
    """
    return table[t.to(table.device)].to(x).reshape(-1, *[1] * (x.ndim - 1))


def previous(alphas_cumprod: Table) -> Table:
    """Return alpha_bar of the step before: 1, which is no noise at all, before the first."""
    return torch.cat([torch.ones_like(alphas_cumprod[:1]), alphas_cumprod[:-1]])


def validate_steps(steps: int, t: Tensor, **tensors: Tensor) -> None:
    """Refuse steps outside 0..steps-1, tensors of unequal shape, and values that are not finite.

    Raises:
        ValueError: saying, by the argument's name, what was expected and what came.
    """
    (first, x), *others = tensors.items()
    # torch takes bool and uint8 for masks, not for numbers.
    if t.dtype not in (torch.int64, torch.int32) or t.shape != x.shape[:1]:
        raise ValueError(
            f"t: expected one step per sample, {len(x)} integers, got {t.dtype} {tuple(t.shape)}"
        )
    if len(t) and not 0 <= int(t.min()) <= int(t.max()) < steps:
        raise ValueError(f"t: expected 0..{steps - 1}, got {int(t.min())}..{int(t.max())}")
    for name, other in others:
        if other.shape != x.shape:
            raise ValueError(
                f"{name}: expected the shape of {first}, {tuple(x.shape)}, got {tuple(other.shape)}"
            )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: expected finite values, got NaN or infinity")


def validate_count(timesteps: int, count: int) -> None:
    """Refuse to keep fewer than two steps, more than there are, or half a one (ValueError)."""
    if not (isinstance(count, Integral) and 2 <= count <= timesteps):
        raise ValueError(f"count: expected 2..{timesteps}, got {count}")


def choose(options: dict[str, Any], name: str, what: str) -> Any:
    """Return the option of that name; ValueError naming all of them when there is none."""
    if name not in list(options):  # a name that is none, such as a list, cannot be a key
        raise ValueError(f"{what}: expected one of {', '.join(options)}, got {name!r}")
    return options[name]
