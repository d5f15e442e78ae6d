"""An aesthetic score: a linear head that has learned what was spoilt."""

import pytest
import torch
from scipy.stats import spearmanr

from course_lib import data
from course_lib.curation import plant
from course_lib.curation.aesthetics import (
    BEST,
    WORST,
    aesthetic_head,
    aesthetic_score,
    embed,
    fit_head,
    rated_frames,
)
from course_lib.training.store import load_checkpoint
from course_lib.world import LittleWorld, float_to_pixels


@pytest.fixture(scope="module")
def trunk():
    return load_checkpoint(data.LPIPS_TRUNK)[0]


@pytest.fixture(scope="module")
def head(trunk):
    return aesthetic_head(trunk, 900)


def test_a_head_recovers_ratings_that_are_linear():
    rng = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(5000, 6, generator=rng)
    ratings = x @ torch.tensor([1.0, -1, 0.5, 0, 0, 2]) + 4
    torch.testing.assert_close(fit_head(x, ratings).rate(x), ratings, atol=0.6, rtol=0)


def test_ratings_say_how_much_was_spoilt():
    frames = data.images("test", 60)["pixels"]
    spoilt, ratings = rated_frames(frames)
    untouched = ratings == BEST
    assert torch.equal(spoilt[untouched], frames[untouched]) and int(untouched.sum()) == 20
    assert WORST <= float(ratings.min()) < 3
    assert torch.equal(rated_frames(frames)[0], spoilt)


def test_new_frames_are_ranked_as_they_were_spoilt(trunk, head):
    frames = data.images("test", 150, seed=3, count=(1, 2, 3))["pixels"]
    spoilt, ratings = rated_frames(frames, seed=1)
    assert spearmanr(head.rate(embed(spoilt, trunk)), ratings).statistic > 0.6


@pytest.mark.parametrize("how", ["blur", "noise", "flat", "blocks"])
def test_a_spoilt_clip_scores_less_than_the_clip(trunk, head, how):
    rng = torch.Generator().manual_seed(0)
    world = LittleWorld("test", 32, 5, length=10, seed=2)
    clips = float_to_pixels(world.batch(range(10))["pixels"])
    less = [
        aesthetic_score(plant.degrade(clip, how, 0.9, rng), trunk, head)
        < aesthetic_score(clip, trunk, head)
        for clip in clips
    ]
    assert sum(less) >= 9


def test_an_embedding_is_the_mean_and_spread_of_every_channel(trunk):
    frames = data.images("test", 3)["pixels"]
    widths = [len(w) for w in trunk.weights]
    embedding = embed(frames, trunk)
    assert embedding.shape == (3, 2 * sum(widths))
    flat = embed(torch.full((1, 32, 32, 3), 90, dtype=torch.uint8), trunk)
    assert not torch.allclose(flat, embedding[:1])
