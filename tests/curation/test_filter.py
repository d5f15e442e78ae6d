"""Thresholds at quantiles, and what is left when all filters have spoken."""

import pytest
import torch

from course_lib.curation.filter import CHOSEN, Curated, curate, lowest


def test_the_lowest_quarter_of_distinct_scores_is_a_quarter():
    scores = torch.randperm(200, generator=torch.Generator().manual_seed(0)).float()
    for share in (0.125, 0.25, 0.5):
        dropped = lowest(scores, share)
        assert int(dropped.sum()) == 200 * share
        assert scores[dropped].max() < scores[~dropped].min()
    assert not lowest(scores, 0.0).any()


def test_equal_scores_stay_together():
    scores = torch.tensor([1.0] * 9 + [0.5])
    assert lowest(scores, 0.25).tolist() == [False] * 9 + [True]


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="share: expected a number"):
        lowest(torch.rand(5), share)


def scores_of(n=400):
    rng = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(n, generator=rng) for name in CHOSEN}
    return scores | {"one scene": torch.ones(n), "original": torch.ones(n)}


def test_independent_filters_leave_about_a_fifth_as_in_the_paper():
    """0.75 x 0.75 x 0.5 x 0.75 is 21 %; of LVD-10M's 9.8 million clips 2.3 million stayed, 23 %."""
    curated = curate(scores_of())
    assert len(curated.kept) / 400 == pytest.approx(0.75**3 * 0.5, abs=0.05)
    assert {name: float(drop.float().mean()) for name, drop in curated.dropped.items()} == {
        **CHOSEN,
        "one scene": 0,
        "original": 0,
    }


def test_what_is_kept_is_dropped_by_no_filter():
    scores = scores_of()
    scores["one scene"][::7] = 0
    scores["original"][5] = 0
    curated = curate(scores)
    drops = torch.stack(list(curated.dropped.values()))
    kept = set(curated.kept.tolist())
    assert kept == set((~drops.any(0)).nonzero()[:, 0].tolist())
    assert not kept & {0, 5, 7, 14}
    alone = curate(scores, {"motion": 0.5})
    assert set(alone.dropped) == {"motion", "one scene", "original"}


def test_a_clip_with_little_text_is_not_dropped_for_it():
    scores = scores_of()
    scores["text"] = 1 - torch.linspace(0, 0.14, 400)
    assert int(curate(scores).dropped["text"].sum()) == 100
    scores["text"] = 1 - torch.linspace(0, 0.07, 400)
    assert not curate(scores).dropped["text"].any()


def test_the_table_says_what_only_one_filter_drops():
    a, b = torch.tensor([1, 1, 0, 0, 0]).bool(), torch.tensor([0, 1, 1, 0, 0]).bool()
    table = Curated(torch.tensor([3, 4]), {"a": a, "b": b}).table()
    assert table["a"] == pytest.approx({"dropped": 0.4, "dropped by no other": 0.2})
    assert table["all together"]["dropped"] == pytest.approx(0.6)


def test_an_unknown_score_is_named():
    with pytest.raises(ValueError, match=r"shares: expected some of motion.*got beauty"):
        curate(scores_of(), {"beauty": 0.5})
