"""Image to video from a published folder: our frames against those of diffusers' own pipeline."""

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.pipelines.svd import Pipeline, Settings

HEIGHT, WIDTH = 24, 40


@pytest.fixture(scope="module")
def photo():
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (6, 10, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy()).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def tensor(photo):

    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 127.5 - 1


CASES = {
    "as it comes": (Settings(steps=2), {"num_inference_steps": 2}),
    "everything else": (
        Settings(
            frames=5,
            steps=4,
            fps=12,
            motion_bucket=40,
            augmentation=0.3,
            first=1.5,
            last=2.5,
            frames_at_once=2,
        ),
        {
            "num_frames": 5,
            "num_inference_steps": 4,
            "fps": 12,
            "motion_bucket_id": 40,
            "noise_aug_strength": 0.3,
            "min_guidance_scale": 1.5,
            "max_guidance_scale": 2.5,
            "decode_chunk_size": 2,
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_frames_equal_those_of_diffusers(name, video_folder, video_peer, photo):
    settings, options = CASES[name]
    expected = video_peer(
        photo,
        HEIGHT,
        WIDTH,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
        **options,
    ).frames[0]
    generator = torch.Generator().manual_seed(3)
    clip = Pipeline(video_folder, "cpu").generate(tensor(photo), settings, generator)
    assert clip.shape == expected.shape == (settings.frames or 3, 3, HEIGHT, WIDTH)
    got = ((clip + 1) / 2).clamp(0, 1)
    difference = (got - expected).abs().max()
    print(f"{name}: {difference:.1e} of frames with deviation {expected.std():.2f}")
    assert expected.std() > 0.1
    assert difference < 1e-4
