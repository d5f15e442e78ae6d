"""The bytes: always the same, whatever the batch, the threads or the shape of the image."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch

from course_lib import paths
from course_lib.world import clips, images, render, sample_scene, videos
from course_lib.world.scene import COLOURS, SHAPES

FIELDS = ("rgb", "depth", "normal", "segmentation", "flow", "audio")


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


def test_chunks_and_threads_change_nothing(monkeypatch):
    whole = clips(3, 24, 4, seed=2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        other = clips(3, 24, 4, seed=2)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr("course_lib.world.shading.RAYS_PER_CHUNK", 24 * 24 * 4 * 5)
    monkeypatch.setattr("course_lib.world.geometry.PIXELS_PER_CHUNK", 24 * 24 * 5)
    chunked = clips(3, 24, 4, seed=2)
    for field in FIELDS:
        assert torch.equal(getattr(whole, field), getattr(other, field)), field
        assert torch.equal(getattr(whole, field), getattr(chunked, field)), field


def digests():
    return {
        "images 16": digest(images(16, 16, 0, count=1)),
        "images 32": digest(images(16, 32, 1)),
        "images 24x40": digest(images(8, (24, 40), 2)),
        "videos": digest(videos(4, 32, 9, seed=3)),
        "collisions": digest(videos(2, (40, 24), 5, seed=4, motion="collide", camera="orbit")),
        "audio": digest(clips(4, 8, 2, seed=5, motion=("bounce", "collide", "fall")).audio),
    }


def test_the_bytes_never_change():
    """See shading.py's docstring."""
    assert digests() == DIGESTS


@pytest.mark.parametrize("processor", ["AVX2", "SSE4_2", "plain kernels"])
def test_another_processor_draws_the_same_bytes(processor):
    """As far as one machine can tell: its libraries are asked for the code of older processors."""
    plain = {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"}
    settings = plain if processor == "plain kernels" else {"MKL_ENABLE_INSTRUCTIONS": processor}
    code = "from tests.world.test_shading import DIGESTS, digests; assert digests() == DIGESTS"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=paths.ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


DIGESTS = {
    "images 16": "c712799a11dddda6",
    "images 32": "1f48c7effe62f45a",
    "images 24x40": "d14ccbc99a94a01b",
    "videos": "ccd6b3a847b65343",
    "collisions": "15d83c24213fe39f",
    "audio": "e7d549e29d737fd6",
}


def test_an_image_shows_its_colours():
    """Things stand out from the floor, and the mean over a thing is nearest to its own colour."""
    right = 0
    for seed in range(64):
        scene = sample_scene(seed, count=1, motion="rest", camera="still")
        clip = render(scene, 32, 1)
        pixels = clip.rgb[0][clip.segmentation[0] == 2].double() / 255
        hue = pixels.mean(0) - pixels.mean()
        wanted = {name: torch.tensor(rgb, dtype=torch.float64) for name, rgb in COLOURS.items()}
        near = {
            name: torch.cosine_similarity(hue, rgb - rgb.mean(), dim=0)
            for name, rgb in wanted.items()
        }
        right += max(near, key=near.get) == scene.things[0].colour
    assert right >= 48  # Orange and yellow, and red and pink, have much the same hue.


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_smooth(shape):
    """There are tones between the red of the thing and the floor."""
    scene = sample_scene(1, shape=shape, colour="red", count=1, motion="rest")
    rgb = render(scene, 16, 1).rgb[0].int()
    redness = rgb[..., 0] - rgb[..., 2]
    between = ((redness > 30) & (redness < 110)).sum()
    assert between >= 5
