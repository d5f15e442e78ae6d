"""ViT: the published sizes, the model against its equations, equations against loops, and what is
refused.
"""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_lib.papers import vit
from course_lib.papers.vit import VIT_CONFIGS, ViT, ViTConfig

SMALL = ViTConfig(
    image_size=(8, 12), patch_size=4, channels=2, width=12, depth=3, heads=3, mlp=20, num_classes=7
)
VARIANTS = {
    "as it is": SMALL,
    "average pooling": replace(SMALL, pool="average"),
    "2-D positions": replace(SMALL, positions="2d"),
    "2-D positions, average pooling": replace(SMALL, positions="2d", pool="average"),
    "no positions": replace(SMALL, positions="none"),
    "representation layer": replace(SMALL, representation=9),
    "a square": replace(SMALL, image_size=8),
    "one patch": replace(SMALL, image_size=4, depth=1),
}
WITH_TOKEN = {name: config for name, config in VARIANTS.items() if config.has_token}
PARAMETERS = {  # with 1000 classes at 224 pixels: torchvision, timm, DeiT
    "ViT-Ti/16": 5_717_416,
    "ViT-S/16": 22_050_664,
    "ViT-B/32": 88_224_232,
    "ViT-B/16": 86_567_656,
    "ViT-L/32": 306_535_400,
    "ViT-L/16": 304_326_632,
    "ViT-H/14": 632_045_800,
    "R50+ViT-B/16": 98_659_112,
}


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def awake(config, seed=0):
    """Return a model with random parameters: none of them is zero or one, as in a fresh one."""
    torch.manual_seed(seed)
    model = ViT(config)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


def images(config, n=3):
    return rand(n, config.channels, *config.size)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(("name", "published"), PARAMETERS.items())
def test_a_preset_has_the_published_number_of_parameters(name, published):
    with torch.device("meta"):
        model = ViT(VIT_CONFIGS[name])
    assert sum(p.numel() for p in model.parameters()) == published


@pytest.mark.parametrize(
    "name", [name for name, config in VIT_CONFIGS.items() if not config.resnet]
)
def test_the_closed_form_counts_every_preset(name):
    with torch.device("meta"):
        model = ViT(VIT_CONFIGS[name])
    assert vit.count_parameters(VIT_CONFIGS[name]) == sum(p.numel() for p in model.parameters())


def test_table_1():
    found = {name: (c.depth, c.width, c.mlp, c.heads) for name, c in VIT_CONFIGS.items()}
    assert found["ViT-B/16"] == found["ViT-B/32"] == found["R50+ViT-B/16"] == (12, 768, 3072, 12)
    assert found["ViT-L/16"] == found["ViT-L/32"] == (24, 1024, 4096, 16)
    assert found["ViT-H/14"] == (32, 1280, 5120, 16)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_closed_form_counts_every_parameter(config):
    assert vit.count_parameters(config) == sum(p.numel() for p in ViT(config).parameters())


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_closed_form_counts_every_multiply_add(config):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        ViT(config)(images(config, 1))
    # the last layer does not compute these
    unread = config.tokens - 1 if config.pool == "token" else 0
    spared = unread * config.width * (2 * config.tokens + config.width + 2 * config.mlp)
    assert counter.get_total_flops() == 2 * (vit.count_macs(config) - spared)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("ViT-B/16", 17.56), ("ViT-B/32", 4.41), ("ViT-L/16", 61.55), ("ViT-L/32", 15.38)],
)
def test_a_preset_costs_what_torchvision_says(name, billions):
    assert vit.count_macs(VIT_CONFIGS[name]) / 1e9 == pytest.approx(billions, abs=0.006)


