"""Run an answer on the cases of its exercise and record what happens.

An outcome is what the answer returned, what became of its inputs, which gradients flow, and how it
failed.  Nothing is decided here (see diagnose.py), displayed or limited in time.

A grader can `run` in a jail and carry the outcomes out: they hold only plain tensors and text.
"""

import contextlib
import inspect
import re
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.checking.exercise import Case, Exercise, check_defaults

MAX_LEAVES = 1000  # of one answer
MAX_NUMBERS = 2**27  # in one tensor
MAX_DEPTH = 20  # of nested containers
MAX_TEXT_CHARACTERS = 100_000  # of a text that an answer returns
MAX_MESSAGE_CHARACTERS = 500  # of an exception
MAX_LINE_CHARACTERS = 200  # of a source line in a traceback
MAX_TRACEBACK_LINES = 5
STOPPED = "Stopped"  # the kind of a Failure of code that had to be stopped


# ------------------------------------------------------------------------------------ what was seen


@dataclass(frozen=True)
class Leaf:
    """One tensor, array, number or text of an answer.

    value: None for a kind that cannot be compared.
    """

    kind: str
    value: Tensor | str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Failure:
    """An exception as the student should read it: type, message, and the student's own lines.

    lines: (where, line number, source line) of each.  place: the argument of the case whose own
    code raised it, such as a network that was called wrongly; empty for the answer's own.
    shapes: of the tensors on the answer's last line, where they do not fit together.
    """

    kind: str
    message: str
    lines: tuple[tuple[str, int, str], ...] = ()
    place: str = ""
    shapes: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass
class Outcome:
    """What one case showed.  Leaves are named by their paths; a gradient is None if none flows."""

    outputs: dict[str, Leaf] = field(default_factory=dict)
    inputs: dict[str, Leaf] = field(default_factory=dict)
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    error: Failure | None = None

    @property
    def raised(self) -> bool:
        """Whether the plain run raised; with outputs, the error is from the run for gradients."""
        return self.error is not None and not self.outputs


def flatten(value: Any, path: str = "") -> dict[str, Leaf]:
    """Return the leaves of nested tuples, lists, dicts and dataclasses by their paths.

    A tensor gives {"": leaf}, a tuple {"[0]": ..., "[1].mean": ...}; a tuple and a list count as
    the same.  Raises ValueError for an answer too large or nested in itself.
    """
    leaves: dict[str, Leaf] = {}
    _collect(value, path, leaves, depth=0)
    return leaves


def _collect(value: Any, path: str, leaves: dict[str, Leaf], depth: int) -> None:
    if depth > MAX_DEPTH or len(leaves) > MAX_LEAVES:
        raise ValueError(
            f"expected an answer of fewer parts, got one of more than {MAX_LEAVES} parts, or one"
            " that contains itself"
        )
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = {f".{name}": part for name, part in zip(value._fields, value, strict=True)}
    elif isinstance(value, (tuple, list)):
        parts = {f"[{i}]": part for i, part in enumerate(value)}
    elif isinstance(value, Mapping):
        parts = {
            f"[{key!r}]" if isinstance(key, str) else f"[key {key!r}]": part
            for key, part in value.items()
        }
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {f".{f.name}": getattr(value, f.name) for f in fields(value)}
    else:
        leaves[path] = _leaf(value)
        return
    if not parts:
        leaves[path] = Leaf("empty " + ("dict" if isinstance(value, Mapping) else "tuple"))
    for name, part in parts.items():
        _collect(part, path + name, leaves, depth + 1)


def _leaf(value: Any) -> Leaf:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return Leaf("None")
    if isinstance(value, str):
        return Leaf("str", str.__str__(value)[:MAX_TEXT_CHARACTERS])
    if isinstance(value, bool):
        return Leaf("bool", torch.tensor(bool(value)))
    if isinstance(value, int) and abs(value) < 2**63:
        return Leaf("int", torch.tensor(int(value)))
    if isinstance(value, float):
        return Leaf("float", torch.tensor(float(value), dtype=torch.float64))
    if isinstance(value, complex):
        return Leaf("complex", torch.tensor(complex(value), dtype=torch.complex128))
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return Leaf("array", _plain(torch.from_numpy(np.array(value))))
    if isinstance(value, Tensor):
        return _tensor_leaf(value)
    return Leaf(type(value).__name__)


