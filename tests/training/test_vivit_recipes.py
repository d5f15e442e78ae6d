"""The recipes of the ViViT chapter: runs differ only in what is compared, and start as they say."""

import itertools

import pytest
import torch

from course_lib.data import clips
from course_lib.training import find_recipe, load_checkpoint, results
from course_lib.training.recipes.vivit import LIVE, RECIPES
from course_lib.world import pixels_to_float
from tests.training.helpers import differing, train_model

TOKEN_RECIPES = (
    "vivit-init-uniform",
    "vivit-init-random",
    "vivit-init-inflation",
    "vivit-init-central",
)


def test_compared_runs_differ_only_in_what_is_compared():
    assert differing([f"vivit-model-{m}" for m in (1, 2, 3, 4)]) == {"model"}
    assert differing(["vivit-model-2", "vivit-model-2-average"]) == {"temporal_depth"}
    assert differing(TOKEN_RECIPES) == {"uniform", "inflate"}
    assert differing(["vivit-init-central", "vivit-init-nothing"]) == {"source"}
    assert differing(["vivit-model-1", "vivit-init-central", "vivit-tubelet-8"]) == {
        "tubelet_frames"
    }


def test_each_rung_of_the_ladder_adds_one_thing():
    ladder = ("base", "initialised", "depth", "augment", "smoothing", "mixup")
    rungs = [f"vivit-regular-{name}" for name in ladder]
    for lower, upper in itertools.pairwise(rungs):
        assert len(differing([lower, upper])) == 1


def test_all_ways_to_make_tokens_make_equally_many():
    assert {find_recipe(name).config.grid for name in TOKEN_RECIPES} == {(4, 4, 4)}


@pytest.mark.parametrize(
    "name", ["vivit-init-central", "vivit-init-inflation", "vivit-init-uniform"]
)
def test_a_model_starts_from_the_image_models_weights(name):
    image, _ = load_checkpoint("vit-patch-8")
    model = find_recipe(name).build().model
    model = model.model if name.endswith("uniform") else model
    assert torch.equal(model.encoder.blocks[2].mlp[0].weight, image.blocks[2].mlp[0].weight)
    torch.testing.assert_close(model.tubelet_embed.weight.sum(2), image.patch_embed.weight)


def test_random_filters_are_not_the_image_models():
    image, _ = load_checkpoint("vit-patch-8")
    model = find_recipe("vivit-init-random").build().model
    assert not torch.allclose(
        model.tubelet_embed.weight.sum(2), image.patch_embed.weight, atol=1e-2
    )
    assert torch.equal(
        model.encoder.blocks[0].attention.qkv.weight, image.blocks[0].attention.qkv.weight
    )


@pytest.mark.parametrize("name", ["vivit-regular-mixup", "vivit-model-4", "vivit-init-uniform"])
def test_a_loss_falls_when_it_is_trained(name):
    torch.manual_seed(0)
    trainable = find_recipe(name).build().train()
    test = clips("test", 60)
    batch = {"pixels": test["pixels"][:16], "label": test["motion"][:16]}
    losses = train_model(trainable, batch, 20)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("name", [r.name for r in RECIPES if r is not LIVE])
def test_every_recipe_ships_its_checkpoint_and_results(name):
    model, provenance = load_checkpoint(name)
    assert provenance["steps"] == find_recipe(name).steps and not model.training
    assert results(name)["metrics"] == provenance["metrics"]


def test_measuring_again_gives_the_stored_accuracy():
    model, provenance = load_checkpoint("vivit-model-2")
    test = clips("test", 60)
    with torch.no_grad():
        right = (model(pixels_to_float(test["pixels"])).argmax(1) == test["motion"]).float().mean()
    assert abs(float(right) - provenance["metrics"]["accuracy"]) < 0.2
