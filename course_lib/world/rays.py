"""Rays and what they hit: a table of frames, the things in them, and `trace`.

Every coordinate is a tensor of its own, f s h w: frame, sample within the pixel, row, column.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from course_lib.world.motion import DURATION_SECONDS, poses, view
from course_lib.world.scene import COLOURS, FLOORS, SHAPES, Scene
from course_lib.world.solids import INTERVALS, Point, dot, normal, square_root

DOME_RADIUS = 10.0  # metres: the radius of the round floor and of the backdrop over it
CENTRE = ((0.0, 0.0),)  # one ray through the middle of each pixel


@dataclass
class Frames:
    """What the rays need to know about f frames, as tensors; colours are linear light."""

    eye: Tensor  # f 3
    right: Tensor  # f 3
    up: Tensor  # f 3
    forward: Tensor  # f 3
    focal: Tensor  # f
    sun: Tensor  # f 3 3: the direction towards the sun, and two at right angles to it
    pattern: Tensor  # f: index in FLOORS
    tiling: Tensor  # f 4: cosine and sine of the angle, each times tiles per metre; the offset
    tones: Tensor  # f 2 3
    sky: Tensor  # f 2 3: at the horizon, high up
    shape: Tensor  # f 3: index in SHAPES, -1 for no thing
    foot: Tensor  # f 3 3
    turn: Tensor  # f 3 2: cosine and sine of the yaw
    scale: Tensor  # f 3
    colour: Tensor  # f 3 3
    shiny: Tensor  # f 3

    def __len__(self) -> int:
        return len(self.eye)

    def __getitem__(self, rows) -> "Frames":
        return Frames(*(getattr(self, field.name)[rows] for field in fields(self)))


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


def frame_times(frames: int) -> list[float]:
    """Return the times of a clip's frames, in seconds: evenly from 0 to `DURATION_SECONDS`."""
    return [DURATION_SECONDS * frame / max(frames - 1, 1) for frame in range(frames)]


def tabulate(scenes: list[Scene], frames: int) -> Frames:
    """Tabulate all frames of all scenes, scene after scene."""
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    times = frame_times(frames)
    rows = [row for scene in scenes for row in _rows(scene, times)]
    columns = [torch.tensor(column, dtype=torch.float32) for column in zip(*rows, strict=True)]
    table = Frames(*columns)
    table.pattern = table.pattern.long()
    table.shape = table.shape.long()
    return table


def _rows(scene: Scene, times: list[float]) -> Iterator[tuple]:
    """Yield each frame's entries for `Frames`, in the order of its fields."""
    floor, things = scene.floor, scene.things
    absent = 3 - len(things)
    azimuth, elevation = scene.sun
    ca, sa = _cos_sin(azimuth)
    ce, se = _cos_sin(elevation)
    sun = ((sa * ce, ca * ce, se), (ca, -sa, 0.0), (-sa * se, -ca * se, ce))
    stage = (
        sun,
        FLOORS.index(floor.pattern),
        (*_cos_sin(floor.angle, floor.tiles), *floor.offset),
        [_linear(tone) for tone in floor.colours],
        [_linear(end) for end in scene.backdrop],
        [SHAPES.index(thing.shape) for thing in things] + [-1] * absent,
    )
    colours = [_linear(COLOURS[thing.colour]) for thing in things] + [(0.0, 0.0, 0.0)] * absent
    shiny = [float(thing.material == "shiny") for thing in things] + [0.0] * absent

    first_view = view(scene.camera, 0.0)
    is_still = scene.camera.sweep == 0 and scene.camera.zoom == 1
    for time in times:
        camera = first_view if is_still else view(scene.camera, time)
        now = poses(scene, time)
        yield (
            camera.eye,
            camera.right,
            camera.up,
            camera.forward,
            camera.focal,
            *stage,
            [(pose.x, pose.y, pose.z) for pose in now] + [(0.0, 0.0, 0.0)] * absent,
            [_cos_sin(pose.yaw) for pose in now] + [(1.0, 0.0)] * absent,
            [pose.scale for pose in now] + [1.0] * absent,
            colours,
            shiny,
        )