def _tensor_leaf(value: Tensor) -> Leaf:
    with torch._C.DisableTorchFunctionSubclass():  # a subclass may not answer for itself
        device = str(value.device)
        if value.layout != torch.strided or value.is_quantized or value.is_nested or value.is_meta:
            return Leaf("tensor that is sparse, nested, quantized or without data", None, device)
        return Leaf("tensor", _plain(value), device)


def _plain(value: Tensor) -> Tensor:
    if value.numel() > MAX_NUMBERS:
        raise ValueError(
            f"the answer holds {value.numel():,} numbers; at most {MAX_NUMBERS:,} are compared"
        )
    # Zeros, lest an answer that patches `copy_` hand out memory that differs between runs.
    return torch.zeros(value.shape, dtype=value.dtype).copy_(value.detach())


# ------------------------------------------------------------------------------------------ running


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Restore torch's CPU random state and default dtype at the end, whatever ran in between."""
    state = torch.get_rng_state()
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_default_dtype(dtype)


def run(answer: Any, exercise: Exercise, seed: int = 0) -> Iterator[Outcome]:
    """Observe `answer` on every case of the seed, one Outcome after the other.

    An exception of the answer, SystemExit included, is part of the outcome.  The random state and
    default dtype are set for each case and not restored: wrap the call in `preserved`.
    """
    for index in range(len(exercise.make_cases(seed))):
        outcome = Outcome()
        with _recorded(outcome, {}):
            _observe(answer, exercise, seed, index, outcome)
        yield outcome


class TimeLimit(BaseException):
    """Thrown into an answer that runs too long; no `except Exception` of the answer catches it."""


def _observe(answer: Any, exercise: Exercise, seed: int, index: int, outcome: Outcome) -> None:
    """Fill `outcome`: a plain run first, then a differentiated one if gradients are compared."""
    case = prepare(exercise, seed, index)
    with torch.inference_mode(False), torch.enable_grad():
        with _recorded(outcome, case):
            check_defaults(answer, exercise.reference, case)
            result = exercise.probe(answer, case)
            outcome.inputs = flatten(case)
            outcome.outputs = flatten(result)
        if exercise.gradients and not outcome.error:
            case = prepare(exercise, seed, index)
            with _recorded(outcome, case):
                outcome.gradients = _differentiate(answer, exercise, case, seed)


@contextlib.contextmanager
def _recorded(outcome: Outcome, case: Case) -> Iterator[None]:
    """Make an exception part of the outcome, unless it is to stop the answer."""
    try:
        yield
    except (KeyboardInterrupt, TimeLimit):
        raise
    except BaseException as error:
        outcome.error = failure(error, case)


def prepare(exercise: Exercise, seed: int, index: int) -> Case:
    """Make one case afresh, under the seed and in single precision; the session is not restored."""
    torch.set_default_dtype(torch.float32)
    torch.default_generator.manual_seed(seed)
    return exercise.make_cases(seed)[index]


def _differentiate(
    answer: Any, exercise: Exercise, case: Case, seed: int
) -> dict[str, Tensor | None]:
    """Return vector-Jacobian products of all float outputs with one seeded random cotangent."""
    wanted = {
        path: tensor.requires_grad_()
        for name in exercise.gradients
        if name in case
        for path, tensor in _named(name, case[name])
    }
    result = exercise.probe(answer, case)
    outputs = [leaf for leaf in _tensors(result) if leaf.requires_grad]
    if not outputs:
        return dict.fromkeys(wanted)
    # The product with the cotangents as one number: torch imports sympy for cotangents of its own.
    weighted = [(output * _cotangent(output, seed).conj()).sum().real for output in outputs]
    products = torch.autograd.grad(sum(weighted), list(wanted.values()), allow_unused=True)
    gradients = zip(wanted, products, strict=True)
    return {name: None if grad is None else _plain(grad) for name, grad in gradients}


