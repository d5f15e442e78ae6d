import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from course_lib.checking import Exercise
from course_lib.checking.compare import compare
from course_lib.checking.diagnose import assess
from course_lib.checking.observe import Failure, Outcome, failure, flatten, preserved, run
from course_lib.checking.wording import describe


def scale(x, w):
    return x * w


def cases(rng):
    return [
        {"x": torch.randn(n, 3, generator=rng), "w": torch.rand(3, generator=rng) + 0.5}
        for n in (2, 5)
    ]


EXERCISE = Exercise("a.scale", scale, cases, gradients=("x", "w"))


def verdict(answer, exercise=EXERCISE, seed=0):
    with preserved():
        return assess(exercise, list(run(answer, exercise, seed)), seed)


def returning(reference, **more):
    """An exercise without arguments that matter, whose reference gives this value."""
    return Exercise(
        "a.value",
        lambda x: reference(x),
        lambda rng: [{"x": torch.randn(2, 3, generator=rng)}],
        **more,
    )


# ----------------------------------------------------------------------------------------- accepted


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, w: w * x,
        lambda x, w: (x.double() * w.double()).float(),
        lambda x, w: x.clone().mul_(w),
        lambda x, w: torch.einsum("nc,c->nc", x, w),
        lambda x, w: torch.stack([row * w for row in x]),
        lambda x, w: (x[:, None] @ torch.diag(w))[:, 0],
        lambda x, w, *rest: x * w,
        lambda x, w, more=None: x * w + 1e-8,
    ],
)
def test_right_answers_written_differently_pass(answer):
    assert verdict(answer).passed


# ------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (lambda x, w: None, "structure", "None.*`return` missing"),
        (lambda x, w: (x * w, x), "structure", "Expected a tensor, got a tuple or list of 2"),
        (lambda x, w: {"y": x * w}, "structure", "got a dict with the keys 'y'"),
        (lambda x, w: [], "structure", "empty tuple"),
        (lambda x, w: (x * w).detach().numpy(), "structure", "a NumPy array.*Stay in torch"),
        (lambda x, w: (x * w).sum().item(), "structure", "a Python float"),
        (lambda x, w: (y for y in x * w), "structure", "generator"),
        (lambda x, w: (x * w).to_sparse(), "structure", "sparse"),
        (lambda x, w: (x * w).to("meta"), "structure", "without data"),
        (lambda x, w: "x * w", "structure", "a str"),
        (lambda x, w: (x * w)[None], "shape", r"\(1, 2, 3\); expected \(2, 3\).*axes of length 1"),
        (lambda x, w: (x * w).T, "shape", r"axes in another order.*\(1, 0\)"),
        (lambda x, w: (x * w).flatten(), "shape", "only the shape differs"),
        (lambda x, w: (x * w)[:1], "shape", r"\(1, 3\)"),
        (
            lambda x, w: (x * w).double(),
            "dtype",
            "values are right, but the dtype.*float64; expected float32",
        ),
        (lambda x, w: (x + w).double(), "dtype", "^The dtype"),
        (lambda x, w: -x * w, "values", "wrong sign"),
        (lambda x, w: x * w * 2, "values", "2 times"),
        (lambda x, w: x * w + 0.5, "values", "0.5 too large everywhere"),
        (lambda x, w: x * w * 1.01, "values", "1.01 times"),
        (
            lambda x, w: x + w,
            "values",
            r"largest difference is at \[\d, \d\]: expected .* got .*6 of 6",
        ),
        (lambda x, w: x * w / torch.tensor([1.0, 1.0, 0.0]), "values", "differ"),
        (
            lambda x, w: x * w + torch.tensor([0.0, 0.0, torch.nan]),
            "values",
            r"2 NaN, first at \[0, 2\]",
        ),
        (lambda x, w: x * w * torch.nan, "values", "NaN"),
        (lambda x, w: x.mul_(w), "inputs", "changed its input `x` in place"),
        (lambda x, w: (x * w, w.zero_())[0], "inputs", "`w`"),
        (lambda x, w: (x.unsqueeze_(0) * w)[0], "inputs", "`x`"),
        (lambda x, w: (x * w).detach(), "gradients", "gradients do not flow back to `x`"),
        (lambda x, w: torch.tensor((x * w).tolist()), "gradients", "gradients do not flow"),
        (
            lambda x, w: torch.from_numpy(x.detach().numpy() * w.detach().numpy()),
            "gradients",
            "do not flow",
        ),
        (
            lambda x, w: torch.from_numpy(x.numpy() * w.numpy()),
            "gradients",
            "fails. `numpy` cuts them off. Stay in torch",
        ),
        (lambda x, w: x * w.detach(), "gradients", "do not flow back to `w`"),
        (lambda x, w: x * w + x - x.detach(), "gradients", "with respect to `x`"),
        (lambda x, w: x.no_such(), "error", "AttributeError"),
        (
            lambda y, w: y * w,
            "error",
            r"keep the parameters \(x, w\) in this order; yours are \(y, w\)",
        ),
        (lambda x, w: 1 / 0, "error", "ZeroDivisionError"),
        (lambda x, w: x + x.T, "error", r"do not fit together: `x` \(2, 3\)"),
    ],
)
def test_wrong_answers_are_refused_with_the_reason(answer, kind, words):
    result = verdict(answer)
    assert result.status == "failed"
    assert result.faults[result.shown].kind == kind
    assert re.search(words, result.sentence), result.sentence


