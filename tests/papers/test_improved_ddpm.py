"""Improved DDPM: published figures, learned variances, samplers of t, fewer steps, refusals."""

import itertools
import math
from fractions import Fraction

import pytest
import torch

from course_lib.diffusion import GaussianMixture, cosine_betas, linear_betas
from course_lib.papers import ddpm, improved_ddpm
from course_lib.papers.improved_ddpm import (
    IMPROVED_DDPM_CONFIGS,
    ImportanceSampler,
    ImprovedDDPMConfig,
    ImprovedDiffusion,
    UNet,
    ddim_steps,
    learned_range_variance,
    strided_steps,
)


def batch(process, n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_start = torch.rand(n, 3, 4, 5, generator=generator) * 2 - 1
    noise = torch.randn(n, 3, 4, 5, generator=generator)
    t = torch.randint(1, process.steps, (n,), generator=generator)
    t[0] = 0
    return x_start, t, noise, process.q_sample(x_start, t, noise)


# ---------------------------------------------------------------- figures of the paper


@pytest.mark.parametrize(("timesteps", "expected"), [(1000, 4.38e-10), (4000, 2.7e-11)])
def test_nothing_is_left_in_x_t(timesteps, expected):
    x = torch.full((1, 8), 0.5, dtype=torch.float64)
    assert float(ImprovedDiffusion(cosine_betas(timesteps)).prior_bits(x)) == pytest.approx(
        expected, rel=0.02
    )


def test_an_output_of_zero_is_the_geometric_middle():
    betas = cosine_betas(4000)
    assert float(ddpm.posterior_log_variance(betas)[0]) == pytest.approx(-12.204537, abs=1e-6)
    zero = torch.zeros(2, 1)
    got = learned_range_variance(zero, torch.tensor([0, 100]), betas)[:, 0]
    torch.testing.assert_close(got, torch.tensor([-11.865486, -10.128280]), rtol=0, atol=2e-6)
    ends = [learned_range_variance(zero + v, torch.tensor([0, 100]), betas)[:, 0] for v in (1, -1)]
    torch.testing.assert_close(ends[0], betas[[0, 100]].log().float())
    torch.testing.assert_close(ends[1], ddpm.posterior_log_variance(betas)[[0, 100]].float())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("CIFAR-10", 52_546_438),
        ("CIFAR-10 fixed variance", 52_542_979),
        ("ImageNet-64", 121_063_942),
    ],
)
def test_sizes(name, count):
    with torch.device("meta"):
        model = UNet(IMPROVED_DDPM_CONFIGS[name])
    assert sum(p.numel() for p in model.parameters()) == count


# ---------------------------------------------------------------- the network


def test_a_fresh_network_is_zero_and_its_variance_in_the_middle():
    model = UNet(IMPROVED_DDPM_CONFIGS["tiny"])
    out = model(torch.randn(2, 3, 8, 8), torch.tensor([0.25, 999.0]))
    assert out.shape == (2, 6, 8, 8) and not out.any()


def test_the_time_scales_and_shifts_the_second_norm():
    block = improved_ddpm.ScaleShiftResBlock(8, 8, 5, 4, 1e-5, 0.0)
    x, time = torch.randn(2, 8, 4, 4), torch.randn(2, 5)
    torch.nn.init.zeros_(block.time.weight)
    with torch.no_grad():
        block.time.bias.copy_(torch.cat([torch.full((8,), -1.0), torch.full((8,), 0.3)]))
        h = torch.nn.functional.silu(torch.full_like(x, 0.3))  # GN(h) (1 - 1) + 0.3
        torch.testing.assert_close(block(x, time), x + block.conv2(h))


# ---------------------------------------------------------------- the hybrid loss


