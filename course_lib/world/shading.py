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

from itertools import chain

import torch
from torch import Tensor

from course_lib.shapes import UInt8
from course_lib.world.rays import DOME_RADIUS, Hits, ray_numbers, surface, trace
from course_lib.world.scene import FLOORS
from course_lib.world.solids import INTERVALS, Point, dot, indices, less, square_root, take
from course_lib.world.tables import (
    Frames,
    Things,
    gather_things,
    per_frame,
    points_to_local,
    to_local,
)
from course_lib.world.windows import windows_of_shadows

RAYS_PER_CHUNK = 2**18  # About 40 MiB: more leaves the cache, less pays for the calls.
RAYS_PER_BLOCK = 2**16  # where many numbers per ray are at work
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
    light = _sees_lamp(table, things, hits, offsets), _openness(things, hits)
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


def _sees_lamp(table: Frames, things: Things, hits: Hits, offsets) -> Tensor:
    """Return 1 for each hit that sees its point of the lamp, 0 for the others."""
    height, width = hits.depth.shape[2:]
    sun, side, over = table.sun[things.frame].unbind(1)
    lamp = LAMP_RADIUS * 2 * torch.tensor(offsets, dtype=torch.float32)
    towards = sun[:, None] + lamp[:, :1] * side[:, None] + lamp[:, 1:] * over[:, None]  # k s 3
    windows = windows_of_shadows(table, things, towards, height, width)
    lamp = torch.cat(to_local(towards.permute(2, 1, 0), things.pose))  # 3s k

    sees_lamp = torch.ones_like(hits.depth)
    for shape, part in things.shapes.items():
        thing, pixel = windows.pixels(part)  # m each
        ray = ray_numbers(take(things.frame, thing), pixel, hits.depth.shape)  # s m
        pose = things.pose.index_select(1, thing)
        origin = points_to_local([take(each, ray) for each in hits.point], pose)
        enter, leave = INTERVALS[shape](origin, lamp.index_select(1, thing).view(3, *ray.shape))
        is_own = take(hits.thing, ray) == thing
        is_hidden = less(enter.clamp_(min=0), leave).logical_and_(is_own.logical_not_())
        sees_lamp.view(-1).index_fill_(0, take(ray, indices(is_hidden)), 0)
    return sees_lamp


def _openness(things: Things, hits: Hits) -> Tensor:
    """Return how open each hit's sky is.

    A body above a point hides part of its sky, hence the soft dark spot under every thing.
    """
    openness = torch.ones_like(hits.depth)
    block = max(1, RAYS_PER_BLOCK // hits.depth[0].numel())  # frames
    for thing in chain.from_iterable(things.of_place(place).split(block) for place in range(3)):
        frame = things.frame[thing]
        points = [each.index_select(0, frame) for each in hits.point]
        local = points_to_local(points, per_frame(things.pose[:, thing]))
        is_other = hits.thing.index_select(0, frame)
        is_other.ne_(per_frame(thing))
        near = dot(local, local).add_(1).reciprocal_()
        is_open = near.mul_(near).mul_(-0.62).mul_(is_other).add_(1)
        openness.index_copy_(0, frame, is_open.mul_(openness.index_select(0, frame)))
    return openness


def _shade_stage(table: Frames, hits: Hits, light: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return the linear light of floor and dome, things aside, as three tensors f s h w."""
    sees_lamp, openness = light
    x, y, z = hits.point
    pattern = torch.empty_like(x)
    cos, sin, shift_u, shift_v = (per_frame(each) for each in table.tiling.unbind(-1))
    u = (x * cos).sub_(y * sin).add_(shift_u)
    v = (x * sin).add_(y * cos).add_(shift_v)
    for number, name in enumerate(FLOORS):
        rows = indices(table.pattern == number)
        places = (each.index_select(0, rows) for each in (u, v, x, y))
        pattern.index_copy_(0, rows, _pattern(name, *places))

    distance = (x * x).add_(y * y).mul_(1 / DOME_RADIUS**2)
    pattern *= 1 - distance
    fog = (distance - 0.12).mul_(1 / 0.80).clamp_(0, 1)
    fog = torch.maximum(fog * (2 - fog), torch.gt(z, 1e-3, out=torch.empty_like(z)))
    height = (z * 0.30).clamp_(0, 1)
    height *= 2 - height
    brightness = (0.62 * sees_lamp).add_(0.38 * openness).mul_(1.06 - 0.5 * distance)

    channels = []
    for channel in range(3):
        bright, dark = (per_frame(table.tones[:, tone, channel]) for tone in (0, 1))
        horizon, top = (per_frame(table.sky[:, end, channel]) for end in (0, 1))
        ground = (pattern * (bright - dark)).add_(dark).mul_(brightness)
        back = (height * (top - horizon)).add_(horizon)
        channels.append(back.sub_(ground).mul_(fog).add_(ground))
    return channels


def _pattern(name: str, u: Tensor, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return 1 on the bright tone of the floor and 0 on the dark one."""
    if name == "dots":
        u = u - u.floor() - 0.5
        v = v - v.floor() - 0.5
        return (u * u + v * v).gt_(0.075)

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
    found = surface(things, hits)
    frame = take(things.frame, found.thing)
    sees_lamp, openness = (take(each, found.ray) for each in light)
    direction = [take(each, found.ray) for each in hits.direction]
    *colour, shiny = things.look.index_select(1, found.thing)
    sun = table.sun[:, 0].T.index_select(1, frame)
    sky = table.sky[:, 0].T.index_select(1, frame)

    nx, ny, nz = found.normal
    direct = (nx * sun[0] + ny * sun[1] + nz * sun[2]).clamp_(min=0) * sees_lamp
    ambient = (0.30 + 0.14 * nz) * openness
    highlight, rim = _reflections(found.normal, direction, sun)
    highlight = highlight * shiny * sees_lamp
    rim = rim * shiny
    stripe = _stripe(found.local)

    for channel, own, above in zip(channels, colour, sky, strict=True):
        pale = own + stripe * (0.95 - own)
        shade = pale * (0.95 * direct + ambient * (0.55 + 0.45 * above))
        channel.view(-1).index_copy_(0, found.ray, shade + rim * (above - shade) + highlight)


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
