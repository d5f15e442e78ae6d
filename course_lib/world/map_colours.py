"""One colour code for each map of the little world, and the way back from colours to numbers.

    depth         white (near), yellow, red, black (far)
    normals       x, y and z of the unit vector as red, green and blue
    segmentation  a colour for each of CLASSES, or of a palette of your own
    edges         white on black
    grey          three equal channels
    holes         black

A map becomes an image, bytes with the channels last, and so a model of images can write it.  What
comes back is noisy, and each inverse takes the nearest colour that its code has.  A byte holds
depth to 0.2 percent and a normal to half a degree; the other codes are exact.
"""

import torch

from course_lib.shapes import Bool, Float, Int, Shaped, Tensor, UInt8
from course_lib.world.scene import SHAPES

Pixels = UInt8[Tensor, "*b 3"]

# ---------------------------------------------------------------- depth

MIDDLE_METRES = 6.0
NEAREST_METRES, FARTHEST_METRES = MIDDLE_METRES / 3, MIDDLE_METRES * 3  # what has a colour


def depth_to_pixels(depth: Float[Tensor, "*b"]) -> Pixels:
    """Turn depth in metres into colours, along three edges of the colour cube.

    The place on that path is 1/2 + (d - 6) / (d + 6), in which equal steps are nearly equal ratios
    of depth: from 0 at 2 metres to 1 at 18 metres, between which all depths of the world are.  What
    is nearer or farther gets the colour of the end.
    """
    path = 0.5 + (depth - MIDDLE_METRES) / (depth + MIDDLE_METRES)
    edge = path.clamp(0, 1) * 3
    # On the first edge blue falls from 1 to 0, on the second green, on the third red.
    falls = [(edge - start).clamp(0, 1) for start in (2, 1, 0)]
    return _bytes(1 - torch.stack(falls, dim=-1))


def pixels_to_depth(pixels: Pixels) -> Float[Tensor, "*b"]:
    """Return the depth in metres of the nearest colour on the path of `depth_to_pixels`."""
    red, green, blue = (pixels.float() / 255).unbind(-1)
    # How far a colour is from each edge, and where on the edge its nearest point is.
    distances = [
        (1 - red).square() + (1 - green).square(),
        (1 - red).square() + blue.square(),
        green.square() + blue.square(),
    ]
    places = [1 - blue, 2 - green, 3 - red]
    nearest = torch.stack(distances, dim=-1).argmin(-1, keepdim=True)
    edge = torch.stack(places, dim=-1).gather(-1, nearest).squeeze(-1)
    offset = edge / 3 - 0.5
    return MIDDLE_METRES * (1 + offset) / (1 - offset)


# ---------------------------------------------------------------- normals


def normal_to_pixels(normal: Float[Tensor, "*b 3"]) -> Pixels:
    """Turn unit vectors into colours: (n + 1) / 2."""
    return _bytes((normal + 1) / 2)


def pixels_to_normal(pixels: Pixels) -> Float[Tensor, "*b 3"]:
    """Return the unit vectors of colours; a grey without direction points to the viewer."""
    vector = pixels.float() / 127.5 - 1
    length = vector.norm(dim=-1, keepdim=True)
    towards_viewer = torch.tensor([0.0, 0.0, 1.0], device=pixels.device)
    return torch.where(length > 0.1, vector / length.clamp(min=0.1), towards_viewer)


# ---------------------------------------------------------------- segmentation

CLASSES = ("backdrop", "floor", *SHAPES)
# Backdrop and floor are at the ends of an axis of the colour cube, the shapes on a square around
# its middle: a blend of two that are side by side is never nearest to a third.
PALETTE = torch.tensor(
    [
        [128, 0, 128],
        [128, 255, 128],
        [255, 128, 0],
        [0, 128, 255],
        [0, 128, 0],
        [255, 128, 255],
    ],
    dtype=torch.uint8,
)
# The 27 colours whose channels are 0, 128 or 255, from which a palette may be drawn.
POOL = torch.cartesian_prod(*[torch.tensor([0, 128, 255], dtype=torch.uint8)] * 3)

Palette = UInt8[Tensor, "*n k 3"]


