"""What an exercise is, and the registry that finds it.

An exercise is declared once, in ``course_lib/exercises/<module>.py``, in the list ``EXERCISES``.
Its id is ``"<module>.<name>"``.  A module is a topic of its own unless ``MODULES_OF`` in
``course_lib/exercises/__init__.py`` says which topic it belongs to: a notebook on two papers has
two modules, and ``magvit2.lfq`` belongs to the topic ``magvit``.  A paper in two modules may have
one name for the ids of both, that of the topic: ``cogvideox.latent_shape`` is declared in
``cogvideox_vae``.  The notebook, the mutant tests and the grader all read this one declaration.
"""

import difflib
import functools
import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from course_lib.checking.edits import Edit

Case = dict[str, Any]
NO_DEFAULT = inspect.Parameter.empty
KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_PACKAGE = "course_lib.exercises"  # found by name: the chapters import this module


def call_by_name(answer: Any, case: Case) -> Any:
    """Call an answer with the case's arguments, found by name and given as the chapter gives them.

    The notebook goes on with the student's function and calls it by position, so its parameters
    keep the names and the order of the stub; parameters of the student's own may follow if they
    have defaults.  Raises TypeError where they do not.
    """
    try:
        parameters = inspect.signature(answer).parameters
    except (TypeError, ValueError):  # some builtins have none
        return answer(**case)
    if problem := _misfit(parameters, case):
        raise TypeError(problem)
    first = list(itertools.takewhile(case.__contains__, parameters))
    named = {name: value for name, value in case.items() if name not in first}
    return answer(*(case[name] for name in first), **named)


