"""MAGVIT: published sizes, the tokenizer, its start from pictures, and COMMIT from masks to decoded
clips.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.lm.maskgit import mask_ratio
from course_lib.nn.video_tasks import TASKS, condition_clip, task_mask
from course_lib.papers import magvit
from course_lib.papers.magvit import BertConfig, MaskedTransformer, Tokenizer, TokenizerConfig

SMALL = TokenizerConfig(
    filters=6,
    multipliers=(1, 2, 2),
    halve_time=(True, False),
    blocks=1,
    code_dim=5,
    num_codes=13,
    groups=3,
)
FLAT = replace(SMALL, kernel_frames=1, halve_time=(False, False))
BERT = BertConfig(
    (2, 3, 4), num_codes=13, num_classes=5, multi_task=True, width=12, depth=2, heads=3, mlp=20
)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tokens(config, b=3, seed=0):
    return torch.randint(
        config.num_codes, (b, *config.grid), generator=torch.Generator().manual_seed(seed)
    )


def awake(model, seed=0):
    """A model of which nothing is zero, one or silent any more."""
    torch.manual_seed(seed)
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    return model.eval()


def size_of(build):
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())


CLIP = rand(2, 3, 4, 12, 16)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("3D-VQ-B", 40_579_843),
        ("3D-VQ-L", 157_811_971),
        ("3D-VQ-B BAIR", 36_596_355),
        ("2D-VQ-L", 53_104_387),
    ],
)
def test_a_tokenizer_has_the_published_number_of_parameters(name, count):
    assert size_of(lambda: Tokenizer(magvit.TOKENIZER_CONFIGS[name])) == count


def bert_size(vocabulary, length, d, depth, mlp):
    """Embeddings and their norm; attention, MLP and two norms a layer; the head's layer and norm; a
    bias per token.
    """
    layer = 4 * (d * d + d) + (d * mlp + mlp) + (mlp * d + d) + 2 * 2 * d
    return vocabulary * d + length * d + 2 * d + depth * layer + (d * d + d + 2 * d) + vocabulary


@pytest.mark.parametrize(
    ("name", "vocabulary", "length", "shape"),
    [
        ("BERT-B-UCF", 1024 + 102 + 1, 1 + 1024, (768, 12, 3072)),
        ("BERT-L-UCF", 1024 + 102 + 1, 1 + 1024, (1024, 24, 4096)),
        ("BERT-B-SSv2", 1024 + 175 + 16, 2 + 1024, (768, 12, 3072)),
        ("BERT-tiny", 1024 + 9 + 16, 2 + 256, (128, 4, 512)),
    ],
)
def test_a_transformer_has_the_size_of_the_closed_form(name, vocabulary, length, shape):
    config = magvit.BERT_CONFIGS[name]
    assert (
        config.vocabulary == vocabulary and config.prefix_length + math.prod(config.grid) == length
    )
    assert size_of(lambda: MaskedTransformer(config)) == bert_size(vocabulary, length, *shape)


def test_bert_b_on_ucf_has_87_million_parameters():
    assert size_of(lambda: MaskedTransformer(magvit.BERT_CONFIGS["BERT-B-UCF"])) == 87_301_991


def test_sixteen_frames_of_128_pixels_are_1024_tokens_614_times_smaller():
    cell = magvit.TOKENIZER_CONFIGS["3D-VQ-B"].cell
    assert cell == (4, 8, 8)
    grid = [n // c for n, c in zip((16, 128, 128), cell, strict=True)]
    assert grid == [4, 16, 16]
    assert 16 * 128 * 128 * 3 * 8 / (math.prod(grid) * math.log2(1024)) == 614.4


@pytest.mark.parametrize("name", magvit.DISCRIMINATORS)
def test_a_discriminator_takes_its_tokenizer_s_clips(name):
    with torch.device("meta"):
        model = magvit.DISCRIMINATORS[name]()
        assert model(torch.empty(2, 3, *model.size)).shape == (2,)
    frames, *sides = (
        n // c for n, c in zip(model.size, magvit.TOKENIZER_CONFIGS[name].cell, strict=True)
    )
    assert frames == 4 and sides in ([16, 16], [8, 8])


def test_the_tiny_pair_fits_together():
    config = magvit.TOKENIZER_CONFIGS["tiny"]
    grid = tuple(n // c for n, c in zip((16, 32, 32), config.cell, strict=True))
    bert = magvit.BERT_CONFIGS["BERT-tiny"]
    assert (bert.grid, bert.num_codes) == (grid, config.num_codes)
    assert (
        size_of(lambda: Tokenizer(config)) < 1.5e6
        and size_of(lambda: MaskedTransformer(bert)) < 1.5e6
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"halve_time": (True,)}, r"expected 2 halvings, got halve_time=\(True,\)"),
        ({"kernel_frames": 1}, "a tokenizer of single frames cannot halve time"),
        ({"groups": 4}, r"expected widths that 4 groups share evenly, got \[6\]"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_other_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="heads must divide width, got 5 for 12"):
        replace(BERT, heads=5)
    with pytest.raises(ValueError, match="expected padding 'reflect' or 'zeros', got 'mirror'"):
        Tokenizer(replace(SMALL, padding="mirror"))


# ---------------------------------------------------------------- the tokenizer


@pytest.mark.parametrize(
    "config", [SMALL, FLAT, replace(SMALL, padding="zeros")], ids=["3D", "2D", "zeros"]
)
def test_a_clip_becomes_tokens_and_a_clip_again(config):
    torch.manual_seed(0)
    model = Tokenizer(config).eval()
    reconstruction, found = model(CLIP)
    frames = 2 if config.kernel_frames > 1 else 4
    assert found.indices.shape == (2, frames, 3, 4) and found.latents.shape == (2, 5, frames, 3, 4)
    assert reconstruction.shape == CLIP.shape
    torch.testing.assert_close(model.decode_indices(found.indices), reconstruction)
    torch.testing.assert_close(model.decode(found.latents), reconstruction)
    assert torch.equal(model.encode(CLIP).indices, found.indices)


def test_every_weight_learns():
    torch.manual_seed(0)
    model = Tokenizer(SMALL)
    reconstruction, found = model(CLIP)
    ((reconstruction - CLIP).square().mean() + found.loss).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_codes_start_as_spread_as_in_the_official_code():
    codebook = Tokenizer(replace(SMALL, num_codes=300, code_dim=40)).quantizer.codebook.detach()
    assert 0.95 * 0.1 < float(codebook.abs().max()) <= 0.1  # sqrt(3 / 300)


def test_clips_that_are_not_made_of_cells_are_refused():
    with pytest.raises(
        ValueError, match=r"expected a clip of cells of \(2, 4, 4\), got \(4, 10, 16\)"
    ):
        Tokenizer(SMALL).encode(rand(2, 3, 4, 10, 16))


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_what_is_the_same_everywhere_has_one_token_under_reflection_alone(padding):
    torch.manual_seed(0)
    model = Tokenizer(replace(SMALL, padding=padding, num_codes=200)).eval()
    constant = torch.tensor([0.3, -0.5, 0.9]).reshape(1, 3, 1, 1, 1).expand(1, 3, 4, 24, 24)
    assert (len(model.encode(constant).indices.unique()) == 1) == (padding == "reflect")


def test_frames_of_a_2d_tokenizer_know_nothing_of_each_other():
    model = awake(Tokenizer(FLAT))
    alone = torch.cat([model.encode(CLIP[:, :, i : i + 1]).indices for i in range(4)], dim=1)
    assert torch.equal(model.encode(CLIP).indices, alone)


def test_time_is_halved_early_and_doubled_late():
    """The paper's order: the shallow stages of the encoder are the ones that see frames go."""
    model = Tokenizer(magvit.TOKENIZER_CONFIGS["3D-VQ-B"].__class__(
        filters=4, multipliers=(1, 1, 1, 1), code_dim=3, num_codes=5, groups=2, blocks=1
    ))  # fmt: skip
    pools = [layer.kernel_size for layer in model.encoder if isinstance(layer, nn.AvgPool3d)]
    ups = [layer.scale_factor for layer in model.decoder if isinstance(layer, nn.Upsample)]
    assert pools == [(2, 2, 2), (2, 2, 2), (1, 2, 2)] and ups == [(1, 2, 2), (2, 2, 2), (2, 2, 2)]


