"""Pictures lit by a map over their patches."""

import numpy as np
import pytest
import torch

from course_lib.classroom import shade_by_map


def test_the_brightest_patch_is_fully_lit_and_the_darkest_an_eighth():
    white = np.full((1, 20, 30, 3), 200, np.uint8)
    heat = torch.tensor([[[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]])
    shown = shade_by_map(white, heat)
    assert shown.shape == (1, 100, 150, 3) and shown.dtype == np.uint8  # five times
    assert (shown[0, :50, 100:] == 200).all() and (shown[0, 50:] == 25).all()
    assert (shown[0, :50, 50:100] == round(200 * (0.125 + 0.875 / 2))).all()


def test_the_maps_of_one_call_share_one_scale():
    grey = torch.full((2, 3, 8, 8), 0.5)
    maps = torch.full((2, 4, 4), 0.25)
    maps[1, 1, 2] = 1
    shown = shade_by_map(grey, maps)
    background = shown[0]
    assert (background == background[0, 0]).all()
    lit = shown[1] > background
    assert lit.any() and not lit.all()
    assert (shown[1][~lit] == background[~lit]).all()


def test_no_map_is_divided_by_zero():
    images = torch.ones(2, 3, 2, 2)
    shown = shade_by_map(images, np.stack([np.full((2, 2), 1e-3), np.zeros((2, 2))]))
    assert (shown[0] == 255).all() and (shown[1] == 32).all()
    assert (shade_by_map(images, np.zeros((2, 2, 2))) == 32).all()


def test_maps_need_not_divide_the_image():
    assert shade_by_map(np.zeros((1, 50, 70, 3), np.uint8), np.ones((1, 3, 4))).shape == (
        1,
        100,
        140,
        3,
    )
    # large enough
    assert shade_by_map(np.zeros((1, 200, 90, 3), np.uint8), np.ones((1, 3, 4))).shape == (
        1,
        200,
        90,
        3,
    )


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (1, 1, 3, 3)])
def test_a_map_is_required_for_every_image(shape):
    with pytest.raises(ValueError, match="for each of 1 images"):
        shade_by_map(np.zeros((1, 4, 4, 3), np.uint8), np.ones(shape))