def _misfit(parameters: Mapping[str, inspect.Parameter], case: Case) -> str:
    """Say why the parameters of an answer do not fit the stub's; empty if they do."""
    wanted = ", ".join(case)
    theirs = ", ".join(str(p) if "*" in str(p) else name for name, p in parameters.items())
    gathers = [p for p in parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    own = [name for name, p in parameters.items() if p not in gathers]
    if gathers and not set(case) <= set(own):
        return f"write the parameters ({wanted}) out, one by one; yours are ({theirs})"
    by_name = [name for name in case if name in own and parameters[name].kind is KEYWORD_ONLY]
    if by_name:
        return (
            f"the chapter gives `{by_name[0]}` by its place, but yours can be given by name alone:"
            " take the `*` out of the parameters"
        )
    more = [name for name in own if name not in case and parameters[name].default is NO_DEFAULT]
    if more or [name for name in own if name in case] != list(case):
        return f"keep the parameters ({wanted}) in this order; yours are ({theirs or 'none'})"
    return ""


def check_defaults(answer: Any, reference: Callable, case: Case) -> None:
    """Raise TypeError if an answer lacks a default that a call of the chapter relies on.

    A case that leaves an argument out is such a call.
    """
    try:
        theirs = inspect.signature(answer).parameters
        expected = inspect.signature(reference).parameters
    except (TypeError, ValueError):
        return
    for name, parameter in expected.items():
        if name in case or name not in theirs or parameter.default is NO_DEFAULT:
            continue
        default = theirs[name].default
        if default is NO_DEFAULT:
            call = f"{getattr(answer, '__name__', 'it')}({', '.join(case)})"
            raise TypeError(
                f"`{name}` has no default; the chapter calls `{call}` without it: write"
                f" {name}={parameter.default!r}"
            )
        if repr(default) != repr(parameter.default):
            raise TypeError(
                f"the default of `{name}` is {default!r}; expected {parameter.default!r}, which the"
                " chapter relies on"
            )


@dataclass(frozen=True)
class Misconception:
    """A wrong answer that students really give, and the sentence that puts them right.

    slip: a function, or an edit of the reference
    """

    slip: Callable | Edit
    sentence: str
    reference: Callable

    @functools.cached_property
    def answer(self) -> Callable:
        """The wrong answer; an edit is compiled on first use.  Raises ValueError (see edits.py)."""
        return self.slip.answer(self.reference) if isinstance(self.slip, Edit) else self.slip

    @property
    def diff(self) -> str:
        """What an edit changes in the reference's text, for instructors; empty for a function."""
        return self.slip.diff(self.reference) if isinstance(self.slip, Edit) else ""


@dataclass(frozen=True, eq=False)
class Exercise:
    """One exercise: what it teaches, how it is checked, and the wrong answers it can explain.

    cases           rng -> a list of keyword arguments, the same for the same seed, made every time
    misconceptions  name -> (wrong answer, sentence); each becomes a Misconception
    gradients       names of the float arguments, tensors or lists of them, through which gradients
                    are compared as well
    probe           (answer, case) -> what is compared; a class is built and used here
    seconds         time limit of one check, all cases together
    tolerance       relative to each value, plus a tenth of it relative to the tensor's largest
    A case on which the reference raises asks for an error of the same type.
    """

    id: str
    reference: Callable
    cases: Callable[[torch.Generator], list[Case]]
    misconceptions: Mapping[str, Any] = field(default_factory=dict)
    gradients: tuple[str, ...] = ()
    equation: str = ""
    points: int = 1
    stars: int = 1
    minutes: int = 5
    probe: Callable[[Any, Case], Any] = call_by_name
    seconds: int | float = 10
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if not all(part.isidentifier() for part in self.id.split(".")) or self.id.count(".") != 1:
            raise ValueError(f'exercise id: expected "topic.name", got {self.id!r}')
        if not 1 <= self.stars <= 5 or self.points < 1 or self.minutes <= 0 or self.seconds <= 0:
            raise ValueError(
                f"{self.id}: expected 1 to 5 stars and positive points, minutes and seconds, got"
                f" {self.stars}, {self.points}, {self.minutes} and {self.seconds}"
            )
        declared = {
            name: m if isinstance(m, Misconception) else Misconception(*m, self.reference)
            for name, m in self.misconceptions.items()
        }
        object.__setattr__(self, "misconceptions", declared)
        silent = [name for name, m in declared.items() if not m.sentence.strip()]
        if silent:
            raise ValueError(f"{self.id}: misconceptions without a sentence: {', '.join(silent)}")

    @property
    def module(self) -> str:
        """The module that declares it; the first part of its id if none does."""
        first = self.id.partition(".")[0]
        for module in _modules_of(first):
            if any(exercise.id == self.id for exercise in _package(module).EXERCISES):
                return module
        return first

    @property
    def topic(self) -> str:
        return _topic(self.id.partition(".")[0])

    @property
    def name(self) -> str:
        return self.id.partition(".")[2]

    def make_cases(self, seed: int) -> list[Case]:
        """Make the cases of a seed afresh, arguments in the order of the reference's parameters."""
        place = _parameters_of(self.reference)
        last = len(place)
        cases = self.cases(torch.Generator().manual_seed(seed))
        return [
            dict(sorted(case.items(), key=lambda item: place.get(item[0], last))) for case in cases
        ]


@functools.cache
def _parameters_of(function: Callable) -> dict[str, int]:
    """Return the parameters of a function with their positions; none for a builtin."""
    try:
        return {name: i for i, name in enumerate(inspect.signature(function).parameters)}
    except (TypeError, ValueError):
        return {}


class UnknownExercise(LookupError):
    """No exercise has this id; the message names the nearest ones."""


def topics() -> list[str]:
    """Return every topic that declares exercises, in alphabetical order."""
    return sorted({_topic(module) for module in _modules()})


def _modules() -> list[str]:
    """Return the modules that declare exercises, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(_package().__path__))


def _modules_of(topic: str) -> tuple[str, ...]:
    """Return the modules that declare a topic's exercises, in the order of its notebook."""
    modules = _package().MODULES_OF.get(topic, (topic,))
    return tuple(module for module in modules if module in _modules())


def _topic(module: str) -> str:
    """Return the topic that a module, or the first part of an id, belongs to."""
    for topic, modules in _package().MODULES_OF.items():
        if module in modules:
            return topic
    return module


def _package(module: str = "") -> Any:
    return importlib.import_module(f"{_PACKAGE}.{module}" if module else _PACKAGE)


def exercises(topic: str) -> list[Exercise]:
    """Return the exercises of a topic in the order in which its notebook asks them.

    Raises UnknownExercise for a topic that does not exist and ValueError for a careless
    declaration.
    """
    if topic not in topics():
        raise UnknownExercise(f"There is no topic {topic!r}; the topics are {', '.join(topics())}.")
    found: list[Exercise] = []
    for module in _modules_of(topic):
        found += _declared(module, {exercise.id for exercise in found})
    return found


def _declared(module: str, before: set[str]) -> list[Exercise]:
    """Return the exercises of one module.

    before: the ids of earlier ones of its topic.  Raises ValueError for ids that are neither its
    own nor the topic's, or are declared twice.
    """
    declared = list(_package(module).EXERCISES)
    ids = [exercise.id for exercise in declared]
    own = (f"{module}.", f"{_topic(module)}.")
    strangers = [id for id in ids if not id.startswith(own)]
    strangers += sorted({id for id in ids if ids.count(id) > 1 or id in before})
    if strangers:
        raise ValueError(
            f"exercises/{module}.py: ids of another topic, or declared twice:"
            f" {', '.join(strangers)}"
        )
    return declared


def find_exercise(id: str) -> Exercise:
    """Return the exercise with this id.  Raises UnknownExercise, which names near ids."""
    topic = _topic(str(id).partition(".")[0])
    known = topics()
    found = {exercise.id: exercise for exercise in exercises(topic)} if topic in known else {}
    if id in found:
        return found[id]
    every: Iterable[str] = found or [
        exercise.id for topic in known for exercise in exercises(topic)
    ]
    near = difflib.get_close_matches(str(id), every, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise UnknownExercise(f"There is no exercise {id!r}{hint}")


def with_weights(model: nn.Module, source: nn.Module) -> nn.Module:
    """Give `model` the weights of `source`, by name where all names agree, else in order.

    A probe builds `source` before the answer, so that both runs draw the same weights under one
    seed.  Raises ValueError when the parameters do not correspond, showing both lists.
    """
    mine = dict(model.named_parameters())
    theirs = dict(source.named_parameters())
    if mine.keys() == theirs.keys():
        pairs = [(mine[name], theirs[name]) for name in mine]
    else:
        pairs = list(zip(mine.values(), theirs.values(), strict=False))
    if len(mine) != len(theirs) or any(a.shape != b.shape for a, b in pairs):
        raise ValueError(f"expected the parameters {_listed(theirs)}; yours are {_listed(mine)}")
    with torch.no_grad():
        for target, value in pairs:
            target.copy_(value)
    return model


def _listed(named: dict[str, nn.Parameter]) -> str:
    return ", ".join(f"{name} {tuple(p.shape)}" for name, p in named.items()) or "none"
