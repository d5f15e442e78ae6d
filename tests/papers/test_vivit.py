"""ViViT: the published figures, four models against brute force, their start from an image model,
what is refused.
"""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_lib.papers import vivit
from course_lib.papers.vit import ViT, ViTConfig, embed_patches
from course_lib.papers.vivit import VIVIT_CONFIGS, ViViT, ViViTConfig

# Times, places, clips, heads and channels all differ, and so do the three sides of a tubelet.
# 3 times, 3 x 2 places, 4 heads
WIDE = ViViTConfig(1, 6, (9, 10), (2, 3, 5), 1, 20, 2, 4, 11, 7, 3)
# 5 times, 4 x 1 places, 2 heads
TALL = ViViTConfig(1, 20, (8, 6), (4, 2, 6), 3, 12, 3, 2, 10, 4, 1)
# 2 times of a single frame, 1 x 5 places, 6 heads
FLAT = ViViTConfig(1, 2, (4, 15), (1, 4, 3), 2, 24, 1, 6, 9, 3, 2)
CLIPS = {WIDE: 2, TALL: 3, FLAT: 4}

POOLED = [
    dict(model=1),
    dict(model=1, pool="average"),
    dict(model=2),
    dict(model=2, pool="average"),
    dict(model=2, temporal_depth=0),
    dict(model=2, temporal_depth=0, pool="average"),
    dict(model=3),
    dict(model=4),
]


def called(change):
    """An id for a change of a config."""
    return (
        ", ".join(f"{name} {value}" for name, value in change.items())
        if isinstance(change, dict)
        else None
    )


every_kind = pytest.mark.parametrize("kind", POOLED, ids=called)
every_size = pytest.mark.parametrize("size", CLIPS, ids=["wide", "tall", "flat"])


