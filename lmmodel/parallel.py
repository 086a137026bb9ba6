"""How the processes of a run share one model: each holds all of it, or a part of every weight.

    ddp     each process holds everything; the gradients are added up in one message a step
    fsdp2   each process holds some rows of each weight, of its gradient and of the optimizer's
            state (torch's `fully_shard`); a layer is put together when it runs, then let go

Under fsdp2 every forward and backward is a joint affair, so all processes run equally many
micro-batches (`step.even_out`) and all of them evaluate. What is saved is whole: checkpoints and
weights are the same files as without it. Elsewhere a sharded tensor is a `DTensor` of rows, and the
functions here do nothing to a plain one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from lmmodel.model import Transformer


def shard_model(model: Transformer) -> None:
    """Leave each process with its rows of every weight; each layer is gathered by itself.

    Embeddings and heads, which share a matrix, stay together from a forward to its backward, so
    that the heads may be called after it. Gradients are summed, never averaged: the loss is
    already divided by the labels of the whole step. Weights travel and gradients add up in float32.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    for layer in model.layers:
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
