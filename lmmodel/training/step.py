"""One optimizer step over micro-batches: its losses, its gradient, and what it costs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lmdata.rng import draw, stream_key
from lmmodel.batch import Batch
from lmmodel.config import TrainConfig
from lmmodel.cores import SharedWeights, add_gradients, map_in_order, num_cores, seeded
from lmmodel.device import Processes, memory_bytes, whole
from lmmodel.errors import MemoryLimitError
from lmmodel.families import ModelConfig
from lmmodel.layers.attention import JOINED, Kernel, choose_kernel
from lmmodel.layers.masks import Mask
from lmmodel.loader import MicroBatch, StepBatch
from lmmodel.model import Transformer, forward_flops
from lmmodel.objectives import Objective, Part, num_parameters
from lmmodel.objectives.terms import combine, sum_losses

# A loss this many times that of a uniform guess is called exploded.
EXPLOSION_FACTOR = 3.0

SumLosses = Callable[[Transformer, Part, Batch], Tensor]


@dataclass(frozen=True)
class StepLoss:
    """The loss of one step, over all processes."""

    total: float  # weighted sum of the means, nats
    means: np.ndarray  # float64 (K,) mean of each term, nats; nan where it had no labels


def accumulate(
    model: Transformer,
    objective: Objective,
    micro_batches: Sequence[MicroBatch],
    num_labels: Tensor,
    *,
    seeds: Callable[[int], int],
    losses: SumLosses = sum_losses,
    shared: SharedWeights | None = None,
    num_at_once: int = 1,
) -> Tensor:
    """Add the gradients of a step's mean loss to the parameters; return the summed losses.

    Args:
        model: in training mode
        objective: K terms in all
        micro_batches: of this process
        num_labels: int64 (K,) labels of the whole step over all processes, on the model's device
        seeds: of dropout, by the index of the micro-batch
        losses: `sum_losses`, compiled or not
        shared: the model's weights, where micro-batches share them: on a CPU
        num_at_once: micro-batches in work at a time, where they share the weights

    Returns:
        float32 (K,) sums of each term in this process, nats.
    """
    device = num_labels.device
    weights = torch.tensor(objective.weights, dtype=torch.float32, device=device)
    sums = torch.zeros_like(weights)
    spans = term_spans(objective)
    batches = compared(
        model, objective, micro_batches, seeds=seeds, device=device, shared=shared,
        num_at_once=num_at_once,
    )  # fmt: skip
    own_sums = [torch.zeros(0)] * len(micro_batches)

    def loss(index: int) -> Tensor:
        micro = micro_batches[index]
        span = spans[micro.part]
        batch = batches[index].to(device, non_blocking=True)
        with seeded(seeds(index), device):
            part_sums = losses(model, objective.parts[micro.part], batch)
        own_sums[index] = part_sums.detach()
        return combine(part_sums, weights[span], num_labels[span])

    add_gradients([partial(loss, i) for i in range(len(micro_batches))], shared, num_at_once)
    for micro, part_sums in zip(micro_batches, own_sums, strict=True):
        sums[spans[micro.part]] += part_sums
    return sums


def compared(
    model: Transformer,
    objective: Objective,
    micro_batches: Sequence[MicroBatch],
    *,
    seeds: Callable[[int], int],
    device: torch.device,
    shared: SharedWeights | None,
    num_at_once: int,
) -> list[Batch]:
    """Return the batch of each micro-batch, with what a loss about the whole step says of it.

    For such a loss the step is computed once without gradients, by the same draws of dropout.
    Arguments are those of `accumulate`.
    """
    batches = [micro.batch for micro in micro_batches]
    for index, part in enumerate(objective.parts):
        own = [place for place, micro in enumerate(micro_batches) if micro.part == index]
        if part.compare is None:
            continue

        def states(place: int, part: Part = part) -> Tensor:
            with torch.no_grad(), seeded(seeds(place), device):
                return part.read(model, part, batches[place])[1][0]

        for place in own:
            batches[place] = batches[place].to(device, non_blocking=True)
        with contextlib.nullcontext() if shared is None else shared.in_use():
            found = list(map_in_order(states, own, num_at_once))
        for place, batch in zip(own, part.compare([batches[i] for i in own], found), strict=True):
            batches[place] = batch
    return batches


def term_spans(objective: Objective) -> list[slice]:
    """Return where the terms of each part lie among all terms.

    Example:
        >>> from lmmodel.objectives import ObjectiveConfig, make_objective
        >>> term_spans(make_objective(ObjectiveConfig(name="hybrid")))
        [slice(0, 1, None), slice(1, 2, None)]
    """
    ends = np.cumsum([len(part.terms) for part in objective.parts]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def dropout_seeds(seed: int, step: int, rank: int) -> Callable[[int], int]:
    """Return the seed of each micro-batch of a step: a function of its address alone.

    Example:
        >>> dropout_seeds(0, 5, 0)(1) == dropout_seeds(0, 5, 0)(1) != dropout_seeds(0, 6, 0)(1)
        True
    """
    key = stream_key(seed, "dropout", step)

    def seed_of(index: int) -> int:
        position = np.array([2 * index, 2 * index + 1])
        low, high = draw(key, np.array([rank]), position).tolist()
        return int(low | (high & 0x7FFFFFFF) << 32)

    return seed_of


def even_out(
    micro_batches: Sequence[MicroBatch], num_parts: int, device: torch.device
) -> tuple[MicroBatch, ...]:
    """Return the micro-batches of a step, as many of each part as the busiest process has.

    The ones that are added carry no labels: they cost a forward and change nothing.

    Args:
        micro_batches: of this process, at least one
        num_parts: of the objective
        device: of the process group's messages
    """
    own = [[micro for micro in micro_batches if micro.part == part] for part in range(num_parts)]
    most = torch.tensor([len(part) for part in own], device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return tuple(
        micro
        for index, (part, wanted) in enumerate(zip(own, most.tolist(), strict=True))
        for micro in [*part, *[idle(micro_batches[0], index)] * (wanted - len(part))]
    )


def idle(micro: MicroBatch, part: int) -> MicroBatch:
    """Return a micro-batch of the same tokens for a part of the objective, without labels."""
    return MicroBatch(micro.batch.without_labels(), part)


def clip_gradients(model: nn.Module, max_norm: float | None) -> Tensor:
    """Scale the gradients so that their norm is at most `max_norm`; return the norm before.

    Returns:
        float32 scalar, on the model's device.
    """
    limit = math.inf if max_norm is None else max_norm
    return whole(nn.utils.clip_grad_norm_(model.parameters(), limit))


def step_loss(sums: Tensor, num_labels: Tensor, objective: Objective) -> StepLoss:
    """Return the loss of a step from its sums and counts over all processes.

    Args:
        sums: float32 (K,) nats
        num_labels: int64 (K,)
        objective: K terms
    """
    counts = num_labels.cpu().numpy()
    totals = sums.double().cpu().numpy()
    means = np.divide(totals, counts, out=np.full(len(totals), np.nan), where=counts > 0)
    return StepLoss(float(np.sum(means * objective.weights, where=counts > 0)), means)


def find_fault(
    loss: StepLoss, grad_norm: float, vocab_size: int, objective: Objective
) -> str | None:
    """Return what is wrong with a step, or None.

    Args:
        loss: of the step
        grad_norm: of its gradients
        vocab_size: a uniform guess among so many pieces sets the limit
        objective: its weights set the limit too

    Example:
        >>> from lmmodel.objectives import ObjectiveConfig, make_objective
        >>> mlm = make_objective(ObjectiveConfig(name="mlm"))
        >>> find_fault(StepLoss(math.nan, np.array([math.nan])), 1.0, 100, mlm)
        'the loss is nan'
    """
    if not math.isfinite(loss.total):
        return f"the loss is {loss.total}"
    if not math.isfinite(grad_norm):
        return f"the loss is {loss.total:.4g}, but its gradient's norm is {grad_norm}"
    limit = EXPLOSION_FACTOR * math.log(vocab_size) * float(objective.weights.sum())
    if loss.total > limit:
        return (
            f"the loss is {loss.total:.4g}, above {limit:.4g}: {EXPLOSION_FACTOR:g} times a guess"
        )
    return None


# What a step costs: operations, memory, and the attention kernels it takes.


def batch_flops(model: ModelConfig, objective: Objective, batch: StepBatch) -> int:
    """Return the floating-point operations of a step's products, forward and backward.

    Only what the result needs counts: no padding, and half of causal attention.
    """
    products = np.array([term.head_products(model) for term in objective.terms])
    num_pairs = round(batch.num_pairs * (1 - objective.causal_share / 2))
    own = forward_flops(
        model,
        num_tokens=batch.num_tokens,
        num_pairs=num_pairs,
        num_rows=min(int(batch.num_labels.sum()), batch.num_tokens),
        head_products=int(batch.num_labels @ products),
    )
    others = [
        part.other_flops(
            model, round(part.share * batch.num_tokens), round(part.share * num_pairs),
            int(batch.num_labels[span.start]),
        )
        for part, span in zip(objective.parts, term_spans(objective), strict=True)
    ]  # fmt: skip
    return 3 * (own + sum(others))


def attention_kernels(config: TrainConfig, batches: Sequence[StepBatch]) -> tuple[Kernel, ...]:
    """Return the attention kernels that a resolved run takes for the shapes of some batches."""
    model = config.model
    if model.traits.is_encoder_decoder and config.device == "cpu" and not config.compile:
        return (JOINED,)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    streams = [
        own
        for batch in batches
        for micro in batch.micro_batches
        for own in micro.batch.streams.values()
    ]
    shapes = {(own.num_tokens, own.num_sequences, own.max_seqlen) for own in streams}
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
    if model.traits.is_two_stream:  # scores by content and by distance, and weights
        longest = max(own.max_seqlen for micro in batch.micro_batches
                      for own in micro.batch.streams.values())  # fmt: skip
        width += 5 * model.num_attention_heads * longest
    activations = tokens * model.num_hidden_layers * width * number_bytes
    logits = labels * model.vocab_size * (number_bytes + 8)
    num_weights = num_parameters(config.objective, model)
    num_weights //= num_processes if config.parallel == "fsdp2" else 1
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
