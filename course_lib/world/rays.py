"""Rays and what they meet: a table of frames, the things in them, and `trace`.

Every coordinate is a tensor of its own, f s h w: frame, sample within the pixel, row, column.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from course_lib.world.motion import DURATION, poses, view
from course_lib.world.scene import COLOURS, FLOORS, SHAPES, Scene
from course_lib.world.solids import INTERVALS, Point, normal

DOME = 10.0  # metres: the radius of the round floor and of the backdrop over it
CENTRE = ((0.0, 0.0),)  # one ray through the middle of each pixel


@dataclass
class Frames:
    """What the rays need to know about f frames, as tensors; colours are linear light."""

    eye: Tensor  # f 3
    right: Tensor  # f 3
    up: Tensor  # f 3
    forward: Tensor  # f 3
    focal: Tensor  # f
    sun: Tensor  # f 3 3: towards the sun, and two directions across
    pattern: Tensor  # f: index in FLOORS
    tiling: Tensor  # f 4: cosine and sine of the angle times tiles per metre, and the offset
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
    """Height and width of a picture.  ValueError unless 4 to 1024 each and at most 1 : 2."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    height, width = (
        pair if len(pair) == 2 and all(isinstance(side, int) for side in pair) else (0, 0)
    )
    if not (
        4 <= height <= 1024 and 4 <= width <= 1024 and max(height, width) <= 2 * min(height, width)
    ):
        raise ValueError(
            f"size: expected (height, width) of 4 to 1024, at most 1 : 2, got {size!r}"
        )
    return height, width


def frame_times(frames: int) -> list[float]:
    """The times in seconds of the frames of a clip: from 0 to `DURATION`, evenly."""
    return [DURATION * frame / max(frames - 1, 1) for frame in range(frames)]


def tabulate(scenes: list[Scene], frames: int) -> Frames:
    """All frames of all scenes, scene after scene."""
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    rows = [_row(scene, time) for scene in scenes for time in frame_times(frames)]
    columns = [torch.tensor(column, dtype=torch.float32) for column in zip(*rows, strict=True)]
    table = Frames(*columns)
    table.pattern, table.shape = table.pattern.long(), table.shape.long()
    return table


def _row(scene: Scene, time: float) -> tuple:
    """One frame's entries for `Frames`, in the order of its fields."""
    camera, floor = view(scene.camera, time), scene.floor
    now = list(zip(scene.things, poses(scene, time), strict=True))
    azimuth, elevation = scene.sun
    ca, sa, ce, se = (round(f(a), 6) for a in (azimuth, elevation) for f in (math.cos, math.sin))
    c, s = (round(f(floor.angle) * floor.tiles, 6) for f in (math.cos, math.sin))
    pad = 3 - len(now)
    return (
        camera.eye,
        camera.right,
        camera.up,
        camera.forward,
        camera.focal,
        ((sa * ce, ca * ce, se), (ca, -sa, 0.0), (-sa * se, -ca * se, ce)),
        FLOORS.index(floor.pattern),
        (c, s, *floor.offset),
        [_linear(tone) for tone in floor.colours],
        [_linear(end) for end in scene.backdrop],
        [SHAPES.index(thing.shape) for thing, _ in now] + [-1] * pad,
        [(pose.x, pose.y, pose.z) for _, pose in now] + [(0.0, 0.0, 0.0)] * pad,
        [(round(math.cos(pose.yaw), 6), round(math.sin(pose.yaw), 6)) for _, pose in now]
        + [(1.0, 0.0)] * pad,
        [pose.scale for _, pose in now] + [1.0] * pad,
        [_linear(COLOURS[thing.colour]) for thing, _ in now] + [(0.0, 0.0, 0.0)] * pad,
        [float(thing.material == "shiny") for thing, _ in now] + [0.0] * pad,
    )


def _linear(colour: tuple[float, ...]) -> tuple[float, ...]:
    """sRGB as linear light, with gamma 2 so that its inverse is the exact square root."""
    return tuple(value * value for value in colour)