# ---------------------------------------------------------------- a start from pictures


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_kernels_are_inflated_at_the_centre_or_by_averages(frames):
    kernel = rand(2, 3, 4, 5)
    central, average = (
        magvit.inflate_central(kernel, frames),
        magvit.inflate_average(kernel, frames),
    )
    for t in range(frames):
        assert torch.equal(
            central[:, :, t], kernel if t == frames // 2 else torch.zeros_like(kernel)
        )
        torch.testing.assert_close(average[:, :, t], kernel / frames)


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
@pytest.mark.parametrize("kernel", [magvit.inflate_central, magvit.inflate_average])
def test_an_inflated_tokenizer_treats_a_still_clip_as_its_picture(kernel, padding):
    pictures, model = (
        Tokenizer(replace(FLAT, padding=padding)),
        Tokenizer(replace(SMALL, padding=padding)),
    )
    awake(pictures)
    magvit.inflate(model.eval(), pictures, kernel)
    still = CLIP[:, :, :1].expand(-1, -1, 4, -1, -1)
    flat, solid = pictures.run(pictures.encoder, still[:, :, :2]), model.encoder(still)
    same = kernel is magvit.inflate_central or padding == "reflect"  # zeros fade into the average
    assert torch.allclose(flat, solid, rtol=1e-3, atol=1e-3) is same
    if same:
        code = flat[:, :, :1].expand(-1, -1, 2, -1, -1)
        torch.testing.assert_close(
            model.decode(code), pictures.decode(code.repeat_interleave(2, 2)), rtol=1e-3, atol=1e-3
        )
    assert torch.equal(model.quantizer.codebook, pictures.quantizer.codebook)


