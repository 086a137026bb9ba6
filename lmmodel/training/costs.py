"""What a step costs: operations, memory, and the attention kernels it takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from lmmodel.config import TrainConfig
from lmmodel.cores import num_cores
from lmmodel.device import Processes, memory_bytes
from lmmodel.errors import MemoryLimitError
from lmmodel.families import ModelConfig
from lmmodel.layers.attention import Kernel, choose_kernel
from lmmodel.layers.masks import Mask
from lmmodel.loader import StepBatch
from lmmodel.model import forward_flops
from lmmodel.objectives import Objective


def batch_flops(model: ModelConfig, objective: Objective, batch: StepBatch) -> int:
    """Return the floating-point operations of a step's products, forward and backward.

    Only what the result needs counts: no padding, and half of causal attention.
    """
    products = np.array([term.head_products(model) for term in objective.terms])
    return 3 * forward_flops(
        model,
        num_tokens=batch.num_tokens,
        num_pairs=round(batch.num_pairs * (1 - objective.causal_share / 2)),
        num_rows=int(batch.num_labels.sum()),
        head_products=int(batch.num_labels @ products),
    )


def attention_kernels(config: TrainConfig, batches: Sequence[StepBatch]) -> tuple[Kernel, ...]:
    """Return the attention kernels that a resolved run takes for the shapes of some batches."""
    model = config.model
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    micro = [micro.batch for batch in batches for micro in batch.micro_batches]
    shapes = {(own.num_tokens, own.num_sequences, own.max_seqlen) for own in micro}
    windows = {model.window(layer) for layer in range(model.num_hidden_layers)}
    chosen = {
        choose_kernel(
            config.device, dtype, *shape, mask=Mask(window=window),
            dropout_p=model.attention_dropout, is_compiled=config.compile,
        )
        for shape, window in product(shapes, windows)
    }  # fmt: skip
    return tuple(sorted(chosen))


def estimate_memory(config: TrainConfig, batch: StepBatch, num_processes: int = 1) -> int:
    """Return about how many bytes a resolved run takes at its peak, on one device.

    Weights, gradients and the state of AdamW are counted (Muon has less); what backward keeps is
    estimated from the widths of a layer; logits are counted in compute precision and twice in
    float32. Micro-batches that share the weights have copies of them and, each in work, gradients
    of its own.
    """
    model, number_bytes = config.model, 2 if config.precision == "bf16" else 4
    per_weight = 16 + (4 if config.averaging.kind != "none" else 0)
    tokens = max(micro.batch.num_tokens for micro in batch.micro_batches)
    labels = max(micro.batch.num_labels for micro in batch.micro_batches)
    width = 12 * model.hidden_size + 3 * model.intermediate_size
    activations = tokens * model.num_hidden_layers * width * number_bytes
    logits = labels * model.vocab_size * (number_bytes + 8)
    num_weights = model.num_parameters // (num_processes if config.parallel == "fsdp2" else 1)
    at_once = min(num_at_once(config, num_processes), len(batch.micro_batches))
    if shares_weights(config, num_processes):
        per_weight += number_bytes * at_once + (2 if config.precision == "bf16" else 0)
    return per_weight * num_weights + at_once * (activations + logits)


def shares_weights(config: TrainConfig, num_processes: int = 1) -> bool:
    """Whether the micro-batches of a resolved run share its weights, as several cores can.

    On a GPU one comes after the other. What is compiled shares one generator, and sharded layers
    are gathered in one order.
    """
    is_sharded = config.parallel == "fsdp2" and num_processes > 1
    return config.device == "cpu" and not config.compile and not is_sharded


def num_at_once(config: TrainConfig, num_processes: int = 1) -> int:
    """Return how many micro-batches of a resolved run are in work at a time."""
    return num_cores(torch.device("cpu")) if shares_weights(config, num_processes) else 1


def check_memory(
    config: TrainConfig, batch: StepBatch, device: torch.device, processes: Processes
) -> None:
    """Check that a micro-batch stands a chance on this device.

    Raises:
        MemoryLimitError: it would need more than twice what there is
    """
    needed, there = estimate_memory(config, batch, processes.size), memory_bytes(device)
    if needed > 2 * there:
        raise MemoryLimitError(
            f"a micro-batch of {config.batch.micro_batch_tokens} tokens needs about "
            f"{needed / 2**30:.0f} GiB, the device has {there / 2**30:.0f} GiB: lower "
            "batch.micro_batch_tokens or take a smaller model"
        )
