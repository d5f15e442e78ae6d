"""PSNR and SSIM against scikit-image's, image by image."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from course_lib.metrics import psnr, ssim

SHAPES = [(3, 3, 32, 32), (2, 1, 11, 17), (1, 3, 40, 23), (4, 2, 13, 11)]


def pair(shape, noise=0.3, seed=0):
    """Smooth images and noisy ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(
        torch.rand(*shape[:2], 3, 4, generator=generator), shape[2:], mode="bicubic"
    )
    x = (2 * x - 1).clamp(-1, 1)
    return x, (x + noise * torch.randn(shape, generator=generator)).clamp(-1, 1)


def scikit_ssim(x, y):
    return structural_similarity(
        x.double().numpy(),
        y.double().numpy(),
        data_range=2,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("noise", [0.01, 0.5])
def test_both_equal_scikit_images(shape, noise):
    x, y = pair(shape, noise)
    for a, b, db, similarity in zip(x, y, psnr(x, y), ssim(x, y), strict=True):
        assert db.item() == pytest.approx(
            peak_signal_noise_ratio(a.double().numpy(), b.double().numpy(), data_range=2)
        )
        assert similarity.item() == pytest.approx(scikit_ssim(a, b), abs=1e-10)


def test_equal_images_have_no_error():
    x, _ = pair((3, 3, 15, 12))
    assert psnr(x, x).tolist() == [np.inf] * 3
    torch.testing.assert_close(ssim(x, x), torch.ones(3, dtype=torch.float64))


def test_an_error_of_a_tenth_of_the_range_is_20_decibels():
    x = torch.zeros(2, 3, 4, 5)
    torch.testing.assert_close(
        psnr(x, x + 0.2), torch.full((2,), 20.0, dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_flat_images_are_as_similar_as_equation_13_says():
    x = torch.zeros(1, 1, 12, 12)
    c1 = 0.02**2
    assert ssim(x + 0.5, x - 0.5).item() == pytest.approx((-0.5 + c1) / (0.5 + c1))


def test_images_of_two_shapes_and_images_below_the_window_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \(1, 3, 12, 12\) and \(1, 3, 12, 13\)"):
        psnr(torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 13))
    with pytest.raises(ValueError, match=r"at least 11 x 11 pixels, got \(1, 3, 10, 12\)"):
        ssim(torch.zeros(1, 3, 10, 12), torch.zeros(1, 3, 10, 12))
