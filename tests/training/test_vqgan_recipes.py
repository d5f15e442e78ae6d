"""The recipes of the VQGAN chapter: what they compare differs in what they say, and they learn."""

import pytest
import torch

from course_lib.data import images
from course_lib.papers.vqgan import next_code_loss
from course_lib.training import RandomSource, find_recipe, load_checkpoint, results
from course_lib.training.recipes.vqgan import (
    RECIPES,
    TOKENIZER,
    class_token,
    fidelity,
    fit_palette,
)
from course_lib.world import pixels_to_float
from tests.training.test_vit_recipes import differing

SHIPPED = ("vqgan-l1", "vqgan-lpips", TOKENIZER, "vqgan-prior", "vqgan-pixels")
COMPARED = [r.name for r in RECIPES if not r.name.endswith("live")]


def turns(trainable, batch, steps):
    """The losses of every player, always on the same batch."""
    optimisers = {player: torch.optim.Adam(p, lr=2e-3) for player, p in trainable.players().items()}
    losses = {player: [] for player in optimisers}
    for step in range(steps):
        for player, optimiser in optimisers.items():
            loss = trainable.loss(player, batch, RandomSource(step))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses[player].append(float(loss.detach()))
    return losses


def test_runs_that_are_compared_differ_in_what_is_compared():
    assert differing(["vqgan-l1", "vqgan-lpips"]) == {"perceptual"}
    assert differing(["vqgan-lpips", "vqgan-gan"]) == {"adversarial_from"}
    collapse = [f"vqgan-collapse-{name}" for name in ("loss", "ema", "loss-revived", "ema-revived")]
    assert differing(collapse) == {"update", "revive_after"}
    assert differing(["vqgan-f2", "vqgan-f4", "vqgan-f8"]) == {"multipliers"}
    assert differing(["vqgan-k16", "vqgan-k64", "vqgan-f4", "vqgan-k1024"]) == {"num_codes"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_a_recipe_warms_up_and_ends_at_zero(recipe):
    assert (
        recipe.lr_scale(0) < 0.1
        and recipe.lr_scale(recipe.warmup) > 0.9
        and recipe.lr_scale(recipe.steps) == 0
    )


def test_a_tokenizer_learns_a_few_pictures():
    torch.manual_seed(0)
    batch = {"pixels": images("train", 8)["pixels"]}
    losses = turns(find_recipe("vqgan-lpips").build().train(), batch, 25)["autoencoder"]
    assert losses[-1] < 0.7 * losses[0]


def test_the_discriminator_joins_when_the_recipe_says_and_not_before():
    torch.manual_seed(0)
    trainable = find_recipe("vqgan-gan").build().train()
    batch = {"pixels": images("train", 4)["pixels"]}
    before = [p.detach().clone() for p in trainable.discriminator.parameters()]
    assert turns(trainable, batch, 2)["discriminator"] == [0.0, 0.0]
    assert all(
        torch.equal(p, q) for p, q in zip(before, trainable.discriminator.parameters(), strict=True)
    )
    trainable.step.fill_(find_recipe("vqgan-gan").adversarial_from)
    # the other one waits
    trainable.players = lambda: {"discriminator": trainable.discriminator.parameters()}
    judged = turns(trainable, batch, 8)["discriminator"]
    assert judged[0] > 0.5 and judged[-1] < 0.7 * judged[0]


def test_the_players_share_no_parameter_and_leave_the_trunk_alone():
    players = find_recipe("vqgan-gan").build().players()
    autoencoder, discriminator = (
        {id(p) for p in players[name]} for name in ("autoencoder", "discriminator")
    )
    assert autoencoder and discriminator and not autoencoder & discriminator
    assert not autoencoder & {id(p) for p in load_checkpoint("lpips-trunk")[0].parameters()}


def test_fidelity_is_best_for_the_pictures_themselves():
    image = pixels_to_float(images("test", 30)["pixels"])
    same, noisy = (
        fidelity(image, image),
        fidelity(image, (image + 0.1 * torch.randn(image.shape)).clamp(-1, 1)),
    )
    assert same["lpips"] == 0 and same["ssim"] == pytest.approx(1) and same["frechet"] < 1e-3
    assert (
        noisy["psnr"] < 35
        and noisy["lpips"] > 0
        and noisy["ssim"] < 1
        and noisy["frechet"] > same["frechet"]
    )


def test_the_palette_rounds_a_picture_to_its_colours():
    pixels = images("train", 20)["pixels"]
    palette = fit_palette(pixels, colours=32)
    assert palette.shape == (32, 3) and palette.abs().max() <= 1
    near = torch.cdist(pixels_to_float(pixels).movedim(1, -1).reshape(-1, 3), palette).amin(1)
    assert near.mean() < 0.1


@pytest.mark.parametrize("name", ["vqgan-prior", "vqgan-pixels"])
def test_a_prior_learns_a_few_sequences_by_heart(name):
    torch.manual_seed(0)
    trainable = find_recipe(name).build()
    codes = find_recipe(name).codes("test", 4)
    assert codes["codes"].shape == (4, {"vqgan-prior": 64, "vqgan-pixels": 1024}[name])
    short = {"codes": codes["codes"][:, :64], "kind": codes["kind"]}
    losses = turns(trainable, short, 20)["model"]
    assert (
        losses[0] == pytest.approx(torch.tensor(256.0).log().item(), abs=0.3)
        and losses[-1] < 0.6 * losses[0]
    )


def test_what_is_drawn_is_a_picture_of_the_tokenizers_size():
    recipe, model = find_recipe("vqgan-prior"), load_checkpoint("vqgan-prior")[0]
    drawn = recipe.sample_images(model, torch.tensor([3, 30]), torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("name", COMPARED)
def test_every_recipe_has_its_results(name):
    run = results(name)
    assert run["provenance"]["steps"] == find_recipe(name).steps


@pytest.mark.parametrize("name", SHIPPED)
def test_what_the_notebook_loads_is_shipped(name):
    model, provenance = load_checkpoint(name)
    assert provenance["steps"] == find_recipe(name).steps and not model.training
    assert results(name)["metrics"] == provenance["metrics"]


def test_measuring_again_gives_the_stored_fidelity_and_likelihood():
    model, provenance = load_checkpoint(TOKENIZER)
    image = pixels_to_float(images("test", 100, count=(1, 2, 3))["pixels"])
    with torch.no_grad():
        found = fidelity(image, model(image)[0].clamp(-1, 1))
        codes = find_recipe("vqgan-prior").codes("test", 100)
        nats = next_code_loss(
            load_checkpoint("vqgan-prior")[0], class_token(codes["kind"]), codes["codes"].long()
        )
    assert abs(found["psnr"] - provenance["metrics"]["psnr"]) < 0.6
    assert abs(float(nats.mean()) - results("vqgan-prior")["metrics"]["nats_per_token"]) < 0.2
