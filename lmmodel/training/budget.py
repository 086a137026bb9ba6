"""How many steps a run has: from steps, tokens, epochs or minutes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lmmodel.config import DEFAULT_NUM_STEPS, TrainConfig
from lmmodel.training.loader import Loader, StepBatch

# Steps whose mean tells how many tokens a step has.
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
    """Return the steps from one evaluation or checkpoint to the next; None: ten in the run.

    Example:
        >>> interval(None, 1000), interval(30, 1000), interval(None, 4)
        (100, 30, 1)
    """
    return every_steps or max(1, num_steps // _NUM_TIMES)


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
        loader: tells the tokens of a step and the rows of an epoch
        pace: measured; needed for minutes only
    """
    budget = config.budget
    if budget.num_tokens is not None:
        return math.ceil(budget.num_tokens / tokens_per_step(loader))
    if budget.num_epochs is not None:
        stage = loader.stages[0]
        return math.ceil(budget.num_epochs * stage.rows.num_rows / stage.batch_size)
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
    enough, too_many = 1, 2 + int(seconds / pace.step_s)
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        if pace.expected_s(middle, config) <= seconds:
            enough = middle
        else:
            too_many = middle
    return enough


def probe(loader: Loader) -> list[StepBatch]:
    """Return the first few steps of this process."""
    return [loader.batch(step) for step in range(_NUM_PROBED_STEPS)]


def tokens_per_step(loader: Loader) -> float:
    """Return the mean tokens of the first few steps, over all processes."""
    tokens = [batch.num_tokens for batch in probe(loader)]
    return float(np.mean(tokens)) * loader.num_processes
