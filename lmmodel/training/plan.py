"""A run prepared: settings filled in and checked, data, views and held-out examples opened once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lmdata.batch import ExampleBatch
from lmdata.errors import ConfigError
from lmdata.recipes import Recipe
from lmmodel.config import TrainConfig, usual_recipe
from lmmodel.cores import num_cores
from lmmodel.data import Rows, TrainingData
from lmmodel.device import Processes, memory_bytes, resolve_precision
from lmmodel.errors import FitError, MemoryLimitError
from lmmodel.evaluation import HeldOut, make_held_out
from lmmodel.families import ModelConfig
from lmmodel.guesses import Prompts, make_prompts
from lmmodel.loader import Loader, Shape, Stage
from lmmodel.objectives import OBJECTIVES, Objective, check_fits, make_objective
from lmmodel.objectives.distilled import distill
from lmmodel.packing import stream_tokens
from lmmodel.settings import stage_recipe
from lmmodel.teachers import load_teachers, with_known_teacher
from lmmodel.training.replay import FIRST_EPOCH, ReplayRows, parents_data
from lmmodel.training.step import check_memory

# Rows that tell what labels there are.
_NUM_SAMPLED = 64

PROBE_STEPS = 1_000_000
"""Steps of the loader that is probed: so many that each stage has its share of them."""

# Of a batch in memory at least: its id, type and place, int32 each.
BYTES_OF_TOKEN = 12

# A stage's epochs lie apart from another's, so that their views differ.
EPOCHS_PER_STAGE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a training is made of, opened once: settings, data, views, device, held-out examples."""

    config: TrainConfig  # resolved
    data: TrainingData
    device: torch.device
    processes: Processes
    loader: Loader  # of `PROBE_STEPS`; `loader.lasting` gives that of a run
    held_out: HeldOut | None  # what this process evaluates on
    prompts: Prompts | None  # what it is asked beside
    parents: HeldOut | None  # what of the parent's data tells how much is forgotten
    notes: tuple[str, ...] = ()


def prepare(
    config: TrainConfig, data: TrainingData, device: torch.device, processes: Processes
) -> Prepared:
    """Return the views and held-out examples of a resolved configuration, and that they fit.

    Raises:
        FitError: the data lacks labels that the objective needs, or gives no example
        MemoryLimitError: a micro-batch has no chance on this device
    """
    loader = make_loader(config, data, PROBE_STEPS, processes)
    for step in loader.first_steps:
        check_memory(config, loader.batch(step), device, processes)
    held_out, prompts, notes = _hold_out(config, data, processes)
    parents, found = None, parents_data(config, data)
    if found is not None:
        parents, _, more = _hold_out(config, found, processes)
        notes += more
    return Prepared(
        config=config, data=data, device=device, processes=processes, loader=loader,
        held_out=held_out, prompts=prompts, parents=parents, notes=notes,
    )  # fmt: skip


def _hold_out(
    config: TrainConfig, data: TrainingData, processes: Processes
) -> tuple[HeldOut | None, Prompts | None, tuple[str, ...]]:
    """Return what this process evaluates on, and a note where the data holds too little."""
    has_part = processes.is_main or config.parallel == "fsdp2"
    if not has_part or not config.evaluation.num_examples:
        return None, None, ()
    try:
        held_out = make_held_out(config, data, num_examples=config.evaluation.num_examples)
        return held_out, make_prompts(config, data), ()
    except FitError as error:  # a few documents may leave none to hold out
        return None, None, (f"trained without held-out figures: {error}",)


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
    numbers = config.model.traits.numbers_for(config.objective.name)
    batch = dataclasses.replace(
        config.batch,
        size=config.batch.size or (256 if on_gpu else numbers.batch_size),
        micro_batch_tokens=config.batch.micro_batch_tokens or (65536 if on_gpu else 4096),
        min_micro_batches=config.batch.min_micro_batches
        or (1 if config.compile else num_cores(device)),
    )
    model = _resolve_model(config, data)
    resolved = dataclasses.replace(
        config,
        device="cuda" if on_gpu else "cpu",
        precision=resolve_precision(config.precision, device),
        batch=batch,
        model=model,
        distillation=with_known_teacher(config.distillation, model, data),
        recipe=_resolve_recipe(config, data),
        preset=None,
    )
    if config.stages and len(data.phase_shares) > 1:
        raise ConfigError(
            f"stages and the {len(data.phase_shares)} phases of {config.selection} both divide the "
            "training: leave one of them out"
        )
    _check_objective(resolved)
    _check_comparison(resolved)
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
        numbers = config.model.traits.numbers_for(config.objective.name)
        return config.recipe or usual_recipe(config.objective.name, numbers)
    if config.recipe is not None or config.preset is not None:
        raise ConfigError(
            f"recipe has no effect: {data.path} holds frozen examples. Leave it out, or train "
            "from the token store that they were made from"
        )
    if config.stages:
        raise ConfigError(f"stages need a token store, {data.path} holds frozen examples")
    return None


def _check_objective(config: TrainConfig) -> None:
    """Refuse settings that do not go with what is learned."""
    name, known = config.objective.name, OBJECTIVES[config.objective.name]
    if config.parallel == "fsdp2" and known.finish is not None:
        raise ConfigError(
            f"objective.name={name} does not go with parallel=fsdp2, which keeps embeddings whole "
            "in the model's own pass only: take parallel=ddp"
        )
    if config.vocabulary_bias != "zeros" and not (known.can_fill_masks or known.can_generate):
        raise ConfigError(
            f"vocabulary_bias={config.vocabulary_bias} has no effect: objective.name={name} does "
            "not train the model's vocabulary head; leave it out"
        )


