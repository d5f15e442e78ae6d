"""VQGAN: shapes, losses and sampling against their equations, loops and the official rules, and
what is refused.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from course_lib.lm.kv_cache import KVCache
from course_lib.lm.sampling import generate, top_k_sample
from course_lib.nn.attention import SpatialAttention
from course_lib.nn.patchgan import PatchGAN
from course_lib.papers import vqgan
from course_lib.papers.vqgan import VQGAN, Transformer, TransformerConfig, VQGANConfig, VQGANLoss

SMALL = VQGANConfig(
    image_size=16,
    channels=2,
    width=4,
    multipliers=(1, 3, 2),
    blocks=1,
    attention=(8,),
    latent=6,
    code_dim=5,
    num_codes=13,
    groups=2,
)
GPT = TransformerConfig(vocabulary=11, length=20, depth=3, heads=2, width=12)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape, below=11, seed=0):
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed=4):
    return torch.Generator().manual_seed(seed)


def awake(model, seed=0):
    """Return the model after no weight in it is zero, one or small any more."""
    torch.manual_seed(seed)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- the autoencoder


def test_f_is_a_power_of_two_of_the_levels():
    assert VQGANConfig().downsampling == 16 and SMALL.downsampling == 4
    assert VQGANConfig().widths == [128, 128, 256, 256, 512]
    assert VQGANConfig().attends == [False, False, False, False, True]
    assert SMALL.widths == [4, 12, 8]
    assert SMALL.attends == [False, True, False]


def test_presets():
    found = {name: (c.downsampling, c.num_codes) for name, c in vqgan.VQGAN_CONFIGS.items()}
    assert found["imagenet-f16-1024"] == (16, 1024) and found["imagenet-f16-16384"] == (16, 16384)
    found = {
        name: (c.depth, c.heads, c.width, c.vocabulary, c.length)
        for name, c in vqgan.TRANSFORMER_CONFIGS.items()
    }
    assert found["transformer-cIN"] == (48, 16, 1536, 16384, 256)
    assert found["transformer-faceshq"] == (24, 16, 1024, 1024, 512)


def test_the_tiny_transformer_holds_a_class_and_the_codes_of_a_tiny_image():
    tokenizer, prior = vqgan.VQGAN_CONFIGS["tiny"], vqgan.TRANSFORMER_CONFIGS["transformer-tiny"]
    codes = (tokenizer.image_size // tokenizer.downsampling) ** 2
    assert prior.length == 1 + codes - 1 and prior.vocabulary == tokenizer.num_codes


@pytest.mark.parametrize("size", [(8, 20), (4, 4), (24, 40)])
def test_shapes_on_unequal_axes(size):
    model, image = awake(VQGAN(SMALL)), rand(3, 2, *size)
    rebuilt, quantized = model(image)
    grid = (size[0] // 4, size[1] // 4)
    assert rebuilt.shape == image.shape
    assert quantized.latents.shape == (3, 5, *grid) and quantized.indices.shape == (3, *grid)
    assert quantized.loss.shape == () and quantized.indices.dtype == torch.int64
    assert model.features(image).shape == (3, 5, *grid)


@pytest.mark.parametrize("size", [(8, 22), (10, 8), (3, 4)])
def test_sides_that_f_does_not_divide_are_refused(size):
    model = VQGAN(SMALL)
    for work in (model, model.encode, model.features):
        with pytest.raises(
            ValueError, match=rf"expected sides divisible by 4, got \({size[0]}, {size[1]}\)"
        ):
            work(rand(1, 2, *size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 18}, "expected an image_size divisible by 4, got 18"),
        ({"groups": 8}, r"expected widths that 8 groups share evenly, got \[4, 12\]"),
        ({"update": "average"}, "expected update 'loss' or 'ema', got 'average'"),
        ({"num_codes": 0}, "expected at least one code"),
    ],
)
def test_impossible_configs_say_what_is_wrong(change, message, untyped):
    with pytest.raises(ValueError, match=message):
        VQGAN(replace(SMALL, **change))


def test_the_parts_are_called_in_their_order():
    model, image = awake(VQGAN(SMALL)), rand(2, 2, 8, 12)
    z = model.to_codes(model.encoder(image))
    close(model.features(image), z)
    quantized = model.quantizer(z)
    close(model(image)[0], model.decoder(model.from_codes(quantized.latents)))
    assert torch.equal(model.encode(image).indices, quantized.indices)
    assert quantized.indices.unique().numel() > 1


def test_indices_are_all_that_the_decoder_needs():
    model, image = awake(VQGAN(SMALL)), rand(2, 2, 8, 12)
    rebuilt, quantized = model(image)
    close(model.decode_indices(quantized.indices), rebuilt)
    changed = quantized.indices.clone()
    changed[1, 0, 2] = (changed[1, 0, 2] + 1) % 13
    assert not torch.equal(model.decode_indices(changed)[1], rebuilt[1])
    close(model.decode_indices(changed)[0], rebuilt[0])


def test_attention_stands_where_the_config_says_and_in_the_middle():
    model = VQGAN(replace(SMALL, blocks=2))
    for part, levels, blocks in ((model.encoder, [0, 1, 2], 2), (model.decoder, [2, 1, 0], 3)):
        for level, resolution in zip(part.levels, levels, strict=True):
            attends = [isinstance(layer, SpatialAttention) for layer in level]
            assert attends == [False, resolution == 1] * blocks + [False]
        assert [isinstance(layer, SpatialAttention) for layer in part.middle] == [
            False,
            True,
            False,
        ]


def test_sizes_inside_halve_on_the_way_in_and_double_on_the_way_out():
    model, seen = VQGAN(SMALL), []
    for part in (model.encoder, model.decoder):
        for level in part.levels:
            level.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    model(rand(1, 2, 8, 12))
    assert seen == [(4, 4, 6), (12, 2, 3), (8, 2, 3), (8, 4, 6), (12, 8, 12), (4, 8, 12)]


def test_dropout_is_for_training_alone():
    model, z = VQGAN(replace(SMALL, dropout=0.5)), rand(1, 5, 2, 3)
    assert not torch.equal(model.decode(z), model.decode(z))
    model.eval()
    assert torch.equal(model.decode(z), model.decode(z))


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_the_config_reaches_the_quantizer(update):
    legacy = update == "loss"
    quantizer = VQGAN(replace(SMALL, update=update, beta=0.7, legacy=legacy)).quantizer
    assert (quantizer.num_codes, quantizer.dim, quantizer.beta) == (13, 5, 0.7)
    assert (quantizer.update, quantizer.legacy) == (update, legacy)
    assert ("codebook" in dict(quantizer.named_parameters())) == (update == "loss")


# ---------------------------------------------------------------- gradients


def test_the_decoder_s_gradient_goes_straight_through_to_the_encoder():
    """What comes out of the encoder gets the gradient of the latents that the decoder saw,
    unchanged.
    """
    model, image = awake(VQGAN(SMALL)), rand(2, 2, 8, 12)
    z = model.features(image)
    quantized = model.quantizer(z)
    assert not torch.allclose(z, quantized.latents)
    probe = rand(2, 2, 8, 12, seed=1)
    (probe * model.decode(quantized.latents)).sum().backward(
        inputs=[z, *model.encoder.parameters()], retain_graph=True
    )
    latents = quantized.latents.detach().requires_grad_()
    (expected,) = torch.autograd.grad((probe * model.decode(latents)).sum(), latents)
    close(z.grad, expected)
    assert all(bool(p.grad.any()) for p in model.encoder.parameters())


def test_only_the_codebook_loss_moves_the_codebook():
    model, image = awake(VQGAN(SMALL)), rand(2, 2, 8, 12)
    rebuilt, quantized = model(image)
    codebook = model.quantizer.codebook
    (moved,) = torch.autograd.grad(
        rebuilt.square().sum(), codebook, retain_graph=True, allow_unused=True
    )
    assert moved is None or not moved.any()
    (moved,) = torch.autograd.grad(quantized.loss, codebook)
    used = torch.zeros(13, dtype=torch.bool).index_fill(0, quantized.indices.flatten(), True)
    assert torch.equal(moved.any(1), used) and not used.all()


# ---------------------------------------------------------------- the loss


def setting(perceptual=True, discriminator=True, **weights):
    """A model's reconstruction, a loss and all that goes into it."""
    model, image = awake(VQGAN(replace(SMALL, channels=3))), 0.3 * rand(2, 3, 40, 32)
    rebuilt, quantized = model(image)

    def distance(x, y):
        assert x is image and y is rebuilt
        return 5 * (x - y).square().mean((1, 2, 3))

    torch.manual_seed(1)
    judge = PatchGAN(3, 4, halvings=2) if discriminator else None
    losses = VQGANLoss(distance if perceptual else None, **weights)
    last = model.decoder.conv_out.weight
    total, parts = losses.generator_loss(image, rebuilt, quantized.loss, judge, last)
    return SimpleNamespace(
        image=image,
        rebuilt=rebuilt,
        codebook=quantized.loss,
        judge=judge,
        last=last,
        model=model,
        total=total,
        parts=parts,
        perceptual=5 * (image - rebuilt).square().mean(),
    )


