"""Chapter 08 opens with captions that become images, and images that become clips."""

import torch

from course_lib.classroom.clips import show_clip
from course_lib.data import captions
from course_lib.training import load_checkpoint
from course_lib.training.recipes.ldm import GUIDANCE, IMAGES
from course_lib.training.recipes.svd import continue_images

CHOSEN = (1, 4, 6)


def show() -> None:
    """Draw an image for each of three test captions, and a clip that continues each image."""
    image_model, image_made = load_checkpoint("ldm-images")
    clip_model, clip_made = load_checkpoint("svd-best")
    known = captions("test", 16)
    sentences = [known[i] for i in CHOSEN]
    generator = torch.Generator().manual_seed(0)
    images = IMAGES.draw(image_model, sentences, GUIDANCE, generator)
    clips = continue_images(clip_model, images, generator)
    show_clip(
        list(clips),
        labels=[sentence.removesuffix(" rests") for sentence in sentences],
        title="From a caption to an image, from the image to a clip",
        alt="Three film strips, each of an object as its caption says, which begins to move.",
    )
    minutes = [made["seconds"] / 60 for made in (image_made, clip_made)]
    print(
        f"image model: {minutes[0]:.0f} minutes on {image_made['device']};"
        f" last stage of the clip model: {minutes[1]:.0f} minutes"
    )
