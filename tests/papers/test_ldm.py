"""Latent diffusion: the U-Net, v, the process, captions, what is refused."""

import math
from functools import partial

import pytest
import torch

from course_lib.diffusion import GaussianMixture, Guided, ddim_steps, edm
from course_lib.papers.ldm import (
    LDM_CONFIGS,
    CaptionConfig,
    CaptionEncoder,
    LatentDiffusion,
    LDMConfig,
    UNet,
    cross_attention,
    from_velocity,
    sample,
    velocity,
)

ODD = LDMConfig(
    in_channels=3,
    out_channels=5,
    width=8,
    multipliers=(1, 2),
    blocks=1,
    attends=(False, True),
    heads=(1, 2),
    context=7,
    groups=4,
)


def changed(**changes):
    return LDMConfig(**{**vars(ODD), **changes})


# ---------------------------------------------------------------- the U-Net


def test_a_checkpoint_of_the_tiny_one_is_small():
    with torch.device("meta"):
        model = UNet(LDM_CONFIGS["tiny"])
    assert sum(4 * p.numel() for p in model.parameters()) < 6e6


def test_a_fresh_network_is_zero_and_every_weight_learns():
    model, x = UNet(ODD), torch.randn(2, 3, 6, 10)
    out = model(x, torch.tensor([0.25, 999.0]), torch.randn(2, 4, 7))
    assert out.shape == (2, 5, 6, 10) and not out.any()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    model(x, torch.tensor([0.25, 999.0]), torch.randn(2, 4, 7)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_times_between_two_steps_and_in_any_precision():
    model = UNet(ODD).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, context = torch.randn(3, 3, 4, 6), torch.randn(3, 2, 7)
    whole = model(x, torch.tensor([1, 1, 2]), context)
    torch.testing.assert_close(model(x, torch.tensor([1.0, 1.0, 2.0]), context), whole)
    assert (model(x, torch.tensor([1.5, 1.5, 1.5]), context) - whole).abs().amax(
        (1, 2, 3)
    ).min() > 0
    model.double()
    out = model(x.double(), torch.tensor([1.0, 1.0, 2.0]), context.double())
    assert out.dtype == torch.float64


def test_each_image_is_told_its_own_context():
    model = UNet(ODD).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    x, t, context = torch.randn(2, 3, 4, 6), torch.tensor([5, 5]), torch.randn(2, 2, 7)
    other = context.clone()
    other[1] += 1
    difference = (model(x, t, context) - model(x, t, other)).abs().amax((1, 2, 3))
    assert difference[0] == 0 and difference[1] > 1e-3


def test_latents_and_contexts_that_do_not_fit_are_refused(untyped):
    model, t = UNet(ODD), torch.tensor([3])
    with pytest.raises(ValueError, match=r"latent: expected both sides divisible by 2, got \(4, 5"):
        model(torch.zeros(1, 3, 4, 5), t, torch.zeros(1, 2, 7))
    with pytest.raises(ValueError, match="context: expected tokens of width 7, got 8"):
        model(torch.zeros(1, 3, 4, 6), t, torch.zeros(1, 2, 8))
    with pytest.raises(ValueError, match="context: expected tokens of width 7, got None"):
        model(torch.zeros(1, 3, 4, 6), t)
    with pytest.raises(ValueError, match="context: expected tokens of width None, got 7"):
        UNet(changed(context=None))(torch.zeros(1, 3, 4, 6), t, torch.zeros(1, 2, 7))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attends": (True,)}, "attends: expected one for each of 2 levels, got 1"),
        ({"heads": (1, 2, 3)}, "heads: expected one for each of 2 levels, got 3"),
        ({"heads": (3, 2)}, "got 3 heads at width 8"),
        ({"groups": 3}, "3 groups share evenly"),
        ({"prediction": "x"}, "prediction: expected 'eps' or 'v', got 'x'"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change, message, untyped):
    with pytest.raises(ValueError, match=message):
        changed(**change)


def test_attention_written_out():
    q, k, v = torch.randn(2, 3, 12), torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    got = cross_attention(q, k, v, heads=4)
    for head in range(4):
        own = slice(3 * head, 3 * head + 3)
        scores = q[..., own] @ k[..., own].mT / math.sqrt(3)
        torch.testing.assert_close(got[..., own], scores.softmax(-1) @ v[..., own])


# ---------------------------------------------------------------- v


def test_v_turns_the_signal_and_the_noise_by_a_right_angle():
    process = LatentDiffusion(changed(prediction="v"))
    x_start, noise = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64)
    t = torch.tensor([0, 300, 700, 999])
    v = velocity(x_start, t, noise, process.alphas_cumprod)
    signal = process.alphas_cumprod[t].sqrt()[:, None, None, None]
    sigma = (1 - process.alphas_cumprod[t]).sqrt()[:, None, None, None]
    torch.testing.assert_close(v, signal * noise - sigma * x_start)
    eps, x_0 = from_velocity(v, signal * x_start + sigma * noise, t, process.alphas_cumprod)
    torch.testing.assert_close(eps, noise)
    torch.testing.assert_close(x_0, x_start)


