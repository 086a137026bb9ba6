"""What a running training tells: metrics.jsonl, TensorBoard, the picture, the progress display."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmmodel.adapters import Trained
from lmmodel.config import TrainConfig
from lmmodel.device import peak_memory
from lmmodel.diagnosing import SKIPPED_STEP as SKIPPED_STEP
from lmmodel.diagnosing import Finding, examine
from lmmodel.evaluation import Evaluation
from lmmodel.gates import level_names
from lmmodel.guesses import PlaceGuess
from lmmodel.objectives import Objective
from lmmodel.saving.metrics import (
    MAIN_LOSS,
    METRICS_NAME,
    MetricsLog,
    Stopwatch,
    TrainProgress,
    check_can_draw,
    find_tensorboard,
    finite_or_none,
    plot_losses,
    read_metrics,
)
from lmmodel.settings import LoggingConfig
from lmmodel.training.learner import StepResult

PICTURE_NAME = "loss.png"
TENSORBOARD_NAME = "tensorboard"

# What a notice in metrics.jsonl is about, for programs, or the name of a finding; its message is
# for people.
OUT_OF_MEMORY = "out-of-memory"
TRAINED_PART = "trained-part"
FORGOTTEN = "forgotten"

# Seconds that a picture stays as it is while training goes on: drawing takes half a second.
REDRAW_S = 30.0

Listener = Callable[[TrainProgress], None]
"""Is told of a running training."""


def check_can_report(config: LoggingConfig) -> None:
    """Check that what reports are written by is installed.

    Raises:
        RunError: TensorBoard or Matplotlib is wanted, and is not
    """
    if config.tensorboard:
        find_tensorboard()
    if config.picture:
        check_can_draw()


class Reporter:
    """Sums over the steps since the last line, and everywhere they are written to.

    The sums are part of a checkpoint, so a resumed run writes the lines it would have written.
    """

    def __init__(
        self,
        config: TrainConfig,
        objective: Objective,
        num_steps: int,
        *,
        output: Path,
        peak_flops: float | None,
        report: Listener | None,
    ) -> None:
        self.config = config
        self.term_names = [term.name for term in objective.terms]
        self.num_steps = num_steps
        self.output = output
        self.peak_flops = peak_flops
        self.report = report
        self.num_tokens = 0  # since the run began
        self.last_loss = math.nan  # mean of the last line, nats
        self._sums = np.zeros(len(objective.terms) + 1)  # of total loss and terms
        self._counts = np.zeros(len(objective.terms) + 1, np.int64)
        self._flops = 0
        self._log: MetricsLog | None = None
        self._events: Any = None
        self._drawn_s = -math.inf

    def open(self, step: int) -> None:
        """Begin writing after `step`; later lines of an earlier attempt are dropped."""
        if self.config.logging.tensorboard:
            self._events = find_tensorboard()(self.output / TENSORBOARD_NAME, step)
        self._log = MetricsLog(self.output / METRICS_NAME, step)

    def close(self) -> None:
        """Close the files."""
        if self._log is not None:
            self._log.close()
        if self._events is not None:
            self._events.close()

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the report: JSON values."""
        return {
            "num_tokens": self.num_tokens,
            "last_loss": finite_or_none(self.last_loss),
            "sums": self._sums.tolist(),
            "counts": self._counts.tolist(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.num_tokens = state["num_tokens"]
        last_loss = state.get("last_loss")  # checkpoints of earlier versions have none
        self.last_loss = math.nan if last_loss is None else last_loss
        self._sums = np.array(state["sums"], np.float64)
        self._counts = np.array(state["counts"], np.int64)

    def add(self, result: StepResult, num_tokens: int, flops: int) -> None:
        """Take in a step.

        Args:
            result: of the step
            num_tokens: over all processes
            flops: of this process
        """
        losses = np.array([result.loss.total, *result.loss.means])
        is_there = np.isfinite(losses)
        self._sums += np.where(is_there, losses, 0.0)
        self._counts += is_there
        self.num_tokens += num_tokens
        self._flops += flops

    def write(self, step: int, result: StepResult, watch: Stopwatch) -> None:
        """Write a line about the steps since the last one, and begin a new interval."""
        means = np.divide(
            self._sums, self._counts, out=np.full(len(self._sums), np.nan), where=self._counts > 0
        )
        self.last_loss = float(means[0])
        elapsed_s = watch.elapsed_s
        mfu = None if self.peak_flops is None else self._flops / elapsed_s / self.peak_flops
        losses = dict(zip(["loss", *[f"{n}_loss" for n in self.term_names]], means, strict=True))
        entry = {
            "step": step,
            **{name: finite_or_none(float(value)) for name, value in losses.items()},
            MAIN_LOSS: finite_or_none(float(means[1])),
            "lr": result.lr,
            "grad_norm": finite_or_none(result.grad_norm),
            "num_tokens": self.num_tokens,
            "tokens_per_s": round(watch.num_tokens / elapsed_s, 1),
            "mfu": None if mfu is None else round(mfu, 4),
            "memory_bytes": peak_memory(self.config.device),
            **{f"{part}_ratio": round(watch.share(part), 5) for part in sorted(watch.seconds)},
        }
        self._write(entry)
        if self.report is not None:
            self.report(self._progress(step, result.lr, watch, mfu))
        self._sums[:] = 0
        self._counts[:] = 0
        self._flops = 0
        watch.reset()

    def evaluated(
        self, step: int, evaluation: Evaluation, guesses: Sequence[PlaceGuess] = ()
    ) -> None:
        """Write a line about an evaluation, and what the model thinks of a few places."""
        figures = {f"validation_{name}": value for name, value in evaluation.figures().items()}
        places = {"guesses": list(guesses)} if guesses else {}
        self._write({"step": step, **figures, **places})

    def new_findings(self) -> list[Finding]:
        """Return what the curves say is wrong, each thing once in a run.

        Told from metrics.jsonl, so a resumed run says it where it would have said it.
        """
        entries = read_metrics(self.output / METRICS_NAME)
        said = {entry.get("notice") for entry in entries}
        return [found for found in examine(entries, self.num_steps) if found.name not in said]

    def draw(self, evaluation: Evaluation | None, *, is_last: bool) -> None:
        """Draw the losses so far, where a picture is wanted, if the last one is old, or the end."""
        is_due = is_last or time.monotonic() - self._drawn_s > REDRAW_S
        if not (self.config.logging.picture and is_due):
            return
        self._drawn_s = time.monotonic()
        entries = read_metrics(self.output / METRICS_NAME)
        levels = {} if evaluation is None else level_names(evaluation.figures())
        plot_losses(entries, self.output / PICTURE_NAME, levels)

    def say(self, step: int, message: str, notice: str, *, trained: Trained | None = None) -> None:
        """Say something once: in metrics.jsonl and on the progress display."""
        self._write({"step": step, "notice": notice, "message": message})
        if self.report is not None:
            self.report(
                TrainProgress(
                    step=step, num_steps=self.num_steps, loss=self.last_loss, lr=0.0,
                    tokens_per_s=0.0, mfu=None, data_wait_ratio=0.0, eta_s=math.nan,
                    message=message, trained=trained,
                )
            )  # fmt: skip

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.write({**entry, "time_s": round(time.time(), 1)})
        if self._events is not None:
            for name, value in entry.items():
                if isinstance(value, int | float) and name != "step":
                    self._events.add_scalar(name, value, entry["step"])

    def _progress(self, step: int, lr: float, watch: Stopwatch, mfu: float | None) -> TrainProgress:
        seconds_per_step = watch.elapsed_s / max(watch.num_steps, 1)
        return TrainProgress(
            step=step,
            num_steps=self.num_steps,
            loss=self.last_loss,
            lr=lr,
            tokens_per_s=watch.num_tokens / watch.elapsed_s,
            mfu=mfu,
            data_wait_ratio=watch.share("data_wait"),
            eta_s=(self.num_steps - step) * seconds_per_step,
        )
