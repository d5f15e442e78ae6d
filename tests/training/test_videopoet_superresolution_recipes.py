"""The recipes of VideoPoet's super-resolution: what they compare, and that they learn."""

from dataclasses import replace

import pytest
import torch

from course_lib.training import RandomSource
from course_lib.training.recipes.videopoet_superresolution import (
    RECIPES,
    SUPERRESOLUTION,
    SuperResolutionTrainable,
    enlarge,
)
from tests.training.helpers import differing, train_model


def batch(b=4):
    rng = torch.Generator().manual_seed(0)
    return {
        "codes": torch.randint(1024, (b, 5, 8, 8), generator=rng, dtype=torch.int32),
        "low": torch.randint(1024, (b, 5, 4, 4), generator=rng, dtype=torch.int32),
        "text": torch.randn(b, 27, 64, generator=rng),
        "is_text": torch.arange(27).expand(b, -1) < 9,
    }


@pytest.fixture(scope="module")
def trainable():
    torch.manual_seed(0)
    return SUPERRESOLUTION.build().train()


def test_the_two_runs_differ_in_the_disturbance_alone():
    assert differing([recipe.name for recipe in RECIPES]) == {"most_resampled"}
    for recipe in RECIPES:
        assert recipe.lr_scale(0) < 0.1 < 0.9 < recipe.lr_scale(recipe.warmup)
        assert recipe.lr_scale(recipe.steps) == 0


def test_conditions_are_dropped_and_disturbed_as_often_as_the_recipe_says(trainable):
    many = {name: x[:1].expand(2000, *x.shape[1:]) for name, x in batch(1).items()}
    config = trainable.model.config
    low, is_text = trainable.conditions(many, RandomSource(0))
    is_dropped = (low == config.no_token).all(dim=(1, 2, 3))
    has_no_text = ~is_text.any(1)
    for dropped in (is_dropped, has_no_text):
        assert abs(float(dropped.float().mean()) - 0.1) < 0.03
    assert abs(float((is_dropped & has_no_text).float().mean()) - 0.01) < 0.01  # independent

    share = (low != many["low"])[~is_dropped].flatten(1).float().mean(1)
    assert abs(float(share.mean()) - 0.25) < 0.02 and share.min() < 0.05 and share.max() > 0.45

    recipe = replace(SUPERRESOLUTION, most_resampled=0.0, dropped=0.0)
    plain = SuperResolutionTrainable(trainable.model, recipe)
    low, is_text = plain.conditions(many, RandomSource(0))
    assert torch.equal(low, many["low"].long()) and torch.equal(is_text, many["is_text"])


def test_it_learns_which_tokens_there_are(trainable):
    def is_done(losses):
        return len(losses) > 5 and sum(losses[-5:]) / 5 < 0.6 * losses[0]

    few = batch() | {"codes": batch()["codes"] % 8}  # ln 8 nats, after ln 1024
    losses = train_model(trainable, few, 60, is_done)
    assert is_done(losses), losses


def test_codes_are_drawn_for_every_small_clip(trainable):
    pairs = batch(3)
    model = trainable.model.eval()
    drawn = SUPERRESOLUTION.draw(model, pairs, 4.0, 1.0, share=0.2, steps=2)
    assert drawn.shape == (3, 5, 8, 8) and drawn.min() >= 0 and drawn.max() < 1024
    assert torch.equal(drawn, SUPERRESOLUTION.draw(model, pairs, 4.0, 1.0, share=0.2, steps=2))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_enlarging_doubles_the_sides_of_every_frame(mode):
    clip = torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(1, 2, 3, 4, 5)
    large = enlarge(clip, mode)
    assert large.shape == (1, 2, 3, 8, 10)
    torch.testing.assert_close(large[:, :, 1:2], enlarge(clip[:, :, 1:2], mode))
