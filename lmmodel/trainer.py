"""Starting a run or going on with one: open, check, count the steps, then the loop."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmdata.errors import ConfigError
from lmdata.files import lease
from lmdata.stores import is_uri
from lmmodel.config import TrainConfig
from lmmodel.device import (
    Processes,
    describe_environment,
    join_processes,
    memory_bytes,
    peak_flops,
    resolve_device,
    same_bits,
    value_of_main,
)
from lmmodel.errors import ResumeError
from lmmodel.layers.attention import Kernel
from lmmodel.objectives import OBJECTIVES, num_parameters
from lmmodel.packing import Padding
from lmmodel.pair_files import open_training_data
from lmmodel.record import CHECKPOINTS_NAME, check_output
from lmmodel.saving.checkpoint import list_checkpoints
from lmmodel.saving.remote_run import RemoteRun
from lmmodel.saving.run import (
    RunRecord,
    check_has_checkpoint,
    check_same_config,
    check_same_data,
    create_run,
    new_record,
    own_data,
    read_record,
)
from lmmodel.teachers import layers_of_teacher
from lmmodel.trained import check_own_place, find_start, first_weights
from lmmodel.training.budget import (
    LIMIT_RATIO,
    LIMIT_S,
    Pace,
    Probe,
    budget_steps,
    calibrate,
    epochs_per_step,
    existing_folder,
    probe,
)
from lmmodel.training.first_weights import FirstWeights, find_first_weights
from lmmodel.training.learner import Learner
from lmmodel.training.loop import Interrupted, Summary, Trainer
from lmmodel.training.plan import Prepared, prepare, resolve_config
from lmmodel.training.reporting import Listener, Reporter, check_can_report
from lmmodel.training.step import attention_kernels, batch_flops, estimate_memory

# Seconds of the steps that a plan times.
PLAN_LIMIT_S = 5.0


def train(
    config: TrainConfig | None,
    data_path: Path | str | None,
    output: Path | str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Listener | None = None,
) -> Summary:
    """Train a model into a run folder.

    Args:
        config: of the run; None with `resume`: the one it began with
        data_path: token store or example shards, or the URI of one; None with `resume`: those it
            began with
        output: the run folder, or its URI in a store
        resume: go on from its newest whole checkpoint, bit for bit
        overwrite: delete the run that is there
        progress: called with each report, in the main process

    Raises:
        LmmodelError, LmdataError: anything that the user can mend; nothing is lost
        Interrupted: SIGTERM or Ctrl-C came; the state was saved first
    """
    if resume and overwrite:
        raise ResumeError("--resume and --overwrite contradict each other: keep one")
    if not resume and (config is None or data_path is None):
        raise ValueError("config and data_path are needed unless a run is resumed")
    if isinstance(output, str) and is_uri(output):
        return _train_in_store(RemoteRun(output), config, data_path, resume, overwrite, progress)
    if resume:
        return go_on(Path(output), config, data_path, progress=progress)
    assert config is not None
    assert data_path is not None
    return begin(config, data_path, Path(output), overwrite=overwrite, progress=progress)


def _train_in_store(
    run: RemoteRun, config: TrainConfig | None, data_path: Path | str | None, resume: bool,
    overwrite: bool, progress: Listener | None,
) -> Summary:  # fmt: skip
    """Train a run in a folder of this machine and send it to its place in a store."""
    if resume:
        run.bring()
    else:
        run.begin(overwrite=overwrite)
    try:
        if resume:
            summary = go_on(run.folder, config, data_path, progress=progress, send=run.send)
        else:
            assert config is not None
            assert data_path is not None
            summary = begin(config, data_path, run.folder, progress=progress, send=run.send)
    except Interrupted as error:
        raise Interrupted(str(error).replace(str(run.folder), run.uri)) from error
    run.send()  # what came after the last checkpoint
    return replace(summary, output=run.uri)


def begin(
    config: TrainConfig,
    data_path: Path | str,
    output: Path,
    *,
    overwrite: bool = False,
    progress: Listener | None = None,
    send: Callable[[], None] | None = None,
) -> Summary:
    """Train a new run; see `train`. `send` is called when a checkpoint has been written."""
    started_s = time.perf_counter()
    check_own_place(config.init_from, output)
    with _alone(output), _together(config) as processes:
        check_output(output, overwrite=overwrite)
        device = resolve_device(config.device, processes.local_rank)
        data = open_training_data(data_path, config.init_from, config.model, config.selection)
        resolved = resolve_config(config, data, device, processes)
        start = find_start(resolved.init_from, resolved.model, data)
        prepared = prepare(resolved, data, device, processes)
        origin = start.origin if start else None
        weights = _first_weights(resolved, origin)
        first = find_first_weights(prepared) if weights is None else None
        num_steps = _count_steps(prepared, output, started_s)
        probed = probe(prepared.loader)
        record = new_record(resolved, num_steps, data, _environment(prepared, probed), origin)
        trainer = _make_trainer(prepared, record, weights, first, output, progress, probed.padding)
        if processes.is_main:
            create_run(output, record, data.tokenizer, overwrite=overwrite)
        trainer.send = send
        summary = trainer.run()
        return replace(summary, notes=(*summary.notes, *_advice(resolved)))


def _advice(config: TrainConfig) -> list[str]:
    """Return what a next run would gain from, as was measured."""
    better = config.model.traits.better
    fills = OBJECTIVES[config.objective.name].can_fill_masks
    is_frozen = config.recipe is None
    if better is None or not fills or is_frozen or config.init_from is not None:
        return []
    return [f"family {better} learns more from the same tokens (docs/decisions.md): "
            f"--family {better}"]  # fmt: skip


def go_on(
    output: Path,
    config: TrainConfig | None = None,
    data_path: Path | str | None = None,
    *,
    progress: Listener | None = None,
    send: Callable[[], None] | None = None,
) -> Summary:
    """Train the run in a folder to its last step, from its newest checkpoint; see `train`."""
    with _alone(output):
        record = read_record(output)
        if record.is_imported:
            raise ResumeError(
                f"{output} was imported, it has no training to go on with: train it with "
                f"--init-from {output} --output runs/NEW"
            )
        check_has_checkpoint(output)
        wanted = config or record.config
        check_own_place(wanted.init_from, output)
        with _together(wanted) as processes:
            device = resolve_device(wanted.device, processes.local_rank)
            path = data_path or own_data(output, record)
            data = open_training_data(path, output, record.config.model, wanted.selection)
            check_same_data(record, data)  # before what else other data may not fit
            resolved = resolve_config(wanted, data, device, processes)
            if wanted.batch.min_micro_batches is None:  # whatever this machine would choose
                resolved = _with_cut_of(resolved, record.config)
            check_same_config(record, resolved)
            weights, is_new = None, not list_checkpoints(output / CHECKPOINTS_NAME)
            if resolved.trainable != "full" or is_new:
                weights = _first_weights(resolved, record.origin)
            prepared = prepare(resolved, data, device, processes)
            padding = probe(prepared.loader).padding
            first = find_first_weights(prepared) if is_new and weights is None else None
            trainer = _make_trainer(prepared, record, weights, first, output, progress, padding)
            trainer.load_latest()
            trainer.send = send
            return trainer.run()


def _first_weights(
    config: TrainConfig, origin: Mapping[str, Any] | None
) -> Mapping[str, Tensor] | None:
    """Return what a run begins with: the weights of another, layers of its teacher, or None."""
    if config.init_from is not None:
        return first_weights(config.init_from, origin)
    return layers_of_teacher(config.distillation, config.model)


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Let no other command write a run while this one does; of torchrun's processes one asks.

    Raises:
        OutputError: another command writes there, or nothing can be written there
    """
    if os.environ.get("RANK", "0") != "0":  # the first holds it for all, and they end with it
        yield
        return
    with lease(output):
        yield


