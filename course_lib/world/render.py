"""Rays to pixels: the pictures of the little world, by analytic ray casting in plain torch.

A chunk of frames is rendered at once.  Every pixel sends a few rays (`SAMPLES`, a pattern in which no
two share a row or a column); each meets the nearest solid, the floor or the dome that closes the stage,
and looks from there to its own point of the lamp, so that edges and shadows are smooth.

What is promised: the same bytes from the same seed.  Work per pixel is float32 and uses only + - * /
sqrt, floor, comparisons and min/max, one torch call each, whose results IEEE 754 fixes to the last bit;
the order of every sum is written out.  So neither the number of threads, nor the batch a picture is in,
nor the vector unit of a CPU that follows IEEE 754 (x86-64, arm64) can change a byte.  The stored digests
in tests/world watch over it.  Other devices and `torch.compile` are outside the promise.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from course_lib.shapes import UInt8
from course_lib.world.motion import DURATION, poses, view
from course_lib.world.scene import COLOURS, FLOORS, SHAPES, Scene
from course_lib.world.solids import INTERVALS, Point, normal

DOME = 10.0  # metres: the radius of the round floor and of the backdrop over it
BACKDROP, FLOOR, FIRST_THING = 0, 1, 2  # the ids in a segmentation
RAYS_PER_CHUNK = 2**17
CENTRE = ((0.0, 0.0),)
SAMPLES = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))
FINE_SAMPLES = tuple(
    (x / 16, y / 16) for x, y in ((-7, -3), (-5, 5), (-3, -5), (-1, 1), (1, -7), (3, 7), (5, -1), (7, 3))
)
LAMP = 0.09  # radius of the lamp, at distance 1: how soft the shadows are


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


@dataclass
class Things:
    """The k things of some frames, sorted by shape, with eye, axes and sun in each thing's own frame.

    There a thing is a unit solid of `solids`: lengths are divided by its half width.
    """

    frame: Tensor  # k: the frame a thing is in
    shapes: dict[str, slice]  # where each shape stands among the k
    of_frame: Tensor  # f 3: the number of each frame's first, second, third thing; k stands for none
    index: Tensor  # k: the place of a thing in its scene
    foot: Point  # of k
    turn: tuple[Tensor, Tensor]  # of k
    inverse: Tensor  # k: 1 / scale
    colour: Tensor  # k 3
    shiny: Tensor  # k

    def to_local(self, vectors: Point, things: Tensor | slice = slice(None)) -> Point:
        """Directions of the world, one or more per thing, in the frames of these things."""
        x, y, z = vectors
        c, s, inverse = (_beside(each[things], x) for each in (*self.turn, self.inverse))
        return (x * c + y * s) * inverse, (y * c - x * s) * inverse, z * inverse

    def points_to_local(self, points: Point, things: Tensor | slice = slice(None)) -> Point:
        """Points of the world in the frames of these things."""
        return self.to_local(tuple(p - _beside(f[things], p) for p, f in zip(points, self.foot, strict=True)), things)

    def to_world(self, vectors: Point, things: Tensor | slice = slice(None)) -> Point:
        """Unit vectors of the things' frames in the world."""
        (x, y, z), (c, s) = vectors, (_beside(each[things], vectors[0]) for each in self.turn)
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


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture.  ValueError unless 4 to 1024 each and at most 1 : 2."""
    height, width = (size, size) if isinstance(size, int) else size
    if not (4 <= height <= 1024 and 4 <= width <= 1024 and max(height, width) <= 2 * min(height, width)):
        raise ValueError(f"size: expected (height, width) of 4 to 1024, at most 1 : 2, got {size!r}")
    return height, width


def frame_times(frames: int) -> list[float]:
    """The times in seconds of the frames of a clip: from 0 to `DURATION`, evenly."""
    return [DURATION * frame / max(frames - 1, 1) for frame in range(frames)]


def tabulate(scenes: list[Scene], frames: int) -> Frames:
    """All frames of all scenes, scene after scene."""
    rows = [_row(scene, time) for scene in scenes for time in frame_times(frames)]
    columns = [torch.tensor(column, dtype=torch.float32) for column in zip(*rows, strict=True)]
    table = Frames(*columns)
    table.pattern, table.shape = table.pattern.long(), table.shape.long()
    return table


def render_rgb(table: Frames, height: int, width: int) -> UInt8[Tensor, "f h w 3"]:
    """The pictures of the tabulated frames."""
    # A small picture shows every step of an edge, a big one every step of a soft shadow.
    offsets = SAMPLES if 20 < min(height, width) < 96 else FINE_SAMPLES
    rows = max(1, RAYS_PER_CHUNK // (len(offsets) * height * width))
    pictures = [_picture(table[start : start + rows], height, width, offsets) for start in range(0, len(table), rows)]
    return torch.cat(pictures)


def _picture(table: Frames, height: int, width: int, offsets) -> Tensor:
    things = gather_things(table)
    hits = trace(table, things, height, width, offsets)
    light = _light(table, things, hits, offsets)
    channels = _shade_stage(table, hits, light)
    _shade_things(table, things, hits, light, channels)
    return torch.stack([_develop(channel) for channel in channels], dim=-1)


def _develop(channel: Tensor) -> Tensor:
    """Average the rays of each pixel, in a fixed order, and turn linear light (gamma 2) into bytes."""
    total = channel[:, 0]
    for sample in range(1, channel.shape[1]):
        total = total + channel[:, sample]
    mean = (total * (1 / channel.shape[1])).clamp_(0, 1)
    return (mean.sqrt_() * 255 + 0.5).floor_().to(torch.uint8)


# --------------------------------------------------------------------------- rays and solids


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
    depth = _depth_of_stage([_beside(each, direction[0]) for each in eye], direction)
    frame = things.frame
    local_eye = things.points_to_local([each[frame] for each in eye])
    local_axes = [things.to_local([each[frame] for each in axis]) for axis in axes]
    enters = [torch.full_like(depth[:1], torch.inf)]  # stands for a thing that is not there
    for shape, part in reversed(things.shapes.items()):
        origin = [_beside(each[part], depth) for each in local_eye]
        rays = _directions([[each[part] for each in axis] for axis in local_axes], across[frame[part]], up[frame[part]])
        enter, leave = INTERVALS[shape](origin, rays)
        enters.insert(0, torch.where((enter < leave) & (enter > 0), enter, torch.inf))
    enters = torch.cat(enters)
    thing = torch.full(depth.shape, len(frame), dtype=torch.int32)
    for numbers in things.of_frame.unbind(-1):
        enter = enters[numbers]
        thing = torch.where(enter < depth, _beside(numbers.int(), depth), thing)
        depth = torch.minimum(enter, depth)
    point = tuple(_beside(o, depth) + depth * d for o, d in zip(eye, direction, strict=True))
    return Hits(depth, thing, point, direction)


def pixel_grid(table: Frames, height: int, width: int, offsets) -> tuple[Tensor, Tensor]:
    """How far right (f s 1 w) and up (f s h 1) of the optical axis each ray goes, at depth 1."""
    x, y = torch.tensor(offsets, dtype=torch.float32).unbind(-1)
    pixel = 1 / (table.focal * min(height, width))
    across = (torch.arange(width) + 0.5 - width / 2) + x[:, None]
    up = (height / 2 - 0.5 - torch.arange(height)) - y[:, None]
    return _rows(pixel) * across[:, None, :], _rows(pixel) * up[:, :, None]


def _directions(axes, across: Tensor, up: Tensor) -> Point:
    """forward + across * right + up * upwards, coordinate by coordinate."""
    return tuple((across * _rows(r) + _rows(f)) + up * _rows(u) for r, u, f in zip(*axes, strict=True))


def _depth_of_stage(eye, direction: Point) -> Tensor:
    """Where the rays meet the floor or, beyond its rim, the dome."""
    (x, y, z), (dx, dy, dz) = eye, direction
    a, b, c = dx * dx + dy * dy + dz * dz, x * dx + y * dy + z * dz, x * x + y * y + z * z - DOME * DOME
    dome = ((b * b - a * c).sqrt_() - b) / a
    floor = -z / dz
    return torch.where((dz < 0) & (floor < dome), floor, dome)


def _rows(vector: Tensor) -> Tensor:
    """f -> f 1 1 1, to stand beside f s h w."""
    return vector[:, None, None, None]


def _beside(vector: Tensor, other: Tensor) -> Tensor:
    """f -> f 1 ..., with as many axes as the other tensor."""
    return vector.view(-1, *[1] * (other.ndim - 1))


# --------------------------------------------------------------------------- light


def _light(table: Frames, things: Things, hits: Hits, offsets) -> tuple[Tensor, Tensor]:
    """For every hit: whether it sees its point of the lamp (1 or 0), and how open its sky is."""
    frame, count = things.frame, len(things.frame)
    sun, side, over = table.sun[frame].unbind(1)
    lamp = LAMP * 2 * torch.tensor(offsets, dtype=torch.float32)
    towards = sun[:, None] + lamp[:, :1] * side[:, None] + lamp[:, 1:] * over[:, None]  # k s 3
    towards = [each[:, :, None, None] for each in things.to_local(towards.unbind(-1))]
    sees = [torch.ones_like(hits.depth[:1])]
    open_sky = [torch.ones_like(hits.depth[:1])]
    for shape, part in reversed(things.shapes.items()):
        origin = things.points_to_local([each[frame[part]] for each in hits.point], part)
        enter, leave = INTERVALS[shape](origin, [each[part] for each in towards])
        number = torch.arange(count, dtype=torch.int32)[part]
        other = hits.thing[frame[part]] != _rows(number)
        sees.insert(0, 1 - ((enter < leave) & (leave > 0) & other).float())
        # A body above a point hides a part of its sky: the soft dark spot under everything.
        x, y, z = origin
        near = 1 / (1 + (x * x + y * y + z * z))
        open_sky.insert(0, torch.where(other, 1 - 0.62 * (near * near), 1))
    sees, open_sky = torch.cat(sees), torch.cat(open_sky)
    first, second, third = things.of_frame.unbind(-1)
    return sees[first] * sees[second] * sees[third], open_sky[first] * open_sky[second] * open_sky[third]


def _shade_stage(table: Frames, hits: Hits, light: tuple[Tensor, Tensor]) -> list[Tensor]:
    """The linear light of floor and dome, as if no thing stood in the way: three tensors f s h w."""
    sees_lamp, openness = light
    x, y, z = hits.point
    pattern = torch.empty_like(x)
    tile = [_rows(each) for each in table.tiling.unbind(-1)]
    u, v = x * tile[0] - y * tile[1] + tile[2], x * tile[1] + y * tile[0] + tile[3]
    for number, name in enumerate(FLOORS):
        rows = (table.pattern == number).nonzero()[:, 0]
        if len(rows):
            pattern[rows] = _pattern(name, u[rows], v[rows], x[rows], y[rows])
    distance = (x * x + y * y) * (1 / DOME**2)
    pattern *= 1 - distance
    fog = ((distance - 0.12) * (1 / 0.80)).clamp(0, 1)
    fog = torch.where(z > 1e-3, 1, fog * (2 - fog))
    height = (z * 0.30).clamp_(0, 1)
    height = height * (2 - height)
    lit = (0.62 * sees_lamp + 0.38 * openness) * (1.06 - 0.5 * distance)
    channels = []
    for channel in range(3):
        dark, bright = (_rows(table.tones[:, tone, channel]) for tone in (1, 0))
        horizon, top = (_rows(table.sky[:, end, channel]) for end in (0, 1))
        ground = (dark + pattern * (bright - dark)) * lit
        back = horizon + height * (top - horizon)
        channels.append(ground + fog * (back - ground))
    return channels


def _pattern(name: str, u: Tensor, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """1 on the bright tone of the floor, 0 on the dark one."""
    if name == "dots":
        u, v = u - u.floor() - 0.5, v - v.floor() - 0.5
        return (u * u + v * v > 0.075).to(x.dtype)
    steps = {
        "checker": lambda: u.floor() + v.floor(),
        "stripes": lambda: (u * 1.5).floor(),
        "rings": lambda: ((x * x + y * y).sqrt() * 1.6).floor(),
    }[name]()
    half = steps * 0.5
    return 1 - (half - half.floor()) * 2


def _shade_things(table: Frames, things: Things, hits: Hits, light, channels: list[Tensor]) -> None:
    """Overwrite the rays that end on things, gathered into lists: they are a small part of a picture."""
    where, thing = thing_hits(things, hits)
    frame = things.frame[thing]
    sees_lamp, openness = (each.view(-1)[where] for each in light)
    point, direction = ([each.view(-1)[where] for each in part] for part in (hits.point, hits.direction))
    local = things.points_to_local(point, thing)
    nx, ny, nz = normals(things, thing, local)
    sun = table.sun[:, 0][frame].unbind(-1)
    direct = (nx * sun[0] + ny * sun[1] + nz * sun[2]).clamp_(min=0) * sees_lamp
    ambient = (0.30 + 0.14 * nz) * openness
    gloss, rim = _gloss((nx, ny, nz), direction, sun)
    shiny = things.shiny[thing]
    gloss, rim = gloss * shiny * sees_lamp, rim * shiny
    mark = _mark(local)
    for channel in range(3):
        colour = things.colour[:, channel][thing]
        colour = colour + mark * (0.95 - colour)
        sky = table.sky[:, 0, channel][frame]
        shade = colour * (0.95 * direct + ambient * (0.55 + 0.45 * sky))
        channels[channel].view(-1)[where] = shade + rim * (sky - shade) + gloss


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
        for out, values in zip(result, normal(shape, [each[of_shape] for each in local]), strict=True):
            out[of_shape] = values
    return things.to_world(result, thing)


def _mark(local: Point) -> Tensor:
    """How pale: a stripe down one side of each thing, by which one sees it turn."""
    x, y, _ = local
    return ((x.abs() < 0.16) & (y < 0)).to(x.dtype) * 0.62


def _gloss(normal: Point, direction: Point, sun: Point) -> tuple[Tensor, Tensor]:
    """The highlight (Blinn's half vector, to the 32nd power) and the reflection along the rim."""
    (nx, ny, nz), (dx, dy, dz), (sx, sy, sz) = normal, direction, sun
    inverse = 1 / (dx * dx + dy * dy + dz * dz).sqrt()
    dx, dy, dz = dx * inverse, dy * inverse, dz * inverse
    hx, hy, hz = sx - dx, sy - dy, sz - dz
    length = (hx * hx + hy * hy + hz * hz).sqrt()
    gloss = ((nx * hx + ny * hy + nz * hz) / length).clamp_(min=0)
    for _ in range(5):
        gloss = gloss * gloss
    rim = 1 + (nx * dx + ny * dy + nz * dz)
    rim = rim * rim
    return gloss * 0.9, 0.06 + rim * rim.clamp(0, 1) * 0.4


# --------------------------------------------------------------------------- the table of frames


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
        [(round(math.cos(pose.yaw), 6), round(math.sin(pose.yaw), 6)) for _, pose in now] + [(1.0, 0.0)] * pad,
        [pose.scale for _, pose in now] + [1.0] * pad,
        [_linear(COLOURS[thing.colour]) for thing, _ in now] + [(0.0, 0.0, 0.0)] * pad,
        [float(thing.material == "shiny") for thing, _ in now] + [0.0] * pad,
    )


def _linear(colour: tuple[float, ...]) -> tuple[float, ...]:
    """sRGB as linear light, with gamma 2 so that its inverse is the exact square root."""
    return tuple(value * value for value in colour)