def test_no_grad_inside_is_refused():
    def answer(x, w):
        with torch.no_grad():
            return x * w

    assert "do not flow" in verdict(answer).sentence


def test_a_missing_stop_gradient_is_found():
    stopped = replace(EXERCISE, reference=lambda x, w: x * w.detach())
    assert verdict(lambda x, w: x * w.detach(), stopped).passed
    assert "must be stopped" in verdict(scale, stopped).sentence


def test_gradients_of_a_list_are_compared_one_by_one():
    def parts(rng):
        return [{"parts": [torch.randn(n, generator=rng) for n in (2, 4)]} for _ in range(2)]

    joined = Exercise("a.joined", lambda parts: torch.cat(parts), parts, gradients=("parts",))
    assert verdict(lambda parts: torch.cat([*parts]), joined).passed
    fault = verdict(lambda parts: torch.cat([parts[0], parts[1].detach()]), joined).faults[0]
    assert fault.kind == "gradients"
    assert "do not flow back to `parts[1]`" in fault.sentence


def test_an_output_without_gradient_among_several_is_found():
    both = replace(EXERCISE, reference=lambda x, w: (x * w, x + w))
    assert verdict(lambda x, w: [x * w, x + w], both).passed
    assert verdict(lambda x, w: (x * w, (x + w).detach()), both).faults[0].kind == "gradients"


