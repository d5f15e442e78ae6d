"""What counts as a difference, and how its figure reads."""

import math

import numpy as np
import pytest
import torch

from course_lib.metrics.evidence import mean, ordered, paired, shares, single, unpaired, value


def test_a_paired_difference_has_the_error_of_the_differences():
    rng = np.random.default_rng(0)
    a = rng.normal(size=400)
    b = a + rng.normal(0.02, 0.1, size=400)
    evidence = paired(a, b)
    assert evidence.value == pytest.approx((a - b).mean())
    assert evidence.error == pytest.approx((a - b).std(ddof=1) / 20)
    assert paired(a, b) < 0
    assert not unpaired(a, b) < 0  # the same numbers, were they of different samples
    assert unpaired(a, b).unseen()


def test_a_difference_counts_beyond_two_standard_errors_only():
    a = torch.tensor([0.0, 2.0])  # a - b has mean 1 and standard error 1
    b = torch.tensor([0.0, 0.0])
    assert not paired(a, b) > 0
    assert paired(a, b).unseen()
    assert paired(a, b) > -1.5
    assert not paired(a, b) < 2.5
    assert paired(a, b) < 3.5


def test_four_clips_of_128_are_no_difference():
    assert shares(54, 128, 50, 128).unseen()
    assert not shares(54, 128, 50, 128) > 0
    assert shares(100, 128, 50, 128) > 0
    assert shares(54, 128, 50, 128).figure == "42.2% against 39.1%: +3.1 ± 6.1 points (128 each)"


def test_a_share_of_none_or_all_has_an_error():
    assert shares(0, 10).error > 0
    assert not shares(10, 10) > 0.9
    assert shares(1000, 1000) > 0.99
    with pytest.raises(ValueError, match="got 11 of 10"):
        shares(11, 10)


def test_single_runs_say_so_and_have_no_error():
    assert single(2.0, 1.0) > 0
    assert not single(1.0, 1.0) > 0
    assert (single(22.17, 22.0, "dB") > 0).figure == "22.2 against 22 dB, one run each"
    with pytest.raises(TypeError, match="one run each"):
        single(1.0, 1.0).unseen()


def test_exact_numbers_compare_as_they_are():
    assert value(3) >= 3
    assert value(3) <= 3
    assert not value(3) > 3
    assert (value(85_800_194) > 0).figure == "85,800,194"
    with pytest.raises(TypeError, match="compared by <, > or unseen"):
        mean([1.0, 2.0]) >= 0  # noqa: B015


def test_near_includes_the_error():
    assert mean([0.9, 1.1] * 50).near(1.0, within=0.03)
    assert not mean([0.9, 1.1] * 5).near(1.0, within=0.03)


def test_an_order_is_strict():
    assert ordered({"a": 1.0, "b": 2.0, "c": 2.5})
    assert not ordered({"a": 1.0, "b": 1.0})
    assert ordered({"scratch": 20.74, "average": 22.0}, "dB").figure == (
        "scratch 20.7, average 22 dB; one run each"
    )


def test_findings_combine_and_keep_their_figures():
    low = value(1) < 2
    high = value(1) > 2
    assert (low & ~high).holds
    assert not (low & high).holds
    assert (low & high).figure == "1; 1"
    assert bool(low) and not bool(high)


def test_too_few_samples_are_refused():
    for bad in (lambda: mean([1.0]), lambda: paired([1.0], [2.0]), lambda: paired([1, 2], [1])):
        with pytest.raises(ValueError, match=r"expected|at least two"):
            bad()


def test_nan_decides_nothing():
    assert not single(math.nan, 1.0) < 0
    assert not single(math.nan, 1.0) > 0
    assert not ordered({"a": math.nan, "b": 1.0})
