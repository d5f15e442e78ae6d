"""The colours of the little world, by analytic ray casting in plain torch.

A chunk of frames is rendered at once.  Every pixel sends a few rays (`RAY_OFFSETS`, a pattern in
which no two share a row or a column); each hits the nearest thing, the floor or the dome that
closes the stage, and from there looks to its own point of the lamp, so that edges and shadows are
smooth.

The promise: the same bytes from the same seed.  Work per pixel is float32 and uses only + - * /,
floor, comparisons and min/max, one torch call each, and `square_root`, whose results IEEE 754 fixes
to the last bit; the order of every sum is written out.  So neither the number of threads, nor the
batch that an image is in, nor the vector unit of a CPU that follows IEEE 754 (x86-64, arm64) can
change a byte.  The stored digests in tests/world check this.  Other devices and `torch.compile` are
outside the promise.
"""

import torch
from torch import Tensor

from course_lib.shapes import UInt8
from course_lib.world.rays import (
    DOME_RADIUS,
    Frames,
    Hits,
    Things,
    expand_to,
    gather_things,
    normals,
    thing_hits,
    trace,
)
from course_lib.world.scene import FLOORS
from course_lib.world.solids import INTERVALS, Point, dot, square_root

RAYS_PER_CHUNK = 2**17  # About 30 MiB: more leaves the cache, less pays for the calls.
RAY_OFFSETS = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))
FINE_RAY_OFFSETS = tuple(
    (x / 16, y / 16)
    for x, y in ((-7, -3), (-5, 5), (-3, -5), (-1, 1), (1, -7), (3, 7), (5, -1), (7, 3))
)
LAMP_RADIUS = 0.09  # at distance 1; it makes the shadows soft