def test_the_parts_of_the_loss_add_up():
    s = setting(perceptual_weight=0.7, codebook_weight=2.0)
    assert list(s.parts) == ["absolute", "perceptual", "codebook", "adversarial"]
    close(s.parts["absolute"], (s.image - s.rebuilt).abs().mean())
    close(s.parts["perceptual"], 0.7 * s.perceptual)
    close(s.parts["codebook"], 2 * s.codebook)
    close(
        s.total,
        s.parts["absolute"] + s.parts["perceptual"] + s.parts["codebook"] + s.parts["adversarial"],
    )


def test_the_default_weights_are_those_of_the_official_code():
    s = setting()
    close(s.parts["perceptual"], s.perceptual)
    close(s.parts["codebook"], s.codebook)
    assert VQGANLoss(None).discriminator_weight == 0.8


def test_parts_that_are_not_there():
    assert list(setting(perceptual=False).parts) == ["absolute", "codebook", "adversarial"]
    assert list(setting(discriminator=False).parts) == ["absolute", "perceptual", "codebook"]
    s = setting(perceptual=False, discriminator=False)
    assert list(s.parts) == ["absolute", "codebook"]
    close(s.total, (s.image - s.rebuilt).abs().mean() + s.codebook)


@pytest.mark.parametrize("perceptual", [True, False])
def test_equation_7_weighs_the_game_against_rebuilding_on_the_last_layer(perceptual):
    """The codebook's loss has no say in it, the perceptual one has."""
    s = setting(perceptual, perceptual_weight=0.7, discriminator_weight=0.3)
    rebuilding = (s.image - s.rebuilt).abs().mean() + perceptual * 0.7 * s.perceptual
    fooling = -s.judge(s.rebuilt).mean()
    lengths = [
        float(torch.autograd.grad(loss, s.last, retain_graph=True)[0].square().sum().sqrt())
        for loss in (rebuilding, fooling)
    ]
    weight = 0.3 * lengths[0] / (lengths[1] + 1e-4)
    assert weight > 0.01
    close(s.parts["adversarial"], weight * fooling)
    got, expected = (
        torch.autograd.grad(loss, s.last, retain_graph=True)[0]
        for loss in (s.total, rebuilding + s.codebook + weight * fooling)
    )
    close(got, expected)  # the weight itself has no gradient


