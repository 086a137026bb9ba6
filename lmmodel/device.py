"""The device a run uses, what the machine is, the processes that share a run and how they do it.

    ddp     each process holds everything; the gradients are added up in one message a step
    fsdp2   each process holds some rows of each weight, of its gradient and of the optimizer's
            state (torch's `fully_shard`); a layer is put together when it runs, then let go

Under fsdp2 every forward and backward is a joint affair, so all processes run equally many
micro-batches (`step.even_out`) and all of them evaluate. What is saved is whole: checkpoints and
weights are the same files as without it. Elsewhere a sharded tensor is a `DTensor` of rows, and the
functions here do nothing to a plain one.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lmmodel.errors import DeviceError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

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


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all processes, (R, C), and where those of this one begin.

    Args:
        rows: (R', C), as many as each process has
    """
    if not dist.is_initialized():
        return rows, 0
    num = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.zeros_like(num) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, num)
    lengths = [int(size) for size in sizes]
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(found, padded)
    whole_rows = [own[:length] for own, length in zip(found, lengths, strict=True)]
    return torch.cat(whole_rows), sum(lengths[: dist.get_rank()])


def value_of_main(value: int, device: torch.device) -> int:
    """Return the main process's value in every process."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor(value, device=device)
    dist.broadcast(shared, src=0)
    return int(shared)


def tensor_of_main(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the main process's tensor in every process, on the CPU."""
    if not dist.is_initialized():
        return tensor
    shared = tensor.to(device)
    dist.broadcast(shared, src=0)
    return shared.cpu()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def shard_model(model: nn.Module) -> None:
    """Leave each process with its rows of every weight; each layer is gathered by itself.

    Embeddings and heads, which share a matrix, stay together from a forward to its backward, so
    that the heads may be called after it. Gradients are summed, never averaged: the loss is
    already divided by the labels of the whole step. Weights travel and gradients add up in float32.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    for layer in model.get_submodule("layers").children():
        fully_shard(layer)
    fully_shard(model, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo and NCCL both have it


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_model` was called on a model."""
    return hasattr(model, "set_gradient_divide_factor")


def release_weights(model: nn.Module) -> None:
    """Let go of what a forward without a backward has gathered."""
    if not is_sharded(model):
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def sum_gradients(model: nn.Module) -> None:
    """Replace the gradients by their sums over all processes, in one message.

    Sharded ones are sums already: backward adds them up.
    """
    if not dist.is_initialized() or is_sharded(model):
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in parameters
    ]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


def whole(tensor: Tensor) -> Tensor:
    """Return a sharded tensor in one piece; every process must ask for it."""
    return tensor.full_tensor() if _is_rows(tensor) else tensor


def whole_groups(
    groups: Mapping[str, Mapping[str, Tensor]], *, is_kept: bool
) -> dict[str, dict[str, Tensor]]:
    """Return named tensors, the sharded ones in one piece, on the CPU.

    Args:
        groups: tensors by group and name; every process must give the same names
        is_kept: whether this process wants them; the others only send, and get nothing
    """
    kept: dict[str, dict[str, Tensor]] = {}
    for group, tensors in groups.items():
        kept[group] = {}
        for name, tensor in tensors.items():
            full = whole(tensor)
            if is_kept:
                kept[group][name] = full.cpu() if full is not tensor else tensor
    return kept


@torch.no_grad()
def put(target: Tensor, value: Tensor) -> None:
    """Copy a value in one piece, or sharded as the target is, into the target."""
    if _is_rows(target) and not _is_rows(value):
        value = _distribute(value.to(target.device), target)
    own_rows(target).copy_(own_rows(value))


def own_rows(tensor: Tensor) -> Tensor:
    """Return this process's rows of a sharded matrix, on the same memory."""
    return tensor.to_local().detach() if _is_rows(tensor) else tensor


def as_rows_of(rows: Tensor, like: Tensor) -> Tensor:
    """Return a tensor sharded like another, of this process's rows of it, on their memory."""
    if not _is_rows(like):
        return rows
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        rows, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )


def gather_stack(stack: Tensor, like: Tensor) -> Tensor:
    """Return n whole matrices (n, R, C) from this process's rows of each (n, r, C).

    Args:
        stack: floats (n, r, C)
        like: a matrix (R, C) that is sharded as those of the stack are
    """
    if not _is_rows(like):
        return stack
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size([len(stack), *like.shape])
    stride = (like.numel(), *like.stride())
    rows = DTensor.from_local(stack, like.device_mesh, [Shard(1)], shape=shape, stride=stride)
    return rows.full_tensor()


def take_stack(stack: Tensor, like: Tensor) -> Tensor:
    """Return this process's rows (n, r, C) of n whole matrices (n, R, C)."""
    if not _is_rows(like):
        return stack
    from torch.distributed.tensor import DTensor, Replicate, Shard

    whole_stack = DTensor.from_local(stack, like.device_mesh, [Replicate()], run_check=False)
    return whole_stack.redistribute(placements=[Shard(1)]).to_local()


def _distribute(value: Tensor, like: DTensor) -> Tensor:
    """Return a tensor that every process has, sharded like another; nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def _is_rows(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is sharded; without several processes torch's DTensor is not imported."""
    return dist.is_initialized() and hasattr(tensor, "full_tensor")
