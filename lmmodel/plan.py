"""What a run will do, worked out before it begins: settings filled in, steps, memory, time."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmdata.errors import ConfigError
from lmdata.recipes import Recipe
from lmmodel.config import (
    DEFAULT_NUM_STEPS,
    DEFAULT_RECIPES,
    VIEW_OF_PAIRS,
    BudgetConfig,
    TrainConfig,
    stage_recipe,
)
from lmmodel.data import TrainingData, open_data
from lmmodel.device import Processes, memory_bytes, peak_flops, resolve_device, resolve_precision
from lmmodel.errors import FitError, MemoryLimitError
from lmmodel.loader import Loader, Shape, Stage, StepBatch
from lmmodel.model import ModelConfig, forward_flops, num_parameters
from lmmodel.objectives import check_labels, make_objective

# A stage's epochs lie apart from another's, so that their views differ.
EPOCHS_PER_STAGE = 1 << 20

# Steps whose mean tells how many tokens a step has.
_NUM_PROBED_STEPS = 4


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


def resolve_config(
    config: TrainConfig, data: TrainingData, device: torch.device, processes: Processes
) -> TrainConfig:
    """Return the configuration with everything filled in but the budget.

    Raises:
        FitError: data and model do not fit
        ConfigError: a setting has no effect on this data, or does not divide
    """
    on_gpu = device.type == "cuda"
    batch = dataclasses.replace(
        config.batch,
        size=config.batch.size or (256 if on_gpu else 32),
        micro_batch_tokens=config.batch.micro_batch_tokens or (65536 if on_gpu else 4096),
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
        has_nsp_head=config.model.has_nsp_head or config.objective.name in VIEW_OF_PAIRS,
    )


def _resolve_recipe(config: TrainConfig, data: TrainingData) -> Recipe | None:
    if not data.is_frozen:
        return config.recipe or DEFAULT_RECIPES[config.objective.name]
    if config.recipe is not None or config.preset is not None:
        raise ConfigError(
            f"recipe has no effect: {data.path} holds frozen examples. Leave it out, or train "
            "from the token store that they were made from"
        )
    if config.stages:
        raise ConfigError(f"stages need a token store, {data.path} holds frozen examples")
    return None


def _check_batches(config: TrainConfig, processes: Processes) -> None:
    sizes = [config.batch.size, *(stage.batch_size for stage in config.stages)]
    for size in sizes:
        if size is not None and size % processes.size:
            raise ConfigError(
                f"batch size {size} can't be shared by {processes.size} processes: "
                "make it a multiple"
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
    wanted = VIEW_OF_PAIRS.get(config.objective.name)
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


def recipe_or_any(config: TrainConfig) -> Recipe:
    """Return the recipe; frozen shards ignore it, so any will do for them."""
    return config.recipe or Recipe()


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
    check_labels(objective, sample, str(data.path))
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
    recipe, size = recipe_or_any(config), config.batch.size
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
        return Shape(tokens)
    length = config.model.max_position_embeddings
    if config.recipe is not None:
        length = config.recipe.max_seq_length
    is_masked = config.objective.name.startswith("mlm")
    rate = config.recipe.highest_rate if config.recipe is not None and is_masked else 1.0
    return Shape(
        num_tokens=max(tokens, length),
        num_sequences=4 * -(-tokens // length) + 8,
        num_labels=min(tokens, math.ceil(1.3 * rate * tokens) + 64),
        max_seqlen=length,
        is_static=True,
    )


def budget_steps(
    budget: BudgetConfig, loader: Loader, *, seconds_per_step: float | None = None
) -> int:
    """Return the optimizer steps of a budget.

    Args:
        budget: in steps, tokens, epochs or minutes
        loader: tells the tokens of a step and the rows of an epoch
        seconds_per_step: measured; needed for minutes only
    """
    if budget.num_tokens is not None:
        return math.ceil(budget.num_tokens / tokens_per_step(loader))
    if budget.num_epochs is not None:
        stage = loader.stages[0]
        return math.ceil(budget.num_epochs * stage.rows.num_rows / stage.batch_size)
    if budget.num_minutes is not None:
        assert seconds_per_step is not None
        return max(1, int(budget.num_minutes * 60 / seconds_per_step))
    return budget.num_steps or DEFAULT_NUM_STEPS


def probe(loader: Loader) -> list[StepBatch]:
    """Return the first few steps of this process."""
    return [loader.batch(step) for step in range(_NUM_PROBED_STEPS)]


def tokens_per_step(loader: Loader) -> float:
    """Return the mean tokens of the first few steps, over all processes."""
    tokens = [batch.num_tokens for batch in probe(loader)]
    return float(np.mean(tokens)) * loader.num_processes


def batch_flops(model: ModelConfig, batch: StepBatch) -> int:
    """Return the floating-point operations of a step's products, forward and backward."""
    labels = sum(len(micro.batch.masked_positions) for micro in batch.micro_batches)
    return 3 * forward_flops(
        model, num_tokens=batch.num_tokens, num_pairs=batch.num_pairs, num_supervised=labels
    )


