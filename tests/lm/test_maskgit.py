"""Parallel decoding: its schedules and counts, what a model is shown, and a replay of it one token
at a time.
"""

import itertools
import math
from fractions import Fraction

import pytest
import torch

from course_lib.lm.maskgit import (
    SCHEDULES,
    decode_step,
    gumbel_noise,
    mask_ratio,
    num_masked,
    parallel_decode,
    remask,
    unknown_after,
)
from course_lib.lm.sampling import draw_tokens

V, MASK, N = 5, 5, 9  # codes, the mask token, places


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Bidirectional:
    """Logits of every place from all places; it keeps what it was shown."""

    def __init__(self, n=N, v=V, scale=1.0):
        # place seen, token seen, place, code
        self.table = torch.randn(n, v + 1, n, v, generator=seeded(1)) * scale
        self.shown = []

    def __call__(self, tokens):
        self.shown.append(tokens)
        return sum(self.table[place][tokens[:, place]] for place in range(tokens.shape[1]))  # b n v


def canvas_and_unknown(b=4, n=N):
    """Codes with [MASK] in 9, 8, 7 and 6 places."""
    codes = torch.randint(0, V, (b, n), generator=seeded(2))
    unknown = torch.rand(b, n, generator=seeded(3)).argsort(1) < n - torch.arange(b)[:, None]
    return codes.masked_fill(unknown, MASK), unknown


# ---------------------------------------------------------------- schedules and counts


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_from_1_to_0(schedule):
    gamma = mask_ratio(torch.linspace(0, 1, 101, dtype=torch.float64), schedule, 64)
    assert gamma[0] == (1 - 1 / 64 if schedule == "exp" else 1) and abs(gamma[-1]) < 1e-15
    assert (gamma.diff() <= 0).all() and (gamma.diff()[5:] < 0).all()


def test_schedules_are_those_of_the_paper():
    halves = {
        "cosine": 2**-0.5,
        "square": 0.75,
        "cubic": 0.875,
        "exp": 0.875,  # 1 - 64^(-1/2)
        "linear": 0.5,
        "sqrt": 1 - 2**-0.5,
        "log": 1 / 6,  # log 2 / log 64
    }
    assert {name: float(mask_ratio(0.5, name, 64)) for name in SCHEDULES} == pytest.approx(halves)
    assert mask_ratio(torch.tensor([[0.0, 2 / 3]])).tolist() == [pytest.approx([1, 0.5])]
    assert float(mask_ratio(0, "log", 64)) == 1 and float(mask_ratio(1)) < 1e-7


def test_impossible_schedules_are_refused():
    with pytest.raises(ValueError, match=r"of cosine, square, .*, got 'cos'"):
        mask_ratio(0.5, "cos")
    for r in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"r in \[0, 1\]"):
            mask_ratio(r)
    for name in ("exp", "log"):
        with pytest.raises(ValueError, match=f"tokens for the schedule '{name}'"):
            mask_ratio(0.5, name)


@pytest.mark.parametrize("schedule, power", [("linear", 1), ("square", 2), ("cubic", 3)])
def test_counts_are_rounded_down_from_the_exact_product(schedule, power):
    n = torch.arange(1, 200)
    for steps in range(1, 13):
        for step in range(1, steps + 1):
            gamma = mask_ratio(torch.tensor(step / steps, dtype=torch.float64), schedule)
            exact = [math.floor((1 - Fraction(step, steps) ** power) * int(each)) for each in n]
            assert num_masked(gamma, n, n * 9).tolist() == [max(1, each) for each in exact]


def test_counts_leave_something_to_do_and_do_something():
    gamma, n = torch.tensor(0.5), torch.tensor([8, 8, 8, 1, 2, 2, 0])
    assert num_masked(gamma, n, torch.tensor([8, 4, 3, 1, 2, 1, 0])).tolist() == [
        4,
        3,
        2,
        0,
        1,
        0,
        0,
    ]
    assert num_masked(torch.tensor(0.0), n, n).tolist() == [1, 1, 1, 0, 1, 1, 0]


