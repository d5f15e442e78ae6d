"""Elo ratings: what votes must do to them, whatever the votes are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.metrics.elo import START, count_wins, elo, elo_interval, elo_resamples, play


def votes_of(strengths, n, seed=0):
    """Votes of players who win with the probability that their strengths (Elo) promise."""
    rng = torch.Generator().manual_seed(seed)
    strength = torch.tensor(strengths)
    first = torch.randint(len(strengths), (n,), generator=rng)
    second = (first + torch.randint(1, len(strengths), (n,), generator=rng)) % len(strengths)
    odds = 1 / (1 + 10 ** ((strength[second] - strength[first]) / 400))
    won = (torch.rand(n, generator=rng) < odds).double()
    return torch.stack([first.double(), second.double(), won], dim=1)


def test_one_vote_between_equals_moves_half_a_point():
    assert elo(torch.tensor([[0.0, 1, 1]]), 3, 5).tolist() == [1000.5, 999.5, 1000]
    assert elo(torch.tensor([[0.0, 1, 0.5]]), 2, 5).tolist() == [1000, 1000]


def test_a_rating_of_400_more_is_expected_to_win_ten_times_in_eleven():
    votes = torch.tensor([[0.0, 1, 1]]).expand(1, 6000, 3).double()
    ratings = play(votes, 2)[0]
    gap = float(ratings[0] - ratings[1])
    lost = play(torch.cat([votes, torch.tensor([[[0.0, 1, 0]]])], 1), 2)[0]
    assert float(ratings[0] - lost[0]) == pytest.approx(1 / (1 + 10 ** (-gap / 400)))
    assert gap > 400


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from([0.0, 0.5, 1.0])),
        min_size=1,
        max_size=12,
    )
)
def test_points_are_neither_made_nor_lost_and_sides_do_not_matter(drawn):
    votes = torch.tensor([[a, (a + step) % 4, score] for a, step, score in drawn])
    ratings = elo(votes, 4, 7, torch.Generator().manual_seed(0))
    assert float(ratings.sum()) == pytest.approx(4 * START)
    turned = torch.stack([votes[:, 1], votes[:, 0], 1 - votes[:, 2]], dim=1)
    again = elo(turned, 4, 7, torch.Generator().manual_seed(0))
    torch.testing.assert_close(ratings, again)


def test_who_wins_more_stands_higher():
    votes = votes_of([1200.0, 1000.0, 1100.0, 900.0], 400)
    ratings = elo(votes, 4, 50, torch.Generator().manual_seed(0))
    assert ratings.argsort(descending=True).tolist() == [0, 2, 1, 3]


def test_the_order_of_the_votes_is_averaged_away():
    votes = votes_of([1100.0, 1000.0, 900.0], 60)
    one = elo(votes, 3, 400, torch.Generator().manual_seed(0))
    other = elo(votes.flip(0), 3, 400, torch.Generator().manual_seed(1))
    torch.testing.assert_close(one, other, atol=0.02, rtol=0)
    single = torch.stack([elo(votes, 3, 1, torch.Generator().manual_seed(i)) for i in range(20)])
    assert float(single.std(0).max()) > 0.05


def test_a_prefix_of_the_same_order_is_played_as_a_loop_plays_it():
    votes = votes_of([1100.0, 1000.0, 900.0], 30)
    ratings = [START] * 3
    for first, second, score in votes.tolist():
        a, b = int(first), int(second)
        gain = score - 1 / (1 + 10 ** ((ratings[b] - ratings[a]) / 400))
        ratings[a], ratings[b] = ratings[a] + gain, ratings[b] - gain
    torch.testing.assert_close(play(votes[None], 3)[0], torch.tensor(ratings).double())


def test_intervals_hold_the_rating_and_shrink_with_votes():
    """A hundred votes of a coin: the interval holds 1000 about as often as it says."""
    held = 0
    for seed in range(40):
        low, high = elo_interval(
            votes_of([1000.0, 1000.0], 100, seed),
            2,
            resamples=100,
            generator=torch.Generator().manual_seed(seed),
        )
        held += bool(low[0] <= START <= high[0])
    assert 33 <= held <= 40
    rng = torch.Generator().manual_seed(0)
    few, many = (
        elo_resamples(votes_of([1050.0, 950.0], n), 2, 100, rng)[:, 0].std() / n for n in (50, 400)
    )
    assert many < few / 2


def test_wins_are_counted_from_both_sides():
    votes = torch.tensor([[0.0, 1, 1], [1, 0, 0.5], [2, 0, 0]])
    assert count_wins(votes, 3).tolist() == [[0, 1.5, 1], [0.5, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    "votes, wrong",
    [
        (torch.zeros(0, 3), "at least one"),
        ([[0.0, 2, 1]], "players 0 to 1"),
        ([[0.5, 1, 1]], "players 0 to 1"),
        ([[1.0, 1, 1]], "two different"),
        ([[0.0, 1, 2]], "a score of"),
    ],
)
def test_votes_that_cannot_be_are_refused(votes, wrong):
    with pytest.raises(ValueError, match=wrong):
        elo(torch.as_tensor(votes), 2)
