"""What is true of every pixel: depth, normal, segmentation and flow, at the pixel's centre.

depth         along the optical axis, in metres; finite, because floor and dome close the stage
normal        of length 1 in the camera's frame: x right, y up, z towards the viewer
segmentation  0 backdrop (the dome), 1 floor, 2 + i the scene's thing number i
flow          (x right, y down) in pixels to where the same surface point is in the next frame,
              whether or not it can be seen there; zero in the last frame of a clip
"""

import torch
from torch import Tensor

from course_lib.world.rays import DOME_RADIUS, surface, trace
from course_lib.world.solids import Point, indices, take
from course_lib.world.tables import Frames, gather_things, to_world

BACKDROP = 0
FLOOR = 1
FIRST_THING = 2
PIXELS_PER_CHUNK = 2**18


def render_geometry(table: Frames, following: Frames, height: int, width: int) -> dict[str, Tensor]:
    """Compute the geometry of the tabulated frames.

    Returns depth (f h w), normal (f h w 3), segmentation (f h w) and flow (f h w 2).  `following`
    holds the frame after each, or the frame itself when it is the last.
    """
    rows = max(1, PIXELS_PER_CHUNK // (height * width))
    chunks = []
    for start in range(0, len(table), rows):
        part = slice(start, start + rows)
        chunks.append(_chunk_geometry(table[part], following[part], height, width))
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _chunk_geometry(table: Frames, following: Frames, height: int, width: int) -> dict[str, Tensor]:
    things = gather_things(table)
    hits = trace(table, things, height, width)
    x, y, z = (each[:, 0] for each in hits.point)  # f h w: one ray per pixel, so no sample axis

    # Start with floor and dome everywhere.
    on_floor = z < 1e-3
    inwards = -1 / DOME_RADIUS
    world_normal = [
        torch.where(on_floor, 0, x * inwards),
        torch.where(on_floor, 0, y * inwards),
        torch.where(on_floor, 1, z * inwards),
    ]
    segmentation = on_floor.long() * (FLOOR - BACKDROP) + BACKDROP
    next_point = [x.clone(), y.clone(), z.clone()]

    # Overwrite the pixels that show a thing.
    found = surface(things, hits)
    for out, values in zip(world_normal, found.normal, strict=True):
        out.view(-1).index_copy_(0, found.ray, values)
    number = FIRST_THING + take(things.place, found.thing)
    segmentation.view(-1).index_copy_(0, found.ray, number)

    # A surface point of a thing that moves is somewhere else in the next frame.
    later = gather_things(following)
    moves = indices(take((things.pose != later.pose).any(0), found.thing))
    ray = take(found.ray, moves)
    pose = later.pose.index_select(1, take(found.thing, moves))
    local = [take(each, moves) for each in found.local]
    for out, values in zip(next_point, _points_to_world(local, pose), strict=True):
        out.view(-1).index_copy_(0, ray, values)

    right, up, forward = (each.unbind(-1) for each in (table.right, table.up, table.forward))
    camera_normal = [
        _dot(world_normal, right),
        _dot(world_normal, up),
        -_dot(world_normal, forward),
    ]
    now = _project(table, (x, y, z), height, width)
    then = _project(following, next_point, height, width)
    return {
        "depth": hits.depth[:, 0],
        "normal": torch.stack(camera_normal, dim=-1),
        "segmentation": segmentation,
        "flow": then - now,
    }


def _points_to_world(local: Point, pose: Tensor) -> Point:
    """Move points from the frames of things to the world."""
    scale = 1 / pose[5]
    rotated = to_world([each * scale for each in local], pose)
    return tuple(each + foot for each, foot in zip(rotated, pose[:3], strict=True))


def _project(table: Frames, points: Point, height: int, width: int) -> Tensor:
    """Project points of the world (f h w each) to pixels from the upper left corner: f h w 2."""
    seen = [p - e[:, None, None] for p, e in zip(points, table.eye.unbind(-1), strict=True)]
    right = _dot(seen, table.right.unbind(-1))
    up = _dot(seen, table.up.unbind(-1))
    forward = _dot(seen, table.forward.unbind(-1))
    pixels = (table.focal * min(height, width))[:, None, None] / forward
    return torch.stack([right * pixels + width / 2, height / 2 - up * pixels], dim=-1)


def _dot(vectors: Point, axis: Point) -> Tensor:
    x, y, z = vectors
    a, b, c = (each[:, None, None] for each in axis)
    return x * a + y * b + z * c