def test_a_hybrid_has_no_closed_form():
    hybrid = r"resnet: expected None in a closed form, got \(3, 4, 9\)"
    with pytest.raises(ValueError, match=hybrid):
        vit.count_parameters(VIT_CONFIGS["R50+ViT-B/16"])
    with pytest.raises(ValueError, match=hybrid):
        vit.count_macs(VIT_CONFIGS["R50+ViT-B/16"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 5}, r"patch_size: expected a divisor of both sides of \(8, 12\), got 5"),
        ({"patch_size": 8}, r"patch_size: expected a divisor of both sides of \(8, 12\), got 8"),
        ({"resnet": (1, 1)}, "patch_size: expected a multiple of the ResNet's stride 8, got 4"),
        ({"heads": 5}, "heads: expected a divisor of width 12, got 5"),
        (
            {"positions": "2d", "width": 9},
            "width: expected an even one for 2-D positions, got 9",
        ),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "3d"}, "positions: expected one of 1d, 2d, none, got '3d'"),
        ({"pool": "mean"}, "pool: expected one of token, average, got 'mean'"),
        ({"gelu": "relu"}, "gelu: expected one of tanh, exact, got 'relu'"),
    ],
)
def test_an_unknown_choice_is_refused(change, message, untyped):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_the_grid_has_rows_then_columns_and_the_class_token_counts():
    assert (SMALL.size, SMALL.grid, SMALL.tokens) == ((8, 12), (2, 3), 7)
    assert replace(SMALL, pool="average").tokens == 6
    assert (ViTConfig().size, ViTConfig().grid, ViTConfig().tokens) == ((224, 224), (14, 14), 197)


# ---------------------------------------------------------------- the model


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_a_fresh_model_scores_every_class_the_same(config):
    model = ViT(config)
    assert torch.equal(model(images(config)), torch.zeros(3, 7))
    assert model.features(images(config)).abs().max() > 0.1


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"expected images of \(8, 12\) pixels, got \(12, 8\)"):
        ViT(SMALL)(rand(2, 2, 12, 8))


def test_queries_keys_and_values_start_as_three_layers():
    torch.manual_seed(0)
    model = ViT(replace(SMALL, width=96))
    attention, mlp = model.blocks[0].attention, model.blocks[0].mlp
    for weight, bound in [
        (attention.qkv.weight, math.sqrt(6 / (96 + 96))),
        (attention.out.weight, math.sqrt(6 / (96 + 96))),
        (mlp[0].weight, math.sqrt(6 / (96 + 20))),
    ]:
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound
    assert not any(bias.any() for name, bias in model.named_parameters() if name.endswith("bias"))
    assert not model.cls_token.any()


def test_an_mlp_of_ratio_3_starts_within_its_glorot_bound():
    """Its first layer has the shape of the layer of queries, keys and values, but is one layer."""
    torch.manual_seed(0)
    model = ViT(replace(SMALL, width=96, mlp=3 * 96))
    bound = math.sqrt(6 / (96 + 3 * 96))
    for block in model.blocks:
        assert 0.99 * bound < float(block.mlp[0].weight.detach().abs().max()) <= bound
        assert float(block.attention.qkv.weight.detach().abs().max()) > 1.4 * bound


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_model_is_its_equations(config):
    """Eq. 1 to 4 written out once more, with a convolution for E and torch's own attention."""
    model, image = awake(config), images(config)
    x = (
        F.conv2d(image, model.patch_embed.weight, model.patch_embed.bias, stride=4)
        .flatten(2)
        .transpose(1, 2)
    )
    if config.pool == "token":
        x = torch.cat([model.cls_token.repeat(3, 1, 1), x], dim=1)
    x = x + (model.positions() if model.positions else 0)
    for block in model.blocks:
        peer = nn.MultiheadAttention(12, 3, batch_first=True)
        peer.load_state_dict(
            {
                "in_proj_weight": block.attention.qkv.weight,
                "in_proj_bias": block.attention.qkv.bias,
                "out_proj.weight": block.attention.out.weight,
                "out_proj.bias": block.attention.out.bias,
            }
        )
        h = F.layer_norm(x, (12,), block.norm1.weight, block.norm1.bias, 1e-6)
        x = x + peer(h, h, h)[0]
        h = F.layer_norm(x, (12,), block.norm2.weight, block.norm2.bias, 1e-6)
        first, last = block.mlp[0], block.mlp[3]
        x = (
            x
            + F.gelu(h @ first.weight.T + first.bias, approximate="tanh") @ last.weight.T
            + last.bias
        )
    x = F.layer_norm(x, (12,), model.norm.weight, model.norm.bias, 1e-6)
    y = x[:, 0] if config.pool == "token" else x.mean(1)
    if config.representation:
        y = torch.tanh(y @ model.representation.weight.T + model.representation.bias)
    torch.testing.assert_close(
        model(image), y @ model.head.weight.T + model.head.bias, rtol=1e-4, atol=1e-4
    )