def test_the_game_moves_encoder_and_decoder():
    s = setting()
    for part in (s.model.encoder.conv_in.weight, s.model.decoder.conv_in.weight):
        (moved,) = torch.autograd.grad(s.parts["adversarial"], part, retain_graph=True)
        assert moved.any()


def test_the_discriminators_loss_is_the_hinge_and_spares_the_autoencoder():
    s = setting()
    s.judge.eval()  # batch norms with the same statistics in every call
    loss = VQGANLoss.discriminator_loss(s.judge, s.image, s.rebuilt)
    real, fake = s.judge(s.image).flatten().tolist(), s.judge(s.rebuilt).flatten().tolist()
    means = [
        sum(max(0.0, 1 - r) for r in real) / len(real),
        sum(max(0.0, 1 + f) for f in fake) / len(fake),
    ]
    assert loss.item() == pytest.approx(sum(means) / 2, rel=1e-5)
    moved = torch.autograd.grad(loss, [s.last, *s.judge.parameters()], allow_unused=True)
    assert moved[0] is None and all(grad is not None for grad in moved[1:])


# ---------------------------------------------------------------- the transformer


@pytest.fixture(scope="module")
def gpt():
    model = awake(Transformer(GPT))
    model.norm.reset_parameters()  # with a large bias there, all contexts would be much alike
    return model


