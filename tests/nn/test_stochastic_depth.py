"""Stochastic depth: whole samples are dropped, the mean stays, and nothing happens outside
training.
"""

import pytest
import torch

from course_lib.nn.stochastic_depth import StochasticDepth


def dropped(rate, shape=(20_000, 3, 2), seed=0):
    torch.manual_seed(seed)
    return StochasticDepth(rate)(torch.ones(shape))


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.75])
def test_a_sample_is_dropped_whole_or_scaled_up_and_the_mean_stays(rate):
    y = dropped(rate).flatten(1)
    assert torch.equal(y, y[:, :1].expand_as(y))
    torch.testing.assert_close(y[:, 0].unique(), torch.tensor([0, 1 / (1 - rate)]))
    spread = (rate / (1 - rate) / len(y)) ** 0.5
    assert abs(float(y.mean()) - 1) < 4 * spread
    assert (
        abs(float((y[:, 0] == 0).float().mean()) - rate) < 4 * (rate * (1 - rate) / len(y)) ** 0.5
    )


@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 2, 4, 5)])
def test_any_number_of_axes(shape):
    torch.manual_seed(1)
    x = torch.randn(shape)
    y = StochasticDepth(0.5)(x)
    for sample, out in zip(x, y, strict=True):
        assert torch.equal(out, 2 * sample) or not out.any()


def test_nothing_happens_outside_training_or_at_rate_zero():
    x = torch.randn(64, 3)
    assert StochasticDepth(0.9).eval()(x) is x
    assert StochasticDepth(0.0)(x) is x


def test_a_dropped_sample_gets_no_gradient_and_a_kept_one_its_share():
    torch.manual_seed(0)
    x = torch.ones(64, 3, requires_grad=True)
    y = StochasticDepth(0.25)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()) and 0 < int((y[:, 0] == 0).sum()) < 64


def test_it_is_drawn_from_the_seed_and_anew_each_time():
    torch.manual_seed(3)
    layer, x = StochasticDepth(0.5), torch.ones(64, 1)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    assert torch.equal(first, dropped(0.5, (64, 1), seed=3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_is_kept(dtype):
    assert StochasticDepth(0.5)(torch.ones(8, 2, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("rate", [-0.1, 1.0, 3.0])
def test_a_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(ValueError, match=rf"expected a rate in \[0, 1\), got {rate}"):
        StochasticDepth(rate)
