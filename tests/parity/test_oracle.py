"""Every equation and every term of the bound against the oracle, in double and single precision."""

import math

import pytest
import torch

from course_lib.diffusion import cosine_betas, linear_betas
from course_lib.papers import ddpm, improved_ddpm
from course_lib.papers.improved_ddpm import ImprovedDiffusion
from tests.parity import oracle
from tests.parity.oracle import Oracle

CHAINS = [(name, T) for name in ("linear", "cosine") for T in (50, 100, 1000, 4000)]
PIXELS = torch.tensor([0, 1, 2, 100, 127, 128, 200, 253, 254, 255], dtype=torch.float64) / 127.5 - 1
DTYPES = {torch.float64: {"rtol": 1e-8, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 1e-5}}


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def chain(name, T):
    """Our betas, and an oracle with betas of its own."""
    ours = {"linear": linear_betas, "cosine": cosine_betas}[name](T)
    theirs = {"linear": oracle.linear_betas, "cosine": oracle.cosine_betas}[name](T)
    return ours, Oracle(theirs)


def pixels_at_every_step(T, dtype, seed=0):
    """x_0, the steps and noise, (T, pixels), one row per step."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(T, len(PIXELS), generator=generator, dtype=torch.float64)
    return PIXELS.repeat(T, 1).to(dtype), torch.arange(T), noise.to(dtype)


def each(function, *tensors):
    """function(t, pixel values...) for every step and pixel, as a tensor of float64."""
    rows = zip(*(tensor.double().tolist() for tensor in tensors), strict=True)
    results = []
    for t, row in enumerate(rows, start=1):
        results.append([function(t, *values) for values in zip(*row, strict=True)])
    return float64(results)


def agree(got, expected, dtype, **tolerance):
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, **{**DTYPES[dtype], **tolerance})


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize(("name", "T"), CHAINS)
def test_schedules(name, T):
    betas, truth = chain(name, T)
    assert betas.dtype == torch.float64
    torch.testing.assert_close(betas, float64(truth.beta[1:]), rtol=1e-9, atol=0)
    torch.testing.assert_close(
        (1 - betas).cumprod(0), float64(truth.alpha_bar[1:]), rtol=1e-9, atol=0
    )
    variances = float64([truth.posterior_variance(t) for t in range(1, T + 1)])
    torch.testing.assert_close(ddpm.posterior_variance(betas), variances, rtol=1e-8, atol=0)
    logs = float64([truth.posterior_log_variance(t) for t in range(1, T + 1)])
    torch.testing.assert_close(ddpm.posterior_log_variance(betas), logs, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------- equations


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "T"), CHAINS)
def test_equations_at_every_step(name, T, dtype):
    betas, truth = chain(name, T)
    alphas_cumprod = (1 - betas).cumprod(0)
    x0, t, eps = pixels_at_every_step(T, dtype)
    xt = ddpm.q_sample(x0, t, eps, alphas_cumprod)
    agree(xt, each(lambda t, x, e: truth.q_sample(x, t, e), x0, eps), dtype)
    mean, variance = ddpm.posterior_mean_variance(x0, xt, t, betas)
    agree(mean, each(lambda t, x, y: truth.posterior_mean(x, y, t), x0, xt), dtype)
    agree(variance, each(lambda t, x: truth.posterior_variance(t), x0[:, :1]), dtype, atol=1e-12)
    # At the cosine's last step, x_t is divided by 0.03.
    atol = 1e-4 if dtype == torch.float32 else 1e-12
    expected = each(lambda t, y, e: truth.mean_from_eps(y, t, e), xt, eps)
    agree(ddpm.predict_mean(xt, t, eps, betas), expected, dtype, atol=atol)
    # x_0 is divided by sqrt(alpha_bar), 1e-5 at a cosine's end, which amplifies x_t's rounding.
    amplified = 1 + alphas_cumprod[:, None].rsqrt()
    x_start = ddpm.predict_x_start(xt, t, eps, alphas_cumprod)
    expected = each(lambda t, y, e: truth.x0_from_eps(y, t, e), xt, eps)
    agree(x_start / amplified.to(dtype), expected / amplified, dtype)
    agree(x_start / amplified.to(dtype), x0.double() / amplified, dtype)


@pytest.mark.parametrize(("name", "T"), CHAINS)
def test_eq_11_is_eq_7_with_eq_15_in_it(name, T):
    betas, _ = chain(name, T)
    x0, t, eps = pixels_at_every_step(T, torch.float64)
    alphas_cumprod = (1 - betas).cumprod(0)
    xt = ddpm.q_sample(x0, t, eps, alphas_cumprod)
    x_start = ddpm.predict_x_start(xt, t, eps, alphas_cumprod)
    substituted, _ = ddpm.posterior_mean_variance(x_start, xt, t, betas)
    mean = ddpm.predict_mean(xt, t, eps, betas)
    torch.testing.assert_close(mean, substituted, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(
        ddpm.predict_eps_from_mean(xt, t, mean, betas), eps, rtol=1e-6, atol=1e-6
    )
    torch.testing.assert_close(
        ddpm.predict_eps(xt, t, x0, alphas_cumprod), eps, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("T", [50, 1000])
def test_algorithm_2(T):
    betas, truth = chain("linear", T)
    _, t, eps = pixels_at_every_step(T, torch.float64)
    xt, noise = torch.randn_like(eps), torch.randn_like(eps)

    def line_4(t, x, e, z):
        return truth.mean_from_eps(x, t, e) + (math.sqrt(truth.beta[t]) * z if t > 1 else 0)

    agree(ddpm.sample_step(xt, t, eps, noise, betas), each(line_4, xt, eps, noise), torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "T"), CHAINS)
def test_learned_variance(name, T, dtype):
    betas, truth = chain(name, T)
    _, t, v = pixels_at_every_step(T, dtype)
    got = improved_ddpm.learned_range_variance(v, t, betas)
    agree(got, each(lambda t, v: truth.learned_log_variance(v, t), v), dtype)


# ---------------------------------------------------------------- the discretized decoder


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sigma", [1e-3, 0.0064, 0.03, 0.3, 1.0, 30.0])
def test_discretized_nll(sigma, dtype):
    """Pixels at both ends and inside; means on them, just next to them, far away, out of range."""
    offsets = [0, 1 / 255, -1 / 255, 0.0039, 0.02, -0.3, 1, -1.99, 2, 5.0]
    pairs = [(float(x), float(x) + offset) for x in PIXELS for offset in offsets]
    x, mean = (torch.tensor(column, dtype=dtype)[None] for column in zip(*pairs, strict=True))
    got = ddpm.discretized_nll(x, mean, torch.tensor(sigma, dtype=dtype).log().expand_as(x))
    # In single precision the bin is the one around the rounded pixel, except at the ends.
    columns = zip(x[0].double().tolist(), mean[0].double().tolist(), strict=True)
    expected = [oracle.nll(a, b, sigma) for a, b in columns]
    slack = {"rtol": 2e-4, "atol": 2e-4} if dtype == torch.float32 else {}
    agree(got[0], float64(expected), dtype, **slack)


@pytest.mark.parametrize(("mean", "sigma"), [(0.0, 0.1), (0.9, 0.003), (-1.3, 0.5), (0.2, 4.0)])
def test_the_256_bins_share_the_whole_mass(mean, sigma):
    x = (torch.arange(256).double() / 127.5 - 1)[None]
    mass = torch.exp(
        -ddpm.discretized_nll(x, torch.full_like(x, mean), torch.full_like(x, math.log(sigma)))
    )
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)


# ---------------------------------------------------------------- every term of the bound


def model_output(x_t, times, learned):
    """A network that is wrong in a way of its own at every pixel and step."""
    phase = torch.arange(x_t.shape[1], device=x_t.device).to(x_t)
    eps = 0.9 * x_t + 0.1 * torch.sin(3 * x_t + phase + times[:, None] / 100)
    return torch.cat([eps, torch.cos(5 * x_t + phase)], dim=1) if learned else eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", [True, False], ids=["clipped", "unclipped"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize(("name", "T"), CHAINS)
def test_every_term_of_the_bound(name, T, variance, clip, dtype):
    betas, truth = chain(name, T)
    process = ImprovedDiffusion(betas, variance)
    x0, t, noise = pixels_at_every_step(T, dtype)
    x_t = process.q_sample(x0, t, noise)
    output = model_output(x_t, process.times.to(x_t), variance == "learned_range")
    p = process.p_mean_variance(lambda x, t: output, x_t, t, clip=clip)
    got = ddpm.term_bits(p.mean, p.log_variance, x0, x_t, t, betas)

    def term(t, x, y, e, v):
        mean = truth.mean_from_eps(y, t, e)
        if clip:
            mean = truth.posterior_mean(min(max(truth.x0_from_eps(y, t, e), -1), 1), y, t)
        log_variance = {
            "fixed_small": truth.posterior_log_variance(t),
            "fixed_large": math.log(truth.beta[t]) if t > 1 else truth.posterior_log_variance(t),
            "learned_range": truth.learned_log_variance(v, t),
        }[variance]
        return truth.term(x, y, t, mean, log_variance)

    if variance == "learned_range":
        eps, v = output.chunk(2, dim=1)
    else:
        eps = output
        v = torch.zeros_like(output)
    expected = each(term, x0, x_t, eps, v).mean(1)
    tolerance = {"rtol": 2e-5 if dtype == torch.float32 else 1e-6}
    agree(got, expected, dtype, **tolerance)
    if not clip and variance == "learned_range":
        told = process.vlb_loss(lambda x, t: output, x0, t, noise)
        agree(told / T, expected, dtype, **tolerance)
        hybrid = process.hybrid_loss(lambda x, t: output, x0, t, noise)
        simple = (noise - eps).double().square().mean(1)
        agree(hybrid, simple + 0.001 * T * expected, dtype, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "T"), CHAINS)
def test_prior(name, T, dtype):
    """In single precision too, though it is 1e-5 bits and less."""
    betas, truth = chain(name, T)
    got = ImprovedDiffusion(betas).prior_bits(PIXELS[None].to(dtype))
    expected = sum(truth.prior(x) for x in PIXELS.tolist()) / len(PIXELS)
    assert float(got) == pytest.approx(expected, rel=1e-4 if dtype == torch.float32 else 1e-6)


# ---------------------------------------------------------------- Eq. 18 and 19 of Improved DDPM


def test_importance_weights():
    history = torch.rand(7, 10, dtype=torch.float64) * torch.logspace(-3, 1, 7).double()[:, None]
    p, weights = improved_ddpm.importance_weights(history, uniform=0.02)
    expected = oracle.importance(history.tolist(), 0.02)
    for got, right in zip((p, weights), expected, strict=True):
        torch.testing.assert_close(got, float64(right))
    assert float(p.sum()) == pytest.approx(1)


@pytest.mark.parametrize(("name", "T"), CHAINS)
def test_respaced_betas(name, T):
    betas, truth = chain(name, T)
    for count in (2, 17, T):
        kept = improved_ddpm.strided_steps(T, count)
        expected = truth.respaced([t + 1 for t in kept.tolist()])
        got = improved_ddpm.respace(betas, kept)
        torch.testing.assert_close(got, float64(expected), rtol=1e-8, atol=1e-12)
