"""The schedules against the papers' figures, and tables that are no schedule."""

import math

import pytest
import torch

from course_lib.diffusion import (
    cosine_alphas_cumprod,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    shift_snr,
    validate_betas,
    zero_terminal_snr,
)


def test_the_linear_schedule():
    betas = linear_betas(1000)
    alphas_cumprod = (1 - betas).cumprod(0)
    assert betas.dtype == torch.float64 and len(betas) == 1000
    assert float(betas[0]) == pytest.approx(1e-4) and float(betas[-1]) == pytest.approx(0.02)
    assert float(alphas_cumprod[499]) == pytest.approx(0.0785872, abs=5e-8)
    assert float(alphas_cumprod[-1]) == pytest.approx(4.03583e-5, rel=1e-5)
    assert float(alphas_cumprod[-1].sqrt()) == pytest.approx(0.0063528, abs=5e-8)


def test_the_linear_schedule_at_other_lengths_ends_in_the_same_noise():
    betas = linear_betas(4000)
    assert float(betas[0]) == pytest.approx(2.5e-5) and float(betas[-1]) == pytest.approx(5e-3)
    alphas_cumprod = (1 - betas).cumprod(0)
    assert float(alphas_cumprod[1999]) == pytest.approx(0.0789449, abs=5e-8)
    assert float(alphas_cumprod[-1]) == pytest.approx(4.24665e-5, rel=1e-5)


@pytest.mark.parametrize(
    ("first", "last", "first_alpha_bar", "last_alpha_bar"),
    [
        (0.00085, 0.012, 0.99915, 0.0046601),  # Stable Diffusion
        (0.0015, 0.0195, 0.9985, 1.42304e-4),  # LDM on CelebA and ImageNet
        (0.0015, 0.0155, 0.9985, 6.68665e-4),  # LDM on churches
    ],
)
def test_the_scaled_linear_schedule(first, last, first_alpha_bar, last_alpha_bar):
    betas = scaled_linear_betas(1000, first, last)
    alphas_cumprod = (1 - betas).cumprod(0)
    assert betas.dtype == torch.float64 and len(betas) == 1000
    torch.testing.assert_close(betas.sqrt().diff().diff(), torch.zeros(998).double())
    assert float(alphas_cumprod[0]) == pytest.approx(first_alpha_bar, abs=1e-12)
    assert float(alphas_cumprod[-1]) == pytest.approx(last_alpha_bar, rel=1e-5)


@pytest.mark.parametrize("arguments", [(1, 0.1, 0.2), (9, 0, 0.2), (9, 0.2, 0.1), (9, 0.1, 1)])
def test_scaled_linear_schedules_that_are_none(arguments, untyped):
    with pytest.raises(ValueError, match="expected 2 steps or more and 0 < first <= last < 1, got"):
        scaled_linear_betas(*arguments)


@pytest.mark.parametrize(
    ("timesteps", "first", "last"),
    [(1000, 4.12842e-5, 2.42877e-9), (4000, 9.86582e-6, 1.51798e-10)],
)
def test_the_cosine_schedule(timesteps, first, last):
    betas = cosine_betas(timesteps)
    alphas_cumprod = (1 - betas).cumprod(0)
    assert float(betas[0]) == pytest.approx(first, rel=1e-5) and float(betas[-1]) == 0.999
    assert float(alphas_cumprod[timesteps // 2 - 1]) == pytest.approx(0.4938436, abs=5e-8)
    assert float(alphas_cumprod[-1]) == pytest.approx(last, rel=1e-4)


@pytest.mark.parametrize("timesteps", [50, 100, 1000, 4000])
def test_the_clip_touches_only_the_last_beta(timesteps):
    exact = cosine_alphas_cumprod(timesteps)
    unclipped = 1 - exact / torch.cat([torch.ones(1, dtype=torch.float64), exact[:-1]])
    betas = cosine_betas(timesteps)
    assert torch.equal(betas[:-1], unclipped[:-1]) and float(unclipped[-1]) == pytest.approx(1)
    if timesteps == 4000:  # 1 - (k / (k + 1))^2, counted from the end
        expected = [1 - (k / (k + 1)) ** 2 for k in range(1, 5)]
        torch.testing.assert_close(
            betas[-5:-1].flip(0), torch.tensor(expected).double(), rtol=0, atol=1e-5
        )


def test_the_first_noise_is_just_under_a_pixel():
    """Why s = 0.008: sqrt(beta) starts a little below the 1 / 127.5 between two pixel values."""
    assert math.cos(0.008 / 1.008 * math.pi / 2) ** 2 == pytest.approx(0.999844591, abs=5e-10)
    for timesteps, expected in {1000: 0.006425, 4000: 0.003141}.items():
        assert float(cosine_betas(timesteps)[0].sqrt()) == pytest.approx(expected, abs=5e-7)
        assert expected < 1 / 127.5


def test_tables_that_are_no_schedule_are_refused(untyped):
    validate_betas(linear_betas(1000))
    for betas in (torch.tensor([0.1, 1]), torch.tensor([0, 0.1]), torch.tensor([0.1, math.nan])):
        with pytest.raises(ValueError, match="strictly between 0 and 1"):
            validate_betas(betas)
    for betas in (torch.tensor([0.1]), torch.tensor(0.1), torch.ones(2, 2)):
        with pytest.raises(ValueError, match="at least two steps"):
            validate_betas(betas)


def test_the_shift_divides_the_signal_to_noise_ratio():
    table = (1 - scaled_linear_betas()).cumprod(0)
    shifted = shift_snr(table, 3.0)
    torch.testing.assert_close(
        torch.logit(table) - torch.logit(shifted), torch.full((1000,), math.log(3.0)).double()
    )
    assert torch.equal(shift_snr(table, 1.0), table)


def test_the_shift_comes_before_the_rescaling():
    table = (1 - scaled_linear_betas()).cumprod(0)
    both = zero_terminal_snr(table, 3.0)
    assert torch.equal(both, zero_terminal_snr(shift_snr(table, 3.0)))
    # The other order has the same ends, and other values between.
    other = shift_snr(zero_terminal_snr(table), 3.0)
    torch.testing.assert_close(both[[0, -1]], other[[0, -1]])
    assert float((both - other).abs().max()) > 0.001
    # CogVideoX-2B and 5B
    assert float(both[0]) == pytest.approx(0.99745433, abs=5e-9)
    assert float(both[499]) == pytest.approx(0.0959696, abs=5e-8)
    assert float(zero_terminal_snr(table)[499]) == pytest.approx(0.2423592, abs=5e-8)


def test_zero_terminal_snr_keeps_the_first_and_ends_in_noise():
    table = (1 - scaled_linear_betas()).cumprod(0)
    rescaled = zero_terminal_snr(table)
    assert float(rescaled[-1]) == 0 and float(rescaled[0]) == pytest.approx(float(table[0]))
    assert bool((rescaled.diff() < 0).all()) and bool((rescaled[1:] < table[1:]).all())
    # An even stretch of the square root.
    root, before = rescaled.sqrt(), table.sqrt()
    slope = (root[0] - root[500]) / (before[0] - before[500])
    torch.testing.assert_close(root[0] - root, slope * (before[0] - before))
