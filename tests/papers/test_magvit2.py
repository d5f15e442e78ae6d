"""MAGVIT-v2: sizes, what depends on what, the start from images, tokens in factors, and the
models on them.
"""

import itertools
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from course_lib.lm.maskgit import parallel_decode
from course_lib.nn.transformer import Bert
from course_lib.papers import magvit2
from course_lib.papers.magvit2 import (
    AR_CONFIGS,
    DISCRIMINATOR_CONFIGS,
    LOSS_CONFIG,
    MLM_CONFIGS,
    TOKENIZER_CONFIGS,
    CausalLM,
    LMConfig,
    MaskedLM,
    Tokenizer,
    TokenizerConfig,
    decode_causal,
    factor_losses,
    inflate,
    inflate_last,
    joint_logits,
)
from course_lib.papers.magvit_tokenizer import StyleGANDiscriminator, TokenizerLoss
from course_lib.papers.magvit_tokenizer import TokenizerConfig as MagvitConfig
from course_lib.papers.vqgan import Transformer, TransformerConfig
from course_lib.quantize.lfq import join, token_index

SMALL = TokenizerConfig(
    filters=4,
    multipliers=(1, 2, 3),
    strides=((1, 2, 2), (2, 1, 2)),
    blocks=1,
    bits=5,
    groups=2,
    channels=2,
)
CONFIGS = {  # with frames, rows and columns of a clip
    "strides of 1 and 2": (SMALL, (9, 4, 8)),
    "two strides over frames": (replace(SMALL, strides=((2, 2, 1), (2, 1, 2))), (9, 4, 6)),
    "a stride of 3": (replace(SMALL, strides=((3, 1, 1), (1, 2, 3)), blocks=2), (10, 4, 6)),
    "replicated frames": (replace(SMALL, padding="replicate"), (9, 4, 8)),
    "kernels of 2 frames": (replace(SMALL, kernel_frames=2), (9, 4, 8)),
    "squares of 2 pixels": (replace(SMALL, patch=2), (9, 8, 16)),
}
LM = LMConfig((2, 2, 3), 2**6, num_classes=4, width=12, depth=2, heads=3, mlp=20, dropout=0.0)


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
        nn.init.normal_(p, std=0.3 if p.ndim < 2 else 1.5 / p[0].numel() ** 0.5)
    return model.eval()


def factorized(config):
    return magvit2.FactorizedTokens(config.width, config.factor_bits, config.other_tokens)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("name", ["MLM-UCF", "MLM-ImageNet-256"])
def test_the_masked_model_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        assert round(parameters(MaskedLM(MLM_CONFIGS[name])) / 1e6) == 307


@pytest.mark.parametrize("name", AR_CONFIGS)
def test_the_autoregressive_model_is_as_large_as_the_masked_one(name):
    with torch.device("meta"):
        sizes = [
            parameters(CausalLM(AR_CONFIGS[name])),
            parameters(MaskedLM(MLM_CONFIGS["MLM" + name[2:]])),
        ]
    assert abs(sizes[0] / sizes[1] - 1) < 1e-3


@pytest.mark.parametrize("name", TOKENIZER_CONFIGS)
def test_the_convolutions_hold_what_the_configuration_says(name):
    c = TOKENIZER_CONFIGS[name]
    with torch.device("meta"):
        found = parameters(Tokenizer(c))
    box, widths = 9 * c.kernel_frames, c.widths
    block = [2 * box * w * w + 4 * w for w in widths]  # two convolutions, two norms
    channels = c.channels * c.patch**2
    encoder = box * channels * widths[0] + widths[0] + c.blocks * (sum(block) + block[-1])
    encoder += 2 * widths[-1] + widths[-1] * c.bits + c.bits
    decoder = box * c.bits * widths[-1] + widths[-1] + c.blocks * (sum(block) + block[-1])
    decoder += sum(2 * w * (c.bits + 1) for w in widths)  # what the latents control
    decoder += 2 * widths[0] + box * widths[0] * channels + channels
    for fine, coarse, stride in zip(widths, widths[1:], c.strides, strict=False):
        encoder += box * fine * coarse + coarse
        decoder += (box * coarse * fine + fine) * math.prod(stride)
    assert found == encoder + decoder


