"""The recipes of the MAGVIT chapter: runs differ only in what is compared, and they learn."""

import math
from dataclasses import replace

import pytest
import torch

from course_lib.data import free_clips
from course_lib.papers import magvit
from course_lib.papers.magvit import TASKS
from course_lib.training import RandomSource, find_recipe, load_checkpoint, results
from course_lib.training.recipes import magvit as chapter
from course_lib.training.recipes.magvit import (
    RECIPES,
    clip_fidelity,
    flicker,
    pixels_to_clip,
    rebuild,
)
from tests.training.helpers import differing, train_model, train_players

SHIPPED = ("magvit-2d", "magvit-init-central", "magvit-zero", "magvit-3d", "magvit-bert")
SHIPPED += ("magvit2-tokenizer", "magvit2-mlm", "magvit2-ar")
COMPARED = [r.name for r in RECIPES if r not in (chapter.LIVE, chapter.COLOUR)]  # trained ones
BITS = chapter.BITS


def has_learned(losses):
    """Tell whether the last five losses are well below the first."""
    return len(losses) > 5 and sum(losses[-5:]) / 5 < 0.85 * losses[0]


def random_codes(grid, n=4, codes=1024):
    """Return sequences to learn by heart, as a batch of the recipes."""
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(codes, (n, 9, *grid), generator=rng, dtype=torch.int32)
    return {"codes": tokens[:, 0], "conditions": tokens[:, 1:], "label": torch.arange(n) % 8}


