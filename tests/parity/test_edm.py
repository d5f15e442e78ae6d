"""Karras' noise levels and Euler's steps against diffusers' EulerDiscreteScheduler: whole runs."""

import pytest
import torch

from course_lib.compat import import_torchvision
from course_lib.diffusion import edm

import_torchvision()  # before diffusers asks for it

from diffusers import EulerDiscreteScheduler  # noqa: E402


def published_scheduler():
    """The scheduler of Stable Video Diffusion, as its folder says."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )


class Network(torch.nn.Module):
    """Some function of a clip and the time, smooth and not linear in either."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(4, 4, 3, padding=1)

    def forward(self, x, time):
        return torch.tanh(self.conv(x) + time[:, None, None, None, None])


@pytest.mark.parametrize("steps", [1, 2, 7, 25, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_whole_run_equals_diffusers(steps, dtype):
    torch.manual_seed(steps)
    network = Network().to(dtype).requires_grad_(False)
    noise = torch.randn(2, 4, 3, 6, 10, dtype=dtype)

    scheduler = published_scheduler()
    scheduler.set_timesteps(steps)
    theirs = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        scaled = scheduler.scale_model_input(theirs, time)
        says = network(scaled, time.to(dtype).expand(2))
        theirs = scheduler.step(says, time, theirs).prev_sample

    sigmas = edm.karras_sigmas(steps)
    ours = edm.euler_sample(lambda x, sigma: edm.denoise(network, x, sigma), noise, sigmas)
    torch.testing.assert_close(sigmas.float(), scheduler.sigmas.cpu(), rtol=2e-5, atol=0)
    torch.testing.assert_close(
        edm.precondition(sigmas[:-1]).c_noise.float(), scheduler.timesteps.cpu(), rtol=0, atol=1e-5
    )
    # Theirs keeps its levels in float32; a step from 700 all the way down rounds values near 2000.
    most = 1e-5 if steps > 2 else 5e-4
    print(f"{steps} steps, {dtype}: {float((ours - theirs).abs().max()):.1e}")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=most)