def test_section_3_2_and_appendix_a():
    video, image = TOKENIZER_CONFIGS["video-128"], TOKENIZER_CONFIGS["image-128"]
    assert video.token_grid(17, 128, 128) == (5, 16, 16) == MLM_CONFIGS["MLM-UCF"].grid
    assert image.token_grid(1, 128, 128) == video.token_grid(1, 128, 128) == (1, 16, 16)
    assert (video.filters, video.multipliers, video.blocks, video.bits) == (
        128,
        (1, 2, 2, 4),
        4,
        18,
    )
    assert [stride[0] for stride in video.strides] == [1, 2, 2]  # late, where MAGVIT's are early
    assert MagvitConfig().halve_time == (True, True, False)
    assert MLM_CONFIGS["MLM-UCF"].factor_bits == (9, 9)
    assert (
        TOKENIZER_CONFIGS["tiny"].token_grid(17, 32, 32)
        == MLM_CONFIGS["MLM-tiny"].grid
        == (5, 8, 8)
    )
    assert TOKENIZER_CONFIGS["tiny"].bits == sum(MLM_CONFIGS["MLM-tiny"].factor_bits) == 10
    assert TOKENIZER_CONFIGS["tiny-image"].token_grid(1, 32, 32) == (1, 8, 8)
    patched = TOKENIZER_CONFIGS["tiny-patch"]
    assert patched.token_grid(17, 32, 32) == (5, 8, 8) and patched.bits == 10


