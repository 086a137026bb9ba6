"""batch(step): which examples a step trains on, cut into packed micro-batches.

There is no state: a step's batches follow from (data, recipe, seed, step), so resuming at step n is
asking for step n. One background thread works ahead; how far, and whether at all, changes nothing.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lmdata.batch import ExampleBatch, concatenate
from lmdata.order import batch_rows
from lmmodel.batch import Batch, pad_batch, spare_sequences
from lmmodel.data import Rows
from lmmodel.layers.buckets import round_up
from lmmodel.objectives import Objective
from lmmodel.packing import (
    LEAST_TOKENS,
    cut_rows,
    deal_rows,
    labels_of,
    num_pairs,
    pack_examples,
    stream_tokens,
    tokens_of,
)

Pack = Callable[[ExampleBatch, int | None], Batch]
"""Labelled examples, and the longest sequence there may be, to a batch."""


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes: a batch and the objective's part it belongs to."""

    batch: Batch
    part: int


@dataclass(frozen=True)
class StepBatch:
    """All that one process does in one step."""

    step: int
    micro_batches: tuple[MicroBatch, ...]
    num_labels: np.ndarray  # int64 (K,) labels of each term of the objective, in this process
    num_tokens: int  # in this process
    num_pairs: int  # tokens that attend to each other, see `packing.num_pairs`
    rows: tuple[tuple[int, np.ndarray], ...]  # (epoch, int64 row numbers) it consists of
    documents: np.ndarray  # uint64 (B,) store rows of the first segments, for messages


@dataclass(frozen=True)
class Stage:
    """Steps from a share of the run on take `batch_size` rows each from these rows."""

    start: float  # share of the run's steps before it, in [0, 1)
    rows: Rows
    batch_size: int  # over all processes, a multiple of their number
    first_epoch: int = 0


@dataclass(frozen=True)
class Shape:
    """What a micro-batch holds at most; with `is_static` exactly, filled up with padding."""

    num_tokens: int
    num_sequences: int = 2**31
    stream_tokens: Mapping[str, int] | None = None
    """Of each stream where there are several and shapes are static; they sum to `num_tokens`."""
    num_labels: int = 2**31
    max_seqlen: int | None = None
    is_static: bool = False
    is_rounded: bool = False
    """Tokens and labels are filled up to five binary digits, so that bf16 products on a CPU meet
    the same few shapes: each new one costs oneDNN about a millisecond."""
    num_dealt: int | None = None
    """Examples of all lengths are dealt out to at least so many micro-batches, where each gets
    `LEAST_TOKENS`; None: micro-batches are filled one after the other, shortest first."""


@dataclass(frozen=True, kw_only=True)
class Loader:
    """batch(step) for one process of a run."""

    stages: tuple[Stage, ...]
    objective: Objective
    seed: int
    num_steps: int  # of the whole run
    shape: Shape
    rank: int = 0
    num_processes: int = 1
    pin_memory: bool = False

    @property
    def first_steps(self) -> tuple[int, ...]:
        """The first step of each stage."""
        return tuple(round(stage.start * self.num_steps) for stage in self.stages)

    def lasting(self, num_steps: int) -> Loader:
        """Return the loader of a run of so many steps on the same rows, which stay open."""
        return dataclasses.replace(self, num_steps=num_steps)

    def batch(self, step: int) -> StepBatch:
        """Return what this process does in a step; the same whenever and wherever it is asked."""
        starts = [first_step for first_step in self.first_steps if first_step <= step]
        stage = self.stages[len(starts) - 1]
        epochs, rows = batch_rows(
            step - starts[-1],
            stage.batch_size // self.num_processes,
            stage.rows.num_rows,
            rank=self.rank,
            num_ranks=self.num_processes,
        )
        addresses = tuple(
            (stage.first_epoch + int(epoch), rows[epochs == epoch]) for epoch in np.unique(epochs)
        )
        progress = min(step / self.num_steps, 1.0)
        examples = concatenate(
            [stage.rows.take(epoch, rows, progress) for epoch, rows in addresses]
        )
        parts = self.objective.split(examples, addresses, self.seed)
        labels = [
            count
            for part, own in zip(self.objective.parts, parts, strict=True)
            for count in part.count(own)
        ]
        return StepBatch(
            step=step,
            micro_batches=tuple(self._micro_batches(parts)),
            num_labels=np.array(labels, np.int64),
            num_tokens=int(tokens_of(examples).sum()),
            num_pairs=num_pairs(examples),
            rows=addresses,
            documents=examples.document_a,
        )

    def with_tokens(self, num_tokens: int) -> Loader:
        """Return the loader of the same steps, cut into micro-batches of so many tokens."""
        return dataclasses.replace(
            self, shape=dataclasses.replace(self.shape, num_tokens=num_tokens)
        )

    def _micro_batches(self, parts: list[ExampleBatch]) -> Iterator[MicroBatch]:
        for index, (part, examples) in enumerate(zip(self.objective.parts, parts, strict=True)):
            for batch in split_micro_batches(examples, self.shape, part.pack):
                yield MicroBatch(batch.pin_memory() if self.pin_memory else batch, index)


