"""Measures of maps against cases made by hand, loops, and scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score

from course_lib.metrics import (
    centre_error,
    depth_error,
    edge_f1,
    image_iou,
    mean_iou,
    normal_angle,
    pck,
)
from course_lib.metrics.maps import overlaps


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def numbers(*shape, below=5, seed=0):
    return torch.randint(0, below, shape, generator=seeded(seed))


# ---------------------------------------------------------------- classes

TRUE = torch.tensor([[[0, 0, 1], [0, 1, 1]], [[2, 2, 2], [2, 2, 2]]])
PREDICTED = torch.tensor([[[0, 1, 1], [0, 1, 1]], [[2, 2, 2], [2, 2, 0]]])


def test_iou_of_a_case_by_hand():
    both, either = overlaps(PREDICTED, TRUE, 4)
    assert both.tolist() == [[2, 3, 0, 0], [0, 0, 5, 0]]
    assert either.tolist() == [[3, 4, 0, 0], [1, 0, 6, 0]]
    expected = [(2 / 3 + 3 / 4) / 2, (0 + 5 / 6) / 2]
    assert image_iou(PREDICTED, TRUE, 4).tolist() == pytest.approx(expected)
    assert mean_iou(PREDICTED, TRUE, 4) == pytest.approx((2 / 4 + 3 / 4 + 5 / 6) / 3)


def test_iou_is_scikit_learns():
    true, predicted = numbers(6, 7, 9), numbers(6, 7, 9, seed=1)
    expected = jaccard_score(true.flatten().numpy(), predicted.flatten().numpy(), average="macro")
    assert mean_iou(predicted, true, 5) == pytest.approx(expected)
    assert mean_iou(predicted, true, 8) == pytest.approx(expected)
    for value, one, other in zip(image_iou(predicted, true, 5), true, predicted, strict=True):
        single = jaccard_score(one.flatten().numpy(), other.flatten().numpy(), average="macro")
        assert float(value) == pytest.approx(single)


def test_equal_and_disjoint_maps():
    true = numbers(3, 4, 5)
    assert mean_iou(true, true, 5) == 1 and image_iou(true, true, 5).tolist() == [1] * 3
    assert mean_iou(true, true * 0 + 5, 6) == 0


def test_numbers_of_no_class_and_other_shapes_are_refused():
    true = numbers(2, 3, 4)
    for measure in (mean_iou, image_iou):
        with pytest.raises(ValueError, match="true: expected numbers from 0 to 2, got some from 0"):
            measure(true * 0, true, 3)
        with pytest.raises(ValueError, match=r"predicted: expected numbers from 0 to 4, got .* -1"):
            measure(true - 1, true, 5)
        with pytest.raises(ValueError, match=r"one shape, got \(2, 3, 3\) and \(2, 3, 4\)"):
            measure(true[..., 1:], true, 5)


# ---------------------------------------------------------------- depth, normals, edges


def test_depth_error_of_a_case_by_hand():
    true = torch.tensor([[[2.0, 4.0]], [[5.0, 10.0]]])
    predicted = torch.tensor([[[3.0, 4.0]], [[4.0, 12.0]]])
    assert depth_error(predicted, true).tolist() == pytest.approx([0.25, 0.2])
    assert depth_error(true, true).tolist() == [0, 0]
    torch.testing.assert_close(
        depth_error(true * 1.3, true), torch.full((2,), 0.3, dtype=torch.float64)
    )


def test_depths_must_be_positive_and_of_one_shape():
    with pytest.raises(ValueError, match="true: expected depths above 0, got one of 0"):
        depth_error(torch.ones(1, 2, 2), torch.tensor([[[1.0, 0], [2, 3]]]))
    with pytest.raises(ValueError, match=r"one shape, got \(1, 2, 2\) and \(1, 2, 3\)"):
        depth_error(torch.ones(1, 2, 2), torch.ones(1, 2, 3))


def test_angles_of_cases_by_hand():
    z = torch.tensor([0.0, 0, 1])
    for angle in (0.0, 1e-4, 0.01, 1.0, 45.0, 90.0, 135.0, 180.0):
        radians = math.radians(angle)
        tilted = torch.tensor([math.sin(radians), 0, math.cos(radians)], dtype=torch.float64)
        found = normal_angle(tilted.expand(1, 2, 3, 3) * 2.5, z.double().expand(1, 2, 3, 3))
        assert float(found) == pytest.approx(angle, abs=1e-6)
    half = torch.stack([z, torch.tensor([1.0, 0, 0])]).reshape(1, 1, 2, 3)
    assert normal_angle(half, z.expand(1, 1, 2, 3)).tolist() == pytest.approx([45])


def test_f1_of_a_case_by_hand_and_scikit_learns():
    true = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]]]).bool()
    predicted = torch.tensor([[[1, 0, 1, 0]], [[0, 0, 0, 0]], [[1, 0, 0, 0]]]).bool()
    assert edge_f1(predicted, true).tolist() == [0.5, 1, 0]
    true, predicted = numbers(4, 6, 5, below=2).bool(), numbers(4, 6, 5, below=2, seed=1).bool()
    for value, one, other in zip(edge_f1(predicted, true), true, predicted, strict=True):
        assert float(value) == pytest.approx(
            f1_score(one.flatten().numpy(), other.flatten().numpy())
        )


# ---------------------------------------------------------------- places


def test_pck_of_a_case_by_hand():
    true = torch.tensor([[[10.0, 10], [20, 20], [30, 5]], [[0, 0], [8, 8], [math.nan, math.nan]]])
    predicted = true + torch.tensor(
        [[[1.0, 0], [0, 2.1], [1.1, 1.6]], [[0.2, 0.4], [3, 4], [0, 0]]]
    )
    size = torch.tensor([20.0, 5.0])
    assert pck(predicted, true, size).tolist() == pytest.approx([2 / 3, 1 / 2])
    assert pck(predicted, true, size, alpha=0.05).tolist() == pytest.approx([1 / 3, 0])
    assert pck(predicted, true, size, alpha=1).tolist() == [1, 1]


def test_pck_of_points_that_are_not_there():
    nan = math.nan
    true = torch.tensor([[[1.0, 1], [2, 2]], [[nan, 1], [nan, nan]], [[nan, 3], [5, 5]]])
    predicted = true.clone()
    predicted[0, 1, 0] = nan
    predicted[2] = torch.tensor([[0.0, 3], [5, 5]])
    found = pck(predicted, true, torch.tensor([4.0, 4.0, 4.0]))
    assert float(found[0]) == 0.5 and math.isnan(found[1]) and float(found[2]) == 1


def test_distance_of_centres():
    true = torch.tensor([[[1.0, 1], [2, 2]], [[0, 0], [0, math.nan]]])
    found = centre_error(true + torch.tensor([3.0, 4.0]), true)
    assert float(found[0]) == 5 and math.isnan(found[1])
    with pytest.raises(ValueError, match=r"one shape, got \(2, 1, 2\) and \(2, 2, 2\)"):
        centre_error(true[:, :1], true)
    with pytest.raises(ValueError, match=r"one shape, got \(2, 1, 2\) and \(2, 2, 2\)"):
        pck(true[:, :1], true, torch.ones(2))
