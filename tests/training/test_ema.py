"""The average of weights against the formula, step by step."""

import pytest
import torch
from torch import nn

from course_lib.training import EMA


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_follows_the_warmed_up_decay(decay):
    model = nn.Linear(2, 3)
    ema = EMA(model, decay)
    expected = model.weight.detach().clone()
    for step in range(5):
        with torch.no_grad():
            model.weight.add_(step + 1.0)
        ema.update(step)
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * model.weight.detach()
    torch.testing.assert_close(ema.model.weight, expected)
    assert not ema.model.weight.requires_grad


def test_buffers_are_copied_and_the_average_stays_in_eval_mode():
    model = nn.BatchNorm1d(4)
    ema = EMA(model, 0.9)
    model(torch.randn(8, 4) + 3)
    ema.update(0)
    assert torch.equal(ema.model.running_mean, model.running_mean)
    assert ema.model.num_batches_tracked == 1
    assert not ema.model.training