def split_micro_batches(
    examples: ExampleBatch, shape: Shape, pack: Pack = pack_examples
) -> list[Batch]:
    """Return the examples as packed micro-batches no larger than `shape`, shortest first in each.

    An example larger than that is a micro-batch of its own. Equal lengths become neighbours, which
    is what attention on a CPU wants. `pack` is that of the examples' part.
    """
    if len(examples.offsets) == 1:  # a part of the objective that this step has no rows for
        return []
    if shape.num_dealt is not None:
        lengths = tokens_of(examples)
        num = min(shape.num_dealt, int(lengths.sum()) // LEAST_TOKENS)
        groups = deal_rows(lengths, shape.num_tokens, num)
        return [to_batch(examples.take(group), shape, pack) for group in groups]
    order = np.argsort(tokens_of(examples), kind="stable")
    ordered = examples.take(order)
    spare = spare_sequences(shape.num_tokens, shape.max_seqlen or 1) if shape.is_static else 0
    ends = cut_rows(
        [
            (tokens_of(ordered), shape.num_tokens),
            *_stream_limits(ordered, shape),
            (np.diff(ordered.segment_offsets), shape.num_sequences - spare),
            (labels_of(ordered), shape.num_labels),
        ]
    )
    starts = [0, *ends[:-1]]
    return [to_batch(ordered.slice(*pair), shape, pack) for pair in zip(starts, ends, strict=True)]


def _stream_limits(examples: ExampleBatch, shape: Shape) -> list[tuple[np.ndarray, int]]:
    """Return the tokens of each example in each stream that has a limit, and the limit."""
    streams = stream_tokens(examples)
    return [(streams[name], most) for name, most in (shape.stream_tokens or {}).items()]


def to_batch(examples: ExampleBatch, shape: Shape, pack: Pack = pack_examples) -> Batch:
    """Return examples as one packed batch of torch tensors, padded if the shape is static."""
    batch = pack(examples, shape.max_seqlen)
    if shape.is_rounded:
        return round_batch(batch)
    if not shape.is_static:
        return batch
    return pad_batch(
        batch,
        num_tokens=shape.stream_tokens or shape.num_tokens,
        num_sequences=shape.num_sequences,
        num_masked=shape.num_labels,
    )


def round_batch(batch: Batch) -> Batch:
    """Return the batch with its tokens and labels filled up to one of 16 numbers an octave."""
    num_tokens = {
        name: round_up(stream.num_tokens, num_digits=5) for name, stream in batch.streams.items()
    }
    spare = max(
        spare_sequences(num_tokens[name] - stream.num_tokens, stream.max_seqlen)
        for name, stream in batch.streams.items()
    )
    return pad_batch(
        batch,
        num_tokens=num_tokens,
        num_sequences=batch.num_sequences + spare,
        num_masked=round_up(batch.num_labels, num_digits=5),
    )


class Prefetcher:
    """The batches of steps `start`, `start` + 1, ..., made ahead by one background thread."""

    def __init__(self, loader: Loader, start: int, depth: int = 2) -> None:
        self._loader = loader
        self._depth = depth
        self._next = start
        self._queue: queue.Queue[StepBatch | BaseException] = queue.Queue(max(depth, 1))
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(start,), daemon=True)
        if depth:
            self._thread.start()

    def __iter__(self) -> Iterator[StepBatch]:
        return self

    def __next__(self) -> StepBatch:
        if not self._depth:
            self._next += 1
            return self._loader.batch(self._next - 1)
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._is_closed.set()
        if self._depth:
            self._thread.join()

    def _work(self, step: int) -> None:
        while not self._is_closed.is_set():
            item: StepBatch | BaseException
            try:
                item = self._loader.batch(step)
            except BaseException as error:  # handed to the loop, which raises it
                item = error
            self._put(item)
            if isinstance(item, BaseException):
                return
            step += 1

    def _put(self, item: StepBatch | BaseException) -> None:
        while not self._is_closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