def test_the_exact_gelu_is_exact():
    torch.manual_seed(0)
    exact, tanh = vit.MLP(6, 11, "exact"), vit.MLP(6, 11, "tanh")
    tanh.load_state_dict(exact.state_dict())
    x = 2 * rand(4, 6)
    close(exact(x), exact[3](exact[0](x) * 0.5 * (1 + torch.erf(exact[0](x) / math.sqrt(2)))))
    assert 1e-6 < (exact(x) - tanh(x)).abs().max() < 1e-2


def test_average_pooling_has_neither_a_class_token_nor_its_position():
    assert ViT(replace(SMALL, pool="average")).cls_token is None
    assert ViT(replace(SMALL, pool="average")).positions().shape == (1, 6, 12)
    assert ViT(SMALL).positions().shape == (1, 7, 12)


@pytest.mark.parametrize("pool", ["token", "average"])
def test_positions_2d_are_a_row_and_a_column(pool):
    positions = vit.Positions2D(replace(SMALL, positions="2d", pool=pool))
    table = positions()[0]
    if pool == "token":
        assert not table[0].any()
        table = table[1:]
    assert len(table) == 6
    for row in range(2):
        for column in range(3):
            assert torch.equal(
                table[row * 3 + column], torch.cat([positions.rows[row], positions.columns[column]])
            )


def swapped(image):
    """Return the image with its first and its last patch exchanged."""
    image = image.clone()
    image[..., :4, :4], image[..., -4:, -4:] = (
        image[..., -4:, -4:].clone(),
        image[..., :4, :4].clone(),
    )
    return image


@pytest.mark.parametrize(("positions", "bag"), [("1d", False), ("2d", False), ("none", True)])
def test_without_positions_an_image_is_a_bag_of_patches(positions, bag):
    model, image = awake(replace(SMALL, positions=positions)), images(SMALL)
    same = torch.allclose(model(image), model(swapped(image)), rtol=1e-4, atol=1e-4)
    assert same == bag


def test_an_image_does_not_see_its_neighbours():
    model, image = awake(SMALL), images(SMALL)
    close(model(image), torch.cat([model(one[None]) for one in image]))


def half_is_dropped(dropped, whole):
    """Every value is 0 or twice what it was, and about half are 0."""
    gone, kept = (torch.isclose(dropped, factor * whole, rtol=1e-4, atol=1e-5) for factor in (0, 2))
    return bool((gone | kept).all()) and 0.4 < float(gone.float().mean()) < 0.6


@torch.no_grad()
def test_dropout_acts_on_tokens_and_branches_while_training():
    model, image = awake(replace(SMALL, dropout=0.5)), images(SMALL, 20)
    assert torch.equal(model(image), model(image))
    block, tokens = model.blocks[0], model.embed(image)
    attended = block.attention(block.norm1(tokens))
    model.train()
    assert half_is_dropped(model.embed(image), tokens)
    assert half_is_dropped(block.mlp[2](tokens), tokens)  # the hidden layer
    block.mlp[3].weight.zero_()
    assert half_is_dropped(block.mlp(tokens), block.mlp[3].bias.expand_as(tokens))
    block.mlp[3].bias.zero_()
    assert half_is_dropped(block(tokens) - tokens, attended)


def test_every_parameter_learns():
    model = awake(replace(SMALL, representation=9))
    model(images(SMALL)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


# ---------------------------------------------------------------- the hybrid


def test_a_hybrid_cuts_patches_of_the_feature_map():
    torch.manual_seed(0)
    config = replace(SMALL, image_size=(32, 64), patch_size=16, channels=3, resnet=(1, 2))
    model = ViT(config)
    image = rand(2, 3, 32, 64)
    assert model.resnet(image).shape == (2, 512, 4, 8)  # one eighth of the resolution
    assert model.patch_embed.weight.shape == (12, 512, 2, 2)
    assert model.encode(image).shape == (2, 1 + 2 * 4, 12)
    assert model(image).shape == (2, 7)


def test_the_published_hybrid_takes_one_pixel_of_the_feature_map_per_token():
    with torch.device("meta"):
        model = ViT(VIT_CONFIGS["R50+ViT-B/16"])
        assert model.resnet.stride == 16
        assert model.patch_embed.weight.shape == (768, 1024, 1, 1)
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)


# ---------------------------------------------------------------- the equations