def render_rgb(table: Frames, height: int, width: int) -> UInt8[Tensor, "f h w 3"]:
    """Render the tabulated frames."""
    # A small image shows every step of an edge, a large one every step of a soft shadow.
    offsets = RAY_OFFSETS if 20 < min(height, width) < 96 else FINE_RAY_OFFSETS
    step = max(1, RAYS_PER_CHUNK // (len(offsets) * height * width))
    chunks = []
    for start in range(0, len(table), step):
        chunks.append(_chunk_rgb(table[start : start + step], height, width, offsets))
    return torch.cat(chunks)


def _chunk_rgb(table: Frames, height: int, width: int, offsets) -> Tensor:
    things = gather_things(table)
    hits = trace(table, things, height, width, offsets)
    light = _light(table, things, hits, offsets)
    channels = _shade_stage(table, hits, light)
    _shade_things(table, things, hits, light, channels)
    return torch.stack([_to_bytes(channel) for channel in channels], dim=-1)


def _to_bytes(channel: Tensor) -> Tensor:
    """Average each pixel's rays, in a fixed order, and turn linear light (gamma 2) into bytes."""
    total = channel[:, 0]
    for sample in range(1, channel.shape[1]):
        total = total + channel[:, sample]
    mean = (total * (1 / channel.shape[1])).clamp_(0, 1)
    return square_root(mean).mul_(255).add_(0.5).floor_().to(torch.uint8)


def _light(table: Frames, things: Things, hits: Hits, offsets) -> tuple[Tensor, Tensor]:
    """Tell for each hit whether it sees its point of the lamp (1 or 0), and how open its sky is."""
    frame = things.frame
    sun, side, over = table.sun[frame].unbind(1)
    lamp = LAMP_RADIUS * 2 * torch.tensor(offsets, dtype=torch.float32)
    towards = sun[:, None] + lamp[:, :1] * side[:, None] + lamp[:, 1:] * over[:, None]  # k s 3
    towards = [each[:, :, None, None] for each in things.to_local(towards.unbind(-1))]
    # Of every thing, and last of none: whether its frame's hits see past it, and how open it leaves
    # their sky.
    seen = torch.ones(len(frame) + 1, *hits.depth.shape[1:])
    opened = torch.ones_like(seen)
    for shape, part in things.shapes.items():
        points = [each.index_select(0, frame[part]) for each in hits.point]
        origin = things.points_to_local(points, part)
        enter, leave = INTERVALS[shape](origin, [each[part] for each in towards])
        number = torch.arange(len(frame), dtype=torch.int32)[part]
        other = hits.thing.index_select(0, frame[part]) != expand_to(number, hits.thing)
        is_hidden = (enter.clamp_(min=0) < leave).logical_and_(other)
        seen[part] = is_hidden.logical_not_()
        # A body above a point hides part of its sky, hence the soft dark spot under every thing.
        near = 1 / dot(origin, origin).add_(1)
        open_part = near.mul_(near).mul_(-0.62).add_(1)
        opened[part] = torch.where(other, open_part, 1)

    light = []
    for each in (seen, opened):
        first, second, third = (each.index_select(0, n) for n in things.of_frame.unbind(-1))
        light.append(first.mul_(second).mul_(third))
    sees_lamp, openness = light
    return sees_lamp, openness


def _shade_stage(table: Frames, hits: Hits, light: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return the linear light of floor and dome, things aside, as three tensors f s h w."""
    sees_lamp, openness = light
    x, y, z = hits.point
    pattern = torch.empty_like(x)
    cos, sin, shift_u, shift_v = (expand_to(each, x) for each in table.tiling.unbind(-1))
    u = (x * cos).sub_(y * sin).add_(shift_u)
    v = (x * sin).add_(y * cos).add_(shift_v)
    for number, name in enumerate(FLOORS):
        rows = (table.pattern == number).nonzero()[:, 0]
        pattern[rows] = _pattern(name, u[rows], v[rows], x[rows], y[rows])

    distance = (x * x).add_(y * y).mul_(1 / DOME_RADIUS**2)
    pattern *= 1 - distance
    fog = (distance - 0.12).mul_(1 / 0.80).clamp_(0, 1)
    fog = torch.where(z > 1e-3, 1, fog * (2 - fog))
    height = (z * 0.30).clamp_(0, 1)
    height *= 2 - height
    brightness = (0.62 * sees_lamp).add_(0.38 * openness).mul_(1.06 - 0.5 * distance)

    channels = []
    for channel in range(3):
        bright, dark = (expand_to(table.tones[:, tone, channel], x) for tone in (0, 1))
        horizon, top = (expand_to(table.sky[:, end, channel], x) for end in (0, 1))
        ground = (pattern * (bright - dark)).add_(dark).mul_(brightness)
        back = (height * (top - horizon)).add_(horizon)
        channels.append(back.sub_(ground).mul_(fog).add_(ground))
    return channels


def _pattern(name: str, u: Tensor, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return 1 on the bright tone of the floor and 0 on the dark one."""
    if name == "dots":
        u = u - u.floor() - 0.5
        v = v - v.floor() - 0.5
        return (u * u + v * v > 0.075).to(x.dtype)

    match name:
        case "checker":
            steps = u.floor() + v.floor()
        case "stripes":
            steps = (u * 1.5).floor()
        case "rings":
            steps = (square_root(x * x + y * y) * 1.6).floor()
        case _:
            raise ValueError(f"floor: expected one of {FLOORS}, got {name!r}")
    half = steps * 0.5
    return 1 - (half - half.floor()) * 2


def _shade_things(table: Frames, things: Things, hits: Hits, light, channels: list[Tensor]) -> None:
    """Overwrite the rays that end on things, gathered into lists: they are a small part of all."""
    where, thing = thing_hits(things, hits)
    frame = things.frame[thing]
    sees_lamp, openness = (each.view(-1).index_select(0, where) for each in light)
    point = [each.view(-1).index_select(0, where) for each in hits.point]
    direction = [each.view(-1).index_select(0, where) for each in hits.direction]

    local = things.points_to_local(point, thing)
    nx, ny, nz = normals(things, thing, local)
    sun = table.sun[:, 0][frame].unbind(-1)
    direct = (nx * sun[0] + ny * sun[1] + nz * sun[2]).clamp_(min=0) * sees_lamp
    ambient = (0.30 + 0.14 * nz) * openness
    shiny = things.shiny[thing]
    highlight, rim = _reflections((nx, ny, nz), direction, sun)
    highlight = highlight * shiny * sees_lamp
    rim = rim * shiny
    stripe = _stripe(local)

    for channel in range(3):
        colour = things.colour[:, channel][thing]
        colour = colour + stripe * (0.95 - colour)
        sky = table.sky[:, 0, channel][frame]
        shade = colour * (0.95 * direct + ambient * (0.55 + 0.45 * sky))
        channels[channel].view(-1)[where] = shade + rim * (sky - shade) + highlight


def _stripe(local: Point) -> Tensor:
    """Return how pale a point is: a stripe down one side of each thing shows that it turns."""
    x, y, _ = local
    return ((x.abs() < 0.16) & (y < 0)).to(x.dtype) * 0.62


def _reflections(normal: Point, direction: Point, sun: Point) -> tuple[Tensor, Tensor]:
    """Return the highlight (Blinn's half vector, to the 32nd power) and the sky along the rim."""
    nx, ny, nz = normal
    dx, dy, dz = direction
    sx, sy, sz = sun
    inverse = 1 / square_root(dx * dx + dy * dy + dz * dz)
    dx = dx * inverse
    dy = dy * inverse
    dz = dz * inverse

    hx = sx - dx
    hy = sy - dy
    hz = sz - dz
    length = square_root(hx * hx + hy * hy + hz * hz)
    highlight = ((nx * hx + ny * hy + nz * hz) / length).clamp_(min=0)
    for _ in range(5):
        highlight = highlight * highlight

    rim = 1 + (nx * dx + ny * dy + nz * dz)
    rim = rim * rim
    return highlight * 0.9, 0.06 + rim * rim.clamp(0, 1) * 0.4
