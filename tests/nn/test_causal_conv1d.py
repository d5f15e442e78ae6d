"""Causal convolutions of sound: what they hear, and that pieces become what the whole becomes."""

import pytest
import torch

from course_lib.nn.causal_conv1d import CausalConv1d, CausalConvTranspose1d, Pieces


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(layer, x):
    """The sum over all that a result hears, one result after another; before the sound is 0."""
    (k,), (s,), (d,) = layer.kernel_size, layer.stride, layer.dilation
    b, _, n = x.shape
    results = []
    for end in range(s - 1, n, s):
        total = layer.bias.expand(b, -1)
        for tap in range(k):
            at = end - d * (k - 1 - tap)
            if at >= 0:
                total = total + x[:, :, at] @ layer.weight[:, :, tap].T
        results.append(total)
    return torch.stack(results, dim=2)


@pytest.mark.parametrize(
    "kernel,stride,dilation", [(7, 1, 1), (7, 1, 9), (4, 2, 1), (10, 5, 1), (3, 3, 1), (1, 1, 1)]
)
@pytest.mark.parametrize("n", [5, 17, 30])
def test_a_result_hears_the_samples_up_to_the_end_of_its_stride(kernel, stride, dilation, n):
    layer, x = CausalConv1d(3, 2, kernel, stride, dilation), randn(2, 3, n)
    layer.bias.data.copy_(randn(2, seed=1))
    got = layer(x)
    assert got.shape == (2, 2, n // stride)
    torch.testing.assert_close(got, by_hand(layer, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_transposed_a_result_hears_its_sample_and_the_one_before(stride):
    layer, x = CausalConvTranspose1d(3, 2, stride), randn(2, 3, 7)
    got = layer(x)
    assert got.shape == (2, 2, 7 * stride)
    before = torch.cat([torch.zeros(2, 3, 1), x[:, :, :-1]], dim=2)
    for phase in range(stride):
        own, late = layer.weight[:, :, phase], layer.weight[:, :, phase + stride]
        expected = own.T @ x + late.T @ before + layer.bias[:, None]
        torch.testing.assert_close(got[:, :, phase::stride], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [(6, 6, 6), (2, 12, 4), (18,), (2,) * 9])
def test_pieces_become_what_the_whole_becomes(lengths):
    layers = [
        CausalConv1d(3, 4, 7, dilation=3),
        CausalConv1d(4, 4, 4, 2),
        CausalConvTranspose1d(4, 3, 3),
        CausalConv1d(3, 2, 1),
    ]
    x = whole = randn(2, 3, 18)
    for layer in layers:
        whole = layer(whole)
    pieces, parts = Pieces(), []
    for part in x.split(lengths, dim=2):
        for layer in layers:
            part = layer(part, pieces)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, rtol=0, atol=1e-5)


def test_weights_start_so_that_variances_are_kept():
    torch.manual_seed(0)
    x = randn(4, 64, 400)
    for layer in (CausalConv1d(64, 64, 7), CausalConvTranspose1d(64, 64, 5)):
        assert layer(x)[:, :, 50:].var().item() == pytest.approx(1, abs=0.1)
        assert not layer.bias.any()


def test_a_stride_that_skips_samples_is_refused():
    with pytest.raises(ValueError, match="expected a stride of at most 3 samples, got 4"):
        CausalConv1d(1, 1, 3, 4)
