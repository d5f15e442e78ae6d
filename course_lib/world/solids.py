"""Four convex solids: where a ray is inside them, and which way their surface faces.

Each rests on z = 0 around the vertical axis and is about 2 wide and 2 high.  A ray is the points
``origin + t * direction``; the coordinates are three tensors that broadcast against each other, and
the direction need not have length 1.  Each solid is a function that returns the interval
(enter, leave) of t inside the solid, with ``enter >= leave`` for a miss.  Only + - * /, the square
root below, comparisons and min/max are used: IEEE 754 fixes each of their results to the last bit,
so every machine sees the same solid.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Point = Sequence[Tensor] | Tensor  # x, y, z; as one tensor, along its first axis

CUBE_HALF_WIDTH = 0.82
CYLINDER_RADIUS = 0.8
CYLINDER_HEIGHT = 1.8
CONE_HEIGHT = 2.0
# Radius and height of the upright cylinder that holds each solid.
HOLDERS = {
    "sphere": (1.0, 2.0),
    "cube": (CUBE_HALF_WIDTH * 1.415, CUBE_HALF_WIDTH * 2),
    "cylinder": (CYLINDER_RADIUS, CYLINDER_HEIGHT),
    "cone": (CONE_HEIGHT / 2, CONE_HEIGHT),
}


def sphere(origin: Point, direction: Point) -> tuple[Tensor, Tensor]:
    """Intersect the sphere of radius 1 around (0, 0, 1)."""
    x, y, z = origin
    from_centre = x, y, z - 1
    a = dot(direction, direction)
    b = dot(from_centre, direction)
    c = dot(from_centre, from_centre) - 1
    return _roots(a, b, c)


def cube(origin: Point, direction: Point) -> tuple[Tensor, Tensor]:
    """Intersect the cube: three slabs."""
    x, y, z = origin
    dx, dy, dz = direction
    enter_x, leave_x = _slab(x, dx, -CUBE_HALF_WIDTH, CUBE_HALF_WIDTH)
    enter_y, leave_y = _slab(y, dy, -CUBE_HALF_WIDTH, CUBE_HALF_WIDTH)
    enter_z, leave_z = _slab(z, dz, 0.0, 2 * CUBE_HALF_WIDTH)
    enter = enter_x.clamp_(min=enter_y).clamp_(min=enter_z)
    leave = leave_x.clamp_(max=leave_y).clamp_(max=leave_z)
    return enter, leave


def cylinder(origin: Point, direction: Point) -> tuple[Tensor, Tensor]:
    """Intersect the cylinder: an endless tube, and the slab between bottom and lid."""
    x, y, z = origin
    dx, dy, dz = direction
    enter, leave = _roots(dx * dx + dy * dy, x * dx + y * dy, x * x + y * y - CYLINDER_RADIUS**2)
    enter_z, leave_z = _slab(z, dz, 0.0, CYLINDER_HEIGHT)
    return enter.clamp_(min=enter_z), leave.clamp_(max=leave_z)


def cone(origin: Point, direction: Point) -> tuple[Tensor, Tensor]:
    """Intersect the cone, whose radius at the base is half its height.

    The ray has to be less steep than the flank (63 degrees), as sun and camera are: `check_size`
    keeps even the corners of an image within that.
    """
    x, y, z = origin
    dx, dy, dz = direction
    w = (z - CONE_HEIGHT) * 0.5
    dw = dz * 0.5
    a = dx * dx + dy * dy - dw * dw
    b = x * dx + y * dy - w * dw
    c = x * x + y * y - w * w
    enter, leave = _roots(a, b, c)
    enter_z, leave_z = _slab(z, dz, 0.0, CONE_HEIGHT)
    return enter.clamp_(min=enter_z), leave.clamp_(max=leave_z)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Solve a t^2 + 2 b t + c = 0; where there are no roots, return the same number twice."""
    root = square_root((b * b).sub_(a * c).clamp_(min=0))
    return (-b - root).div_(a), root.sub_(b).div_(a)


def _slab(x: Tensor, dx: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Intersect the space between two parallel planes."""
    inverse = dx.reciprocal()
    a = (low - x) * inverse
    b = (high - x) * inverse
    return torch.minimum(a, b), a.clamp_(min=b)


INTERVALS: dict[str, Callable[[Point, Point], tuple[Tensor, Tensor]]] = {
    "sphere": sphere,
    "cube": cube,
    "cylinder": cylinder,
    "cone": cone,
}


def normal(shape: str, point: Point) -> Point:
    """Return the outward unit normal of a solid at points of its surface."""
    x, y, z = point
    zero = torch.zeros_like(x)
    if shape == "sphere":
        return _unit(x, y, z - 1)
    if shape == "cube":
        z = z - CUBE_HALF_WIDTH
        ax = x.abs()
        ay = y.abs()
        az = z.abs()
        on_x = (ax >= ay) & (ax >= az)
        on_y = ay >= az
        return (
            torch.where(on_x, x.sign(), zero),
            torch.where(~on_x & on_y, y.sign(), zero),
            torch.where(~on_x & ~on_y, z.sign(), zero),
        )
    radius = square_root(x * x + y * y)
    safe = radius.clamp(min=1e-6)
    if shape == "cylinder":
        on_cap = (z - CYLINDER_HEIGHT / 2).abs() - CYLINDER_HEIGHT / 2 > radius - CYLINDER_RADIUS
        return (
            torch.where(on_cap, zero, x / safe),
            torch.where(on_cap, zero, y / safe),
            torch.where(on_cap, (z - CYLINDER_HEIGHT / 2).sign(), zero),
        )

    # The flank rises by 2 for each 1 inwards, so its normal is (2, 1) / sqrt(5) in the plane of
    # radius and height.
    on_base = -z > radius - (CONE_HEIGHT - z) * 0.5
    across = 0.8944272
    upwards = 0.4472136
    return (
        torch.where(on_base, zero, x / safe * across),
        torch.where(on_base, zero, y / safe * across),
        torch.where(on_base, zero - 1, zero + upwards),
    )


def _unit(x: Tensor, y: Tensor, z: Tensor) -> Point:
    length = square_root(x * x + y * y + z * z)
    return x / length, y / length, z / length


def dot(a: Point, b: Point) -> Tensor:
    """Return the scalar product, summed in the order x, y, z."""
    return (a[0] * b[0]).add_(a[1] * b[1]).add_(a[2] * b[2])


def less(a: Tensor | float | int, b: Tensor | float | int) -> Tensor:
    """Return a < b, as bools: torch compares number by number, NumPy a whole register at once."""
    a, b = (each.numpy() if isinstance(each, Tensor) else each for each in (a, b))
    return torch.from_numpy(np.less(a, b))


def indices(mask: Tensor) -> Tensor:
    """Return where a flattened mask is true, several times as fast as `nonzero`."""
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def take(values: Tensor, where: Tensor) -> Tensor:
    """Return elements of the flattened values, several times as fast as square brackets."""
    return values.view(-1).index_select(0, where.view(-1)).view(where.shape)


def square_root(x: Tensor) -> Tensor:
    """Return the correctly rounded square root, NaN below zero.

    On x86-64 torch takes its square root from a library whose last bit depends on the processor;
    NumPy uses the processor's own instruction, whose result IEEE 754 fixes.
    """
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.asarray(np.sqrt(x.numpy())))
