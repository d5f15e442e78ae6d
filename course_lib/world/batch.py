"""Many scenes at once: `images`, `videos`, `clips`, and what is true of them.

Scene number i of a seed depends on the seed, i and the constraints alone, so that a large batch
begins with the small one.
"""

from torch import Tensor

from course_lib.shapes import UInt8
from course_lib.world.caption import caption, stack_labels
from course_lib.world.clip import Clip, render_scenes
from course_lib.world.rays import check_size, tabulate
from course_lib.world.sample import sample_scene
from course_lib.world.scene import Scene
from course_lib.world.shading import render_rgb

STREAMS = {"free": 0, "train": 1, "test": 2}


def scene_seed(seed: int, index: int, stream: str = "free") -> int:
    """The seed of scene `index`.  No two (seed, index, stream) share one, for index < 2^32."""
    if seed < 0 or not 0 <= index < 2**32:
        raise ValueError(
            f"expected seed >= 0 and 0 <= index < 2**32, got seed {seed} and index {index}"
        )
    return (len(STREAMS) * seed + STREAMS[stream]) * 2**32 + index


def scenes(n: int, seed: int = 0, **constraints) -> list[Scene]:
    """The first n scenes of a seed; constraints as in `sample_scene`."""
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    return [sample_scene(scene_seed(seed, index), **constraints) for index in range(n)]


def image_scenes(n: int, seed: int = 0, **constraints) -> list[Scene]:
    """The scenes that `images` draws: at rest before a still camera, unless the constraints say
    otherwise.
    """
    return scenes(n, seed, **still_constraints(constraints))


def still_constraints(constraints: dict) -> dict:
    """The constraints, completed for a picture."""
    return {"motion": "rest", "camera": "still"} | constraints


Images = UInt8[Tensor, "n h w 3"]


def images(n: int, size: int | tuple[int, int] = 32, seed: int = 0, **constraints) -> Images:
    """n pictures of n scenes: the first frames of ``image_scenes(n, seed, **constraints)``."""
    return render_rgb(tabulate(image_scenes(n, seed, **constraints), frames=1), *check_size(size))


def image_labels(n: int, seed: int = 0, **constraints) -> dict[str, Tensor]:
    """The labels of ``images(n, size, seed, **constraints)``: one int64 tensor (n) per attribute."""
    return stack_labels(image_scenes(n, seed, **constraints))


def image_captions(n: int, seed: int = 0, **constraints) -> list[str]:
    """The captions of ``images(n, size, seed, **constraints)``."""
    return [caption(scene) for scene in image_scenes(n, seed, **constraints)]


def videos(
    n: int, size: int | tuple[int, int] = 32, frames: int = 17, seed: int = 0, **constraints
) -> UInt8[Tensor, "n t h w 3"]:
    """The pictures of ``clips(n, size, frames, seed, **constraints)``, without the cost of the
    rest.
    """
    rgb = render_rgb(tabulate(scenes(n, seed, **constraints), frames), *check_size(size))
    return rgb.unflatten(0, (n, frames))


def clips(
    n: int, size: int | tuple[int, int] = 32, frames: int = 17, seed: int = 0, **constraints
) -> Clip:
    """n clips with everything that is known about them, as one batch."""
    return render_scenes(scenes(n, seed, **constraints), size, frames)
