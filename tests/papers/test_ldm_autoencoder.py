"""The first stage of latent diffusion: its Gaussian, the KL term, the scale factor, the loss."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from course_lib import zoo
from course_lib.papers.ldm_autoencoder import (
    AUTOENCODER_CONFIGS,
    AutoencoderConfig,
    AutoencoderKL,
    FirstStageLoss,
    Posterior,
    kl_term,
    scale_factor,
)


@pytest.fixture(scope="module")
def model() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(AUTOENCODER_CONFIGS["kl-tiny"]).eval()


def test_the_kl_term_is_the_divergence_of_the_normals_summed_over_a_sample():
    mean, log_variance = torch.randn(2, 3, 4, 5, 7, dtype=torch.float64)
    normal = Normal(mean, (0.5 * log_variance).exp())
    standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = kl_divergence(normal, standard).flatten(1).sum(1)
    torch.testing.assert_close(kl_term(mean, log_variance), expected)


def test_the_scale_factor_gives_all_values_together_unit_deviation():
    latents = 3 * torch.randn(2, 4, 5, 7, dtype=torch.float64) + 1
    latents[:, 0] *= 5  # one channel is larger than the others, and stays so
    scaled = scale_factor(latents) * latents
    assert float((scaled - scaled.mean()).square().mean()) == pytest.approx(1)
    assert float(scaled[:, 0].std()) > 2 * float(scaled[:, 1].std())


@torch.no_grad()
def test_the_draw_is_the_mean_plus_deviations_times_noise(model):
    image = torch.rand(2, 3, 24, 40) * 2 - 1
    posterior = model.encode(image)
    assert posterior.mean.shape == (2, 4, 3, 5)
    noise = torch.randn_like(posterior.mean)
    drawn = posterior.sample(noise)
    deviation = ((drawn - posterior.mean) / noise).square().log()
    torch.testing.assert_close(deviation, posterior.log_variance, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(posterior.sample(torch.zeros_like(noise)), posterior.mean)
    rebuilt, again = model(image, noise)
    torch.testing.assert_close(rebuilt, model.decode(drawn))
    torch.testing.assert_close(again.mean, posterior.mean)


def test_an_extreme_log_variance_is_clamped(model):
    bias = model.to_moments.bias
    with torch.no_grad():
        kept = bias.clone()
        bias[4:] = torch.tensor([-1e4, 1e4, -1e4, 1e4])
        posterior = model.encode(torch.zeros(1, 3, 8, 8))
        bias.copy_(kept)
    assert posterior.log_variance.flatten().tolist() == [-30, 20, -30, 20]


@pytest.mark.parametrize("sides", [(12, 16), (16, 12)])
def test_sides_that_f_does_not_divide_are_refused(model, sides):
    with pytest.raises(ValueError, match=r"expected sides divisible by 8, got \("):
        model.encode(torch.zeros(1, 3, *sides))


def test_a_config_that_the_networks_cannot_have_is_refused():
    with pytest.raises(ValueError, match="image_size divisible by 8"):
        AutoencoderConfig(image_size=100)
    with pytest.raises(ValueError, match="groups share evenly"):
        AutoencoderConfig(width=40)


def test_presets_have_the_published_numbers_of_parameters():
    published = {"kl-f4": 55_312_063, "kl-f8": 83_653_863, "kl-f16": 69_610_963}
    for name, count in published.items():
        with torch.device("meta"):
            built = zoo.build(f"ldm/{name}")
        assert sum(p.numel() for p in built.parameters()) == count, name


def test_the_loss_sums_over_an_image_and_weighs_its_parts():
    image, rebuilt = torch.rand(2, 2, 3, 8, 8)
    posterior = Posterior(torch.randn(2, 4, 1, 1), torch.randn(2, 4, 1, 1))
    losses = FirstStageLoss(lambda x, y: torch.tensor([0.1, 0.3]), kl_weight=0.5)
    total, parts = losses.generator_loss(image, rebuilt, posterior, None, torch.empty(0))
    expected = {
        "absolute": (image - rebuilt).abs().sum((1, 2, 3)).mean(),
        "perceptual": torch.tensor(0.2 * 192),
        "kl": 0.5 * kl_term(*posterior).mean(),
    }
    torch.testing.assert_close(parts, expected)
    torch.testing.assert_close(total, sum(expected.values()))


def test_lambda_balances_the_discriminator_on_the_last_layer():
    last_layer = torch.randn(3, 2, 1, 1, requires_grad=True)
    hidden = torch.randn(2, 2, 8, 8)
    rebuilt = torch.nn.functional.conv2d(hidden, last_layer)
    posterior = Posterior(torch.zeros(2, 4, 1, 1), torch.zeros(2, 4, 1, 1))
    losses = FirstStageLoss(None, discriminator_weight=0.5)
    judge = torch.nn.Conv2d(3, 1, 1)
    image = torch.rand(2, 3, 8, 8)
    _, parts = losses.generator_loss(image, rebuilt, posterior, judge, last_layer)
    (rebuilding,) = torch.autograd.grad(parts["absolute"], last_layer, retain_graph=True)
    (fooling,) = torch.autograd.grad(-judge(rebuilt).mean(), last_layer, retain_graph=True)
    weight = 0.5 * rebuilding.norm() / (fooling.norm() + 1e-4)
    torch.testing.assert_close(parts["adversarial"], -weight * judge(rebuilt).mean())
