"""Ridge regression against scikit-learn's, and what few examples can and cannot tell."""

import pytest
import torch
from sklearn.linear_model import Ridge

from course_lib.metrics import few_shot_accuracy, ridge


@pytest.mark.parametrize("n, d", [(40, 7), (5, 30)])  # more examples than features, and fewer
@pytest.mark.parametrize("penalty", [0.1, 10.0])
def test_ridge_equals_scikit_learns(n, d, penalty):
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, d, generator=rng) + 3, torch.randn(n, 2, generator=rng)
    weights, bias = ridge(x, y, penalty)
    peer = Ridge(penalty).fit(x.numpy(), y.numpy())
    torch.testing.assert_close(
        weights, torch.tensor(peer.coef_.T, dtype=x.dtype), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(
        bias, torch.tensor(peer.intercept_, dtype=x.dtype), rtol=1e-3, atol=1e-4
    )


def blobs(n, seed, spread=1.0):
    rng = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 3
    centres = 4 * torch.eye(3, 5)
    return centres[label] + spread * torch.randn(n, 5, generator=rng), label


def test_separate_classes_are_told_apart_from_few_examples_and_mixed_ones_are_not():
    assert min(few_shot_accuracy(blobs(60, 0, 0.3), blobs(90, 1, 0.3), shots=5)) > 0.98
    far = few_shot_accuracy(blobs(60, 0, 100.0), blobs(90, 1, 100.0), shots=5)
    assert 0.1 < sum(far) / len(far) < 0.6


def test_more_examples_help_and_repeats_differ():
    train, test = blobs(300, 0, 2.5), blobs(300, 1, 2.5)
    one, many = (few_shot_accuracy(train, test, shots) for shots in (1, 50))
    assert sum(many) > sum(one) and len(one) == 5 and len(set(one)) > 1
    assert few_shot_accuracy(train, test, 1) == one


def test_the_scale_of_the_features_does_not_matter():
    (x, label), (y, other) = blobs(60, 0, 2.0), blobs(90, 1, 2.0)
    assert few_shot_accuracy((x, label), (y, other), 5) == few_shot_accuracy(
        (1000 * x, label), (1000 * y, other), 5
    )


def test_too_few_examples_of_a_class_are_refused_with_the_counts():
    with pytest.raises(
        ValueError, match=r"at least 21 examples of every class, got \[20, 20, 20\]"
    ):
        few_shot_accuracy(blobs(60, 0), blobs(9, 1), shots=21)
