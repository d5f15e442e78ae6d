"""Windows: the part of a frame in which a thing, or its shadow, can be seen.

Only the rays through a thing's window are tested against the thing.  Its margin of a pixel is far
more than the rounding of the coordinates can move an edge.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from course_lib.world.scene import SHAPES
from course_lib.world.solids import HOLDERS
from course_lib.world.tables import Frames, Things

MARGIN = 1  # pixels
NEAR = 0.1  # metres: whatever comes so close to the eye may be seen anywhere
CORNERS = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (0.0, 1.0)])


@dataclass
class Windows:
    """For each of k things the rows and the columns of its frame that its window covers."""

    rows: Tensor  # k h, true or false
    columns: Tensor  # k w

    def pixels(self, things: slice) -> tuple[Tensor, Tensor]:
        """List the m pixels in these things' windows: the numbers of thing and pixel."""
        inside = (self.rows[things, :, None] & self.columns[things, None, :]).numpy()
        thing, pixel = np.divmod(np.flatnonzero(inside), inside[0].size)
        return torch.from_numpy(thing + things.start), torch.from_numpy(pixel)


def windows_of_things(table: Frames, things: Things, height: int, width: int) -> Windows:
    """Find the pixels whose rays may hit a thing."""
    return _windows(table, things, _corners(table, things), height, width)


def windows_of_shadows(
    table: Frames, things: Things, towards: Tensor, height: int, width: int
) -> Windows:
    """Find the pixels whose rays may end where a thing hides a point of the lamp.

    `towards` (k s 3) are the directions to those points.  The shadow of a box, down to the floor,
    lies between the box and the shadows of its corners on the floor.
    """
    corners = _corners(table, things)
    falls = corners[:, :, None, 2:] / towards[:, None, :, 2:]
    on_floor = corners[:, :, None] - falls * towards[:, None]
    # The shadow of a sun that is hardly up, or not at all, may be anywhere.
    eye = table.eye[things.frame, None, None]
    on_floor = torch.where(towards[:, None, :, 2:] > 0.01, on_floor, eye)
    return _windows(
        table, things, torch.cat([corners, on_floor.flatten(1, 2)], dim=1), height, width
    )


def _corners(table: Frames, things: Things) -> Tensor:
    """Return the corners (k 8 3) of upright boxes, turned like the camera, that hold the things."""
    shape = table.shape[things.frame, things.place]
    scale = table.scale[things.frame, things.place, None]
    radius, height = (torch.tensor([HOLDERS[each] for each in SHAPES])[shape] * scale).unbind(-1)
    x, y, _ = (radius[:, None] * table.right[things.frame]).unbind(-1)  # Never rolled: no z.
    zero = torch.zeros_like(x)
    edges = torch.stack([x, y, zero, -y, x, zero, zero, zero, height], dim=-1).view(-1, 3, 3)
    return things.pose[:3].T[:, None] + CORNERS @ edges


def _windows(table: Frames, things: Things, points: Tensor, height: int, width: int) -> Windows:
    """Find the windows that hold the convex hull of some points (k n 3) of each thing."""
    frame = things.frame
    axes = torch.stack([table.right, table.up, table.forward], dim=-1)[frame]  # k 3 3
    right, up, depth = ((points - table.eye[frame, None]) @ axes).unbind(-1)  # k n each
    pixels = table.focal[frame, None] * min(height, width) / depth
    is_near = (depth < NEAR).any(-1)
    columns = _covered(width / 2 + right * pixels, is_near, width)
    rows = _covered(height / 2 - up * pixels, is_near, height)
    return Windows(rows, columns)


def _covered(places: Tensor, is_near: Tensor, side: int) -> Tensor:
    """Tell which pixels of an image's side (k side) lie between the places (k n) on it."""
    low = places.amin(-1, keepdim=True) - (1 + MARGIN)
    high = places.amax(-1, keepdim=True) + MARGIN
    pixel = torch.arange(side)
    return (low < pixel) & (pixel < high) | is_near[:, None]