def random_weights(module: nn.Module) -> nn.Module:
    """In double precision, no weight zero, no two alike."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.normal_(std=0.4)
            if "norm" in name and name.endswith("weight"):
                p.add_(1)
    return module.double().eval()


def random_model(config: ViViTConfig, seed=0) -> ViViT:
    torch.manual_seed(seed)
    return random_weights(ViViT(config))


def random_clips(config: ViViTConfig, n: int, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (n, config.frames, config.channels, *config.size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def same(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


# ---------------------------------------------------------------- configurations


def test_the_grid_and_the_class_token():
    config = ViViTConfig()
    assert (config.size, config.grid) == ((224, 224), (16, 14, 14))
    assert (WIDE.size, WIDE.grid) == ((9, 10), (3, 3, 2))
    assert [ViViTConfig(model).has_token for model in (1, 2, 3, 4)] == [True, True, False, False]
    assert not ViViTConfig(2, pool="average").has_token


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(frames=31),
            r"tubelet: expected divisors of frames, height and width \(31, 224, 224\),"
            r" got \(2, 16, 16\)",
        ),
        (dict(image_size=(224, 230)), r"tubelet: expected divisors of .* \(32, 224, 230\)"),
        (dict(tubelet=(2, 16, 15)), r"tubelet: expected divisors of .* got \(2, 16, 15\)"),
        (dict(heads=7), "heads: expected a divisor of width 768, got 7"),
        (
            dict(model=4, width=771, heads=3),
            "heads: expected an even number for Model 4, got 3",
        ),
        (dict(model=5), "model: expected 1, 2, 3 or 4, got 5"),
        (dict(pool="mean"), "pool: expected one of token, average, got 'mean'"),
        (dict(gelu="relu"), "gelu: expected one of tanh, exact, got 'relu'"),
    ],
    ids=called,
)
def test_a_config_that_cannot_be_built_is_refused(change, message, untyped):
    with pytest.raises(ValueError, match=message):
        ViViTConfig(**change)


def test_odd_heads_are_for_models_that_do_not_halve_them():
    for model in (1, 2, 3):
        assert ViViTConfig(model, width=771, heads=3).heads == 3


@every_kind
def test_a_clip_of_another_size_is_refused(kind):
    model = ViViT(replace(WIDE, **kind))
    with pytest.raises(
        ValueError, match=r"expected clips \(t c h w\) of \(6, 1, 9, 10\), got \(6, 1, 10, 9\)"
    ):
        model(torch.zeros(2, 6, 1, 10, 9))
    with pytest.raises(ValueError, match=r"got \(4, 1, 9, 10\)"):
        model(torch.zeros(2, 4, 1, 9, 10))


# ---------------------------------------------------------------- size and cost


PARAMETERS = {
    "ViViT-B/16x2": 88_954_000,
    "ViViT-B/16x2 FE": 115_062_928,
    "ViViT-B/16x2 FSA": 117_319_312,
    "ViViT-B/16x2 FDP": 88_952_464,
}
GMACS = {
    "ViViT-B/16x2": 455.2,
    "ViViT-B/16x2 FE": 284.4,
    "ViViT-B/16x2 FSA": 372.3,
    "ViViT-B/16x2 FDP": 277.1,
}


def parameters(config: ViViTConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in ViViT(config).parameters())


@pytest.mark.parametrize("name", VIVIT_CONFIGS)
def test_the_closed_form_counts_the_parameters_of_every_preset(name):
    config = VIVIT_CONFIGS[name]
    assert (
        vivit.count_parameters(config)
        == parameters(config)
        == PARAMETERS.get(name, parameters(config))
    )


def test_the_average_pooling_baseline_of_table_2():
    assert vivit.count_parameters(ViViTConfig(2, temporal_depth=0)) == 86_696_080
    assert parameters(ViViTConfig(2, temporal_depth=0)) == 86_696_080


@every_size
@every_kind
def test_the_closed_form_counts_the_parameters_of_small_models(kind, size):
    config = replace(size, **kind)
    assert vivit.count_parameters(config) == parameters(config)


@pytest.mark.parametrize("name", GMACS)
def test_multiply_adds_are_within_a_hundredth_of_table_2(name):
    assert vivit.count_macs(VIVIT_CONFIGS[name]) / 1e9 == pytest.approx(GMACS[name], rel=0.01)


@pytest.mark.parametrize(("side", "published"), [(224, 1446), (288, 2919), (320, 3992)])
def test_multiply_adds_of_the_large_model_at_three_sizes(side, published):
    config = ViViTConfig(1, image_size=side, width=1024, depth=24, heads=16, mlp=4096)
    assert vivit.count_macs(config) / 1e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(("frames", "published"), [(32, 995.3), (128, 3980.4)])
def test_multiply_adds_of_the_large_factorised_encoder(frames, published):
    config = replace(VIVIT_CONFIGS["ViViT-L/16x2 FE"], frames=frames)
    assert vivit.count_macs(config) / 1e9 == pytest.approx(published, rel=0.01)


@every_size
@every_kind
def test_multiply_adds_are_those_that_torch_counts(kind, size):
    config, n = replace(size, **kind), CLIPS[size]
    model, video = random_model(config), random_clips(config, n)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(video)
    assert counter.get_total_flops() == 2 * n * vivit.count_macs(config)


# ---------------------------------------------------------------- the models against brute force


def norm(layer, x):
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight
        + layer.bias
    )


def gelu(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def masked_attention(layer, x, seen):
    """Every token asks every token, and takes from those that are seen: (m m), or (heads m m)."""
    heads, d = layer.heads, x.shape[-1] // layer.heads
    q, k, v = (x @ layer.qkv.weight.T + layer.qkv.bias).chunk(3, dim=-1)
    outputs = []
    for h, allowed in enumerate(seen.expand(heads, *seen.shape[-2:])):
        one = slice(h * d, (h + 1) * d)
        scores = torch.einsum("bid,bjd->bij", q[..., one], k[..., one]) / math.sqrt(d)
        weights = torch.where(allowed, scores.exp(), 0.0)
        outputs.append(weights / weights.sum(-1, keepdim=True) @ v[..., one])
    return torch.cat(outputs, dim=-1) @ layer.out.weight.T + layer.out.bias


def masked_blocks(encoder, x, *seen):
    """The layers on one sequence; a second mask is that of Model 3's attention over time."""
    for block in encoder.blocks:
        x = x + masked_attention(block.attention, norm(block.norm1, x), seen[0])
        if len(seen) == 2:
            x = x + masked_attention(block.attention_time, norm(block.norm_time, x), seen[1])
        hidden = gelu(norm(block.norm2, x) @ block.mlp[0].weight.T + block.mlp[0].bias)
        x = x + hidden @ block.mlp[3].weight.T + block.mlp[3].bias
    return norm(encoder.norm, x)


def equal(of):
    return of[:, None] == of


