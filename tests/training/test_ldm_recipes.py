"""The recipes of chapter 08: runs differ only in what is compared, and they learn."""

import copy
from dataclasses import replace

import pytest
import torch

from course_lib.data import captions, images
from course_lib.nn.embeddings import timestep_embedding
from course_lib.nn.lora import lora_state
from course_lib.papers import svd
from course_lib.papers.ldm_autoencoder import AUTOENCODER_CONFIGS, AutoencoderKL
from course_lib.papers.svd_decoder import TEMPORAL_DECODER_CONFIGS, TemporalAutoencoder
from course_lib.training import RandomSource, find_recipe, load_checkpoint, results
from course_lib.training.recipes import svd as svd_recipes
from course_lib.training.recipes.ldm import IMAGES, RECIPES, decode, encode, training_macs
from course_lib.training.recipes.svd import (
    ImageToVideo,
    by_frame,
    image_condition,
    start_from_first_stage,
)
from course_lib.world import CAPTION_WORDS, LittleWorld, caption, pixels_to_float
from tests.training.helpers import differing, train_model


def test_compared_runs_differ_only_in_what_is_compared():
    assert differing(["ldm-kl-short", "ldm-kl-none", "ldm-kl-strong"]) == {"kl_weight"}
    assert differing(["ldm-short-scaled", "ldm-short-unscaled"]) == {"scaled"}
    assert differing(["ldm-none-scaled", "ldm-none-unscaled"]) == {"scaled"}
    assert differing(["ldm-short-scaled", "ldm-none-scaled", "ldm-strong-scaled"]) == {
        "autoencoder"
    }
    pixels = {"autoencoder", "batch_size", "steps", "sweep"}
    assert differing(["ldm-images", "ldm-pixels"]) == pixels


def test_the_three_stages_and_those_less_one_have_equal_steps_on_clips():
    assert differing(["svd-three-0-video", "svd-no-images-0-video"]) == {"source"}
    assert differing(["svd-three-0-video", "svd-no-curation-0-video"]) == {"clips"}
    assert differing(["svd-three-0-video", "svd-no-tuning-0-video"]) == {"steps"}
    assert differing(["svd-three-0-video", "svd-three-1-video"]) == {"seed"}
    for name in ("three", "no-images", "no-curation"):
        video, tuning = (find_recipe(f"svd-{name}-1{end}") for end in ("-video", ""))
        assert tuning.source == video.name and tuning.clips == "best"
        assert video.steps + tuning.steps == find_recipe("svd-no-tuning-1-video").steps


def test_what_a_clip_model_is_used_for_differs_only_in_what_is_compared():
    assert differing(["svd-levels-images", "svd-levels-higher"]) == {"p_mean", "p_std"}
    assert differing(["svd-camera-still", "svd-camera-orbit", "svd-camera-zoom"]) == {"camera"}
    views = ["svd-views-clips", "svd-views-images", "svd-views-scratch"]
    assert differing(views) == {"source"}


def test_pixels_are_diffused_for_as_many_multiply_adds_as_latents():
    latents, pixels = (find_recipe(name) for name in ("ldm-images", "ldm-pixels"))
    work = {}
    for recipe in (latents, pixels):
        macs = training_macs(recipe, recipe.build().model)
        work[recipe.name] = recipe.steps * recipe.batch_size * macs
    assert work["ldm-pixels"] == pytest.approx(work["ldm-images"], rel=0.01)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_a_recipe_warms_up_and_ends_at_zero(recipe):
    assert recipe.lr_scale(0) < 0.1
    assert recipe.lr_scale(recipe.steps) == 0


def test_the_words_of_captions_are_all_known_and_all_used():
    world = LittleWorld("train", frames=8, length=1000)
    spoken = {word for i in range(1000) for word in caption(world.scene(i)).split()}
    said = {word.strip(",") for word in spoken}
    assert said | {","} == set(CAPTION_WORDS)


