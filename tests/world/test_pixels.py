"""Bytes to floats and back."""

import torch

from course_lib.world import float_to_pixels, images, pixels_to_float


def test_pixels_to_float_and_back():
    rgb = images(3, (10, 14), 0)
    x = pixels_to_float(rgb)
    assert x.shape == (3, 3, 10, 14)
    assert x.min() >= -1
    assert x.max() <= 1
    assert torch.equal(float_to_pixels(x), rgb)
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    assert torch.equal(float_to_pixels(pixels_to_float(every)), every)
    assert pixels_to_float(torch.zeros(2, 5, 4, 6, 3, dtype=torch.uint8)).shape == (2, 5, 3, 4, 6)
    assert float_to_pixels(torch.full((1, 3, 2, 2), 7.0)).min() == 255
