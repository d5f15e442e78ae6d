"""Wrong answers made from the reference's own result: `change(result, case)` returns another."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace

import torch
from torch import Tensor

from course_lib.checking import Exercise
from course_lib.checking.observe import Outcome, preserved, run

OTHER_DTYPE = {torch.float32: torch.float64, torch.float64: torch.float32, torch.int64: torch.int32}


def each(value, change):
    """Apply `change` to every tensor and number of a structure."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(each(part, change) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)([each(part, change) for part in value])
    if isinstance(value, Mapping):
        return {key: each(part, change) for key, part in value.items()}
    if is_dataclass(value):
        return replace(value, **{name: each(part, change) for name, part in vars(value).items()})
    return change(value)


def is_float(value) -> bool:
    return isinstance(value, float) or (isinstance(value, Tensor) and value.is_floating_point())


def other_dtype(value):
    if isinstance(value, Tensor):
        return value.to(OTHER_DTYPE.get(value.dtype, torch.float32))
    return torch.tensor(value) if isinstance(value, (float, int)) else value


def transpose(value):
    return value.transpose(-1, -2) if isinstance(value, Tensor) and value.ndim > 1 else value


def poison(value):
    if isinstance(value, Tensor) and value.is_floating_point():
        flat = value.flatten()
        return torch.cat([flat[:-1], flat[-1:] * torch.nan]).reshape(value.shape)
    return float("nan") if isinstance(value, float) else value


def change_input(result, case):
    tensors = [value for value in case.values() if isinstance(value, Tensor) and value.numel()]
    with torch.no_grad():
        for tensor in tensors[:1]:
            tensor.copy_(~tensor if tensor.dtype == torch.bool else tensor + 1)
    return result


@dataclass(frozen=True)
class Mutation:
    """A change of results, and whether an outcome has anything that it would change."""

    change: Callable
    applies: Callable[[Outcome], bool]


def on_each(change: Callable) -> Callable:
    return lambda result, case: each(result, change)


def always(outcome: Outcome) -> bool:
    return True


def values(outcome: Outcome) -> list[Tensor]:
    return [leaf.value for leaf in outcome.outputs.values() if isinstance(leaf.value, Tensor)]


def some_float(outcome: Outcome) -> bool:
    return any(value.is_floating_point() and bool((value != 0).any()) for value in values(outcome))


def some_tensor(outcome: Outcome) -> bool:
    return any(leaf.kind == "tensor" for leaf in outcome.outputs.values())


def some_whole(outcome: Outcome) -> bool:
    return any(leaf.kind == "int" for leaf in outcome.outputs.values())


def some_matrix(outcome: Outcome) -> bool:
    return any(leaf.kind == "tensor" and leaf.value.ndim > 1 for leaf in outcome.outputs.values())


def some_input(outcome: Outcome) -> bool:
    return any(
        leaf.kind == "tensor" for path, leaf in outcome.inputs.items() if path.count("[") == 1
    )


def some_gradient(outcome: Outcome) -> bool:
    return any(
        gradient is not None and bool(gradient.any()) for gradient in outcome.gradients.values()
    )


MUTATIONS = {
    "none": Mutation(lambda result, case: None, always),
    "extra_part": Mutation(lambda result, case: (result, result), always),
    "dtype": Mutation(on_each(other_dtype), values),
    "extra_axis": Mutation(on_each(lambda v: v[None] if isinstance(v, Tensor) else v), some_tensor),
    "detached": Mutation(
        on_each(lambda v: v.detach() if isinstance(v, Tensor) else v), some_gradient
    ),
    "changed_input": Mutation(change_input, some_input),
    "transposed": Mutation(on_each(transpose), some_matrix),
    "nan": Mutation(on_each(poison), some_float),
    "scaled": Mutation(on_each(lambda v: v * 1.01 if is_float(v) else v), some_float),
    "off_by_one": Mutation(on_each(lambda v: v + 1 if isinstance(v, int) else v), some_whole),
    "negated": Mutation(on_each(lambda v: -v if is_float(v) else v), some_float),
}


def applicable(exercise: Exercise) -> dict[str, Callable]:
    """The changes of MUTATIONS that have something to act on in this exercise, by name."""
    with preserved():
        outcomes = list(run(exercise.reference, exercise, 0))
    return {
        name: m.change
        for name, m in MUTATIONS.items()
        if any(m.applies(outcome) for outcome in outcomes)
    }
