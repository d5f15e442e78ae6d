"""Four convex solids: where a ray is inside them, and which way their surface faces.

Each stands on z = 0 around the vertical axis and is about 2 wide and 2 high.  A ray is the points
``origin + t * direction``; the coordinates are three tensors that broadcast against each other, and
the direction need not have length 1.  The answer is the interval (enter, leave) of t inside the
solid, with ``enter >= leave`` for a miss.  Only + - * / sqrt, comparisons and min/max are used:
IEEE 754 fixes each of their results to the last bit, so every machine sees the same solid.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Point = Sequence[Tensor]  # x, y, z

CUBE, CYLINDER_RADIUS, CYLINDER_HEIGHT, CONE_HEIGHT = 0.82, 0.8, 1.8, 2.0


def sphere(origin: Point, direction: Point) -> tuple[Tensor, Tensor]:
    """Radius 1, around (0, 0, 1)."""
    (x, y, z), (dx, dy, dz) = origin, direction
    z = z - 1
    return _roots(dx * dx + dy * dy + dz * dz, x * dx + y * dy + z * dz, x * x + y * y + z * z - 1)


def cube(origin: Point, direction: Point) -> tuple[Tensor, Tensor]:
    """Three slabs; `CUBE` is the distance from the middle to each face."""
    (x, y, z), (dx, dy, dz) = origin, direction
    enter_x, leave_x = _slab(x, dx, -CUBE, CUBE)
    enter_y, leave_y = _slab(y, dy, -CUBE, CUBE)
    enter_z, leave_z = _slab(z, dz, 0.0, 2 * CUBE)
    return _latest(_latest(enter_x, enter_y), enter_z), _earliest(
        _earliest(leave_x, leave_y), leave_z
    )


def cylinder(origin: Point, direction: Point) -> tuple[Tensor, Tensor]:
    """An endless tube and the slab between bottom and lid."""
    (x, y, z), (dx, dy, dz) = origin, direction
    enter, leave = _roots(dx * dx + dy * dy, x * dx + y * dy, x * x + y * y - CYLINDER_RADIUS**2)
    enter_z, leave_z = _slab(z, dz, 0.0, CYLINDER_HEIGHT)
    return _latest(enter, enter_z), _earliest(leave, leave_z)


def cone(origin: Point, direction: Point) -> tuple[Tensor, Tensor]:
    """Half as wide as high.  The ray must be less steep than the flank (63 degrees), as sun and
    camera are: `check_size` keeps even the corners of a picture within that.
    """
    (x, y, z), (dx, dy, dz) = origin, direction
    w, dw = (z - CONE_HEIGHT) * 0.5, dz * 0.5
    enter, leave = _roots(
        dx * dx + dy * dy - dw * dw, x * dx + y * dy - w * dw, x * x + y * y - w * w
    )
    enter_z, leave_z = _slab(z, dz, 0.0, CONE_HEIGHT)
    return _latest(enter, enter_z), _earliest(leave, leave_z)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The roots of a t^2 + 2 b t + c; twice the same number where there are none."""
    root = (b * b - a * c).clamp_(min=0).sqrt_()
    return (-b - root) / a, (root - b) / a


def _slab(x: Tensor, dx: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The interval between two parallel planes."""
    inverse = 1 / dx
    a, b = (low - x) * inverse, (high - x) * inverse
    return torch.minimum(a, b), torch.maximum(a, b)


_latest, _earliest = torch.maximum, torch.minimum
INTERVALS: dict[str, Callable[[Point, Point], tuple[Tensor, Tensor]]] = {
    "sphere": sphere,
    "cube": cube,
    "cylinder": cylinder,
    "cone": cone,
}


def normal(shape: str, point: Point) -> Point:
    """The outward unit normal of a solid at points of its surface."""
    x, y, z = point
    zero = torch.zeros_like(x)
    if shape == "sphere":
        return _unit(x, y, z - 1)
    if shape == "cube":
        z = z - CUBE
        ax, ay, az = x.abs(), y.abs(), z.abs()
        on_x, on_y = (ax >= ay) & (ax >= az), ay >= az
        return (
            torch.where(on_x, x.sign(), zero),
            torch.where(~on_x & on_y, y.sign(), zero),
            torch.where(~on_x & ~on_y, z.sign(), zero),
        )
    radius = (x * x + y * y).sqrt()
    safe = radius.clamp(min=1e-6)
    if shape == "cylinder":
        on_cap = (z - CYLINDER_HEIGHT / 2).abs() - CYLINDER_HEIGHT / 2 > radius - CYLINDER_RADIUS
        return (
            torch.where(on_cap, zero, x / safe),
            torch.where(on_cap, zero, y / safe),
            torch.where(on_cap, (z - CYLINDER_HEIGHT / 2).sign(), zero),
        )
    # The flank rises 2 for 1 inwards: its normal is (2, 1) / sqrt(5) in the plane of radius and
    # height.
    on_base = -z > radius - (CONE_HEIGHT - z) * 0.5
    across, upwards = 0.8944272, 0.4472136
    return (
        torch.where(on_base, zero, x / safe * across),
        torch.where(on_base, zero, y / safe * across),
        torch.where(on_base, zero - 1, zero + upwards),
    )


def _unit(x: Tensor, y: Tensor, z: Tensor) -> Point:
    length = (x * x + y * y + z * z).sqrt()
    return x / length, y / length, z / length
