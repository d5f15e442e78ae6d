"""The GAN losses against their definitions with probabilities."""

import torch

from course_lib.losses.adversarial import non_saturating_discriminator_loss, non_saturating_generator_loss


def test_losses_are_the_logarithms_of_probabilities():
    real, fake = torch.randn(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    torch.testing.assert_close(non_saturating_generator_loss(fake), -d_fake.log().mean())
    expected = -d_real.log().mean() - (1 - d_fake).log().mean()
    torch.testing.assert_close(non_saturating_discriminator_loss(real, fake), expected)


def test_losses_stay_finite_and_pull_the_right_way_at_extreme_logits():
    fake = torch.tensor([-200.0, 200.0], requires_grad=True)
    non_saturating_generator_loss(fake).backward()
    assert fake.grad.isfinite().all() and fake.grad[0] < -0.4 and abs(float(fake.grad[1])) < 1e-6
