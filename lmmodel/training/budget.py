"""How many steps a run has: from steps, tokens, epochs or minutes.

Minutes need the pace of a run: steps, an evaluation and a checkpoint are timed on a model that is
thrown away.
"""

from __future__ import annotations

import bisect
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from lmdata.errors import ConfigError
from lmmodel.config import TrainConfig
from lmmodel.device import sum_over_processes
from lmmodel.evaluation import evaluate
from lmmodel.loader import Loader, StepBatch
from lmmodel.packing import Padding, padding_of
from lmmodel.saving.run import save_state
from lmmodel.settings import DEFAULT_NUM_STEPS, MOST_STEPS
from lmmodel.training.learner import Learner
from lmmodel.training.plan import Prepared

# Calibration ends after so many seconds, or this share of the budget if that is less.
LIMIT_S = 15.0
LIMIT_RATIO = 0.03

# The first steps compile and warm up: they don't count.
_NUM_WARMUP_STEPS = 2
_MIN_STEPS = 3

# Steps of a stage whose mean tells how many tokens its steps have.
_NUM_PROBED_STEPS = 4

# Evaluations and checkpoints of a run that does not say how often.
_NUM_TIMES = 10


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds that the parts of a run take."""

    step_s: float
    evaluation_s: float = 0.0  # each
    checkpoint_s: float = 0.0  # each
    spent_s: float = 0.0  # of a budget of minutes, before the first step

    def expected_s(self, num_steps: int, config: TrainConfig) -> float:
        """Return the seconds of a run of so many steps.

        Example:
            >>> Pace(step_s=1.0, evaluation_s=3.0, spent_s=2.0).expected_s(100, TrainConfig())
            132.0
        """
        evaluations = num_times(config.evaluation.every_steps, num_steps)
        checkpoints = num_times(config.checkpoint.every_steps, num_steps)
        return (
            self.spent_s + num_steps * self.step_s
            + evaluations * self.evaluation_s + checkpoints * self.checkpoint_s
        )  # fmt: skip


def interval(every_steps: int | None, num_steps: int) -> int:
    """Return the steps from one evaluation or checkpoint to the next; None: at most ten in all.

    Example:
        >>> interval(None, 1000), interval(30, 1000), interval(None, 4)
        (100, 30, 1)
    """
    return every_steps or max(1, math.ceil(num_steps / _NUM_TIMES))


def num_times(every_steps: int | None, num_steps: int) -> int:
    """Return how often a run evaluates or saves; the last step always does.

    Example:
        >>> num_times(None, 1000), num_times(30, 100)
        (10, 4)
    """
    return math.ceil(num_steps / interval(every_steps, num_steps))


def budget_steps(config: TrainConfig, loader: Loader, pace: Pace | None = None) -> int:
    """Return the optimizer steps of a budget.

    Args:
        config: its budget is in steps, tokens, epochs or minutes
        loader: of `PROBE_STEPS`; tells the tokens of a step and the rows of an epoch
        pace: measured; needed for minutes only

    Raises:
        ConfigError: more than any run has
    """
    num_steps = _wanted_steps(config, loader, pace)
    if num_steps > MOST_STEPS:
        raise ConfigError(
            f"the budget is {num_steps:,} steps, more than any run has ({MOST_STEPS:,}): lower it"
        )
    return num_steps


def _wanted_steps(config: TrainConfig, loader: Loader, pace: Pace | None) -> int:
    budget = config.budget
    if budget.num_tokens is not None:
        own_tokens = probe(loader).mean(lambda batch: batch.num_tokens)
        return math.ceil(budget.num_tokens / (own_tokens * loader.num_processes))
    if budget.num_epochs is not None:
        # Rounded: a quotient of rounded numbers may be a little above the whole number it is.
        return max(1, math.ceil(round(budget.num_epochs / epochs_per_step(loader), 6)))
    if budget.num_minutes is not None:
        assert pace is not None
        return steps_within(budget.num_minutes * 60, pace, config)
    return budget.num_steps or DEFAULT_NUM_STEPS


def steps_within(seconds: float, pace: Pace, config: TrainConfig) -> int:
    """Return the most steps, at least 1, that end in time with their evaluations and checkpoints.

    Example:
        >>> steps_within(132.0, Pace(step_s=1.0, evaluation_s=3.0, spent_s=2.0), TrainConfig())
        100
    """
    most = int(max(0.0, seconds - pace.spent_s) / pace.step_s)
    # More steps take more time where they are evaluated and saved after a number of them. Where
    # that is left open, at most ten times in all, 11 may take less than 10: so one by one there.
    most = bisect.bisect_right(range(most), seconds, key=partial(_least_s, pace, config))
    fitting = (steps for steps in range(most, 1, -1) if pace.expected_s(steps, config) <= seconds)
    return next(fitting, 1)


def _least_s(pace: Pace, config: TrainConfig, num_steps: int) -> float:
    """Return seconds without what is done at most ten times: more steps never take less."""
    bare = replace(
        pace,
        evaluation_s=pace.evaluation_s if config.evaluation.every_steps else 0.0,
        checkpoint_s=pace.checkpoint_s if config.checkpoint.every_steps else 0.0,
    )
    return bare.expected_s(num_steps + 1, config)


def epochs_per_step(loader: Loader) -> float:
    """Return the mean share of an epoch that a step of a run takes."""
    epochs = [stage.batch_size / stage.rows.num_rows for stage in loader.stages]
    return float(np.dot(stage_shares(loader), epochs))


def calibrate(prepared: Prepared, *, folder: Path | None, limit_s: float) -> Pace:
    """Return the pace of a run, the mean of all processes, each of which must call this.

    Args:
        prepared: what the run is made of
        folder: on the disk where checkpoints will lie; None: none is written
        limit_s: seconds for the steps
    """
    loader, device, processes = prepared.loader, prepared.device, prepared.processes
    learner = Learner(prepared.config, loader, device)

    def evaluate_once() -> None:
        if prepared.held_out is not None:
            with learner.exported():
                evaluate(learner.model, prepared.held_out, device)

    def save_once() -> None:
        groups = learner.groups(is_kept=processes.is_main)
        if folder is not None and processes.is_main:
            with tempfile.TemporaryDirectory(prefix=".calibration-", dir=folder) as path:
                save_state(Path(path), 0, groups, {}, keep=1)

    limit_s /= len(loader.stages)
    stages_s = [_mean_step_s(learner, step, limit_s) for step in loader.first_steps]
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


@dataclass(frozen=True)
class Probe:
    """The first few steps of each stage in this process, and each stage's share of all steps."""

    shares: tuple[float, ...]
    stages: tuple[tuple[StepBatch, ...], ...]

    @property
    def batches(self) -> list[StepBatch]:
        """The steps of all stages."""
        return [batch for stage in self.stages for batch in stage]

    def mean(self, measure: Callable[[StepBatch], float]) -> float:
        """Return the mean of a measure over the steps of a run."""
        means = [np.mean([measure(batch) for batch in stage]) for stage in self.stages]
        return float(np.dot(self.shares, means))

    @property
    def padding(self) -> Padding:
        """What of the steps' micro-batches is padding."""
        micro = [own.batch for batch in self.batches for own in batch.micro_batches]
        return padding_of(micro, sum(batch.num_tokens for batch in self.batches))


def probe(loader: Loader) -> Probe:
    """Return the first few steps of each stage of a loader that has `PROBE_STEPS`."""
    return Probe(
        stage_shares(loader),
        tuple(
            tuple(loader.batch(first_step + step) for step in range(_NUM_PROBED_STEPS))
            for first_step in loader.first_steps
        ),
    )


def stage_shares(loader: Loader) -> tuple[float, ...]:
    """Return the share of each stage in a loader's steps."""
    ends = [*loader.first_steps[1:], loader.num_steps]
    return tuple(
        (end - start) / loader.num_steps
        for start, end in zip(loader.first_steps, ends, strict=True)
    )
