"""What a run will do, worked out before it begins: settings filled in, steps, memory, time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmdata.errors import ConfigError
from lmdata.recipes import Recipe
from lmmodel.config import TrainConfig, stage_recipe
from lmmodel.cores import num_cores
from lmmodel.data import TrainingData, open_data
from lmmodel.device import Processes, memory_bytes, peak_flops, resolve_device, resolve_precision
from lmmodel.errors import FitError, MemoryLimitError
from lmmodel.families import ModelConfig
from lmmodel.layers.attention import Kernel, choose_kernel
from lmmodel.layers.masks import Mask
from lmmodel.loader import Loader, Shape, Stage, StepBatch
from lmmodel.model import forward_flops
from lmmodel.objectives import OBJECTIVES, Objective, make_objective
from lmmodel.training.budget import PROBE_STEPS, Pace, budget_steps, epochs_per_step, probe

# Of a batch in memory at least: its id, type and place, int32 each.
BYTES_OF_TOKEN = 12

# A stage's epochs lie apart from another's, so that their views differ.
EPOCHS_PER_STAGE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `lmmodel train --dry-run` prints."""

    config: TrainConfig  # resolved
    num_parameters: int
    num_steps: int
    tokens_per_step: float
    num_tokens: int
    num_epochs: float
    step_flops: int  # forward and backward
    total_flops: float
    memory_bytes: int  # estimate of the peak
    device_memory_bytes: int
    expected_s: float | None  # None where nothing was measured and the hardware is unknown
    attention: tuple[Kernel, ...]  # kernels of the first steps


def resolve_config(
    config: TrainConfig, data: TrainingData, device: torch.device, processes: Processes
) -> TrainConfig:
    """Return the configuration with everything filled in but the budget.

    Raises:
        FitError: data and model do not fit
        ConfigError: a setting has no effect on this data, or does not divide
        MemoryLimitError: the tokens of a step would not fit into this machine's memory
    """
    on_gpu = device.type == "cuda"
    batch = dataclasses.replace(
        config.batch,
        size=config.batch.size or (256 if on_gpu else 32),
        micro_batch_tokens=config.batch.micro_batch_tokens or (65536 if on_gpu else 4096),
        min_micro_batches=config.batch.min_micro_batches
        or (1 if config.compile else num_cores(device)),
    )
    resolved = dataclasses.replace(
        config,
        device="cuda" if on_gpu else "cpu",
        precision=resolve_precision(config.precision, device),
        batch=batch,
        model=_resolve_model(config, data),
        recipe=_resolve_recipe(config, data),
        preset=None,
    )
    _check_batches(resolved, processes)
    _check_length(resolved, data)
    _check_step_memory(resolved, data, processes)
    return resolved


def _resolve_model(config: TrainConfig, data: TrainingData) -> ModelConfig:
    vocab_size = data.tokenizer.vocab_size
    wanted = config.model.vocab_size
    if wanted is not None and wanted < vocab_size:
        raise FitError(
            f"model.vocab_size={wanted} is smaller than the vocabulary of {data.path}, which has "
            f"{vocab_size} pieces: leave model.vocab_size out"
        )
    return dataclasses.replace(
        config.model,
        vocab_size=wanted or vocab_size,
        has_nsp_head=config.model.has_nsp_head or _pair_view(config) is not None,
    )


def _pair_view(config: TrainConfig) -> str | None:
    return OBJECTIVES[config.objective.name].pair_view


def _resolve_recipe(config: TrainConfig, data: TrainingData) -> Recipe | None:
    if not data.is_frozen:
        return config.recipe or OBJECTIVES[config.objective.name].recipe
    if config.recipe is not None or config.preset is not None:
        raise ConfigError(
            f"recipe has no effect: {data.path} holds frozen examples. Leave it out, or train "
            "from the token store that they were made from"
        )
    if config.stages:
        raise ConfigError(f"stages need a token store, {data.path} holds frozen examples")
    return None


def _check_batches(config: TrainConfig, processes: Processes) -> None:
    if config.compile and config.batch.min_micro_batches != 1:
        raise ConfigError(
            f"batch.min_micro_batches={config.batch.min_micro_batches} has no effect with "
            "compile=true, whose micro-batches have one shape: leave it out"
        )
    for size in _batch_sizes(config):
        if size % processes.size:
            raise ConfigError(
                f"batch size {size} can't be shared by {processes.size} processes: "
                "make it a multiple"
            )


def _batch_sizes(config: TrainConfig) -> list[int]:
    """Return the examples of a step in each stage of a resolved run."""
    assert config.batch.size is not None
    return [stage.batch_size or config.batch.size for stage in config.stages] or [config.batch.size]


def _check_step_memory(config: TrainConfig, data: TrainingData, processes: Processes) -> None:
    """Refuse a step whose ids alone no memory holds, before any of it is read."""
    recipe = config.recipe
    usual = recipe.max_seq_length if recipe else frozen_setting(data, "max_seq_length", 1)
    lengths = [stage.max_seq_length or usual for stage in config.stages] or [usual]
    most = max(zip(_batch_sizes(config), lengths, strict=True), key=math.prod)
    size, length, there = most[0] // processes.size, most[1], memory_bytes(torch.device("cpu"))
    if size * length * BYTES_OF_TOKEN > there:
        raise MemoryLimitError(
            f"a step of {size:,} examples of up to {length} tokens does not fit into the "
            f"{there / 2**30:.0f} GiB of this machine: lower batch.size"
        )


