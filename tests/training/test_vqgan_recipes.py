"""The recipes of the VQGAN chapter: runs differ only in what is compared, and they learn."""

import math

import pytest
import torch

from course_lib.data import images
from course_lib.papers.vqgan import next_code_loss
from course_lib.training import find_recipe, load_checkpoint, results
from course_lib.training.recipes.vqgan import (
    LIVE,
    RECIPES,
    TOKENIZER,
    class_token,
    fidelity,
    fit_palette,
)
from course_lib.world import pixels_to_float
from tests.training.helpers import differing, train_model, train_players

SHIPPED = (
    "vqgan-l1",
    "vqgan-lpips",
    TOKENIZER,
    "vqgan-discriminator-lpips",
    "vqgan-prior",
    "vqgan-pixels",
)
COMPARED = [r.name for r in RECIPES if r is not LIVE]


def test_compared_runs_differ_only_in_what_is_compared():
    assert differing(["vqgan-l1", "vqgan-lpips"]) == {"perceptual"}
    assert differing(["vqgan-lpips", "vqgan-gan"]) == {"adversarial_from"}
    assert differing([f"vqgan-discriminator-{name}" for name in ("lpips", "gan")]) == {"tokenizer"}
    collapse = [f"vqgan-collapse-{name}" for name in ("loss", "ema", "loss-revived", "ema-revived")]
    assert differing(collapse) == {"update", "revive_after"}
    assert differing(["vqgan-f2", "vqgan-f4", "vqgan-f8"]) == {"multipliers"}
    assert differing(["vqgan-k16", "vqgan-k64", "vqgan-f4", "vqgan-k1024"]) == {"num_codes"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_a_recipe_warms_up_and_ends_at_zero(recipe):
    assert recipe.lr_scale(0) < 0.1
    assert recipe.lr_scale(recipe.warmup) > 0.9
    assert recipe.lr_scale(recipe.steps) == 0


def test_a_tokenizer_learns_a_few_images():
    torch.manual_seed(0)
    batch = {"pixels": images("train", 8)["pixels"]}
    trainable = find_recipe("vqgan-lpips").build().train()

    def has_learned(losses):
        return losses["autoencoder"][-1] < 0.7 * losses["autoencoder"][0]

    assert has_learned(train_players(trainable, batch, 25, has_learned))


def test_the_discriminator_joins_exactly_when_the_recipe_says():
    torch.manual_seed(0)
    trainable = find_recipe("vqgan-gan").build().train()
    batch = {"pixels": images("train", 4)["pixels"]}
    initial = [p.detach().clone() for p in trainable.discriminator.parameters()]
    assert train_players(trainable, batch, 2)["discriminator"] == [0.0, 0.0]
    pairs = zip(initial, trainable.discriminator.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    trainable.step.fill_(find_recipe("vqgan-gan").adversarial_from)
    # From here on only the discriminator is trained.
    trainable.players = lambda: {"discriminator": trainable.discriminator.parameters()}
    losses = train_players(trainable, batch, 8)["discriminator"]
    assert losses[0] > 0.5 and losses[-1] < 0.7 * losses[0]


def test_the_players_share_no_parameter_and_do_not_train_the_trunk():
    players = find_recipe("vqgan-gan").build().players()
    autoencoder = {id(p) for p in players["autoencoder"]}
    discriminator = {id(p) for p in players["discriminator"]}
    assert autoencoder and discriminator and not autoencoder & discriminator
    assert not autoencoder & {id(p) for p in load_checkpoint("lpips-trunk")[0].parameters()}


def test_fidelity_is_best_for_the_images_themselves():
    image = pixels_to_float(images("test", 30)["pixels"])
    same = fidelity(image, image)
    noisy = fidelity(image, (image + 0.1 * torch.randn(image.shape)).clamp(-1, 1))
    assert same["lpips"] == 0 and same["ssim"] == pytest.approx(1) and same["frechet"] < 1e-3
    assert noisy["psnr"] < 35 and noisy["lpips"] > 0 and noisy["ssim"] < 1
    assert noisy["frechet"] > same["frechet"]


def test_the_palette_is_near_the_colours_of_the_images():
    pixels = images("train", 20)["pixels"]
    palette = fit_palette(pixels, colours=32)
    assert palette.shape == (32, 3) and palette.abs().max() <= 1
    colours = pixels_to_float(pixels).movedim(1, -1).reshape(-1, 3)
    assert torch.cdist(colours, palette).amin(1).mean() < 0.1


def test_a_detector_learns_to_tell_a_few_images():
    torch.manual_seed(0)
    recipe = find_recipe("vqgan-discriminator-lpips")
    with torch.no_grad():
        batch = recipe.pairs("train", 8)
    assert batch["rebuilt"].shape == (8, 32, 32, 3) and batch["rebuilt"].dtype == torch.uint8
    losses = train_model(recipe.build().train(), batch, 20)
    assert losses[0] == pytest.approx(1, abs=0.2) and losses[-1] < 0.7


@pytest.mark.parametrize("name", ["vqgan-prior", "vqgan-pixels"])
def test_a_prior_learns_a_few_sequences_by_heart(name):
    torch.manual_seed(0)
    trainable = find_recipe(name).build()
    codes = find_recipe(name).codes("test", 4)
    assert codes["codes"].shape == (4, {"vqgan-prior": 64, "vqgan-pixels": 1024}[name])
    short = {"codes": codes["codes"][:, :64], "kind": codes["kind"]}
    losses = train_model(trainable, short, 20, lambda losses: losses[-1] < 0.6 * losses[0])
    assert losses[0] == pytest.approx(math.log(256), abs=0.3)
    assert losses[-1] < 0.6 * losses[0]


def test_drawn_images_have_the_tokenizers_size():
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
    prior, _ = load_checkpoint("vqgan-prior")
    test = find_recipe("vqgan-prior").codes("test", 100)
    with torch.no_grad():
        scores = fidelity(image, model(image)[0].clamp(-1, 1))
        nats = next_code_loss(prior, class_token(test["kind"]), test["codes"].long())
    assert abs(scores["psnr"] - provenance["metrics"]["psnr"]) < 0.6
    assert abs(float(nats.mean()) - results("vqgan-prior")["metrics"]["nats_per_token"]) < 0.2
