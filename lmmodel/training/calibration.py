"""How long steps, evaluations and checkpoints take, measured on a model that is thrown away."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lmmodel.config import TrainConfig
from lmmodel.data import TrainingData
from lmmodel.device import Processes, sum_over_processes
from lmmodel.evaluation import HeldOut, evaluate
from lmmodel.saving.run import save_state
from lmmodel.training.budget import PROBE_STEPS, Pace, stage_shares
from lmmodel.training.learner import Learner
from lmmodel.training.plan import check_memory, make_loader

# Calibration ends after so many seconds, or this share of the budget if that is less.
LIMIT_S = 15.0
LIMIT_RATIO = 0.03

# The first steps compile and warm up: they don't count.
_NUM_WARMUP_STEPS = 2
_MIN_STEPS = 3


def calibrate(
    config: TrainConfig,
    data: TrainingData,
    device: torch.device,
    processes: Processes,
    *,
    held_out: HeldOut | None,
    folder: Path | None,
    limit_s: float,
) -> Pace:
    """Return the pace of a run, the mean of all processes.

    Args:
        config: resolved
        data: to train on
        device: to train on
        processes: that train together; all of them must call this
        held_out: what is evaluated; None: nothing is
        folder: on the disk where checkpoints will lie; None: none is written
        limit_s: seconds for the steps
    """
    loader = make_loader(config, data, PROBE_STEPS, processes)
    for stage in loader.stages:
        check_memory(config, loader.batch(stage.first_step), device, processes)
    learner = Learner(config, loader, device)

    def evaluate_once() -> None:
        if held_out is not None:
            with learner.exported():
                evaluate(learner.model, held_out, device)

    def save_once() -> None:
        groups = learner.groups(is_kept=processes.is_main)
        if folder is not None and processes.is_main:
            with tempfile.TemporaryDirectory(prefix=".calibration-", dir=folder) as path:
                save_state(Path(path), 0, groups, {}, keep=1)

    limit_s /= len(loader.stages)
    stages_s = [_mean_step_s(learner, stage.first_step, limit_s) for stage in loader.stages]
    step_s = float(np.dot(stage_shares(loader), stages_s))
    own = [step_s, _seconds(evaluate_once), _seconds(save_once)]
    shared = torch.tensor(own, dtype=torch.float64).to(device)
    step_s, evaluation_s, checkpoint_s = (sum_over_processes(shared) / processes.size).tolist()
    return Pace(step_s=step_s, evaluation_s=evaluation_s, checkpoint_s=checkpoint_s)


def existing_folder(path: Path) -> Path:
    """Return the innermost folder of a path that is there.

    Example:
        >>> existing_folder(Path("/no/such/folder"))
        PosixPath('/')
    """
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _mean_step_s(learner: Learner, first_step: int, limit_s: float) -> float:
    """Return the mean seconds of some steps of a stage; all processes stop after the same one."""
    seconds: list[float] = []
    started = time.perf_counter()
    while True:
        began = time.perf_counter()
        is_enough = len(seconds) >= _NUM_WARMUP_STEPS + _MIN_STEPS and began - started > limit_s
        batch = learner.loader.batch(first_step + len(seconds))
        totals = learner.add_up(batch, wants_stop=is_enough)
        if totals.wants_stop:
            return float(np.mean(seconds[_NUM_WARMUP_STEPS:]))
        learner.learn(batch, totals.num_labels)
        seconds.append(time.perf_counter() - began)


def _seconds(function: Callable[[], None]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
