"""Precision and recall of sets of features, against cases whose answer is known."""

import pytest
import torch

from course_lib.metrics import precision_recall


def test_missing_kinds_cost_recall_and_wrong_samples_precision():
    rng = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 200, 2, generator=rng) + torch.tensor([[[-20.0, 0]], [[20.0, 0]]])
    real = torch.cat([left, right])
    mode_dropped = left + 0.01
    assert precision_recall(real, real) == (1, 1)
    precision, recall = precision_recall(real, mode_dropped)
    assert precision > 0.95 and 0.4 < recall < 0.55
    nowhere = torch.randn(200, 2, generator=rng) + torch.tensor([0.0, 100.0])
    assert precision_recall(real, nowhere) == (0, 0)
    half_wrong = torch.cat([real, nowhere, nowhere + 1])
    precision, recall = precision_recall(real, half_wrong)
    assert precision == pytest.approx(0.5, abs=0.05) and recall == 1


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="expected more than k = 3 samples a side, got 9 and 3"):
        precision_recall(torch.zeros(9, 2), torch.zeros(3, 2))