def with_token(encoder, x):
    token = [encoder.cls_token.expand(len(x), -1, -1)] if encoder.cls_token is not None else []
    return torch.cat([*token, x], dim=1) + encoder.positions


def brute_force(model: ViViT, video):
    """One sequence of all tokens of the clip, class tokens included; masks say what the model may
    see.
    """
    config = model.config
    t, rows, columns = config.grid
    n, b, token = rows * columns, len(video), int(config.has_token)
    embed = model.tubelet_embed
    # b t*n d
    x = F.conv3d(video.transpose(1, 2), embed.weight, embed.bias, embed.stride).flatten(2).mT
    if config.model == 2:
        spatial, temporal = model.encoder.spatial, model.encoder.temporal
        sequences = [with_token(spatial, tokens) for tokens in x.split(n, dim=1)]
        time = torch.arange(t).repeat_interleave(token + n)
        y = masked_blocks(spatial, torch.cat(sequences, dim=1), equal(time)).unflatten(
            1, (t, token + n)
        )
        x = y[:, :, 0] if token else y.mean(2)
        if temporal is None:
            return model.head(x.mean(1))
        x = with_token(temporal, x)
        y = masked_blocks(temporal, x, torch.ones(2 * x.shape[1:2], dtype=torch.bool))
        return model.head(y[:, 0] if token else y.mean(1))
    x = with_token(model.encoder, x)
    everything = torch.ones(2 * x.shape[1:2], dtype=torch.bool)
    time, place = torch.arange(t).repeat_interleave(n), torch.arange(n).repeat(t)
    half = config.heads // 2
    seen = {
        1: lambda: [everything],
        3: lambda: [equal(time), equal(place)],
        4: lambda: [torch.stack([equal(time)] * half + [equal(place)] * half)],
    }
    y = masked_blocks(model.encoder, x, *seen[config.model]())
    assert y.shape == (b, t * n + token, config.width)
    return model.head(y[:, 0] if token else y.mean(1))


@every_size
@every_kind
def test_every_model_is_full_attention_under_its_mask_in_values_and_gradients(kind, size):
    config = replace(size, **kind)
    model, video = random_model(config), random_clips(config, CLIPS[size]).requires_grad_()
    got, expected = model(video), brute_force(model, video)
    assert got.shape == (CLIPS[size], config.num_classes)
    same(got, expected)
    cotangent, weights = torch.randn_like(got), [video, *model.parameters()]
    got, expected = (torch.autograd.grad(y, weights, cotangent) for y in (got, expected))
    for name, a, b in zip(["video", *dict(model.named_parameters())], got, expected, strict=True):
        assert b.any() or name.endswith("qkv.bias"), name
        same(a, b)


def test_the_exact_gelu_and_another_epsilon_change_the_output():
    config = replace(WIDE, model=3)
    model = random_model(config)
    for change in (dict(gelu="exact"), dict(norm_eps=0.1)):
        other = ViViT(replace(config, **change)).double()
        other.load_state_dict(model.state_dict())
        assert (other(random_clips(config, 1)) - model(random_clips(config, 1))).abs().max() > 1e-5


# ---------------------------------------------------------------- what all models have in common


@every_kind
def test_a_fresh_model_scores_zero_but_has_features(kind):
    model = ViViT(replace(WIDE, **kind))
    video = random_clips(WIDE, 3).float()
    assert torch.equal(model(video), torch.zeros(3, 7))
    assert model.features(video).shape == (3, 20) and model.features(video).std() > 0.1


def test_a_fresh_embedding_keeps_the_variance_of_pixels():
    torch.manual_seed(0)
    model = ViViT(VIVIT_CONFIGS["tiny"])
    tokens = model.tubelet_embed(torch.randn(8, 16, 3, 32, 32))
    assert float(tokens.detach().std()) == pytest.approx(1, rel=0.05)
    assert not model.tubelet_embed.bias.any()


