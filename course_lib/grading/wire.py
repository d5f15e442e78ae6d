"""Outcomes as bytes: arrays as safetensors, the rest as JSON beside them.  Never a pickle.

`unpack` takes its bytes from a jail and believes nothing: whatever is not an outcome is a
ValueError.
"""

import json
import re
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from course_lib.checking.observe import LEAVES, TEXT, Failure, Leaf, Outcome

# bytes of all that is no tensor: JSON takes a hundred times that in memory while it is read
RECORD = 2**19

NUMBERS = {
    "bool": torch.bool,
    "int": torch.int64,
    "float": torch.float64,
    "complex": torch.complex128,
}

STEP = r"(\[\d{1,4}\]|\.\w{1,80}|\[('[^']{0,80}'|\"[^\"]{0,80}\")\]|\[key .{1,80}\])"
Path = Annotated[str, Field(max_length=500, pattern=rf"^{STEP}*$")]
Name = Annotated[str, Field(max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Leaf(_Strict):
    kind: Name
    device: Name
    tensor: str | None = None
    text: Annotated[str, Field(max_length=100_000)] | None = None


class _Failure(_Strict):
    kind: Name
    message: Annotated[str, Field(max_length=TEXT)]
    lines: Annotated[list[tuple[Name, int, Name]], Field(max_length=5)]


class _Outcome(_Strict):
    outputs: Annotated[dict[Path, _Leaf], Field(max_length=LEAVES + 1)]
    inputs: Annotated[dict[Path, _Leaf], Field(max_length=LEAVES + 1)]
    gradients: Annotated[dict[Name, str | None], Field(max_length=LEAVES)]
    error: _Failure | None


def pack(outcome: Outcome) -> bytes:
    """One case's outcome as bytes."""
    tensors: dict[str, Tensor] = {}

    def keep(value: Tensor | None) -> str | None:
        if value is None:
            return None
        key = f"{len(tensors)} complex" if value.is_complex() else str(len(tensors))
        value = value.resolve_conj().resolve_neg()
        tensors[key] = (torch.view_as_real(value) if value.is_complex() else value).contiguous()
        return key

    def leaf(part: Leaf) -> _Leaf:
        text = part.value if isinstance(part.value, str) else None
        tensor = keep(part.value) if isinstance(part.value, Tensor) else None
        return _Leaf(kind=part.kind[:200], device=part.device[:200], tensor=tensor, text=text)

    error = outcome.error and _Failure(
        kind=outcome.error.kind[:200],
        message=outcome.error.message,
        lines=[(where[:200], number, code) for where, number, code in outcome.error.lines],
    )
    record = _Outcome(
        outputs={path: leaf(part) for path, part in outcome.outputs.items()},
        inputs={path: leaf(part) for path, part in outcome.inputs.items()},
        gradients={name: keep(value) for name, value in outcome.gradients.items()},
        error=error,
    )
    data = save(tensors, {"outcome": record.model_dump_json()})
    if int.from_bytes(data[:8], "little") > RECORD:
        raise ValueError("expected an outcome that can be described in half a megabyte")
    return data


def unpack(data: bytes) -> Outcome:
    """The outcome that `pack` wrote.  Raises ValueError for anything else."""
    try:
        size = int.from_bytes(data[:8], "little")
        if size > RECORD:
            raise ValueError
        header = json.loads(data[8 : 8 + size])
        record = _Outcome.model_validate_json(header["__metadata__"]["outcome"])
        tensors = {key: _whole(key, value) for key, value in load(data).items()}
        return Outcome(
            {path: _leaf(part, tensors) for path, part in record.outputs.items()},
            {path: _leaf(part, tensors) for path, part in record.inputs.items()},
            {name: None if key is None else tensors[key] for name, key in record.gradients.items()},
            record.error
            and Failure(record.error.kind, record.error.message, tuple(record.error.lines)),
        )
    except (
        ValidationError,
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"expected the outcome of a case, got {len(data)} bytes: {type(error).__name__}"
        ) from None


def _whole(key: str, value: Tensor) -> Tensor:
    if value.ndim > 64:
        raise ValueError  # more axes than torch calculates with
    if value.dtype == torch.bool:
        return value.view(torch.uint8) != 0  # any byte may have come
    return torch.view_as_complex(value) if re.fullmatch(r"\d+ complex", key) else value


def _leaf(part: _Leaf, tensors: dict[str, Tensor]) -> Leaf:
    value = part.text if part.tensor is None else tensors[part.tensor]
    if isinstance(value, Tensor) and value.dtype != NUMBERS.get(part.kind, value.dtype):
        raise ValueError  # of a coarser dtype, it would be compared coarsely
    return Leaf(part.kind, value, part.device)
