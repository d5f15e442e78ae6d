"""Rays and what they hit: `trace`.

Every coordinate is a tensor of its own, f s h w: frame, sample within the pixel, row, column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.world.solids import INTERVALS, Point, dot, indices, less, normal, square_root, take
from course_lib.world.tables import Frames, Things, per_frame, points_to_local, to_local, to_world
from course_lib.world.windows import windows_of_things

DOME_RADIUS = 10.0  # metres: the radius of the round floor and of the backdrop over it
CENTRE = ((0.0, 0.0),)  # one ray through the middle of each pixel


def check_size(size: int | tuple) -> tuple[int, int]:
    """Return height and width of an image; ValueError unless 4 to 1024 each and at most 1 : 2."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if (
        len(sides) != 2
        or not all(isinstance(side, int) and 4 <= side <= 1024 for side in sides)
        or max(sides) > 2 * min(sides)
    ):
        raise ValueError(
            f"size: expected (height, width) of 4 to 1024, at most 1 : 2, got {size!r}"
        )
    return sides


@dataclass
class Hits:
    """Where the rays of some frames end; all tensors are f s h w.

    `thing` is a number in `Things`, as a float; k means the floor or the dome.
    """

    depth: Tensor
    thing: Tensor
    point: Point
    direction: Point


def trace(table: Frames, things: Things, height: int, width: int, offsets=CENTRE) -> Hits:
    """Follow the rays to what they hit.

    A ray goes through its pixel at depth 1, so `depth` is measured along the optical axis.
    """
    eye = table.eye.T  # 3 f
    axes = torch.stack([table.right, table.up, table.forward]).movedim(-1, 1)  # 3 3 f
    scale = 1 / (table.focal * min(height, width))  # f: the width of a pixel at depth 1
    x = torch.arange(width) + 0.5 - width / 2  # pixels to the right of the optical axis
    y = height / 2 - 0.5 - torch.arange(height)  # and above it
    shift_x, shift_y = torch.tensor(offsets, dtype=torch.float32).unbind(-1)

    # The stage, as if it were empty.
    across = per_frame(scale) * (x + shift_x[:, None, None])  # f s 1 w
    up = per_frame(scale) * (y[:, None] - shift_y[:, None, None])  # f s h 1
    direction = _directions(per_frame(axes), across, up)
    depth = _depth_of_stage(per_frame(eye), direction)

    # The things: how far along each ray of its window the ray enters a thing.
    local_eye = points_to_local(eye[:, things.frame], things.pose)
    local_axes = to_local(axes[:, :, things.frame].unbind(1), things.pose)
    camera = torch.cat([torch.stack(local_eye)[None], torch.stack(local_axes, dim=1)])
    camera = camera.flatten(0, 1)  # 12 k: the eye's coordinates, then each axis's
    x_of_pixel, y_of_pixel = x.repeat(height), y.repeat_interleave(width)
    windows = windows_of_things(table, things, height, width)
    found = []
    for shape, part in things.shapes.items():
        thing, pixel = windows.pixels(part)  # m each
        frame = take(things.frame, thing)
        size = take(scale, frame)
        across = size * (take(x_of_pixel, pixel) + shift_x[:, None])  # s m
        up = size * (take(y_of_pixel, pixel) - shift_y[:, None])
        origin, *part_axes = camera.index_select(1, thing).view(4, 3, -1)
        enter, leave = INTERVALS[shape](origin, _directions(part_axes, across, up))
        hit = indices(less(enter, leave).logical_and_(less(0, enter)))
        ray = ray_numbers(frame, pixel, depth.shape)
        found.append((take(ray, hit), take(enter, hit), take(thing.repeat(len(ray)), hit)))

    nearest = _keep_nearest(depth, things, *(torch.cat(each) for each in zip(*found, strict=True)))
    point = tuple((depth * d).add_(e) for e, d in zip(per_frame(eye), direction, strict=True))
    return Hits(depth, nearest, point, direction)


def _keep_nearest(
    depth: Tensor, things: Things, rays: Tensor, enters: Tensor, numbers: Tensor
) -> Tensor:
    """Shorten the rays to the nearest of the n places where they enter a thing.

    Changes `depth` and returns the number of the thing that each ray ends on, k for none.  No two
    things that have the same place in their scenes share a ray.
    """
    place = take(things.place, numbers)
    nearest = torch.full_like(depth, len(things.frame))
    for number in range(3):
        of_place = indices(place == number)
        before = take(depth, take(rays, of_place))
        nearer = take(of_place, indices(less(take(enters, of_place), before)))
        ray = take(rays, nearer)
        depth.view(-1).index_copy_(0, ray, take(enters, nearer))
        nearest.view(-1).index_copy_(0, ray, take(numbers, nearer).float())
    return nearest


def ray_numbers(frame: Tensor, pixel: Tensor, shape: torch.Size) -> Tensor:
    """Return where the rays of m pixels are in a flattened f s h w: s m."""
    _, samples, height, width = shape
    size = height * width
    return frame * (samples * size) + pixel + torch.arange(samples)[:, None] * size


def _directions(axes, across: Tensor, up: Tensor) -> Point:
    """Compute forward + across * right + up * upwards, coordinate by coordinate."""
    return tuple((across * r + f) + up * u for r, u, f in zip(*axes, strict=True))


def _depth_of_stage(eye, direction: Point) -> Tensor:
    """Return the depth at which the rays hit the floor or, beyond its rim, the dome."""
    z = eye[2]
    dz = direction[2]
    a = dot(direction, direction)
    b = dot(eye, direction)
    c = dot(eye, eye) - DOME_RADIUS * DOME_RADIUS
    dome = square_root((b * b).sub_(a * c)).sub_(b).div_(a)
    floor = -z / dz.clamp(max=-1e-9)  # A ray that does not go down meets it beyond the dome.
    return torch.minimum(floor, dome)


@dataclass
class Surface:
    """The n rays that end on things, shape after shape."""

    ray: Tensor  # n: index into a flattened f s h w
    thing: Tensor  # n
    pose: Tensor  # 6 n: of the thing
    local: Point  # three tensors n: the point in the thing's own frame
    normal: Point  # three tensors n: in the world


def surface(things: Things, hits: Hits) -> Surface:
    """Gather what the shading and the geometry of the things start from."""
    ray = indices(less(hits.thing, len(things.frame)))
    thing = take(hits.thing, ray)
    of_shapes = [
        indices(less(part.start - 1, thing).logical_and_(less(thing, part.stop)))
        for part in things.shapes.values()
    ]
    order = torch.cat(of_shapes)
    ray, thing = take(ray, order), take(thing, order).long()

    pose = things.pose.index_select(1, thing)
    local = torch.stack(points_to_local([take(each, ray) for each in hits.point], pose))
    parts = local.split([len(each) for each in of_shapes], dim=1)
    of_parts = [normal(shape, part) for shape, part in zip(things.shapes, parts, strict=True)]
    world = to_world([torch.cat(each) for each in zip(*of_parts, strict=True)], pose)
    return Surface(ray, thing, pose, local, world)
