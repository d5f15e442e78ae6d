"""Processes as ranks: results, and every way in which one can fail."""

import multiprocessing
import time

import pytest
import torch

from course_lib.training.ranks import RankError, activations_kept, run_on_ranks
from tests.training import rank_work


def test_results_come_in_the_order_of_ranks():
    found = run_on_ranks(rank_work.identity, 2, "a", {"b": torch.ones(2)})
    assert [(rank, ranks) for rank, ranks, _ in found] == [(0, 2), (1, 2)]
    assert all(torch.equal(arguments[1]["b"], torch.ones(2)) for *_, arguments in found)


def test_ranks_speak_to_each_other():
    found = run_on_ranks(rank_work.total, 2, [1.0, 2.0])
    assert [(float(total), threads) for total, threads in found] == [(3, 1)] * 2


def test_the_rank_that_fails_is_named_with_its_error():
    """And not its neighbour, whose connection it closed."""
    with pytest.raises(RankError) as raised:
        run_on_ranks(rank_work.fail, 2, 1)
    said = str(raised.value)
    assert said.startswith("rank 1 of 2 failed:\nTraceback")
    assert "ZeroDivisionError: on purpose, on rank 1" in said and "in fail" in said


def test_the_rank_that_dies_is_named():
    with pytest.raises(RankError, match=r"^rank 1 of 2 died without a word"):
        run_on_ranks(rank_work.die, 2, 1)


def test_a_result_that_cannot_be_sent():
    with pytest.raises(RankError, match=r"rank 0 of 1 failed:\n(.|\n)*pickle"):
        run_on_ranks(rank_work.unsendable, 1)


def test_who_is_late_is_named_and_nobody_stays():
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"expected 2 ranks in 5.0 s, got nothing from (0, )?1"):
        run_on_ranks(rank_work.sleep, 2, 1, seconds=5.0)
    assert time.monotonic() - start < 20
    assert multiprocessing.active_children() == []


def test_what_no_process_can_import():
    with pytest.raises(ValueError, match="expected a function at the top of a module"):
        run_on_ranks(lambda: 1, 2)
    in_a_cell = type(rank_work.identity)(rank_work.identity.__code__, {"__name__": "__main__"})
    with pytest.raises(ValueError, match="got identity of __main__"):
        run_on_ranks(in_a_cell, 2)
    with pytest.raises(ValueError, match="ranks: expected at least 1, got 0"):
        run_on_ranks(rank_work.identity, 0)


def test_activations_are_counted_and_weights_are_not():
    layer, x = torch.nn.Linear(100, 50), torch.ones(8, 100)
    with activations_kept() as kept:
        y = layer(x)
        y.square(), y.sin()
    assert sum(kept.values()) == 8 * 100 * 4 + 8 * 50 * 4  # x, and y once


def test_the_peak_of_memory_grows_with_what_is_held():
    """In a fresh process: the peak of this one may be far behind it."""
    [(grown, _)] = run_on_ranks(rank_work.hold, 1, 60_000_000)
    assert 1.5e8 < grown < 4e8
