"""Causal layers: against loops over places, values and gradients; what each frame can see; sizes;
what is refused.
"""

import itertools

import pytest
import torch
from torch import nn

from course_lib.nn.causal_conv import (
    CausalConv3d,
    CausalUpsample,
    FrameNorm,
    causal_conv3d,
    depth_to_space,
)

KERNELS = {  # kernel and stride: frames, rows, columns
    "3 x 3 x 3": ((3, 3, 3), (1, 1, 1)),
    "a stride over frames": ((3, 3, 3), (2, 1, 1)),
    "a stride over all axes": ((3, 3, 3), (2, 2, 2)),
    "strides of their own": ((4, 5, 3), (3, 1, 2)),
    "even kernels": ((2, 4, 2), (1, 2, 1)),
    "one frame": ((1, 3, 3), (1, 2, 2)),
    "one place": ((1, 1, 1), (1, 1, 1)),
}


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(a, b):
    """In exact arithmetic: the order of a sum may differ, no more."""
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def loop_conv(x, weight, bias, stride, padding):
    """Compute every place of the result for itself; what is outside is looked up, not padded."""
    kt, kh, kw = weight.shape[2:]
    t, h, w = x.shape[2:]
    sizes = [(n - 1) // s + 1 for n, s in zip((t, h, w), stride, strict=True)]
    out = []
    for place in itertools.product(*map(range, sizes)):
        total = bias.expand(len(x), -1)
        for a, b, c in itertools.product(range(kt), range(kh), range(kw)):
            frame = place[0] * stride[0] + a - (kt - 1)
            row = place[1] * stride[1] + b - (kh - 1) // 2
            column = place[2] * stride[2] + c - (kw - 1) // 2
            if padding == "replicate":
                frame = max(frame, 0)
            if frame >= 0 and 0 <= row < h and 0 <= column < w:
                total = total + x[:, :, frame, row, column] @ weight[:, :, a, b, c].T
        out.append(total)
    return torch.stack(out, dim=2).unflatten(2, sizes)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize(("kernel", "stride"), KERNELS.values(), ids=KERNELS)
def test_the_convolution_is_a_loop_over_places(kernel, stride, padding):
    inputs = [rand(2, 3, 5, 3, 4), rand(4, 3, *kernel, seed=1), rand(4, seed=2)]
    results = []
    for conv in (causal_conv3d, loop_conv):
        leaves = [each.clone().requires_grad_() for each in inputs]
        y = conv(*leaves, stride, padding)
        results.append((y, torch.autograd.grad((y * rand(*y.shape, seed=3)).sum(), leaves)))
    (y, gradients), (expected, expected_gradients) = results
    same(y, expected)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        same(gradient, other)


def test_a_convolution_may_have_no_bias():
    x, weight = rand(2, 3, 4, 5, 6), rand(4, 3, 3, 3, 3, seed=1)
    same(
        causal_conv3d(x, weight), loop_conv(x, weight, torch.zeros(4).double(), (1, 1, 1), "zeros")
    )


def test_the_input_is_left_alone():
    x, weight = rand(2, 3, 4, 5, 6), rand(4, 3, 3, 3, 3, seed=1)
    before = x.clone()
    for padding in ("zeros", "replicate"):
        causal_conv3d(x, weight, padding=padding)
    assert torch.equal(x, before)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_the_module_is_the_function_with_its_weights(padding):
    module = CausalConv3d(3, 4, (2, 3, 1), (1, 2, 1), padding)
    x = rand(2, 3, 4, 5, 6).float()
    assert torch.equal(module(x), causal_conv3d(x, module.weight, module.bias, (1, 2, 1), padding))
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {
        "weight": (4, 3, 2, 3, 1),
        "bias": (4,),
    }
    assert CausalConv3d(3, 4, bias=False).bias is None


def test_initial_weights_keep_the_variance_of_the_input():
    torch.manual_seed(0)
    conv = CausalConv3d(24, 40, (3, 3, 3))
    assert not conv.bias.any()
    assert float(conv.weight.detach().std()) * (24 * 27) ** 0.5 == pytest.approx(1, abs=0.02)


def test_another_padding_is_refused():
    with pytest.raises(ValueError, match="expected padding 'zeros' or 'replicate', got 'reflect'"):
        causal_conv3d(rand(1, 2, 3, 4, 5), rand(1, 2, 3, 3, 3), padding="reflect")
    with pytest.raises(ValueError, match="expected padding 'zeros' or 'replicate', got 'reflect'"):
        CausalConv3d(2, 3, padding="reflect")


@pytest.mark.parametrize("s", [1, 2, 3, 4])
@pytest.mark.parametrize("t", [0, 1, 2, 5])
def test_a_stride_takes_1_plus_s_t_frames_to_1_plus_t_and_upsampling_takes_them_back(s, t):
    x = rand(1, 2, 1 + s * t, 3, 5).float()
    down = CausalConv3d(2, 3, stride=(s, 1, 1))(x)
    assert down.shape == (1, 3, 1 + t, 3, 5)
    assert CausalUpsample(3, 2, (s, 2, 1))(down).shape == (1, 2, 1 + s * t, 6, 5)


# ---------------------------------------------------------------- who sees what


LAYERS = {
    "convolution": (CausalConv3d(3, 4), 1, 1),
    "replicated frames": (CausalConv3d(3, 4, padding="replicate"), 1, 1),
    "five frames": (CausalConv3d(3, 4, (5, 1, 3)), 1, 1),
    "a stride of 2": (CausalConv3d(3, 4, stride=2), 2, 1),
    "a stride of 3": (CausalConv3d(3, 4, stride=(3, 1, 1)), 3, 1),
    "upsampling by 2": (CausalUpsample(3, 4, (2, 1, 2)), 1, 2),
    "upsampling by 3": (CausalUpsample(3, 4, (3, 2, 1), padding="replicate"), 1, 3),
    "norm": (FrameNorm(1, 3), 1, 1),
}


@pytest.mark.parametrize(("layer", "down", "up"), LAYERS.values(), ids=LAYERS)
def test_a_frame_depends_on_no_later_one(layer, down, up):
    """Bit for bit, and frame by frame as late as it may: the newest frame of each group does have a
    say.
    """
    x = rand(2, 3, 7, 4, 6).float()
    y = layer(x)
    for changed in range(7):
        other = x.clone()
        other[:, :, changed:] = rand(2, 3, 7 - changed, 4, 6, seed=1).float()
        z = layer(other)
        # the first frame that may know
        first = -(-changed // down) if up == 1 else max(0, 1 + up * (changed - 1))
        assert torch.equal(z[:, :, :first], y[:, :, :first])
        assert not torch.equal(z[:, :, first], y[:, :, first])


@pytest.mark.parametrize(("layer", "down", "up"), LAYERS.values(), ids=LAYERS)
def test_an_image_is_the_first_frame_of_a_clip(layer, down, up):
    x = rand(2, 3, 7, 4, 6)
    layer = layer.double()
    y = layer(x[:, :, :1])
    layer.float()
    assert y.shape[2] == 1
    same(y, layer.double()(x)[:, :, :1])
    layer.float()


def test_only_replicated_frames_keep_a_still_clip_still():
    still = rand(2, 3, 1, 4, 6).expand(-1, -1, 5, -1, -1)
    weight = rand(4, 3, 3, 3, 3, seed=1)
    y = causal_conv3d(still, weight, padding="replicate")
    same(y, y[:, :, :1].expand_as(y))
    z = causal_conv3d(still, weight)
    same(z[:, :, 2:], y[:, :, 2:])
    assert (z[:, :, 0] - y[:, :, 0]).abs().max() > 0.1 and (
        z[:, :, 1] - y[:, :, 1]
    ).abs().max() > 0.1


# ---------------------------------------------------------------- depth to space


@pytest.mark.parametrize(
    "factors", [(1, 2, 2), (2, 2, 2), (3, 1, 2), (2, 1, 1), (1, 1, 1)], ids=str
)
def test_depth_to_space_is_a_loop_over_places(factors):
    s, fh, fw = factors
    x = rand(2, 5 * s * fh * fw, 3, 4, 2).requires_grad_()
    y = depth_to_space(x, factors)
    assert y.shape == (2, 5, 1 + s * 2, 4 * fh, 2 * fw)
    for t, i, j, c in itertools.product(*(range(n) for n in y.shape[2:]), range(5)):
        frame = t + s - 1  # the first s - 1 are dropped
        channel = ((frame % s * fh + i % fh) * fw + j % fw) * 5 + c
        assert torch.equal(y[:, c, t, i, j], x[:, channel, frame // s, i // fh, j // fw])
    y.sum().backward()
    seen = torch.ones_like(x)
    seen[:, : (s - 1) * fh * fw * 5, 0] = 0  # of the first frame only the last s-th has a place
    assert torch.equal(x.grad, seen)


def test_depth_to_space_needs_enough_channels():
    with pytest.raises(ValueError, match="expected channels divisible by 2 x 3 x 1, got 8"):
        depth_to_space(rand(1, 8, 1, 1, 1), (2, 3, 1))


def test_upsampling_is_a_convolution_and_depth_to_space():
    layer = CausalUpsample(3, 4, (2, 1, 3), (3, 1, 1), "replicate")
    x = rand(2, 3, 5, 4, 6).float()
    assert torch.equal(
        layer(x),
        depth_to_space(causal_conv3d(x, *layer.parameters(), padding="replicate"), (2, 1, 3)),
    )


# ---------------------------------------------------------------- the norm


def test_the_norm_is_a_group_norm_of_each_frame():
    layer = FrameNorm(2, 6, 1e-3).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = rand(2, 6, 3, 4, 5)
    groups = x.unflatten(1, (2, 3))
    mean, variance = (
        groups.mean((2, 4, 5), keepdim=True),
        groups.var((2, 4, 5), keepdim=True, correction=0),
    )
    expected = ((groups - mean) / (variance + 1e-3).sqrt()).flatten(1, 2)
    same(layer(x), expected * layer.weight[:, None, None, None] + layer.bias[:, None, None, None])


@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=["rows", "channels"]
)
def test_the_order_in_memory_makes_no_difference(memory_format):
    x = rand(2, 6, 5, 4, 8).float()
    layers = nn.Sequential(CausalConv3d(6, 6, stride=2), FrameNorm(3, 6), CausalUpsample(6, 5))
    y = layers(x.contiguous(memory_format=memory_format))
    torch.testing.assert_close(y, layers(x.contiguous()), rtol=1e-5, atol=1e-5)
