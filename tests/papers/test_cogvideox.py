"""The expert transformer: patches, positions, experts, who sees whom."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from course_lib.nn.frame_pack import frame_pack, of_clips, pack_clips
from course_lib.papers import cogvideox
from course_lib.papers.cogvideox import (
    COGVIDEOX_CONFIGS,
    CogVideoXConfig,
    Transformer,
    coordinates,
    expert_adaln,
    patchify,
    sincos,
    unpatchify,
)

TINY = replace(COGVIDEOX_CONFIGS["tiny"], depth=2, text_width=12, text_length=5)


def awake(config, seed=0):
    """A model all of whose layers do something."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model.eval()


def inputs(b=2, t=3, c=4, h=4, w=6, m=5, d=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, t, c, h, w, generator=generator)
    return x, torch.tensor([999, 3, 640, 7, 8])[:b], torch.randn(b, m, d, generator=generator)


# ---------------------------------------------------------------- the whole


def test_a_fresh_model_says_0_and_learns():
    model = Transformer(TINY)
    x, t, text = inputs()
    assert torch.equal(model(x, t, text), torch.zeros_like(x))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = (model(x, t, text) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_every_parameter_gets_a_gradient():
    """Distributed training waits for each."""
    for config in (TINY, replace(TINY, experts=False), replace(TINY, positions="sincos")):
        model = awake(config)
        model(*inputs()).sum().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "sincos"},
        {"attention": "factorised"},
        {"experts": False},
        {"temporal_patch": 2, "latent": (4, 8, 8), "offset": True},
        {"learned_positions": True, "latent": (4, 4, 6)},
    ],
    ids=str,
)
def test_text_step_and_every_frame_count(changes):
    model = awake(replace(TINY, **changes))
    x, t, text = inputs(t=4)
    with torch.no_grad():
        before = model(x, t, text)
        assert before.shape == x.shape
        for other in ((x, t + 1, text), (x, t, text + 0.5)):
            assert (model(*other) - before).abs().max() > 1e-4
        moved = x.clone()
        moved[:, 3] += 1
        assert (model(moved, t, text) - before)[:, 0].abs().max() > 1e-5
        alone = model(x[:1], t[:1], text[:1])
        torch.testing.assert_close(alone, before[:1], rtol=1e-4, atol=1e-5)


def test_other_sizes_than_the_trained_one():
    model = awake(TINY)
    for shape in ((1, 2, 2), (2, 8, 4), (7, 6, 6)):
        x, t, text = inputs(1, shape[0], 4, *shape[1:])
        assert model(x, t, text).shape == x.shape


