"""Planted flaws: what is said of a clip is what was done to it."""

from random import Random

import pytest
import torch

from course_lib.curation import plant
from course_lib.metrics import psnr
from course_lib.world import LittleWorld, float_to_pixels, pixels_to_float


@pytest.fixture(scope="module")
def clips():
    world = LittleWorld("test", (24, 32), 12, length=2, seed=1)
    return float_to_pixels(world.batch([0, 1])["pixels"])


@pytest.fixture(scope="module")
def web():
    return plant.uncurated("test", 60, 12, 32, seed=2)


def test_a_join_takes_frames_from_both_sides(clips):
    first, second = clips
    joined = plant.join(first, second, 5)
    assert torch.equal(joined[:5], first[:5]) and torch.equal(joined[5:], second[5:])
    for at in (0, 12):
        with pytest.raises(ValueError, match="at: expected 1 to 11"):
            plant.join(first, second, at)


def test_a_dissolve_is_an_average_halfway_and_both_clips_at_its_ends(clips):
    first, second = clips
    mixed = plant.dissolve(first, second, 4, 3)
    assert torch.equal(mixed[:4], first[:4]) and torch.equal(mixed[7:], second[7:])
    half = (first[5].float() + second[5].float()) / 2
    assert float((mixed[5].float() - half).abs().max()) <= 0.5
    assert (
        float((mixed[4].float() - (0.75 * first[4].float() + 0.25 * second[4])).abs().max()) <= 0.5
    )


def test_a_fade_is_black_in_its_middle(clips):
    first, second = clips
    faded = plant.fade(first, second, 4, 3)
    assert torch.equal(faded[:4], first[:4]) and torch.equal(faded[7:], second[7:])
    assert int(faded[5].max()) == 0
    assert float((faded[4].float() - 0.5 * first[4].float()).abs().max()) <= 0.5
    with pytest.raises(ValueError, match="at: expected 1 to 8"):
        plant.fade(first, second, 9, 3)


@pytest.mark.parametrize("seed", range(4))
def test_a_caption_changes_the_picture_within_its_boxes(clips, seed):
    written, boxes = plant.write_on(clips[0], Random(seed))
    changed = (written != clips[0]).any(-1)
    assert boxes.shape == (24, 32) and 0 < float(boxes.float().mean()) < 0.9
    assert not changed[:, ~boxes].any()
    assert changed[:, boxes].float().mean() > 0.15
    again, _ = plant.write_on(clips[0], Random(seed))
    assert torch.equal(written, again)


def test_a_still_clip_repeats_one_frame_but_for_its_noise(clips):
    still = plant.still(clips[0], 3, 0.0, torch.Generator())
    assert torch.equal(still, clips[0][3].expand(12, -1, -1, -1))
    noisy = plant.still(clips[0], 3, 4.0, torch.Generator().manual_seed(0)).float()
    assert 3 < float((noisy - still).std()) < 4.5
    assert float((noisy[0] - noisy[1]).abs().mean()) > 2


@pytest.mark.parametrize("how", plant.DEGRADATIONS)
def test_a_stronger_degradation_is_further_from_the_clip(clips, how):
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(plant.degrade(clips[0], how, 0.0, rng), clips[0])
    signal = [
        float(
            psnr(
                pixels_to_float(plant.degrade(clips[0], how, s, rng)), pixels_to_float(clips[0])
            ).mean()
        )
        for s in (0.3, 0.6, 1.0)
    ]
    assert signal[0] > signal[1] > signal[2] and signal[2] < 24
    with pytest.raises(ValueError, match="how: expected one of blur"):
        plant.degrade(clips[0], "upside down", 0.5, rng)


@pytest.mark.parametrize("how", plant.COPIES)
def test_a_copy_is_another_file_of_the_same_clip(clips, how):
    copied = plant.copy(clips[0], how, Random(3))
    assert copied.shape == clips[0].shape and not torch.equal(copied, clips[0])
    back = copied.flip(2) if how == "mirrored" else copied
    same, other = (
        torch.corrcoef(torch.stack([back.flatten(), clip.flatten()]).float()) for clip in clips
    )
    assert same[0, 1] > 0.8 > other[0, 1]


def test_the_web_is_the_same_again_and_a_larger_one_begins_with_a_smaller(web):
    few = plant.uncurated("test", 15, 12, 32, seed=2)
    assert torch.equal(few.pixels, web.pixels[:15]) and few.captions == web.captions[:15]
    assert few.cuts == web.cuts[:15] and torch.equal(few.text, web.text[:15])
    other = plant.uncurated("train", 15, 12, 32, seed=2)
    assert not torch.equal(other.pixels, few.pixels)


def test_the_truth_of_the_web_holds_of_its_clips(web):
    assert web.pixels.shape == (60, 12, 32, 32, 3) and len(web) == 60
    for name, share in plant.SHARES.items():
        assert 0.2 * share < float(web.flaws[name].float().mean()) < 3 * share
    scene_change = web.flaws["cut"] | web.flaws["fade"]
    for i, cuts in enumerate(web.cuts):
        assert bool(cuts) == bool(scene_change[i]) and all(0 < cut < 12 for cut in cuts)
    own = web.copy_of < 0
    assert ((web.text > 0) == web.flaws["text"]).all()
    assert ((web.quality < 1) == web.flaws["poor"]).all()
    assert [way in plant.DEGRADATIONS for way in web.ways] == web.flaws["poor"].tolist()
    right = [a == b for a, b in zip(web.captions, web.true_captions, strict=True)]
    assert torch.equal(torch.tensor(right), ~web.flaws["wrong caption"])
    still = web.flaws["still"] & own & ~web.flaws["poor"]
    moved = (web.pixels[:, 1:].float() - web.pixels[:, :-1].float()).abs().mean((1, 2, 3, 4))
    assert still.any() and float(moved[still].max()) < 5


def test_copies_keep_the_captions_and_flaws_of_their_source(web):
    copies = (web.copy_of >= 0).nonzero()[:, 0].tolist()
    assert copies
    for i in copies:
        source = int(web.copy_of[i])
        assert source < i and web.captions[i] == web.captions[source]
        assert web.cuts[i] == web.cuts[source] and web.text[i] == web.text[source]
        assert web.flaws["copy"][i]


def test_labels_are_those_of_the_captions(web):
    from course_lib.world import VOCABULARY

    for i, caption in enumerate(web.captions):
        for name in ("scale", "colour", "shape"):
            assert VOCABULARY[name][int(web.labels[name][i])] in caption.split()[:5]


def test_short_clips_are_refused():
    assert plant.uncurated("test", 20, 8).pixels.shape == (20, 8, 32, 32, 3)
    with pytest.raises(ValueError, match="frames: expected 8"):
        plant.uncurated("train", 3, 7)