def test_counts_of_a_decoding_for_rows_of_different_length():
    table = unknown_after(4, torch.tensor([10, 7, 2, 1, 0]))  # gamma: 0.9239, 0.7071, 0.3827
    assert table.T.tolist() == [
        [9, 7, 3, 0],
        [6, 4, 2, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert unknown_after(1, torch.tensor([5])).tolist() == [[0]]
    # log 3 / log 64, log 1.5 / log 64
    assert unknown_after(3, torch.tensor([8]), "log", 64).T.tolist() == [[2, 1, 0]]
    with pytest.raises(ValueError, match="at least one step, got 0"):
        unknown_after(0, torch.tensor([5]))


# ---------------------------------------------------------------- one step


def test_the_noise_fades_and_is_gone_in_the_last_step():
    uniform = torch.tensor([[0.5, 0.1, 0.9]])
    gumbel = torch.tensor([[-math.log(-math.log(u)) for u in (0.5, 0.1, 0.9)]])
    for step, share in enumerate((0.75, 0.5, 0.25, 0.0)):
        torch.testing.assert_close(gumbel_noise(4.5, step, 4, uniform), 4.5 * share * gumbel)
    extreme = torch.tensor([[0.0, 1 - 2**-24, 0.5]])
    assert torch.equal(gumbel_noise(4, 3, 4, extreme), torch.zeros(1, 3))
    assert gumbel_noise(4.5, 0, 4, extreme).isfinite().all()


def test_a_step_guesses_what_is_unknown_and_forgets_the_least_sure():
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])  # place, code
    tokens, unknown = (
        torch.tensor([[7, 7, 7, 1]] * 2),
        torch.tensor([[True, True, True, False]] * 2),
    )
    # guesses 1, 0 and 0 of ln p -0.69, -0.11 and -1.61
    uniform = torch.tensor([[0.6, 0.0, 0.1, 0.0]] * 2)
    noise = torch.tensor([[0.0, 0.0, 0.0, -9.0], [0.0, -2.0, 1.0, 0.0]])
    found = decode_step(
        p.log().expand(2, 4, 2), tokens, unknown, torch.tensor([2, 1]), uniform, noise
    )
    assert found[0].tolist() == [[1, 0, 0, 1]] * 2
    assert found[1].tolist() == [[True, False, True, False], [False, True, False, False]]


def test_the_noise_is_gumbel_noise():
    noise = gumbel_noise(2, 0, 2, torch.rand(1, 50_000, generator=seeded()))
    assert float(noise.mean()) == pytest.approx(0.57722, abs=0.03)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.1)


def test_the_lowest_are_masked_again_the_first_of_equals():
    confidence = torch.tensor([[3.0, 1.0, math.inf, 1.0, 2.0]]).expand(6, -1)
    order = [1, 3, 4, 0, 2]
    for number, row in enumerate(remask(confidence, torch.arange(6)).tolist()):
        assert row == [place in order[:number] for place in range(5)]


# ---------------------------------------------------------------- decoding


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5, 14])
def test_every_step_keeps_to_the_schedule(schedule, steps):
    model, (canvas, unknown) = Bidirectional(), canvas_and_unknown()
    tokens, left = parallel_decode(
        model, canvas, unknown, steps, schedule=schedule, generator=seeded(4)
    )
    assert tokens.shape == left.shape == (steps, 4, N) and tokens.dtype == torch.int64
    assert torch.equal(model.shown[0], canvas)
    before, count = unknown, [N, N - 1, N - 2, N - 3]
    for step in range(steps):
        gamma = float(mask_ratio((step + 1) / steps, schedule, N))
        limits = [max(1, math.floor(gamma * n + 1e-6)) for n in (N, N - 1, N - 2, N - 3)]
        count = (
            [max(0, min(a, b - 1)) for a, b in zip(limits, count, strict=True)]
            if step < steps - 1
            else [0] * 4
        )
        assert left[step].sum(1).tolist() == count
        assert not (left[step] & ~before).any()  # what is known stays known
        assert torch.equal(model.shown[step] == MASK, before)
        assert torch.equal(tokens[step][~before], model.shown[step][~before])
        before = left[step]
    assert (tokens < V).all() and torch.equal(
        tokens[:, ~unknown], canvas[~unknown].expand(steps, -1)
    )


def test_the_cosine_counts_of_256_tokens_in_8_steps():
    canvas = torch.full((1, 256), MASK)
    left = parallel_decode(lambda x: torch.zeros(1, 256, V), canvas, canvas == MASK, 8).unknown
    assert left.sum(2).flatten().tolist() == [251, 236, 212, 181, 142, 97, 49, 0]


def test_one_step_is_a_plain_draw_of_every_place():
    model, (canvas, unknown) = Bidirectional(), canvas_and_unknown()
    got = parallel_decode(model, canvas, unknown, 1, generator=seeded(4)).tokens[0]
    uniform = torch.rand(2, 4, N, generator=seeded(4))[0]
    for b in range(4):
        expected = draw_tokens(model(canvas)[b].softmax(-1), uniform[b])
        assert torch.equal(got[b], torch.where(unknown[b], expected, canvas[b]))


