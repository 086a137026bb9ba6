"""One resumable build: a plan that is kept, units done in any order, their results taken in order.

What is built is a `Job`. Its units depend on nothing but themselves, so that any number of workers
of any engine gives the same bytes; what an earlier run has finished is told by receipts. The
manifest comes last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lmdata import __version__
from lmdata.building.output import PLAN_NAME, HasLedger, OutputFolder, claim_folder
from lmdata.building.workers import Died, Failed, Finished, Reported, Workers
from lmdata.config import Change, build_config, changes
from lmdata.errors import ConfigError, IntegrityError, LmdataError, MismatchError
from lmdata.files import write_atomically
from lmdata.schema import ShardRecord, parse_json_object, to_json
from lmdata.shards import check_shard
from lmdata.tokenizer import Tokenizer
from lmdata.writer import ShardWriter, shard_name

U = TypeVar("U")
R = TypeVar("R")
M = TypeVar("M", bound=HasLedger, covariant=True)
_POLL_S = 0.25


class Job(Protocol[U, R, M]):
    """What a build makes, and what its workers are told."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Kept beside the shards, where there is one."""

    @property
    def num_ahead(self) -> int | None:
        """How many results may wait for their turn; None: any number, they are small."""

    @property
    def bad_input(self) -> tuple[type[LmdataError], ...]:
        """Errors that leave nothing behind, if no shard is finished."""

    def open(self) -> None:
        """Take in what can be read only once, before anything is compared or written."""

    def plan(self) -> dict[str, Any]:
        """Return what the bytes depend on, as JSON values."""

    def obstacles(self, changed: list[Change]) -> list[str]:
        """Return in words which changes of the plan keep a build from going on."""

    def prepare(self) -> tuple[Any, Sequence[U], dict[int, R]]:
        """Return the workers' setup, all units, and by their places the results that are there."""

    def reads(self, unit: U) -> str:
        """Return what a unit reads, for messages."""

    def note(self, unit: U, value: Any) -> None:
        """Take note of what a worker reports of a unit."""

    def end(self, unit: U) -> None:
        """Take note of a unit that a worker has done."""

    def add(self, unit: U, result: R) -> None:
        """Take the next result in order."""

    def tell(self) -> None:
        """Tell the caller how far it is; called some times a second."""

    def finish(self) -> M:
        """Finish the shards, balance the ledger and return the manifest."""

    @property
    def has_shards(self) -> bool:
        """Whether any shard is finished."""

    def state(self) -> str:
        """Say what an interrupted build keeps."""

    def close(self) -> None:
        """Remove open shards; may be called again."""


def run_build(
    make: Callable[[OutputFolder], Job[U, R, M]], workers: Workers, output: Path, *, overwrite: bool
) -> M:
    """Build a dataset, or go on with one that was begun under the same plan, and end the workers.

    Args:
        make: returns the job, given the folder that it alone may write
        workers: of any engine
        output: folder to write
        overwrite: replace what is in it

    Raises:
        MismatchError: `output` holds an unfinished build of another plan
        OutputError: `output` exists, can't be written or its disk is full
        LmdataError: what the job's units raise, or a worker died
        KeyboardInterrupt: with a text that says what is kept
    """
    with closing(workers), claim_folder(output, overwrite=overwrite) as folder:
        folder.remove_partial_files()
        job = make(folder)
        try:
            job.open()
            _agree_on_plan(job, folder)
            return _go_on(job, workers, folder)
        except KeyboardInterrupt:
            state = f"{job.state()} in {output}; type the same command again to go on."
            raise KeyboardInterrupt(state) from None
        finally:
            job.close()
            workers.close()
            folder.remove_partial_files()  # what workers were in the middle of


