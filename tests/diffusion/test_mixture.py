"""The mixture's closed forms against integration, automatic differentiation and samples."""

import math

import pytest
import torch

from course_lib.diffusion import GaussianMixture

MIXTURE = GaussianMixture(
    torch.tensor([[-0.6, 0.2], [0.5, 0.5], [0.3, -0.6]]),
    torch.tensor([0.1, 0.2, 0.3]),
    torch.tensor([1, 2, 3.0]),
)


@pytest.mark.parametrize("mixture", [MIXTURE, GaussianMixture.ring(), MIXTURE.diffused(0.3)])
def test_the_density_integrates_to_one(mixture):
    side = torch.linspace(-5, 5, 501, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    mass = mixture.log_prob(grid).exp().sum() * (side[1] - side[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-5)


def test_the_density_of_one_gaussian():
    one = GaussianMixture(torch.tensor([[1.0, -2, 0.5]]), torch.tensor([0.7]))
    x = torch.randn(5, 3)
    peer = torch.distributions.Normal(torch.tensor([1.0, -2, 0.5]), 0.7)
    torch.testing.assert_close(one.log_prob(x).float(), peer.log_prob(x).sum(1))


def test_the_score_is_the_gradient_of_the_log_density():
    x = torch.randn(20, 2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(MIXTURE.log_prob(x).sum(), x)
    torch.testing.assert_close(MIXTURE.score(x.detach()), gradient, rtol=1e-9, atol=1e-9)


def test_far_out_the_score_is_finite_and_points_back():
    far = torch.tensor([[300.0, 0.0]])
    assert MIXTURE.score(far).isfinite().all() and float(MIXTURE.score(far)[0, 0]) < 0


def test_samples_follow_the_density():
    x = MIXTURE.sample(100_000, torch.Generator().manual_seed(0)).double()
    assert x.shape == (100_000, 2)
    weights = MIXTURE.weights[:, None]
    mean = (weights * MIXTURE.means).sum(0)
    spread = (MIXTURE.weights * MIXTURE.variances).sum()
    second = (weights * MIXTURE.means).T @ MIXTURE.means + spread * torch.eye(2)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.01)
    torch.testing.assert_close(x.T.cov(), second - mean.outer(mean), rtol=0, atol=0.01)
    assert MIXTURE.sample(1, torch.Generator().manual_seed(0)).dtype == torch.float32


def test_the_same_generator_gives_the_same_samples():
    first, second = (MIXTURE.sample(5, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)


def test_diffused_samples_follow_the_diffused_mixture():
    """Both the moments, and the average log density that no other density can exceed."""
    generator = torch.Generator().manual_seed(0)
    alpha_bar = 0.6
    x = MIXTURE.sample(50_000, generator)
    noise = torch.randn(x.shape, generator=generator)
    x_t = math.sqrt(alpha_bar) * x + math.sqrt(1 - alpha_bar) * noise
    diffused = MIXTURE.diffused(alpha_bar)
    peer = diffused.sample(50_000, generator)
    torch.testing.assert_close(x_t.mean(0), peer.mean(0), rtol=0, atol=0.02)
    torch.testing.assert_close(x_t.T.cov(), peer.T.cov(), rtol=0, atol=0.02)
    own = diffused.log_prob(x_t).mean()
    assert float(own) == pytest.approx(float(diffused.log_prob(peer).mean()), abs=0.02)
    assert all(own > MIXTURE.diffused(other).log_prob(x_t).mean() for other in (0.5, 0.7))


def test_the_ends_of_diffusion():
    x = torch.randn(4, 2)
    torch.testing.assert_close(MIXTURE.diffused(1.0).log_prob(x), MIXTURE.log_prob(x))
    standard = GaussianMixture(torch.zeros(1, 2), torch.ones(1))
    torch.testing.assert_close(MIXTURE.diffused(0.0).log_prob(x), standard.log_prob(x))


@pytest.mark.parametrize("alpha_bar", [0.05, 0.5, 0.97])
def test_no_network_beats_the_best_noise(alpha_bar):
    generator = torch.Generator().manual_seed(0)
    x = MIXTURE.sample(100_000, generator)
    noise = torch.randn(100_000, 2, generator=generator)
    x_t = math.sqrt(alpha_bar) * x + math.sqrt(1 - alpha_bar) * noise
    best = MIXTURE.best_eps(x_t, alpha_bar)
    assert best.dtype == x_t.dtype

    def loss(guess):
        return float((noise - guess).square().mean())

    others = [
        best + 0.05,
        best - 0.05,
        1.05 * best,
        0.95 * best,
        best + 0.05 * torch.sin(5 * x_t),
        best.flip(0),
    ]
    assert all(loss(other) > loss(best) for other in others)
    # What is left of its error is orthogonal to anything that can be said from x_t.
    for feature in (x_t, x_t.square(), torch.sin(4 * x_t), best):
        assert abs(float(((noise - best) * feature).mean())) < 0.01


def test_the_ring_is_on_its_circle():
    ring = GaussianMixture.ring(5, radius=0.5, std=0.02)
    torch.testing.assert_close(
        ring.means.norm(dim=1), torch.full((5,), 0.5).double(), rtol=1e-6, atol=1e-7
    )
    assert ring.weights.tolist() == pytest.approx([0.2] * 5)


def test_components_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="one entry per component, got 3, 2 and 3"):
        GaussianMixture(torch.zeros(3, 2), torch.ones(2))
    with pytest.raises(ValueError, match="got 3, 3 and 2"):
        GaussianMixture(torch.zeros(3, 2), torch.ones(3), torch.ones(2))