def test_the_weights_of_the_losses():
    loss = LOSS_CONFIG
    assert (loss.squared_weight, loss.perceptual_weight, loss.adversarial_weight) == (5.0, 0.1, 0.1)
    assert (loss.r1_weight, loss.lecam_weight) == (10.0, 0.001)
    quantizer = Tokenizer(SMALL).quantizer
    assert (quantizer.beta, quantizer.entropy_weight) == (0.25, 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": ((1, 2, 2),)}, r"expected 2 strides, got \(\(1, 2, 2\),\)"),
        (
            {"kernel_frames": 1},
            r"expected no stride over frames in an image model \(kernel_frames=1\), got",
        ),
        ({"groups": 8}, r"expected widths that 8 groups share evenly, got \[4, 12\]"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize("size", [(8, 4, 8), (0, 4, 8), (9, 3, 8), (9, 4, 6)])
def test_a_clip_without_a_grid_is_refused(size):
    message = r"expected 1 \+ 2 t frames of sides divisible by 2 and 4, got \(" + ", ".join(
        map(str, size)
    )
    with pytest.raises(ValueError, match=message):
        SMALL.token_grid(*size)
    with pytest.raises(ValueError, match=message):
        Tokenizer(SMALL).encode(torch.zeros(1, 2, *size))


def test_factors_are_equal():
    assert replace(LM, factors=3).factor_bits == (2, 2, 2) and replace(
        LM, factors=1
    ).factor_bits == (6,)
    for change in ({"factors": 4}, {"num_codes": 2**7}, {"num_codes": 60}):
        with pytest.raises(
            ValueError, match=r"expected 2\^\(\d m\) codes for \d equal factors, got"
        ):
            replace(LM, **change)


# ---------------------------------------------------------------- the tokenizer


@pytest.mark.parametrize(("config", "size"), CONFIGS.values(), ids=CONFIGS)
def test_images_and_clips_of_any_length_come_back_in_their_size(config, size):
    model = awake(Tokenizer(config))
    s = config.cell[0]
    for t in (0, 1, size[0] // s):
        clip = rand(3, 2, 1 + s * t, *size[1:])
        reconstruction, quantized = model(clip)
        assert reconstruction.shape == clip.shape
        assert quantized.indices.shape == (3, *config.token_grid(*clip.shape[2:]))
        assert quantized.indices.unique().numel() > 1
        assert torch.equal(quantized.latents.abs(), torch.ones_like(quantized.latents))
        assert torch.equal(token_index(quantized.latents.movedim(1, -1)), quantized.indices)
        close(model.decode_indices(quantized.indices), reconstruction)


@pytest.mark.parametrize(("config", "size"), CONFIGS.values(), ids=CONFIGS)
def test_a_latent_depends_on_no_frame_after_its_own(config, size):
    """Bit for bit; and it does depend on its own frames, the last of them too."""
    model, s = awake(Tokenizer(config)), config.cell[0]
    clip = rand(2, 2, *size)
    latents = model.features(clip)
    for changed in range(size[0]):
        other = clip.clone()
        other[:, :, changed:] = rand(2, 2, *size, seed=1)[:, :, changed:]
        first = -(-changed // s)  # the first that may know
        found = model.features(other)
        assert torch.equal(found[:, :, :first], latents[:, :, :first])
        assert not torch.equal(found[:, :, first], latents[:, :, first])
        indices, before = (model.encode(x).indices[:, :first] for x in (other, clip))
        assert torch.equal(indices, before)


@pytest.mark.parametrize(("config", "size"), CONFIGS.values(), ids=CONFIGS)
def test_a_frame_is_decoded_from_the_tokens_up_to_its_own(config, size):
    model, s = awake(Tokenizer(config)), config.cell[0]
    indices = integers(2**config.bits, 2, *config.token_grid(*size))
    clip = model.decode_indices(indices)
    for changed in range(indices.shape[1]):
        other = indices.clone()
        other[:, changed:] = (other[:, changed:] + 7) % 2**config.bits
        found = model.decode_indices(other)
        first = 0 if changed == 0 else 1 + s * (changed - 1)
        assert torch.equal(found[:, :, :first], clip[:, :, :first])
        assert not torch.equal(found[:, :, first], clip[:, :, first])


@pytest.mark.parametrize(("config", "size"), CONFIGS.values(), ids=CONFIGS)
def test_the_first_frame_of_a_clip_is_an_image(config, size):
    model = awake(Tokenizer(config)).double()
    clip = rand(2, 2, *size).double()
    close(model.features(clip)[:, :, :1], model.features(clip[:, :, :1]), 1e-10)
    (reconstruction, quantized), (rebuilt_image, quantized_image) = (
        model(clip),
        model(clip[:, :, :1]),
    )
    assert torch.equal(quantized.indices[:, :1], quantized_image.indices)
    close(reconstruction[:, :, :1], rebuilt_image, 1e-10)


def test_gradients_do_not_come_from_later_frames_either():
    model, clip = awake(Tokenizer(SMALL)), rand(2, 2, 9, 4, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(model.encoder(clip)[:, :, :3].square().sum(), clip)
    assert not gradient[:, :, 5:].any() and gradient[:, :, 4].any()
    latents = model.encode(clip).latents.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.decode(latents)[:, :, :5].square().sum(), latents)
    assert not gradient[:, :, 3:].any() and gradient[:, :, 2].any()


def test_a_group_norm_over_frames_would_tell_the_first_of_later_ones():
    """What the frame norm is for; and that the tests above can fail."""
    model, clip = awake(Tokenizer(SMALL)), rand(2, 2, 9, 4, 8)
    other = torch.cat([clip[:, :, :1], rand(2, 2, 8, 4, 8, seed=1)], dim=2)
    block = next(layer for layer in model.encoder if isinstance(layer, magvit2.CausalResBlock))
    block.norm1 = nn.GroupNorm(2, 4)
    assert (model.encoder(clip)[:, :, 0] - model.encoder(other)[:, :, 0]).abs().max() > 1e-3


def test_the_latents_control_the_scales_and_shifts_of_their_own_frames():
    """One level, by hand: the mean over places, and latent i for the frames that upsampling makes
    of it.
    """
    level = magvit2.DecoderLevel(replace(SMALL, blocks=0), nn.Identity(), 4, 3).double()
    x, control = rand(2, 4, 7, 4, 6).double(), rand(2, 3, 5, seed=1).double()
    close(level(x, control), level.norm(x), 1e-12)  # a new level does nothing yet
    nn.init.normal_(level.control.weight)
    nn.init.normal_(level.control.bias)
    y, h = level(x, control), level.norm(x)
    for b, t in itertools.product(range(2), range(7)):
        scale, shift = level.control(control[b, -(-t // 3)]).chunk(2)
        close(y[b, :, t], h[b, :, t] * (1 + scale[:, None, None]) + shift[:, None, None], 1e-12)


def test_every_parameter_learns():
    torch.manual_seed(0)
    model = Tokenizer(SMALL)
    clip = rand(2, 2, 5, 4, 8)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(2):  # what the latents control starts at zero
        optimizer.zero_grad()
        reconstruction, quantized = model(clip)
        loss, _ = TokenizerLoss(LOSS_CONFIG, None).generator_loss(
            clip, reconstruction, quantized.loss, None
        )
        loss.backward()
        optimizer.step()
    assert all(p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", DISCRIMINATOR_CONFIGS)
def test_a_discriminator_reads_the_clips_of_its_preset(name):
    with torch.device("meta"):
        discriminator = StyleGANDiscriminator(DISCRIMINATOR_CONFIGS[name])
        clip = torch.zeros(2, 3, *discriminator.config.size)
    config = TOKENIZER_CONFIGS[name]
    assert config.token_grid(*discriminator.config.size)
    if name == "tiny":
        found = StyleGANDiscriminator(DISCRIMINATOR_CONFIGS[name])(
            rand(2, 3, *discriminator.config.size)
        )
        assert found.shape == (2,) and found[0] != found[1]
    assert clip.shape[2] == 17


# ---------------------------------------------------------------- a start from images


def test_a_kernel_is_inflated_into_the_last_frame():
    kernel = rand(4, 3, 2, 5)
    assert torch.equal(inflate_last(kernel, 1)[:, :, 0], kernel)
    inflated = inflate_last(kernel, 3)
    assert torch.equal(inflated[:, :, 2], kernel) and not inflated[:, :, :2].any()


IMAGES = replace(SMALL, kernel_frames=1, strides=((1, 2, 2), (1, 1, 2)))


def test_an_inflated_tokenizer_treats_the_frames_it_keeps_as_images():
    image_tokenizer, model = awake(Tokenizer(IMAGES)), Tokenizer(SMALL)
    inflate(model, image_tokenizer)
    image_tokenizer, model = image_tokenizer.double(), model.double()
    clip = rand(2, 2, 7, 4, 8).double()
    reconstruction, quantized = model(clip)
    for frame in range(7):
        rebuilt_image, quantized_image = image_tokenizer(clip[:, :, frame : frame + 1])
        if frame % 2 == 0:  # frames 0, 2, 4 and 6 have tokens of their own
            assert torch.equal(quantized.indices[:, frame // 2], quantized_image.indices[:, 0])
            for repeated in range(max(frame - 1, 0), frame + 1):
                close(reconstruction[:, :, repeated], rebuilt_image[:, :, 0], 1e-10)


@pytest.mark.parametrize(
    "change",
    [
        {"filters": 8},
        {"blocks": 2},
        {"bits": 6},
        {"multipliers": (1, 2, 6)},
        {"multipliers": (1, 2, 4)},
    ],
    ids=str,
)
def test_only_time_may_differ(change):
    with pytest.raises(
        ValueError, match="expected tokenizers that differ only in time, got other weights in"
    ):
        inflate(Tokenizer(SMALL), Tokenizer(replace(IMAGES, **change)))


def test_only_what_samples_up_is_repeated_whatever_has_twice_the_channels():
    image_tokenizer, model = Tokenizer(IMAGES), Tokenizer(SMALL)
    image_tokenizer.encoder.extra = nn.Linear(3, 2)
    model.encoder.extra = nn.Linear(3, 4)
    with pytest.raises(ValueError, match=r"in \['encoder.extra.bias', 'encoder.extra.weight'\]$"):
        inflate(model, image_tokenizer)


def test_only_convolutions_are_inflated_whatever_has_the_shape_of_a_kernel():
    image_tokenizer, model = Tokenizer(IMAGES), Tokenizer(SMALL)
    image_tokenizer.encoder.extra = nn.Parameter(torch.zeros(2, 3, 1, 4, 4))
    model.encoder.extra = nn.Parameter(torch.zeros(2, 3, 3, 4, 4))
    with pytest.raises(ValueError, match=r"in \['encoder.extra'\]$"):
        inflate(model, image_tokenizer)


# ---------------------------------------------------------------- tokens in factors


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_a_code_is_embedded_as_the_sum_of_its_factors(factors):
    config = replace(LM, factors=factors)
    tokens = awake(factorized(config))
    table = tokens(torch.arange(config.vocabulary)[None])[0]
    size = 2 ** (6 // factors)
    for code in range(64):
        parts = [code // size**factor % size for factor in range(factors)]
        close(table[code], sum(tokens.tables[factor][part] for factor, part in enumerate(parts)))
    assert torch.equal(table[64:], tokens.others)
    assert (config.vocabulary, config.mask_token) == (64 + 4 + 1 + 1, 69)
    with pytest.raises(ValueError, match="expected indices from 0 to 69, got some from 70 to 70"):
        tokens(torch.tensor([[70]]))


def test_probabilities_of_codes_are_products_over_their_factors():
    logits = [3 * rand(2, 5, 8), 3 * rand(2, 5, 8, seed=1)]
    p = joint_logits(logits).softmax(-1)
    assert p.shape == (2, 5, 64)
    for low, high in itertools.product(range(8), range(8)):
        expected = logits[0].softmax(-1)[..., low] * logits[1].softmax(-1)[..., high]
        close(p[..., int(join(torch.tensor([low, high]), (3, 3)))], expected)


def test_the_loss_is_that_of_whole_codes():
    logits = [3 * rand(2, 5, 8), 3 * rand(2, 5, 8, seed=1)]
    codes = integers(64, 2, 5)
    whole = -joint_logits(logits).log_softmax(-1).gather(2, codes[..., None])[..., 0]
    close(factor_losses(logits, codes), whole)
    smooth = factor_losses(logits, codes, 0.1)
    uniform = sum(each.log_softmax(-1).mean(-1) for each in logits)
    close(smooth, 0.9 * whole - 0.1 * uniform)


def test_tables_are_used_both_ways():
    tokens = awake(factorized(LM))
    x = rand(2, 5, 12)
    for factor, logits in enumerate(tokens.logits(x)):
        close(logits, tokens.heads[factor](x) @ tokens.tables[factor].T + tokens.biases[factor])


# ---------------------------------------------------------------- the language models


def test_the_masked_model_sees_all_tokens_and_predicts_the_codes():
    model = awake(MaskedLM(LM))
    prefix, shown = (
        model.config.prefix_tokens("CG", torch.tensor([3, 1])),
        integers(LM.vocabulary, 2, 12),
    )
    assert torch.equal(prefix, torch.tensor([[67], [65]]))
    assert torch.equal(
        model.config.prefix_tokens("FP", torch.tensor([3, 1])), torch.tensor([[68], [68]])
    )
    logits = model(prefix, shown)
    assert [tuple(each.shape) for each in logits] == [(2, 12, 8)] * 2
    for place in range(12):
        other = shown.clone()
        other[:, place] = LM.mask_token
        for found, before in zip(model(prefix, other), logits, strict=True):
            assert (found - before).abs().amax(-1).min() > 0
    assert not torch.allclose(model(prefix.flip(0), shown)[0], logits[0])


def test_the_masked_model_is_a_bert_between_its_tables():
    model = awake(MaskedLM(LM))
    body = Bert(13, 12, 2, 3, 20)
    body.load_state_dict(model.bert.state_dict())
    prefix, shown = integers(LM.vocabulary, 2, 1), integers(LM.vocabulary, 2, 12, seed=1)
    x = body(model.tokens(torch.cat([prefix, shown], dim=1)))
    for found, expected in zip(model(prefix, shown), model.tokens.logits(x), strict=True):
        close(found, expected[:, 1:])


def test_a_seed_starts_the_causal_model_s_blocks_as_those_of_vqgan_s_transformer():
    torch.manual_seed(0)
    blocks = CausalLM(LM).transformer.blocks.state_dict()
    torch.manual_seed(0)
    peer = Transformer(TransformerConfig(vocabulary=1, length=12, depth=2, heads=3, width=12))
    for name, weight in peer.blocks.state_dict().items():
        assert torch.equal(blocks[name], weight)


def test_the_causal_model_sees_no_later_token():
    model = awake(CausalLM(LM))
    tokens = integers(LM.vocabulary, 2, 12)
    logits = model(tokens)
    assert logits.shape == (2, 12, 64)
    for place in range(12):
        other = tokens.clone()
        other[:, place:] = integers(LM.vocabulary, 2, 12 - place, seed=1)
        close(model(other)[:, :place], logits[:, :place])
    assert (model(other)[:, -1] - logits[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("multi_task", [False, True])
def test_the_causal_loss_is_the_chain_rule(multi_task):
    """With a prefix of one token, the class's, and of two, the task's before it."""
    config = replace(LM, multi_task=multi_task)
    model, codes = awake(CausalLM(config)), integers(64, 2, 12)
    prefix = model.config.prefix_tokens("CG", torch.tensor([3, 1]))
    assert prefix.shape[1] == 1 + multi_task
    losses = model.losses(prefix, codes)
    for place in range(12):
        logits = model(torch.cat([prefix, codes[:, :place]], dim=1))[:, -1].log_softmax(-1)
        close(losses[:, place], -logits.gather(1, codes[:, place, None])[:, 0])


def test_a_prefix_of_two_tokens_fits_both_models():
    config = replace(LM, multi_task=True)
    prefix, codes = integers(4, 2, 2) + 64, integers(64, 2, 12)
    assert joint_logits(awake(MaskedLM(config))(prefix, codes)).shape == (2, 12, 64)
    model = awake(CausalLM(config))
    drawn = decode_causal(model, prefix, codes[:, :5])
    assert drawn.shape == (2, 12) and torch.equal(drawn[:, :5], codes[:, :5])
    with pytest.raises(ValueError, match="expected at most 13 tokens, got 14"):
        model(torch.cat([prefix, codes], dim=1))


def test_cached_sampling_draws_the_same_codes():
    model, prefix = awake(CausalLM(LM)), integers(4, 3, 1) + 64
    drawn = [
        decode_causal(model, prefix, cache=cache, generator=torch.Generator().manual_seed(0))
        for cache in (True, False)
    ]
    assert drawn[0].shape == (3, 12) and drawn[0].max() < 64
    assert torch.equal(*drawn) and len(drawn[0].unique()) > 5


def test_frame_prediction_continues_from_the_codes_of_the_first_frame():
    model, prefix, known = awake(CausalLM(LM)), integers(4, 3, 1) + 64, integers(64, 3, 6)
    drawn = decode_causal(model, prefix, known, top_k=1)
    assert torch.equal(drawn[:, :6], known)
    for place in range(6, 12):
        logits = model(torch.cat([prefix, drawn[:, :place]], dim=1))[:, -1]
        assert torch.equal(drawn[:, place], logits.argmax(-1))


def test_masked_codes_are_decoded_in_parallel_and_known_ones_stay():
    model, prefix = awake(MaskedLM(LM)), integers(4, 3, 1) + 64
    known = integers(64, 3, 12)
    unknown = integers(2, 3, 12, seed=1).bool()
    canvas = known.masked_fill(unknown, LM.mask_token)
    found = parallel_decode(lambda shown: model(prefix, shown), canvas, unknown, 4)
    codes = found.tokens[-1]
    assert torch.equal(codes[~unknown], known[~unknown]) and codes.max() < 64
    assert [int(each.sum()) for each in found.unknown] == sorted(
        (int(e.sum()) for e in found.unknown), reverse=True
    )
    assert not found.unknown[-1].any()


def test_factors_drawn_one_by_one_are_the_codes_of_their_joint_distribution():
    model, prefix = awake(MaskedLM(LM)), integers(4, 50, 1) + 64
    canvas = torch.full((50, 12), LM.mask_token)
    found, expected = (
        parallel_decode(
            lambda shown, change=change: change(model(prefix, shown)),
            canvas,
            canvas == LM.mask_token,
            5,
            generator=torch.Generator().manual_seed(0),
        )
        for change in (list, joint_logits)
    )
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.unknown, expected.unknown)
    assert len(found.tokens.unique()) == 64


def test_of_the_paper_s_vocabulary_no_joint_distribution_is_computed(monkeypatch):
    """A clip of 1,280 tokens: 2^18 probabilities of each would be 1.3 GB."""
    monkeypatch.setattr(magvit2, "joint_logits", None)
    config = replace(
        LM, grid=(5, 16, 16), num_codes=2**18, width=24, depth=1, heads=2, num_classes=3
    )
    model = awake(MaskedLM(config))
    prefix = torch.tensor([[config.num_codes]])
    canvas = torch.full((1, 1280), config.mask_token)
    unknown = torch.ones_like(canvas, dtype=torch.bool)
    codes = parallel_decode(partial(model, prefix), canvas, unknown, 2).tokens[-1]
    assert codes.max() < 2**18 and len(codes.unique()) > 1000


def test_only_the_last_token_of_a_known_prefix_gets_logits():
    model, prefix, known = awake(CausalLM(LM)), integers(4, 3, 1) + 64, integers(64, 3, 6)
    shown = []
    for head in model.transformer.tokens.heads:
        head.register_forward_pre_hook(lambda head, given: shown.append(given[0].shape[1]))
    for cache in (True, False):
        decode_causal(model, prefix, known, cache=cache)
    assert shown == [1] * (2 * 2 * 6)


def test_a_model_learns_what_its_class_says():
    """Two classes of clips, each always the same: both models learn them by heart."""
    torch.manual_seed(0)
    codes, label = integers(64, 2, 12), torch.tensor([0, 1])
    models = {"masked": MaskedLM(LM), "causal": CausalLM(LM)}
    optimizer = torch.optim.Adam([p for model in models.values() for p in model.parameters()], 2e-2)
    blank = torch.full_like(codes, LM.mask_token)
    for _ in range(60):
        masked = factor_losses(
            models["masked"](models["masked"].config.prefix_tokens("CG", label), blank), codes, 1e-4
        ).mean()
        causal = (
            models["causal"]
            .losses(models["causal"].config.prefix_tokens("CG", label), codes)
            .mean()
        )
        optimizer.zero_grad()
        (masked + causal).backward()
        optimizer.step()
    assert masked < 0.1 and causal < 0.1
    assert torch.equal(
        decode_causal(
            models["causal"].eval(), models["causal"].config.prefix_tokens("CG", label), top_k=1
        ),
        codes,
    )
