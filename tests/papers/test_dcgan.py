"""DCGAN: the architecture of the paper's figure 1."""

import pytest
import torch
from torch import nn

from course_lib.papers.dcgan import DCGAN, DCGAN_CONFIGS, DCGANConfig


def test_the_lsun_generator_has_the_feature_maps_of_figure_1():
    gan = DCGAN(DCGAN_CONFIGS["LSUN"])
    shapes = []
    for layer in gan.generator.layers:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.register_forward_hook(
                lambda module, args, out: shapes.append(tuple(out.shape[1:]))
            )
    gan.generator(torch.randn(2, 100))
    assert shapes == [(1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (3, 64, 64)]


@pytest.mark.parametrize("size", [8, 16, 32])
def test_images_of_every_size_are_in_range_and_get_one_logit(size):
    gan = DCGAN(DCGANConfig(image_size=size, channels=2, latent=5, width=32))
    x = gan(torch.randn(3, 5))
    assert x.shape == (3, 2, size, size) and x.abs().max() <= 1
    assert gan.discriminator(x).shape == (3,)


def test_the_generator_determines_samples_and_weights_start_small():
    gan = DCGAN(DCGAN_CONFIGS["tiny"]).eval()
    first, again = (gan.sample(4, torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert float(gan.generator.layers[0].weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_a_size_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match=r"image_size: expected 8, 16, 32, \.\.\., got 24"):
        DCGANConfig(image_size=24)
