"""Filters and draws against their definitions, token by token sampling against itself without a
cache.
"""

import itertools
import math

import pytest
import torch

from course_lib.lm.sampling import (
    draw_factors,
    draw_tokens,
    generate,
    generate_from_uniform,
    next_token_probabilities,
    top_k_filter,
    top_k_sample,
    top_p_filter,
)
from tests.lm.gpt import GPT


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


LOGITS = torch.randn(5, 11, generator=seeded()) * 3
TIED = torch.tensor([[2.0, 1.0, 3.0, 1.0, 1.0, 0.0]])


@pytest.mark.parametrize("k", [1, 4, 11])
def test_top_k_keeps_the_k_greatest(k):
    got = top_k_filter(LOGITS, k)
    for row, filtered in zip(LOGITS.tolist(), got.tolist(), strict=True):
        kept = set(sorted(row)[-k:])
        assert filtered == [value if value in kept else -math.inf for value in row]


def test_top_k_keeps_all_that_tie_with_the_kth():
    for k, kept in {
        1: [2],
        2: [0, 2],
        3: [0, 1, 2, 3, 4],
        5: [0, 1, 2, 3, 4],
        6: [0, 1, 2, 3, 4, 5],
    }.items():
        assert top_k_filter(TIED, k).isfinite()[0].nonzero().flatten().tolist() == kept


def smallest_nucleus(p_row, p):
    """Of all sets of tokens that reach p, those with the fewest; of these the most probable."""
    for size in range(1, len(p_row) + 1):
        sets = [
            s
            for s in itertools.combinations(range(len(p_row)), size)
            if sum(p_row[i] for i in s) >= p
        ]
        if sets:
            return set(max(sets, key=lambda s: sum(p_row[i] for i in s)))


@pytest.mark.parametrize("p", [1e-9, 0.3, 0.77, 0.95])
def test_top_p_keeps_the_fewest_tokens_that_reach_p(p):
    logits = LOGITS[:, :8]
    got, probabilities = top_p_filter(logits, p), logits.double().softmax(-1).tolist()
    for row, filtered, p_row in zip(logits.tolist(), got.tolist(), probabilities, strict=True):
        kept = smallest_nucleus(p_row, p)
        assert filtered == [value if i in kept else -math.inf for i, value in enumerate(row)]


def test_top_p_of_1_keeps_all_and_ties_stay_together():
    assert torch.equal(top_p_filter(LOGITS, 1), LOGITS)
    many = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)) * 8
    assert torch.equal(top_p_filter(many, 1.0), many)
    probabilities = torch.tensor([[0.125, 0.5, 0.125, 0.25]])
    for p, kept in {0.5: [1], 0.51: [1, 3], 0.8: [0, 1, 2, 3]}.items():
        assert (
            top_p_filter(probabilities.log(), p).isfinite()[0].nonzero().flatten().tolist() == kept
        )


@pytest.mark.parametrize("k", [0, -1, 12])
def test_an_impossible_k_is_refused(k):
    with pytest.raises(ValueError, match=f"k from 1 to the 11 tokens there are, got {k}"):
        top_k_filter(LOGITS, k)


@pytest.mark.parametrize("p", [0, -0.1, 1.1, math.nan])
def test_an_impossible_p_is_refused(p):
    with pytest.raises(ValueError, match="0 < p <= 1"):
        top_p_filter(LOGITS, p)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature above 0"):
        next_token_probabilities(LOGITS, temperature)


def test_temperature_comes_before_the_nucleus():
    hot = next_token_probabilities(LOGITS, 4.0, top_p=0.6)
    for row, p_row in zip((LOGITS.double() / 4).softmax(-1).tolist(), hot.tolist(), strict=True):
        kept = smallest_nucleus(row, 0.6)
        total = sum(row[i] for i in kept)
        assert p_row == pytest.approx(
            [row[i] / total if i in kept else 0 for i in range(11)], rel=1e-5
        )


def test_top_k_comes_before_the_nucleus():
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    got = next_token_probabilities(probabilities.log(), 1, top_k=2, top_p=0.55)  # 0.4 / 0.7 is 0.57
    torch.testing.assert_close(got, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))


def test_half_precision_is_summed_in_single():
    logits = torch.zeros(1, 5000, dtype=torch.bfloat16)
    assert int(top_k_sample(logits, 5000, 1.0, torch.tensor([0.75]))) == 3750


