"""Text to image from a published folder: our image against that of diffusers' own pipeline."""

import pytest
import torch

from course_lib.pipelines.ldm import Pipeline, Settings

PROMPT = "A photo of an astronaut riding a horse on the moon! " * 3
SCHEDULERS = [
    "SD 2.1, DDIM of v",
    "DDIM of eps",
    "Euler, leading, v",
    "Euler, linspace, eps",
]


@pytest.mark.parametrize("kind", ["1.5", "2.1"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_image_equals_that_of_diffusers(name, kind, image_folders_and_peers, tmp_path):
    from tests.pipelines.folders import SCHEDULERS, copy, with_scheduler

    folder, peer = image_folders_and_peers[kind]
    folder = copy(folder, tmp_path / "folder")
    with_scheduler(folder, peer, SCHEDULERS[name])
    settings = Settings(negative="Blurry, dull", size=(24, 40), steps=5, guidance=4.5)
    expected = peer(
        PROMPT,
        *settings.size,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance,
        negative_prompt=settings.negative,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images[0]
    image = Pipeline(folder, "cpu").generate(PROMPT, settings, torch.Generator().manual_seed(3))
    assert image.shape == expected.shape == (3, 24, 40)
    difference = (((image + 1) / 2).clamp(0, 1) - expected).abs().max()
    print(f"{name}: {difference:.1e} of an image with deviation {expected.std():.2f}")
    assert expected.std() > 0.1
    assert difference < 1e-4
