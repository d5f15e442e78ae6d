"""Whether a pipeline fits into memory, said before anything is loaded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch

GB = 1e9


def free_bytes(device: torch.device) -> int:
    """Return how much memory is free where the tensors of a device are."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def require_memory(device: torch.device, stages: Mapping[str, int], advice: str) -> None:
    """Refuse to begin what cannot end: raise RuntimeError where a stage needs more than is free.

    stages: the bytes that each needs at least, by what it does; they follow one another, and none
    keeps what it had.  advice: what would do.
    """
    stage, needed = max(stages.items(), key=lambda item: item[1])
    free = free_bytes(device)
    if needed > free:
        raise RuntimeError(
            f"{stage} needs about {needed / GB:.1f} GB of memory, and {device} has"
            f" {free / GB:.1f} GB free: {advice}"
        )


@contextmanager
def helpful_when_full(advice: str) -> Iterator[None]:
    """Add the advice where torch runs out of memory all the same (RuntimeError)."""
    try:
        yield
    except RuntimeError as error:
        # A CPU and Apple's GPUs have no error of their own for it.
        if not any(words in str(error) for words in ("out of memory", "allocate memory")):
            raise
        raise RuntimeError(f"not enough memory after all: {advice}") from error


# ---------------------------------------------------------------- what is needed at least


def loading_bytes(parameters: int, device: torch.device, bytes_each: int) -> int:
    """Return what loading a part takes: the model and, on a CPU, the file."""
    return parameters * bytes_each * (2 if device.type == "cpu" else 1)


def unet_bytes(parameters: int, values: int, bytes_each: int) -> int:
    """Return what one evaluation of a U-Net takes: its weights, and the feature maps.

    values: numbers of the finest feature map, all frames together.  Measured with two levels of the
    published width on a CPU: 42 to 47 times as many at the peak.
    """
    return bytes_each * (parameters + 40 * values)


def transformer_bytes(parameters: int, values: int, bytes_each: int) -> int:
    """Return what one evaluation of a transformer takes: its weights, and a layer's tokens.

    values: numbers of all tokens, both halves of guidance together.  Measured with layers of 512 to
    1024 numbers on a CPU: 15 to 16 times as many at the peak.
    """
    return bytes_each * (parameters + 14 * values)


def decoder_bytes(parameters: int, values: int, bytes_each: int) -> int:
    """Return what decoding takes: the weights, and the feature maps.

    values: numbers of the finest feature map, all images together.  Measured with the published
    decoders on a CPU: 9 to 12 times as many at the peak.
    """
    return bytes_each * (parameters + 9 * values)
