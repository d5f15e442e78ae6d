"""The recipe of the small LPIPS trunk: what it learns from, and how its trunk is measured."""

import pytest
import torch

from course_lib.data import TEST_PHOTOS, photo_patches
from course_lib.losses.perceptual import LPIPS
from course_lib.paths import CHECKPOINTS
from course_lib.training import RandomSource, Tensors, find_recipe, load_checkpoint, results
from course_lib.training.recipes.lpips import (
    HEADS,
    NEARER_FARTHER,
    TrunkTrainable,
    augment,
    distortions,
    right_choices,
)
from course_lib.world import pixels_to_float
from tests.training.helpers import train_model

RECIPE = find_recipe("lpips-trunk")


def few(n=24):
    """Return n images of the world and n patches, as the recipe mixes them."""
    data = type(RECIPE)("few", steps=1, pictures=n).data()
    assert isinstance(data, Tensors) and len(data) == 2 * n
    return data.batch(torch.arange(2 * n))


def photographs(n=40):
    return 0.6 * pixels_to_float(photo_patches(TEST_PHOTOS, n, seed=3)["pixels"])


def test_every_image_has_the_labels_that_can_be_known():
    batch = few()
    world, photo = batch["photo"] < 0, batch["photo"] >= 0
    assert world.sum() == photo.sum() == 24
    one = world & (batch["count"] == 0)
    assert one.sum() == 12
    for name in ("shape", "colour", "scale", "material"):
        assert ((batch[name] >= 0) == one).all()
    for name in ("count", "floor"):
        assert ((batch[name] >= 0) == world).all()
    assert all(int(batch[name].max()) < values for name, values in HEADS.items() if name != "turn")


def test_augmented_images_stay_in_range_and_keep_only_labels_that_hold():
    batch = few(200)
    changed = augment(batch, RandomSource(0))
    x, photo = changed["pixels"], batch["photo"] >= 0
    assert x.shape == (400, 3, 32, 32) and float(x.min()) >= -1 and float(x.max()) <= 1
    assert ((changed["turn"] >= 0) == photo).all()
    assert set(changed["turn"][photo].tolist()) == {0, 1, 2, 3}
    had, has = batch["colour"] >= 0, changed["colour"] >= 0
    assert not (has & ~had).any() and 0.3 < float(has.sum() / had.sum()) < 0.7
    assert (changed["colour"][has] == batch["colour"][has]).all()
    again = augment(batch, RandomSource(0))
    assert (again["pixels"] == x).all()


def test_a_turned_photograph_is_turned_as_its_label_says():
    """An image is bright at its upper edge: flips keep it there, quarter turns move it around."""
    bright = torch.zeros(64, 32, 32, 3, dtype=torch.uint8)
    bright[:, :8] = 255
    labels = {name: torch.full((64,), -1) for name in HEADS}
    labels["photo"] = torch.zeros(64, dtype=torch.int64)
    changed = augment({"pixels": bright} | labels, RandomSource(1))
    x = changed["pixels"].mean(1)  # b h w
    sides = torch.stack(
        [x[:, 0].mean(1), x[:, :, 0].mean(1), x[:, -1].mean(1), x[:, :, -1].mean(1)], dim=1
    )
    assert (sides.argmax(1) == changed["turn"]).all()


def test_grey_stays_grey_when_colours_are_mixed():
    grey = torch.arange(0, 256, 8, dtype=torch.uint8).view(1, 1, 32, 1).expand(16, 32, 32, 3)
    labels = {name: torch.full((16,), -1) for name in HEADS}
    x = augment({"pixels": grey} | labels, RandomSource(0))["pixels"]
    torch.testing.assert_close(x[:, 0], x[:, 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(x[:, 0], x[:, 2], atol=1e-6, rtol=0)


def test_distortions_are_what_they_are_called_at_equal_squared_error():
    x = photographs()
    versions = distortions(x, RandomSource(0))
    errors = {name: (version - x).square().mean((1, 2, 3)) for name, version in versions.items()}
    for error in errors.values():
        torch.testing.assert_close(error, errors["shift"], rtol=1e-3, atol=1e-9)
    assert float(errors["shift"].min()) > 0
    light = (versions["light"] - x).flatten(1)
    assert float(light.std(1).max()) < 1e-6
    shifted = versions["shift"]
    sideways = (shifted[:, :, :, 1:] == x[:, :, :, :-1]).flatten(1).all(1)
    down = (shifted[:, :, 1:] == x[:, :, :-1]).flatten(1).all(1)
    assert (sideways ^ down).all() and sideways.any() and down.any()

    def edges(x):
        return x.diff(dim=-1).square().mean((1, 2, 3)) + x.diff(dim=-2).square().mean((1, 2, 3))

    assert (edges(versions["blur"]) < edges(x)).all()
    assert (edges(versions["noise"]) > edges(x)).all()


def test_a_distance_that_knows_is_always_right_and_its_opposite_never():
    x = photographs(30)
    versions = {
        name: version.clamp(-1, 1) for name, version in distortions(x, RandomSource(0)).items()
    }

    def knows(version, original):
        is_bad = any(version.equal(versions[name]) for name in ("blur", "noise"))
        return torch.full((len(original),), float(is_bad))

    assert right_choices(knows, x) == {
        "all": 1.0,
        **{f"{near} before {far}": 1.0 for near, far in NEARER_FARTHER},
    }
    assert right_choices(lambda a, b: -knows(a, b), x)["all"] == 0


def test_learning_a_few_images_trains_the_trunk_and_its_heads():
    torch.manual_seed(0)
    trainable = RECIPE.build()
    assert isinstance(trainable, TrunkTrainable) and isinstance(trainable.model, LPIPS)
    trained = {name for name, p in trainable.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"model", "heads"}
    assert not any(".weights." in name for name in trained)
    losses = train_model(trainable, few(16), 40)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_batch_in_which_a_label_is_never_known_has_a_finite_loss():
    torch.manual_seed(0)
    batch = {name: x[-6:] for name, x in few().items()}
    assert (batch["count"] == -1).all() and RECIPE.build().loss(
        "model", batch, RandomSource(0)
    ).isfinite()


def test_the_recipe_warms_up_and_ends_at_zero():
    assert RECIPE.lr_scale(0) < 0.1
    assert RECIPE.lr_scale(RECIPE.warmup) > 0.95
    assert RECIPE.lr_scale(RECIPE.steps) == 0


def test_it_ships_a_small_checkpoint_and_its_results():
    model, provenance = load_checkpoint("lpips-trunk")
    assert provenance["steps"] == RECIPE.steps and not model.training
    assert results("lpips-trunk")["metrics"] == provenance["metrics"]
    assert (CHECKPOINTS / "lpips-trunk.safetensors").stat().st_size < 1_000_000
    assert not any(p.requires_grad for p in model.parameters())


def test_measuring_again_gives_the_stored_share_of_right_choices():
    model, provenance = load_checkpoint("lpips-trunk")
    again = right_choices(model, photographs(60))["all"]
    assert again == pytest.approx(provenance["metrics"]["photographs: right choices"], abs=0.04)
    assert again > provenance["metrics"]["photographs: right choices, untrained"] + 0.1
