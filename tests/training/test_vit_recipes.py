"""The recipes of the ViT chapter: runs differ only in what is compared, and they learn."""

import pytest
import torch
from torch import nn

from course_lib.data import images
from course_lib.metrics import LabelJudge
from course_lib.papers.vit import count_macs
from course_lib.training import find_recipe, load_checkpoint, results
from course_lib.training.recipes.vit import (
    DATA_SIZES,
    DIGITS_LIVE,
    LIVE,
    RECIPES,
    Classifier,
    ConvNet,
    calibrate,
    judge_images,
)
from course_lib.world import pixels_to_float
from tests.training.helpers import differing, train_model


def test_compared_runs_differ_only_in_what_is_compared():
    assert differing([f"vit-data-{n}" for n in DATA_SIZES]) == {"pictures"}
    assert differing([f"resnet-data-{n}" for n in DATA_SIZES]) == {"pictures"}
    assert differing(["vit-data-8000", "vit-positions-none", "vit-positions-2d"]) == {"positions"}
    assert differing(["vit-data-8000", "vit-patch-8", "vit-patch-16"]) == {"patch_size"}
    assert differing(["vit-48-interpolated", "vit-48-fresh"]) == {"fresh_positions"}


def test_the_two_networks_cost_about_the_same():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        ConvNet()(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 2 == pytest.approx(
        count_macs(find_recipe("vit-data-500").config), rel=0.1
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_a_recipe_warms_up_and_ends_at_zero(recipe):
    assert recipe.lr_scale(0) < 0.1
    assert recipe.lr_scale(recipe.warmup) > 0.95
    assert recipe.lr_scale(recipe.steps) == 0


@pytest.mark.parametrize("name", ["vit-data-500", "resnet-data-500", "vit-judge"])
def test_a_network_learns_a_few_images_by_heart(name):
    torch.manual_seed(0)
    trainable = find_recipe(name).build()
    if isinstance(trainable, Classifier):
        train = images("train", 24)
        batch = {"pixels": train["pixels"], "label": train["kind"]}
        # A head whose weights are zero can say nothing but its bias.
        guess = trainable.model.head.bias.detach().clone()
    else:
        batch = judge_images("train", 24)
    losses = train_model(trainable, batch, 25)
    assert losses[-1] < 0.6 * losses[0]
    if isinstance(trainable, Classifier):
        expected = torch.nn.functional.cross_entropy(guess.expand(24, -1), batch["label"])
        assert losses[0] == pytest.approx(float(expected), abs=1e-4)


def test_only_images_of_one_object_have_a_shape():
    labelled = judge_images("test", 60)
    assert ((labelled["shape"] >= 0) == (labelled["count"] == 0)).all()
    assert set(labelled["count"].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("name", [r.name for r in RECIPES if r not in (LIVE, DIGITS_LIVE)])
def test_every_recipe_ships_its_results_and_most_their_checkpoint(name):
    """Of the residual networks the notebook shows no more than what was measured."""
    found = results(name)
    assert found["provenance"]["steps"] == find_recipe(name).steps
    if not name.startswith("resnet-"):
        model, provenance = load_checkpoint(name)
        assert provenance["steps"] == find_recipe(name).steps and not model.training
        assert found["metrics"] == provenance["metrics"]


def test_measuring_again_gives_the_stored_accuracy():
    model, provenance = load_checkpoint("vit-data-8000")
    test = images("test", 300)
    with torch.no_grad():
        right = (model(pixels_to_float(test["pixels"])).argmax(1) == test["kind"]).float().mean()
    assert abs(float(right) - provenance["metrics"]["accuracy"]) < 0.06


def test_a_label_that_is_always_right_keeps_its_temperature():
    class TwoPixels(nn.Module):
        """Reads two labels from two pixels: the first always right, the second overconfident."""

        def forward(self, x):
            first = x[:, 0, 0, 0]
            second = x[:, 0, 0, 1]
            return torch.stack([-9 * first, 9 * first, -9 * second, 9 * second], dim=1)

    pixels = torch.zeros(40, 1, 2, 3, dtype=torch.uint8)
    pixels[::2] = 255
    right = torch.arange(40) % 2 == 0
    mostly = right ^ (torch.arange(40) < 6)
    judge = LabelJudge(TwoPixels(), {"a": 2, "b": 2})
    calibrate(judge, {"pixels": pixels, "a": right.long(), "b": mostly.long()})
    assert judge.temperature[0] == 1 and judge.temperature[1] > 5
