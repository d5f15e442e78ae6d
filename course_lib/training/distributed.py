"""The same step in one process or in several, and the choice of a device."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def choose_device(name: str | None = None) -> torch.device:
    """Return the device asked for, by default the best available: CUDA, then MPS, then the CPU.

    Under torchrun every process takes its own GPU.  Raises ValueError when the device is missing.
    """
    is_available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    available = [kind for kind, present in is_available.items() if present]
    kind, _, number = (name or available[0]).partition(":")
    if kind not in available or not (number or "0").isdecimal():
        raise ValueError(
            f"expected a device that is here, got another: {name!r} is not on this machine; it has"
            f" {available}"
        )
    if kind != "cuda":
        return torch.device(kind)
    index = int(number or os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise ValueError(f"expected a GPU below {torch.cuda.device_count()}, got cuda:{index}")
    return torch.device("cuda", index)


def precision_on(device: torch.device, wanted: str) -> str:
    """Return 'bfloat16' if it is wanted and the device multiplies in it, else 'float32'.

    A device that only emulates bfloat16 would be slow, so it counts as one that does not.
    """
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        bfloat16_units = ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16")
        has_bfloat16 = any(units.get(unit) for unit in bfloat16_units)
    return "bfloat16" if has_bfloat16 and wanted == "bfloat16" else "float32"


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """Move the module to the device, with the weights of 2-D convolutions channels last.

    That layout is half again as fast on CPUs and GPUs.
    """
    module = module.to(device)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and device.type != "mps":
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return module


def describe_device(device: torch.device) -> str:
    """Name the device for the provenance: '2 CPU cores', '2 processes, each 1 CPU core'."""
    if device.type == "cpu":
        cores = torch.get_num_threads()
        one = "1 CPU core" if cores == 1 else f"{cores} CPU cores"
    elif device.type == "mps":
        one = "Apple GPU"
    else:
        one = torch.cuda.get_device_name(device)
    return one if processes() == 1 else f"{processes()} processes, each {one}"


def rank() -> int:
    """Return the number of this process, 0 when it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, with NCCL on GPUs and gloo elsewhere.

    A process that was not started by torchrun does nothing here.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        # A DistributedDataParallel that outlives its group can abort the process at exit.
        gc.collect()
        dist.destroy_process_group()


def data_parallel(module: nn.Module, players: int) -> nn.Module:
    """Wrap the module so that every backward pass averages its gradients over the processes."""
    if processes() == 1:
        return module
    # While one of several players takes its step, the others' parameters get no gradient.
    return DistributedDataParallel(module, find_unused_parameters=players > 1)


def all_gather(x: Tensor) -> Tensor:
    """Return the parts (b, ...) of all processes as the whole batch, in order, without gradient.

    With a single process that is x itself, detached.
    """
    x = x.detach()
    if processes() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(processes())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set in any process.

    All processes get the same answer, so that all of them stop at the same step.
    """
    if processes() == 1:
        return flag
    return bool(all_gather(torch.tensor([flag], dtype=torch.uint8, device=device)).any())
