"""What is true of every pixel: depth, normal, segmentation and flow, at the pixel's centre.

depth         along the optical axis, in metres; floor and dome close the stage, so it is finite
normal        of length 1 in the camera's frame: x right, y up, z towards the viewer
segmentation  0 backdrop (the dome), 1 floor, 2 + i the scene's thing number i
flow          (x right, y down) in pixels to where the same surface point lies in the next frame,
              whether or not it can be seen there; zero in the last frame of a clip
"""

import torch
from torch import Tensor

from course_lib.world.rays import DOME, Frames, Things, gather_things, normals, thing_hits, trace
from course_lib.world.solids import Point

BACKDROP, FLOOR, FIRST_THING = 0, 1, 2
PIXELS_PER_CHUNK = 2**16


def render_geometry(table: Frames, following: Frames, height: int, width: int) -> dict[str, Tensor]:
    """Depth (f h w), normal (f h w 3), segmentation (f h w) and flow (f h w 2) of the tabulated
    frames.

    `following` holds the frame after each, or the frame itself when it is the last.
    """
    rows = max(1, PIXELS_PER_CHUNK // (height * width))
    chunks = [
        _measure(table[start : start + rows], following[start : start + rows], height, width)
        for start in range(0, len(table), rows)
    ]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _measure(table: Frames, following: Frames, height: int, width: int) -> dict[str, Tensor]:
    things = gather_things(table)
    hits = trace(table, things, height, width)
    x, y, z = (each[:, 0] for each in hits.point)  # f h w: one ray per pixel, the sample axis goes
    on_floor = z < 1e-3
    inwards = -1 / DOME
    world = [torch.where(on_floor, 0, x * inwards), torch.where(on_floor, 0, y * inwards)]
    world.append(torch.where(on_floor, 1, z * inwards))
    segmentation = on_floor.long() * (FLOOR - BACKDROP) + BACKDROP
    moved = [x.clone(), y.clone(), z.clone()]

    where, thing = thing_hits(things, hits)
    local = things.points_to_local([each.view(-1)[where] for each in hits.point], thing)
    for out, values in zip(world, normals(things, thing, local), strict=True):
        out.view(-1)[where] = values
    segmentation.view(-1)[where] = FIRST_THING + things.index[thing]
    later = gather_things(following)
    moves = torch.stack([(a != b) for a, b in zip(things.pose, later.pose, strict=True)]).any(0)[
        thing
    ]
    where, thing, local = where[moves], thing[moves], [each[moves] for each in local]
    for out, values in zip(moved, _placed(later, thing, local), strict=True):
        out.view(-1)[where] = values

    right, up, forward = (each.unbind(-1) for each in (table.right, table.up, table.forward))
    normal = torch.stack([_dot(world, right), _dot(world, up), -_dot(world, forward)], dim=-1)
    flow = _project(following, moved, height, width) - _project(table, (x, y, z), height, width)
    return {"depth": hits.depth[:, 0], "normal": normal, "segmentation": segmentation, "flow": flow}


def _placed(things: Things, thing: Tensor, local: Point) -> Point:
    """Points of the things' own frames, in the world."""
    scale = 1 / things.inverse[thing]
    rotated = things.to_world([each * scale for each in local], thing)
    return tuple(each + foot[thing] for each, foot in zip(rotated, things.foot, strict=True))


def _project(table: Frames, points: Point, height: int, width: int) -> Tensor:
    """Where points of the world (f h w each) appear, in pixels from the upper left corner: f h w 2."""
    seen = [p - e[:, None, None] for p, e in zip(points, table.eye.unbind(-1), strict=True)]
    right, up, forward = (
        _dot(seen, each.unbind(-1)) for each in (table.right, table.up, table.forward)
    )
    pixels = (table.focal * min(height, width))[:, None, None] / forward
    return torch.stack([right * pixels + width / 2, height / 2 - up * pixels], dim=-1)


def _dot(vectors: Point, axis: Point) -> Tensor:
    (x, y, z), (a, b, c) = vectors, (each[:, None, None] for each in axis)
    return x * a + y * b + z * c
