"""Recipes: the learning rate's schedule, and fields that are refused."""

import re
from dataclasses import replace

import pytest

from course_lib.training import find_recipe
from course_lib.training.recipe import LR_SCHEDULES
from tests.training.toy_recipes import TOY

TEN_STEPS = replace(TOY, steps=10, warmup=0)


def scales(recipe):
    return [recipe.lr_scale(step) for step in range(recipe.steps + 1)]


def test_warm_up_raises_the_learning_rate_in_a_line():
    assert [TOY.lr_scale(step) for step in (0, 1, 4, 5, 29)] == [0.2, 0.4, 1.0, 1.0, 1.0]


def test_a_constant_rate_stays():
    assert TEN_STEPS.lr_schedule == "constant" and scales(TEN_STEPS) == [1.0] * 11


def test_a_linear_schedule_falls_to_zero_from_the_end_of_the_warm_up():
    assert scales(replace(TEN_STEPS, lr_schedule="linear")) == [(10 - i) / 10 for i in range(11)]
    warmed = scales(replace(TEN_STEPS, lr_schedule="linear", warmup=2))
    assert warmed == [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0]


def test_a_plateau_falls_over_the_last_third():
    found = scales(replace(TEN_STEPS, steps=9, lr_schedule="plateau", warmup=2))
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3, 0])


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_a_recipe_that_is_all_warm_up_has_a_rate_at_every_step(schedule):
    recipe = replace(TEN_STEPS, lr_schedule=schedule, warmup=10)
    assert all(0 < scale <= 1 for scale in scales(recipe)[:10])


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("ddpm-32", "plateau"),
        ("dcgan-16", "constant"),
        ("judge-16", "constant"),
        ("vit-judge", "linear"),
        ("vivit-model-1", "linear"),
        ("lpips-trunk", "linear"),
        ("vqgan-gan", "plateau"),
        ("vqgan-prior", "linear"),
        ("magvit-3d", "plateau"),
        ("magvit-bert", "linear"),
        ("magvit2-ar", "linear"),
        ("sweep-lfq-10", "plateau"),
        ("sweep-lfq-10-mlm", "linear"),
    ],
)
def test_a_recipe_records_the_schedule_its_checkpoint_was_trained_under(name, schedule):
    assert find_recipe(name).fields()["lr_schedule"] == schedule


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("name", "../x", "letters, digits and . _ -"),
        ("steps", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("seed", -1, "at least 0"),
        ("learning_rate", 0.0, "a positive number"),
        ("warmup", -1, "at least 0"),
        ("lr_schedule", "cosine", "'constant' or 'linear' or 'plateau'"),
        ("clip", 0.0, "a positive number or None"),
        ("ema", 1.0, "a number in [0, 1)"),
        ("precision", "float8", "'float32' or 'bfloat16'"),
        ("checkpoint_dtype", "bfloat16", "'float32' or 'float16'"),
    ],
)
def test_impossible_recipes_are_refused(field, value, expected):
    message = re.escape(f"{field}: expected {expected}, got {value!r}")
    with pytest.raises(ValueError, match=message):
        replace(TOY, **{field: value})
