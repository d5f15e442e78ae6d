"""MAGVIT: sizes, the ten tasks, and COMMIT from masks to decoded clips."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.lm.maskgit import mask_ratio
from course_lib.papers import magvit
from course_lib.papers.magvit import (
    TASKS,
    BertConfig,
    MaskedTransformer,
    cells_with_given_pixels,
    condition_clip,
    task_mask,
)
from course_lib.papers.magvit_tokenizer import TOKENIZER_CONFIGS, Tokenizer, TokenizerConfig

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


def test_the_tiny_pair_fits_together():
    config = TOKENIZER_CONFIGS["tiny"]
    grid = tuple(n // c for n, c in zip((16, 32, 32), config.cell, strict=True))
    bert = magvit.BERT_CONFIGS["BERT-tiny"]
    assert (bert.grid, bert.num_codes) == (grid, config.num_codes)
    assert (
        size_of(lambda: Tokenizer(config)) < 1.5e6
        and size_of(lambda: MaskedTransformer(bert)) < 1.5e6
    )


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="heads: expected a divisor of width 12, got 5"):
        replace(BERT, heads=5)


# ---------------------------------------------------------------- the ten tasks

# Table 12, masked %
PIXELS = dict(zip(TASKS, (94, 87, 75, 50, 50, 50, 25, 25, 100, 94), strict=True))
TOKENS = dict(zip(TASKS, (75, 50, 75, 50, 50, 50, 25, 25, 100, 75), strict=True))
TASK_CLIP = torch.randn(2, 3, 5, 8, 12, generator=torch.Generator().manual_seed(0))


def masked(mask):
    return 100 * (1 - mask.float().mean().item())


@pytest.mark.parametrize("task", TASKS)
def test_the_masked_pixels_of_table_12(task):
    share = masked(task_mask(task, (16, 128, 128)))
    assert abs(share - PIXELS[task]) <= 0.5
    assert share == {"FP": 93.75, "CFP": 93.75, "FI": 87.5}.get(task, PIXELS[task])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("grid", [(4, 16, 16), (4, 8, 8)])
def test_the_masked_tokens_of_table_12(task, grid):
    assert masked(task_mask(task, grid)) == TOKENS[task]


@pytest.mark.parametrize("size,cell", [((16, 128, 128), (4, 8, 8)), ((16, 32, 32), (4, 4, 4))])
@pytest.mark.parametrize("task", TASKS)
def test_tokens_of_the_condition_touch_it_unless_the_window_moves(task, size, cell):
    grid = tuple(n // c for n, c in zip(size, cell, strict=True))
    found, rule = cells_with_given_pixels(task_mask(task, size), cell), task_mask(task, grid)
    if task in ("OPD", "IPD"):
        assert masked(found) < masked(rule)
    else:
        assert torch.equal(found, rule)


def by_the_words(task, i, row, column, size):
    """Appendix B.1 for one pixel."""
    t, h, w = size
    start = int(np.round(np.linspace(0, w // 2, t)).astype(int)[i])
    middle_row, middle_column = h // 4 <= row < 3 * h // 4, w // 4 <= column < 3 * w // 4
    in_window = start <= column < start + w // 2
    if task in ("FP", "CFP"):
        return i < 1
    if task == "FI":
        return i < 1 or i >= t - 1
    if task == "OPC":
        return middle_row and middle_column
    if task == "OPV":
        return middle_column
    if task == "OPH":
        return middle_row
    if task == "OPD":
        return in_window
    if task == "IPC":
        return not (middle_row and middle_column)
    if task == "IPD":
        return not (middle_row and in_window)
    return False


@pytest.mark.parametrize(
    "size", [(5, 8, 12), (4, 7, 9), (3, 6, 7), (1, 4, 4), (2, 5, 3), (16, 10, 14)]
)
@pytest.mark.parametrize("task", TASKS)
def test_every_pixel(task, size):
    mask = task_mask(task, size)
    assert mask.shape == size and mask.dtype == torch.bool
    for place in np.ndindex(size):
        assert bool(mask[place]) == by_the_words(task, *place, size), place


def test_windows_move_from_the_left_edge_to_the_right_one():
    mask = task_mask("OPD", (5, 8, 12))
    assert mask[:, 0].int().argmax(1).tolist() == [0, 2, 3, 4, 6]  # 1.5 and 4.5 go to the even one
    assert (mask.sum((1, 2)) == 8 * 6).all() and mask[-1, 0, -1]


def test_a_mask_can_be_written_to():
    mask = task_mask("FP", (3, 4, 5))
    mask[0, 0, 0] = False
    assert int(mask.sum()) == 4 * 5 - 1


@pytest.mark.parametrize("task", TASKS)
def test_the_condition_itself_is_not_touched(task):
    mask = task_mask(task, TASK_CLIP.shape[2:]).expand_as(TASK_CLIP)
    assert condition_clip(task, TASK_CLIP).shape == TASK_CLIP.shape
    assert torch.equal(condition_clip(task, TASK_CLIP)[mask], TASK_CLIP[mask])


@pytest.mark.parametrize("task", TASKS)
def test_padding_depends_only_on_the_condition(task):
    mask = task_mask(task, TASK_CLIP.shape[2:]).expand_as(TASK_CLIP)
    other = torch.where(mask, TASK_CLIP, torch.randn_like(TASK_CLIP))
    assert torch.equal(condition_clip(task, TASK_CLIP), condition_clip(task, other))


EDGES = {
    "OPC": ((2, 2), (3, 3)),
    "OPV": ((0, 0), (3, 3)),
    "OPH": ((2, 2), (0, 0)),
    "FP": None,
    "CFP": None,
}


@pytest.mark.parametrize("task", EDGES)
def test_edges_are_continued_as_numpy_does(task):
    if EDGES[task]:
        rows, columns = EDGES[task]
        inner = TASK_CLIP[:, :, :, rows[0] : 8 - rows[1], columns[0] : 12 - columns[1]].numpy()
        expected = np.pad(inner, ((0, 0), (0, 0), (0, 0), rows, columns), mode="edge")
    else:
        expected = np.pad(
            TASK_CLIP[:, :, :1].numpy(), ((0, 0), (0, 0), (0, 4), (0, 0), (0, 0)), mode="edge"
        )
    assert np.array_equal(condition_clip(task, TASK_CLIP).numpy(), expected)


def test_interpolation_is_linear_between_the_two_frames():
    found = condition_clip("FI", TASK_CLIP)
    for i in range(5):
        torch.testing.assert_close(
            found[:, :, i], TASK_CLIP[:, :, 0] * (4 - i) / 4 + TASK_CLIP[:, :, 4] * i / 4
        )


@pytest.mark.parametrize("task", ["OPD", "IPC", "IPD", "CG"])
def test_the_other_paddings_are_black(task):
    found = condition_clip(task, TASK_CLIP)[
        ~task_mask(task, TASK_CLIP.shape[2:]).expand_as(TASK_CLIP)
    ]
    assert len(found) and (found == -1).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"expected a task of FP, FI, .*, got 'OP'"):
        task_mask("OP", (4, 8, 8))
    with pytest.raises(ValueError, match=r"expected a task of FP, FI, .*, got 'fp'"):
        condition_clip("fp", TASK_CLIP)
    with pytest.raises(
        ValueError, match=r"expected a mask of cells of \(2, 4, 4\), got \(5, 8, 12\)"
    ):
        cells_with_given_pixels(task_mask("FP", (5, 8, 12)), (2, 4, 4))


# ---------------------------------------------------------------- the transformer


def test_special_tokens_come_last_and_no_two_are_the_same():
    model = MaskedTransformer(BERT)
    label = torch.tensor([4, 0])
    assert (BERT.vocabulary, BERT.mask_token) == (13 + 6 + 16, 34)
    found = {task: model.config.prefix_tokens(task, label) for task in TASKS}
    assert all(prefix.shape == (2, 2) for prefix in found.values())
    assert len({int(prefix[0, 0]) for prefix in found.values()} | {BERT.mask_token}) == 11
    assert all(13 + 6 <= int(prefix[0, 0]) < BERT.mask_token for prefix in found.values())
    for task, prefix in found.items():
        assert prefix[:, 1].tolist() == ([17, 13] if task in ("CG", "CFP") else [18, 18])


def test_one_task_needs_no_token_of_its_own():
    config = replace(BERT, multi_task=False)
    assert (config.vocabulary, config.mask_token, config.prefix_length) == (20, 19, 1)
    assert MaskedTransformer(config).config.prefix_tokens("CG", torch.tensor([4, 0])).tolist() == [
        [17],
        [13],
    ]


def test_logits_of_codes_are_those_of_the_whole_vocabulary():
    model = awake(MaskedTransformer(BERT))
    prefix, shown = (
        model.config.prefix_tokens("CG", torch.tensor([1, 2, 3])),
        tokens(BERT).flatten(1),
    )
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
    prefix = model.config.prefix_tokens("FP", torch.zeros(3, dtype=torch.long))
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
        model.config.prefix_tokens("CG", torch.tensor([0, 1, 2])),
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
def test_generation_depends_only_on_the_condition(task):
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
        model,
        model.config.prefix_tokens("CFP", label),
        codes,
        task_mask("CFP", BERT.grid),
        5,
        temperature=1.0,
        generator=torch.Generator().manual_seed(3),
    )
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
    given, prefix = (
        task_mask("FP", config.grid),
        model.config.prefix_tokens("CFP", torch.tensor([2])),
    )
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
