"""Chapter 01 opens with images that its diffusion model draws from noise."""

import torch

from course_lib.classroom.figures import show_images
from course_lib.training import find_recipe, load_checkpoint


def show() -> None:
    """Draw sixteen images with `ddpm-32` in 100 steps, and say what its training cost."""
    model, made = load_checkpoint("ddpm-32")
    process = find_recipe("ddpm-32").diffusion.respaced(100)
    noise = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    samples = process.sample(model, noise, generator=torch.Generator().manual_seed(0))
    alt = "Images drawn by the network: single coloured objects on patterned floors."
    show_images(samples, columns=8, alt=alt)
    print(f"after {made['steps']:,} steps, {made['seconds'] / 60:.0f} minutes on {made['device']}")
