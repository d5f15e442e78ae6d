"""Images, videos, clips and single renders agree; sizes, labels and captions."""

import pytest
import torch

from course_lib.world import (
    clips,
    image_captions,
    image_labels,
    image_scenes,
    images,
    render,
    sample_scene,
    scenes,
    videos,
)
from course_lib.world.scene import SHAPES

FIELDS = ("rgb", "depth", "normal", "segmentation", "flow", "audio")


def test_images_are_the_first_frames_of_their_scenes():
    batch = images(5, (18, 26), 3, count=2)
    assert batch.shape == (5, 18, 26, 3)
    assert batch.dtype == torch.uint8
    for image, scene in zip(batch, image_scenes(5, 3, count=2), strict=True):
        assert scene.motion.kind == "rest"
        assert torch.equal(image, render(scene, (18, 26), 1).rgb[0])


def test_clips_videos_and_render_agree_whatever_the_batch():
    batch = clips(4, (20, 24), 5, seed=9)
    assert torch.equal(videos(4, (20, 24), 5, seed=9), batch.rgb)
    assert torch.equal(videos(2, (20, 24), 5, seed=9), batch.rgb[:2])
    for number, scene in enumerate(scenes(4, 9)):
        single = render(scene, (20, 24), 5)
        for field in FIELDS:
            assert torch.equal(getattr(batch, field)[number], getattr(single, field)), field
        assert batch.caption[number] == single.caption
        assert {name: int(values[number]) for name, values in batch.labels.items()} == single.labels


def test_labels_and_captions_of_images():
    labels = image_labels(6, 4, count=(1, 2))
    captions = image_captions(6, 4, count=(1, 2))
    for number in range(6):
        assert SHAPES[labels["shape"][number]] in captions[number]
        assert " rests" in captions[number]


@pytest.mark.parametrize("size", [3, (16, 40), (2000, 2000)])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match=r"size: expected"):
        images(1, size)


def test_bad_frames():
    with pytest.raises(ValueError, match="frames"):
        render(sample_scene(0), 16, 0)
