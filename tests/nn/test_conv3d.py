"""Convolutions that keep a clip's size: their padding against index arithmetic, their start, and
what is refused.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from course_lib.nn.conv3d import SameConv3d, lecun_normal_, reflect_pad

CLIP = torch.randn(2, 3, 4, 6, 5, generator=torch.Generator().manual_seed(0))


def mirrored(i, n):
    """Where the mirror image has its entry i from: 0 .. n - 1 run forth and back, the ends once
    each.
    """
    i %= 2 * (n - 1)
    return i if i < n else 2 * (n - 1) - i


@pytest.mark.parametrize("pad", [(1, 1, 1), (0, 1, 2), (3, 0, 4), (2, 5, 0), (0, 0, 0)])
def test_reflection_entry_by_entry(pad):
    padded = reflect_pad(CLIP, pad)
    expected = torch.empty(2, 3, *(n + 2 * p for n, p in zip(CLIP.shape[2:], pad, strict=True)))
    for t in range(expected.shape[2]):
        for h in range(expected.shape[3]):
            for w in range(expected.shape[4]):
                where = [
                    mirrored(i - p, n)
                    for i, p, n in zip((t, h, w), pad, CLIP.shape[2:], strict=True)
                ]
                expected[:, :, t, h, w] = CLIP[:, :, *where]
    assert torch.equal(padded, expected)


def test_the_border_is_the_mirror_and_is_not_repeated():
    line = torch.arange(4.0).reshape(1, 1, 1, 1, 4)
    assert reflect_pad(line, (0, 0, 1)).flatten().tolist() == [1, 0, 1, 2, 3, 2]


@pytest.mark.parametrize("pad", [(4, 1, 1), (1, 6, 1), (1, 1, 5)])
def test_a_mirror_needs_more_than_its_pad(pad):
    with pytest.raises(
        ValueError, match=r"expected a clip longer than its pad .*, got \(4, 6, 5\)"
    ):
        reflect_pad(CLIP, pad)


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (3, 5, 1), (1, 1, 1)])
@pytest.mark.parametrize("padding", ["reflect", "zeros"])
def test_a_convolution_is_that_of_the_padded_clip(padding, kernel):
    conv = SameConv3d(3, 4, kernel, padding)
    torch.nn.init.normal_(conv.bias)
    t, h, w = (k // 2 for k in kernel)
    padded = F.pad(CLIP, (w, w, h, h, t, t), mode="reflect" if padding == "reflect" else "constant")
    assert conv(CLIP).shape == (2, 4, 4, 6, 5)
    torch.testing.assert_close(conv(CLIP), F.conv3d(padded, conv.weight, conv.bias))


def test_a_constant_stays_constant_under_reflection_and_fades_under_zeros():
    for padding, same in (("reflect", True), ("zeros", False)):
        y = SameConv3d(3, 4, 3, padding)(torch.ones(1, 3, 4, 6, 5))
        assert torch.allclose(y, y[:, :, 1:2, 1:2, 1:2].expand_as(y), atol=1e-5) is same


def test_one_number_is_the_kernel_of_all_three_axes():
    assert (
        SameConv3d(3, 4, 5).kernel_size == (5, 5, 5)
        and SameConv3d(3, 4, 5, bias=False).bias is None
    )


@pytest.mark.parametrize("kernel", [2, (3, 4, 3)])
def test_a_kernel_without_a_middle_is_refused(kernel):
    with pytest.raises(ValueError, match="expected odd kernels, which have a middle"):
        SameConv3d(3, 4, kernel)


def test_another_padding_is_refused():
    with pytest.raises(ValueError, match="expected padding 'reflect' or 'zeros', got 'replicate'"):
        SameConv3d(3, 4, 3, "replicate")


def test_weights_start_with_variance_one_over_fan_in_and_no_outliers():
    torch.manual_seed(0)
    weight = torch.empty(64, 50, 3, 3, 3)
    lecun_normal_(weight)
    assert float(weight.std()) == pytest.approx(1 / math.sqrt(50 * 27), rel=0.01)
    assert float(weight.abs().max()) <= 2 / math.sqrt(50 * 27) / 0.8796
    conv = SameConv3d(50, 64, 3)
    assert (
        float(conv.weight.detach().std()) == pytest.approx(1 / math.sqrt(50 * 27), rel=0.01)
        and not conv.bias.any()
    )