@pytest.mark.parametrize(
    "betas", [linear_betas(100), cosine_betas(4000)], ids=["linear 100", "cosine 4000"]
)
def test_l_simple_teaches_the_mean_and_l_vlb_the_variance(betas):
    process = ImprovedDiffusion(betas, "learned_range")
    x_start, t, noise, x_t = batch(process)
    output = (0.3 * torch.randn(4, 6, 4, 5)).requires_grad_()

    def slope(loss):
        return torch.autograd.grad(loss.sum(), output)[0].chunk(2, dim=1)

    eps, v = output.chunk(2, dim=1)
    hybrid = slope(improved_ddpm.hybrid_loss(output, x_start, x_t, t, noise, betas))
    simple = slope((noise - eps).square().flatten(1).mean(1))
    bound = slope(improved_ddpm.vlb_term(eps, v, x_start, x_t, t, betas))
    assert bound[0].abs().max() > 0 and bound[1].abs().max() > 0
    torch.testing.assert_close(hybrid[0], simple[0])
    torch.testing.assert_close(hybrid[1], 0.001 * len(betas) * bound[1])


def test_the_vlb_loss_is_an_estimate_of_the_whole_bound():
    process = ImprovedDiffusion(cosine_betas(50), "learned_range")
    x_start = torch.rand(1, 3, 4, 5).expand(50, -1, -1, -1) * 2 - 1
    noise, t = torch.randn(x_start.shape), torch.arange(50)

    def model(x, times):
        return torch.cat([0.9 * x, 0.1 * x], dim=1)

    losses = process.vlb_loss(model, x_start, t, noise)
    x_t = process.q_sample(x_start, t, noise)
    p = process.p_mean_variance(model, x_t, t, clip=False)
    terms = ddpm.term_bits(p.mean, p.log_variance, x_start, x_t, t, process.betas)
    torch.testing.assert_close(losses.mean(), terms.sum())


# ---------------------------------------------------------------- importance sampling


def test_the_sampler_is_even_until_every_step_has_its_memory():
    sampler = ImportanceSampler(3, memory=2)
    even = torch.full((3,), 1 / 3)
    for t in (0, 0, 0, 1, 1, 2):
        p, weights = sampler.probabilities()
        torch.testing.assert_close(p, even)
        torch.testing.assert_close(weights, torch.ones(3))
        sampler.update(torch.tensor([t]), torch.tensor([4.0 if t == 0 else 1.0]))
    torch.testing.assert_close(sampler.probabilities()[0], even)
    sampler.update(torch.tensor([2]), torch.tensor([1.0]))
    p, weights = sampler.probabilities()
    torch.testing.assert_close(p, 0.999 * torch.tensor([4, 1, 1]) / 6 + 0.001 / 3)
    torch.testing.assert_close(weights, 1 / (3 * p))


def test_the_sampler_forgets_the_oldest_loss():
    sampler = ImportanceSampler(2, memory=3)
    sampler.update(torch.tensor([1, 1, 1, 1, 0]), torch.tensor([9.0, 1, 2, 3, 7]))
    assert sorted(sampler.history[1].tolist()) == [1, 2, 3] and sampler.seen.tolist() == [1, 4]


def test_the_sampler_keeps_no_graph():
    sampler = ImportanceSampler(2)
    sampler.update(torch.tensor([0]), torch.ones(1, requires_grad=True) * 2)
    assert not sampler.history.requires_grad


