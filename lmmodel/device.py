"""The device a run uses, the processes that share it, and what the machine is."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from lmmodel.errors import DeviceError

# Dense bf16 peak in FLOP/s, from the makers' data sheets, by a part of the device's name.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}


@dataclass(frozen=True)
class Processes:
    """The processes that train one model together; torchrun starts them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device that "auto", "cpu" or "cuda" means on this machine.

    Raises:
        DeviceError: a GPU is asked for and there is none

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(
            f"device is {name!r}, but torch {torch.__version__} sees no CUDA device: "
            "use device=cpu, or install a CUDA build of torch and check nvidia-smi"
        )
    return torch.device("cuda", local_rank)


def resolve_precision(
    name: Literal["auto", "fp32", "bf16"], device: torch.device
) -> Literal["fp32", "bf16"]:
    """Return "fp32" or "bf16"; "auto" is bf16 where the device multiplies it in hardware."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def peak_flops(device: torch.device) -> float | None:
    """Return the dense bf16 peak in FLOP/s of a known GPU, or None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)


def memory_bytes(device: torch.device) -> int:
    """Return the bytes of memory that the device (or this machine) has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_memory(device_name: str) -> int:
    """Return the most bytes that this process has held so far, on a GPU those of the GPU."""
    if device_name == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Return what a run's bits depend on besides its configuration: versions and hardware."""
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "cpu",
        "machine": platform.machine(),
        "num_threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
    }


@contextlib.contextmanager
def join_processes(device_name: str) -> Iterator[Processes]:
    """Join the process group that torchrun describes; yield the trivial one without torchrun."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    device = resolve_device(device_name, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank=int(os.environ["RANK"]), size=size, local_rank=local_rank)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def same_bits(device_name: str, *, wanted: bool) -> Iterator[None]:
    """Have CUDA kernels give the same bits every time; the CPU's do, so nothing is done there.

    Otherwise backward of attention and of row selection add in whatever order threads come. cuBLAS
    reads its setting when it starts, so this must come before the first product.
    """
    if not wanted or device_name == "cpu" or not torch.cuda.is_available():
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_on = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    was_filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on)
        memory.fill_uninitialized_memory = was_filled


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """Return the element-wise sum over all processes; the tensor itself when there is one."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def value_of_main(value: int, device: torch.device) -> int:
    """Return the main process's value in every process."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, device=device)
    dist.broadcast(shared, src=0)
    return int(shared)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
