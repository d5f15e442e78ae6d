"""Noise levels, what is around the network at each, and the steps between them."""

import math

import pytest
import torch

from course_lib.diffusion import GaussianMixture, edm


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---------------------------------------------------------------- around the network


@pytest.mark.parametrize(
    ("sigma", "expected"),
    [
        (0.5, (0.8, -0.4472136, 0.8944272, -0.1732868)),
        (1.0, (0.5, -0.7071068, 0.7071068, 0.0)),
        (10.0, (0.00990099, -0.9950372, 0.0995037, 0.5756463)),
    ],
)
def test_the_four_factors(sigma, expected):
    got = edm.precondition(torch.tensor(sigma, dtype=torch.float64))
    assert [float(c) for c in got] == pytest.approx(expected, abs=5e-8)


def test_the_time_the_network_is_told_at_both_ends():
    c_noise = edm.precondition(torch.tensor([700.0, 0.002])).c_noise
    assert c_noise.tolist() == pytest.approx([1.63777, -1.55365], abs=5e-6)


def test_the_weight_makes_all_levels_count_alike():
    sigma = torch.tensor([[0.5, 1, 10], [0.002, 700, 3]], dtype=torch.float64)
    weight = edm.loss_weight(sigma)
    assert weight[0].tolist() == pytest.approx([5, 2, 1.01])
    torch.testing.assert_close(
        weight * edm.precondition(sigma).c_out ** 2, torch.ones(2, 3, dtype=torch.float64)
    )


def test_what_the_network_sees_and_has_to_say_is_of_unit_size():
    x_start, noise = random(2, 200_000)
    for sigma in (0.002, 0.3, 1.0, 40.0, 700.0):
        c_skip, c_out, c_in, _ = edm.precondition(torch.tensor(sigma, dtype=torch.float64))
        x = x_start + sigma * noise
        target = (x_start - c_skip * x) / c_out
        assert float((c_in * x).var()) == pytest.approx(1, abs=0.02)
        assert float(target.var()) == pytest.approx(1, abs=0.02)


