"""The loop: batch, step, report, evaluate, save; and going on where it stopped."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from lmmodel.config import TrainConfig
from lmmodel.errors import DivergedError, LmmodelError
from lmmodel.evaluation import Evaluation, HeldOut, evaluate
from lmmodel.guesses import Prompts, guess
from lmmodel.loader import Prefetcher, StepBatch
from lmmodel.packing import Padding
from lmmodel.record import CHECKPOINTS_NAME
from lmmodel.saving.checkpoint import load_latest
from lmmodel.saving.metrics import finite_or_none
from lmmodel.saving.run import RunRecord, save_state, save_weights
from lmmodel.trained import load_run
from lmmodel.training.budget import interval
from lmmodel.training.learner import Learner, StepResult
from lmmodel.training.replay import Forgotten
from lmmodel.training.reporting import (
    FORGOTTEN,
    OUT_OF_MEMORY,
    SKIPPED_STEP,
    TRAINED_PART,
    Reporter,
)
from lmmodel.training.step import batch_flops

# So many steps in a row may be skipped as bad before the run stops.
MAX_SKIPPED_IN_A_ROW = 20


class Interrupted(LmmodelError):
    """Training was stopped by SIGTERM or Ctrl-C; the text says what was kept."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a training came to."""

    output: Path | str  # the run folder, or its URI in a store
    num_steps: int
    num_tokens: int
    elapsed_s: float  # of this process, without what earlier ones did
    tokens_per_s: float  # of this process
    loss: float | None  # of the last logged steps, nats; None: there are none
    evaluation: Evaluation | None
    padding: Padding  # of the first micro-batches
    forgotten: Forgotten | None = None  # None: it was not asked
    notes: tuple[str, ...] = field(default=())


