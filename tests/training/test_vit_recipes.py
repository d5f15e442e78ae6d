"""The recipes of the ViT chapter: what they compare differs in what they say, and they learn."""

import pytest
import torch

from course_lib.data import images
from course_lib.papers.vit import count_macs
from course_lib.training import RandomSource, find_recipe, load_checkpoint, results
from course_lib.training.recipes.vit import (
    DATA_SIZES,
    DIGITS_LIVE,
    LIVE,
    RECIPES,
    Classifier,
    ConvNet,
    judge_images,
)
from course_lib.world import pixels_to_float


def descend(trainable, batch, steps):
    """The loss of every step, always on the same batch."""
    optimiser = torch.optim.Adam(trainable.parameters(), lr=2e-3)
    losses = []
    for step in range(steps):
        loss = trainable.loss("model", batch, RandomSource(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def differing(names):
    fields = [find_recipe(name).fields() for name in names]
    return {
        key for key in {k for f in fields for k in f} if len({str(f.get(key)) for f in fields}) > 1
    } - {"name"}


def test_runs_that_are_compared_differ_in_what_is_compared():
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
    assert (
        recipe.lr_scale(0) < 0.1
        and recipe.lr_scale(recipe.warmup) > 0.95
        and recipe.lr_scale(recipe.steps) == 0
    )


@pytest.mark.parametrize("name", ["vit-data-500", "resnet-data-500", "vit-judge"])
def test_a_network_learns_a_few_pictures_by_heart(name):
    torch.manual_seed(0)
    trainable = find_recipe(name).build()
    batch = judge_images("train", 24) if name == "vit-judge" else images("train", 24)
    batch = batch if name == "vit-judge" else {"pixels": batch["pixels"], "label": batch["kind"]}
    head = (trainable.model if isinstance(trainable, Classifier) else trainable.model.network).head
    guess = head.bias.detach().clone()  # all that a head whose weights are zero can say
    losses = descend(trainable, batch, 25)
    assert losses[-1] < 0.6 * losses[0]
    if isinstance(trainable, Classifier):
        expected = torch.nn.functional.cross_entropy(guess.expand(24, -1), batch["label"])
        assert losses[0] == pytest.approx(float(expected), abs=1e-4)


def test_only_pictures_of_one_object_have_a_shape():
    found = judge_images("test", 60)
    assert ((found["shape"] >= 0) == (found["count"] == 0)).all()
    assert set(found["count"].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("name", [r.name for r in RECIPES if r not in (LIVE, DIGITS_LIVE)])
def test_every_recipe_ships_its_checkpoint_and_results(name):
    model, provenance = load_checkpoint(name)
    assert provenance["steps"] == find_recipe(name).steps and not model.training
    assert results(name)["metrics"] == provenance["metrics"]


def test_measuring_again_gives_the_stored_accuracy():
    model, provenance = load_checkpoint("vit-data-8000")
    test = images("test", 300)
    with torch.no_grad():
        right = (model(pixels_to_float(test["pixels"])).argmax(1) == test["kind"]).float().mean()
    assert abs(float(right) - provenance["metrics"]["accuracy"]) < 0.06


def test_a_label_that_is_always_right_keeps_its_temperature():
    from torch import nn

    from course_lib.metrics import LabelJudge
    from course_lib.training.recipes.vit import calibrate

    class Reads(nn.Module):
        """Reads two labels off two pixels: the first is always right, the second too sure of
        itself.
        """

        def forward(self, x):
            first, second = x[:, 0, 0, 0], x[:, 0, 0, 1]
            return torch.stack([-9 * first, 9 * first, -9 * second, 9 * second], dim=1)

    pixels = torch.zeros(40, 1, 2, 3, dtype=torch.uint8)
    pixels[::2] = 255
    right = torch.arange(40) % 2 == 0
    mostly = right ^ (torch.arange(40) < 6)
    judge = LabelJudge(Reads(), {"a": 2, "b": 2})
    calibrate(judge, {"pixels": pixels, "a": right.long(), "b": mostly.long()})
    assert judge.temperature[0] == 1 and judge.temperature[1] > 5