def test_draw_inverts_the_cumulative_distribution():
    probabilities = torch.tensor([[0.125, 0.0, 0.5, 0.375, 0.0]])
    for uniform, token in {0.0: 0, 0.124: 0, 0.125: 2, 0.6249: 2, 0.625: 3, 0.999: 3}.items():
        got = draw_tokens(probabilities * 8, torch.tensor([uniform]))  # the sum need not be 1
        assert got.dtype == torch.int64 and got.tolist() == [token]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_token_of_probability_0_is_never_drawn(dtype):
    below = 1 - torch.finfo(dtype).eps / 2  # the greatest number under 1
    logits = torch.randn(999, 17, generator=seeded(1)) * 5
    gone = torch.rand(999, 17, generator=seeded(2)) < 0.7
    gone[:, 5] = False  # at least one token stays
    probabilities = logits.masked_fill(gone, -torch.inf).softmax(-1)
    for uniform in (0.0, torch.finfo(dtype).tiny, 0.5, below):
        tokens = draw_tokens(probabilities, torch.full((999,), uniform, dtype=dtype))
        assert not gone.gather(1, tokens[:, None]).any()
    last = 16 - (~gone).int().flip(1).argmax(1)
    assert torch.equal(draw_tokens((~gone).float(), torch.full((999,), below, dtype=dtype)), last)
    assert torch.equal(
        draw_tokens((~gone).float(), torch.zeros(999, dtype=dtype)), (~gone).int().argmax(1)
    )


def test_nor_is_it_when_sums_are_rounded_out_of_order(monkeypatch):
    """An accelerator sums in parallel: its cumulative sum may change in the last digits where
    nothing is added.
    """
    exact, noise = torch.Tensor.cumsum, 1 + 1e-6 * torch.randn(999, 17, generator=seeded(3))
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda x, dim: exact(x, dim) * noise)
    test_a_token_of_probability_0_is_never_drawn(torch.float32)


@pytest.mark.parametrize(
    "row, uniform",
    [
        ([0.0, 0.0], 0.5),
        ([math.nan, 1.0], 0.5),
        ([math.inf, 1.0], 0.5),
        ([1.0, 1.0], 1.0),
        ([1.0, 1.0], -0.1),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(row, uniform):
    with pytest.raises(ValueError, match=r"positive sums and 0 <= uniform < 1"):
        draw_tokens(torch.tensor([[0.5, 0.5], row]), torch.tensor([0.5, uniform]))


SIZES = {"one": (7,), "two": (4, 3), "with one value": (3, 1, 4), "three": (2, 5, 3)}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_factors_are_drawn_as_from_the_joint_distribution(sizes):
    """All combinations written out, the first factor fastest; sums need not be 1."""
    factors = [
        (4 * torch.randn(500, size, generator=seeded(size)).double()).exp() for size in sizes
    ]
    for factor in factors:  # some values are impossible, but not all
        factor[:, 1:][torch.rand(500, factor.shape[1] - 1, generator=seeded(5)) < 0.4] = 0
    joint = torch.ones(500, 1).double()
    for factor in factors:
        joint = (factor[:, :, None] * joint[:, None]).flatten(1)
    uniform = torch.rand(500, generator=seeded(6), dtype=torch.float64)
    code = draw_tokens(joint, uniform)
    for size, value in zip(sizes, draw_factors(factors, uniform), strict=True):
        assert torch.equal(value, code % size)
        code = code // size


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_factors_at_the_ends(uniform):
    p = torch.tensor([[0.0, 0.3, 0.7, 0.0], [0.5, 0.0, 0.0, 0.5]])
    low, high = draw_factors([p, p.flip(0)], torch.full((2,), uniform))
    assert (low.tolist(), high.tolist()) == (([1, 0], [0, 1]) if not uniform else ([2, 3], [3, 2]))


def test_values_of_single_precision_keep_their_distribution():
    """2^12 tokens of two factors from uniform numbers of 24 bits."""
    logits = torch.randn(2, 64, generator=seeded(1))
    p = logits.softmax(-1)
    factors = [each.expand(200_000, -1) for each in p]
    low, high = draw_factors(factors, torch.rand(200_000, generator=seeded(2)))
    expected = (p[1][:, None] * p[0]).flatten().double()
    statistic, freedom = chi_square(low + 64 * high, expected)
    assert freedom == 4095 and abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5


def chi_square(tokens, probabilities):
    """Pearson's statistic; its mean is the number of possible tokens less 1, its deviation sqrt(2)
    of that's root.
    """
    expected = probabilities * len(tokens)
    counts = torch.bincount(tokens, minlength=len(probabilities))
    possible = expected > 0
    assert not counts[~possible].any()
    return float(((counts - expected).square() / expected)[possible].sum()), int(possible.sum()) - 1


def test_draws_have_the_distribution_they_are_drawn_from():
    uniform = torch.rand(40_000, generator=seeded(3))
    logits = LOGITS[:1].expand(40_000, -1)
    tokens = top_k_sample(logits, 6, 2.0, uniform)
    expected = (LOGITS[0].double() / 2).exp()
    expected[LOGITS[0].argsort()[:-6]] = 0
    statistic, freedom = chi_square(tokens, expected / expected.sum())
    assert freedom == 5 and statistic < 20.5  # exceeded once in a thousand times


SETTINGS = [{}, {"temperature": 3}, {"top_k": 3}, {"top_p": 0.7, "temperature": 2.0}]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s) or "plain")
def test_a_cache_changes_no_token(settings):
    model, prompt = GPT(), torch.randint(0, 11, (5, 3), generator=seeded(4))
    cached = generate(model, prompt, 11, generator=seeded(5), **settings)
    assert cached.shape == (5, 11) and cached.dtype == torch.int64
    assert model.shown == 13  # 3 of the prompt at once, then one by one, the last never
    assert torch.equal(
        generate(model, prompt, 11, generator=seeded(5), cache=False, **settings), cached
    )
    assert model.shown == 13 + sum(range(3, 14))
    assert not torch.equal(generate(model, prompt, 11, generator=seeded(6), **settings), cached)


