"""Chapter 02 opens with what its image judge reads in eight images, and where it looked."""

import torch

from course_lib import data
from course_lib.classroom.figures import show_images
from course_lib.classroom.views import shade_by_map
from course_lib.papers.vit import attention_rollout
from course_lib.training import load_checkpoint
from course_lib.world import VOCABULARY, pixels_to_float


def show() -> None:
    """Show eight test images with their readings, and below, lit by attention rollout."""
    judge, provenance = load_checkpoint("vit-judge")
    images = pixels_to_float(data.images("test", 8, seed=3)["pixels"])  # b c h w, in [-1, 1]
    read = judge.read(images)
    colours = [VOCABULARY["colour"][number] for number in read["colour"]]
    shapes = [VOCABULARY["shape"][number] for number in read["shape"]]
    names = [f"{colour} {shape}" for colour, shape in zip(colours, shapes, strict=True)]
    rollout = attention_rollout(judge.network.attention_maps(images))  # b n n
    of_patches = rollout[:, 0, 1:].unflatten(1, judge.network.config.grid)  # b rows columns
    everywhere = torch.ones(8, 1, 1)
    alt = (
        "Eight images with what the network read above each; below, the same images, lit where it"
        " looked."
    )
    show_images(
        [*shade_by_map(images, everywhere), *shade_by_map(images, of_patches)],
        names + [""] * 8,
        columns=8,
        alt=alt,
    )
    minutes = provenance["seconds"] / 60
    print(f"after {provenance['steps']:,} steps, {minutes:.0f} minutes on {provenance['device']}")