@contextlib.contextmanager
def _together(config: TrainConfig) -> Iterator[Processes]:
    """Join the processes of a run, with kernels that give the same bits if that is wanted.

    Raises:
        RunError: what reports are written by is not installed
        ConfigError: the model is to be shared, and there is one process
    """
    check_can_report(config.logging)
    bits = same_bits(config.device, wanted=config.deterministic)
    with bits, join_processes(config.device) as processes:
        if config.parallel == "fsdp2" and processes.size == 1:
            raise ConfigError(
                "parallel=fsdp2 shares the model among processes and there is one: start the "
                "command with torchrun --nproc-per-node N, or leave parallel out"
            )
        yield processes


def _make_trainer(
    prepared: Prepared,
    record: RunRecord,
    weights: Mapping[str, torch.Tensor] | None,
    first: FirstWeights | None,
    output: Path,
    report: Listener | None,
    padding: Padding,
) -> Trainer:
    config, device, processes = prepared.config, prepared.device, prepared.processes
    loader = prepared.loader.lasting(record.num_steps)
    learner = Learner(config, loader, device, weights, first)
    reporter = Reporter(
        config,
        loader.objective,
        record.num_steps,
        output=output,
        peak_flops=peak_flops(device),
        report=report if processes.is_main else None,
    )
    trainer = Trainer(
        config, record, learner, reporter, prepared.held_out, prepared.prompts, output,
        parents=prepared.parents, padding=padding, is_main=processes.is_main,
    )  # fmt: skip
    trainer.notes += prepared.notes
    return trainer


