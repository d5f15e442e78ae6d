"""Annotations: images or clips with every map of them, exact, and what can be done to them.

annotate      depth, normals, segmentation and edges of scenes, beside their images
Annotated     ... its maps as images, in the colours of `map_colours`; turned by quarters
draw_holes    where an image is cut out, to be filled in again
like_examples read a generated frame by the colours of the frames it continues
centres       where a thing is in each image
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.shapes import Bool, Float, Int, Shaped, Tensor, UInt8
from course_lib.world.geometry import FIRST_THING, FLOOR, render_geometry
from course_lib.world.map_colours import (
    PALETTE,
    classes_to_pixels,
    depth_to_pixels,
    edges_to_pixels,
    grey_to_pixels,
    normal_to_pixels,
    to_grey,
)
from course_lib.world.rays import check_size
from course_lib.world.scene import Scene
from course_lib.world.shading import render_rgb
from course_lib.world.tables import tabulate

MAPS = ("image", "depth", "normal", "segmentation", "edges", "grey")
CREASE = 0.7071  # cosine of the angle between neighbours' normals below which there is an edge
EXAMPLES_AT_ONCE = 1 << 24  # distances that are held in memory: 64 MB


@dataclass(frozen=True, eq=False)
class Annotated:
    """Images (n h w) or clips (n t h w), with what is true at each pixel's centre.

    depth in metres along the optical axis; normal of length 1 in the camera's frame: x right, y up,
    z towards the viewer; classes: the number in `map_colours.CLASSES`; things: 0 backdrop, 1 floor,
    2 + i the scene's thing number i.
    """

    rgb: UInt8[Tensor, "*b h w 3"]
    depth: Float[Tensor, "*b h w"]
    normal: Float[Tensor, "*b h w 3"]
    classes: Int[Tensor, "*b h w"]
    things: Int[Tensor, "*b h w"]

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, chosen) -> "Annotated":
        """Return some of them: a slice, or their numbers in a tensor or list."""
        return Annotated(**{name: field[chosen] for name, field in vars(self).items()})

    @property
    def edges(self) -> Bool[Tensor, "*b h w"]:
        """Where one thing ends or a surface turns by more than 45 degrees, on the nearer side."""
        return find_edges(self.depth, self.normal, self.things)

    def draw(self, name: str, palette: Tensor = PALETTE) -> UInt8[Tensor, "*b h w 3"]:
        """Return a map of MAPS as an image, in its colour code; `palette` is that of the classes.

        Raises ValueError for another name.
        """
        match name:
            case "image":
                return self.rgb
            case "depth":
                return depth_to_pixels(self.depth)
            case "normal":
                return normal_to_pixels(self.normal)
            case "segmentation":
                return classes_to_pixels(self.classes, palette)
            case "edges":
                return edges_to_pixels(self.edges)
            case "grey":
                return grey_to_pixels(to_grey(self.rgb))
            case _:
                raise ValueError(f"name: expected one of {', '.join(MAPS)}, got {name!r}")

    def turned(self, quarters: int = 1) -> "Annotated":
        """Turn the images counter-clockwise by quarter turns, and the normals with them."""
        x, y, z = self.normal.unbind(-1)
        for _ in range(quarters % 4):
            x, y = -y, x
        fields = {**vars(self), "normal": torch.stack([x, y, z], dim=-1)}
        rows = self.depth.ndim - 2
        return Annotated(**{name: turn(field, quarters, rows) for name, field in fields.items()})


def annotate(
    scenes: Sequence[Scene], size: int | tuple[int, int] = 32, frames: int | None = None
) -> Annotated:
    """Render scenes with all of their maps: their first frames, or clips of so many frames."""
    height, width = check_size(size)
    table = tabulate(list(scenes), 1 if frames is None else frames)
    geometry = render_geometry(table, table, height, width)
    things = geometry["segmentation"]

    shape = torch.where(table.shape >= 0, table.shape + FLOOR + 1, 0)  # f 3
    stage = torch.arange(FIRST_THING).expand(len(table), -1)
    class_of_thing = torch.cat([stage, shape], dim=1)  # f 5
    classes = class_of_thing.gather(1, things.flatten(1)).view_as(things)

    annotated = Annotated(
        rgb=render_rgb(table, height, width),
        depth=geometry["depth"],
        normal=geometry["normal"],
        classes=classes,
        things=things,
    )
    if frames is None:
        return annotated
    clips = {name: field.unflatten(0, (-1, frames)) for name, field in vars(annotated).items()}
    return Annotated(**clips)


def find_edges(
    depth: Float[Tensor, "*b h w"], normal: Float[Tensor, "*b h w 3"], things: Int[Tensor, "*b h w"]
) -> Bool[Tensor, "*b h w"]:
    """Return the pixels at an edge: between two neighbours of different things, or at a crease.

    Of the two it is the nearer pixel, so that lines are one pixel wide and turn with the image.
    """
    edges = torch.zeros_like(things, dtype=torch.bool)
    for axis in (-2, -1):
        n = things.shape[axis] - 1
        first, second = (places(axis, start, n) for start in (0, 1))
        differs = things[first] != things[second]
        alike = (normal[(*first, slice(None))] * normal[(*second, slice(None))]).sum(-1)
        differs |= alike < CREASE
        nearer = depth[first] <= depth[second]
        edges[first] |= differs & nearer
        edges[second] |= differs & ~nearer
    return edges


def places(axis: int, start: int, n: int) -> tuple:
    """Return the index of n places from `start` on an axis that is counted from the last, -1."""
    return (..., slice(start, start + n), *[slice(None)] * (-1 - axis))


def turn(x: Shaped[Tensor, "..."], quarters: int = 1, rows: int = -3) -> Shaped[Tensor, "..."]:
    """Turn images counter-clockwise by quarter turns; `rows` is the axis of their rows."""
    return torch.rot90(x, quarters, (rows, rows + 1)).contiguous()


# ---------------------------------------------------------------- holes

SMALLEST_HOLE, LARGEST_HOLE = 0.25, 0.5  # of the shorter side


def draw_holes(uniform: Float[Tensor, "n 3"], size: int | tuple[int, int]) -> Bool[Tensor, "n h w"]:
    """Draw a square hole in each image; uniform: random numbers in [0, 1) for its side and place.

    Its side is a quarter to half of the image's shorter side (LVM's release: a tenth to half).
    """
    height, width = check_size(size)
    short = min(height, width)
    smallest, largest = round(SMALLEST_HOLE * short), round(LARGEST_HOLE * short)
    side = smallest + (uniform[:, 0] * (largest - smallest + 1)).long()  # n
    top = (uniform[:, 1] * (height - side + 1)).long()
    left = (uniform[:, 2] * (width - side + 1)).long()

    row, column = torch.arange(height), torch.arange(width)
    rows = (row >= top[:, None]) & (row < (top + side)[:, None])  # n h
    columns = (column >= left[:, None]) & (column < (left + side)[:, None])  # n w
    return rows[:, :, None] & columns[:, None, :]


# ---------------------------------------------------------------- reading generated frames


def like_examples(
    pixels: UInt8[Tensor, "n h w 3"],
    examples: UInt8[Tensor, "n *b 3"],
    labels: Shaped[Tensor, "n *b"],
) -> Shaped[Tensor, "n h w"]:
    """Label every pixel as the example of the nearest colour, of the same n, is labelled.

    The examples are frames that a clip continues, of which all is known; so what is generated can
    be read without a network.  Of equally near ones the first is taken.
    """
    colours = rearrange(examples, "n ... c -> n (...) c").float()  # n m 3
    known = rearrange(labels, "n ... -> n (...)")  # n m
    wanted = rearrange(pixels, "n h w c -> n (h w) c").float()
    rows = max(1, EXAMPLES_AT_ONCE // (colours.shape[1] * wanted.shape[1]))
    parts = []
    for some, colour, label in zip(*(x.split(rows) for x in (wanted, colours, known)), strict=True):
        # |p - c|^2 without |p|^2, which is the same for all examples; these are whole numbers.
        scores = colour.square().sum(-1)[:, None] - 2 * some @ colour.mT  # rows h*w m
        parts.append(label.gather(1, scores.argmin(-1)))
    return rearrange(torch.cat(parts), "n (h w) -> n h w", h=pixels.shape[1])


def majority(mask: Bool[Tensor, "*b h w"]) -> Bool[Tensor, "*b h w"]:
    """Return the pixels in whose 3 x 3 neighbourhood at least five are in the mask.

    It removes single pixels and fills single gaps, as reading noisy frames leaves them.
    """
    flat = mask.float().reshape(-1, 1, *mask.shape[-2:])  # n 1 h w
    votes = F.avg_pool2d(flat, 3, stride=1, padding=1) * 9  # beyond the image there is nothing
    return (votes > 4.5).view_as(mask)


def centres(mask: Bool[Tensor, "*b h w"]) -> Float[Tensor, "*b 2"]:
    """Return the mean place (x right, y down) of the pixels of each mask, in pixels.

    It is counted from the upper left corner of the image, and NaN where a mask has no pixel.
    """
    height, width = mask.shape[-2:]
    weight = mask.float()
    count = weight.sum((-2, -1))
    x = (weight.sum(-2) * (torch.arange(width, device=mask.device) + 0.5)).sum(-1) / count
    y = (weight.sum(-1) * (torch.arange(height, device=mask.device) + 0.5)).sum(-1) / count
    return torch.stack([x, y], dim=-1)


def reach(mask: Bool[Tensor, "*b h w"]) -> Float[Tensor, " *b"]:
    """Return the longer side, in pixels, of the box around each mask; 0 where it has no pixel."""
    rows, columns = mask.any(-1), mask.any(-2)
    return torch.maximum(_extent(rows), _extent(columns))


def _extent(found: Bool[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Return how far it is from the first to the last place that is found, both included."""
    place = torch.arange(1, found.shape[-1] + 1, device=found.device)
    last = (found * place).amax(-1)
    first = (found * place.flip(0)).amax(-1)  # n + 1 - the first place
    return (last + first - found.shape[-1]).clamp(min=0).float()
