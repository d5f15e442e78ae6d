"""DDIM's steps are right for every count: distinct, even, and from the noisy end."""

import pytest
import torch

from course_lib.diffusion import GaussianMixture, ddim_step, ddim_steps, linear_betas, previous

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