class Sly(torch.Tensor):
    """Answers every question in its own favour."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func.__name__ in ("__eq__", "allclose", "equal"):
            return True
        return super().__torch_function__(func, types, args)

    def __eq__(self, other):
        return True

    __hash__ = None


class AlwaysEqual:
    def __eq__(self, other):
        return True

    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self


@pytest.mark.parametrize(
    "answer", [lambda x, w: (x + w).as_subclass(Sly), lambda x, w: AlwaysEqual()]
)
def test_objects_that_claim_to_be_equal_are_refused(answer):
    assert verdict(answer).status == "failed"


def test_answers_without_end_or_measure_are_refused():
    def nested(x, w):
        a = []
        a.append(a)
        return a

    assert "contains itself" in verdict(nested).sentence
    assert "numbers" in verdict(lambda x, w: torch.zeros(1).expand(10**12)).sentence
    assert "parts" in verdict(lambda x, w: list(range(10**6))).sentence


def test_an_answer_that_remembers_its_inputs_gets_fresh_ones():
    seen = []

    def answer(x, w):
        seen.append(x)
        if len(seen) > 1:
            seen[0].fill_(7)
        return x * w

    assert verdict(answer, replace(EXERCISE, gradients=())).passed


# ----------------------------------------------------------------------------------- kinds of value


@dataclass
class Stats:
    mean: torch.Tensor
    parts: dict


@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [
        (lambda x: 3, lambda x: 3, lambda x: 3.0),
        (lambda x: 3, lambda x: np.int64(3), lambda x: 4),
        (lambda x: 1.5, lambda x: np.float64(1.5), lambda x: 1.6),
        (lambda x: 2.0, lambda x: 2, lambda x: torch.tensor(2.0)),
        (lambda x: True, lambda x: 1 == 1, lambda x: 1),
        (lambda x: "b c", lambda x: "b c", lambda x: "c b"),
        (lambda x: x.numpy(), lambda x: x.numpy().copy(), lambda x: x),
        (lambda x: x.numpy(), lambda x: x.numpy()[::1], lambda x: x.numpy() * 2),
        (lambda x: x > 0, lambda x: ~(x <= 0), lambda x: (x > 0).long()),
        (lambda x: x.argmax(), lambda x: x.flatten().max(0).indices, lambda x: x.argmin()),
        (lambda x: (x, {"a": [x, 1]}), lambda x: [x, {"a": (x, 1)}], lambda x: (x, {"a": (x, 2)})),
        (lambda x: Stats(x, {"n": 1}), lambda x: Stats(x, {"n": 1}), lambda x: (x, {"n": 1})),
        (lambda x: x / 0, lambda x: x.sign() * torch.inf, lambda x: x.abs() * torch.inf),
        (
            lambda x: x.clamp(min=0).log(),
            lambda x: x.clamp(min=0).log(),
            lambda x: x.clamp(min=0).log() * 1.01,
        ),
        (lambda x: (-1 - x.abs()).sqrt(), lambda x: x * torch.nan, lambda x: x),
        (lambda x: x * 1e-7, lambda x: x * 1e-7 + 1e-9, lambda x: x + 1e-3),
        (lambda x: x * 0, lambda x: x * 0 + 3e-7, lambda x: x * 0 + 1e-5),
        (
            lambda x: x.bfloat16() * 3,
            lambda x: (x.bfloat16().float() * 3).bfloat16(),
            lambda x: x.bfloat16() * 3.5,
        ),
        (lambda x: torch.complex(x, x), lambda x: x * (1 + 1j), lambda x: x * (1 - 1j)),
        (lambda x: torch.randn(3), lambda x: torch.empty(3).normal_(), lambda x: torch.rand(3)),
        (lambda x: (), lambda x: [], lambda x: {}),
        (lambda x: x[:0], lambda x: x[:0], lambda x: x[:, :0]),
    ],
)
def test_values_of_every_kind(reference, right, wrong):
    exercise = returning(reference)
    assert verdict(right, exercise).passed
    assert verdict(wrong, exercise).status == "failed"


def test_flatten_names_every_leaf_by_its_path():
    leaves = flatten((torch.zeros(1), {"a": Stats(torch.ones(2), {3: None})}))
    assert list(leaves) == ["[0]", "[1]['a'].mean", "[1]['a'].parts[key 3]"]


def test_a_difference_hidden_in_one_entry_of_many_is_found():
    big = returning(lambda x: torch.zeros(300, 300).index_fill(0, torch.tensor([5]), 1.0))

    def nearly(x):
        y = big.reference(x)
        y[299, 17] = 1e-2
        return y

    sentence = verdict(nearly, big).sentence
    assert "[299, 17]" in sentence and "1 of 90,000" in sentence


# ---------------------------------------------------------------------------------------- diagnosis


def shifted(x, w):
    return x * w + (len(x) > 2)


DIAGNOSED = replace(
    EXERCISE,
    misconceptions={
        "added": (lambda x, w: x + w, "You added."),
        "rows": (lambda x, w: x * w[: len(x), None], "You scaled the rows."),
        "late": (shifted, "You shifted the long ones."),
        "cut": (lambda x, w: (x * w).detach(), "You detached."),
        "flipped": (lambda x, w: (x * w).flip(-1), "You flipped."),
        "in_place": (lambda x, w: x.mul_(w), "You overwrote x."),
    },
)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (lambda x, w: w + x, "added"),
        (lambda x, w: (w + x).detach(), None),
        (lambda x, w: w.double() + x.double(), None),
        (lambda x, w: x.clone() + w + 0 * x.add_(1), None),
        (lambda x, w: x * w[: len(x)][:, None], "rows"),
        (lambda x, w: x * w if len(x) < 3 else w * x + 1, "late"),
        (lambda x, w: torch.tensor((w * x).tolist()), "cut"),
        (lambda x, w: (w * x).flip(1), "flipped"),
        (lambda x, w: x.copy_(w * x), "in_place"),
        (lambda x, w: x - w, None),
        (lambda x, w: x * 3, None),
        (lambda x, w: 1 / 0, None),
        (lambda x, w: x * w if len(x) < 3 else x + w, None),
    ],
)
def test_the_misconception_that_gives_the_same_wrong_output_is_named(answer, name):
    result = verdict(answer, DIAGNOSED)
    assert result.status == "failed" and result.misconception == name
    if name:
        assert result.sentence == DIAGNOSED.misconceptions[name].sentence


def choose(small, large):
    """An answer that is one thing for the case of two rows and another for the case of five."""
    return lambda x, w: small(x, w) if len(x) == 2 else large(x, w)


def added(x, w):
    return x + w


def moved(x, w):
    return x * w + 7


SHAPELESS = lambda x, w: (x * w)[None]  # noqa: E731


@pytest.mark.parametrize(
    ("answer", "name", "shown", "beside"),
    [
        (choose(scale, shifted), "late", 1, ""),
        (choose(moved, shifted), None, 0, ""),
        (choose(added, SHAPELESS), None, 0, ""),
        (choose(SHAPELESS, shifted), None, 0, ""),
    ],
)
def test_a_name_accounts_for_every_case_at_fault(answer, name, shown, beside):
    """The five rows alone look like `late`, but it does not say why the two rows are wrong."""
    result = verdict(answer, DIAGNOSED)
    assert (result.misconception, result.shown, result.beside) == (name, shown, beside)


THREE = replace(
    DIAGNOSED,
    cases=lambda rng: [*cases(rng), {"x": torch.ones(4, 3), "w": torch.ones(3) / 2}],
    misconceptions={
        "added": (added, "You added."),
        "small": (choose(moved, scale), "You moved the small one."),
        "small_too": (lambda x, w: x * w + 7 if len(x) == 2 else x * w, "You moved it as well."),
        "square": (lambda x, w: x * w if len(x) < 4 else x / w, "You divided the long ones."),
    },
)


def test_a_mistake_keeps_its_name_beside_another_that_hides_it():
    result = verdict(lambda x, w: x + w if len(x) != 4 else (x + w)[None], THREE)
    assert result.misconception == "added" and result.shown == 0
    assert result.beside.startswith("Case 3: The shape of your answer is (1, 4, 3)")
    first = verdict(lambda x, w: (x + w)[None] if len(x) == 2 else x + w, THREE)
    assert (first.misconception, first.shown) == ("added", 1)
    assert first.beside.startswith("Case 1: The shape")
    other = verdict(lambda x, w: x + w if len(x) != 4 else x * w + 7, THREE)
    assert other.misconception is None, "wrong in the same way, but by other values"


def test_two_mistakes_get_two_sentences():
    two = replace(THREE, misconceptions={**THREE.misconceptions})
    two.misconceptions.pop("small_too")
    result = verdict(lambda x, w: x * w + 7 if len(x) == 2 else x / w, two)
    assert result.sentence == "You moved the small one."
    assert result.beside == "Case 2: You divided the long ones."


def test_of_two_that_explain_as_much_none_is_named():
    assert verdict(choose(moved, scale), THREE).misconception is None
    more = {"all": (lambda x, w: x * w + 7, "You moved all."), **THREE.misconceptions}
    assert verdict(moved, replace(THREE, misconceptions=more)).misconception == "all"


def test_gradients_tell_two_mistakes_of_one_value_apart():
    cut = replace(
        EXERCISE, misconceptions={"cut": (lambda x, w: 2 * x * w.detach(), "You cut w off.")}
    )
    assert verdict(lambda x, w: w.detach() * 2 * x, cut).misconception == "cut"
    assert verdict(lambda x, w: 2 * x * w, cut).misconception is None


def test_an_error_is_the_same_only_in_the_same_place():
    def picky(x):
        raise ValueError("expected something else")

    def calls_w(x, v, w):
        return v(x) + w(-x)

    exercise = Exercise(
        "a.calls",
        calls_w,
        lambda rng: [
            {"x": torch.ones(2), "v": lambda x: picky(x) if (x < 0).any() else x, "w": torch.exp}
        ],
        misconceptions={"turned": (lambda x, v, w: v(-x) + w(x), "You turned x for v.")},
    )

    def raises_itself(x, v, w):
        raise ValueError("expected something else")

    assert verdict(lambda x, v, w: w(x) + v(-x), exercise).misconception == "turned"
    assert verdict(raises_itself, exercise).misconception is None


def test_the_place_of_an_error_is_the_argument_that_raised():
    def layer(limit):
        def forward(x):
            if x.ndim > limit:
                raise ValueError("too many axes")
            return x

        return forward

    class Block(torch.nn.Module):
        def forward(self, x):
            return x.no_such()

    two = Exercise(
        "a.layers",
        lambda x, one, other, block: x,
        lambda rng: [{"x": torch.ones(2, 3), "one": layer(1), "other": layer(0), "block": Block()}],
    )
    for name in ("one", "other", "block"):
        [outcome] = run(lambda x, one, other, block, n=name: locals()[n](x), two)
        assert outcome.error.place == name
    [outcome] = run(lambda x, one, other, block: x.no_such(), two)
    assert outcome.error.place == ""


def test_a_misconception_that_shows_in_one_case_does_not_claim_others():
    result = verdict(lambda x, w: x * w + 1, DIAGNOSED)
    assert "1 too large" in result.sentence or result.misconception == "late"
    assert [fault is None for fault in verdict(shifted, DIAGNOSED).faults] == [True, False]
    assert verdict(shifted, DIAGNOSED).fraction == 0.5


# ------------------------------------------------------------------------------------------- points


def positive_part(x):
    return x.clamp(min=0)


HALF = Exercise(
    "a.positive",
    positive_part,
    lambda rng: [{"x": torch.tensor(x)} for x in ([-1.0, -2], [1.0, 2, 3], [-1.0, 2], [-3.0])],
)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: torch.zeros_like(x),
        lambda x: x * 0,
        lambda x: torch.zeros(2),
        lambda x: torch.tensor([0.0, 2.0]),
    ],
)
def test_an_answer_that_ignores_its_inputs_earns_nothing(answer):
    result = verdict(answer, HALF)
    assert result.constant and result.fraction == 0 and result.status == "failed"
    assert "the same for all inputs" in result.beside or not result.right


@pytest.mark.parametrize(
    ("answer", "fraction"),
    [
        (lambda x: x.clamp(min=0, max=1), 0.5),
        (lambda x: x.clamp(min=0) if len(x) > 2 else x, 0.25),
        (lambda x: x.clamp(min=0) if len(x) > 2 else None, 0.25),
        (lambda x: x.clamp(min=0) if len(x) == 1 else x.double() + 5, 0.25),
        (lambda x: x.clamp(min=0) if (x < 0).all() else 1 / 0, 0.5),
    ],
)
def test_an_honest_answer_keeps_the_points_of_its_right_cases(answer, fraction):
    """The last one is right where zero is, and fails where something else was expected."""
    assert verdict(answer, HALF).fraction == fraction


def test_where_one_answer_is_right_for_all_inputs_it_passes():
    assert verdict(lambda x: 3, returning(lambda x: 3)).passed
    both = returning(lambda x: (x, torch.ones(2)))
    assert verdict(lambda x: (x, torch.ones(2)), both).passed


# ------------------------------------------------------------------------------------------- errors


def test_a_stub_is_not_attempted_and_a_missing_operator_is_an_error():
    def stub(x, w):
        raise NotImplementedError  # your turn

    assert verdict(stub).status == "not attempted"
    assert verdict(lambda x, w: torch.nextafter(x.long(), x.long())).status == "failed"


def test_an_expected_error_is_asked_for():
    def positive(x):
        if (x < 0).any():
            raise ValueError("expected positive x")
        return x.sqrt()

    exercise = Exercise(
        "a.root", positive, lambda rng: [{"x": torch.tensor([s, 2.0])} for s in (1.0, -1.0)]
    )
    assert verdict(positive, exercise).passed
    assert "a ValueError was expected" in verdict(lambda x: x.sqrt(), exercise).sentence
    assert verdict(lambda x: x.no_such(), exercise).fraction == 0

    def other(x):
        assert (x > 0).all()
        return x.sqrt()

    assert "got AssertionError" in verdict(other, exercise).sentence


@pytest.mark.parametrize(
    "error", [SystemExit(3), MemoryError(), GeneratorExit(), Exception("x" * 10_000)]
)
def test_every_exception_is_part_of_the_outcome(error):
    def answer(x, w):
        raise error

    [first, second] = run(answer, EXERCISE)
    assert first.error.kind == second.error.kind == type(error).__name__
    assert len(first.error.message) <= 500


def test_an_exception_that_cannot_be_printed_is_reported():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert "no readable message" in failure(Mute()).message


def test_the_traceback_holds_only_the_students_lines():
    def helper(x):
        return torch.linalg.inv(x)

    def answer(x, w):
        return helper(x)

    [outcome, _] = run(answer, EXERCISE)
    assert [(name, code) for name, _, code in outcome.error.lines] == [
        ("answer", "return helper(x)"),
        ("helper", "return torch.linalg.inv(x)"),
    ]


def test_endless_recursion_is_shown_in_five_lines():
    def answer(x, w):
        return answer(x, w)

    [outcome, _] = run(answer, EXERCISE)
    assert outcome.error.kind == "RecursionError" and len(outcome.error.lines) == 5


# -------------------------------------------------------------------------------- run, judge, state


def test_outcomes_are_plain_data_that_can_leave_a_jail():
    outcome = next(run(scale, EXERCISE))
    leaves = [*outcome.outputs.values(), *outcome.inputs.values()]
    tensors = [leaf.value for leaf in leaves] + list(outcome.gradients.values())
    assert all(type(tensor) is torch.Tensor and not tensor.requires_grad for tensor in tensors)
    json.dumps([list(outcome.outputs), list(outcome.gradients)])


def test_missing_and_surplus_outcomes():
    outcomes = list(run(scale, EXERCISE))
    assert assess(EXERCISE, outcomes * 2).passed
    assert assess(EXERCISE, outcomes[:1]).fraction == 0.5
    assert assess(EXERCISE, []).status == "failed"
    stopped = Outcome(error=Failure("Stopped", "it ran for more than 1 s"))
    assert "stopped" in assess(EXERCISE, [outcomes[0], stopped]).sentence


def test_the_cases_of_a_verdict_are_those_of_its_seed():
    outcomes = list(run(scale, EXERCISE, seed=1))
    assert assess(EXERCISE, outcomes, seed=1).passed
    assert not assess(EXERCISE, outcomes, seed=2).passed


def test_modes_of_the_session_do_not_matter_and_stay():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert verdict(scale).passed
            assert not torch.is_grad_enabled()
    torch.set_default_dtype(torch.float64)
    try:
        state = torch.get_rng_state()
        assert verdict(lambda x, w: torch.ones(3) * x * w + 0 * torch.randn(())).passed
        assert torch.get_default_dtype() == torch.float64
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_answer_that_changes_the_default_dtype_spoils_no_other_case():
    def answer(x, w):
        torch.set_default_dtype(torch.float64)
        return x * w

    ones = replace(EXERCISE, reference=lambda x, w: x * w * torch.ones(3))
    assert verdict(answer, ones).passed


def test_comparison_is_of_the_first_aspect_that_differs():
    [a, _] = run(scale, EXERCISE)
    [b, _] = run(lambda x, w: x.add_(w).double(), EXERCISE)
    assert compare(a, a) is None
    assert compare(a, b).kind == "dtype"


def test_a_case_is_described_in_a_line():
    case = {"x": torch.zeros(2, 3), "t": torch.tensor([4, 0]), "scale": 2.5, "model": object()}
    case["x"][0, 1] = 1 / 3
    assert describe(case) == ("x [[0, 0.3333, 0], [0, 0, 0]], t [4, 0], scale 2.5, model object")


def test_the_values_of_a_case_are_shown():
    @dataclass(frozen=True)
    class Size:
        width: int = 4
        patch: tuple[int, ...] = (2, 2)

    case = {
        "config": Size(patch=(1, 2)),
        "old": (3, 4),
        "one": [1.5],
        "big": torch.arange(12.0).reshape(3, 4),
        "wide": torch.tensor([0.5], dtype=torch.float64),
        "none": torch.zeros(0, 3),
    }
    assert describe(case) == (
        "config Size(patch=(1, 2)), old (3, 4), one [1.5], big (3, 4) float32 from 0 to 11,"
        " wide [0.5] float64, none [] float32"
    )


@pytest.mark.parametrize(
    ("expected", "got", "words"),
    [
        (3.0, 6.0, "is 2 times what is expected"),
        (3.0, -3.0, "wrong sign"),
        (3.0, 1.0, "is 0.3333 times"),
        (3.0, 3.9, "The value of your answer is not right: expected 3, got 3.9"),
        (3.0, -3.92e-13, "expected 3, got -3.92e-13"),
        (0.0, 2.0, "expected 0, got 2"),
    ],
)
def test_a_single_number_is_compared_by_simple_factors_alone(expected, got, words):
    exercise = returning(lambda x: torch.tensor(expected))
    assert words in verdict(lambda x: torch.tensor(got), exercise).sentence


def test_an_answer_that_is_nearly_zero_is_no_multiple():
    assert "times" not in verdict(lambda x, w: x * w * 1e-13).sentence


def test_a_named_number_goes_by_its_name():
    exercise = returning(lambda x: {"weight": 3})
    sentence = verdict(lambda x: {"weight": 5}, exercise).sentence
    assert sentence == "The value of `weight` is not right: expected 3, got 5."


def test_an_interrupt_in_the_diagnosis_spoils_no_later_verdict():
    interrupted = []

    def slip(x, w):
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return x + w

    exercise = replace(EXERCISE, misconceptions={"added": (slip, "You added.")})
    with pytest.raises(KeyboardInterrupt):
        verdict(lambda x, w: x - w, exercise)
    assert verdict(lambda x, w: x + w, exercise).misconception == "added"
