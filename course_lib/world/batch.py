"""Many scenes at once: `images`, `videos` and `clips`, and what is true of them.

Scene number i of a seed depends on the seed, i and the constraints alone: a larger batch begins with
the smaller one.
"""

from torch import Tensor

from course_lib.shapes import UInt8
from course_lib.world.render import check_size, render_rgb, tabulate
from course_lib.world.sample import sample_scene
from course_lib.world.scene import Scene

STREAMS = {"free": 0, "train": 1, "test": 2}


def scene_seed(seed: int, index: int, stream: str = "free") -> int:
    """The seed of scene `index`.  No two (seed, index, stream) with index < 2^32 share one."""
    if seed < 0 or not 0 <= index < 2**32:
        raise ValueError(f"expected seed >= 0 and 0 <= index < 2**32, got seed {seed} and index {index}")
    return (len(STREAMS) * seed + STREAMS[stream]) * 2**32 + index


def scenes(n: int, seed: int = 0, **constraints) -> list[Scene]:
    """The first n scenes of a seed; constraints as in `sample_scene`."""
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    return [sample_scene(scene_seed(seed, index), **constraints) for index in range(n)]


def stills(n: int, seed: int = 0, **constraints) -> list[Scene]:
    """The scenes that `images` draws: at rest before a still camera, unless the constraints say otherwise."""
    return scenes(n, seed, **{"motion": "rest", "camera": "still"} | constraints)


def images(n: int, size: int | tuple[int, int] = 32, seed: int = 0, **constraints) -> UInt8[Tensor, "n h w 3"]:
    """n pictures of n scenes: the first frames of `stills(n, seed, **constraints)`."""
    return render_rgb(tabulate(stills(n, seed, **constraints), frames=1), *check_size(size))
