"""MAGVIT's tokenizer: published sizes, clips to tokens and back, its start from images; its
discriminator, with its pools against loops; its losses, part by part.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.losses.adversarial import LeCam, r1_penalty
from course_lib.papers.magvit_tokenizer import (
    DISCRIMINATOR_CONFIGS,
    TOKENIZER_CONFIGS,
    DiscriminatorBlock,
    DiscriminatorConfig,
    LossConfig,
    StyleGANDiscriminator,
    Tokenizer,
    TokenizerConfig,
    TokenizerLoss,
    average_pool,
    blur_pool,
    inflate,
    inflate_average,
    inflate_central,
)

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


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


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
UNEVEN_CLIP = torch.randn(2, 3, 5, 6, 7, generator=torch.Generator().manual_seed(0))


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
    assert size_of(lambda: Tokenizer(TOKENIZER_CONFIGS[name])) == count


def test_sixteen_frames_of_128_pixels_are_1024_tokens_614_times_smaller():
    cell = TOKENIZER_CONFIGS["3D-VQ-B"].cell
    assert cell == (4, 8, 8)
    grid = [n // c for n, c in zip((16, 128, 128), cell, strict=True)]
    assert grid == [4, 16, 16]
    assert 16 * 128 * 128 * 3 * 8 / (math.prod(grid) * math.log2(1024)) == 614.4


@pytest.mark.parametrize("name", DISCRIMINATOR_CONFIGS)
def test_a_discriminator_takes_its_tokenizer_s_clips(name):
    with torch.device("meta"):
        model = StyleGANDiscriminator(DISCRIMINATOR_CONFIGS[name])
        assert model(torch.empty(2, 3, *model.config.size)).shape == (2,)
    frames, *sides = (
        n // c for n, c in zip(model.config.size, TOKENIZER_CONFIGS[name].cell, strict=True)
    )
    assert frames == 4 and sides in ([16, 16], [8, 8])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"halve_time": (True,)}, r"expected 2 halvings, got halve_time=\(True,\)"),
        ({"kernel_frames": 1}, "expected no halving of time by a tokenizer of single frames"),
        ({"groups": 4}, r"expected widths that 4 groups share evenly, got \[6\]"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_another_padding_is_refused():
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
def test_only_reflection_gives_a_constant_clip_a_single_token(padding):
    torch.manual_seed(0)
    model = Tokenizer(replace(SMALL, padding=padding, num_codes=200)).eval()
    constant = torch.tensor([0.3, -0.5, 0.9]).reshape(1, 3, 1, 1, 1).expand(1, 3, 4, 24, 24)
    assert (len(model.encode(constant).indices.unique()) == 1) == (padding == "reflect")


def test_frames_of_a_2d_tokenizer_know_nothing_of_each_other():
    model = awake(Tokenizer(FLAT))
    one_by_one = torch.cat([model.encode(CLIP[:, :, i : i + 1]).indices for i in range(4)], dim=1)
    assert torch.equal(model.encode(CLIP).indices, one_by_one)


def test_time_is_halved_early_and_doubled_late():
    """The paper's order: the shallow stages of the encoder are the ones that see frames go."""
    model = Tokenizer(
        TOKENIZER_CONFIGS["3D-VQ-B"].__class__(
            filters=4, multipliers=(1, 1, 1, 1), code_dim=3, num_codes=5, groups=2, blocks=1
        )
    )
    pools = [layer.kernel_size for layer in model.encoder if isinstance(layer, nn.AvgPool3d)]
    ups = [layer.scale_factor for layer in model.decoder if isinstance(layer, nn.Upsample)]
    assert pools == [(2, 2, 2), (2, 2, 2), (1, 2, 2)] and ups == [(1, 2, 2), (2, 2, 2), (2, 2, 2)]


# ---------------------------------------------------------------- a start from image_tokenizer


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_kernels_are_inflated_at_the_centre_or_by_averages(frames):
    kernel = rand(2, 3, 4, 5)
    central, average = (
        inflate_central(kernel, frames),
        inflate_average(kernel, frames),
    )
    for t in range(frames):
        assert torch.equal(
            central[:, :, t], kernel if t == frames // 2 else torch.zeros_like(kernel)
        )
        torch.testing.assert_close(average[:, :, t], kernel / frames)


