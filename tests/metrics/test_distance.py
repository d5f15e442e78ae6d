"""Distances between sets of features, against cases whose answer is known."""

import pytest
import torch

from course_lib.metrics import frechet_distance, precision_recall


def whitened(n: int, d: int) -> torch.Tensor:
    """n points whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T


def test_frechet_distance_of_normals_with_known_moments():
    x = whitened(200, 3)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    shift = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift.square().sum()))
    # (sigma_1 - sigma_2)^2 per axis
    assert frechet_distance(x, 3 * x) == pytest.approx(3 * (1 - 3) ** 2)


def test_frechet_distance_with_correlated_axes_agrees_with_a_matrix_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    a = (
        whitened(100, 4)
        @ torch.tensor([[1.0, 0, 0, 0], [0.5, 2, 0, 0], [0, 0.3, 1, 0], [0.2, 0, 0, 0.1]]).double()
    )
    b = whitened(100, 4) @ torch.diag(torch.tensor([0.5, 1, 2, 3])).double() + 0.3
    c1, c2 = a.T.cov().numpy(), b.T.cov().numpy()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (
        c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real
    ).trace()
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


def test_precision_and_recall_tell_missing_kinds_from_wrong_samples():
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
    with pytest.raises(ValueError, match="at least two samples a side are needed, got 1 and 5"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="more than k = 3 samples a side are needed, got 9 and 3"):
        precision_recall(torch.zeros(9, 2), torch.zeros(3, 2))