def _cos_sin(angle: float, length: float = 1.0) -> tuple[float, float]:
    """Return length times cosine and sine, rounded: their last bits depend on the machine."""
    return round(math.cos(angle) * length, 6), round(math.sin(angle) * length, 6)


def _linear(colour: tuple[float, ...]) -> tuple[float, ...]:
    """Turn sRGB into linear light, with gamma 2 so that the inverse is the exact square root."""
    return tuple(value * value for value in colour)


@dataclass
class Things:
    """The k things of some frames, sorted by shape, with the transform into each thing's own frame.

    In its own frame a thing is a unit solid of `solids`: lengths are divided by its half width.
    """

    frame: Tensor  # k: the frame a thing is in
    shapes: dict[str, slice]  # where each shape is among the k
    of_frame: Tensor  # f 3: the number of each frame's first, second, third thing; k means none
    index: Tensor  # k: the place of a thing in its scene
    foot: Point  # three tensors k
    turn: tuple[Tensor, Tensor]  # two tensors k
    inverse: Tensor  # k: 1 / scale
    colour: Tensor  # k 3
    shiny: Tensor  # k

    @property
    def pose(self) -> Point:
        """Return the numbers, k each, that say where a thing is."""
        return *self.foot, *self.turn, self.inverse

    def to_local(self, vectors: Point, things: Tensor | slice = slice(None)) -> Point:
        """Turn directions of the world, one or more per thing, into the frames of these things."""
        x, y, z = vectors
        c, s, inverse = (expand_to(each[things], x) for each in (*self.turn, self.inverse))
        along = (x * c).add_(y * s).mul_(inverse)
        across = (y * c).sub_(x * s).mul_(inverse)
        return along, across, z * inverse

    def points_to_local(self, points: Point, things: Tensor | slice = slice(None)) -> Point:
        """Move points of the world into the frames of these things."""
        return self.to_local(
            tuple(p - expand_to(f[things], p) for p, f in zip(points, self.foot, strict=True)),
            things,
        )

    def to_world(self, vectors: Point, things: Tensor | slice = slice(None)) -> Point:
        """Turn unit vectors of the things' frames into the world."""
        x, y, z = vectors
        c, s = (expand_to(each[things], x) for each in self.turn)
        return (x * c).sub_(y * s), (x * s).add_(y * c), z


@dataclass
class Hits:
    """Where the rays of some frames end; all tensors are f s h w.

    `thing` is a number in `Things`; k means the floor or the dome.
    """

    depth: Tensor
    thing: Tensor
    point: Point
    direction: Point


def gather_things(table: Frames) -> Things:
    """List the things of all frames, shape after shape."""
    order = [(table.shape == number).nonzero() for number in range(len(SHAPES))]
    frame, index = torch.cat(order).unbind(-1)
    of_frame = torch.full_like(table.shape, len(frame))
    of_frame[frame, index] = torch.arange(len(frame))

    shapes = {}
    start = 0
    for shape, rows in zip(SHAPES, order, strict=True):
        if len(rows):
            shapes[shape] = slice(start, start + len(rows))
            start += len(rows)

    return Things(
        frame=frame,
        shapes=shapes,
        of_frame=of_frame,
        index=index,
        foot=table.foot[frame, index].unbind(-1),
        turn=table.turn[frame, index].unbind(-1),
        inverse=1 / table.scale[frame, index],
        colour=table.colour[frame, index],
        shiny=table.shiny[frame, index],
    )