def classes_to_pixels(classes: Int[Tensor, "*b"], palette: Palette = PALETTE) -> Pixels:
    """Turn numbers of classes into colours of a palette (k 3), or of one for each image (n k 3).

    Raises ValueError for numbers that the palette does not have.
    """
    k = palette.shape[-2]
    if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < k:
        got = f"{int(classes.min())} to {int(classes.max())}"
        raise ValueError(f"classes: expected numbers from 0 to {k - 1}, got some from {got}")
    if palette.ndim == 2:
        return palette[classes]
    _check_palettes(classes.shape, palette)
    image = torch.arange(len(classes)).view(-1, *[1] * (classes.ndim - 1))
    return palette[image, classes]


def pixels_to_classes(pixels: Pixels, palette: Palette = PALETTE) -> Int[Tensor, "*b"]:
    """Return the number of each pixel's nearest colour of a palette (k 3), or of its image's own.

    On ties it is the lowest.  Raises ValueError for palettes of another number of images.
    """
    colours = palette.to(pixels.device).float()
    norms = colours.square().sum(-1)
    if palette.ndim > 2:
        _check_palettes(pixels.shape[:-1], palette)
        colours = colours.view(len(palette), *[1] * (pixels.ndim - 3), *palette.shape[1:])
        norms = norms.view(len(palette), *[1] * (pixels.ndim - 2), -1)
    # |p - c|^2 without |p|^2, which is the same for all colours; these are whole numbers.
    return (norms - 2 * pixels.float() @ colours.mT).argmin(-1)


def draw_palettes(
    uniform: Float[Tensor, "n pool"], k: int = len(CLASSES)
) -> UInt8[Tensor, "n k 3"]:
    """Draw palettes of k different colours of POOL; uniform: 27 random numbers for each.

    There are 213,127,200 of six colours, so that one drawn anew has hardly been seen before.
    Raises ValueError for other numbers of colours.
    """
    if uniform.shape[1] != len(POOL) or not 1 <= k <= len(POOL):
        raise ValueError(
            f"expected {len(POOL)} random numbers a palette and 1 to {len(POOL)} colours, got"
            f" {uniform.shape[1]} and {k}"
        )
    return POOL[uniform.argsort(dim=1)[:, :k]]


def _check_palettes(shape: torch.Size, palette: Tensor) -> None:
    if palette.ndim != 3 or len(shape) < 2 or shape[0] != len(palette):
        raise ValueError(
            "palette: expected one (k 3), or one for each image (n k 3), got"
            f" {tuple(palette.shape)} for images {tuple(shape)}"
        )


# ---------------------------------------------------------------- edges, grey, holes

HOLE = 48  # holes are darker than this in every channel, and nothing in the world is


def edges_to_pixels(edges: Bool[Tensor, "*b"]) -> Pixels:
    """Draw edges in white on black."""
    return grey_to_pixels(edges.to(torch.uint8) * 255)


def pixels_to_edges(pixels: Pixels) -> Bool[Tensor, "*b"]:
    """Tell which pixels are nearer to white than to black."""
    return pixels.int().sum(-1) > 382


def to_grey(rgb: Pixels) -> UInt8[Tensor, "*b"]:
    """Return the luma of sRGB colours: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded."""
    red, green, blue = rgb.int().unbind(-1)
    return ((299 * red + 587 * green + 114 * blue + 500) // 1000).to(torch.uint8)


def grey_to_pixels(grey: UInt8[Tensor, "*b"]) -> Pixels:
    """Give a grey to all three channels."""
    return torch.stack([grey] * 3, dim=-1)


def pixels_to_grey(pixels: Pixels) -> UInt8[Tensor, "*b"]:
    """Return the grey nearest to each colour: the mean of its channels, rounded."""
    return ((2 * pixels.int().sum(-1) + 3) // 6).to(torch.uint8)


def cut_holes(rgb: Pixels, holes: Bool[Tensor, "*b"]) -> Pixels:
    """Blacken the pixels of holes."""
    return torch.where(holes[..., None], torch.zeros_like(rgb), rgb)


def pixels_to_holes(pixels: Pixels) -> Bool[Tensor, "*b"]:
    """Tell which pixels are in a hole."""
    return pixels.amax(-1) < HOLE


def _bytes(values: Shaped[Tensor, "*b"]) -> UInt8[Tensor, "*b"]:
    """Round values in [0, 1] to bytes."""
    return (values.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)
