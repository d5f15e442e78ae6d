"""CLIP's towers: what they refuse.  That they compute the right thing is in tests/parity."""

import pytest
import torch

from course_lib import zoo
from course_lib.nn.clip_block import require_shape
from course_lib.nn.clip_text import CLIPTextConfig
from course_lib.nn.clip_vision import CLIPVisionConfig, prepare_image


def test_sides_and_lengths_that_no_tower_reads():
    with torch.device("meta"):
        image_tower, text_tower = zoo.build("svd/CLIP-ViT-H"), zoo.build("ldm/CLIP-text-L")
        with pytest.raises(ValueError, match=r"images of \(224, 224\) pixels, got \(224, 223\)"):
            image_tower(torch.zeros(1, 3, 224, 223))
        with pytest.raises(ValueError, match="at most 77 tokens, got 78"):
            text_tower(torch.zeros(1, 78, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"at least 2 pixels on a side, got \(1, 8\)"):
        prepare_image(torch.zeros(1, 3, 1, 8))


def test_configs_that_make_no_sense():
    with pytest.raises(ValueError, match="patch_size: expected a divisor of 224, got 15"):
        CLIPVisionConfig(patch_size=15)
    with pytest.raises(ValueError, match="heads: expected a divisor of width 1280, got 3"):
        CLIPVisionConfig(heads=3)
    with pytest.raises(ValueError, match="heads: expected a divisor of width 1024, got 7"):
        CLIPTextConfig(heads=7)
    with pytest.raises(ValueError, match="gelu: expected exact or quick, got 'tanh'"):
        require_shape(8, 2, "tanh")


def test_a_black_image_is_minus_the_mean_over_the_deviation():
    image = prepare_image(torch.full((1, 3, 30, 40), -1.0), size=6)
    expected = torch.tensor([-1.7922626, -1.7520971, -1.4802197]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(image, expected.expand(1, 3, 6, 6))


def test_fine_stripes_become_grey_instead_of_coarse_ones():
    stripes = torch.ones(1, 3, 64, 450)
    stripes[..., ::2] = -1
    image = prepare_image(stripes, size=32)
    assert image[..., 2:-2].var(-1).max() < 1e-3  # of 13 in the stripes
