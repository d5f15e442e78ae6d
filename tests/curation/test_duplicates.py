"""Copies are found whatever was done to them, and other clips are not."""

from random import Random

import pytest
import torch

from course_lib.curation import duplicates, plant
from course_lib.curation.duplicates import (
    difference_hashes,
    find_copies,
    find_copies_by_hash,
    nearest_before,
    thumbnails,
)
from course_lib.world import LittleWorld, float_to_pixels


@pytest.fixture(scope="module")
def clips():
    world = LittleWorld("test", 32, 8, length=40, seed=3)
    return float_to_pixels(world.batch(range(40))["pixels"])


@pytest.mark.parametrize("how", plant.COPIES[:3])
def test_a_copy_points_at_its_source_and_nothing_else_is_a_copy(clips, how):
    rng = Random(0)
    copies = torch.stack([plant.copy(clip, how, rng) for clip in clips[:20]])
    found = find_copies(torch.cat([clips, copies]))
    assert (found[:40] == -1).all()
    assert int((found[40:] == torch.arange(20)).sum()) >= 19
    turned = find_copies(torch.cat([copies, clips]))  # the copy came first
    assert int((turned[20:40] == torch.arange(20)).sum()) >= 19


def test_a_mirrored_clip_is_another_one(clips):
    assert int((find_copies(torch.cat([clips, clips.flip(3)])) >= 0).sum()) <= 2


def test_thumbnails_do_not_see_brightness_and_contrast(clips):
    flat = (clips[:4].float() * 0.5 + 40).byte()
    products = (thumbnails(clips[:4]) * thumbnails(flat)).sum(1)
    assert products.min() > 0.999
    torch.testing.assert_close(thumbnails(clips).norm(dim=1), torch.ones(40))


def test_a_border_is_cut_off_at_every_side(clips):
    torch.testing.assert_close(thumbnails(clips, 0.125), thumbnails(clips[:, :, 4:-4, 4:-4]))


def test_the_nearest_earlier_clip_is_named():
    vectors = torch.tensor([[1.0, 0], [0, 1], [0.96, 0.28], [0.8, 0.6], [1, 0]])
    assert nearest_before(vectors, vectors, 0.041).tolist() == [-1, -1, 0, -1, 0]
    assert nearest_before(vectors, vectors, 0.3).tolist() == [-1, -1, 0, 2, 0]


def test_rows_of_a_large_set_are_compared_with_all_before(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(50, 3, generator=rng))
    whole = nearest_before(vectors, vectors, 0.05)
    monkeypatch.setattr(duplicates, "ROWS_AT_ONCE", 7)
    assert torch.equal(nearest_before(vectors, vectors, 0.05), whole) and (whole >= 0).any()


def test_a_hash_is_whether_places_are_brighter_than_the_next():
    ramp = torch.linspace(0, 255, 36).byte().view(1, 1, 1, 36, 1).expand(1, 3, 32, 36, 3)
    assert not difference_hashes(ramp).any() and difference_hashes(ramp.flip(3)).all()
    assert difference_hashes(ramp).shape == (1, 192)


def test_a_brighter_copy_has_almost_the_same_hash_and_other_clips_have_not(clips):
    darker = (clips.float() * 0.8).byte()
    found = find_copies_by_hash(torch.cat([clips, darker]))
    assert (found[:40] == -1).all() and int((found[40:] == torch.arange(40)).sum()) >= 38
    assert torch.equal(
        find_copies_by_hash(torch.cat([clips[:2], clips[:1]]), 0), torch.tensor([-1, -1, 0])
    )