def test_weighted_losses_are_unbiased_and_quieter():
    """The mean of w_t L_t over drawn t is the mean of L_t, exactly in expectation; its spread is
    smaller.
    """
    losses = torch.logspace(1, -4, 40).double()
    p, weights = improved_ddpm.importance_weights(losses[:, None].expand(-1, 10))
    assert float((p * weights * losses).sum()) == pytest.approx(float(losses.mean()), rel=1e-12)
    spread = (p * (weights * losses).square()).sum() - losses.mean() ** 2
    assert float(spread) < 0.01 * float(losses.var(correction=0))
    drawn = torch.multinomial(
        p, 20_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    assert float((weights * losses)[drawn].mean()) == pytest.approx(float(losses.mean()), rel=0.01)


def test_no_step_is_forgotten():
    history = torch.zeros(10, 2)
    history[0] = 1
    p, weights = improved_ddpm.importance_weights(history)
    torch.testing.assert_close(p[1:], torch.full((9,), 1e-4))
    assert float(weights.max()) == pytest.approx(1000)


def test_the_sampler_is_saved_with_the_training_run():
    first, second = ImportanceSampler(4, memory=2), ImportanceSampler(4, memory=2)
    first.update(torch.tensor([0, 1, 2, 3] * 2), torch.rand(8))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.probabilities()[0], second.probabilities()[0])
    assert set(first.state_dict()) == {"history", "seen"}


# ---------------------------------------------------------------- fewer steps


def test_strided_steps_as_published():
    kept = strided_steps(4000, 100).tolist()
    assert kept[:4] == [0, 40, 81, 121] and kept[-2:] == [3959, 3999] and len(set(kept)) == 100