def _agree_on_plan(job: Job[U, R, M], folder: OutputFolder) -> None:
    """Write the plan, or make sure that the build that is there has the same."""
    path = folder.build / PLAN_NAME
    plan = {**job.plan(), "created_with": f"lmdata {__version__}"}
    try:
        begun = parse_json_object(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        write_atomically(path, json.dumps(plan, indent=1))
        return
    if obstacles := job.obstacles(list(changes(begun, plan))):
        more = f" (and {len(obstacles) - 1} more)" if len(obstacles) > 1 else ""
        raise MismatchError(
            f"{folder.path} holds an unfinished build of another plan: {obstacles[0]}{more}; put "
            "it back to continue, or add --overwrite to start afresh"
        )


def _go_on(job: Job[U, R, M], workers: Workers, folder: OutputFolder) -> M:
    try:
        if job.tokenizer is not None:
            folder.save_tokenizer(job.tokenizer)
        setup, units, done = job.prepare()
        workers.prepare(setup, folder.lock)
        for unit, result in zip(units, in_order(job, workers, units, done), strict=True):
            job.add(unit, result)
        manifest = job.finish()
    except job.bad_input:
        workers.close()
        job.close()
        if not job.has_shards:
            folder.discard()
        raise
    folder.finish(manifest)
    return manifest


def in_order(
    job: Job[U, R, M], workers: Workers, units: Sequence[U], done: dict[int, R]
) -> Iterator[R]:
    """Yield the result of every unit, in order, whichever worker is done first.

    Args:
        job: is told of reports, and some times a second to tell of them
        workers: prepared
        units: in order
        done: results that are there already, by place

    Raises:
        LmdataError: what a unit raised, or a worker died
    """
    to_do = [place for place in range(len(units)) if place not in done][::-1]
    idle = list(range(workers.num_workers))[::-1]
    doing: dict[int, int] = {}  # worker -> place
    for place in range(len(units)):
        last = len(units) if job.num_ahead is None else place + job.num_ahead
        while place not in done or (idle and to_do and to_do[-1] <= last):
            while idle and to_do and to_do[-1] <= last:
                doing[idle[-1]] = to_do[-1]
                workers.submit(idle.pop(), units[to_do.pop()])
            if place in done:
                break
            for message in workers.receive(_POLL_S):
                match message:
                    case Reported(worker, value):
                        job.note(units[doing[worker]], value)
                    case Finished(worker, result):
                        done[doing[worker]] = result
                        job.end(units[doing.pop(worker)])
                        idle.append(worker)
                    case Failed(_, error):
                        raise error
                    case Died(worker, reason):
                        unit = None if worker is None else units[doing[worker]]
                        raise LmdataError(_describe_death(job, unit, reason))
            job.tell()
        yield done.pop(place)
    job.tell()


def _describe_death(job: Job[U, R, M], unit: U | None, reason: str) -> str:
    place = f"while it read {job.reads(unit)}" if unit is not None else "while it started"
    return (
        f"a worker {reason} {place}. If memory ran out, lower --num-workers or --memory. "
        f"{job.state()}; type the same command again to go on."
    )


class SplitShards:
    """The shards of one split: those that an earlier run finished, and those written now.

    A receipt beside each finished shard tells the next run of it.
    """

    def __init__(self, folder: OutputFolder, split: str, schema: Any, shard_bytes: int) -> None:
        self._folder, self._split = folder, split
        self.shards = list(self._read_receipts())
        self.num_rows = sum(shard.rows for shard in self.shards)  # in finished shards
        self._writer = ShardWriter(
            folder.path, split, schema, shard_bytes=shard_bytes, first_shard=len(self.shards)
        )

    def write(self, batch: Any) -> None:
        """Append rows.

        Raises:
            OutputError: the disk is full or the folder can't be written; the open shard is removed
        """
        self._writer.write(batch)
        self._keep_receipts()

    def end_shard(self) -> None:
        """Finish the open shard, if there is one; the next row begins another."""
        self._writer.end_shard()
        self._keep_receipts()

    def close(self) -> None:
        """Remove the open shard, if there is one."""
        self._writer.close()

    def _keep_receipts(self) -> None:
        for shard in self._writer.finished:
            path = self._receipt_path(len(self.shards))
            write_atomically(path, to_json(shard))
            self.shards.append(shard)
            self.num_rows += shard.rows
        self._writer.finished.clear()

    def _receipt_path(self, number: int) -> Path:
        return self._folder.build / f"{shard_name(self._split, number)}.json"

    def _read_receipts(self) -> Iterator[ShardRecord]:
        """Yield the shards that are there in full, up to the first gap; others are made again."""
        number = 0
        while (shard := read_receipt(self._receipt_path(number), ShardRecord)) is not None:
            try:
                check_shard(self._folder.path, shard)
            except IntegrityError:
                break
            yield shard
            number += 1
        while (path := self._receipt_path(number)).exists():
            path.unlink()
            number += 1


def read_receipt(path: Path, kind: type[R]) -> R | None:
    """Return what a receipt holds; None where there is none, or none that was written out."""
    try:
        return build_config(kind, parse_json_object(path.read_text(encoding="utf-8"), path))
    except (FileNotFoundError, UnicodeDecodeError, IntegrityError, ConfigError):
        return None  # a power cut can leave a receipt that was never written out
