"""Image to video from a published folder: our frames against those of diffusers' own pipeline."""

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.papers.svd_decoder import TemporalDecoder
from course_lib.pipelines import memory
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
    "as it comes": (Settings(steps=4), {"num_inference_steps": 4}),
    "everything else": (
        Settings(
            frames=5,
            steps=4,
            fps=12,
            motion_bucket=40,
            augmentation=0.3,
            guidance=(1.5, 2.5),
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
    assert difference < 2e-5


def test_what_is_not_said_suits_the_model_and_the_memory(video_folder, tmp_path, monkeypatch):
    from tests.pipelines.folders import change, copy

    folder = copy(video_folder, tmp_path / "folder")
    for frames, steps, guidance in (
        (14, 25, (1.0, 2.5)),
        (25, 30, (1.5, 3.0)),
        (3, 25, (1.0, 3.0)),
    ):
        change(folder / "unet" / "config.json", num_frames=frames)
        planned = Pipeline(folder, "cpu").plan(Settings(), (24, 40))
        at_once = min(frames, 14)
        expected = Settings(frames, steps, guidance=guidance, frames_at_once=at_once)
        assert planned == expected
    chosen = Settings(9, 8, guidance=(2.0, 2.0), frames_at_once=7)
    assert Pipeline(folder, "cpu").plan(chosen, (24, 40)) == chosen
    monkeypatch.setattr(memory, "free_bytes", lambda device: 30_000_000)
    monkeypatch.setattr("course_lib.pipelines.svd.ROOM", 0.4)
    planned = Pipeline(folder, "cpu").plan(Settings(frames=14), (24, 40))
    assert 1 < planned.frames_at_once < 14


def test_memory_grows_with_what_is_decoded_at_once_and_not_with_the_clip(video_folder):
    """The decoder's own calls: as many frames as asked for, never more."""
    pipeline = Pipeline(video_folder, "cpu")
    seen = []
    decode = TemporalDecoder.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TemporalDecoder,
            "forward",
            lambda self, x, frames: seen.append(len(x)) or decode(self, x, frames),
        )
        clip = pipeline.decode(torch.randn(1, 11, 4, 6, 10), 4)
    assert seen == [4, 4, 3] and clip.shape == (11, 3, 12, 20)