@pytest.mark.parametrize("positions", ["rope", "sincos"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_computes_in_the_precision_of_its_weights(dtype, positions):
    model = awake(replace(TINY, positions=positions)).to(dtype)
    x, t, text = inputs()
    assert model(x.to(dtype), t, text.to(dtype)).dtype == dtype


# ---------------------------------------------------------------- experts


def test_each_expert_modulates_its_own():
    text, video = torch.ones(2, 3, 4), torch.ones(2, 5, 4)
    text_expert = torch.cat([torch.full((2, 1, 4), v) for v in (1.0, 2.0, 3.0)], dim=-1)
    video_expert = torch.cat([torch.full((2, 1, 4), v) for v in (10.0, 20.0, 30.0)], dim=-1)
    got = expert_adaln(text, video, text_expert, video_expert)
    assert [float(part.mean()) for part in got] == [1 + 2 + 1, 10 + 20 + 1, 3, 30]
    assert [tuple(part.shape) for part in got] == [(2, 3, 4), (2, 5, 4), (2, 1, 4), (2, 1, 4)]


def test_without_experts_both_are_modulated_alike():
    view, time = cogvideox.View(), torch.randn(2, 1, 64)
    text, video = cogvideox.Experts(replace(TINY, experts=False))(time, view)
    assert torch.equal(text, video)
    text, video = cogvideox.Experts(TINY)(time, view)
    assert text.shape == video.shape and not torch.equal(text, video)
    counts = [
        sum(p.numel() for p in Transformer(replace(TINY, experts=on)).parameters())
        for on in (True, False)
    ]
    assert counts[0] - counts[1] == 2 * 2 * 3 * 128 * 65


# ---------------------------------------------------------------- who sees whom


def influence(model, grid, m=5):
    """Which tokens (columns) each token (rows) of the last sequence depends on."""
    views = cogvideox.views(grid, m, None, model.config.attention)
    block = model.blocks[0]
    d = model.config.width
    n = grid[0] * grid[1] * grid[2]
    sequence = torch.randn(1, m + n, d, requires_grad=True)
    time = torch.randn(1, 1, model.config.time_width)
    found = []
    for view in views:
        text, video = block(sequence[:, :m], sequence[:, m:], time, None, view)
        out = torch.cat([text, video], dim=1)[0].sum(1)  # of each token
        rows = [torch.autograd.grad(o, sequence, retain_graph=True)[0][0].abs().sum(1) for o in out]
        found.append(torch.stack(rows) > 0)
    return found


def test_full_attention_is_between_all():
    assert all(bool(seen.all()) for seen in influence(awake(TINY), (2, 2, 3)))


def test_factorised_attention_is_within_a_frame_then_within_a_place():
    t, h, w, m = 2, 2, 3, 5
    space, time = influence(awake(replace(TINY, attention="factorised")), (t, h, w))
    for seen in (space, time):
        assert bool(seen[:m].all()) and bool(seen[:, :m].all())
    frame = torch.arange(t).repeat_interleave(h * w)
    place = torch.arange(h * w).repeat(t)
    assert torch.equal(space[m:, m:], frame[:, None] == frame)
    assert torch.equal(time[m:, m:], place[:, None] == place)


@pytest.mark.parametrize("attention", ["full", "factorised"])
@pytest.mark.parametrize("positions", ["rope", "sincos"])
def test_a_packed_clip_is_what_it_is_by_itself(positions, attention):
    """Values, and gradients of the clips: no clip sees another, and each has its own step."""
    model = awake(replace(TINY, positions=positions, attention=attention)).double()
    durations = [1, 3, 2, 1]
    x, t, text = inputs(4, 3)
    x, text = x.double(), text.double()
    clips = [x[i, :n].clone().requires_grad_() for i, n in enumerate(durations)]
    pack = frame_pack(durations, 4)
    rows = model(pack_clips(clips, pack), of_clips(t, pack), of_clips(text, pack), pack)
    for number, clip in enumerate(clips):
        row, slot = (pack.numbers == number).nonzero()[0].tolist()
        got = rows[row, pack.clip[row] == slot]
        alone = model(clip[None], t[number : number + 1], text[number : number + 1])[0]
        torch.testing.assert_close(got, alone)
        others = [other for other in clips if other is not clip]
        slopes = torch.autograd.grad(
            got.sum(), [clip, *others], retain_graph=True, allow_unused=True
        )
        (expected,) = torch.autograd.grad(alone.sum(), clip)
        torch.testing.assert_close(slopes[0], expected)
        assert all(slope is None or not slope.any() for slope in slopes[1:])


# ---------------------------------------------------------------- patches and positions


def test_patches_are_cut_in_space_only():
    latents = torch.arange(2 * 3 * 2 * 4 * 6.0).reshape(2, 3, 2, 4, 6)
    tokens = patchify(latents, 2)
    assert tokens.shape == (2, 3 * 2 * 3, 2 * 2 * 2)
    # Time 1, row 1, column 2: channel by channel, row by row.
    assert torch.equal(tokens[1, 6 + 3 + 2], latents[1, 1, :, 2:4, 4:6].flatten())
    assert torch.equal(unpatchify(tokens, (3, 2, 3), 2), latents)


def test_boxes_of_frames():
    latents = torch.randn(2, 4, 3, 2, 6)
    tokens = patchify(latents, 2, 2)
    assert tokens.shape == (2, 2 * 1 * 3, 3 * 2 * 2 * 2)
    box = latents[1, 2:4, :, 0:2, 4:6]  # t c h w
    assert torch.equal(tokens[1, 3 + 2], box.transpose(0, 1).flatten())
    assert torch.equal(unpatchify(tokens, (2, 1, 3), 2, 2), latents)


def test_places():
    assert coordinates((2, 1, 2)).tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]
    assert torch.equal(coordinates((3, 30, 45), (13, 30, 45)), coordinates((3, 30, 45)))
    stretched = coordinates((1, 4, 4), (1, 8, 12))  # fits 8 rows and 8 columns of 12
    assert stretched[::4, 1].tolist() == [0, 2, 4, 6]
    assert float(stretched[0, 2]) == 2


def test_sines_are_those_of_time_then_columns_then_rows():
    places = torch.tensor([[3.0, 5.0, 7.0]])
    features = sincos(places, 32, 2.0)[0]
    first = [torch.tensor(v, dtype=torch.float64) for v in (3.0, 3.5, 2.5)]
    assert features[[0, 8, 20]].tolist() == [float(v.sin()) for v in first]
    assert features[[4, 14, 26]].tolist() == [float(v.cos()) for v in first]


# ---------------------------------------------------------------- configurations


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"positions": "learned"}, "positions: expected 'rope' or 'sincos', got 'learned'"),
        ({"attention": "sparse"}, "attention: expected 'full' or 'factorised', got 'sparse'"),
        ({"head_width": 24}, "head_width: expected a multiple of 16, got 24"),
        ({"latent": (13, 61, 90)}, "divide, got 13 x 61 x 90"),
    ],
)
def test_impossible_configs_are_refused(changes, said, untyped):
    with pytest.raises(ValueError, match=said):
        CogVideoXConfig(**changes)


def test_a_learned_table_fits_one_size():
    model = awake(replace(TINY, learned_positions=True, latent=(3, 4, 6)))
    x, t, text = inputs()
    model(x, t, text)
    for wrong in ((x[:, :2], t, text), (x, t, text[:, :4])):
        with pytest.raises(ValueError, match="positions: expected latents of"):
            model(*wrong)


def test_the_last_step_is_nothing_but_noise_in_every_preset():
    for config in COGVIDEOX_CONFIGS.values():
        table = config.alphas_cumprod
        assert float(table[-1]) == 0 and bool((table.diff() < 0).all())
    assert COGVIDEOX_CONFIGS["2B"].width == 1920 and COGVIDEOX_CONFIGS["5B"].width == 3072


def test_the_tiny_one_is_of_80_patches_and_some_two_million_numbers():
    config = COGVIDEOX_CONFIGS["tiny"]
    assert config.grid(*config.latent) == (5, 4, 4)
    assert sum(p.numel() for p in Transformer(config).parameters()) == 1_832_336