def test_fresh_positions_are_small_and_the_fresh_token_is_zero():
    torch.manual_seed(0)
    encoder = ViViT(VIVIT_CONFIGS["tiny"]).encoder
    assert encoder.positions.shape == (1, 129, 64) and not encoder.cls_token.any()
    assert float(encoder.positions.detach().std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_an_mlp_of_ratio_3_starts_within_its_glorot_bound(kind):
    torch.manual_seed(0)
    model = ViViT(replace(WIDE, model=kind, width=96, heads=4, mlp=3 * 96))
    bound = math.sqrt(6 / (96 + 3 * 96))
    blocks = [module for module in model.modules() if isinstance(module, vivit.Block)]
    assert len(blocks) >= WIDE.depth
    for block in blocks:
        assert 0.99 * bound < float(block.mlp[0].weight.detach().abs().max()) <= bound
        assert float(block.attention.qkv.weight.detach().abs().max()) > 1.4 * bound
        if kind == 3:
            assert float(block.attention_time.qkv.weight.detach().abs().max()) > 1.4 * bound


@every_kind
def test_a_clip_does_not_see_its_neighbours(kind):
    config = replace(WIDE, **kind)
    model, video = random_model(config), random_clips(config, 4)
    same(model(video), torch.cat([model(video[i : i + 1]) for i in range(4)]))


@every_kind
def test_the_order_of_tubelets_matters_except_to_the_average_over_time(kind):
    config = replace(WIDE, **kind)
    model, video = random_model(config), random_clips(config, 2)
    shuffled = video.unflatten(1, (3, 2))[:, [2, 0, 1]].flatten(1, 2)
    moved = (model(video) - model(shuffled)).abs().max()
    assert moved < 1e-12 if kind.get("temporal_depth") == 0 else moved > 1e-3


def test_same_seed_same_model_and_weights_survive_a_round_trip():
    def fresh(seed):
        torch.manual_seed(seed)
        return ViViT(replace(WIDE, model=3))

    video = random_clips(WIDE, 2).float()
    first, again, other = fresh(5), fresh(5), fresh(6)
    assert torch.equal(first.features(video), again.features(video))
    assert not torch.equal(first.features(video), other.features(video))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.features(video), other.features(video))


@every_kind
def test_stochastic_depth_grows_with_the_layer_and_acts_only_in_training(kind):
    config = replace(WIDE, depth=3, stochastic_depth=0.4, **kind)
    model, plain = random_model(config), random_model(replace(config, stochastic_depth=0.0))
    encoder = model.encoder.spatial if config.model == 2 else model.encoder
    assert [block.drop.rate for block in encoder.blocks] == pytest.approx([0, 0.2, 0.4])
    video = random_clips(config, 2)
    same(model(video), plain(video))
    model.train(), plain.train()
    assert not torch.equal(model(video), model(video))
    same(plain(video), plain(video))


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_stochastic_depth_drops_each_branch_of_a_layer_independently(kind):
    """Of Model 3, all eight ways to drop some of three branches; of the others, all four of two."""
    torch.manual_seed(0)
    config = replace(WIDE, model=kind)
    block = random_weights(type(vivit.ViViT(config).encoder.blocks[0])(config, 0.5)).train()
    x = torch.randn(1, 18, 20, dtype=torch.float64)
    with torch.no_grad():
        ways = {round(float(block(x).sum()), 6) for _ in range(100)}
    assert len(ways) == (8 if kind == 3 else 4)
    assert round(float(x.sum()), 6) in ways


# ---------------------------------------------------------------- tokens from a clip


def test_uniform_frames_follow_the_rule_at_every_length():
    for frames in range(1, 41):
        video = torch.arange(frames)[None, :, None, None, None].float()
        for count in range(1, 45):
            rule = [round(Fraction(i * frames, count + 1)) for i in range(1, count + 1)]
            expected = rule if count < frames else list(range(frames))
            assert vivit.uniform_frames(video, count).flatten().tolist() == expected


def test_uniform_frames_stay_away_from_both_ends_and_keep_clips_apart():
    video = torch.randn(2, 250, 1, 2, 3)
    picked = vivit.uniform_frames(video, 4)
    assert torch.equal(picked, video[:, [50, 100, 150, 200]])
    assert vivit.uniform_frames(video, 250) is video and vivit.uniform_frames(video, 999) is video


@pytest.mark.parametrize("count", [0, -3])
def test_no_frames_are_refused(count):
    with pytest.raises(ValueError, match=f"count: expected at least 1, got {count}"):
        vivit.uniform_frames(torch.zeros(1, 4, 1, 2, 2), count)


