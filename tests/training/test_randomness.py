"""Draws and batches depend only on the seed, the step and the place in the whole batch."""

import pytest
import torch

from course_lib.training import RandomSource
from course_lib.training.randomness import batch_indices, seed_of

DRAWS = {
    "randn": lambda rng, b: rng.randn(b, 3, 5),
    "randn_like": lambda rng, b: rng.randn_like(torch.empty(b, 2)),
    "rand": lambda rng, b: rng.rand(b),
    "randint": lambda rng, b: rng.randint(2, 9, b, 4),
    "choice": lambda rng, b: rng.choice(torch.tensor([0.1, 0.0, 0.9]), b),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_parts_of_all_processes_are_the_draw_of_one(name):
    function = DRAWS[name]
    whole = function(RandomSource(5), 12)
    parts = [function(RandomSource(5, rank=rank, processes=3), 4) for rank in range(3)]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(function(RandomSource(6), 12), whole)


def test_draws_keep_to_their_range_and_weights():
    rng = RandomSource(1)
    assert set(rng.randint(2, 5, 200).tolist()) == {2, 3, 4}
    chosen = rng.choice(torch.tensor([1.0, 0.0, 3.0]), 4000)
    assert (chosen == 1).sum() == 0
    assert (chosen == 2).float().mean().item() == pytest.approx(0.75, abs=0.03)


def test_every_epoch_shows_every_sample_once_and_in_a_new_order():
    seen = torch.cat([batch_indices(3, step, 4, 10) for step in range(5)])
    first = seen[:10]
    second = seen[10:]
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
    assert first.tolist() != second.tolist()


def test_a_batch_may_be_larger_than_the_data():
    assert torch.bincount(batch_indices(0, 1, 7, 3)).sum() == 7


def test_seeds_depend_on_every_number_and_its_place():
    assert len({seed_of(0, 1), seed_of(1, 0), seed_of(0, 1, 0), seed_of(0, 2)}) == 4