@pytest.mark.parametrize("timesteps", [50, 357, 1000, 4000])
def test_strided_steps_are_rounded_as_in_the_official_code(timesteps):
    """Strides are summed in doubles; 11 * 999 / 22 is a half, and the sum is a little less."""
    for count in [*range(2, 49), timesteps // 2, timesteps - 1, timesteps]:
        stride = (timesteps - 1) / (count - 1)
        sums = itertools.accumulate([0.0] + [stride] * (count - 1))
        exact = [Fraction(i * (timesteps - 1), count - 1) for i in range(count)]
        kept = strided_steps(timesteps, count).tolist()
        assert kept == [round(x) for x in sums]
        assert all(abs(got - x) <= Fraction(1, 2) for got, x in zip(kept, exact, strict=True))
    assert strided_steps(1000, 23)[11] == 499


@pytest.mark.parametrize(
    "betas", [linear_betas(1000), cosine_betas(1000)], ids=["linear", "cosine"]
)
def test_a_shorter_chain_has_the_same_noise_where_it_stops(betas):
    process = ImprovedDiffusion(betas, "learned_range")
    short = process.respaced(17)
    kept = strided_steps(1000, 17)
    torch.testing.assert_close(
        short.alphas_cumprod, process.alphas_cumprod[kept], rtol=1e-9, atol=0
    )
    assert (
        short.steps == 17 and short.variance == "learned_range" and type(short) is ImprovedDiffusion
    )
    assert short.times.tolist() == kept.tolist()


def test_a_chain_of_ddim_s_steps_leaves_out_the_last():
    assert ddim_steps(1000, 50).tolist() == list(range(0, 1000, 20))
    process = ImprovedDiffusion(cosine_betas(4000)).respaced(100, ddim_steps)
    assert process.steps == 100 and process.times.tolist() == list(range(0, 1000, 10))
    for count in (1, 1001):
        with pytest.raises(ValueError, match=rf"count: expected 2\.\.1000, got {count}"):
            ddim_steps(1000, count)


def test_respacing_to_every_step_changes_nothing():
    process = ImprovedDiffusion(cosine_betas(200))
    same = process.respaced(200)
    torch.testing.assert_close(same.betas, process.betas, rtol=1e-9, atol=1e-15)
    assert torch.equal(same.times, process.times)


def test_respacing_twice_still_tells_the_original_times():
    process = ImprovedDiffusion(cosine_betas(4000))
    twice = process.respaced(9).respaced(3)
    assert twice.times.tolist() == [0, 500, 999.75]
    torch.testing.assert_close(
        twice.alphas_cumprod, process.alphas_cumprod[[0, 2000, 3999]], rtol=1e-6, atol=0
    )


# ---------------------------------------------------------------- with the best possible network


@pytest.mark.parametrize(
    ("schedule", "count", "eta"),
    [("linear", 200, None), ("cosine", 200, None), ("linear", 100, 0.0), ("cosine", 50, 1.0)],
)
def test_sampling_with_the_exact_noise_gives_the_distribution_back(schedule, count, eta):
    mixture = GaussianMixture(
        torch.tensor([[-0.6, 0.2], [0.5, 0.5], [0.3, -0.6]]),
        torch.tensor([0.05, 0.1, 0.2]),
        torch.tensor([1, 2, 3.0]),
    )
    whole = ImprovedDiffusion(ImprovedDiffusion.schedules[schedule](1000), "fixed_small")
    process = whole.respaced(count)

    def model(x, times):
        return mixture.best_eps(x, float(whole.alphas_cumprod[round(float(times[0]))]))

    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4000, 2, generator=generator)
    got = process.sample(model, start, eta=eta, generator=generator, clip=False)
    expected = mixture.sample(200_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(got.mean(0), expected.mean(0), rtol=0, atol=0.04)
    torch.testing.assert_close(got.T.cov(), expected.T.cov(), rtol=0, atol=0.025)
    nearest = (got[:, None] - mixture.means).norm(dim=2).argmin(1).bincount() / len(got)
    truth = (expected[:, None] - mixture.means).norm(dim=2).argmin(1).bincount() / len(expected)
    torch.testing.assert_close(nearest, truth, rtol=0, atol=0.04)


# ---------------------------------------------------------------- what is refused


def test_bad_steps_and_values_are_refused(untyped):
    process = ImprovedDiffusion(cosine_betas(100), "learned_range")
    x_start, t, noise, x_t = batch(process)
    output = torch.cat([noise, noise], dim=1)
    with pytest.raises(ValueError, match=r"t: expected 0\.\.99, got 0\.\.100"):
        learned_range_variance(noise, torch.tensor([0, 1, 2, 100]), process.betas)
    with pytest.raises(ValueError, match="v: expected finite values"):
        learned_range_variance(noise * math.nan, t, process.betas)
    with pytest.raises(
        ValueError,
        match=r"noise: expected the shape of x_start, \(4, 3, 4, 5\), got \(4, 1, 4, 5\)",
    ):
        improved_ddpm.hybrid_loss(output, x_start, x_t, t, noise[:, :1], process.betas)
    with pytest.raises(ValueError, match=r"t: expected 0\.\.99, got -1\.\.99"):
        process.hybrid_loss(lambda x, times: output, x_start, torch.tensor([0, -1, 2, 99]), noise)
    with pytest.raises(ValueError, match="x_t: expected finite values"):
        process.p_mean_variance(lambda x, times: output, x_t * math.inf, t)


@pytest.mark.parametrize("count", [1, 0, -5, 1001])
def test_chains_too_short_or_too_long_are_refused(count):
    with pytest.raises(ValueError, match=rf"count: expected 2\.\.1000, got {count}"):
        strided_steps(1000, count)


@pytest.mark.parametrize("kept", [[3, 2], [2, 2], [-1, 4], [0, 10]])
def test_steps_that_cannot_be_kept_are_refused(kept):
    with pytest.raises(ValueError, match=r"kept: expected rising steps within 0\.\.9, got \["):
        improved_ddpm.respace(cosine_betas(10), torch.tensor(kept))


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="got 15"):
        UNet(ImprovedDDPMConfig(width=15, norm_groups=1, heads=1))


@pytest.mark.parametrize("channels", [1, 3])
def test_with_a_learned_variance_l_simple_reads_only_the_noise(channels):
    process = ImprovedDiffusion(cosine_betas(20), "learned_range")
    x, noise = torch.randn(2, 4, channels, 2, 3, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 3, 9, 19])
    found = process.loss(lambda x_t, t: torch.cat([0.5 * x_t, 7 + x_t], dim=1), x, t, noise)
    x_t = process.q_sample(x, t, noise)
    torch.testing.assert_close(found, (noise - 0.5 * x_t).square().flatten(1).mean(1))