def _check_comparison(config: TrainConfig) -> None:
    """Refuse what does not go with a loss about all rows of a step at once."""
    name = config.objective.name
    if all(part.compare is None for part in make_objective(config.objective).parts):
        return
    if config.compile:
        raise ConfigError(
            f"objective.name={name} does not go with compile=true: a step is read twice with the "
            "same draws of dropout, which compiled code does not promise; leave compile out"
        )
    if min(_batch_sizes(config)) < 2:
        raise ConfigError(
            f"objective.name={name} compares the rows of a step, and batch.size=1 leaves nothing "
            "to compare with: take 64 or more"
        )


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
    recipe = config.recipe or data.frozen_recipe
    assert recipe is not None
    lengths = [stage_recipe(recipe, stage).max_seq_length for stage in config.stages]
    lengths = lengths or [recipe.max_seq_length]
    most = max(zip(_batch_sizes(config), lengths, strict=True), key=math.prod)
    size, length, there = most[0] // processes.size, most[1], memory_bytes(torch.device("cpu"))
    if size * length * BYTES_OF_TOKEN > there:
        raise MemoryLimitError(
            f"a step of {size:,} examples of up to {length} tokens does not fit into the "
            f"{there / 2**30:.0f} GiB of this machine: lower batch.size"
        )


def _check_length(config: TrainConfig, data: TrainingData) -> None:
    recipe, most = config.recipe or data.frozen_recipe, config.model.max_position_embeddings
    assert recipe is not None
    stages = [stage_recipe(recipe, stage) for stage in config.stages]
    longest = max(each.max_seq_length for each in (recipe, *stages))
    if longest > most:
        raise FitError(
            f"examples of {data.path} have up to {longest} tokens, the model takes {most}: "
            f"set model.max_position_embeddings={longest} or make shorter examples"
        )
    if data.is_frozen:
        try:
            check_fits(config.objective, config.model, recipe)
        except ValueError as error:
            raise FitError(
                f"{data.path} holds other examples: {error}; choose a fitting objective, or mask "
                "again"
            ) from error


def make_loader(
    config: TrainConfig, data: TrainingData, num_steps: int, processes: Processes
) -> Loader:
    """Return batch(step) of a resolved configuration.

    Raises:
        FitError: the data lacks labels that the objective needs
    """
    objective = _taught(make_objective(config.objective, config.seed), config)
    stages = tuple(_make_stages(config, data))
    objective.check_labels(sample_rows(stages), str(data.path))
    return Loader(
        stages=stages,
        objective=objective,
        seed=config.seed,
        num_steps=num_steps,
        shape=make_shape(config, stages),
        rank=processes.rank,
        num_processes=processes.size,
        pin_memory=config.device == "cuda",
    )


def _taught(objective: Objective, config: TrainConfig) -> Objective:
    """Return the objective, with what a teacher adds if there is one."""
    if config.distillation.teacher is None:
        return objective
    teachers = load_teachers(config.distillation, config.device, config.precision)
    return distill(objective, teachers, config.distillation)


def sample_rows(stages: Sequence[Stage]) -> ExampleBatch:
    """Return the first rows of a run."""
    first = stages[0].rows
    return first.take(stages[0].first_epoch, np.arange(min(_NUM_SAMPLED, first.num_rows)))


def _make_stages(config: TrainConfig, data: TrainingData) -> list[Stage]:
    assert config.batch.size is not None
    recipe = config.recipe or Recipe()  # which frozen examples ignore
    size = config.batch.size
    if not config.stages:
        return _make_phases(config, data, recipe, size)
    stages, start = [], 0.0
    for index, stage in enumerate(config.stages):
        first_epoch = index * EPOCHS_PER_STAGE
        rows = _rows(config, data, stage_recipe(recipe, stage), first_epoch)
        stages.append(Stage(start, rows, stage.batch_size or size, first_epoch))
        start = stage.until
    return stages


def _rows(
    config: TrainConfig, data: TrainingData, recipe: Recipe, first_epoch: int, phase: int = 0
) -> Rows:
    """Return the rows of a stage, some of which are the parent's where that is wanted."""
    own = data.rows("train", recipe, seed=config.seed, first_epoch=first_epoch, phase=phase)
    parents = parents_data(config, data)
    if parents is None or not config.replay:
        return own
    theirs = parents.rows("train", recipe, seed=config.seed, first_epoch=FIRST_EPOCH)
    return ReplayRows(own, theirs, config.replay)


def _make_phases(config: TrainConfig, data: TrainingData, recipe: Recipe, size: int) -> list[Stage]:
    """Return a stage for each phase of the selection, one where there are none."""
    stages, start = [], 0.0
    for phase, share in enumerate(data.phase_shares):
        epoch = phase * EPOCHS_PER_STAGE
        rows = _rows(config, data, recipe, epoch, phase)
        stages.append(Stage(start, rows, size, epoch))
        start += share
    return stages


def make_shape(config: TrainConfig, stages: Sequence[Stage]) -> Shape:
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
    objective = make_objective(config.objective)
    streams = None
    found = stream_tokens(sample_rows(stages))
    if len(found) > 1:
        total = sum(int(own.sum()) for own in found.values())
        streams = {
            name: max(length, math.ceil(tokens * int(own.sum()) / total))
            for name, own in found.items()
        }
        tokens = sum(streams.values())
    rate = objective.most_labels(config.recipe)
    most_labels = min(tokens, math.ceil(1.3 * rate * tokens) + 64)
    if streams is not None:
        most_labels = list(streams.values())[-1]  # targets, or queries: all are asked
    return Shape(
        num_tokens=tokens,
        num_sequences=4 * -(-tokens // length) + 8,
        stream_tokens=streams,
        num_labels=most_labels,
        max_seqlen=length,
        is_static=True,
    )  # fmt: skip