def test_patches_are_embedded_one_by_one_in_reading_order():
    image, kernel, bias = rand(2, 3, 4, 6), rand(5, 3, 2, 2, seed=1), rand(5, seed=2)
    tokens = vit.embed_patches(image, kernel, bias)
    assert tokens.shape == (2, 6, 5)
    for row in range(2):
        for column in range(3):
            patch = image[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            for d in range(5):
                close(tokens[:, 3 * row + column, d], (patch * kernel[d]).sum((1, 2, 3)) + bias[d])


def test_patches_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match="patch: expected a divisor of height and width 8 x 6, got 4"
    ):
        vit.embed_patches(rand(1, 3, 8, 6), rand(5, 3, 4, 4), rand(5))


def test_every_token_gets_its_own_position_and_every_image_the_same_class_token():
    patches, token, positions = rand(3, 4, 5), rand(1, 1, 5, seed=1), rand(1, 5, 5, seed=2)
    x = vit.tokens_and_positions(patches, token, positions)
    for b in range(3):
        close(x[b, 0], token[0, 0] + positions[0, 0])
        for n in range(4):
            close(x[b, n + 1], patches[b, n] + positions[0, n + 1])


def test_there_may_be_no_class_token_and_no_positions():
    patches = rand(3, 4, 5)
    close(vit.tokens_and_positions(patches, None, patches[:1]), patches + patches[0])
    assert torch.equal(vit.tokens_and_positions(patches, None, 0.0), patches)
    assert torch.equal(vit.tokens_and_positions(patches, patches[:1, :1], 0.0)[:, 1:], patches)


def test_heads_are_blocks_of_channels_within_q_k_and_v():
    qkv = rand(2, 5, 3 * 4 * 6)
    parts = vit.split_heads(qkv, 4)
    assert parts.shape == (3, 2, 4, 5, 6)
    for which in range(3):
        for head in range(4):
            start = which * 24 + head * 6
            assert torch.equal(parts[which, :, head], qkv[:, :, start : start + 6])


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_attention_token_by_token(heads):
    b, n, d = 2, 4, 5
    qkv = rand(b, n, 3 * heads * d)
    out, weights = vit.attention(qkv, heads)
    assert out.shape == (b, n, heads * d) and weights.shape == (b, heads, n, n)
    for i in range(b):
        for head in range(heads):
            q, k, v = (qkv[i, :, (part * heads + head) * d :][:, :d] for part in range(3))
            for token in range(n):
                shares = torch.stack([(q[token] @ k[j] / math.sqrt(d)).exp() for j in range(n)])
                shares = shares / shares.sum()
                close(weights[i, head, token], shares)
                close(
                    out[i, token, head * d : (head + 1) * d],
                    sum(shares[j] * v[j] for j in range(n)),
                )


def test_attention_is_torchs():
    qkv = rand(2, 6, 3 * 8)
    expected = F.scaled_dot_product_attention(*vit.split_heads(qkv, 2))
    close(vit.attention(qkv, 2)[0], expected.transpose(1, 2).flatten(2))


def test_the_attention_layer_is_attention_between_its_two_linear_layers():
    torch.manual_seed(0)
    layer = vit.Attention(6, 2)
    x = rand(4, 5, 6)
    close(layer(x), layer.out(vit.attention(layer.qkv(x), 2)[0]))


@pytest.mark.parametrize("config", WITH_TOKEN.values(), ids=WITH_TOKEN)
def test_the_class_token_without_the_others_is_what_it_is_among_them(config):
    model, image = awake(config), images(config)
    close(model.encode_class_token(image), model.encode(image)[:, 0])


def test_a_block_norms_first_and_adds_around():
    order = []

    def part(name, factor):
        def act(x):
            order.append(name)
            return factor * x

        return act

    out = vit.encoder_block(
        torch.ones(1, 1, 1),
        part("norm1", 2.0),
        part("attention", 3.0),
        part("norm2", 5.0),
        part("mlp", 7.0),
    )
    assert order == ["norm1", "attention", "norm2", "mlp"]
    assert out.item() == (1 + 2 * 3) + 5 * 7 * (1 + 2 * 3)


def test_the_block_is_encoder_block_of_its_layers():
    model, x = awake(SMALL), rand(2, 7, 12)
    block = model.blocks[1]
    close(block(x), vit.encoder_block(x, block.norm1, block.attention, block.norm2, block.mlp))


# ---------------------------------------------------------------- another resolution


