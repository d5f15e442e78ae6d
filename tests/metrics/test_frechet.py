"""The Fréchet distance, against cases whose answer is known."""

import pytest
import torch

from course_lib.metrics import frechet_distance


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


def test_correlated_axes_agree_with_a_matrix_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    mixing = torch.tensor([[1.0, 0, 0, 0], [0.5, 2, 0, 0], [0, 0.3, 1, 0], [0.2, 0, 0, 0.1]])
    a = whitened(100, 4) @ mixing.double()
    b = whitened(100, 4) @ torch.diag(torch.tensor([0.5, 1, 2, 3])).double() + 0.3
    c1, c2 = a.T.cov().numpy(), b.T.cov().numpy()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (
        c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real
    ).trace()
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="expected at least two samples a side, got 1 and 5"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2))
