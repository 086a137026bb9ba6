"""The loop: batch, step, report, evaluate, save; and going on where it stopped."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

from lmmodel.calibration import calibrate, measure_step
from lmmodel.checkpoint import load_latest, save_checkpoint, save_tensors
from lmmodel.config import TrainConfig
from lmmodel.data import TrainingData, open_data
from lmmodel.device import (
    Processes,
    describe_environment,
    join_processes,
    peak_flops,
    resolve_device,
)
from lmmodel.errors import DivergedError, FitError, LmmodelError, ResumeError
from lmmodel.evaluation import Evaluation, HeldOut, evaluate, make_held_out
from lmmodel.learner import Learner, StepResult
from lmmodel.loader import Prefetcher, StepBatch
from lmmodel.plan import (
    Plan,
    batch_flops,
    budget_steps,
    check_memory,
    make_loader,
    make_plan,
    resolve_config,
)
from lmmodel.reporting import Report, Reporter
from lmmodel.run import (
    CHECKPOINTS_NAME,
    WEIGHTS_NAME,
    RunRecord,
    check_output,
    check_resumable,
    create_run,
    make_record,
    read_record,
)

# So many steps in a row may be skipped as bad before the run stops.
MAX_SKIPPED_IN_A_ROW = 20


class Interrupted(LmmodelError):
    """Training was stopped by SIGTERM or Ctrl-C; the text says what was kept."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a training came to."""

    output: Path
    num_steps: int
    num_tokens: int
    elapsed_s: float  # of this process, without what earlier ones did
    loss: float  # of the last logged steps, nats
    evaluation: Evaluation | None
    notes: tuple[str, ...] = field(default=())


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
    if resume and overwrite:
        raise ResumeError("--resume and --overwrite contradict each other: keep one")
    began = read_record(output) if resume else None
    if config is None or data_path is None:
        if began is None:
            raise ValueError("config and data_path are needed unless a run is resumed")
        data_path = data_path or Path(began.data_path)
    wanted = config if config is not None else _config_of(began)
    with join_processes(wanted.device) as processes:
        device = resolve_device(wanted.device, processes.local_rank)
        data = open_data(data_path)
        resolved = resolve_config(wanted, data, device, processes)
        if began is not None:
            check_resumable(began, resolved, data)
        else:
            check_output(output, overwrite=overwrite)
        record = began or _begin(resolved, data, device, processes)
        trainer = _make_trainer(resolved, record, data, output, device, processes, progress)
        if processes.is_main and began is None:
            create_run(output, record, data.tokenizer, overwrite=overwrite)
        return trainer.run(resume=resume)


def _make_trainer(
    config: TrainConfig,
    record: RunRecord,
    data: TrainingData,
    output: Path,
    device: torch.device,
    processes: Processes,
    report: Report | None,
) -> Trainer:
    loader = make_loader(config, data, record.num_steps, processes)
    check_memory(config, loader.batch(0), device)
    learner = Learner(config, loader, device)
    reporter = Reporter(
        config,
        loader.objective,
        record.num_steps,
        output=output,
        peak_flops=peak_flops(device),
        report=report if processes.is_main else None,
    )
    held_out, notes = None, []
    if processes.is_main and config.evaluation.num_examples:
        try:
            held_out = make_held_out(config, data, num_examples=config.evaluation.num_examples)
        except FitError as error:  # a few documents may leave none to hold out
            notes.append(f"trained without held-out figures: {error}")
    trainer = Trainer(
        config, record, learner, reporter, held_out, output, is_main=processes.is_main
    )
    trainer.notes += notes
    return trainer


def plan(config: TrainConfig, data_path: Path) -> Plan:
    """Return what `train` would do; on unknown hardware a few steps are timed."""
    device = resolve_device(config.device)
    if peak_flops(device) is not None:
        return make_plan(config, data_path)
    data = open_data(data_path)
    resolved = resolve_config(config, data, device, Processes())
    seconds = measure_step(resolved, data, device, Processes(), limit_s=5.0)
    return make_plan(config, data_path, seconds)


def _config_of(record: RunRecord | None) -> TrainConfig:
    assert record is not None
    return record.config


def _begin(
    config: TrainConfig, data: TrainingData, device: torch.device, processes: Processes
) -> RunRecord:
    """Return the record of a new run, its budget turned into steps."""
    seconds = None
    minutes = config.budget.num_minutes
    if minutes is not None:
        seconds = calibrate(config, data, device, processes, minutes=minutes)
    loader = make_loader(config, data, 1, processes)
    num_steps = budget_steps(config.budget, loader, seconds_per_step=seconds)
    return make_record(config, num_steps, data, describe_environment(device))


