"""The recipes of chapter 09: runs differ only in what is compared, and they learn."""

from dataclasses import replace

import pytest
import torch

from course_lib.papers import cogvideox_diffusion
from course_lib.training import RandomSource, find_recipe
from course_lib.training.recipes import cogvideox, cogvideox_uses, cogvideox_vae
from course_lib.training.recipes.cogvideox_uses import DURATIONS, LENGTH, ROWS
from course_lib.training.recipes.cogvideox_vae import WORLDS, decode, encode, movies
from course_lib.world import pixels_to_float
from tests.training.helpers import differing, train_model

RECIPES = [*cogvideox_vae.RECIPES, *cogvideox.RECIPES, *cogvideox_uses.RECIPES]


def test_compared_runs_differ_only_in_what_is_compared():
    assert differing([f"cogvideox-vae-{c}" for c in (4, 8, 16)]) == {"latent"}
    for name, field in {
        "sin-cos": "positions",
        "one-expert": "experts",
        "2d-1d": "attention",
        "random-times": "explicit_uniform",
        "some-signal": "zero_snr",
    }.items():
        for seed in (0, 1):
            assert differing([f"cogvideox-rope-{seed}", f"cogvideox-{name}-{seed}"]) == {field}
    assert differing(["cogvideox-rope-0", "cogvideox-rope-1"]) == {"seed"}
    assert differing(["cogvideox-rope-0", "cogvideox-rope-long"]) == {"steps"}
    assert differing(["cogvideox-rope-long", "cogvideox-sin-cos-long"]) == {"positions"}
    for seed in (0, 1):
        names = [f"cogvideox-pack-{seed}", f"cogvideox-rope-{seed}"]
        assert differing(names) == {"class", "batch_size"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_a_recipe_warms_up_and_ends_at_zero(recipe):
    assert recipe.lr_scale(0) < 0.1
    assert recipe.lr_scale(recipe.steps) == 0


def test_packed_and_whole_clips_fill_as_many_rows():
    assert all(sum(row) == LENGTH for row in ROWS)
    packed, whole = (find_recipe(f"cogvideox-{kind}-0") for kind in ("pack", "rope"))
    assert packed.batch_size % len(DURATIONS) == 0
    assert packed.batch_size / len(DURATIONS) * len(ROWS) == whole.batch_size
    assert set(DURATIONS) == set(cogvideox.LENGTHS)


def test_captions_are_those_of_the_clips():
    for world in WORLDS:
        labels = movies("test", 12, world)
        for i, sentence in enumerate(cogvideox.captions("test", 12, world)):
            assert sentence.split()[1] == ("small", "large")[int(labels["scale"][i])]
            assert (" camera " in sentence) == bool(labels["camera"][i])


def _latents(b, channels=4):
    """Clips whose latents all have one value, and texts that tell which."""
    values = torch.linspace(-1.5, 1.5, b)
    text = torch.zeros(b, 27, 64)
    text[torch.arange(b), 0, torch.arange(b)] = 5.0
    return {
        "mean": values[:, None, None, None, None].expand(b, 5, channels, 8, 8),
        "deviation": torch.zeros(b, 5, channels, 8, 8),
        "text": text,
    }


@pytest.mark.parametrize("name", ["cogvideox-rope-0", "cogvideox-some-signal-0"])
def test_a_model_learns_a_few_latents(name):
    torch.manual_seed(0)
    trainable = find_recipe(name).build()
    batch = _latents(8)

    def error():
        """On noise and steps that are always the same."""
        with torch.no_grad():
            losses = [trainable.loss("model", batch, RandomSource(seed)) for seed in range(99, 103)]
        return float(sum(losses))

    before = error()
    train_model(trainable, batch, 25)
    assert error() < 0.8 * before


def test_a_packed_batch_has_the_loss_of_its_clips(monkeypatch):
    """Each clip by itself, with the noise that it has in its row."""
    torch.manual_seed(0)
    trainable = find_recipe("cogvideox-pack-0").build()
    for parameter in trainable.model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    batch = _latents(len(DURATIONS))
    seen = {}
    packed_loss = cogvideox_diffusion.packed_loss

    def spy(network, x_start, t, noise, text, alphas_cumprod, pack):
        seen.update(t=t, noise=noise, text=text, pack=pack)
        return packed_loss(network, x_start, t, noise, text, alphas_cumprod, pack)

    monkeypatch.setattr(cogvideox_diffusion, "packed_loss", spy)
    with torch.no_grad():
        together = trainable.loss("model", batch, RandomSource(5))
    assert len(seen["pack"].clip) == len(ROWS) and (seen["pack"].clip >= 0).all()
    losses = []
    for i, n in enumerate(DURATIONS):
        row, slot = (seen["pack"].numbers == i).nonzero()[0].tolist()
        mine = seen["pack"].clip[row] == slot
        with torch.no_grad():
            losses.append(
                cogvideox_diffusion.loss(
                    trainable.model,
                    batch["mean"][i : i + 1, :n],
                    seen["t"][i : i + 1],
                    seen["noise"][row, mine][None],
                    seen["text"][i : i + 1],
                    trainable.alphas_cumprod,
                )
            )
    torch.testing.assert_close(together, torch.cat(losses).mean())
    assert sorted((seen["t"] * len(DURATIONS) // 1000).tolist()) == list(range(len(DURATIONS)))


def test_some_texts_are_left_out_and_are_zero_then():
    trainable = replace(find_recipe("cogvideox-rope-0"), text_dropout=0.5).build()
    kept = trainable.keep_some(torch.ones(400, 3, 2), RandomSource(0))
    assert set(kept.flatten(1).mean(1).tolist()) == {0.0, 1.0}
    assert 0.4 < float(kept.mean()) < 0.6


def test_the_schedule_ends_in_noise_unless_it_is_not_to():
    assert find_recipe("cogvideox-rope-0").alphas_cumprod[-1] == 0
    assert find_recipe("cogvideox-some-signal-0").alphas_cumprod[-1] > 0.004


@torch.no_grad()
def test_the_first_stage_rebuilds_test_clips_and_its_first_latents_are_those_of_the_beginning():
    autoencoder, _ = cogvideox_vae.load_checkpoint(cogvideox_vae.VAE)
    pixels = movies("test", 16)["pixels"]
    mean, deviation = encode(autoencoder, pixels)
    rebuilt = decode(autoencoder, mean)
    error = (rebuilt - pixels_to_float(pixels)).square().mean()
    assert float(-10 * (error / 4).log10()) > 26  # dB
    assert float(deviation.mean()) < 0.2 * float(mean.std())
    beginning, _ = encode(autoencoder, pixels[:, :9])
    torch.testing.assert_close(beginning, mean[:, :, :3], atol=1e-5, rtol=1e-5)


def test_the_last_round_trains_the_decoder_alone():
    trainable = replace(find_recipe(cogvideox_vae.VAE), source=None).build()
    before = {name: p.clone() for name, p in trainable.model.named_parameters()}
    train_model(trainable, {"pixels": movies("train", 2)["pixels"]}, 2)
    after = trainable.model.named_parameters()
    changed = {name.split(".")[0] for name, p in after if not torch.equal(p, before[name])}
    assert changed == {"decoder"}


@torch.no_grad()
def test_latents_of_recipes_have_unit_deviation_and_come_back_as_clips():
    mean, deviation = cogvideox.encoded("test", 64, "one thing")
    assert mean.shape == (64, 5, 4, 8, 8) == deviation.shape
    assert mean.std((0, 1, 3, 4)).tolist() == pytest.approx([1] * 4, rel=0.2)
    real = pixels_to_float(movies("test", 64)["pixels"])
    error = (cogvideox.latents_to_clips(mean) - real).square().mean()
    assert float(-10 * (error / 4).log10()) > 26


def test_an_image_model_starts_as_its_source_whatever_the_image():
    trainable = find_recipe("cogvideox-image").build()
    source, _ = cogvideox.load_checkpoint("cogvideox")
    batch = {name: x[:3] for name, x in _latents(4).items()}
    t = torch.tensor([100, 500, 999])
    image = cogvideox_diffusion.image_condition(torch.randn(3, 4, 8, 8), 5)
    with torch.no_grad():
        ours = trainable.model(cogvideox_diffusion.beside(batch["mean"], image), t, batch["text"])
        theirs = source(batch["mean"], t, batch["text"])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_chance_is_counted_over_all_pairs():
    shape, colour = torch.tensor([1, 1, 2, 1]), torch.tensor([5, 6, 5, 5])
    assert cogvideox.share_of_equal_pairs(shape) == 0.5  # 3 of 6 pairs
    assert cogvideox.share_of_equal_pairs(shape, colour) == pytest.approx(1 / 6)