@pytest.mark.parametrize("padding", ["reflect", "zeros"])
@pytest.mark.parametrize("kernel", [inflate_central, inflate_average])
def test_an_inflated_tokenizer_treats_a_still_clip_as_its_image(kernel, padding):
    image_tokenizer, model = (
        Tokenizer(replace(FLAT, padding=padding)),
        Tokenizer(replace(SMALL, padding=padding)),
    )
    awake(image_tokenizer)
    inflate(model.eval(), image_tokenizer, kernel)
    still = CLIP[:, :, :1].expand(-1, -1, 4, -1, -1)
    flat, solid = (
        image_tokenizer.run(image_tokenizer.encoder, still[:, :, :2]),
        model.encoder(still),
    )
    same = kernel is inflate_central or padding == "reflect"  # zeros fade into the average
    assert torch.allclose(flat, solid, rtol=1e-3, atol=1e-3) is same
    if same:
        code = flat[:, :, :1].expand(-1, -1, 2, -1, -1)
        torch.testing.assert_close(
            model.decode(code),
            image_tokenizer.decode(code.repeat_interleave(2, 2)),
            rtol=1e-3,
            atol=1e-3,
        )
    assert torch.equal(model.quantizer.codebook, image_tokenizer.quantizer.codebook)


def test_inflation_copies_rather_than_shares():
    image_tokenizer, model = awake(Tokenizer(FLAT)), Tokenizer(SMALL)
    inflate(model, image_tokenizer)
    before = model.encoder[0].weight.clone()
    with torch.no_grad():
        image_tokenizer.encoder[0].weight.zero_()
    assert torch.equal(model.encoder[0].weight, before) and model.encoder[0].weight.requires_grad


@pytest.mark.parametrize(
    "change", [{"filters": 12}, {"blocks": 2}, {"num_codes": 7}, {"multipliers": (1, 2, 3)}]
)
def test_tokenizers_of_other_shapes_are_not_inflated(change):
    with pytest.raises(
        ValueError, match="expected tokenizers of the same widths and blocks, got other shapes of "
    ):
        inflate(Tokenizer(SMALL), Tokenizer(replace(FLAT, **change)))


def test_only_convolutions_are_inflated_whatever_has_the_shape_of_a_kernel():
    image_tokenizer, model = Tokenizer(FLAT), Tokenizer(SMALL)
    image_tokenizer.encoder.extra = nn.Parameter(torch.zeros(2, 3, 1, 4, 4))
    model.encoder.extra = nn.Parameter(torch.zeros(2, 3, 3, 4, 4))
    with pytest.raises(ValueError, match=r"got other shapes of encoder.extra$"):
        inflate(model, image_tokenizer)


def test_nothing_is_deflated():
    with pytest.raises(ValueError, match=r"got other shapes of decoder.0.weight"):
        inflate(Tokenizer(FLAT), Tokenizer(SMALL))


