"""Many scenes at once: `images`, `videos`, `clips`, and what is true of them.

Scene number i of a seed depends only on the seed, i and the constraints, so that a large batch
begins with the scenes of a small one.
"""

from torch import Tensor

from course_lib.shapes import UInt8
from course_lib.world.caption import caption, stack_labels
from course_lib.world.clip import Clip, render_scenes
from course_lib.world.rays import check_size
from course_lib.world.sample import sample_scene
from course_lib.world.scene import Scene
from course_lib.world.shading import render_rgb
from course_lib.world.tables import tabulate

STREAMS = {"free": 0, "train": 1, "test": 2}


def scene_seed(seed: int, index: int, stream: str = "free") -> int:
    """Return the seed of scene `index`; no two (seed, index, stream) share it, for index < 2^32."""
    if seed < 0 or not 0 <= index < 2**32:
        raise ValueError(
            f"expected seed >= 0 and 0 <= index < 2**32, got seed {seed} and index {index}"
        )
    return (len(STREAMS) * seed + STREAMS[stream]) * 2**32 + index


def scenes(n: int, seed: int = 0, **constraints) -> list[Scene]:
    """Draw the first n scenes of a seed; constraints as in `sample_scene`."""
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    return [sample_scene(scene_seed(seed, index), **constraints) for index in range(n)]


def image_scenes(n: int, seed: int = 0, **constraints) -> list[Scene]:
    """Draw the scenes of `images`: at rest before a still camera, unless the constraints differ."""
    return scenes(n, seed, **still_constraints(constraints))


def still_constraints(constraints: dict) -> dict:
    """Return the constraints, completed for a still image."""
    return {"motion": "rest", "camera": "still"} | constraints


Images = UInt8[Tensor, "n h w 3"]


def images(n: int, size: int | tuple[int, int] = 32, seed: int = 0, **constraints) -> Images:
    """Render n images of n scenes: the first frames of ``image_scenes(n, seed, **constraints)``."""
    height, width = check_size(size)
    table = tabulate(image_scenes(n, seed, **constraints), frames=1)
    return render_rgb(table, height, width)


def image_labels(n: int, seed: int = 0, **constraints) -> dict[str, Tensor]:
    """Return the labels of ``images(n, size, seed, **constraints)``: int64 (n) per attribute."""
    return stack_labels(image_scenes(n, seed, **constraints))


def image_captions(n: int, seed: int = 0, **constraints) -> list[str]:
    """Return the captions of ``images(n, size, seed, **constraints)``."""
    return [caption(scene) for scene in image_scenes(n, seed, **constraints)]


def videos(
    n: int, size: int | tuple[int, int] = 32, frames: int = 17, seed: int = 0, **constraints
) -> UInt8[Tensor, "n t h w 3"]:
    """Render only the colours of ``clips(n, size, frames, seed, **constraints)``, at less cost."""
    height, width = check_size(size)
    table = tabulate(scenes(n, seed, **constraints), frames)
    rgb = render_rgb(table, height, width)
    return rgb.unflatten(0, (n, frames))


def clips(
    n: int, size: int | tuple[int, int] = 32, frames: int = 17, seed: int = 0, **constraints
) -> Clip:
    """Render n clips, with everything that is known about them, as one batch."""
    return render_scenes(scenes(n, seed, **constraints), size, frames)
