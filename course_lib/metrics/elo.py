"""Elo ratings from votes between pairs of models, as Stable Video Diffusion ranks its own.

arXiv 2311.15127, appendix E.2: a vote says which of two samples a person, or a judge, prefers.
Before a vote a model of rating R1 is expected to win against one of R2 with probability

    E = 1 / (1 + 10 ** ((R2 - R1) / 400))

and after a score S (1 won, 0 lost, 0.5 a tie) its rating becomes R1 + K (S - E), while the other
one loses as much.  The order of the votes matters, so the ratings are averaged over many orders.

Ratings differ by at most what the votes can move: with K = 1 a hundred votes move a rating by at
most 100, so that ratings from different numbers of votes cannot be compared.
"""

import torch

from course_lib.shapes import Float, Int, Tensor

START = 1000.0  # the rating of a player who has not played
K = 1.0  # the most that one vote moves a rating
RESAMPLES = 500  # of the votes, for an interval
ORDERS_PER_RESAMPLE = 8


def elo(
    votes: Float[Tensor, "n 3"],
    players: int,
    orders: int = 1000,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " players"]:
    """Return the rating of every player, the mean over `orders` random orders of the votes.

    votes: the number of one player, that of another, and the score of the first: 1, 0 or 0.5.
    Raises ValueError for other scores, for players there are not, and for one who meets themself.
    """
    check_votes(votes, players)
    order = torch.rand(orders, len(votes), generator=generator).argsort(1)  # orders n
    return play(votes.double()[order], players).mean(0)


def play(votes: Float[Tensor, "orders n 3"], players: int) -> Float[Tensor, "orders players"]:
    """Return the ratings after the votes of each row, taken one after the other."""
    ratings = torch.full((len(votes), players), START, dtype=votes.dtype)
    row = torch.arange(len(votes))
    for vote in votes.unbind(1):  # orders 3
        first = vote[:, 0].long()
        second = vote[:, 1].long()
        gap = ratings[row, second] - ratings[row, first]
        expected = 1 / (1 + 10 ** (gap / 400))
        gain = K * (vote[:, 2] - expected)
        ratings[row, first] += gain
        ratings[row, second] -= gain
    return ratings


def elo_interval(
    votes: Float[Tensor, "n 3"],
    players: int,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "2 players"]:
    """Return the ends of an interval around every player's rating, by the bootstrap.

    The votes are drawn again with replacement, as many as there are, `resamples` times; each time
    the ratings are the mean of ORDERS_PER_RESAMPLE orders.  level: the share of the resampled
    ratings inside.  Raises ValueError as `elo` does.
    """
    ratings = elo_resamples(votes, players, resamples, generator)
    tail = (1 - level) / 2
    return ratings.quantile(torch.tensor([tail, 1 - tail], dtype=ratings.dtype), dim=0)


def elo_resamples(
    votes: Float[Tensor, "n 3"],
    players: int,
    resamples: int = RESAMPLES,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "resamples players"]:
    """Return the ratings of resampled votes; from them, the interval of a difference of two."""
    check_votes(votes, players)
    n = len(votes)
    drawn = torch.randint(n, (resamples, 1, n), generator=generator)
    shuffled = torch.rand(resamples, ORDERS_PER_RESAMPLE, n, generator=generator).argsort(2)
    order = drawn.expand(-1, ORDERS_PER_RESAMPLE, -1).gather(2, shuffled)  # resamples orders n
    ratings = play(votes.double()[order.flatten(0, 1)], players)
    return ratings.unflatten(0, (resamples, ORDERS_PER_RESAMPLE)).mean(1)


def count_wins(votes: Float[Tensor, "n 3"], players: int) -> Float[Tensor, "players players"]:
    """Return the score of each player (row) against each other one (column), summed."""
    wins = torch.zeros(players, players, dtype=torch.float64)
    first, second = votes[:, :2].long().unbind(1)
    score = votes[:, 2].double()
    wins.index_put_((first, second), score, accumulate=True)
    wins.index_put_((second, first), 1 - score, accumulate=True)
    return wins


def check_votes(votes: Float[Tensor, "n 3"], players: int) -> None:
    """Raise ValueError for votes that cannot be."""
    if not len(votes):
        raise ValueError("votes: expected at least one, got none")
    pairs: Int[Tensor, "n 2"] = votes[:, :2].long()
    numbers = (votes[:, :2] == pairs) & (pairs >= 0) & (pairs < players)
    if not numbers.all():
        wrong = votes[~numbers.all(1)][0].tolist()
        raise ValueError(f"votes: expected players 0 to {players - 1}, got {wrong}")
    if (pairs[:, 0] == pairs[:, 1]).any():
        raise ValueError("votes: expected two different players, got one against themself")
    scores = torch.isin(votes[:, 2], torch.tensor([0.0, 0.5, 1.0], dtype=votes.dtype))
    if not scores.all():
        wrong = votes[~scores][0].tolist()
        raise ValueError(f"votes: expected a score of 1, 0 or 0.5, got {wrong}")
