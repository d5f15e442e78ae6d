"""The gradient noise scale, on a problem whose noise is known."""

import pytest
import torch

from course_lib.metrics import gradient_noise, objective_noise, step_losses


@pytest.mark.parametrize("batch", [8, 64])
def test_noise_and_signal_of_a_linear_loss_do_not_depend_on_the_batch(batch):
    """loss = mean((g + noise) . w): the gradient of a sample is g + noise, so tr(S) = d sigma^2."""
    w = torch.zeros(5, requires_grad=True)
    g, sigma = torch.tensor([1.0, 2.0, 0.0, -1.0, 0.0]), 3.0

    def loss(draw):
        noise = sigma * torch.randn(batch, 5, generator=torch.Generator().manual_seed(draw))
        return ((g + noise) @ w).mean()

    found = gradient_noise(loss, [w], draws=2000, batch=batch)
    assert found.noise == pytest.approx(5 * 9, rel=0.1)
    assert found.signal == pytest.approx(6, rel=0.1)


def test_noise_around_zero_has_no_signal_and_one_draw_is_refused():
    w = torch.zeros(3, requires_grad=True)
    noise = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
    noise = noise - noise.mean(0)
    found = gradient_noise(lambda draw: noise[draw] @ w, [w], draws=50, batch=4)
    assert found.signal == pytest.approx(-found.noise / 4 / 50, rel=1e-5)
    with pytest.raises(ValueError, match="draws: expected at least two"):
        gradient_noise(lambda draw: noise[draw] @ w, [w], draws=1, batch=4)


def test_importance_sampling_calms_an_objective_whose_steps_differ():
    """Losses fall as 1 / (t + 1)^2: drawing t in proportion makes all weighted losses alike."""
    steps, w = 40, torch.ones(1, requires_grad=True)
    x_start = torch.ones(30, 2)

    def objective(x, t, noise):
        return w * 100 / (t + 1.0) ** 2 * (1 + 0.01 * noise[:, 0])

    history = step_losses(lambda *a: objective(*a).detach(), x_start, steps, k=3)
    assert history.shape == (steps, 3)
    assert (history[:, 0] - 100 / torch.arange(1.0, steps + 1) ** 2).abs().max() < 5
    odds = history.mean(1) / history.mean(1).sum()
    even = torch.ones(steps) / steps
    calm = objective_noise(objective, [w], x_start, odds, draws=40, batch=16)
    noisy = objective_noise(objective, [w], x_start, even, draws=40, batch=16)
    assert noisy.noise > 20 * calm.noise
    assert noisy.signal == pytest.approx(calm.signal, rel=0.5)  # the same gradient
