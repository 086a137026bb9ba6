"""One resumable build: a plan that is kept, units done in any order, their results taken in order.

What is built is a `Job`. Its units depend on nothing but themselves, so that any number of workers
of any engine gives the same bytes; what an earlier run has finished is told by receipts. The
manifest comes last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lmdata import __version__
from lmdata.building.output import PLAN_NAME, AnyFolder, HasLedger, claim_folder, place_of
from lmdata.building.receipts import in_build, read_receipt
from lmdata.building.workers import Died, Failed, Finished, Reported, Workers
from lmdata.config import Change, changes
from lmdata.errors import IntegrityError, LmdataError, MismatchError
from lmdata.places import Place
from lmdata.schema import ShardRecord, parse_json_object
from lmdata.tokenizer import Tokenizer
from lmdata.writer import ShardWriter, shard_name

U = TypeVar("U")
R = TypeVar("R")
M = TypeVar("M", bound=HasLedger, covariant=True)
_POLL_S = 0.25
FACTS = "facts"  # key of a plan, for what is no part of it


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

    def facts(self) -> dict[str, Any]:
        """Return what the build is ended with where its sources are not at hand; JSON values."""

    def obstacles(self, changed: list[Change]) -> list[str]:
        """Return in words which changes of the plan keep a build from going on."""

    def prepare(self) -> tuple[Any, Sequence[U], MutableMapping[int, R]]:
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
    make: Callable[[AnyFolder], Job[U, R, M]],
    workers: Workers,
    output: Path | str,
    *,
    overwrite: bool,
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
    claimed = _claim_job(make, output, overwrite=overwrite)
    with closing(workers), claimed as (job, folder), closing(workers):
        job.open()
        _agree_on_plan(job, folder)
        return _go_on(job, workers, folder)


@contextmanager
def _claim_job(
    make: Callable[[AnyFolder], Job[U, R, M]], output: Path | str, *, overwrite: bool = False,
    is_shared: bool = False,
) -> Iterator[tuple[Job[U, R, M], AnyFolder]]:  # fmt: skip
    """Yield a job and the folder it writes, in which nothing half written is left afterwards.

    Workers are to be closed within the block: what they were in the middle of is removed.
    """
    with claim_folder(output, overwrite=overwrite, is_shared=is_shared) as folder:
        if not is_shared:
            folder.remove_partial_files()
        job = make(folder)
        try:
            yield job, folder
        except KeyboardInterrupt:
            state = f"{job.state()} in {output}; type the same command again to go on."
            raise KeyboardInterrupt(state) from None
        finally:
            job.close()
            if not is_shared:  # others are in the middle of theirs
                folder.remove_partial_files()


@dataclass(frozen=True)
class Part:
    """One of several commands that do a build together: every `count`-th unit, from `number`."""

    number: int  # from 1
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"part must be in 1/{self.count} .. {self.count}/{self.count}")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class PartDone:
    """What one command has added to a build that others do with it."""

    part: Part
    num_units: int  # of the part
    num_before: int  # of these, that were there already
    num_units_in_all: int


def run_part(
    make: Callable[[AnyFolder], Job[U, R, M]], workers: Workers, output: Path | str, part: Part
) -> PartDone:
    """Do one part of the units of a build; `finish_build` puts them together when all are done.

    Raises: as `run_build`
    """
    claimed = _claim_job(make, output, is_shared=True)
    with closing(workers), claimed as (job, folder), closing(workers):
        job.open()
        _agree_on_plan(job, folder)
        return _do_part(job, workers, folder, part)


def _do_part(job: Job[U, R, M], workers: Workers, folder: AnyFolder, part: Part) -> PartDone:
    if job.tokenizer is not None:
        folder.save_tokenizer(job.tokenizer)
    setup, units, done = job.prepare()
    places = range(part.number - 1, len(units), part.count)
    left = [units[place] for place in places if place not in done]
    workers.prepare(setup, folder.lock)
    for _ in in_order(job, workers, left, {}):
        pass
    return PartDone(part, len(places), len(places) - len(left), len(units))


def finish_build(
    make: Callable[[AnyFolder, dict[str, Any]], Job[U, R, M]], output: Path | str
) -> M:
    """Put the units of a build together that several commands have done, and write its manifest.

    Args:
        make: returns the job, given the folder and the plan that lies there
        output: folder in which the build was begun

    Raises:
        IntegrityError: units are missing; none was begun there
        OutputError: a part is being done still, or the disk is full
    """
    plan = read_plan(place_of(output))
    with _claim_job(lambda folder: make(folder, plan), output) as (job, folder):
        _, units, done = job.prepare()
        _refuse_missing(output, len(units), done)
        return _assemble(job, folder, (done.pop(place) for place in range(len(units))), units)


def _refuse_missing(output: Path | str, num_units: int, done: MutableMapping[int, Any]) -> None:
    if missing := [place for place in range(num_units) if place not in done]:
        some = ", ".join(str(place + 1) for place in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise IntegrityError(
            f"{len(missing)} of {num_units} units of {output} are not done yet ({some}{more}): "
            "type the commands of the parts that did not end, then this one again"
        )


def read_plan(place: Place) -> dict[str, Any]:
    """Return the plan of an unfinished build.

    Raises:
        IntegrityError: there is none, or it is damaged
    """
    data = place.read(in_build(PLAN_NAME))
    if data is None:
        raise IntegrityError(
            f"{place} holds no unfinished build: `lmdata tokenize CORPUS --part 1/4 --output "
            f"{place}` begins one"
        )
    return parse_json_object(data.decode("utf-8", "replace"), f"{place}/{in_build(PLAN_NAME)}")


def _agree_on_plan(job: Job[U, R, M], folder: AnyFolder) -> None:
    """Write the plan, unless there is one, and make sure that the one that counts is the same."""
    plan = {**job.plan(), "created_with": f"lmdata {__version__}"}
    written = {**plan, **({FACTS: facts} if (facts := job.facts()) else {})}
    if folder.place.create(in_build(PLAN_NAME), json.dumps(written, indent=1).encode()):
        return
    begun = read_plan(folder.place)
    begun.pop(FACTS, None)
    if obstacles := job.obstacles(list(changes(begun, plan))):
        more = f" (and {len(obstacles) - 1} more)" if len(obstacles) > 1 else ""
        raise MismatchError(
            f"{folder.place} holds an unfinished build of another plan: {obstacles[0]}{more}; put "
            "it back to continue, or add --overwrite to start afresh"
        )


def _go_on(job: Job[U, R, M], workers: Workers, folder: AnyFolder) -> M:
    try:
        if job.tokenizer is not None:
            folder.save_tokenizer(job.tokenizer)
        setup, units, done = job.prepare()
        workers.prepare(setup, folder.lock)
        return _assemble(job, folder, in_order(job, workers, units, done), units)
    except job.bad_input:
        workers.close()
        job.close()
        if not job.has_shards:
            folder.discard()
        raise


def _assemble(job: Job[U, R, M], folder: AnyFolder, results: Iterator[R], units: Sequence[U]) -> M:
    for unit, result in zip(units, results, strict=True):
        job.add(unit, result)
    manifest = job.finish()
    folder.finish(manifest)
    return manifest


def in_order(
    job: Job[U, R, M], workers: Workers, units: Sequence[U], done: MutableMapping[int, R]
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

    def __init__(self, folder: AnyFolder, split: str, schema: Any, shard_bytes: int) -> None:
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
            name = self._receipt_name(len(self.shards))
            self._folder.keep_shard(shard, name)
            self.shards.append(shard)
            self.num_rows += shard.rows
        self._writer.finished.clear()

    def _receipt_name(self, number: int) -> str:
        return f"{shard_name(self._split, number)}.json"

    def _read_receipts(self) -> Iterator[ShardRecord]:
        """Yield the shards that are there in full, up to the first gap; others are made again."""
        number, place = 0, self._folder.place
        while (shard := read_receipt(place, self._receipt_name(number), ShardRecord)) is not None:
            if not place.holds(shard.file, shard.bytes, shard.xxh3):
                break
            yield shard
            number += 1
        while place.read(name := in_build(self._receipt_name(number))) is not None:
            place.remove(name)
            number += 1