@dataclass
class Things:
    """The k things of some frames, sorted by shape, and the way into the own frame of each.

    There a thing is a unit solid of `solids`: lengths are divided by its half width.
    """

    frame: Tensor  # k: the frame a thing is in
    shapes: dict[str, slice]  # where each shape stands among the k
    # f 3: the number of each frame's first, second, third thing; k stands for none
    of_frame: Tensor
    index: Tensor  # k: the place of a thing in its scene
    foot: Point  # of k
    turn: tuple[Tensor, Tensor]  # of k
    inverse: Tensor  # k: 1 / scale
    colour: Tensor  # k 3
    shiny: Tensor  # k

    @property
    def pose(self) -> Point:
        """The numbers, k each, that say where a thing is."""
        return *self.foot, *self.turn, self.inverse

    def places(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The frames that have a first thing and its number, then those that have a second, a
        third.
        """
        for numbers in self.of_frame.unbind(-1):
            frames = (numbers < len(self.frame)).nonzero()[:, 0]
            yield frames, numbers[frames]

    def to_local(self, vectors: Point, things: Tensor | slice = slice(None)) -> Point:
        """Directions of the world, one or more per thing, in the frames of these things."""
        x, y, z = vectors
        c, s, inverse = (expand_to(each[things], x) for each in (*self.turn, self.inverse))
        return (x * c + y * s) * inverse, (y * c - x * s) * inverse, z * inverse

    def points_to_local(self, points: Point, things: Tensor | slice = slice(None)) -> Point:
        """Points of the world in the frames of these things."""
        return self.to_local(
            tuple(p - expand_to(f[things], p) for p, f in zip(points, self.foot, strict=True)),
            things,
        )

    def to_world(self, vectors: Point, things: Tensor | slice = slice(None)) -> Point:
        """Unit vectors of the things' frames in the world."""
        (x, y, z), (c, s) = vectors, (expand_to(each[things], vectors[0]) for each in self.turn)
        return x * c - y * s, x * s + y * c, z


@dataclass
class Hits:
    """Where the rays of some frames end; all tensors are f s h w.

    `thing` is a number in `Things`, or k for the floor and the dome.
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
    shapes, start = {}, 0
    for shape, rows in zip(SHAPES, order, strict=True):
        if len(rows):
            shapes[shape] = slice(start, start + len(rows))
            start += len(rows)
    return Things(
        frame,
        shapes,
        of_frame,
        index,
        foot=table.foot[frame, index].unbind(-1),
        turn=table.turn[frame, index].unbind(-1),
        inverse=1 / table.scale[frame, index],
        colour=table.colour[frame, index],
        shiny=table.shiny[frame, index],
    )


def trace(table: Frames, things: Things, height: int, width: int, offsets=CENTRE) -> Hits:
    """Send the rays; `depth` is along the optical axis, because directions are 1 long along it."""
    across, up = pixel_grid(table, height, width, offsets)
    axes = [vectors.unbind(-1) for vectors in (table.right, table.up, table.forward)]
    direction = _directions(axes, across, up)
    eye = table.eye.unbind(-1)
    depth = _depth_of_stage([expand_to(each, direction[0]) for each in eye], direction)
    frame = things.frame
    local_eye = things.points_to_local([each[frame] for each in eye])
    local_axes = [things.to_local([each[frame] for each in axis]) for axis in axes]
    enters = []
    for shape, part in things.shapes.items():
        origin = [expand_to(each[part], depth) for each in local_eye]
        rays = _directions(
            [[each[part] for each in axis] for axis in local_axes],
            across[frame[part]],
            up[frame[part]],
        )
        enter, leave = INTERVALS[shape](origin, rays)
        enters.append(torch.where((enter < leave) & (enter > 0), enter, torch.inf))
    enters = torch.cat(enters)
    thing = torch.full(depth.shape, len(frame), dtype=torch.int32)
    for frames, numbers in things.places():
        enter, before = enters.index_select(0, numbers), depth.index_select(0, frames)
        nearer = torch.where(
            enter < before, expand_to(numbers.int(), depth), thing.index_select(0, frames)
        )
        thing[frames], depth[frames] = nearer, torch.minimum(enter, before)
    point = tuple(expand_to(o, depth) + depth * d for o, d in zip(eye, direction, strict=True))
    return Hits(depth, thing, point, direction)


def pixel_grid(table: Frames, height: int, width: int, offsets) -> tuple[Tensor, Tensor]:
    """How far right (f s 1 w) and up (f s h 1) of the optical axis each ray goes, at depth 1."""
    x, y = torch.tensor(offsets, dtype=torch.float32).unbind(-1)
    pixel = 1 / (table.focal * min(height, width))[:, None, None, None]
    across = (torch.arange(width) + 0.5 - width / 2) + x[:, None]
    up = (height / 2 - 0.5 - torch.arange(height)) - y[:, None]
    return pixel * across[:, None, :], pixel * up[:, :, None]


def _directions(axes, across: Tensor, up: Tensor) -> Point:
    """forward + across * right + up * upwards, coordinate by coordinate."""
    return tuple(
        (across * expand_to(r, across) + expand_to(f, across)) + up * expand_to(u, up)
        for r, u, f in zip(*axes, strict=True)
    )


def _depth_of_stage(eye, direction: Point) -> Tensor:
    """Where the rays meet the floor or, beyond its rim, the dome."""
    (x, y, z), (dx, dy, dz) = eye, direction
    a, b, c = (
        dx * dx + dy * dy + dz * dz,
        x * dx + y * dy + z * dz,
        x * x + y * y + z * z - DOME * DOME,
    )
    dome = ((b * b - a * c).sqrt_() - b) / a
    floor = -z / dz
    return torch.where((dz < 0) & (floor < dome), floor, dome)


def expand_to(vector: Tensor, other: Tensor) -> Tensor:
    """f -> f 1 ..., with as many axes as the other tensor."""
    return vector.view(-1, *[1] * (other.ndim - 1))


def thing_hits(things: Things, hits: Hits) -> tuple[Tensor, Tensor]:
    """The rays that end on a thing, as places in a flattened f s h w, and the thing of each."""
    thing = hits.thing.view(-1)
    where = (thing < len(things.frame)).nonzero()[:, 0]
    return where, thing[where].long()


def normals(things: Things, thing: Tensor, local: Point) -> Point:
    """The unit normals, in the world, of points in the frames of their things."""
    result = [torch.empty_like(each) for each in local]
    for shape, part in things.shapes.items():
        of_shape = ((thing >= part.start) & (thing < part.stop)).nonzero()[:, 0]
        for out, values in zip(
            result, normal(shape, [each[of_shape] for each in local]), strict=True
        ):
            out[of_shape] = values
    return things.to_world(result, thing)