def test_each_token_is_drawn_given_all_before_it():
    model, prompt = GPT(), torch.randint(0, 11, (5, 3), generator=seeded(4))
    got = generate(model, prompt, 7, temperature=2, top_k=6, top_p=0.7, generator=seeded(5))
    tokens = prompt
    for uniform in torch.rand(7, 5, generator=seeded(5)):
        with torch.no_grad():
            probabilities = next_token_probabilities(model(tokens)[:, -1], 2, 6, 0.7)
        tokens = torch.cat([tokens, draw_tokens(probabilities, uniform)[:, None]], dim=1)
    assert torch.equal(got, tokens[:, 3:])
    for other in (
        {"top_k": 6, "temperature": 2},
        {"top_k": 6, "top_p": 0.7},
        {"top_p": 0.7, "temperature": 2},
    ):
        assert not torch.equal(generate(model, prompt, 7, generator=seeded(5), **other), got)


@pytest.mark.parametrize("cache", [True, False])
def test_the_callers_uniform_numbers_draw_the_same_tokens(cache):
    model, prompt = GPT(), torch.randint(0, 11, (5, 3), generator=seeded(4))
    settings = {"temperature": 2, "top_p": 0.7, "among": 9, "cache": cache}
    got = generate_from_uniform(model, prompt, torch.rand(7, 5, generator=seeded(5)), **settings)
    assert torch.equal(got, generate(model, prompt, 7, generator=seeded(5), **settings))


def test_top_k_of_1_is_the_most_probable_continuation():
    model, prompt = GPT(), torch.randint(0, 11, (5, 3), generator=seeded(4))
    tokens = torch.cat([prompt, generate(model, prompt, 6, top_k=1)], dim=1)
    with torch.no_grad():
        assert torch.equal(model(tokens)[:, 2:-1].argmax(-1), tokens[:, 3:])


@pytest.mark.parametrize("cache", [True, False])
def test_pairs_of_tokens_come_as_often_as_the_model_says(cache):
    model, prompt = GPT(vocabulary=3), torch.zeros(1, 1, dtype=torch.long)
    pairs = generate(
        model, prompt.expand(30_000, -1), 2, temperature=2.5, generator=seeded(7), cache=cache
    )
    with torch.no_grad():
        first = (model(prompt)[0, -1] / 2.5).softmax(-1)
        second = [(model(torch.tensor([[0, a]]))[0, -1] / 2.5).softmax(-1) for a in range(3)]
    expected = torch.cat([first[a] * second[a] for a in range(3)]).double()
    statistic, freedom = chi_square(pairs @ torch.tensor([3, 1]), expected)
    assert freedom == 8 and statistic < 26.1  # exceeded once in a thousand times


@pytest.mark.parametrize("cache", [True, False])
def test_among_some_tokens_only_those_are_drawn(cache):
    model, prompt = GPT(), torch.randint(0, 11, (50, 3), generator=seeded(4))
    settings = {"temperature": 3, "generator": seeded(5), "cache": cache}
    got = generate(model, prompt, 6, among=4, **settings)
    assert got.max() == 3 and len(got.unique()) == 4
    tokens = prompt
    for uniform in torch.rand(6, 50, generator=seeded(5)):
        with torch.no_grad():
            p = (model(tokens)[:, -1, :4] / 3).softmax(-1)
        tokens = torch.cat([tokens, draw_tokens(p, uniform)[:, None]], dim=1)
    assert torch.equal(got, tokens[:, 3:])


def test_no_steps_give_no_tokens_and_no_prompt_is_refused():
    model = GPT()
    assert generate(model, torch.zeros(2, 3, dtype=torch.long), 0).shape == (2, 0)
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, torch.zeros(2, 0, dtype=torch.long), 4)
