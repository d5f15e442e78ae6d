"""Pictures of the little world, by analytic ray casting in plain torch.

A chunk of frames is rendered at once.  Every pixel sends a few rays (`SAMPLES`, a pattern in which
no two share a row or a column); each meets the nearest thing, the floor or the dome that closes the
stage, and looks from there to its own point of the lamp, so that edges and shadows are smooth.

What is promised: the same bytes from the same seed.  Work per pixel is float32 and uses only + - *
/ sqrt, floor, comparisons and min/max, one torch call each, whose results IEEE 754 fixes to the
last bit; the order of every sum is written out.  So neither the number of threads, nor the batch a
picture is in, nor the vector unit of a CPU that follows IEEE 754 (x86-64, arm64) can change a
byte.  The stored digests in tests/world watch over it.  Other devices and `torch.compile` are
outside the promise.
"""

import torch
from torch import Tensor

from course_lib.shapes import UInt8
from course_lib.world.rays import (
    DOME,
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
from course_lib.world.solids import INTERVALS, Point

RAYS_PER_CHUNK = 2**18  # about 60 MiB at work: enough to make the calls worth their while
SAMPLES = ((-0.125, -0.375), (0.375, -0.125), (-0.375, 0.125), (0.125, 0.375))
FINE_SAMPLES = tuple(
    (x / 16, y / 16)
    for x, y in ((-7, -3), (-5, 5), (-3, -5), (-1, 1), (1, -7), (3, 7), (5, -1), (7, 3))
)
LAMP = 0.09  # radius of the lamp, at distance 1: how soft the shadows are


def render_rgb(table: Frames, height: int, width: int) -> UInt8[Tensor, "f h w 3"]:
    """The pictures of the tabulated frames."""
    # A small picture shows every step of an edge, a big one every step of a soft shadow.
    offsets = SAMPLES if 20 < min(height, width) < 96 else FINE_SAMPLES
    step = max(1, RAYS_PER_CHUNK // (len(offsets) * height * width))
    pictures = [
        _picture(table[start : start + step], height, width, offsets)
        for start in range(0, len(table), step)
    ]
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


def _light(table: Frames, things: Things, hits: Hits, offsets) -> tuple[Tensor, Tensor]:
    """For every hit: whether it sees its point of the lamp (1 or 0), and how open its sky is."""
    frame, count = things.frame, len(things.frame)
    sun, side, over = table.sun[frame].unbind(1)
    lamp = LAMP * 2 * torch.tensor(offsets, dtype=torch.float32)
    towards = sun[:, None] + lamp[:, :1] * side[:, None] + lamp[:, 1:] * over[:, None]  # k s 3
    towards = [each[:, :, None, None] for each in things.to_local(towards.unbind(-1))]
    seen, opened = [], []
    for shape, part in things.shapes.items():
        points = [each.index_select(0, frame[part]) for each in hits.point]
        origin = things.points_to_local(points, part)
        enter, leave = INTERVALS[shape](origin, [each[part] for each in towards])
        number = torch.arange(count, dtype=torch.int32)[part]
        other = hits.thing.index_select(0, frame[part]) != expand_to(number, hits.thing)
        seen.append(1 - ((enter < leave) & (leave > 0) & other).float())
        # A body above a point hides a part of its sky: the soft dark spot under everything.
        x, y, z = origin
        near = 1 / (1 + (x * x + y * y + z * z))
        opened.append(torch.where(other, 1 - 0.62 * (near * near), 1))
    sees_lamp, openness = torch.ones_like(hits.depth), torch.ones_like(hits.depth)
    seen, opened = torch.cat(seen), torch.cat(opened)
    for frames, numbers in things.places():
        sees_lamp[frames] *= seen.index_select(0, numbers)
        openness[frames] *= opened.index_select(0, numbers)
    return sees_lamp, openness


def _shade_stage(table: Frames, hits: Hits, light: tuple[Tensor, Tensor]) -> list[Tensor]:
    """The linear light of floor and dome, as if no thing stood in the way: three tensors f s h w."""
    sees_lamp, openness = light
    x, y, z = hits.point
    pattern = torch.empty_like(x)
    tile = [expand_to(each, x) for each in table.tiling.unbind(-1)]
    u, v = x * tile[0] - y * tile[1] + tile[2], x * tile[1] + y * tile[0] + tile[3]
    for number, name in enumerate(FLOORS):
        rows = (table.pattern == number).nonzero()[:, 0]
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
        dark, bright = (expand_to(table.tones[:, tone, channel], x) for tone in (1, 0))
        horizon, top = (expand_to(table.sky[:, end, channel], x) for end in (0, 1))
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
    """Overwrite the rays that end on things, gathered into lists: they are a small part of a
    picture.
    """
    where, thing = thing_hits(things, hits)
    frame = things.frame[thing]
    sees_lamp, openness = (each.view(-1).index_select(0, where) for each in light)
    point, direction = (
        [each.view(-1).index_select(0, where) for each in part]
        for part in (hits.point, hits.direction)
    )
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
