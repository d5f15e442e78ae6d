"""The recipe of the small LPIPS trunk: what it learns from, and what its finished trunk is asked."""

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

RECIPE = find_recipe("lpips-trunk")


def few(n=24):
    """n pictures of the world and n patches, as the recipe mixes them."""
    data = type(RECIPE)("few", steps=1, pictures=n).data()
    assert isinstance(data, Tensors) and len(data) == 2 * n
    return data.batch(torch.arange(2 * n))


def photographs(n=40):
    return 0.6 * pixels_to_float(photo_patches(TEST_PHOTOS, n, seed=3)["pixels"])


def test_each_picture_has_the_labels_that_can_be_known_of_it():
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


def test_augmented_pictures_stay_pictures_and_say_which_of_their_labels_still_hold():
    batch = few(200)
    changed = augment(batch, RandomSource(0))
    x, photo = changed["pixels"], batch["photo"] >= 0
    assert x.shape == (400, 3, 32, 32) and float(x.min()) >= -1 and float(x.max()) <= 1
    assert ((changed["turn"] >= 0) == photo).all() and set(changed["turn"][photo].tolist()) == {
        0,
        1,
        2,
        3,
    }
    had, has = batch["colour"] >= 0, changed["colour"] >= 0
    assert not (has & ~had).any() and 0.3 < float(has.sum() / had.sum()) < 0.7
    assert (changed["colour"][has] == batch["colour"][has]).all()
    again = augment(batch, RandomSource(0))
    assert (again["pixels"] == x).all()


def test_a_turned_photograph_is_turned_as_its_label_says():
    """A picture that is bright at its upper edge: flips keep that edge, quarter turns take it
    round.
    """
    bright = torch.zeros(64, 32, 32, 3, dtype=torch.uint8)
    bright[:, :8] = 255
    labels = {name: torch.full((64,), -1) for name in HEADS} | {
        "photo": torch.zeros(64, dtype=torch.int64)
    }
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


def test_all_distortions_have_the_same_squared_error_and_each_is_what_its_name_says():
    x = photographs()
    versions = distortions(x, RandomSource(0))
    errors = {name: (version - x).square().mean((1, 2, 3)) for name, version in versions.items()}
    for error in errors.values():
        torch.testing.assert_close(error, errors["shift"], rtol=1e-3, atol=1e-9)
    assert float(errors["shift"].min()) > 0
    light = (versions["light"] - x).flatten(1)
    assert float(light.std(1).max()) < 1e-6
    moved = versions["shift"]
    sideways = (moved[:, :, :, 1:] == x[:, :, :, :-1]).flatten(1).all(1)
    down = (moved[:, :, 1:] == x[:, :, :-1]).flatten(1).all(1)
    assert (sideways ^ down).all() and sideways.any() and down.any()

    def edges(x):
        return x.diff(dim=-1).square().mean((1, 2, 3)) + x.diff(dim=-2).square().mean((1, 2, 3))

    assert (edges(versions["blur"]) < edges(x)).all() and (
        edges(versions["noise"]) > edges(x)
    ).all()


def test_choices_are_right_for_a_distance_that_knows_and_wrong_for_its_opposite():
    x = photographs(30)
    versions = {
        name: version.clamp(-1, 1) for name, version in distortions(x, RandomSource(0)).items()
    }

    def knows(version, original):
        return torch.full(
            (len(original),), float(any(version.equal(versions[bad]) for bad in ("blur", "noise")))
        )

    assert right_choices(knows, x) == {
        "all": 1.0,
        **{f"{near} before {far}": 1.0 for near, far in NEARER_FARTHER},
    }
    assert right_choices(lambda a, b: -knows(a, b), x)["all"] == 0


def test_the_reader_learns_a_few_pictures_and_trains_the_trunk_alone():
    torch.manual_seed(0)
    reader, batch = RECIPE.build(), few(16)
    assert isinstance(reader, TrunkTrainable) and isinstance(reader.model, LPIPS)
    trained = {name for name, p in reader.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"model", "heads"} and not any(
        ".weights." in n for n in trained
    )
    optimiser = torch.optim.Adam(reader.players()["model"], lr=2e-3)
    losses = []
    for step in range(40):
        loss = reader.loss("model", batch, RandomSource(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_batch_of_which_nothing_is_known_of_a_label_has_a_finite_loss():
    torch.manual_seed(0)
    batch = {name: x[-6:] for name, x in few().items()}
    assert (batch["count"] == -1).all() and RECIPE.build().loss(
        "model", batch, RandomSource(0)
    ).isfinite()


def test_the_recipe_warms_up_and_ends_at_zero():
    assert (
        RECIPE.lr_scale(0) < 0.1
        and RECIPE.lr_scale(RECIPE.warmup) > 0.95
        and RECIPE.lr_scale(RECIPE.steps) == 0
    )


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
