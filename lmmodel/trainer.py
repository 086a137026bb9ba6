"""Starting a run or going on with one: open, check, count the steps, then the loop."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from lmdata.errors import ConfigError
from lmmodel.config import TrainConfig
from lmmodel.data import TrainingData, open_data
from lmmodel.device import (
    Processes,
    describe_environment,
    join_processes,
    peak_flops,
    resolve_device,
    same_bits,
    value_of_main,
)
from lmmodel.errors import FitError, ResumeError
from lmmodel.evaluation import HeldOut, make_held_out
from lmmodel.saving.checkpoint import list_checkpoints
from lmmodel.saving.run import (
    CHECKPOINTS_NAME,
    RunRecord,
    check_has_checkpoint,
    check_output,
    check_same_config,
    check_same_data,
    create_run,
    make_record,
    read_record,
)
from lmmodel.saving.starting import check_own_place, find_start, first_weights
from lmmodel.training.budget import PROBE_STEPS, budget_steps, probe
from lmmodel.training.calibration import LIMIT_RATIO, LIMIT_S, calibrate, existing_folder
from lmmodel.training.learner import Learner
from lmmodel.training.loop import Summary, Trainer
from lmmodel.training.plan import (
    Plan,
    attention_kernels,
    check_memory,
    make_loader,
    make_plan,
    resolve_config,
)
from lmmodel.training.reporting import Report, Reporter

# Seconds of the steps that a plan times.
PLAN_LIMIT_S = 5.0


def train(
    config: TrainConfig | None,
    data_path: Path | None,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Report | None = None,
) -> Summary:
    """Train a model into a run folder.

    Args:
        config: of the run; None with `resume`: the one it began with
        data_path: token store or example shards; None with `resume`: those it began with
        output: the run folder
        resume: go on from its newest whole checkpoint, bit for bit
        overwrite: delete the run that is there
        progress: called with each report, in the main process

    Raises:
        LmmodelError, LmdataError: anything that the user can mend; nothing is lost
        Interrupted: SIGTERM or Ctrl-C came; the state was saved first
    """
    started = time.perf_counter()
    if resume and overwrite:
        raise ResumeError("--resume and --overwrite contradict each other: keep one")
    began = read_record(output) if resume else None
    if began is not None and began.is_imported:
        raise ResumeError(
            f"{output} was imported, it has no training to go on with: train it with "
            f"--init-from {output} --output runs/NEW"
        )
    if began is not None:
        check_has_checkpoint(output)
    if config is None or data_path is None:
        if began is None:
            raise ValueError("config and data_path are needed unless a run is resumed")
        data_path = data_path or Path(began.data_path)
    wanted = config if config is not None else _config_of(began)
    check_own_place(wanted.init_from, output)
    bits = same_bits(wanted.device, wanted=wanted.deterministic)
    with bits, join_processes(wanted.device) as processes:
        _check_parallel(wanted, processes)
        device = resolve_device(wanted.device, processes.local_rank)
        data = open_data(data_path)
        if began is not None:  # before what else other data may not fit
            check_same_data(began, data)
        resolved = resolve_config(wanted, data, device, processes)
        if began is not None:
            if wanted.batch.min_micro_batches is None:  # whatever this machine would choose
                resolved = _with_cut_of(resolved, began.config)
            check_same_config(began, resolved)
        else:
            check_output(output, overwrite=overwrite)
        start = find_start(resolved.init_from, resolved.model, data) if began is None else None
        held_out, notes = _hold_out(resolved, data, processes)
        record = began or make_record(
            resolved,
            _count_steps(resolved, data, device, processes, held_out, output, started),
            data,
            _environment(resolved, data, device, processes),
            start.origin if start else None,
        )
        weights = None
        if not (resume and list_checkpoints(output / CHECKPOINTS_NAME)):
            weights = first_weights(resolved.init_from, record.origin)
        trainer = _make_trainer(
            resolved, record, data, weights, held_out, output, device, processes, progress
        )
        trainer.notes += notes
        if processes.is_main and began is None:
            create_run(output, record, data.tokenizer, overwrite=overwrite)
        return trainer.run(resume=resume)


def _make_trainer(
    config: TrainConfig,
    record: RunRecord,
    data: TrainingData,
    weights: Mapping[str, torch.Tensor] | None,
    held_out: HeldOut | None,
    output: Path,
    device: torch.device,
    processes: Processes,
    report: Report | None,
) -> Trainer:
    loader = make_loader(config, data, record.num_steps, processes)
    for stage in loader.stages:
        check_memory(config, loader.batch(stage.first_step), device, processes)
    learner = Learner(config, loader, device, weights)
    reporter = Reporter(
        config,
        loader.objective,
        record.num_steps,
        output=output,
        peak_flops=peak_flops(device),
        report=report if processes.is_main else None,
    )
    return Trainer(config, record, learner, reporter, held_out, output, is_main=processes.is_main)


def plan(config: TrainConfig, data_path: Path) -> Plan:
    """Return what `train` would do; on unknown hardware a few steps are timed."""
    device = resolve_device(config.device)
    data, alone = open_data(data_path), Processes()
    resolved = resolve_config(config, data, device, alone)
    find_start(resolved.init_from, resolved.model, data)
    if peak_flops(device) is not None:
        return make_plan(config, data_path)
    held_out, _ = _hold_out(resolved, data, alone)
    pace = calibrate(
        resolved, data, device, alone, held_out=held_out, folder=None, limit_s=PLAN_LIMIT_S
    )
    return make_plan(config, data_path, pace)


def _config_of(record: RunRecord | None) -> TrainConfig:
    assert record is not None
    return record.config


def _check_parallel(config: TrainConfig, processes: Processes) -> None:
    if config.parallel == "fsdp2" and processes.size == 1:
        raise ConfigError(
            "parallel=fsdp2 shares the model among processes and there is one: start the command "
            "with torchrun --nproc-per-node N, or leave parallel out"
        )


def _hold_out(
    config: TrainConfig, data: TrainingData, processes: Processes
) -> tuple[HeldOut | None, list[str]]:
    """Return what this process evaluates on, and a note where the data holds too little."""
    has_part = processes.is_main or config.parallel == "fsdp2"
    if not has_part or not config.evaluation.num_examples:
        return None, []
    try:
        return make_held_out(config, data, num_examples=config.evaluation.num_examples), []
    except FitError as error:  # a few documents may leave none to hold out
        return None, [f"trained without held-out figures: {error}"]


def _count_steps(
    config: TrainConfig,
    data: TrainingData,
    device: torch.device,
    processes: Processes,
    held_out: HeldOut | None,
    output: Path,
    started_s: float,
) -> int:
    """Return the steps of a new run, the same in every process."""
    pace, minutes = None, config.budget.num_minutes
    if minutes is not None:
        pace = calibrate(
            config, data, device, processes, held_out=held_out, folder=existing_folder(output),
            limit_s=min(LIMIT_S, LIMIT_RATIO * minutes * 60),
        )  # fmt: skip
        pace = replace(pace, spent_s=time.perf_counter() - started_s)
    loader = make_loader(config, data, PROBE_STEPS, processes)
    return value_of_main(budget_steps(config, loader, pace), device)


def _with_cut_of(config: TrainConfig, began: TrainConfig) -> TrainConfig:
    """Return the configuration with steps cut as in the run that goes on."""
    batch = replace(config.batch, min_micro_batches=began.batch.min_micro_batches)
    return replace(config, batch=batch)


def _environment(
    config: TrainConfig, data: TrainingData, device: torch.device, processes: Processes
) -> dict[str, str | int]:
    """Return the machine, and the attention kernels that it takes."""
    kernels = attention_kernels(
        config, probe(make_loader(config, data, PROBE_STEPS, processes)).batches
    )
    return {
        **describe_environment(device),
        "num_processes": processes.size,
        "attention": ", ".join(kernels),
    }