def _named(name: str, value: Tensor | list[Tensor]) -> list[tuple[str, Tensor]]:
    """Return a tensor under its argument's name, and those of a list by their places as well."""
    if isinstance(value, Tensor):
        return [(name, value)]
    return [(f"{name}[{i}]", tensor) for i, tensor in enumerate(value)]


def _cotangent(output: Tensor, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(output.shape, generator=rng, dtype=torch.float64)
    return cotangent.to(output.device, output.dtype)


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a nested answer with their graph, in the order of `flatten`."""
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, f.name) for f in fields(value)]
    elif isinstance(value, Mapping):
        value = list(value.values())
    elif not isinstance(value, (tuple, list)):
        return []
    return [tensor for part in value for tensor in _tensors(part)]


_LIBRARIES = [Path(__file__).resolve().parents[1]] + [
    Path(sysconfig.get_path(name)).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
]


def _student_lines(stack: traceback.StackSummary) -> tuple[tuple[str, int, str], ...]:
    """Return the last lines of a stack that are neither the course's nor a library's."""
    own = []
    for frame in stack:
        if frame.filename.startswith(("<frozen", "<@beartype")):
            continue
        if not any(library in Path(frame.filename).parents for library in _LIBRARIES):
            own.append(
                (_where(frame), frame.lineno or 0, (frame.line or "").strip()[:MAX_LINE_CHARACTERS])
            )
    return tuple(own[-MAX_TRACEBACK_LINES:])


def _where(frame: traceback.FrameSummary) -> str:
    """Name the function; "cell 12, function" where the code is no file's, as in a grader."""
    if Path(frame.filename).is_absolute() or frame.filename.startswith("<"):
        return frame.name
    return frame.filename if frame.name == "<module>" else f"{frame.filename}, {frame.name}"


def failure(error: BaseException, case: Mapping[str, Any] | None = None) -> Failure:
    """Trim an exception to what a student can use, even one that cannot be printed."""
    try:
        message = str(error)
    except Exception:
        message = "(the exception has no readable message)"
    return Failure(
        type(error).__name__,
        message[:MAX_MESSAGE_CHARACTERS],
        _student_lines(traceback.extract_tb(error.__traceback__)),
        _place(error, case or {}),
        _shapes(error, message) if isinstance(error, RuntimeError) else "",
    )


_MISFITS = ("must match the size of tensor", "shapes cannot be multiplied", "not broadcastable")


def _shapes(error: BaseException, message: str) -> str:
    """Give the tensors that the answer's last line names with their shapes, if shapes clashed."""
    if not any(words in message for words in _MISFITS):
        return ""
    found = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        summary = traceback.FrameSummary(frame.f_code.co_filename, number, frame.f_code.co_name)
        if _student_lines(traceback.StackSummary.from_list([summary])):
            names = dict.fromkeys(re.findall(r"\b[a-zA-Z_]\w*", summary.line or ""))
            values = {name: frame.f_locals.get(name) for name in names}
            found = ", ".join(
                f"`{name}` {tuple(value.shape)}"
                for name, value in values.items()
                if type(value) is Tensor
            )
    return found[:MAX_LINE_CHARACTERS]


def _place(error: BaseException, case: Mapping[str, Any]) -> str:
    """Name the argument in whose code an exception was raised; empty if in none's."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for name, value in case.items():
            if callable(value) and _is_running(value, frame):
                return name
    return ""


def _is_running(value: Any, frame: FrameType) -> bool:
    """Say whether a frame is a call of this function or a method of this object."""
    function = inspect.unwrap(value)
    if not isinstance(function, FunctionType):
        return frame.f_locals.get("self") is value
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return frame.f_code is function.__code__ and all(
        frame.f_locals.get(name) is cell.cell_contents for name, cell in cells
    )