def estimate_memory(config: TrainConfig, batch: StepBatch) -> int:
    """Return about how many bytes a resolved run takes at its peak, on the device.

    Weights, gradients and optimizer state are exact; what backward keeps is estimated from the
    widths of a layer; logits are counted in compute precision and twice in float32.
    """
    model, number_bytes = config.model, 2 if config.precision == "bf16" else 4
    per_weight = 16 + (4 if config.averaging.kind != "none" else 0)
    tokens = max(micro.batch.num_tokens for micro in batch.micro_batches)
    labels = max(len(micro.batch.masked_positions) for micro in batch.micro_batches)
    width = 12 * model.hidden_size + 3 * model.intermediate_size
    activations = tokens * model.num_hidden_layers * width * number_bytes
    logits = labels * model.vocab_size * (number_bytes + 8)
    return per_weight * num_parameters(model) + activations + logits


def check_memory(config: TrainConfig, batch: StepBatch, device: torch.device) -> None:
    """Check that a micro-batch stands a chance on this device.

    Raises:
        MemoryLimitError: it would need more than twice what there is
    """
    needed, there = estimate_memory(config, batch), memory_bytes(device)
    if needed > 2 * there:
        raise MemoryLimitError(
            f"a micro-batch of {config.batch.micro_batch_tokens} tokens needs about "
            f"{needed / 2**30:.0f} GiB, the device has {there / 2**30:.0f} GiB: lower "
            "batch.micro_batch_tokens (the result stays the same) or take a smaller model"
        )


def make_plan(config: TrainConfig, data_path: Path, seconds_per_step: float | None = None) -> Plan:
    """Return what a run would do, without doing it.

    Args:
        config: of the run
        data_path: token store or shards
        seconds_per_step: measured; None: estimated on known hardware at 40 % of its peak

    Raises:
        LmmodelError, LmdataError: whatever would stop the run before its first step
    """
    device = resolve_device(config.device)
    data = open_data(data_path)
    resolved = resolve_config(config, data, device, Processes())
    loader = make_loader(resolved, data, DEFAULT_NUM_STEPS, Processes())
    batches = probe(loader)
    flops = int(np.mean([batch_flops(resolved.model, batch) for batch in batches]))
    peak = peak_flops(device)
    if seconds_per_step is None and peak is not None:
        seconds_per_step = flops / (0.4 * peak)
    num_steps = budget_steps(resolved.budget, loader, seconds_per_step=seconds_per_step or 1.0)
    tokens = float(np.mean([batch.num_tokens for batch in batches]))
    stage = loader.stages[0]
    return Plan(
        config=resolved,
        num_parameters=num_parameters(resolved.model),
        num_steps=num_steps,
        tokens_per_step=tokens,
        num_tokens=round(tokens * num_steps),
        num_epochs=num_steps * stage.batch_size / stage.rows.num_rows,
        step_flops=flops,
        total_flops=float(flops) * num_steps,
        memory_bytes=estimate_memory(resolved, batches[0]),
        device_memory_bytes=memory_bytes(device),
        expected_s=None if seconds_per_step is None else seconds_per_step * num_steps,
    )
