"""Outcomes as bytes: arrays as safetensors, everything else as JSON beside them, never a pickle.

`unpack` takes its bytes from a jail and trusts none of them: whatever is not an outcome is a
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

from course_lib.checking.observe import MAX_LEAVES, MAX_MESSAGE_CHARACTERS, Failure, Leaf, Outcome

# Everything that is not a tensor.  JSON takes a hundred times as much memory while it is read.
MAX_RECORD_BYTES = 2**19
MAX_AXES = 64  # torch cannot compute with more
MAX_NAME_CHARS = 200

DTYPES = {
    "bool": torch.bool,
    "int": torch.int64,
    "float": torch.float64,
    "complex": torch.complex128,
}

STEP = r"(\[\d{1,4}\]|\.\w{1,80}|\[('[^']{0,80}'|\"[^\"]{0,80}\")\]|\[key .{1,80}\])"
Path = Annotated[str, Field(max_length=500, pattern=rf"^{STEP}*$")]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class _StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Leaf(_StrictModel):
    kind: Name
    device: Name
    tensor: str | None = None
    text: Annotated[str, Field(max_length=100_000)] | None = None


class _Failure(_StrictModel):
    kind: Name
    message: Annotated[str, Field(max_length=MAX_MESSAGE_CHARACTERS)]
    lines: Annotated[list[tuple[Name, int, Name]], Field(max_length=5)]
    place: Name
    shapes: Name


class _Outcome(_StrictModel):
    outputs: Annotated[dict[Path, _Leaf], Field(max_length=MAX_LEAVES + 1)]
    inputs: Annotated[dict[Path, _Leaf], Field(max_length=MAX_LEAVES + 1)]
    gradients: Annotated[dict[Name, str | None], Field(max_length=MAX_LEAVES)]
    error: _Failure | None


def pack(outcome: Outcome) -> bytes:
    """Return one case's outcome as bytes."""
    tensors: dict[str, Tensor] = {}

    def keep(value: Tensor | None) -> str | None:
        if value is None:
            return None
        key = str(len(tensors))
        value = value.resolve_conj().resolve_neg()
        if value.is_complex():
            key += " complex"
            value = torch.view_as_real(value)
        tensors[key] = value.contiguous()
        return key

    def describe(part: Leaf) -> _Leaf:
        return _Leaf(
            kind=part.kind[:MAX_NAME_CHARS],
            device=part.device[:MAX_NAME_CHARS],
            tensor=keep(part.value) if isinstance(part.value, Tensor) else None,
            text=part.value if isinstance(part.value, str) else None,
        )

    error = None
    if outcome.error:
        lines = outcome.error.lines
        error = _Failure(
            kind=outcome.error.kind[:MAX_NAME_CHARS],
            message=outcome.error.message,
            lines=[(where[:MAX_NAME_CHARS], number, code) for where, number, code in lines],
            place=outcome.error.place,
            shapes=outcome.error.shapes,
        )
    record = _Outcome(
        outputs={path: describe(part) for path, part in outcome.outputs.items()},
        inputs={path: describe(part) for path, part in outcome.inputs.items()},
        gradients={name: keep(value) for name, value in outcome.gradients.items()},
        error=error,
    )
    data = save(tensors, {"outcome": record.model_dump_json()})
    if int.from_bytes(data[:8], "little") > MAX_RECORD_BYTES:
        raise ValueError("expected an outcome that can be described in half a megabyte")
    return data


def unpack(data: bytes) -> Outcome:
    """Return the outcome that `pack` wrote.  Raises ValueError for anything else."""
    try:
        size = int.from_bytes(data[:8], "little")
        if size > MAX_RECORD_BYTES:
            raise ValueError
        header = json.loads(data[8 : 8 + size])
        record = _Outcome.model_validate_json(header["__metadata__"]["outcome"])
        tensors = {key: _restore(key, value) for key, value in load(data).items()}
        error = None
        if record.error:
            error = Failure(**record.error.model_dump() | {"lines": tuple(record.error.lines)})
        gradients = {}
        for name, key in record.gradients.items():
            gradients[name] = None if key is None else tensors[key]
        return Outcome(
            {path: _leaf(part, tensors) for path, part in record.outputs.items()},
            {path: _leaf(part, tensors) for path, part in record.inputs.items()},
            gradients,
            error,
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


def _restore(key: str, value: Tensor) -> Tensor:
    if value.ndim > MAX_AXES:
        raise ValueError
    if value.dtype == torch.bool:
        return value.view(torch.uint8) != 0  # the jail may have sent any byte
    return torch.view_as_complex(value) if re.fullmatch(r"\d+ complex", key) else value


def _leaf(part: _Leaf, tensors: dict[str, Tensor]) -> Leaf:
    value = part.text if part.tensor is None else tensors[part.tensor]
    if isinstance(value, Tensor) and value.dtype != DTYPES.get(part.kind, value.dtype):
        raise ValueError  # a coarser dtype would be compared too coarsely
    return Leaf(part.kind, value, part.device)
