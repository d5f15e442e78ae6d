"""Calibration: a classifier whose confidence is known to be right, too high or too low."""

import pytest
import torch

from course_lib.metrics import calibration_error, fit_temperature


def calibrated(n=40_000, k=4, seed=0):
    """Logits, and labels drawn from exactly their softmax."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, generator=rng)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]


def test_labels_drawn_from_the_softmax_are_calibrated():
    assert calibration_error(*calibrated()) < 0.01


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_temperature_scaling_fixes_sharper_and_flatter_logits(factor):
    logits, label = calibrated()
    assert calibration_error(factor * logits, label) > 0.1
    temperature = fit_temperature(factor * logits, label)
    assert temperature == pytest.approx(factor, rel=0.05)
    assert calibration_error(factor * logits / temperature, label) < 0.01


def test_the_error_equals_a_count_by_hand():
    logits = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.55, 0.45]]).log()
    label = torch.tensor([0, 1, 1, 1])
    # ten bins: 0.9, one answer, right; 0.8, one, wrong; 0.7, one, right; 0.55, one, wrong
    assert calibration_error(logits, label, bins=10) == pytest.approx(
        (0.1 + 0.8 + 0.3 + 0.55) / 4, abs=1e-6
    )


def test_one_answer_of_full_confidence_falls_into_the_last_bin():
    assert calibration_error(torch.tensor([[100.0, 0.0]]), torch.tensor([0])) == pytest.approx(
        0.0, abs=1e-6
    )


def test_fitting_leaves_no_trace():
    logits, label = calibrated(100)
    logits.requires_grad_(True)
    with torch.no_grad():
        fit_temperature(logits, label)
    assert logits.grad is None and torch.is_grad_enabled()
