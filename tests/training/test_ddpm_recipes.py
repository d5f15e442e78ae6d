"""The recipes of the DDPM chapter: they build, learn, and measure what they say."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import config as typing

from course_lib.metrics import likelihood
from course_lib.training import RandomSource, find_recipe, load_checkpoint, results
from course_lib.training.recipes.ddpm import LIVE, RECIPES, DiffusionRecipe, large_objects
from tests.training.helpers import differing

OBJECTIVES = ("simple", "hybrid", "vlb")
GRID = [
    f"ddpm-16-{schedule}-{objective}"
    for schedule in ("linear", "cosine")
    for objective in OBJECTIVES
]


def test_the_six_runs_differ_only_in_schedule_and_objective():
    assert differing(GRID) == {"schedule", "objective"}


@pytest.mark.parametrize(
    "recipe", [r for r in RECIPES if isinstance(r, DiffusionRecipe)], ids=lambda r: r.name
)
def test_a_recipe_builds_what_its_objective_needs(recipe):
    trainable = recipe.build()
    assert trainable.model.config.out_channels == (3 if recipe.objective == "simple" else 6)
    assert (trainable.importance is not None) == (recipe.objective == "vlb")
    assert trainable.model.config.image_size in (16, 32)
    assert recipe.lr_scale(0) < 0.02
    assert recipe.lr_scale(recipe.steps // 2) == 1
    assert recipe.lr_scale(recipe.steps) == 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_lowers_every_objective(objective):
    recipe = DiffusionRecipe("trial", steps=40, objective=objective, width=8)
    torch.manual_seed(0)
    trainable = recipe.build()
    batch = {"pixels": large_objects("train", 16, 16)}
    optimizer = torch.optim.Adam(trainable.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        loss = trainable.loss("model", batch, RandomSource(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    if objective == "vlb":
        assert int(trainable.importance.seen.sum()) == 40 * 16


def test_each_player_of_the_gan_has_parameters_and_a_loss_of_its_own():
    trainable = find_recipe("dcgan-16").build()
    players = {
        name: {id(p) for p in parameters} for name, parameters in trainable.players().items()
    }
    assert not players["generator"] & players["discriminator"]
    batch = {"pixels": large_objects("train", 8, 16)}
    trainable.loss("discriminator", batch, RandomSource(0)).backward()
    assert all(p.grad is None for p in trainable.model.generator.parameters())


@pytest.mark.parametrize("name", [r.name for r in RECIPES if r is not LIVE])
def test_every_recipe_ships_its_checkpoint_and_results(name):
    model, provenance = load_checkpoint(name)
    measured = results(name)
    assert provenance["steps"] == find_recipe(name).steps
    assert measured["metrics"] == provenance["metrics"]
    assert not model.training


@pytest.fixture
def untyped():
    """A thousand steps of one network are a thousand times the same types."""
    typing.update("jaxtyping_disable", True)
    yield
    typing.update("jaxtyping_disable", False)


def test_measuring_again_gives_the_stored_bits(untyped):
    """Two images, each against its own stored value, and the stored mean of all."""
    recipe = find_recipe("ddpm-16-cosine-hybrid")
    model, provenance = load_checkpoint(recipe)
    test = large_objects("test", 2, recipe.config.image_size)
    bits = likelihood(recipe.diffusion, model, test, torch.Generator().manual_seed(0)).total
    stored = torch.tensor(results(recipe)["details"]["totals"])
    assert (bits - stored[:2]).abs().max() < 0.5 * stored.std()
    assert float(stored.mean()) == pytest.approx(provenance["metrics"]["bits_per_dim"], abs=1e-3)
    assert replace(recipe, name="other").diffusion.steps == 1000
