"""The gradient noise scale, on a problem whose noise is known."""

import pytest
import torch

from course_lib.metrics import gradient_noise_scale, objective_noise_scale, step_losses


@pytest.mark.parametrize("batch", [8, 64])
def test_the_scale_of_a_linear_loss_does_not_depend_on_the_batch(batch):
    """loss = mean((g + noise) . w): the gradient of a sample is g + noise, so the scale is d sigma^2 / |g|^2."""
    w = torch.zeros(5, requires_grad=True)
    g, sigma = torch.tensor([1.0, 2.0, 0.0, -1.0, 0.0]), 3.0

    def loss(draw):
        noise = sigma * torch.randn(batch, 5, generator=torch.Generator().manual_seed(draw))
        return ((g + noise) @ w).mean()

    assert gradient_noise_scale(loss, [w], draws=2000, batch=batch) == pytest.approx(5 * 9 / 6, rel=0.1)


def test_pure_noise_has_an_infinite_or_huge_scale_and_one_draw_is_refused():
    w = torch.zeros(3, requires_grad=True)
    noise = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    noise = noise - noise.mean(0)
    assert gradient_noise_scale(lambda draw: noise[draw] @ w, [w], draws=50, batch=4) == float("inf")
    with pytest.raises(ValueError, match="at least two draws"):
        gradient_noise_scale(lambda draw: noise[draw] @ w, [w], draws=1, batch=4)


def test_importance_sampling_calms_an_objective_whose_steps_differ():
    """Losses that fall as 1 / (t + 1)^2: drawing t in proportion makes all weighted losses alike."""
    steps, w = 40, torch.ones(1, requires_grad=True)
    x_start = torch.ones(30, 2)

    def objective(x, t, noise):
        return w * 100 / (t + 1.0) ** 2 * (1 + 0.01 * noise[:, 0])

    history = step_losses(lambda *a: objective(*a).detach(), x_start, steps, k=3)
    assert history.shape == (steps, 3)
    assert (history[:, 0] - 100 / torch.arange(1.0, steps + 1) ** 2).abs().max() < 5
    odds = history.mean(1) / history.mean(1).sum()
    even = torch.ones(steps) / steps
    calm = objective_noise_scale(objective, [w], x_start, odds, draws=40, batch=16)
    noisy = objective_noise_scale(objective, [w], x_start, even, draws=40, batch=16)
    assert noisy > 50 * calm
