"""The GAN losses against their definitions, and what trains a discriminator beside them."""

import subprocess
import sys

import pytest
import torch

from course_lib import paths
from course_lib.losses.adversarial import (
    LeCam,
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    lecam_penalty,
    non_saturating_discriminator_loss,
    non_saturating_generator_loss,
    r1_penalty,
)


def test_losses_are_the_logarithms_of_probabilities():
    real, fake = (
        torch.randn(2, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    )
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    torch.testing.assert_close(non_saturating_generator_loss(fake), -d_fake.log().mean())
    expected = -d_real.log().mean() - (1 - d_fake).log().mean()
    torch.testing.assert_close(non_saturating_discriminator_loss(real, fake), expected)


def test_losses_stay_finite_and_pull_the_right_way_at_extreme_logits():
    fake = torch.tensor([-200.0, 200.0], requires_grad=True)
    non_saturating_generator_loss(fake).backward()
    assert fake.grad.isfinite().all() and fake.grad[0] < -0.4 and abs(float(fake.grad[1])) < 1e-6


# ---------------------------------------------------------------- hinge


def test_hinge_losses_are_sums_over_logits_one_at_a_time():
    real, fake = 2 * torch.randn(
        2, 5, 1, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    by_hand = (
        [max(0.0, 1 - x) for x in real.flatten().tolist()],
        [max(0.0, 1 + x) for x in fake.flatten().tolist()],
    )
    expected = 0.5 * (sum(by_hand[0]) / 60 + sum(by_hand[1]) / 60)
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(expected)
    assert hinge_generator_loss(fake).item() == pytest.approx(-sum(fake.flatten().tolist()) / 60)


def test_numbers_of_real_and_fake_logits_may_differ():
    real, fake = torch.tensor([3.0, 0.0]), torch.tensor([[-4.0], [1.0], [-0.5]])
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(
        (0.5 + (0 + 2 + 0.5) / 3) / 2
    )


def test_hinge_leaves_sure_logits_alone():
    real, fake = (
        torch.tensor([1.5, 0.5], requires_grad=True),
        torch.tensor([-1.5, -0.5], requires_grad=True),
    )
    hinge_discriminator_loss(real, fake).backward()
    assert real.grad.tolist() == [0, -0.25] and fake.grad.tolist() == [0, 0.25]


# ---------------------------------------------------------------- adaptive weight


def two_losses(reconstruction=3.0, generator=0.5, layer=None):
    """Losses whose gradients on a layer are vectors of these lengths."""
    layer = torch.zeros(2, 3, requires_grad=True) if layer is None else layer
    direction = torch.tensor([[3.0, 0, 4], [0, 0, 0]]) / 5, torch.tensor([[0, 1.0, 0], [0, 0, 0]])
    return (
        reconstruction * (direction[0] * layer).sum(),
        generator * (direction[1] * layer).sum(),
        layer,
    )


def test_the_weight_is_the_ratio_of_the_gradients_lengths_on_the_last_layer():
    weight = adaptive_weight(*two_losses())
    assert weight.item() == pytest.approx(3 / (0.5 + 1e-4)) and weight.shape == ()
    assert adaptive_weight(*two_losses(), delta=1).item() == pytest.approx(2)


def test_the_weight_is_at_most_1e4_and_0_for_a_perfect_reconstruction():
    assert adaptive_weight(*two_losses(3.0, 1e-9)).item() == 1e4
    assert adaptive_weight(*two_losses(0.0, 0.5)).item() == 0


def test_the_weight_has_no_gradient_and_the_losses_keep_theirs():
    layer = torch.ones(2, 3, requires_grad=True)
    # the weight's own gradient would not be zero
    reconstruction, generator, _ = two_losses(layer=layer**2)
    weight = adaptive_weight(reconstruction, generator, layer)
    assert not weight.requires_grad and layer.grad is None
    (reconstruction + weight * generator).backward()
    assert layer.grad is not None


# ---------------------------------------------------------------- R1


def test_r1_is_the_mean_squared_length_of_the_gradient_at_each_sample():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 2, 5, dtype=torch.float64, generator=generator).requires_grad_()
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty(images, scale * images.square().flatten(1).sum(1))  # gradient 2 scale x
    expected = sum(float((2 * 0.7 * image).square().sum()) for image in images.detach()) / 4
    assert penalty.item() == pytest.approx(expected)
    penalty.backward()  # d/d scale of 4 scale^2 |x|^2
    assert scale.grad.item() == pytest.approx(2 * expected / 0.7)


def test_r1_adds_up_the_logits_of_a_samples_patches():
    images = torch.ones(2, 1, 4, 6, requires_grad=True)
    logits = 3 * images[:, 0, ::2, ::3] + images[:, 0, 1::2, 1::3]
    assert r1_penalty(images, logits).item() == pytest.approx(4 * 9 + 4 * 1)


def test_r1_wants_images_that_the_discriminator_saw_with_a_gradient():
    with pytest.raises(
        ValueError, match="expected requires_grad, set before the discriminator sees them"
    ):
        r1_penalty(torch.zeros(2, 3, 4, 4), torch.zeros(2))


# ---------------------------------------------------------------- LeCam


def test_lecam_pulls_each_side_back_towards_the_other_and_no_further():
    real, fake = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([[0.25, -3.0]])
    expected = ((2 + 0.5) ** 2 + 0 + (0.5 + 0.5) ** 2) / 3 + ((1 - 0.25) ** 2 + (1 + 3) ** 2) / 2
    assert lecam_penalty(real, fake, ema_real=1.0, ema_fake=-0.5).item() == pytest.approx(expected)


def test_the_averages_weigh_past_batches_and_not_their_start():
    lecam = LeCam(decay=0.75)
    batches = [
        (torch.tensor([4.0, 2.0]), torch.tensor([-1.0])),
        (torch.tensor([1.0]), torch.tensor([-2.0, -6.0])),
    ]
    penalties = [lecam(*batch).item() for batch in batches]
    assert penalties[0] == pytest.approx(lecam_penalty(*batches[0], 3.0, -1.0).item())
    ema_real, ema_fake = (0.75 * 3 + 1) / 1.75, (0.75 * -1 - 4) / 1.75
    assert penalties[1] == pytest.approx(lecam_penalty(*batches[1], ema_real, ema_fake).item())


def test_the_averages_are_constants_to_the_discriminator():
    real, fake = (
        torch.tensor([1.0, 2.0], requires_grad=True),
        torch.tensor([-1.0], requires_grad=True),
    )
    LeCam()(real, fake).backward()
    # 2 (real + 1) / 2 and 2 (fake - 1.5)
    assert real.grad.tolist() == [2.0, 3.0] and fake.grad.tolist() == [-5.0]


def test_lecam_resumes_from_its_state():
    generator = torch.Generator().manual_seed(0)
    batches = torch.randn(4, 2, 7, generator=generator)
    whole = LeCam()
    first = [whole(*batch) for batch in batches]
    half = LeCam()
    [half(*batch) for batch in batches[:2]]
    resumed = LeCam()
    resumed.load_state_dict(half.state_dict())
    assert [resumed(*batch) for batch in batches[2:]] == first[2:]


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
from course_lib.losses.adversarial import LeCam
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
lecam = LeCam(decay=0.5)
for step in range(3):
    lecam(torch.full((2,), 1.0 + rank + step), torch.full((2,), -3.0 * rank - step))
print(lecam.state_dict())
dist.destroy_process_group()
"""


def test_two_processes_hold_the_averages_of_both_their_batches(tmp_path):
    command = [sys.executable, "-c", TWO_PROCESSES]
    where = {"cwd": paths.ROOT, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, str(rank), str(tmp_path)], **where) for rank in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in running]
    alone = LeCam(decay=0.5)
    for step in range(3):
        alone(torch.tensor([1.5 + step]), torch.tensor([-1.5 - step]))
    assert printed[0] == printed[1] == f"{alone.state_dict()}\n"


def test_a_decay_of_one_never_learns():
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\), got 1"):
        LeCam(decay=1.0)