# ---------------------------------------------------------------- the discriminator


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 6, 7), (1, 2, 3), (2, 1, 1)])
def test_averages_are_of_the_pixels_that_are_there(size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    y = average_pool(x)
    assert y.shape[2:] == tuple((n + 1) // 2 for n in size)
    for t, h, w in torch.cartesian_prod(*(torch.arange(n) for n in y.shape[2:])):
        block = x[:, :, 2 * t : 2 * t + 2, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
        torch.testing.assert_close(y[:, :, t, h, w], block.mean((2, 3, 4)))


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 6, 7), (1, 2, 3), (2, 1, 1)])
def test_the_blur_is_a_separable_convolution_of_stride_two(size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.einsum("i,j,k->ijk", line, line, line).expand(3, 1, 4, 4, 4)
    t, h, w = (1 + n % 2 for n in size)
    expected = F.conv3d(F.pad(x, (1, w, 1, h, 1, t)), kernel, stride=2, groups=3)
    assert expected.shape[2:] == tuple((n + 1) // 2 for n in size)
    torch.testing.assert_close(blur_pool(x), expected)


def test_a_blur_moves_less_than_an_average_when_the_clip_moves_by_a_pixel():
    x = torch.randn(1, 1, 8, 32, 32, generator=torch.Generator().manual_seed(2))
    change = {
        f: (f(x.roll(1, 4)) - f(x))[..., 2:-2, 2:-2].std() / f(x).std()
        for f in (average_pool, blur_pool)
    }
    assert change[blur_pool] < 0.8 * change[average_pool]


@pytest.mark.parametrize("halve", ["average", "blur"])
def test_a_block_keeps_the_skip_and_the_scale(halve):
    torch.manual_seed(0)
    block, pool = (
        DiscriminatorBlock(3, 4, halve),
        {"average": average_pool, "blur": blur_pool}[halve],
    )
    h = F.leaky_relu(F.conv3d(UNEVEN_CLIP, block.conv1.weight, block.conv1.bias, padding=1), 0.2)
    h = F.leaky_relu(F.conv3d(pool(h), block.conv2.weight, block.conv2.bias, padding=1), 0.2)
    skip = torch.einsum("oi,bithw->bothw", block.skip.weight[:, :, 0, 0, 0], pool(UNEVEN_CLIP))
    torch.testing.assert_close(block(UNEVEN_CLIP), (skip + h) / 2**0.5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("halve", ["average", "blur"])
def test_one_logit_per_clip_whatever_the_size(halve):
    torch.manual_seed(0)
    model = StyleGANDiscriminator(DiscriminatorConfig((5, 6, 7), 4, (2, 3, 1), halve=halve))
    assert model(UNEVEN_CLIP).shape == (2,)
    assert model.hidden.in_features == 4 * 1 * 1 * 1  # 5 6 7 -> 3 3 4 -> 2 2 2 -> 1 1 1
    torch.testing.assert_close(model(UNEVEN_CLIP[1:]), model(UNEVEN_CLIP)[1:])


@pytest.mark.parametrize("halve", ["average", "blur"])
def test_r1_reaches_every_weight_that_shapes_the_slope(halve):
    torch.manual_seed(0)
    model = StyleGANDiscriminator(DiscriminatorConfig((5, 6, 7), 4, (2, 3), halve=halve))
    clip = UNEVEN_CLIP.clone().requires_grad_()
    r1_penalty(clip, model(clip)).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.endswith("bias") for name in silent)


def test_biases_start_at_zero_and_weights_do_not():
    model = StyleGANDiscriminator(DiscriminatorConfig((4, 8, 8), 4, (2, 2)))
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    bound = (6 / (4 * 27 + 4 * 27)) ** 0.5
    assert 0.9 * bound < float(model.blocks[0].conv1.weight.detach().abs().max()) <= bound


def test_clips_of_another_size_are_refused():
    model = StyleGANDiscriminator(DiscriminatorConfig((5, 6, 7), 4, (2,)))
    with pytest.raises(
        ValueError, match=r"expected clips of \(5, 6, 7\) frames, rows, columns, got \(6, 5, 7\)"
    ):
        model(UNEVEN_CLIP.transpose(2, 3))


# ---------------------------------------------------------------- the loss


def rand64(*shape, seed=0):
    return (
        torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
        - 1
    )


# logits of the clip are higher
ORIGINAL, RECONSTRUCTION = rand64(2, 3, 4, 5, 6).abs(), rand64(2, 3, 4, 5, 6, seed=1)


class Curved(nn.Module):
    """A discriminator with a known slope: the mean of w x + x^2."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x):
        return (self.w * x + x.square()).flatten(1).mean(1)


def distance(x, y):
    return (x - y).abs().mean((1, 2, 3))


def test_what_the_tokenizer_minimizes_part_by_part():
    model = Curved()
    loss = TokenizerLoss(LossConfig(), distance)
    total, parts = loss.generator_loss(
        ORIGINAL, RECONSTRUCTION, torch.tensor(0.3, dtype=torch.float64), model
    )
    unit, rebuilt = (ORIGINAL + 1) / 2, (RECONSTRUCTION + 1) / 2
    expected = {
        "squared": (unit - rebuilt).square().mean(),
        "perceptual": 0.1 * (ORIGINAL - RECONSTRUCTION).abs().mean(),
        "adversarial": 0.1 * -F.logsigmoid(model(RECONSTRUCTION)).mean(),
        "quantizer": torch.tensor(0.3, dtype=torch.float64),
    }
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(parts[name].detach(), value.detach())
    torch.testing.assert_close(total, sum(parts.values()))


def test_frames_are_judged_one_by_one():
    seen = []

    def watch(x, y):
        seen.append((x, y))
        return distance(x, y)

    TokenizerLoss(LossConfig(), watch).generator_loss(
        ORIGINAL, RECONSTRUCTION, torch.tensor(0.0), None
    )
    ((x, y),) = seen
    assert x.shape == y.shape == (8, 3, 5, 6)
    assert torch.equal(x[5], ORIGINAL[1, :, 1]) and torch.equal(y[2], RECONSTRUCTION[0, :, 2])


def test_without_a_discriminator_or_a_perceptual_distance_they_have_no_part():
    parts = TokenizerLoss(LossConfig(), None).generator_loss(
        ORIGINAL, RECONSTRUCTION, torch.tensor(0.0), None
    )[1]
    assert parts.keys() == {"squared", "quantizer"}


def test_what_the_discriminator_minimizes_part_by_part():
    model, lecam = Curved(), LeCam().double()
    reconstruction = RECONSTRUCTION.clone().requires_grad_()
    total, parts = TokenizerLoss(LossConfig(), None).discriminator_loss(
        model, ORIGINAL, reconstruction, lecam
    )
    real, fake = model(ORIGINAL), model(RECONSTRUCTION)
    unit = ((ORIGINAL + 1) / 2).requires_grad_()
    (slope,) = torch.autograd.grad(model(2 * unit - 1).sum(), unit, create_graph=True)
    torch.testing.assert_close(parts["game"], -(F.logsigmoid(real) + F.logsigmoid(-fake)).mean())
    torch.testing.assert_close(parts["r1"], 10 * slope.square().flatten(1).sum(1).mean())
    penalty = (
        F.relu(real - fake.mean()).square().mean() + F.relu(real.mean() - fake).square().mean()
    )
    assert penalty > 0.1
    torch.testing.assert_close(parts["lecam"], 0.001 * penalty)
    torch.testing.assert_close(total, sum(parts.values()))
    total.backward()
    assert model.w.grad is not None and reconstruction.grad is None and not ORIGINAL.requires_grad


@pytest.mark.parametrize("weight", ["squared", "perceptual", "adversarial", "r1", "lecam"])
def test_every_weight_multiplies_its_own_part(weight):
    results = []
    for value in (1.0, 3.0):
        loss = TokenizerLoss(LossConfig(**{f"{weight}_weight": value}), distance)
        results.append(
            loss.generator_loss(ORIGINAL, RECONSTRUCTION, torch.tensor(0.3), Curved())[1]
            | loss.discriminator_loss(Curved(), ORIGINAL, RECONSTRUCTION, LeCam().double())[1]
        )
    for name in results[0]:
        assert float((results[1][name] / results[0][name]).detach()) == pytest.approx(
            3.0 if name == weight else 1.0
        )


def test_the_discriminator_learns_in_full_precision_also_under_autocast():
    """A small one ends in maps of two frames, for which bfloat16 has given gradients of 1e35."""
    torch.manual_seed(0)
    model = StyleGANDiscriminator(DiscriminatorConfig((16, 8, 8), 4, (2, 2, 2)))
    clip, gradients = torch.rand(3, 3, 16, 8, 8) * 2 - 1, []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            rebuilt = (clip / 2).bfloat16() if enabled else (clip / 2).bfloat16().float()
            total = TokenizerLoss(LossConfig(), None).discriminator_loss(
                model, clip, rebuilt, LeCam()
            )[0]
        gradients.append(torch.autograd.grad(total, list(model.parameters())))
    for ours, wanted in zip(*gradients, strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, wanted)