class Trainer:
    """One process of a training run; the main one also evaluates, reports and saves."""

    def __init__(
        self,
        config: TrainConfig,
        record: RunRecord,
        learner: Learner,
        reporter: Reporter,
        held_out: HeldOut | None,
        output: Path,
        *,
        is_main: bool,
    ) -> None:
        self.config = config
        self.record = record
        self.learner = learner
        self.reporter = reporter
        self.held_out = held_out
        self.output = output
        self.is_main = is_main
        self.step = 0  # optimizer steps done
        self.evaluation: Evaluation | None = None
        self.notes: list[str] = []

    def run(self, *, resume: bool) -> Summary:
        """Train to the last step."""
        started = time.perf_counter()
        if resume:
            self._resume()
        if self.is_main:
            self.reporter.open(self.step)
        try:
            with _patience() as stop, _no_garbage_collection():
                self._loop(stop)
            if self.evaluation is None:
                self._evaluate(is_logged=False)
        finally:
            self.reporter.close()
        return Summary(
            output=self.output,
            num_steps=self.record.num_steps,
            num_tokens=self.reporter.num_tokens,
            elapsed_s=time.perf_counter() - started,
            loss=self.reporter.last_loss,
            evaluation=self.evaluation,
            notes=tuple(self.notes),
        )

    def _loop(self, stop: threading.Event) -> None:
        learner, num_steps = self.learner, self.record.num_steps
        batches = self._prefetch()
        num_skipped = 0
        learner.watch.reset()
        try:
            while self.step < num_steps:
                with learner.watch.measure("data_wait"):
                    batch = next(batches)
                totals = learner.add_up(batch, wants_stop=stop.is_set())
                if totals.wants_stop:
                    self._leave()
                loader = learner.loader
                result = learner.learn(batch, totals.num_labels)
                num_skipped = self._note_skipped(result, num_skipped)
                self.step += 1
                self._after_step(batch, result, totals.num_tokens)
                if learner.loader is not loader:
                    batches.close()
                    self._note_smaller()
                    batches = self._prefetch()
        finally:
            batches.close()

    def _after_step(self, batch: StepBatch, result: StepResult, num_tokens: int) -> None:
        config, watch, is_last = self.config, self.learner.watch, self.step == self.record.num_steps
        self.reporter.add(result, num_tokens, batch_flops(config.model, batch))
        watch.num_tokens += num_tokens
        watch.num_steps += 1
        if self.step % config.logging.every_steps == 0 or is_last:
            self.reporter.write(self.step, result, watch)
        if self.step % self._every(config.evaluation.every_steps) == 0 or is_last:
            with watch.measure("evaluation"):
                self._evaluate(is_logged=True)
        if self.step % self._every(config.checkpoint.every_steps) == 0 or is_last:
            with watch.measure("checkpoint"):
                self._save()

    def _every(self, steps: int | None) -> int:
        """Return an interval, ten to a run where none is given."""
        return steps or max(1, self.record.num_steps // 10)

    def _prefetch(self) -> Prefetcher:
        return Prefetcher(self.learner.loader, self.step, self.config.batch.prefetch)

    def _evaluate(self, *, is_logged: bool) -> None:
        if self.held_out is None:
            return
        with self.learner.exported():
            self.evaluation = evaluate(self.learner.model, self.held_out, self.learner.device)
        if is_logged:
            self.reporter.evaluated(self.step, self.evaluation)
        if self.evaluation.is_at_unigram and self.step == self.record.num_steps:
            self._note(
                f"held-out loss {self.evaluation.loss:.3f} is no better than guessing by frequency "
                f"({self.evaluation.unigram_loss:.3f}): train longer, or try another optimizer.lr "
                "or a longer schedule.warmup_ratio"
            )

    def _save(self) -> None:
        if not self.is_main:
            return
        state = {
            "reporter": self.reporter.state,
            "micro_batch_tokens": self.learner.loader.shape.num_tokens,
        }
        keep = self.config.checkpoint.keep
        save_checkpoint(
            self.output / CHECKPOINTS_NAME, self.step, self.learner.groups(), state, keep=keep
        )
        save_tensors(self.output / WEIGHTS_NAME, self.learner.exported_tensors())

    def _resume(self) -> None:
        checkpoint, problems = load_latest(self.output / CHECKPOINTS_NAME)
        self.notes += [f"passed over: {problem}" for problem in problems]
        if checkpoint is None:
            return
        self.learner.load(checkpoint.groups)
        self.learner.loader = self.learner.loader.with_tokens(
            checkpoint.state["micro_batch_tokens"]
        )
        self.reporter.load(checkpoint.state["reporter"])
        self.step = checkpoint.step

    def _leave(self) -> None:
        self._save()
        raise Interrupted(
            f"stopped after step {self.step} of {self.record.num_steps}; everything is saved in "
            f"{self.output}: go on with --resume"
        )

    def _note(self, message: str) -> None:
        """Say something once."""
        if message not in self.notes:
            self.notes.append(message)
            self.reporter.say(self.step, message)

    def _note_smaller(self) -> None:
        self._note(
            f"out of memory: micro-batches are now {self.learner.loader.shape.num_tokens} tokens; "
            "the result stays the same"
        )

    def _note_skipped(self, result: StepResult, num_skipped: int) -> int:
        """Return how many steps in a row were skipped.

        Raises:
            DivergedError: too many
        """
        if result.skipped is None:
            return 0
        self._note(f"step {self.step + 1} is left out: {result.skipped}")
        if num_skipped + 1 >= MAX_SKIPPED_IN_A_ROW:
            raise DivergedError(
                f"step {self.step + 1}: {MAX_SKIPPED_IN_A_ROW} bad steps in a row, "
                f"the last because {result.skipped}: lower optimizer.lr"
            )
        return num_skipped + 1


@contextlib.contextmanager
def _patience() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and the first Ctrl-C set; a second Ctrl-C stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def set_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, set_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep the cycle collector, whose pauses grow with the number of objects, out of a loop."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
