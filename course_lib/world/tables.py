"""Tables: what the renderer needs to know about frames and about the things in them, as tensors."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from course_lib.world.motion import DURATION_SECONDS, poses, view
from course_lib.world.scene import COLOURS, FLOORS, SHAPES, Scene
from course_lib.world.solids import Point, indices


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
    """The k things of some frames, sorted by shape."""

    frame: Tensor  # k: the frame a thing is in
    place: Tensor  # k: its place in the scene
    shapes: dict[str, slice]  # where each shape is among the k
    pose: Tensor  # 6 k: the foot's x, y, z; cosine and sine of the yaw; 1 / scale
    look: Tensor  # 4 k: red, green, blue; whether it is shiny

    def of_place(self, place: int) -> Tensor:
        """Return the numbers of the things in one place of their scenes: at most one a frame."""
        return indices(self.place == place)


def gather_things(table: Frames) -> Things:
    """List the things of all frames, shape after shape."""
    order = [(table.shape == number).nonzero() for number in range(len(SHAPES))]
    frame, place = torch.cat(order).unbind(-1)

    shapes = {}
    start = 0
    for shape, rows in zip(SHAPES, order, strict=True):
        if len(rows):
            shapes[shape] = slice(start, start + len(rows))
            start += len(rows)

    foot, turn, scale = (each[frame, place] for each in (table.foot, table.turn, table.scale))
    colour, shiny = table.colour[frame, place], table.shiny[frame, place]
    return Things(
        frame=frame,
        place=place,
        shapes=shapes,
        pose=torch.stack([*foot.unbind(-1), *turn.unbind(-1), 1 / scale]),
        look=torch.stack([*colour.unbind(-1), shiny]),
    )


def to_local(vectors: Point, pose: Tensor) -> Point:
    """Turn directions of the world into the frames of things.

    In its own frame a thing is a unit solid of `solids`: lengths are divided by its half width.
    The six numbers of `pose` broadcast against the vectors.
    """
    x, y, z = vectors
    c, s, inverse = pose[3:]
    along = (x * c).add_(y * s).mul_(inverse)
    across = (y * c).sub_(x * s).mul_(inverse)
    return along, across, z * inverse


def points_to_local(points: Point, pose: Tensor) -> Point:
    """Move points of the world into the frames of things."""
    return to_local([p - foot for p, foot in zip(points, pose[:3], strict=True)], pose)


def to_world(vectors: Point, pose: Tensor) -> Point:
    """Turn unit vectors of the things' frames into the world."""
    x, y, z = vectors
    c, s = pose[3:5]
    return (x * c).sub_(y * s), (x * s).add_(y * c), z


def per_frame(vector: Tensor) -> Tensor:
    """Turn a number per frame (... f) into one that broadcasts against its rays (... f 1 1 1)."""
    return vector[..., None, None, None]
