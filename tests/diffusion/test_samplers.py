"""DDIM's steps are right for every count: distinct, even, and from the noisy end."""

import pytest
import torch

from course_lib.diffusion import (
    GaussianMixture,
    ddim_step,
    ddim_step_towards,
    ddim_steps,
    dpm_solver_step,
    linear_betas,
    previous,
    scaled_linear_betas,
    trailing_steps,
    zero_terminal_snr,
)

# ---------------------------------------------------------------- which steps


@pytest.mark.parametrize("timesteps", [2, 7, 50, 357, 1000])
def test_every_count_spreads_its_steps_evenly_up_to_the_noisy_end(timesteps):
    last = -1
    for count in range(2, timesteps + 1):
        kept = ddim_steps(timesteps, count)
        assert kept.dtype == torch.int64 and len(kept) == count and kept[0] == 0
        # from each to the next, and from the last to T, a stride rounded down or up
        gaps = torch.cat([kept, torch.tensor([timesteps])]).diff()
        assert {*gaps.tolist()} <= {timesteps // count, -(-timesteps // count)} - {0}
        # more steps never start further from the noise, and T - 1 is kept by none but all of them
        assert last <= kept[-1] and (kept[-1] == timesteps - 1) == (count == timesteps)
        last = kept[-1]


@pytest.mark.parametrize("timesteps", [50, 1000, 4000])
def test_where_the_count_divides_them_the_steps_are_the_published_ones(timesteps):
    for count in range(2, timesteps + 1):
        if timesteps % count == 0:
            published = [*range(0, timesteps, timesteps // count)]
            assert ddim_steps(timesteps, count).tolist() == published
            if count < timesteps:
                later = [step + 1 for step in published]
                assert ddim_steps(timesteps, count, offset=1).tolist() == later


def test_an_offset_never_leads_beyond_the_last_step():
    for count in range(2, 51):
        kept = ddim_steps(50, count, offset=1)
        assert (kept - ddim_steps(50, count)).unique().tolist() == [int(count < 50)]
    assert ddim_steps(50, 5, offset=1000).tolist() == [9, 19, 29, 39, 49]


@pytest.mark.parametrize("count", [-3, 0, 1, 1001, 2.5, 10.0])
def test_other_counts_are_refused(count, untyped):
    with pytest.raises(ValueError, match=rf"count: expected 2\.\.1000, got {count}"):
        ddim_steps(1000, count)


def test_an_offset_below_zero_is_refused():
    with pytest.raises(ValueError, match="offset: expected 0 or more, got -1"):
        ddim_steps(1000, 50, offset=-1)


# ---------------------------------------------------------------- with the best possible network


def deviation(count, offset):
    """How widely DDIM spreads what it draws of a normal of deviation 0.2, given the exact noise.

    All steps are linear there, so two starts tell.
    """
    truth = GaussianMixture(torch.tensor([[0.3]]), torch.tensor([0.2]))
    alphas_cumprod = (1 - linear_betas(1000)).cumprod(0)[ddim_steps(1000, count, offset)]
    x = torch.tensor([[-1.0], [1.0]])
    for now, then in zip(alphas_cumprod.flip(0), previous(alphas_cumprod).flip(0), strict=True):
        x = ddim_step(x, truth.best_eps(x, float(now)), now, then)
    return float(x.std(correction=0))


@pytest.mark.parametrize("offset", [0, 1])
def test_with_the_exact_noise_more_steps_are_never_worse(offset):
    counts = [10, 13, 27, 50, 73, 99, 250, 300, 501]
    errors = [abs(deviation(count, offset) - 0.2) for count in counts]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.003


# ---------------------------------------------------------------- from nothing but noise


def test_trailing_steps_end_at_the_last():
    assert trailing_steps(1000, 50).tolist() == list(range(19, 1000, 20))
    for timesteps in (2, 7, 50, 357):
        for count in range(2, timesteps + 1):
            kept = trailing_steps(timesteps, count)
            assert len(kept) == count and kept[-1] == timesteps - 1
            assert kept[0] >= 0 and bool((kept.diff() > 0).all())


def test_a_step_towards_x_start_is_ddims():
    x_t, eps = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    now, then = torch.tensor(0.3).double(), torch.tensor(0.7).double()
    x_start = (x_t - (1 - now).sqrt() * eps) / now.sqrt()
    expected = ddim_step(x_t, eps, now, then)
    torch.testing.assert_close(ddim_step_towards(x_t, x_start, now, then), expected)


def test_from_pure_noise_all_steps_are_finite():
    x_t, x_start, noise = (torch.randn(2, 3).double() for _ in range(3))
    zero, some, one = (torch.tensor(value).double() for value in (0.0, 0.4, 1.0))
    for then in (some, one):
        expected = then.sqrt() * x_start + (1 - then).sqrt() * x_t
        torch.testing.assert_close(ddim_step_towards(x_t, x_start, zero, then), expected)
        expected = then.sqrt() * x_start + (1 - then).sqrt() * noise
        torch.testing.assert_close(dpm_solver_step(x_t, x_start, zero, then, noise), expected)
    # After pure noise the step before says nothing; the last step is where its estimate is.
    before = (torch.randn(2, 3).double(), zero)
    first_order = dpm_solver_step(x_t, x_start, some, torch.tensor(0.6).double(), noise)
    both = dpm_solver_step(x_t, x_start, some, torch.tensor(0.6).double(), noise, before)
    torch.testing.assert_close(both, first_order)
    before = (before[0], torch.tensor(0.2).double())
    torch.testing.assert_close(dpm_solver_step(x_t, x_start, some, one, noise, before), x_start)


def test_the_second_order_follows_a_straight_line_in_log_snr():
    """For an estimate that is linear in lambda, half a step ahead is its middle."""
    now, then, earlier = (torch.tensor(value).double() for value in (0.4, 0.6, 0.3))
    middle = (torch.logit(now) + torch.logit(then)) / 2
    x_t, noise = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    line = [value.expand(2, 3) for value in (torch.logit(now), torch.logit(earlier), middle)]
    got = dpm_solver_step(x_t, line[0], now, then, noise, (line[1], earlier))
    torch.testing.assert_close(got, dpm_solver_step(x_t, line[2], now, then, noise))


def test_the_stochastic_solver_draws_from_the_data():
    """With the exact estimate it ends in a normal of the right mean and deviation.

    The last step goes to the mean of what may be left of x_0: little, after so many.
    """
    table = zero_terminal_snr((1 - scaled_linear_betas()).cumprod(0))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, generator=generator).double()
    visited = table[trailing_steps(1000, 500)].flip(0)
    before = None
    for now, then in zip(visited, torch.cat([visited[1:], torch.ones(1)]), strict=True):
        variance = now * 0.04 + 1 - now  # of x_t; the estimate is a regression on it
        x_start = 0.3 + now.sqrt() * 0.04 / variance * (x - now.sqrt() * 0.3)
        noise = torch.randn(x.shape, generator=generator).double()
        x, before = dpm_solver_step(x, x_start, now, then, noise, before), (x_start, now)
    assert float(x.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(x.std()) == pytest.approx(0.2, abs=0.01)