class Exact:
    """The best possible network for independent normal values of this mean and deviation."""

    def __init__(self, process, mean=0.3, std=0.2):
        self.process = process
        self.truth = GaussianMixture(torch.tensor([[mean]]), torch.tensor([std]))

    def __call__(self, x_t, t, context=None):
        whole = t.round().long()
        alpha_bar = float(self.process.alphas_cumprod[whole[0]])
        eps = self.truth.best_eps(x_t.reshape(-1, 1), alpha_bar).reshape(x_t.shape)
        if self.process.prediction == "eps":
            return eps
        x_start = (x_t - math.sqrt(1 - alpha_bar) * eps) / math.sqrt(alpha_bar)
        return velocity(x_start, whole, eps, self.process.alphas_cumprod)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_loss_of_a_network_that_knows_all_is_nothing(prediction):
    process = LatentDiffusion(changed(prediction=prediction))
    x_start, noise = torch.randn(2, 3, 2, 4, 5).double()
    t, context = torch.tensor([0, 400, 999]), torch.randn(3, 2, 7)
    seen = []

    def network(x_t, t, context):
        seen.append(context)
        eps = (x_t - process.alphas_cumprod[t].sqrt()[:, None, None, None] * x_start) / (
            1 - process.alphas_cumprod[t]
        ).sqrt()[:, None, None, None]
        return eps if prediction == "eps" else velocity(x_start, t, eps, process.alphas_cumprod)

    loss = process.loss(network, x_start, t, noise, context)
    torch.testing.assert_close(loss, torch.zeros(3).double())
    assert seen == [context]
    loss = process.loss(lambda x_t, t, context: 0 * x_t, x_start, t, noise, None)
    target = noise if prediction == "eps" else velocity(x_start, t, noise, process.alphas_cumprod)
    torch.testing.assert_close(loss, target.square().mean((1, 2, 3)))


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("count", [250, 333, 601])
def test_ddim_reaches_the_distribution_in_any_count_of_steps(count, prediction):
    process = LatentDiffusion(changed(prediction=prediction))
    x = torch.randn(1, 1, 50, 100, generator=torch.Generator().manual_seed(0)).double()
    got = process.sample(Exact(process), x, count)
    # It ends at the noise of step 0, whose deviation is 0.03.
    assert float(got.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(got.std()) == pytest.approx(0.2, abs=0.015)


def test_the_loop_is_the_process_in_one_piece():
    process = LatentDiffusion(changed(prediction="v"))
    noise, context, null = torch.randn(2, 4, 6, 8), torch.randn(2, 3, 7), torch.randn(1, 3, 7)

    def network(x, t, context):
        return (x + context.mean((1, 2))[:, None, None, None]).sin() + t[0] / 1000

    steps = ddim_steps(1000, 7, offset=1).flip(0)
    got = sample(network, noise, context, null, 3.5, steps, process.alphas_cumprod)
    torch.testing.assert_close(
        got, process.sample(Guided(network, context, null, 3.5), noise, 7), rtol=0, atol=1e-5
    )


def test_ddim_with_all_its_noise():
    process = LatentDiffusion(changed(prediction="v"))
    x = torch.randn(1, 1, 50, 100, generator=torch.Generator().manual_seed(0))
    runs = [
        process.sample(Exact(process), x, 200, eta=1.0, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert float(runs[0].std()) == pytest.approx(0.2, abs=0.03)


def test_the_steps_are_the_published_ones():
    process, seen = LatentDiffusion(ODD), []

    def predict(x_t, t):
        seen.append(t.tolist())
        return x_t

    process.sample(predict, torch.randn(2, 1, 1, 1), 50)
    assert seen == [[step, step] for step in range(981, 0, -20)]


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_eulers_method_in_noise_levels_is_ddim(prediction):
    """The same steps on another scale; only the last one goes on, to no noise at all."""
    process = LatentDiffusion(changed(prediction=prediction))
    noise = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    predict, sigmas = Exact(process), process.levels(20)
    assert len(sigmas) == 21 and float(sigmas[0]) == float(process.sigmas[951]) and sigmas[-1] == 0
    euler = list(edm.euler_steps(partial(process.estimate, predict), noise, sigmas))
    ddim = list(process.denoise(predict, noise, 20))
    for (x, seen), (other, other_seen), sigma in zip(euler, ddim, sigmas[1:], strict=True):
        torch.testing.assert_close(seen, other_seen)
        if sigma > 0:
            torch.testing.assert_close(x / (1 + sigma**2).sqrt(), other)
    assert torch.equal(euler[-1][0], euler[-1][1])


def test_the_time_of_a_noise_level():
    process = LatentDiffusion(ODD)
    sigmas = process.sigmas
    assert float(sigmas[0]) == pytest.approx(0.0291672, abs=5e-8)
    assert float(sigmas[-1]) == pytest.approx(14.6146, abs=5e-5)
    torch.testing.assert_close(process.time_of(sigmas), torch.arange(1000).double())
    between = (sigmas[7] * sigmas[8]).sqrt()[None]
    torch.testing.assert_close(process.time_of(between), torch.tensor([7.5]).double())
    beyond = torch.tensor([1e-5, 1e3])
    torch.testing.assert_close(process.time_of(beyond), torch.tensor([0.0, 999.0]))


# ---------------------------------------------------------------- captions

CAPTIONS = CaptionConfig(words=("a", "red", "blue", "cube", ","), length=6, width=8)


def test_captions_become_tokens():
    encoder = CaptionEncoder(CAPTIONS)
    tokens = encoder.tokens(["a blue cube, a cube", ""])
    assert tokens.tolist() == [[1, 3, 4, 5, 1, 4], [0] * 6]
    context = encoder(tokens)
    assert context.shape == (2, 6, 8) and context.isfinite().all()
    assert not torch.allclose(encoder(encoder.tokens(["a red cube"])), encoder(tokens[:1]))


def test_the_order_of_words_matters():
    """Without positions, other places of the same words would only move the same tokens there."""
    encoder = CaptionEncoder(CAPTIONS)
    torch.nn.init.normal_(encoder.positions)
    one, other = encoder(encoder.tokens(["red cube a blue cube", "blue cube a red cube"]))
    assert (one.mean(0) - other.mean(0)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("a green cube or ball", "at most 6 known words, got 5 .* unknown: green, or, ball"),
        ("a a a a a a a", "at most 6 known words, got 7 .* unknown: none"),
    ],
)
def test_captions_that_do_not_fit_are_refused(caption, message):
    with pytest.raises(ValueError, match=message):
        CaptionEncoder(CAPTIONS).tokens(["a cube", caption])


def test_what_stands_for_no_caption_is_dropped_in():
    encoder = CaptionEncoder(CAPTIONS)
    assert not encoder.tokens([""]).any()
