"""The bytes: the same for ever, whatever the batch, the threads, the shape of the picture."""

import hashlib

import pytest
import torch

from course_lib.world import (
    LittleWorld,
    clips,
    float_to_pixels,
    image_captions,
    image_labels,
    image_scenes,
    images,
    pixels_to_float,
    render,
    sample_scene,
    scenes,
    videos,
)
from course_lib.world.scene import COLOURS, SHAPES

FIELDS = ("rgb", "depth", "normal", "segmentation", "flow", "audio")


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


def test_images_are_the_first_frames_of_stills():
    batch = images(5, (18, 26), 3, count=2)
    assert batch.shape == (5, 18, 26, 3)
    assert batch.dtype == torch.uint8
    for picture, scene in zip(batch, image_scenes(5, 3, count=2), strict=True):
        assert scene.motion.kind == "rest"
        assert torch.equal(picture, render(scene, (18, 26), 1).rgb[0])


def test_clips_videos_and_render_agree_whatever_the_batch():
    batch = clips(4, (20, 24), 5, seed=9)
    assert torch.equal(videos(4, (20, 24), 5, seed=9), batch.rgb)
    assert torch.equal(videos(2, (20, 24), 5, seed=9), batch.rgb[:2])
    for number, scene in enumerate(scenes(4, 9)):
        alone = render(scene, (20, 24), 5)
        for field in FIELDS:
            assert torch.equal(getattr(batch, field)[number], getattr(alone, field)), field
        assert batch.caption[number] == alone.caption
        assert {name: int(values[number]) for name, values in batch.labels.items()} == alone.labels


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


def test_the_bytes_never_change():
    """Made on x86-64 with AVX-512 and checked with the plain kernels: see the docstring of
    shading.py.
    """
    assert {
        "images 16": digest(images(16, 16, 0, count=1)),
        "images 32": digest(images(16, 32, 1)),
        "images 24x40": digest(images(8, (24, 40), 2)),
        "videos": digest(videos(4, 32, 9, seed=3)),
        "collisions": digest(videos(2, (40, 24), 5, seed=4, motion="collide", camera="orbit")),
        "audio": digest(clips(4, 8, 2, seed=5, motion=("bounce", "collide", "fall")).audio),
    } == DIGESTS


DIGESTS = {
    "images 16": "c712799a11dddda6",
    "images 32": "1f48c7effe62f45a",
    "images 24x40": "d14ccbc99a94a01b",
    "videos": "bb243ba94734a607",
    "collisions": "15d83c24213fe39f",
    "audio": "e7d549e29d737fd6",
}


def test_a_picture_shows_its_colours():
    """Things stand out of the floor, in their own colour: the mean over a thing is nearest to its
    name.
    """
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
    assert right >= 48  # orange and yellow, red and pink are of much the same hue


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_smooth(shape):
    """Between the red of the thing and the floor there are tones in between."""
    rgb = (
        render(sample_scene(1, shape=shape, colour="red", count=1, motion="rest"), 16, 1)
        .rgb[0]
        .int()
    )
    redness = rgb[..., 0] - rgb[..., 2]
    between = ((redness > 30) & (redness < 110)).sum()
    assert between >= 5


@pytest.mark.parametrize("size", [3, (16, 40), (2000, 2000)])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match=r"size: expected"):
        images(1, size)


def test_bad_frames():
    with pytest.raises(ValueError, match="frames"):
        render(sample_scene(0), 16, 0)


def test_labels_and_captions_of_images():
    labels = image_labels(6, 4, count=(1, 2))
    captions = image_captions(6, 4, count=(1, 2))
    for number in range(6):
        assert SHAPES[labels["shape"][number]] in captions[number]
        assert " rests" in captions[number]


def test_to_model_and_back():
    rgb = images(3, (10, 14), 0)
    x = pixels_to_float(rgb)
    assert x.shape == (3, 3, 10, 14)
    assert x.min() >= -1
    assert x.max() <= 1
    assert torch.equal(float_to_pixels(x), rgb)
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    assert torch.equal(float_to_pixels(pixels_to_float(every)), every)
    assert pixels_to_float(torch.zeros(2, 5, 4, 6, 3, dtype=torch.uint8)).shape == (2, 5, 3, 4, 6)
    assert float_to_pixels(torch.full((1, 3, 2, 2), 7.0)).min() == 255


def test_dataset_of_images():
    world = LittleWorld("train", size=(12, 16), length=20, count=1)
    assert len(world) == 20
    item, batch = world[3], world.batch([1, 3])
    assert item["pixels"].shape == (3, 12, 16)
    assert torch.equal(item["pixels"], batch["pixels"][1])
    assert item["caption"] == batch["caption"][1]
    assert item["labels"]["colour"] == batch["labels"]["colour"][1]
    with pytest.raises(IndexError, match="19"):
        world[20]


def test_dataset_of_clips_in_a_loader():
    world = LittleWorld("test", size=(12, 16), frames=3, length=5, motion="slide")
    (batch,) = torch.utils.data.DataLoader(world, batch_size=5)
    assert batch["pixels"].shape == (5, 3, 3, 12, 16)
    assert len(batch["caption"]) == 5
    assert torch.equal(batch["pixels"][4], world[4]["pixels"])
    assert batch["labels"]["motion"].tolist() == [1] * 5


def test_train_and_test_never_meet():
    train, test = (LittleWorld(split, length=200, seed=0) for split in ("train", "test"))
    seen = {train.scene(index) for index in range(200)}
    assert not seen & {test.scene(index) for index in range(200)}
    assert not seen & set(image_scenes(200, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "'train' or 'test'"),
        ({"length": 0}, "length"),
        ({"size": 2}, "size"),
        ({"frames": 0}, "frames"),
        ({"colour": "mauve"}, "purple"),
    ],
)
def test_bad_datasets(arguments, message):
    with pytest.raises(ValueError, match=message):
        LittleWorld(**arguments)