class Trainer:
    """One process of a training run; the main one also evaluates, reports and saves."""

    def __init__(
        self,
        config: TrainConfig,
        record: RunRecord,
        learner: Learner,
        reporter: Reporter,
        held_out: HeldOut | None,
        prompts: Prompts | None,
        output: Path,
        *,
        parents: HeldOut | None = None,
        padding: Padding,
        is_main: bool,
    ) -> None:
        self.config = config
        self.record = record
        self.learner = learner
        self.reporter = reporter
        self.held_out = held_out
        self.prompts = prompts
        self.output = output
        self.parents = parents
        self.padding = padding
        self.is_main = is_main
        self.step = 0  # optimizer steps done
        self.saved_step: int | None = None  # that of the newest checkpoint
        self.evaluation: Evaluation | None = None
        self.notes: list[str] = []
        self.send: Callable[[], None] | None = None  # called when a checkpoint has been written

    def load_latest(self) -> None:
        """Take over the newest whole checkpoint, if there is one.

        Raises:
            CheckpointError: there are checkpoints, but none of them is whole and of this run
        """
        checkpoint, problems = load_latest(self.output / CHECKPOINTS_NAME)
        self.notes += [f"passed over: {problem}" for problem in problems]
        if checkpoint is None:
            return
        if self.is_main:  # a kill may have come between a checkpoint and the weights beside it
            save_weights(self.output, checkpoint.groups, self.config, self.record.origin)
        self.learner.load(checkpoint.groups)
        self.learner.loader = self.learner.loader.with_tokens(
            checkpoint.state["micro_batch_tokens"]
        )
        self.reporter.load(checkpoint.state["reporter"])
        self.step = self.saved_step = checkpoint.step

    def run(self) -> Summary:
        """Train to the last step."""
        started = time.perf_counter()
        num_before = self.reporter.num_tokens
        if self.is_main:
            self.reporter.open(self.step)
            if self.learner.trained.part != "full":
                self._note_trained()
        try:
            with _patience() as stop, _no_garbage_collection():
                self._loop(stop)
            if self.evaluation is None:
                self._evaluate(is_logged=False)
            forgotten = self._find_forgotten()
        finally:
            self.reporter.close()
        elapsed_s = time.perf_counter() - started
        return Summary(
            output=self.output,
            num_steps=self.record.num_steps,
            num_tokens=self.reporter.num_tokens,
            elapsed_s=elapsed_s,
            tokens_per_s=(self.reporter.num_tokens - num_before) / elapsed_s,
            loss=finite_or_none(self.reporter.last_loss),
            evaluation=self.evaluation,
            padding=self.padding,
            forgotten=forgotten,
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
                loader, at_once = learner.loader, learner.num_at_once
                result = learner.learn(batch, totals.num_labels)
                num_skipped = self._note_skipped(result, num_skipped)
                self.step += 1
                self._after_step(batch, result, totals.num_tokens)
                if learner.num_at_once < at_once:
                    message = f"out of memory: {learner.num_at_once} micro-batches at a time now"
                    self._note(message, OUT_OF_MEMORY)
                if learner.loader is not loader:
                    batches.close()
                    self._note_smaller()
                    batches = self._prefetch()
        finally:
            batches.close()

    def _after_step(self, batch: StepBatch, result: StepResult, num_tokens: int) -> None:
        config, watch, num_steps = self.config, self.learner.watch, self.record.num_steps
        is_last = self.step == num_steps
        flops = batch_flops(config.model, self.learner.loader.objective, batch)
        self.reporter.add(result, num_tokens, flops)
        watch.num_tokens += num_tokens
        watch.num_steps += 1
        if self.step % config.logging.every_steps == 0 or is_last:
            self.reporter.write(self.step, result, watch)
        every_steps = interval(config.evaluation.every_steps, num_steps)
        is_evaluated = self.step % every_steps == 0 or is_last
        if is_evaluated:
            with watch.measure("evaluation"):
                self._evaluate(is_logged=True)
        if self.step % interval(config.checkpoint.every_steps, num_steps) == 0 or is_last:
            with watch.measure("checkpoint"):
                self._save()
        if self.is_main and is_evaluated:
            with watch.measure("evaluation"):
                self.reporter.draw(self.evaluation, is_last=is_last)

    def _prefetch(self) -> Prefetcher:
        return Prefetcher(self.learner.loader, self.step, self.config.batch.prefetch)

    def _evaluate(self, *, is_logged: bool) -> None:
        if self.held_out is None:
            return
        model, device = self.learner.model, self.learner.device
        with self.learner.exported():
            self.evaluation = evaluate(model, self.held_out, device)
            guesses = guess(model, self.prompts, device) if self.prompts and is_logged else []
        if is_logged and self.is_main:
            self.reporter.evaluated(self.step, self.evaluation, guesses)
            for found in self.reporter.new_findings():
                self._note(f"{found.message}. {found.advice}", found.name)

    def _find_forgotten(self) -> Forgotten | None:
        """Return what the parent's own held-out loss is before and after, and log it."""
        if self.parents is None:
            return None
        device = self.learner.device
        parent = load_run(str(self.config.init_from), device.type).model
        before = evaluate(parent, self.parents, device).loss
        with self.learner.exported():
            after = evaluate(self.learner.model, self.parents, device).loss
        found = Forgotten(before=before, after=after)
        if self.is_main:
            self.reporter.say(self.step, found.sentence, FORGOTTEN)
        return found

    def _save(self) -> None:
        if self.step == self.saved_step:
            return
        self.saved_step = self.step
        groups = self.learner.groups(is_kept=self.is_main)
        if not self.is_main:
            return
        state = {
            "reporter": self.reporter.state,
            "micro_batch_tokens": self.learner.loader.shape.num_tokens,
        }
        keep = self.config.checkpoint.keep
        save_state(
            self.output, self.step, groups, state, keep=keep, config=self.config,
            origin=self.record.origin,
        )  # fmt: skip
        if self.send is not None:
            self.send()

    def _leave(self) -> None:
        self._save()
        raise Interrupted(
            f"stopped after step {self.step} of {self.record.num_steps}; everything is saved in "
            f"{self.output}: go on with --resume"
        )

    def _note(self, message: str, notice: str) -> None:
        """Say something once, and in metrics.jsonl what it is about."""
        if message not in self.notes:
            self.notes.append(message)
            self.reporter.say(self.step, message, notice)

    def _note_trained(self) -> None:
        trained = self.learner.trained
        self.notes.append(trained.sentence)
        self.reporter.say(self.step, trained.sentence, TRAINED_PART, trained=trained)

    def _note_smaller(self) -> None:
        self._note(
            f"out of memory: micro-batches are now {self.learner.loader.shape.num_tokens} tokens; "
            "without dropout the result stays the same",
            OUT_OF_MEMORY,
        )

    def _note_skipped(self, result: StepResult, num_skipped: int) -> int:
        """Return how many steps in a row were skipped.

        Raises:
            DivergedError: too many
        """
        if result.skipped is None:
            return 0
        self._note(f"step {self.step + 1} is left out: {result.skipped}", SKIPPED_STEP)
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