def replay(model, canvas, unknown, steps, temperature, generator):
    """One sequence of the batch at a time and one token at a time, in Python's numbers; the linear
    schedule.
    """
    uniforms = [torch.rand(2, *canvas.shape, generator=generator).tolist() for _ in range(steps)]
    results = []
    for b in range(len(canvas)):
        open_places = {i for i in range(canvas.shape[1]) if unknown[b, i]}
        n, known, history = len(open_places), {}, []
        for step in range(steps):
            shown = [int(known.get(i, canvas[b, i])) for i in range(canvas.shape[1])]
            probabilities = model(torch.tensor([shown]))[0].double().softmax(-1).tolist()
            score = {}
            for i in open_places:
                cumulative = list(itertools.accumulate(probabilities[i]))
                known[i] = next(
                    code for code, c in enumerate(cumulative) if uniforms[step][0][b][i] < c
                )
                p = probabilities[i][known[i]]
                gumbel = -math.log(-math.log(uniforms[step][1][b][i]))
                score[i] = math.log(p) + temperature * (1 - (step + 1) / steps) * gumbel
            history.append([int(known.get(i, canvas[b, i])) for i in range(canvas.shape[1])])
            count = (
                min(max(1, n * (steps - step - 1) // steps), len(open_places) - 1)
                if step < steps - 1
                else 0
            )
            open_places = set(sorted(open_places, key=score.get)[:count])
            known = {i: code for i, code in known.items() if i not in open_places}
        results.append(history)
    return torch.tensor(results).transpose(0, 1)


@pytest.mark.parametrize("temperature", [0, 4.5])
def test_a_replay_token_by_token_gives_the_same(temperature):
    model, (canvas, unknown) = Bidirectional(), canvas_and_unknown()
    settings = {"temperature": temperature, "generator": seeded(5)}
    got = parallel_decode(model, canvas, unknown, 4, schedule="linear", **settings)
    assert torch.equal(got.tokens, replay(model, canvas, unknown, 4, temperature, seeded(5)))


def test_two_places_come_as_often_as_all_ways_to_them_say():
    model = Bidirectional(n=2, v=2)
    one = torch.full((1, 2), 2)  # both [MASK]
    first = model(one)[0].double().softmax(-1).tolist()  # place, code
    expected, temperature = [0.0] * 4, 3.0
    for a in range(2):
        for b in range(2):
            drawn = first[0][a] * first[1][b]
            # the difference of two Gumbel variables is logistic; step 1 of 2 has half the noise
            forget_a = 1 / (
                1 + math.exp(-(math.log(first[1][b]) - math.log(first[0][a])) / (temperature / 2))
            )
            again_a = model(torch.tensor([[2, b]]))[0, 0].double().softmax(-1).tolist()
            again_b = model(torch.tensor([[a, 2]]))[0, 1].double().softmax(-1).tolist()
            for code in range(2):
                expected[2 * code + b] += drawn * forget_a * again_a[code]
                expected[2 * a + code] += drawn * (1 - forget_a) * again_b[code]
    canvas = one.expand(50_000, 2)
    tokens = parallel_decode(
        model, canvas, canvas == 2, 2, temperature=temperature, generator=seeded(6)
    ).tokens[-1]
    counts = torch.bincount(tokens @ torch.tensor([2, 1]), minlength=4).tolist()
    statistic = sum(
        (got - 50_000 * p) ** 2 / (50_000 * p) for got, p in zip(counts, expected, strict=True)
    )
    assert statistic < 16.3  # three degrees of freedom: exceeded once in a thousand times


def test_without_noise_the_surest_guesses_stay():
    # logits of code 0 over code 1, which is all but never drawn
    sure = torch.tensor([9.0, 5.0, 7.0, 10.0, 6.0, 8.0])

    def model(tokens):
        return torch.stack([sure, torch.zeros(6)], dim=-1)[None]

    canvas = torch.full((1, 6), 2)
    left = parallel_decode(
        model, canvas, canvas == 2, 3, schedule="linear", temperature=0, generator=seeded()
    ).unknown
    assert [row.nonzero().flatten().tolist() for row in left[:, 0]] == [[1, 2, 4, 5], [1, 4], []]


def test_condition_tokens_are_refined_where_all_is_unknown():
    model = Bidirectional()
    condition = torch.randint(0, V, (3, N), generator=seeded(7))
    touches = torch.arange(N) < 4
    canvas = condition.masked_fill(~touches, MASK)
    unknown = torch.ones(3, N, dtype=torch.bool)
    tokens, left = parallel_decode(model, canvas, unknown, 6, generator=seeded(8))
    for step in range(1, 6):
        shown = model.shown[step]
        again = left[step - 1]
        # the condition's own, not the guess
        assert torch.equal(shown[again & touches], condition[again & touches])
        assert (shown[again & ~touches] == MASK).all()
        assert torch.equal(shown[~again], tokens[step - 1][~again])
    assert (left[0] & touches).any() and (tokens[-1] != condition)[:, touches].any()


def test_the_same_seed_gives_the_same_tokens_and_another_one_others():
    model, (canvas, unknown) = Bidirectional(scale=0.3), canvas_and_unknown()
    first, same, other = (
        parallel_decode(model, canvas, unknown, 4, generator=seeded(s)).tokens for s in (1, 1, 2)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)
    with pytest.raises(ValueError, match="at least one step, got 0"):
        parallel_decode(model, canvas, unknown, 0)