def _check_length(config: TrainConfig, data: TrainingData) -> None:
    most = config.model.max_position_embeddings
    lengths = (
        [stage_recipe(config.recipe, s).max_seq_length for s in config.stages]
        if (config.recipe)
        else []
    )
    lengths.append(
        config.recipe.max_seq_length if config.recipe else frozen_setting(data, "max_seq_length", 0)
    )
    if max(lengths) > most:
        raise FitError(
            f"examples of {data.path} have up to {max(lengths)} tokens, the model takes {most}: "
            f"set model.max_position_embeddings={max(lengths)} or make shorter examples"
        )
    view = frozen_setting(data, "view", None) if data.is_frozen else None
    wanted = _pair_view(config)
    if view is not None and wanted is not None and view != wanted:
        raise FitError(
            f"objective.name={config.objective.name} learns from {wanted} pairs, the examples of "
            f"{data.path} are of view {view}: choose a fitting objective, or mask again"
        )


def frozen_setting(data: TrainingData, name: str, default: Any) -> Any:
    """Return a setting of the recipe that frozen examples were made by."""
    configuration = data.manifest.configuration
    recipe = configuration.get("recipe", configuration)
    return recipe.get(name, default) if isinstance(recipe, dict) else default


def make_loader(
    config: TrainConfig, data: TrainingData, num_steps: int, processes: Processes
) -> Loader:
    """Return batch(step) of a resolved configuration.

    Raises:
        FitError: the data lacks labels that the objective needs
    """
    objective = make_objective(config.objective)
    stages = tuple(_make_stages(config, data, num_steps))
    first = stages[0].rows
    sample = first.take(stages[0].first_epoch, np.arange(min(64, first.num_rows)))
    objective.check_labels(sample, str(data.path))
    return Loader(
        stages=stages,
        objective=objective,
        seed=config.seed,
        num_steps=num_steps,
        shape=make_shape(config),
        rank=processes.rank,
        num_processes=processes.size,
        pin_memory=config.device == "cuda",
    )


def _make_stages(config: TrainConfig, data: TrainingData, num_steps: int) -> list[Stage]:
    assert config.batch.size is not None
    recipe = config.recipe or Recipe()  # which frozen examples ignore
    size = config.batch.size
    if not config.stages:
        return [Stage(0, data.rows("train", recipe, seed=config.seed), size)]
    stages, first_step = [], 0
    for index, stage in enumerate(config.stages):
        first_epoch = index * EPOCHS_PER_STAGE
        rows = data.rows(
            "train", stage_recipe(recipe, stage), seed=config.seed, first_epoch=first_epoch
        )
        stages.append(Stage(first_step, rows, stage.batch_size or size, first_epoch))
        first_step = round(stage.until * num_steps)
    return stages


def make_shape(config: TrainConfig) -> Shape:
    """Return what a micro-batch holds: static where it is compiled, else bounded by its tokens."""
    tokens = config.batch.micro_batch_tokens
    assert tokens is not None
    if not config.compile:
        is_rounded = config.device == "cpu" and config.precision == "bf16"
        num = config.batch.min_micro_batches or 1
        return Shape(tokens, num_dealt=num if num > 1 else None, is_rounded=is_rounded)
    length = config.model.max_position_embeddings
    if config.recipe is not None:
        length = config.recipe.max_seq_length
    tokens = max(tokens, length)
    rate = make_objective(config.objective).most_labels(config.recipe)
    return Shape(
        num_tokens=tokens,
        num_sequences=4 * -(-tokens // length) + 8,
        num_labels=min(tokens, math.ceil(1.3 * rate * tokens) + 64),
        max_seqlen=length,
        is_static=True,
    )


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


def make_plan(config: TrainConfig, data_path: Path, pace: Pace | None = None) -> Plan:
    """Return what a run would do, without doing it.

    Args:
        config: of the run
        data_path: token store or shards
        pace: measured; None: estimated on known hardware at 40 % of its peak

    Raises:
        LmmodelError, LmdataError: whatever would stop the run before its first step
    """
    device = resolve_device(config.device)
    data = open_data(data_path)
    resolved = resolve_config(config, data, device, Processes())
    loader = make_loader(resolved, data, PROBE_STEPS, Processes())
    probed = probe(loader)
    flops = int(probed.mean(lambda batch: batch_flops(resolved.model, loader.objective, batch)))
    peak = peak_flops(device)
    if pace is None and peak is not None:
        pace = Pace(step_s=flops / (0.4 * peak))
    num_steps = budget_steps(resolved, loader, pace or Pace(step_s=1.0))
    tokens = probed.mean(lambda batch: batch.num_tokens)
    return Plan(
        config=resolved,
        num_parameters=resolved.model.num_parameters,
        num_steps=num_steps,
        tokens_per_step=tokens,
        num_tokens=round(tokens * num_steps),
        num_epochs=num_steps * epochs_per_step(loader),
        step_flops=flops,
        total_flops=float(flops) * num_steps,
        memory_bytes=max(estimate_memory(resolved, stage[0]) for stage in probed.stages),
        device_memory_bytes=memory_bytes(device),
        expected_s=None if pace is None else pace.expected_s(num_steps, resolved),
        attention=attention_kernels(resolved, probed.batches),
    )
