"""The 3D StyleGAN discriminator: its pools against loops, its shape, and the second derivatives
that R1 needs.
"""

import pytest
import torch
import torch.nn.functional as F

from course_lib.losses.adversarial import r1_penalty
from course_lib.nn.stylegan_discriminator import (
    DiscriminatorBlock,
    StyleGANDiscriminator,
    average_pool,
    blur_pool,
)

CLIP = torch.randn(2, 3, 5, 6, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 6, 7), (1, 2, 3), (2, 1, 1)])
def test_averages_are_of_the_pixels_that_are_there(size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    y = average_pool(x)
    assert y.shape[2:] == tuple((n + 1) // 2 for n in size)
    for t, h, w in torch.cartesian_prod(*(torch.arange(n) for n in y.shape[2:])):
        block = x[:, :, 2 * t : 2 * t + 2, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
        torch.testing.assert_close(y[:, :, t, h, w], block.mean((2, 3, 4)))


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 6, 7), (1, 2, 3), (2, 1, 1)])
def test_the_blur_is_a_separable_convolution_of_stride_two(size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.einsum("i,j,k->ijk", line, line, line).expand(3, 1, 4, 4, 4)
    t, h, w = (1 + n % 2 for n in size)
    expected = F.conv3d(F.pad(x, (1, w, 1, h, 1, t)), kernel, stride=2, groups=3)
    assert expected.shape[2:] == tuple((n + 1) // 2 for n in size)
    torch.testing.assert_close(blur_pool(x), expected)


def test_a_blur_moves_less_than_an_average_when_the_clip_moves_by_a_pixel():
    x = torch.randn(1, 1, 8, 32, 32, generator=torch.Generator().manual_seed(2))
    change = {
        f: (f(x.roll(1, 4)) - f(x))[..., 2:-2, 2:-2].std() / f(x).std()
        for f in (average_pool, blur_pool)
    }
    assert change[blur_pool] < 0.8 * change[average_pool]


@pytest.mark.parametrize("halve", [average_pool, blur_pool])
def test_a_block_keeps_the_skip_and_the_scale(halve):
    torch.manual_seed(0)
    block = DiscriminatorBlock(3, 4, halve)
    h = F.leaky_relu(F.conv3d(CLIP, block.conv1.weight, block.conv1.bias, padding=1), 0.2)
    h = F.leaky_relu(F.conv3d(halve(h), block.conv2.weight, block.conv2.bias, padding=1), 0.2)
    skip = torch.einsum("oi,bithw->bothw", block.skip.weight[:, :, 0, 0, 0], halve(CLIP))
    torch.testing.assert_close(block(CLIP), (skip + h) / 2**0.5, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("halve", [average_pool, blur_pool])
def test_one_logit_per_clip_whatever_the_size(halve):
    torch.manual_seed(0)
    model = StyleGANDiscriminator((5, 6, 7), 4, (2, 3, 1), halve=halve)
    assert model(CLIP).shape == (2,)
    assert model.hidden.in_features == 4 * 1 * 1 * 1  # 5 6 7 -> 3 3 4 -> 2 2 2 -> 1 1 1
    torch.testing.assert_close(model(CLIP[1:]), model(CLIP)[1:])


@pytest.mark.parametrize("halve", [average_pool, blur_pool])
def test_r1_reaches_every_weight_that_shapes_the_slope(halve):
    torch.manual_seed(0)
    model = StyleGANDiscriminator((5, 6, 7), 4, (2, 3), halve=halve)
    clip = CLIP.clone().requires_grad_()
    r1_penalty(clip, model(clip)).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.endswith("bias") for name in silent)


def test_biases_start_at_zero_and_weights_do_not():
    model = StyleGANDiscriminator((4, 8, 8), 4, (2, 2))
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))
    bound = (6 / (4 * 27 + 4 * 27)) ** 0.5
    assert 0.9 * bound < float(model.blocks[0].conv1.weight.detach().abs().max()) <= bound


def test_clips_of_another_size_are_refused():
    model = StyleGANDiscriminator((5, 6, 7), 4, (2,))
    with pytest.raises(
        ValueError, match=r"expected clips of \(5, 6, 7\) frames, rows, columns, got \(6, 5, 7\)"
    ):
        model(CLIP.transpose(2, 3))