@every_size
def test_tubelets_are_a_convolution_in_values_and_gradients(size):
    embed, video = (
        random_weights(vivit.TubeletEmbed(size)),
        random_clips(size, CLIPS[size]).requires_grad_(),
    )
    got = embed(video)
    expected = nn.Conv3d.forward(embed, video.transpose(1, 2)).flatten(3).permute(0, 2, 3, 1)
    assert got.shape == (CLIPS[size], size.grid[0], size.grid[1] * size.grid[2], size.width)
    same(got, expected)
    inputs, cotangent = [video, embed.weight, embed.bias], torch.randn_like(got)
    for a, b in zip(
        *(torch.autograd.grad(y, inputs, cotangent) for y in (got, expected)), strict=True
    ):
        same(a, b)


def test_a_tubelet_of_one_frame_is_a_patch():
    video, kernel, bias = torch.randn(2, 3, 4, 6, 9), torch.randn(5, 4, 3, 3), torch.randn(5)
    got = vivit.tubelet_embed(video, kernel[:, :, None], bias)
    torch.testing.assert_close(got[:, 1], embed_patches(video[:, 1], kernel, bias))


@pytest.mark.parametrize("shape", [(5, 1, 9, 10), (6, 1, 10, 10), (6, 1, 9, 9)])
def test_a_tubelet_that_does_not_fit_is_refused(shape):
    clip = rf"\({shape[0]}, {shape[2]}, {shape[3]}\)"
    message = rf"tubelet: expected divisors of .* {clip}, got \(2, 3, 5\)"
    with pytest.raises(ValueError, match=message):
        vivit.tubelet_embed(torch.zeros(1, *shape), torch.zeros(4, 1, 2, 3, 5), torch.zeros(4))


# ---------------------------------------------------------------- the models' equations