def test_the_network_predicts_v():
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_start, of the variance-preserving process."""
    x_start, noise = random(2, 3, 4)
    sigma = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    c_in = edm.precondition(sigma).c_in[:, None]  # sqrt(alpha_bar)
    v = c_in * noise - (1 - c_in**2).sqrt() * x_start
    got = edm.denoise(lambda x, t: v, x_start + sigma[:, None] * noise, sigma)
    torch.testing.assert_close(got, x_start)


def test_denoise_scales_its_network_s_input_and_tells_each_sample_its_own_time():
    x, sigma = random(2, 3, 4, 5), torch.tensor([0.5, 10.0], dtype=torch.float64)
    calls = []

    def network(x, time):
        calls.append((x, time))
        return torch.zeros_like(x)

    got = edm.denoise(network, x, sigma)
    scale = torch.tensor([0.8944272, 0.0995037], dtype=torch.float64)
    ((seen, time),) = calls
    torch.testing.assert_close(seen, x * scale[:, None, None, None], rtol=0, atol=1e-6)
    assert time.tolist() == pytest.approx([-0.1732868, 0.5756463], abs=5e-8)
    skip = torch.tensor([0.8, 0.00990099], dtype=torch.float64)
    torch.testing.assert_close(got, x * skip[:, None, None, None], rtol=0, atol=1e-7)


def test_the_loss_is_the_plain_error_of_v():
    x_start, noise, says = random(3, 2, 5)
    sigma = torch.tensor([0.2, 6.0], dtype=torch.float64)
    c_in = edm.precondition(sigma).c_in[:, None]
    v = c_in * noise - (1 - c_in**2).sqrt() * x_start
    got = edm.denoising_loss(lambda x, t: says, x_start, sigma, noise)
    torch.testing.assert_close(got, (says - v).square().mean(1))


# ---------------------------------------------------------------- noise levels


def test_noise_levels_are_log_normal():
    normal = random(50_000)
    got = edm.noise_levels(normal, p_mean=0.7, p_std=1.6).log()
    assert float(got.mean()) == pytest.approx(0.7, abs=0.03)
    assert float(got.std()) == pytest.approx(1.6, abs=0.03)
    assert edm.noise_levels(torch.zeros(1), -1.2, 1.0).item() == pytest.approx(math.exp(-1.2))
    assert torch.equal(
        edm.noise_levels(normal[:3], 0.5, 0.0), torch.full_like(normal[:3], 0.5).exp()
    )


def test_karras_sigmas():
    sigmas = edm.karras_sigmas(25)
    assert sigmas.dtype == torch.float64 and len(sigmas) == 26
    assert sigmas[:3].tolist() == pytest.approx([700, 545.729, 421.569], rel=1e-5)
    assert sigmas[-2:].tolist() == pytest.approx([0.002, 0])
    assert (sigmas[:-1] > sigmas[1:]).all()


def test_other_karras_sigmas():
    assert edm.karras_sigmas(1, 0.1, 5.0).tolist() == pytest.approx([5, 0])
    assert edm.karras_sigmas(3, 1.0, 9.0, rho=1.0).tolist() == pytest.approx([9, 5, 1, 0])
    assert edm.karras_sigmas(3, 1.0, 9.0, rho=2.0).tolist() == pytest.approx([9, 4, 1, 0])


# ---------------------------------------------------------------- steps


def test_a_step_with_the_true_x_start_stays_on_the_true_path():
    x_start, noise = random(2, 3, 4)
    now, then = torch.tensor(5.0), torch.tensor(2.0)
    got = edm.euler_step(x_start + now * noise, x_start, now, then)
    torch.testing.assert_close(got, x_start + then * noise)


def test_the_last_step_ends_in_the_estimate():
    x, denoised = random(2, 3, 4)
    got = edm.euler_step(x, denoised, torch.tensor(0.3), torch.tensor(0.0))
    torch.testing.assert_close(got, denoised)


def test_a_level_per_sample_broadcasts():
    x, denoised = random(2, 2, 3)
    now, then = torch.tensor([[2.0], [1.0]]), torch.tensor([[1.0], [0.5]])
    both = edm.euler_step(x, denoised, now, then)
    for i in range(2):
        torch.testing.assert_close(both[i], edm.euler_step(x[i], denoised[i], now[i], then[i]))


def test_sampling_with_the_best_denoiser_finds_the_mixture():
    """The score of a mixture is known: the samples have its means and its spread."""
    mixture = GaussianMixture.ring(components=4, radius=0.8, std=0.1)

    def denoiser(x, sigma):
        noisy = GaussianMixture(mixture.means, (mixture.variances + sigma[0] ** 2).sqrt())
        return x + sigma[0] ** 2 * noisy.score(x)

    sample = edm.euler_sample(denoiser, random(400, 2), edm.karras_sigmas(60, 0.002, 80.0))
    distance = torch.cdist(sample, mixture.means)  # n k
    nearest = distance.min(dim=1)
    assert nearest.indices.bincount(minlength=4).min() > 60
    assert float(nearest.values.square().mean()) == pytest.approx(2 * 0.1**2, rel=0.15)


def test_sampling_starts_from_noise_of_the_size_of_noisy_data_and_yields_every_step():
    noise, seen = random(2, 3), []

    def denoiser(x, sigma):
        seen.append((x, sigma))
        return torch.ones_like(x)

    sigmas = edm.karras_sigmas(3, 1.0, 9.0, rho=1.0)
    steps = list(edm.euler_steps(denoiser, noise, sigmas))
    assert [sigma.tolist() for _, sigma in seen] == [[9, 9], [5, 5], [1, 1]]
    torch.testing.assert_close(seen[0][0], noise * math.sqrt(82))
    assert len(steps) == 3
    torch.testing.assert_close(steps[-1][0], torch.ones_like(noise))
    torch.testing.assert_close(edm.euler_sample(denoiser, noise, sigmas), steps[-1][0])


def test_sampling_keeps_single_precision():
    noise = random(2, 3, dtype=torch.float32)
    got = edm.euler_sample(lambda x, sigma: x / (1 + sigma[:, None]), noise, edm.karras_sigmas(4))
    assert got.dtype == torch.float32


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edm.precondition(torch.tensor([1.0, 0.0])), "sigma: expected positive .*, got 0"),
        (lambda: edm.loss_weight(torch.tensor(-1.0)), "sigma: expected positive .*, got -1"),
        (lambda: edm.precondition(torch.tensor([math.nan])), "sigma: expected positive"),
        (
            lambda: edm.euler_step(*torch.zeros(2, 3), torch.tensor(0.0), torch.tensor(0.0)),
            "sigma: expected positive",
        ),
        (lambda: edm.noise_levels(torch.zeros(2), 0.0, -1.0), "p_std: expected at least 0, got -1"),
        (lambda: edm.karras_sigmas(0), "steps: expected at least 1, got 0"),
        (lambda: edm.karras_sigmas(5, 3.0, 2.0), "sigmas: expected 0 < min <= max, got 3.0 and 2"),
        (lambda: edm.karras_sigmas(5, 0.0), "sigmas: expected 0 < min <= max, got 0.0"),
        (lambda: edm.karras_sigmas(5, rho=0.0), "rho: expected a positive number, got 0"),
        (
            lambda: edm.denoising_loss(
                lambda x, t: x, torch.zeros(2, 3), torch.ones(2), torch.zeros(2, 1)
            ),
            r"noise: expected the shape of x_start, \(2, 3\), got \(2, 1\)",
        ),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(call, message, untyped):
    with pytest.raises(ValueError, match=message):
        call()