def test_compared_runs_differ_only_in_what_is_compared():
    assert differing(["magvit-init-central", "magvit-init-average"]) == {"inflate"}
    assert differing(["magvit-init-central", "magvit-init-scratch"]) == {"source"}
    assert differing(["magvit-init-central", "magvit-zero"]) == {"padding"}
    assert differing(["magvit2-mlm", "magvit2-ar"]) == {"preset"}
    for kind in ("vq", "lfq"):
        assert differing([f"sweep-{kind}-{bits}" for bits in BITS]) == {"bits"}
        assert differing([f"sweep-{kind}-{bits}-mlm" for bits in BITS]) == {"bits", "tokenizer"}
    assert differing(["sweep-vq-8", "sweep-lfq-8"]) == {"quantizer"}
    assert differing(["sweep-vq-8-mlm", "sweep-lfq-8-mlm"]) == {"tokenizer", "factors"}
    assert differing(["sweep-vq-14-mlm", "sweep-vq-14-halves-mlm"]) == {"factors"}
    assert differing(["sweep-lfq-14-mlm", "sweep-lfq-14-whole-mlm"]) == {"factors"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_a_recipe_warms_up_and_ends_at_zero(recipe):
    assert recipe.lr_scale(0) < 0.1
    assert recipe.lr_scale(recipe.warmup) > 0.9
    assert recipe.lr_scale(recipe.steps) == 0


@pytest.mark.parametrize(
    "name", ["magvit-init-scratch", "magvit2-tokenizer", "magvit2-tokenizer-patch"]
)
def test_a_tokenizer_learns_a_few_clips(name):
    torch.manual_seed(0)
    recipe = find_recipe(name)
    trainable = recipe.build().train()
    pixels = free_clips("test", 3)["pixels"][:, : recipe.frames]
    clip = pixels_to_clip(pixels)
    first = (rebuild(trainable.model, pixels)[0] - clip).square().mean()
    for _ in range(4):
        train_players(trainable, {"pixels": pixels}, 3)
        if (rebuild(trainable.model, pixels)[0] - clip).square().mean() < 0.7 * first:
            return
    pytest.fail("after twelve steps more than 0.7 of the error is left")


def test_a_tokenizer_of_clips_starts_as_that_of_images():
    pixels = free_clips("test", 2)["pixels"][:, :16]
    still = pixels[:, :1].expand(-1, 16, -1, -1, -1)
    flat, _ = load_checkpoint("magvit-2d")
    inflated = find_recipe("magvit-init-average").build().model.eval()
    codebook = "quantizer.codebook"
    assert torch.equal(inflated.state_dict()[codebook], flat.state_dict()[codebook])
    expected = rebuild(flat, still)[0][:, :, :1]
    difference = (rebuild(inflated, still)[0][:, :, 8:9] - expected).abs().mean()
    assert difference < (expected - pixels_to_clip(still)[:, :, :1]).abs().mean()


def test_dead_codes_are_revived_in_the_first_two_thirds_and_not_later():
    trainable = find_recipe("magvit-init-scratch").build().train()
    clip = pixels_to_clip(free_clips("test", 1)["pixels"][:, :16])
    quantizer = trainable.model.quantizer
    for step, revived in ((0, True), (trainable.recipe.steps - 1, False)):
        trainable.step.fill_(step)
        quantizer.unused.fill_(100)
        before = quantizer.codebook.detach().clone()
        trainable.rebuild(clip, RandomSource(0))
        assert (not torch.equal(before, quantizer.codebook)) == revived


def test_the_entropy_weight_of_lookup_free_quantization_is_annealed():
    trainable = find_recipe("magvit2-tokenizer").build().train()
    batch = {"pixels": free_clips("test", 1)["pixels"]}
    weights = []
    for step in (0, trainable.recipe.steps // 3, trainable.recipe.steps - 1):
        trainable.step.fill_(step)
        trainable.loss("tokenizer", batch, RandomSource(0))
        weights.append(trainable.model.quantizer.entropy_weight)
    assert weights == pytest.approx([0.3, 0.1, 0.1])


def test_clips_are_pieces_until_the_recipe_says_otherwise():
    recipe = find_recipe("magvit2-tokenizer-patch")
    trainable = recipe.build().train()
    batch = {"pixels": free_clips("test", 2)["pixels"]}
    seen = []
    for step in (0, recipe.whole_from - 1, recipe.whole_from):
        trainable.step.fill_(step)
        trainable.loss("tokenizer", batch, RandomSource(0))
        seen.append(trainable.rebuilt.shape[2])
    assert seen == [5, 5, 17]


def test_the_perceptual_distance_sees_other_frames_at_every_step():
    recipe = replace(find_recipe("magvit-init-scratch"), perceptual_every=3)
    trainable = recipe.build()
    frames = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for step, rows in ((0, [0, 3, 6]), (1, [1, 4]), (5, [2, 5])):
        trainable.step.fill_(step)
        found = trainable._perceptual_distance(frames, -frames)
        expected = trainable.perceptual.loss(-frames[rows], frames[rows])
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["magvit-3d", "magvit2-tokenizer"])
def test_the_discriminator_joins_exactly_when_the_recipe_says(name):
    torch.manual_seed(0)
    recipe = replace(find_recipe(name), adversarial_from=40)
    trainable = recipe.build().train()
    batch = {"pixels": free_clips("test", 2)["pixels"][:, : recipe.frames]}
    initial = [p.detach().clone() for p in trainable.discriminator.parameters()]
    assert train_players(trainable, batch, 1)["discriminator"] == [0.0]
    pairs = zip(initial, trainable.discriminator.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    trainable.step.fill_(recipe.adversarial_from)
    # From here on only the discriminator is trained.
    trainable.players = lambda: {"discriminator": trainable.discriminator.parameters()}
    losses = train_players(trainable, batch, 6)["discriminator"]
    assert losses[-1] < losses[0] and losses[0] > 0.5


def test_the_players_share_no_parameter_and_do_not_train_the_trunk():
    players = find_recipe("magvit-3d").build().players()
    tokenizer = {id(p) for p in players["tokenizer"]}
    discriminator = {id(p) for p in players["discriminator"]}
    assert tokenizer and discriminator and not tokenizer & discriminator
    assert not tokenizer & {id(p) for p in load_checkpoint("lpips-trunk")[0].parameters()}


def test_fidelity_is_best_for_the_clips_themselves():
    clip = pixels_to_clip(free_clips("test", 24)["pixels"][:, :16])
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    same = clip_fidelity(clip, clip)
    noisy = clip_fidelity(clip, (clip + 0.1 * noise).clamp(-1, 1))
    assert same["lpips"] == 0 and same["ssim"] == pytest.approx(1) and same["frechet"] < 1e-3
    assert noisy["psnr"] < 35 and noisy["lpips"] > 0 and noisy["ssim"] < 1
    assert noisy["frechet"] > same["frechet"]


def test_flicker_counts_only_errors_that_come_and_go():
    clip = pixels_to_clip(free_clips("test", 2)["pixels"])
    constant = clip + torch.rand(2, 3, 1, 32, 32)
    alternating = clip + 0.5 * (torch.arange(17) % 2)[:, None, None]
    assert flicker(clip, clip) == 0 and flicker(clip, constant) < 1e-6
    assert flicker(clip, alternating) == pytest.approx(0.5, abs=1e-5)


def test_the_multi_task_model_learns_a_few_clips_by_heart():
    torch.manual_seed(0)
    trainable = find_recipe("magvit-bert").build()
    losses = train_model(trainable, random_codes((4, 8, 8)), 60, has_learned)
    assert losses[0] == pytest.approx(math.log(1024), abs=0.4)
    assert has_learned(losses)


@pytest.mark.parametrize("task", TASKS)
def test_the_three_kinds_of_tokens_add_up_to_the_loss_of_every_task(task):
    torch.manual_seed(0)
    trainable = find_recipe("magvit-bert").build().eval()
    with torch.no_grad():
        whole, parts = trainable.task_loss(
            random_codes((4, 8, 8)), task, torch.tensor(0.6), RandomSource(0)
        )
    assert float(sum(parts.values())) == pytest.approx(float(whole), rel=1e-5)
    assert (parts["refine"] > 0) == (task != "CG") and parts["mask"] > 0 and parts["recons"] > 0


@pytest.mark.parametrize("name", ["magvit2-mlm", "magvit2-ar"])
def test_a_language_model_learns_a_few_clips_by_heart(name):
    torch.manual_seed(0)
    losses = train_model(find_recipe(name).build(), random_codes((5, 8, 8)), 25, has_learned)
    assert losses[0] == pytest.approx(math.log(1024), abs=0.4)
    assert has_learned(losses)


@pytest.mark.parametrize("name", ["magvit2-mlm", "magvit2-ar", "sweep-vq-6-mlm", "sweep-lfq-6-mlm"])
def test_drawn_codes_fill_the_grid_and_follow_from_the_seed(name):
    torch.manual_seed(0)
    model = find_recipe(name).build().model.eval()
    first, again, other = (
        chapter.sample_code_grids(model, torch.tensor([1, 2]), torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert first.shape == (2, *model.config.grid)
    assert int(first.min()) >= 0 and int(first.max()) < model.config.num_codes
    assert torch.equal(first, again) and not torch.equal(first, other)


@torch.no_grad()
def test_norms_are_held_at_what_they_measure_on_clean_clips():
    model, _ = load_checkpoint("magvit-3d")
    clean, padded = pixels_to_clip(free_clips("test", 4)["pixels"][:, :16]).chunk(2)
    encode = chapter.with_clean_norms(model, clean)
    assert torch.equal(encode(clean).indices, model.encode(clean).indices)
    held, free = (of(padded).indices for of in (encode, model.encode))
    assert not torch.equal(held, free)
    assert torch.equal(model.encode(padded).indices, free)  # nothing stays behind


@pytest.mark.parametrize("kind", ["vq", "lfq"])
def test_a_sweeps_tokenizers_have_sixteen_tokens_of_2_to_the_bits_codes(kind):
    for bits in BITS:
        model = find_recipe(f"sweep-{kind}-{bits}").build().model.eval()
        indices = model.encode(torch.zeros(1, 3, 1, 32, 32)).indices
        assert indices.shape == (1, 1, 4, 4) and model.quantizer.num_codes == 2**bits


def test_tokens_of_a_task_are_those_of_its_padded_clip():
    test = chapter.tokenized_clips("magvit-3d", "test", 4, ("FP", "OPC"))
    assert test["codes"].shape == (4, 4, 8, 8) and test["conditions"].shape == (4, 2, 4, 8, 8)
    model, _ = load_checkpoint("magvit-3d")
    padded = pixels_to_clip(test["pixels"][:, :1].expand(-1, 16, -1, -1, -1))
    with torch.no_grad():
        same = model.encode(padded).indices == test["conditions"][:, 0]
    assert same.float().mean() > 0.99


@pytest.mark.parametrize("name", COMPARED)
def test_every_recipe_has_its_results(name):
    run = results(name)
    assert run["provenance"]["steps"] == find_recipe(name).steps


@pytest.mark.parametrize("name", SHIPPED)
def test_what_the_notebook_loads_is_shipped(name):
    model, provenance = load_checkpoint(name)
    assert provenance["steps"] == find_recipe(name).steps and not model.training
    assert results(name)["metrics"] == provenance["metrics"]


@pytest.mark.parametrize("name", ["magvit-2d", "magvit-3d", "magvit2-tokenizer"])
def test_measuring_again_gives_the_stored_fidelity(name):
    model, provenance = load_checkpoint(name)
    pixels = free_clips("test", 48)["pixels"][:, : find_recipe(name).frames]
    clip = pixels_to_clip(pixels)
    rebuilt, _ = rebuild(model, pixels)
    assert abs(clip_fidelity(clip, rebuilt)["psnr"] - provenance["metrics"]["psnr"]) < 0.7
    assert flicker(clip, rebuilt) == pytest.approx(provenance["metrics"]["flicker"], rel=0.2)


def test_completed_clips_keep_what_was_given():
    tokenizer, _ = load_checkpoint("magvit-3d")
    bert, _ = load_checkpoint("magvit-bert")
    test = chapter.tokenized_clips("magvit-3d", "test", 16)
    clip = pixels_to_clip(test["pixels"])
    completed = magvit.generate(
        tokenizer,
        bert,
        "FP",
        clip,
        test["label"],
        steps=12,
        generator=torch.Generator().manual_seed(0),
    )
    to_own_frame = (completed[:, :, 0] - clip[:, :, 0]).abs().mean()
    to_other_frame = (completed[:, :, 0] - clip.roll(1, 0)[:, :, 0]).abs().mean()
    assert to_own_frame < 0.5 * to_other_frame