def sequence_of(seed):
    """A function of (... m d) in which every place of the sequence counts differently, and another
    one per seed.
    """
    weights = torch.randn(9, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def mix(x):
        m = x.shape[-2]
        return torch.tanh(torch.einsum("ij,...jd->...id", weights[:m, :m], x))

    return mix


def test_the_factorised_encoder_reads_each_time_and_then_all_of_them():
    mix, other = sequence_of(0), sequence_of(1)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    got = vivit.factorised_encoder(x, lambda h: mix(h)[:, 1], lambda h: other(h)[:, 2])
    for clip, y in zip(x, got, strict=True):
        frames = torch.stack([mix(tokens)[1] for tokens in clip])
        same(y, other(frames)[2])


def test_factorised_self_attention_is_space_then_time_then_mlp_around_the_identity():
    space, time = sequence_of(0), sequence_of(1)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = x.clone()
    for b in range(2):
        expected[b] += torch.stack([space(expected[b, t]) for t in range(3)])
    for b in range(2):
        expected[b] += torch.stack([time(expected[b, :, n]) for n in range(4)], dim=1)
    same(vivit.factorised_self_attention(x, space, time, torch.sin), expected + expected.sin())


def test_three_silent_branches_leave_the_tokens_as_they_are():
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(vivit.factorised_self_attention(x, *[torch.zeros_like] * 3), x)


@pytest.mark.parametrize(
    ("b", "t", "n", "heads", "d"), [(2, 3, 5, 4, 2), (3, 4, 2, 6, 1), (1, 2, 7, 2, 5)]
)
def test_factorised_dot_product_is_two_kinds_of_attention_side_by_side(b, t, n, heads, d):
    qkv = torch.randn(b, t, n, 3 * heads * d, dtype=torch.float64)
    got = vivit.factorised_dot_product(qkv, heads).unflatten(-1, (heads, d))
    q, k, v = qkv.unflatten(-1, (3, heads, d)).unbind(3)  # b t n heads d
    for head in range(heads):
        for time in range(t):
            for place in range(n):
                at = (slice(None), time) if head < heads // 2 else (slice(None), slice(None), place)
                keys, values = k[at][:, :, head], v[at][:, :, head]  # b m d
                scores = torch.einsum("bd,bmd->bm", q[:, time, place, head], keys) / math.sqrt(d)
                same(
                    got[:, time, place, head],
                    torch.einsum("bm,bmd->bd", scores.softmax(-1), values),
                )


# ---------------------------------------------------------------- starting from an image model


@pytest.mark.parametrize("t", [1, 2, 3, 4, 7])
def test_inflated_filters_add_up_to_the_image_filter(t):
    kernel = torch.randn(5, 3, 2, 4)
    inflated, central = vivit.filter_inflation_init(kernel, t), vivit.central_frame_init(kernel, t)
    assert inflated.shape == central.shape == (5, 3, t, 2, 4)
    for frame in range(t):
        assert torch.equal(inflated[:, :, frame], kernel / t)
        assert torch.equal(
            central[:, :, frame], kernel if frame == t // 2 else torch.zeros_like(kernel)
        )
    torch.testing.assert_close(inflated.sum(2), kernel)
    torch.testing.assert_close(central.sum(2), kernel)


def test_the_middle_of_two_frames_is_the_second_and_of_four_the_third():
    kernel = torch.ones(1, 1, 1, 1)
    assert vivit.central_frame_init(kernel, 2).flatten().tolist() == [0, 1]
    assert vivit.central_frame_init(kernel, 4).flatten().tolist() == [0, 0, 1, 0]


# 3 times of 4 frames, 3 x 2 places
VIDEO = ViViTConfig(1, 12, (9, 6), (4, 3, 3), 2, 20, 2, 4, 11, 7, 2)
IMAGE = ViTConfig((9, 6), 3, 2, 20, 2, 4, 11, 5)
AVERAGE = replace(IMAGE, pool="average")


def started(kind, image_config=IMAGE, inflate=vivit.central_frame_init, **change):
    """A model of this kind that begins as an image model, and that image model."""
    model, image_model = (
        random_model(replace(VIDEO, **kind, **change)),
        random_weights(ViT(image_config)),
    )
    vivit.start_from_image_model(model, image_model, inflate)
    return model, image_model


def middle_frames(video):
    return video.unflatten(1, (-1, 4))[:, :, 2]  # b t c h w


def still_clips(n=2):
    return random_clips(VIDEO, n)[:, :1].expand(-1, 12, -1, -1, -1)


def without_token(image_model, images):
    """Average what the image model makes of only its patches: (b c h w) to (b d)."""
    x = image_model.patch_embed(images) + image_model.positions.table[:, -6:]
    for block in image_model.blocks:
        x = block(x)
    return image_model.norm(x).mean(1)


def test_tokens_are_those_of_the_middle_frames():
    model, image_model = started(dict(model=1))
    video = random_clips(VIDEO, 2)
    tokens, middle = model.tubelet_embed(video), middle_frames(video)
    for t in range(3):
        same(tokens[:, t], image_model.patch_embed(middle[:, t]))


def test_tokens_of_inflated_filters_are_those_of_the_mean_frames():
    model, image_model = started(dict(model=1), inflate=vivit.filter_inflation_init)
    video = random_clips(VIDEO, 2)
    same(model.tubelet_embed(video)[:, 1], image_model.patch_embed(video[:, 4:8].mean(1)))


@pytest.mark.parametrize("image_config", [IMAGE, AVERAGE], ids=["token", "average"])
def test_model_2_begins_with_the_image_models_features_of_middle_frames(image_config):
    model, image_model = started(dict(model=2), image_config, pool=image_config.pool)
    video = random_clips(VIDEO, 2)
    said = []
    model.encoder.spatial.register_forward_hook(lambda module, args, out: said.append(out))
    model(video)
    expected = torch.stack(
        [image_model.features(frame) for frame in middle_frames(video).unbind(1)], dim=1
    )
    same(said[0].unflatten(0, (2, 3)), expected)


def test_the_average_pooling_baseline_begins_as_the_image_model_averaged_over_time():
    model, image_model = started(dict(model=2, temporal_depth=0))
    video = random_clips(VIDEO, 2)
    frames = middle_frames(video)
    same(model.features(video), sum(image_model.features(frames[:, t]) for t in range(3)) / 3)


@pytest.mark.parametrize("image_config", [IMAGE, AVERAGE], ids=["token", "average"])
def test_model_3_begins_as_the_image_model_without_a_token_averaged_over_time(image_config):
    model, image_model = started(dict(model=3), image_config)
    video = random_clips(VIDEO, 2)
    frames = middle_frames(video)
    same(model.features(video), sum(without_token(image_model, frames[:, t]) for t in range(3)) / 3)
    if image_config is AVERAGE:
        same(without_token(image_model, frames[:, 0]), image_model.features(frames[:, 0]))


@pytest.mark.parametrize("inflate", [vivit.central_frame_init, vivit.filter_inflation_init])
@pytest.mark.parametrize("kind", [dict(model=1, pool="average"), dict(model=3)], ids=called)
def test_on_a_still_clip_models_1_and_3_begin_as_the_image_model(kind, inflate):
    """t copies of every key change nothing in a softmax that already looks everywhere."""
    model, image_model = started(kind, AVERAGE, inflate)
    video = still_clips()
    same(model.features(video), image_model.features(video[:, 0]))


@pytest.mark.parametrize("inflate", [vivit.central_frame_init, vivit.filter_inflation_init])
def test_on_a_still_clip_the_length_does_not_matter_to_model_4(inflate):
    """Its heads over time find the same value at every time; at one time they find only that."""
    model, image_model = started(dict(model=4), AVERAGE, inflate)
    short = random_model(replace(VIDEO, model=4, frames=4), seed=9)
    vivit.start_from_image_model(short, image_model, inflate)
    video = still_clips()
    same(model.features(video), short.features(video[:, :4]))
    assert (model.features(video) - image_model.features(video[:, 0])).abs().max() > 1e-3


@pytest.mark.parametrize("pool", ["token", "average"])
def test_model_1_on_a_single_tubelet_begins_as_the_image_model(pool):
    model, image_model = started(dict(model=1), replace(IMAGE, pool=pool), pool=pool, frames=4)
    video = random_clips(model.config, 2)
    same(model.features(video), image_model.features(video[:, 2]))


@every_kind
def test_positions_are_those_of_the_image_at_every_time_and_the_token_keeps_its_own(kind):
    model, image_model = started(kind)
    encoder = model.encoder.spatial if model.config.model == 2 else model.encoder
    token = int(model.config.has_token)
    table = image_model.positions.table
    for places in encoder.positions[:, token:].split(6, dim=1):
        assert torch.equal(places, table[:, 1:])
    if token:
        assert torch.equal(encoder.positions[:, :1], table[:, :1])
        assert torch.equal(encoder.cls_token, image_model.cls_token)


@every_kind
def test_the_head_and_the_second_encoder_stay_fresh_and_all_else_is_the_image_models(kind):
    torch.manual_seed(3)
    model, image_model = random_model(replace(VIDEO, **kind)), random_weights(ViT(IMAGE))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    vivit.start_from_image_model(model, image_model)
    after = model.state_dict()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {name for name in before if name.startswith(("head.", "encoder.temporal."))}
    assert all(p.requires_grad for p in model.parameters())


def test_model_3_begins_with_a_silent_copy_of_its_attention_over_time():
    model, image_model = started(dict(model=3))
    for block, source in zip(model.encoder.blocks, image_model.blocks, strict=True):
        for name in ("weight", "bias"):
            assert torch.equal(
                getattr(block.attention_time.qkv, name), getattr(source.attention.qkv, name)
            )
            assert torch.equal(getattr(block.norm_time, name), getattr(source.norm1, name))
            assert not getattr(block.attention_time.out, name).any()
            assert torch.equal(
                getattr(block.attention.out, name), getattr(source.attention.out, name)
            )


def over_time(model):
    """The weights of the attentions over time, by name."""
    return {name: p for name, p in model.named_parameters() if "attention_time" in name}


def gradients(model, video):
    model.zero_grad()
    model(video).square().sum().backward()
    return {name: float(p.grad.abs().max()) for name, p in over_time(model).items()}


def train(model, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        gradients(model, random_clips(VIDEO, 2, seed=step))
        optimizer.step()


def test_with_all_temporal_weights_at_zero_model_3_never_learns_to_look_over_time():
    """Section 3.4 to the letter: the output does not depend on the weights before it, nor they on
    the output.
    """
    model, _ = started(dict(model=3))
    for p in over_time(model).values():
        nn.init.zeros_(p)
    for steps in (0, 5):
        train(model, steps)
        found = gradients(model, random_clips(VIDEO, 2))
        assert {name for name, g in found.items() if g} == {
            name for name in found if name.endswith("out.bias")
        }
    assert {name for name, p in over_time(model).items() if p.any()} == {
        n for n in found if n.endswith("out.bias")
    }


def test_with_only_the_output_at_zero_model_3_learns_to_look_over_time():
    model, _ = started(dict(model=3))
    found = gradients(model, random_clips(VIDEO, 2))
    assert {name for name, g in found.items() if g} == {name for name in found if ".out." in name}
    train(model, 1)
    assert all(gradients(model, random_clips(VIDEO, 2)).values())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (dict(width=24), {}),
        (dict(depth=3), {}),
        (dict(heads=2), {}),
        (dict(mlp=12), {}),
        (dict(image_size=(9, 9)), {}),
        (dict(tubelet=(4, 9, 6)), {}),
        (dict(tubelet=(4, 3, 2)), {}),
        (dict(channels=1), {}),
        (dict(channels=3), dict(channels=1)),
        ({}, dict(positions="2d")),
        ({}, dict(positions="none")),
        ({}, dict(pool="average")),
        (
            dict(image_size=32, tubelet=(4, 16, 16)),
            dict(image_size=32, patch_size=16, resnet=(1, 1, 1)),
        ),
    ],
    ids=str,
)
def test_an_image_model_that_does_not_fit_is_refused_and_changes_nothing(ours, theirs):
    model, image_model = ViViT(replace(VIDEO, **ours)), ViT(replace(IMAGE, **theirs))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"expected .*, got "):
        vivit.start_from_image_model(model, image_model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
@pytest.mark.parametrize("layer", ["attention.qkv", "norm2", "mlp.3"])
def test_an_image_model_without_one_of_our_weights_is_refused(kind, layer):
    model, image_model = ViViT(replace(VIDEO, model=kind)), ViT(IMAGE)
    image_model.blocks[1].get_submodule(layer).bias = None
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: ".*bias"'):
        vivit.start_from_image_model(model, image_model)


# ---------------------------------------------------------------- many views


def recorder(seen):
    """A model that notes the clips it is shown and says something of each."""

    def model(clip):
        seen.append(clip)
        ramp = torch.linspace(-1, 1, clip[0].numel()).reshape(clip.shape[1:])
        return torch.stack(
            [(clip * ramp).flatten(1).sum(1), clip.flatten(1).square().sum(1)], dim=1
        )

    return model


@pytest.mark.parametrize(
    "shape", [(2, 11, 3, 6, 13), (3, 9, 1, 12, 5), (2, 7, 2, 8, 8)], ids=["wide", "tall", "square"]
)
@pytest.mark.parametrize(("views", "crops"), [(4, 3), (1, 1), (2, 5), (3, 1), (1, 2)])
def test_many_views_are_a_double_loop_over_windows_and_squares(shape, views, crops):
    video, seen = torch.randn(shape), []
    t, h, w = shape[1], shape[3], shape[4]
    frames, size = 4, 5
    got = vivit.multi_view(recorder(seen), video, frames, size, views, crops)
    assert len(seen) == views * crops and {clip.shape[1:] for clip in seen} == {
        (frames, shape[2], size, size)
    }
    total = torch.zeros(shape[0], 2)
    for i in range(views):
        start = i * (t - frames) // (views - 1) if views > 1 else (t - frames) // 2
        for j in range(crops):
            slack = max(h, w) - size
            along = j * slack // (crops - 1) if crops > 1 else slack // 2
            top, left = (along, (w - size) // 2) if h > w else ((h - size) // 2, along)
            clip = video[:, start : start + frames, :, top : top + size, left : left + size]
            assert torch.equal(clip, seen[i * crops + j])
            total += recorder([])(clip)
    torch.testing.assert_close(got, total / (views * crops))


def test_the_papers_views_are_four_by_three_and_reach_both_ends():
    video, seen = torch.arange(10.0)[None, :, None, None, None] + torch.zeros(1, 10, 1, 4, 9), []
    vivit.multi_view(recorder(seen), video, frames=4, size=4)
    assert [float(clip[0, 0, 0, 0, 0]) for clip in seen] == [0] * 3 + [2] * 3 + [4] * 3 + [6] * 3


def test_a_single_view_of_a_clip_that_fits_is_the_model_itself():
    model, video = (
        random_model(replace(VIDEO, image_size=(9, 9))),
        torch.randn(2, 12, 2, 9, 9, dtype=torch.float64),
    )
    same(vivit.multi_view(model, video, 12, 9, views=1, crops=1), model(video))
    same(vivit.multi_view(model, video, 12, 9), model(video))


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (6, 1, 4, 8), (6, 1, 8, 4)])
def test_a_clip_too_short_or_too_small_for_a_view_is_refused(shape):
    t, _, h, w = shape
    with pytest.raises(
        ValueError, match=f"expected at least 4 frames of 5 x 5 pixels, got {t} of {h} x {w}"
    ):
        vivit.multi_view(recorder([]), torch.zeros(2, *shape), frames=4, size=5)