@pytest.mark.parametrize("n", [1, 7, 20])
def test_logits_after_every_token(n, gpt):
    assert gpt(tokens(3, n)).shape == (3, n, 11)


def test_a_logit_depends_on_the_tokens_so_far_and_on_no_later_one(gpt):
    before = tokens(1, 9)
    for place in range(9):
        after = before.clone()
        after[0, place] = (after[0, place] + 1) % 11
        changed = (gpt(after) - gpt(before)).abs().amax(-1)[0] > 1e-5
        assert changed.tolist() == [other >= place for other in range(9)]


def test_the_same_token_at_two_places_differs(gpt):
    """Positions are learnt and start at zero."""
    logits = gpt(torch.full((1, 5), 3))
    assert not torch.allclose(logits[0, 0], logits[0, 1])
    assert not Transformer(GPT).positions.any()


def test_initial_weights():
    model = Transformer(replace(GPT, width=96, vocabulary=500))
    for name, p in model.named_parameters():
        if name.endswith("bias") or name == "positions":
            assert not p.any(), name
        elif "norm" in name:
            assert bool((p == 1).all()), name
        else:
            assert (
                p.std().item() == pytest.approx(0.02, rel=0.05) and abs(p.mean().item()) < 1e-3
            ), name


def test_it_drops_in_training_alone():
    model, x = Transformer(replace(GPT, dropout=0.5)), tokens(1, 6)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_more_tokens_than_the_context_are_refused(gpt):
    with pytest.raises(ValueError, match="expected at most 20 tokens, got 21"):
        gpt(tokens(2, 21))
    cache = KVCache(3, 30)
    gpt(tokens(2, 15), cache)
    with pytest.raises(ValueError, match="expected at most 20 tokens, got 21"):
        gpt(tokens(2, 6), cache)
    assert gpt(tokens(2, 5), cache).shape == (2, 5, 11)


def test_heads_that_do_not_share_the_width():
    with pytest.raises(ValueError, match="heads: expected a divisor of width 12, got 5"):
        replace(GPT, heads=5)


@pytest.mark.parametrize("parts", [(1,) * 9, (4, 5), (3, 1, 5)])
def test_a_cache_gives_the_logits_of_the_whole(parts, gpt):
    whole, cache = tokens(2, 9), KVCache(3, 9)
    got = torch.cat([gpt(part, cache) for part in whole.split(parts, dim=1)], dim=1)
    close(got, gpt(whole))