def trace(table: Frames, things: Things, height: int, width: int, offsets=CENTRE) -> Hits:
    """Follow the rays to what they hit.

    A ray goes through its pixel at depth 1, so `depth` is measured along the optical axis.
    """
    across, up = pixel_grid(table, height, width, offsets)
    axes = [vectors.unbind(-1) for vectors in (table.right, table.up, table.forward)]
    direction = _directions(axes, across, up)
    eye = table.eye.unbind(-1)
    depth = _depth_of_stage([expand_to(each, direction[0]) for each in eye], direction)

    # For every thing of a frame: how far along each ray of that frame the ray enters it.
    frame = things.frame
    local_eye = things.points_to_local([each[frame] for each in eye])
    local_axes = [things.to_local([each[frame] for each in axis]) for axis in axes]
    nowhere = torch.tensor(torch.inf)
    enters = nowhere.repeat(len(frame) + 1, *depth.shape[1:])  # the last: of no thing
    for shape, part in things.shapes.items():
        origin = [expand_to(each[part], depth) for each in local_eye]
        part_axes = [[each[part] for each in axis] for axis in local_axes]
        rays = _directions(part_axes, across[frame[part]], up[frame[part]])
        enter, leave = INTERVALS[shape](origin, rays)
        is_hit = (enter < leave).logical_and_(enter > 0)
        torch.where(is_hit, enter, nowhere, out=enters[part])

    # The nearest hit of each ray, among the stage and up to three things.
    thing = torch.full(depth.shape, len(frame), dtype=torch.int32)
    for numbers in things.of_frame.unbind(-1):
        enter = enters.index_select(0, numbers)
        number = expand_to(numbers.int(), depth)
        thing = torch.where(enter < depth, number, thing)
        depth = torch.minimum(enter, depth)

    point = tuple((depth * d).add_(expand_to(o, d)) for o, d in zip(eye, direction, strict=True))
    return Hits(depth, thing, point, direction)


def pixel_grid(table: Frames, height: int, width: int, offsets) -> tuple[Tensor, Tensor]:
    """Return how far right (f s 1 w) and up (f s h 1) of the optical axis a ray is at depth 1."""
    x, y = torch.tensor(offsets, dtype=torch.float32).unbind(-1)
    pixel = 1 / (table.focal * min(height, width))[:, None, None, None]
    across = (torch.arange(width) + 0.5 - width / 2) + x[:, None]
    up = (height / 2 - 0.5 - torch.arange(height)) - y[:, None]
    return pixel * across[:, None, :], pixel * up[:, :, None]


def _directions(axes, across: Tensor, up: Tensor) -> Point:
    """Compute forward + across * right + up * upwards, coordinate by coordinate."""
    return tuple(
        (across * expand_to(r, across) + expand_to(f, across)) + up * expand_to(u, up)
        for r, u, f in zip(*axes, strict=True)
    )


def _depth_of_stage(eye, direction: Point) -> Tensor:
    """Return the depth at which the rays hit the floor or, beyond its rim, the dome."""
    z = eye[2]
    dz = direction[2]
    a = dot(direction, direction)
    b = dot(eye, direction)
    c = dot(eye, eye) - DOME_RADIUS * DOME_RADIUS
    dome = square_root((b * b).sub_(a * c)).sub_(b).div_(a)
    floor = -z / dz
    return torch.where((dz < 0) & (floor < dome), floor, dome)


def expand_to(vector: Tensor, other: Tensor) -> Tensor:
    """Append axes of length 1, f -> f 1 ..., until there are as many as in the other tensor."""
    return vector.view(-1, *[1] * (other.ndim - 1))


def thing_hits(things: Things, hits: Hits) -> tuple[Tensor, Tensor]:
    """Return the rays that end on a thing, as indices into a flattened f s h w, and that thing."""
    thing = hits.thing.view(-1)
    where = (thing < len(things.frame)).nonzero()[:, 0]
    return where, thing[where].long()


def normals(things: Things, thing: Tensor, local: Point) -> Point:
    """Return the unit normals, in the world, of points in the frames of their things."""
    result = [torch.empty_like(each) for each in local]
    for shape, part in things.shapes.items():
        of_shape = ((thing >= part.start) & (thing < part.stop)).nonzero()[:, 0]
        of_part = normal(shape, [each[of_shape] for each in local])
        for out, values in zip(result, of_part, strict=True):
            out[of_shape] = values
    return things.to_world(result, thing)