def bilinear(grid, new):
    """(h w d) at new places, corners on corners, one place at a time."""
    rows, columns = grid.shape[:2]
    out = torch.zeros(*new, grid.shape[2])
    for i in range(new[0]):
        for j in range(new[1]):
            y, x = i * (rows - 1) / max(new[0] - 1, 1), j * (columns - 1) / max(new[1] - 1, 1)
            for row in range(rows):
                for column in range(columns):
                    out[i, j] += (
                        max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column)) * grid[row, column]
                    )
    return out


@pytest.mark.parametrize("token", [0, 1])
@pytest.mark.parametrize(
    ("old", "new"), [((2, 3), (5, 4)), ((4, 3), (2, 5)), ((3, 3), (7, 7)), ((1, 4), (3, 6))]
)
def test_positions_are_interpolated_on_the_grid_and_the_class_tokens_is_kept(old, new, token):
    positions = rand(1, token + old[0] * old[1], 6)
    found = vit.interpolate_positions(positions, old, new)
    assert found.shape == (1, token + new[0] * new[1], 6)
    assert torch.equal(found[:, :token], positions[:, :token])
    close(found[0, token:], bilinear(positions[0, token:].reshape(*old, 6), new).flatten(0, 1))


def test_corners_stay_and_the_same_grid_changes_nothing():
    positions = rand(1, 1 + 3 * 4, 5)
    close(vit.interpolate_positions(positions, (3, 4), (3, 4)), positions)
    found = vit.interpolate_positions(positions, (3, 4), (5, 7))[0, 1:].reshape(5, 7, 5)
    grid = positions[0, 1:].reshape(3, 4, 5)
    close(found[[0, 0, -1, -1], [0, -1, 0, -1]], grid[[0, 0, -1, -1], [0, -1, 0, -1]])


@pytest.mark.parametrize("n", [5, 8])
def test_positions_of_another_grid_are_refused(n):
    with pytest.raises(ValueError, match=f"expected 6 tokens, or one more, got {n}"):
        vit.interpolate_positions(rand(1, n, 4), (2, 3), (4, 6))


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_fine_tuning_at_the_same_size_keeps_what_the_encoder_says(config):
    model, image = awake(config), images(config)
    tuned = vit.for_fine_tuning(model, config.image_size, 7).eval()
    close(tuned.encode(image), model.encode(image))
    assert torch.equal(tuned(image), torch.zeros(3, 7))
    assert tuned.representation is None
    if not config.representation:  # with the old head it is the old model
        tuned.head.load_state_dict(model.head.state_dict())
        close(tuned(image), model(image))


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_fine_tuning_takes_larger_images_and_other_classes(config):
    model = awake(config)
    tuned = vit.for_fine_tuning(model, (16, 20), 3)
    assert tuned.config.grid == (4, 5) and tuned(rand(2, 2, 16, 20)).shape == (2, 3)
    assert torch.equal(tuned.blocks[0].mlp[0].weight, model.blocks[0].mlp[0].weight)
    if config.positions == "none":
        assert tuned.positions is None
    else:
        close(tuned.positions(), vit.interpolate_positions(model.positions(), config.grid, (4, 5)))


