"""VideoPoet's super-resolution: windows, what sees what, its conditions, guidance, drawing."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from course_lib import zoo
from course_lib.papers import videopoet_superresolution as sr
from course_lib.papers.magvit2 import joint_logits
from course_lib.papers.videopoet_superresolution import (
    SUPERRESOLUTION_CONFIGS,
    Layer,
    SuperResolution,
    SuperResolutionConfig,
    guidance_weights,
    guided_logits,
    masked_token_loss,
    merge_windows,
    resample,
    shrink,
    super_resolve,
    windows,
    without,
)

SMALL = SuperResolutionConfig(
    grid=(2, 6, 4),
    windows=((1, 6, 2), (1, 2, 4), (2, 2, 2)),
    bits=4,
    width=12,
    blocks=1,
    heads=3,
    mlp=20,
    text_width=5,
)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def awake(model, seed=0):
    """A model in which nothing is zero, one or silent any more."""
    torch.manual_seed(seed)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5 if p.ndim < 2 else 1 / p.shape[-1] ** 0.5)
    return model.eval()


def inputs(b=2, m=3, config=SMALL, seed=0):
    """Tokens of the large and of the small clip, a text and its padding."""
    codes = integers(2**config.bits, b, *config.grid, seed=seed)
    low = integers(2**config.bits, b, *config.low_grid, seed=seed + 1)
    text = rand(b, m, config.text_width, seed=seed)
    is_text = torch.ones(b, m, dtype=torch.bool)
    is_text[-1, 1:] = False
    return codes, low, text, is_text


# ---------------------------------------------------------------- sizes


def test_appendix_a_5_2():
    first = SUPERRESOLUTION_CONFIGS["superresolution-1B"]
    second = SUPERRESOLUTION_CONFIGS["superresolution-500M"]
    assert (math.prod(first.grid), math.prod(second.grid)) == (8_960, 35_840)
    assert first.low_grid == (5, 28, 16)  # VideoPoet's 224 x 128
    assert second.low_grid == first.grid
    assert first.windows == ((1, 56, 4), (1, 8, 32), (5, 8, 8))
    assert second.windows == ((1, 112, 2), (1, 4, 64), (5, 8, 8))
    assert [math.prod(each) for each in first.windows] == [224, 256, 320]
    assert first.factor_bits == second.factor_bits == (9, 9)


def test_the_tiny_one_speaks_of_the_little_world_s_tokens():
    config = SUPERRESOLUTION_CONFIGS["superresolution-tiny"]
    tokenizer = zoo.find("magvit2/tiny").config
    assert config.bits == tokenizer.bits
    assert config.grid == tokenizer.token_grid(17, 32, 32)
    assert config.low_grid == tokenizer.token_grid(17, 16, 16)
    assert config.text_width == zoo.find("cogvideox/T5-tiny").config.width


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "heads: expected a divisor of width 12, got 5"),
        ({"factors": 3}, "factors: expected a divisor of 4 bits, got 3"),
        ({"grid": (2, 5, 4)}, r"expected windows whose sides divide \(2, 5, 4\), got \(1, 6, 2\)"),
        (
            {"grid": (2, 3, 4), "windows": ((1, 3, 2),)},
            r"expected even numbers of rows and columns, got \(2, 3, 4\)",
        ),
        (
            {"windows": ((1, 6, 2), (1, 3, 4))},
            r"expected even numbers of rows and columns, got \(1, 3, 4\)",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("window", [(1, 6, 2), (3, 1, 1), (3, 2, 4), (1, 1, 8), (3, 6, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_windows_are_merged_into_what_they_were_cut_from(window, dtype):
    x = (10 * rand(2, 3, 6, 8, 5)).to(dtype)
    parts = windows(x, window)
    assert parts.shape == (2 * 144 // math.prod(window), math.prod(window), 5)
    assert parts.dtype == dtype
    assert torch.equal(merge_windows(parts, window, (3, 6, 8)), x)


def test_windows_and_what_is_in_them_are_in_reading_order():
    grid = torch.arange(2 * 2 * 4 * 6).view(2, 2, 4, 6, 1)
    parts = windows(grid, (1, 2, 3))[..., 0]
    expected = [
        grid[b, t, h : h + 2, w : w + 3].flatten()
        for b in range(2)
        for t in range(2)
        for h in (0, 2)
        for w in (0, 3)
    ]
    assert torch.equal(parts, torch.stack(expected))


@pytest.mark.parametrize("window", [(2, 6, 8), (1, 4, 8), (1, 6, 3), (0, 6, 8), (1, -6, 8), (6, 8)])
def test_windows_that_do_not_fit_are_refused(window):
    message = r"expected windows whose sides divide \(3, 6, 8\), got \(" + ", ".join(
        map(str, window)
    )
    with pytest.raises(ValueError, match=message):
        windows(rand(2, 3, 6, 8, 5), window)
    with pytest.raises(ValueError, match=message):
        merge_windows(rand(12, 12, 5), window, (3, 6, 8))


@pytest.mark.parametrize("shape", [(23, 12, 5), (24, 6, 5)])
def test_windows_of_another_grid_are_refused(shape):
    with pytest.raises(ValueError, match="expected a multiple of 12 windows of 12 vectors, got"):
        merge_windows(rand(*shape), (1, 6, 2), (3, 6, 8))


# ---------------------------------------------------------------- what sees what


def moved(function, x, place):
    """Where the result depends on what is at one place of x (b t h w d)."""
    other = x.clone()
    other[:, *place] += rand(x.shape[-1], seed=9)
    return (function(x) != function(other)).any(-1).any(0)


@pytest.mark.parametrize("window", SMALL.windows)
def test_a_layer_sees_one_window_of_each_clip(window):
    layer = awake(Layer(SMALL, window))
    x, low = rand(2, 2, 6, 4, 12), rand(2, 2, 3, 2, 12, seed=1)
    for place in [(0, 0, 0), (1, 5, 3), (0, 3, 2)]:
        start = [i // side * side for i, side in zip(place, window, strict=True)]
        own = torch.zeros(2, 6, 4, dtype=torch.bool)
        own[tuple(slice(i, i + side) for i, side in zip(start, window, strict=True))] = True
        assert torch.equal(moved(lambda x: layer(x, low), x, place), own)
        t, h, w = place
        assert torch.equal(moved(lambda low: layer(x, low), low, (t, h // 2, w // 2)), own)


def test_one_block_is_enough_for_every_token_to_see_all():
    """Columns, rows and time in turn: here, where the windows span the axes."""
    model = awake(SuperResolution(SMALL))
    codes, low, text, is_text = inputs(1)
    other = codes.clone()
    other[0, 1, 4, 3] ^= 5
    before, after = (joint_logits(model(x, low, text, is_text)) for x in (codes, other))
    assert (before != after).any(-1).all()


def test_equal_windows_side_by_side_are_told_apart_by_their_places():
    model = awake(SuperResolution(SMALL))
    _, _, text, is_text = inputs(1)
    shown = torch.full((1, *SMALL.grid), SMALL.mask_token)
    low = torch.full((1, *SMALL.low_grid), 3)
    logits = joint_logits(model(shown, low, text, is_text))[0]
    assert logits.unique(dim=0).shape[0] == math.prod(SMALL.grid)


@pytest.mark.parametrize("name", ["shown", "low"])
def test_another_grid_is_refused(name):
    codes, low, text, is_text = inputs()
    if name == "shown":
        codes = codes.mT
    else:
        low = low.mT
    with pytest.raises(ValueError, match=rf"{name}: expected a grid \(2, .*\), got \(2, "):
        SuperResolution(SMALL)(codes, low, text, is_text)


# ---------------------------------------------------------------- conditions


def test_a_padded_text_and_a_dropped_one_do_not_matter():
    model = awake(SuperResolution(SMALL))
    codes, low, text, is_text = inputs()
    changed = text + 3 * rand(*text.shape, seed=4)
    padded = torch.where(is_text[..., None], text, changed)

    def run(text, is_text):
        return torch.cat(model(codes, low, text, is_text), -1)

    close(run(text, is_text), run(padded, is_text))
    assert (run(text, is_text) - run(changed, is_text)).abs().amax((1, 2)).gt(1e-3).all()
    nothing = torch.zeros_like(is_text)
    close(run(text, nothing), run(changed, nothing))
    close(run(text, nothing), run(text[:, :0], is_text[:, :0]))


def test_each_condition_is_dropped_by_itself():
    _, low, _, is_text = inputs(4)
    drops_low = torch.tensor([True, True, False, False])
    drops_text = torch.tensor([True, False, True, False])
    seen_low, seen_text = without(SMALL, low, is_text, drops_low, drops_text)
    assert (seen_low[:2] == SMALL.no_token).all() and torch.equal(seen_low[2:], low[2:])
    assert not seen_text[[0, 2]].any() and torch.equal(seen_text[[1, 3]], is_text[[1, 3]])
    assert (SMALL.mask_token, SMALL.no_token) == (16, 17)


def test_a_share_of_the_small_clip_s_tokens_is_drawn_anew():
    low, others = integers(16, 3, 4, 20, 20), 16 + integers(16, 3, 4, 20, 20)
    uniform = torch.rand(low.shape, generator=torch.Generator().manual_seed(0))
    share = torch.tensor([0.0, 0.25, 1.0])
    disturbed = resample(low, others, share, uniform)
    is_new = disturbed >= 16
    assert torch.equal(disturbed, torch.where(is_new, others, low))
    shares = is_new.flatten(1).float().mean(1)
    assert shares[0] == 0 and shares[2] == 1 and abs(shares[1] - 0.25) < 0.05


def test_the_small_clip_has_half_the_rows_and_columns():
    clip = rand(2, 3, 5, 8, 12).tanh()
    small = shrink(clip)
    assert small.shape == (2, 3, 5, 4, 6) and small.abs().max() <= 1
    close(shrink(torch.full((1, 3, 2, 4, 6), 0.3)), torch.full((1, 3, 2, 2, 3), 0.3))
    close(small[:, :, 3], shrink(clip[:, :, 3:4])[:, :, 0])  # each frame by itself
    with pytest.raises(ValueError, match="expected even numbers of rows and columns, got"):
        shrink(clip[..., 1:])


# ---------------------------------------------------------------- training


def test_the_loss_is_the_mean_over_masked_tokens_then_over_clips():
    model = awake(SuperResolution(SMALL))
    codes, low, text, is_text = inputs()
    masked = torch.zeros(codes.shape, dtype=torch.bool)
    masked[0, 0, 0], masked[1, 1] = True, True
    loss = masked_token_loss(model, codes, masked, low, text, is_text)
    shown = torch.where(masked, SMALL.mask_token, codes)
    log_p = joint_logits(model(shown, low, text, is_text)).log_softmax(-1)
    losses = -log_p.gather(2, codes.flatten(1)[..., None])[..., 0].view_as(codes)
    expected = torch.stack([losses[i][masked[i]].mean() for i in range(2)]).mean()
    close(loss, expected, 1e-2)  # smoothed by 1e-4
    assert abs(loss - expected) > 0


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = SuperResolution(SMALL)
    codes, low, text, is_text = inputs()
    low[0], codes[0, 0] = SMALL.no_token, SMALL.mask_token
    masked = codes == SMALL.mask_token
    masked_token_loss(model, codes.where(~masked, 3), masked, low, text, is_text).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


# ---------------------------------------------------------------- guidance, drawing


@pytest.mark.parametrize("scales", [(4.0, 1.0), (8.0, 2.0), (1.0, 1.0), (0.0, 1.0), (0.0, 0.0)])
def test_guidance_is_instruct_pix2pix_s(scales):
    model = awake(SuperResolution(SMALL))
    codes, low, text, is_text = inputs()
    nothing = torch.zeros_like(is_text)
    none = model(codes, torch.full_like(low, SMALL.no_token), text, nothing)
    small = model(codes, low, text, nothing)
    both = model(codes, low, text, is_text)
    found = guided_logits(model, codes, low, text, is_text, *scales)
    text_scale, low_scale = scales
    for each, n, s, b in zip(found, none, small, both, strict=True):
        close(each, n + low_scale * (s - n) + text_scale * (b - s), 1e-4)
    assert sum(guidance_weights(*scales)) == 1


@pytest.mark.parametrize(("scales", "runs"), [((4.0, 1.0), 2), ((8.0, 2.0), 3), ((1.0, 1.0), 1)])
def test_no_run_of_the_model_is_wasted(scales, runs):
    count = []
    model = SuperResolution(SMALL).eval()
    model.register_forward_hook(lambda *_: count.append(1))
    guided_logits(model, *inputs(), *scales)
    assert len(count) == runs


def test_tokens_are_drawn_in_as_many_steps_as_asked(monkeypatch):
    model = awake(SuperResolution(SMALL))
    _, low, text, is_text = inputs()

    def draw(seed, **options):
        generator = torch.Generator().manual_seed(seed)
        return super_resolve(model, low, text, is_text, generator=generator, **options)

    drawn = draw(0)
    assert drawn.shape == (2, *SMALL.grid) and drawn.min() >= 0 and drawn.max() < 16
    assert torch.equal(drawn, draw(0)) and not torch.equal(drawn, draw(1))

    steps = []
    decode = sr.parallel_decode
    monkeypatch.setattr(
        sr, "parallel_decode", lambda *args, **o: steps.append(args[3]) or decode(*args, **o)
    )
    draw(0), draw(0, steps=3)
    assert steps == [24, 3]


def test_strong_logits_leave_one_choice():
    """A model that is sure of its tokens draws them, whatever the order and the noise."""
    model = awake(SuperResolution(SMALL))
    codes, low, text, is_text = inputs(1)
    low_bits, high_bits = (codes & 3).flatten(1), (codes >> 2).flatten(1)
    sure = [100 * nn.functional.one_hot(x, 4).float() for x in (low_bits, high_bits)]
    model.tokens.logits = lambda x: sure
    drawn = super_resolve(model, low, text, is_text, steps=4)
    assert torch.equal(drawn, codes)