@pytest.mark.parametrize("m", [1, 4])
def test_the_loss_of_every_code_one_at_a_time(m, gpt):
    condition, codes = tokens(3, m, seed=1), tokens(3, 7, seed=2)
    loss = vqgan.next_code_loss(gpt, condition, codes).detach()
    assert loss.shape == (3, 7)
    for b in range(3):
        so_far = condition[b].tolist()
        for i in range(7):
            logits = gpt(torch.tensor([so_far]))[0, -1].tolist()
            total = sum(math.exp(logit) for logit in logits)
            code = int(codes[b, i])
            assert float(loss[b, i]) == pytest.approx(
                math.log(total) - logits[code], rel=1e-4, abs=1e-5
            )
            so_far.append(code)


def test_the_last_code_needs_no_room_in_the_context(gpt):
    assert vqgan.next_code_loss(gpt, tokens(2, 1), tokens(2, 20)).shape == (2, 20)
    with pytest.raises(ValueError, match="at most 20 tokens, got 21"):
        vqgan.next_code_loss(gpt, tokens(2, 1), tokens(2, 21))


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.6, "top_k": 3}, {"temperature": 2, "top_k": 11}, {"top_k": 1}],
)
@pytest.mark.parametrize(("m", "grid"), [(1, (4, 5)), (3, (2, 7))])
def test_cached_sampling_equals_uncached_token_for_token(m, grid, settings, gpt):
    condition = tokens(5, m, seed=3)
    codes = vqgan.sample_codes(gpt, condition, grid, **settings, generator=seeded())
    assert codes.shape == (5, *grid) and codes.dtype == torch.int64
    uncached = generate(
        gpt, condition, grid[0] * grid[1], **settings, generator=seeded(), cache=False
    )
    assert torch.equal(codes, uncached.reshape(5, *grid))


def test_codes_are_drawn_in_reading_order_one_by_one(gpt):
    condition, uniforms = tokens(2, 1), torch.rand(6, 2, generator=seeded())
    codes = vqgan.sample_codes(gpt, condition, (2, 3), 0.8, 4, generator=seeded())
    so_far = condition
    for row in range(2):
        for column in range(3):
            expected = top_k_sample(gpt(so_far)[:, -1], 4, 0.8, uniforms[3 * row + column])
            assert torch.equal(codes[:, row, column], expected)
            so_far = torch.cat([so_far, expected[:, None]], dim=1)


def test_the_head_is_asked_about_the_last_token_only(gpt):
    shown = []
    hook = gpt.head.register_forward_pre_hook(lambda head, given: shown.append(given[0].shape))
    for cache in (True, False):
        generate(gpt, tokens(2, 7), 5, cache=cache)
    vqgan.sample_large(gpt, tokens(2, 3), (2, 3), (2, 3))
    hook.remove()
    assert shown == [(2, 12)] * 16
    with torch.no_grad():
        torch.testing.assert_close(gpt.next_logits(tokens(2, 7)), gpt(tokens(2, 7))[:, -1])


def official_window(place, whole):
    """Where the official code's 16 x 16 window begins along an axis: three cases."""
    if place <= 8:
        local = place
    elif whole - place < 8:
        local = 16 - (whole - place)
    else:
        local = 8
    return place - local


@pytest.mark.parametrize("grid", [(16, 16), (17, 24), (40, 19), (16, 33)])
def test_the_window_slides_as_in_the_official_code(grid):
    for row in range(grid[0]):
        for column in range(grid[1]):
            expected = (official_window(row, grid[0]), official_window(column, grid[1]))
            assert vqgan.sliding_window(row, column, grid, (16, 16)) == expected


