"""`Clip`: a scene played, with everything that is known about it."""

from dataclasses import dataclass

import torch
from einops import rearrange

from course_lib.shapes import Float, Int, Tensor, UInt8
from course_lib.world.audio import sound
from course_lib.world.caption import caption, labels, stack_labels
from course_lib.world.geometry import render_geometry
from course_lib.world.rays import check_size, tabulate
from course_lib.world.scene import Scene
from course_lib.world.shading import render_rgb


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip, or (from `clips`) a batch of them with an axis in front; `geometry` defines the
    fields.

    The frames are spread evenly over the scene's 2 seconds; audio has 8000 samples a second.
    """

    rgb: UInt8[Tensor, "*b t h w 3"]
    depth: Float[Tensor, "*b t h w"]
    normal: Float[Tensor, "*b t h w 3"]
    segmentation: Int[Tensor, "*b t h w"]
    flow: Float[Tensor, "*b t h w 2"]
    audio: Float[Tensor, "*b samples"]
    caption: str | list[str]
    labels: dict[str, int] | dict[str, Tensor]


def render(scene: Scene, size: int | tuple[int, int] = 32, frames: int = 17) -> Clip:
    """Play a scene: `frames` pictures of `size` (or (height, width)), from its first moment to its
    last.
    """
    batch = render_scenes([scene], size, frames)
    tensors = {
        name: getattr(batch, name)[0]
        for name in ("rgb", "depth", "normal", "segmentation", "flow", "audio")
    }
    return Clip(**tensors, caption=caption(scene), labels=labels(scene))


def render_scenes(scenes: list[Scene], size: int | tuple[int, int], frames: int) -> Clip:
    """Play several scenes, as one batch."""
    height, width = check_size(size)
    table = tabulate(scenes, frames)
    frame = torch.arange(len(table))
    following = table[frame + (frame % frames < frames - 1)]
    fields = {"rgb": render_rgb(table, height, width)} | render_geometry(
        table, following, height, width
    )
    fields = {
        name: rearrange(field, "(b t) ... -> b t ...", t=frames) for name, field in fields.items()
    }
    audio = torch.stack([sound(scene) for scene in scenes])
    return Clip(
        **fields,
        audio=audio,
        caption=[caption(scene) for scene in scenes],
        labels=stack_labels(scenes),
    )