def test_inflation_copies_rather_than_shares():
    pictures, model = awake(Tokenizer(FLAT)), Tokenizer(SMALL)
    magvit.inflate(model, pictures)
    before = model.encoder[0].weight.clone()
    with torch.no_grad():
        pictures.encoder[0].weight.zero_()
    assert torch.equal(model.encoder[0].weight, before) and model.encoder[0].weight.requires_grad


@pytest.mark.parametrize(
    "change", [{"filters": 12}, {"blocks": 2}, {"num_codes": 7}, {"multipliers": (1, 2, 3)}]
)
def test_tokenizers_of_other_shapes_are_not_inflated(change):
    with pytest.raises(
        ValueError, match="expected tokenizers of the same widths and blocks, got other shapes of "
    ):
        magvit.inflate(Tokenizer(SMALL), Tokenizer(replace(FLAT, **change)))


def test_nothing_is_deflated():
    with pytest.raises(ValueError, match=r"got other shapes of decoder.0.weight"):
        magvit.inflate(Tokenizer(FLAT), Tokenizer(SMALL))


# ---------------------------------------------------------------- the transformer


def test_special_tokens_stand_at_the_end_and_no_two_are_the_same():
    model = MaskedTransformer(BERT)
    label = torch.tensor([4, 0])
    assert (BERT.vocabulary, BERT.mask_token) == (13 + 6 + 16, 34)
    found = {task: model.prefix_tokens(task, label) for task in TASKS}
    assert all(prefix.shape == (2, 2) for prefix in found.values())
    assert len({int(prefix[0, 0]) for prefix in found.values()} | {BERT.mask_token}) == 11
    assert all(13 + 6 <= int(prefix[0, 0]) < BERT.mask_token for prefix in found.values())
    for task, prefix in found.items():
        assert prefix[:, 1].tolist() == ([17, 13] if task in ("CG", "CFP") else [18, 18])


def test_one_task_needs_no_token_of_its_own():
    config = replace(BERT, multi_task=False)
    assert (config.vocabulary, config.mask_token, config.prefix_length) == (20, 19, 1)
    assert MaskedTransformer(config).prefix_tokens("CG", torch.tensor([4, 0])).tolist() == [
        [17],
        [13],
    ]


def test_logits_of_codes_are_those_of_the_whole_vocabulary():
    model = awake(MaskedTransformer(BERT))
    prefix, shown = model.prefix_tokens("CG", torch.tensor([1, 2, 3])), tokens(BERT).flatten(1)
    whole = model(torch.cat([prefix, shown], dim=1))
    assert whole.shape == (3, 26, 35)
    torch.testing.assert_close(model.code_logits(prefix, shown), whole[:, 2:, :13])


