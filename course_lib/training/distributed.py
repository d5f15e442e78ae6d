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
    """The device asked for, or the best there is: CUDA, then Apple's MPS, then the CPU.

    Under torchrun every process takes its own GPU.  Raises ValueError when the device is not there.
    """
    here = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    kind, _, number = (name or next(k for k, present in here.items() if present)).partition(":")
    if not here.get(kind):
        raise ValueError(
            f"device {name!r} is not on this machine; it has {[k for k in here if here[k]]}"
        )
    if kind != "cuda":
        return torch.device(kind)
    index = int(number or os.environ.get("LOCAL_RANK", 0))
    if index >= torch.cuda.device_count():
        raise ValueError(f"expected a GPU below {torch.cuda.device_count()}, got cuda:{index}")
    return torch.device("cuda", index)


def precision_on(device: torch.device, wanted: str) -> str:
    """'bfloat16' if wanted and the device multiplies in it (emulated it would be slow), else
    'float32'.
    """
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        able = any(units.get(unit) for unit in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
    return "bfloat16" if able and wanted == "bfloat16" else "float32"


def place(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on the device, 2-D convolutions with channels last: half again as fast on CPUs and
    GPUs.
    """
    module = module.to(device)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and device.type != "mps":
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return module


def describe_device(device: torch.device) -> str:
    """For the provenance: '2 CPU cores', 'NVIDIA H200', '2 processes, each 1 CPU core'."""
    cores = torch.get_num_threads()
    one = {"cpu": f"{cores} CPU core" + "s" * (cores > 1), "mps": "Apple GPU"}.get(device.type)
    one = one or torch.cuda.get_device_name(device)
    return one if processes() == 1 else f"{processes()} processes, each {one}"


def rank() -> int:
    """The number of this process, 0 when it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes torchrun started (NCCL on GPUs, gloo elsewhere); alone, do nothing."""
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        # a DistributedDataParallel that outlives its group can abort the process at exit
        gc.collect()
        dist.destroy_process_group()


def data_parallel(module: nn.Module, players: int) -> nn.Module:
    """The module with its gradients averaged over the processes after every backward pass."""
    if processes() == 1:
        return module
    # When one of several players moves, the others' parameters get no gradient.
    return DistributedDataParallel(module, find_unused_parameters=players > 1)


def all_gather(x: Tensor) -> Tensor:
    """The parts (b, ...) of all processes as the whole batch, in order, without gradient; alone, x
    itself.
    """
    x = x.detach()
    if processes() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(processes())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up in any process: all get the same answer, so that all stop at the same
    step.
    """
    if processes() == 1:
        return flag
    return bool(all_gather(torch.tensor([flag], dtype=torch.uint8, device=device)).any())