def _count_steps(prepared: Prepared, output: Path, started_s: float) -> int:
    """Return the steps of a new run, the same in every process."""
    pace, minutes = None, prepared.config.budget.num_minutes
    if minutes is not None:
        limit_s = min(LIMIT_S, LIMIT_RATIO * minutes * 60)
        pace = calibrate(prepared, folder=existing_folder(output), limit_s=limit_s)
        pace = replace(pace, spent_s=time.perf_counter() - started_s)
    return value_of_main(budget_steps(prepared.config, prepared.loader, pace), prepared.device)


def _with_cut_of(config: TrainConfig, began: TrainConfig) -> TrainConfig:
    """Return the configuration with steps cut as in the run that goes on."""
    batch = replace(config.batch, min_micro_batches=began.batch.min_micro_batches)
    return replace(config, batch=batch)


def _environment(prepared: Prepared, probed: Probe) -> dict[str, str | int]:
    """Return the machine, and the attention kernels that it takes."""
    kernels = attention_kernels(prepared.config, probed.batches)
    return {
        **describe_environment(prepared.device),
        "num_processes": prepared.processes.size,
        "attention": ", ".join(kernels),
    }


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
    expected_s: float
    attention: tuple[Kernel, ...]  # kernels of the first steps
    padding: Padding  # of their micro-batches


def plan(config: TrainConfig, data_path: Path | str) -> Plan:
    """Return what `train` would do; on unknown hardware a few steps are timed.

    Raises:
        LmmodelError, LmdataError: whatever would stop the run before its first step
    """
    device, alone = resolve_device(config.device), Processes()
    data = open_training_data(data_path, config.init_from, config.model, config.selection)
    resolved = resolve_config(config, data, device, alone)
    find_start(resolved.init_from, resolved.model, data)
    prepared = prepare(resolved, data, device, alone)
    probed, peak = probe(prepared.loader), peak_flops(device)
    objective = prepared.loader.objective
    flops = int(probed.mean(lambda batch: batch_flops(resolved.model, objective, batch)))
    if peak is not None:
        pace = Pace(step_s=flops / (0.4 * peak))
    else:
        pace = calibrate(prepared, folder=None, limit_s=PLAN_LIMIT_S)
    return _make_plan(prepared, probed, pace, flops)


def _make_plan(prepared: Prepared, probed: Probe, pace: Pace, flops: int) -> Plan:
    """Return a plan from the operations of a step and the pace of a run."""
    config, loader = prepared.config, prepared.loader
    num_steps = budget_steps(config, loader, pace)
    tokens = probed.mean(lambda batch: batch.num_tokens)
    return Plan(
        config=config,
        num_parameters=num_parameters(config.objective, config.model),
        num_steps=num_steps,
        tokens_per_step=tokens,
        num_tokens=round(tokens * num_steps),
        num_epochs=num_steps * epochs_per_step(loader),
        step_flops=flops,
        total_flops=float(flops) * num_steps,
        memory_bytes=max(estimate_memory(config, stage[0]) for stage in probed.stages),
        device_memory_bytes=memory_bytes(prepared.device),
        expected_s=pace.expected_s(num_steps, config),
        attention=attention_kernels(config, probed.batches),
        padding=probed.padding,
    )
