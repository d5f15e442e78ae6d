"""Measuring the filters: counts, intervals, and that the stored results are of this code."""

import pytest
import torch

from course_lib.curation import measure, plant
from course_lib.curation.filter import CHOSEN
from course_lib.training.store import results


def test_an_interval_is_wilsons():
    """8 of 10: 0.490 to 0.943 (Agresti and Coull 1998, and every table)."""
    found = measure.interval(8, 10)
    assert found["share"] == 0.8 and (found["hits"], found["n"]) == (8, 10)
    assert (found["low"], found["high"]) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert (
        measure.interval(10, 10)["high"] == pytest.approx(1) and measure.interval(0, 5)["low"] == 0
    )
    assert measure.interval(0, 0)["share"] is None


def test_precision_and_recall_are_not_mixed_up():
    said, true = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([1, 0, 0, 0]).bool()
    found = measure.precision_recall(said, true)
    assert found["precision"]["share"] == pytest.approx(1 / 3) and found["recall"]["share"] == 1


def test_changes_are_right_within_their_slack():
    clips, true = [torch.zeros(1), torch.ones(1)], [[5], [9]]
    said = {0.0: [5, 8], 1.0: [7]}
    for slack, right, hit in (([0, 0], 1, 1), ([0, 2], 2, 2), ([3, 1], 2, 1)):
        found = measure.measure_changes(clips, true, slack, lambda clip: said[float(clip[0])])
        assert found["precision"]["hits"] == right and found["precision"]["n"] == 3
        assert found["recall"]["hits"] == hit and found["recall"]["n"] == 2


def test_pieces_come_from_one_shot_each():
    clips = measure.pieces(30, 32)
    assert all(clip.shape == (16, 32, 32, 3) for clip, _ in clips)
    assert {shot for _, shot in clips} <= set(range(len(measure.SHOTS)))
    assert len({shot for _, shot in clips}) > 4


def test_the_stored_results_are_complete():
    stored = results("curation")
    assert set(stored["planted"]) == {"32", "64"}
    for planted in stored["planted"].values():
        assert set(planted["cuts"]) == set(measure.DETECTORS)
        chosen = planted["curation"]["settings"]["chosen"]
        assert set(chosen["filters"]) == {*CHOSEN, "one scene", "original", "all together"}
        assert set(chosen["flaws left"]) == set(plant.SHARES)
        flawless = chosen["flawless among kept"]["low"]
        assert flawless > planted["curation"]["flawless before"]["high"]
    assert stored["real"]["cuts"]["detectors"]["find_cuts"]["as filmed"]["recall"]["share"] == 1
