"""`Clip`: a rendered scene, with everything that is known about it."""

from dataclasses import dataclass

import torch
from einops import rearrange

from course_lib.shapes import Float, Int, Tensor, UInt8
from course_lib.world.audio import sound
from course_lib.world.caption import caption, labels, stack_labels
from course_lib.world.geometry import render_geometry
from course_lib.world.rays import check_size
from course_lib.world.scene import Scene
from course_lib.world.shading import render_rgb
from course_lib.world.tables import tabulate


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip, or (from `clips`) a batch of them with an axis more; `geometry` defines the fields.

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
    """Render a scene in `frames` frames of `size` (or (height, width)), from start to end."""
    batch = render_scenes([scene], size, frames)
    return Clip(
        rgb=batch.rgb[0],
        depth=batch.depth[0],
        normal=batch.normal[0],
        segmentation=batch.segmentation[0],
        flow=batch.flow[0],
        audio=batch.audio[0],
        caption=caption(scene),
        labels=labels(scene),
    )


def render_scenes(scenes: list[Scene], size: int | tuple[int, int], frames: int) -> Clip:
    """Render several scenes as one batch."""
    height, width = check_size(size)
    table = tabulate(scenes, frames)
    frame = torch.arange(len(table))
    has_next = frame % frames < frames - 1
    following = table[frame + has_next]

    fields = render_geometry(table, following, height, width)
    fields["rgb"] = render_rgb(table, height, width)
    for name, field in fields.items():
        fields[name] = rearrange(field, "(b t) ... -> b t ...", t=frames)

    return Clip(
        **fields,
        audio=torch.stack([sound(scene) for scene in scenes]),
        caption=[caption(scene) for scene in scenes],
        labels=stack_labels(scenes),
    )