def test_the_output_shares_the_embeddings_of_the_input():
    model = MaskedTransformer(BERT)
    model(tokens(BERT).flatten(1)).square().sum().backward()
    unused = [i for i in range(35) if i not in tokens(BERT)]
    assert model.tokens.weight.grad[unused].abs().sum(1).min() > 0


# ---------------------------------------------------------------- COMMIT


def test_what_is_shown_place_by_place():
    codes, condition = tokens(BERT), tokens(BERT, seed=1)
    given = task_mask("OPC", BERT.grid)
    masked = torch.rand(3, *BERT.grid, generator=torch.Generator().manual_seed(2)) < 0.5
    shown = magvit.commit_tokens(codes, condition, given, masked, 34)
    kinds = set()
    for b in range(3):
        for place in torch.cartesian_prod(*(torch.arange(n) for n in BERT.grid)).tolist():
            where = (b, *place)
            kind = (bool(masked[where]), bool(given[tuple(place)]))
            kinds.add(kind)
            expected = codes[where] if not kind[0] else condition[where] if kind[1] else 34
            assert shown[where] == expected
    assert len(kinds) == 4 and shown.dtype == torch.int64


@pytest.mark.parametrize(
    ("gamma", "number"), [(0.0, 1), (0.05, 1), (0.3, 3), (0.999, 9), (1.0, 10)]
)
def test_as_many_places_are_masked_as_gamma_says_the_lowest_first(gamma, number):
    scores = torch.rand(4, 10, generator=torch.Generator().manual_seed(0))
    masked = magvit.masked_places(scores, torch.tensor(gamma))
    assert (masked.sum(1) == number).all()
    for row, chosen in zip(scores, masked, strict=True):
        assert row[chosen].max() <= row[~chosen].min() if number < 10 else chosen.all()


def test_the_schedule_of_training_is_that_of_decoding():
    assert float(mask_ratio(torch.tensor(0.25))) == pytest.approx(math.cos(math.pi / 8))
    assert magvit.masked_places(torch.rand(2, 8), mask_ratio(0.0)).all()


def test_losses_are_smoothed_negative_log_likelihoods():
    logits, codes = 3 * rand(2, 5, 7), torch.tensor([[0, 1, 2, 3, 4], [6, 5, 6, 0, 1]])
    log_p = logits.log_softmax(-1)
    for smoothing in (0.0, 1e-4, 0.3):
        target = F.one_hot(codes, 7) * (1 - smoothing) + smoothing / 7
        torch.testing.assert_close(
            magvit.token_losses(logits, codes, smoothing), -(target * log_p).sum(-1)
        )
    torch.testing.assert_close(
        magvit.token_losses(logits, codes), magvit.token_losses(logits, codes, 1e-4)
    )


def test_the_three_parts_add_up_to_the_mean_over_all_tokens():
    losses = rand(2, 6).abs().requires_grad_()
    given = torch.tensor([True, True, True, False, False, False])
    masked = torch.tensor(
        [[True, False, True, True, False, False], [False, False, True, True, True, True]]
    )
    total, parts = magvit.commit_loss(losses, given, masked)
    expected = {"refine": [0, 2, 8], "mask": [3, 9, 10, 11], "recons": [1, 4, 5, 6, 7]}
    for kind, places in expected.items():
        torch.testing.assert_close(parts[kind], losses.flatten()[places].sum() / 12)
    torch.testing.assert_close(total, losses.mean())
    torch.testing.assert_close(total, sum(parts.values()))
    (slope,) = torch.autograd.grad(total, losses)
    torch.testing.assert_close(slope, torch.full((2, 6), 1 / 12))


def test_maskgit_s_loss_is_the_mean_of_each_clip_s_masked_tokens():
    losses = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    masked = torch.tensor([[True, False, False, True], [False, True, False, False]])
    assert float(magvit.masked_loss(losses, masked)) == (2.5 + 6) / 2
    assert float(magvit.masked_loss(losses, torch.zeros_like(masked))) == 0