def test_captions_are_those_of_the_images():
    labels = images("test", 12, 32)
    for i, sentence in enumerate(captions("test", 12)):
        words = sentence.split()
        assert labels["kind"][i] == labels["shape"][i] * 8 + labels["colour"][i]
        assert words[-1] == "rests" and words[1] == ("small", "large")[int(labels["scale"][i])]


def test_a_denoiser_learns_a_few_latents():
    torch.manual_seed(0)
    trainable = IMAGES.build()
    tokens = trainable.model.captions.tokens(captions("train", 8))
    batch = {
        "mean": torch.linspace(-1.5, 1.5, 8)[:, None, None, None].expand(8, 4, 8, 8),
        "deviation": torch.zeros(8, 4, 8, 8),
        "tokens": tokens,
    }

    def error():
        """On noise and steps that are always the same."""
        with torch.no_grad():
            losses = [trainable.loss("model", batch, RandomSource(seed)) for seed in range(99, 103)]
        return float(sum(losses))

    before = error()
    train_model(trainable, batch, 30)
    assert error() < 0.8 * before


@torch.no_grad()
def test_the_temporal_decoder_starts_as_the_frame_wise_one_away_from_the_borders():
    torch.manual_seed(0)
    frame_wise = AutoencoderKL(AUTOENCODER_CONFIGS["kl-tiny"]).eval()
    temporal = TemporalAutoencoder(TEMPORAL_DECODER_CONFIGS["temporal-decoder-tiny"]).eval()
    frame_wise.from_latents.bias.zero_()  # what reaches the borders from here alone
    start_from_first_stage(temporal, frame_wise)
    latents = torch.randn(2, 5, 4, 3, 5)
    expected = by_frame(frame_wise.decode, latents)
    torch.testing.assert_close(temporal.decode(latents), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_first_stage_rebuilds_test_images():
    autoencoder, provenance = load_checkpoint("ldm-kl")
    pixels = images("test", 16, 64)["pixels"]
    mean, deviation = encode(autoencoder, pixels)
    rebuilt = decode(autoencoder, mean)
    error = (rebuilt - pixels_to_float(pixels)).square().mean()
    assert float(-10 * (error / 4).log10()) > 26  # dB
    assert provenance["metrics"]["scale_factor"] == results("ldm-kl")["metrics"]["scale_factor"]
    assert float(mean.std()) == pytest.approx(1 / provenance["metrics"]["scale_factor"], rel=0.1)
    assert float(deviation.mean()) < 0.05


@torch.no_grad()
def test_an_images_condition_is_its_embedding_its_unscaled_latent_and_three_numbers():
    autoencoder, _ = load_checkpoint("ldm-kl")
    judge, _ = load_checkpoint("vit-judge")
    image = pixels_to_float(images("test", 2, 64)["pixels"])
    numbers = torch.tensor([6.5, 13.0]), torch.tensor([10.0, 200.0]), torch.tensor([0.02, 0.1])
    condition = image_condition(autoencoder, judge, image, image, 6, *numbers)
    assert condition.context.shape == (2, 1, 96)
    torch.testing.assert_close(condition.latent[:, 5], autoencoder.encode(image).mean)
    fps, bucket, augmentation = numbers
    expected = svd.micro_conditioning(fps - 1, bucket, augmentation, 32)
    torch.testing.assert_close(condition.vector, expected)


def _moving_clips(b, frames=svd_recipes.FOUND_FRAMES):
    """Clips of noise, as recipes have them: pixels, latents and how much moves."""
    generator = torch.Generator().manual_seed(0)
    return {
        "pixels": torch.randint(256, (b, frames, 64, 64, 3), generator=generator).byte(),
        "mean": torch.randn(b, frames, 4, 8, 8, generator=generator),
        "deviation": torch.zeros(b, frames, 4, 8, 8),
        "bucket": torch.full((b,), 90.0),
    }


def test_a_lora_trains_and_keeps_its_own_numbers_alone():
    recipe = replace(find_recipe("svd-camera-orbit"), source=None)
    torch.manual_seed(0)
    trainable = recipe.build()
    unet = trainable.model.adapted[0]
    changed = lora_state(unet)
    assert sum(x.numel() for x in trainable.model.state_dict().values()) == sum(
        x.numel() for x in changed.values()
    )
    assert not any(x.any() for name, x in changed.items() if name.endswith("up"))
    with torch.no_grad():  # a fresh network says nothing, and its inside learns nothing
        for name, parameter in unet.named_parameters():
            if not name.endswith((".up", ".down")):
                parameter.normal_(std=0.1)
    before = {name: x.clone() for name, x in unet.state_dict().items()}
    train_model(trainable, _moving_clips(2), 2)
    for name, x in unet.state_dict().items():
        is_lora = name.endswith((".up", ".down"))
        assert is_lora or torch.equal(x, before[name]), name
    assert any(x.any() for name, x in lora_state(unet).items() if name.endswith("up"))


def test_a_copy_of_a_lora_changes_its_own_network_and_moves_with_it():
    """As the average of the weights does, and a model on another device or of another type."""
    model = replace(find_recipe("svd-camera-orbit"), source=None).build().model
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.fill_(0.1)
    ours, theirs = (lora_state(x.adapted[0]) for x in (model, copied))
    assert all((x == 0.1).all() for x in theirs.values())
    assert not any((x == 0.1).all() for x in ours.values())
    assert {x.dtype for x in copied.double().adapted[0].parameters()} == {torch.float64}


def test_samples_of_a_clip_stay_inside_it_and_reach_its_end():
    """Latents that are the numbers of their frames show which were taken."""
    torch.manual_seed(0)
    for name, steps in (("svd-curated", {1, 2}), ("svd-three-0-video", {3}), ("svd-between", {2})):
        recipe = replace(find_recipe(name), source=None)
        clips = _moving_clips(200)
        numbers = torch.arange(svd_recipes.FOUND_FRAMES).float()
        clips["mean"] = numbers[:, None, None, None].expand(200, -1, 4, 8, 8)
        told = ImageToVideo(torch.nn.Identity(), recipe)
        told.tell_ends = lambda *args: svd.Condition(torch.zeros(1, 1, 1))
        frames = told.sample(clips, RandomSource(3))[0][:, :, 0, 0, 0]
        assert frames.shape == (200, recipe.frames)
        assert set(frames.diff(dim=1).flatten().tolist()) == steps
        assert frames.min() == 0 and frames.max() == svd_recipes.FOUND_FRAMES - 1


@torch.no_grad()
def test_the_frames_between_two_are_told_the_ends_and_nothing_else():
    torch.manual_seed(0)
    trainable = replace(find_recipe("svd-between"), source=None).build()
    x_start, condition = trainable.sample(_moving_clips(2), RandomSource(3))
    assert x_start.shape == (2, 5, 4, 8, 8)
    assert condition.context.shape == (2, 2, 96)
    assert condition.latent.shape == (2, 5, 5, 8, 8)
    assert not condition.latent[:, 1:4].any()
    assert (condition.latent[:, [0, 4], 4] == 1).all()


@torch.no_grad()
def test_views_are_told_the_first_one_and_how_high_the_camera_stands():
    torch.manual_seed(0)
    trainable = replace(find_recipe("svd-views-clips"), source=None).build()
    batch = _moving_clips(2, frames=14) | {"elevation": torch.tensor([20.0, 25.0])}
    _, condition = trainable.sample(batch, RandomSource(3))
    assert condition.vector.shape == (2, 128)
    torch.testing.assert_close(
        condition.vector[:, 96:], timestep_embedding(torch.tensor([20.0, 25.0]), 32)
    )
    assert condition.latent.shape == (2, 14, 4, 8, 8)