@pytest.mark.parametrize("window", [(3, 4), (5, 7), (1, 1), (2, 6)])
def test_the_window_holds_the_code_and_stays_on_the_grid(window):
    grid = (5, 9)
    for row in range(5):
        for column in range(9):
            top, left = vqgan.sliding_window(row, column, grid, window)
            assert (
                0 <= top <= row < top + window[0] <= 5
                and 0 <= left <= column < left + window[1] <= 9
            )
            for place, start, size, whole in (
                (row, top, window[0], 5),
                (column, left, window[1], 9),
            ):
                if 0 < start < whole - size:
                    assert place - start == size // 2


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6, "top_k": 3}])
@pytest.mark.parametrize("b", [2, 19])
def test_on_a_grid_of_one_window_large_sampling_is_plain_sampling(b, settings, gpt):
    condition = tokens(b, 1, seed=3)
    large = vqgan.sample_large(gpt, condition, (4, 5), (4, 5), **settings, generator=seeded())
    assert torch.equal(
        large, vqgan.sample_codes(gpt, condition, (4, 5), **settings, generator=seeded())
    )
    assert large.unique().numel() > 3


@pytest.mark.parametrize(("grid", "window"), [((5, 8), (3, 4)), ((3, 9), (3, 2)), ((6, 3), (5, 3))])
def test_every_code_is_drawn_as_in_the_official_code(grid, window, gpt):
    """There the model sees the whole window, codes yet to be drawn included, and the logits of one
    place are read.
    """
    condition, noise = tokens(2, 2, seed=3), tokens(2, *grid, seed=9)
    codes = vqgan.sample_large(gpt, condition, grid, window, 0.9, 6, generator=seeded())
    assert codes.shape == (2, *grid)
    generator, drawn = seeded(), noise.clone()
    for row in range(grid[0]):
        for column in range(grid[1]):
            top, left = vqgan.sliding_window(row, column, grid, window)
            seen = drawn[:, top : top + window[0], left : left + window[1]].flatten(1)
            logits = gpt(torch.cat([condition, seen], dim=1)[:, :-1])[:, 1:].unflatten(1, window)
            here = logits[:, row - top, column - left]
            drawn[:, row, column] = top_k_sample(here, 6, 0.9, torch.rand(2, generator=generator))
    assert torch.equal(codes, drawn)


class Listener(Transformer):
    """A model that draws codes from 1 to 10 and keeps what it is shown."""

    def next_logits(self, tokens, cache=None):
        self.shown.append(tokens)
        logits = rand(len(tokens), 11, seed=len(self.shown))
        logits[:, 0] = -torch.inf
        return logits


def test_no_code_is_shown_before_it_is_drawn():
    """Codes that are not drawn yet are 0, which this model never draws."""
    model, condition = Listener(GPT), tokens(2, 1) % 10 + 1
    model.shown = []
    codes = vqgan.sample_large(model, condition, (5, 8), (3, 4), generator=seeded())
    assert bool((codes > 0).all()) and len(model.shown) == 40
    assert all(bool((shown > 0).all()) for shown in model.shown)
    assert all(torch.equal(shown[:, :1], condition) for shown in model.shown)
    # the condition, and all of a window but the last
    assert max(shown.shape[1] for shown in model.shown) == 3 * 4


@pytest.mark.parametrize("grid", [(3, 8), (5, 3)])
def test_a_grid_smaller_than_the_window_is_refused(grid, gpt):
    with pytest.raises(
        ValueError,
        match=rf"expected a grid of at least the window's \(4, 4\), got \({grid[0]}, {grid[1]}",
    ):
        vqgan.sample_large(gpt, tokens(1, 1), grid, (4, 4))


def test_a_window_larger_than_the_context_is_refused(gpt):
    with pytest.raises(ValueError, match="expected at most 20 tokens, got 21"):
        vqgan.sample_large(gpt, tokens(1, 1), (5, 5), (5, 5))


def test_sampling_keeps_no_graph(gpt):
    assert gpt.head.weight.requires_grad
    for codes in (
        vqgan.sample_codes(gpt, tokens(1, 1), (2, 2)),
        vqgan.sample_large(gpt, tokens(1, 1), (2, 2), (2, 2)),
    ):
        assert not codes.is_floating_point() and codes.grad_fn is None