# ---------------------------------------------------------------- decoding


def test_decoding_starts_from_the_condition_and_masks_and_refines_all():
    model = awake(MaskedTransformer(BERT))
    condition, given = tokens(BERT), task_mask("FP", BERT.grid)
    prefix = model.prefix_tokens("FP", torch.zeros(3, dtype=torch.long))
    seen, plain = [], model.code_logits

    def watch(prefix, shown):
        seen.append(shown)
        return plain(prefix, shown)

    model.code_logits = watch
    found = magvit.decode(
        model, prefix, condition, given, generator=torch.Generator().manual_seed(0)
    )
    assert len(seen) == 12
    assert torch.equal(seen[0].reshape(3, 2, 3, 4)[:, 0], condition[:, 0])
    assert (seen[0].reshape(3, 2, 3, 4)[:, 1] == BERT.mask_token).all()
    assert found.tokens.shape == (12, 3, 24) and found.tokens.max() < BERT.num_codes
    assert (found.tokens[-1].reshape(3, 2, 3, 4)[:, 0] != condition[:, 0]).any()  # refined
    # what is forgotten shows its condition or [MASK] again, never the forgotten guess
    for step in range(1, 12):
        assert torch.equal(seen[step][found.unknown[step - 1]], seen[0][found.unknown[step - 1]])


def test_the_same_seed_gives_the_same_tokens_and_another_does_not():
    model = awake(MaskedTransformer(BERT))
    args = (
        model.prefix_tokens("CG", torch.tensor([0, 1, 2])),
        tokens(BERT),
        task_mask("CG", BERT.grid),
    )
    first, again, other = (
        magvit.decode(model, *args, steps=3, generator=torch.Generator().manual_seed(seed)).tokens[
            -1
        ]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_generated_depends_on_the_condition_alone(task):
    tokenizer, model = awake(Tokenizer(SMALL)), awake(MaskedTransformer(BERT))
    given = task_mask(task, CLIP.shape[2:]).expand_as(CLIP)
    other = torch.where(given, CLIP, rand(*CLIP.shape, seed=7))
    label = torch.tensor([1, 3])
    first, second = (
        magvit.generate(
            tokenizer, model, task, x, label, steps=4, generator=torch.Generator().manual_seed(0)
        )
        for x in (CLIP, other)
    )
    assert first.shape == CLIP.shape and torch.equal(first, second)


def test_generation_is_its_steps_in_turn():
    tokenizer, model = awake(Tokenizer(SMALL)), awake(MaskedTransformer(BERT))
    label = torch.tensor([1, 3])
    codes = tokenizer.encode(condition_clip("CFP", CLIP)).indices
    decoding = magvit.decode(
        model, model.prefix_tokens("CFP", label), codes, task_mask("CFP", BERT.grid), 5, temperature=1.0,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    expected = tokenizer.decode_indices(decoding.tokens[-1].reshape(2, 2, 3, 4))
    found = magvit.generate(
        tokenizer,
        model,
        "CFP",
        CLIP,
        label,
        steps=5,
        temperature=1.0,
        generator=torch.Generator().manual_seed(3),
    )
    assert torch.equal(found, expected)


def test_a_small_transformer_learns_one_clip_by_heart():
    """Training's steps in turn: after them, decoding from nothing gives the clip's tokens back."""
    torch.manual_seed(0)
    config = replace(BERT, width=24, dropout=0.0)
    model, codes = MaskedTransformer(config), tokens(config, b=1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    given, prefix = task_mask("FP", config.grid), model.prefix_tokens("CFP", torch.tensor([2]))
    for _ in range(60):
        masked = magvit.masked_places(torch.rand(1, 24), mask_ratio(torch.rand(())))
        shown = magvit.commit_tokens(codes, codes, given, masked.view_as(codes), config.mask_token)
        losses = magvit.token_losses(model.code_logits(prefix, shown.flatten(1)), codes.flatten(1))
        loss, _ = magvit.commit_loss(losses, given.flatten(), masked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = magvit.decode(
        model.eval(), prefix, codes, given, generator=torch.Generator().manual_seed(0)
    ).tokens[-1]
    assert loss.item() < 0.1 and (found == codes.flatten(1)).float().mean() > 0.9