def test_fine_tuning_does_not_change_the_first_model():
    model = awake(SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tuned = vit.for_fine_tuning(model, 16, 5)
    with torch.no_grad():
        for p in tuned.parameters():
            p.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_hybrid_can_be_fine_tuned():
    torch.manual_seed(0)
    model = ViT(replace(SMALL, image_size=32, patch_size=16, channels=3, resnet=(1, 1)))
    tuned = vit.for_fine_tuning(model, (32, 48), 3)
    assert tuned(rand(1, 3, 32, 48)).shape == (1, 3)
    assert torch.equal(tuned.resnet.root.weight, model.resnet.root.weight)


# ---------------------------------------------------------------- what is attended to


@pytest.mark.parametrize("pool", ["token", "average"])
def test_attention_maps_are_probabilities_that_reproduce_the_model(pool):
    model = awake(replace(SMALL, pool=pool))
    image, n = images(SMALL), 7 if pool == "token" else 6
    maps = model.attention_maps(image)
    assert maps.shape == (3, 3, 3, n, n) and not maps.requires_grad
    assert bool((maps >= 0).all())
    close(maps.sum(-1), torch.ones(3, 3, 3, n))
    x = model.embed(image)
    for block, weights in zip(model.blocks, maps, strict=True):
        # b heads n d_h
        v = block.attention.qkv(block.norm1(x))[..., 24:].unflatten(-1, (3, 4)).transpose(1, 2)
        x = x + block.attention.out((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(model.norm(x), model.encode(image), rtol=1e-4, atol=1e-4)


def test_rollout_sums_over_every_path():
    maps = (2 * rand(3, 2, 4, 5, 5)).softmax(-1)
    found = vit.attention_rollout(maps)
    mixed = torch.zeros(3, 2, 5, 5)
    for layer, b, i, j in product(range(3), range(2), range(5), range(5)):
        mixed[layer, b, i, j] = 0.5 * maps[layer, b, :, i, j].mean() + 0.5 * (i == j)
    for b in range(2):
        for i in range(5):
            for j in range(5):
                paths = sum(
                    mixed[2][b][i][k] * mixed[1][b][k][m] * mixed[0][b][m][j]
                    for k in range(5)
                    for m in range(5)
                )
                assert float(found[b, i, j]) == pytest.approx(float(paths), rel=1e-5)
    close(found.sum(-1), torch.ones(2, 5))


def test_rollout_reads_the_maps_of_a_model():
    model = awake(SMALL)
    found = vit.attention_rollout(model.attention_maps(images(SMALL)))
    close(found.sum(-1), torch.ones(3, 7))


def test_tokens_that_look_only_at_themselves_stay_where_they_are():
    assert torch.equal(
        vit.attention_rollout(torch.eye(5).expand(4, 2, 3, 5, 5)), torch.eye(5).expand(2, 5, 5)
    )


@pytest.mark.parametrize("token", [0, 1])
@pytest.mark.parametrize(
    ("grid", "patch", "pixels"),
    [
        ((14, 14), 16, 116.492),
        ((7, 7), 32, 115.503),
        ((16, 16), 14, 116.565),
        ((8, 8), 4, 16.546),
        ((4, 4), 8, 16.064),
    ],
)
def test_uniform_attention_looks_as_far_as_two_patches_are_apart(grid, patch, pixels, token):
    n = grid[0] * grid[1] + token
    found = vit.attention_distance(torch.full((2, 3, n, n), 1 / n), grid, patch)
    assert found.shape == (3,)
    assert found.tolist() == pytest.approx([pixels] * 3, abs=6e-4)


@pytest.mark.parametrize("token", [0, 1])
@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 4), (3, 3)])
def test_attention_distance_pair_by_pair(grid, token):
    n, patch = grid[0] * grid[1], 5
    weights = (2 * rand(2, 3, n + token, n + token)).softmax(-1)
    found = vit.attention_distance(weights, grid, patch)
    for head in range(3):
        total = 0.0
        for b in range(2):
            for i in range(n):
                row = weights[b, head, i + token, token:]
                for j in range(n):
                    rows, columns = i // grid[1] - j // grid[1], i % grid[1] - j % grid[1]
                    total += float(row[j] / row.sum()) * patch * math.hypot(rows, columns)
        assert float(found[head]) == pytest.approx(total / (2 * n), rel=1e-5)


def test_looking_at_oneself_or_a_neighbour():
    near = torch.eye(6).expand(1, 1, 6, 6)
    assert vit.attention_distance(near, (2, 3), 16).item() == 0
    beside = torch.eye(6)[[1, 0, 1, 4, 3, 4]].expand(1, 1, 6, 6)
    assert vit.attention_distance(beside, (2, 3), 16).item() == 16


@pytest.mark.parametrize("n", [5, 8])
def test_attention_of_another_grid_is_refused(n):
    with pytest.raises(ValueError, match=f"expected 6 tokens, or one more, got {n}"):
        vit.attention_distance(torch.full((1, 2, n, n), 1 / n), (2, 3), 16)


@pytest.mark.parametrize("n", [5, 8])
def test_the_similarity_of_another_grid_is_refused(n):
    with pytest.raises(ValueError, match=f"expected 6 tokens, or one more, got {n}"):
        vit.position_similarity(rand(1, n, 4), (2, 3))


@pytest.mark.parametrize("token", [0, 1])
def test_position_similarity_is_the_cosine_of_every_pair_of_patches(token):
    positions = rand(1, token + 6, 8)
    found = vit.position_similarity(positions, (2, 3))
    assert found.shape == (2, 3, 2, 3)
    for i in range(6):
        for j in range(6):
            expected = F.cosine_similarity(positions[0, token + i], positions[0, token + j], dim=0)
            close(found[i // 3, i % 3, j // 3, j % 3], expected)
