"""A corpus becomes a token store: in parallel, in bounded memory, resumable after any death.

Workers turn units of the corpus into part files under `OUTPUT/.build`; this process assembles
them in order into shards while the rest goes on. A receipt beside each part and each shard says
what is done, so that the same command typed again goes on from there. The manifest comes last.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lmdata import __version__
from lmdata.building.assembly import Assembly
from lmdata.building.ledger import (
    combine_receipts,
    describe_encoding,
    describe_nothing,
    describe_sources,
)
from lmdata.building.output import PLAN_NAME, OutputFolder
from lmdata.building.plan import (
    DEFAULT_UNIT_BYTES,
    TokenizeConfig,
    Unit,
    check_same_plan,
    describe_plan,
    make_units,
)
from lmdata.building.shards import check_shard
from lmdata.building.units import UnitReceipt, UnitSetup, read_receipt
from lmdata.building.workers import (
    Died,
    Failed,
    Finished,
    Message,
    Reported,
    WorkerPool,
    start_tokenizing,
)
from lmdata.config import config_to_dict
from lmdata.corpus import Source
from lmdata.errors import ConfigError, CorpusError, IntegrityError, LmdataError, TokenizerError
from lmdata.schema import (
    FORMAT_VERSION,
    Manifest,
    ShardRecord,
    TokenizerIdentity,
    parse_json_object,
)
from lmdata.sentences import SPLITTER_VERSION
from lmdata.tokenizer import TOKENIZER_FOLDER, Tokenizer, save_tokenizer
from lmdata.writer import AtomicFile, output_errors, write_atomically

OnProgress = Callable[[int, int, int], None]

DEFAULT_MEMORY_BYTES = 1 << 30
_OWN_BYTES = 200 << 20  # this process and the nursery: interpreters, one batch being assembled
_WORKER_BASE_BYTES = 100 << 20  # a worker before its first document: tables, word cache
_BATCH_SHARE = 12  # a worker's documents take about this many times the bytes of a batch
_MIN_BATCH_BYTES, _MAX_BATCH_BYTES = 1 << 20, 8 << 20
_POLL_S = 0.25


def tokenize_corpus(
    sources: Sequence[Source], config: TokenizeConfig, tokenizer: Tokenizer, output: Path, *,
    num_workers: int = 2, memory_bytes: int = DEFAULT_MEMORY_BYTES, overwrite: bool = False,
    progress: OnProgress | None = None, unit_bytes: int = DEFAULT_UNIT_BYTES,
    workers: WorkerPool | None = None,
) -> Manifest:  # fmt: skip
    """Write the token store of a corpus and return its manifest.

    The bytes written depend on sources, configuration and tokenizer alone. An unfinished build of
    the same plan in `output` is continued.

    Args:
        sources: from `find_sources`
        config: everything that changes the result
        tokenizer: makes the ids; a copy is kept in the store
        output: folder to write
        num_workers: worker processes, at least 1
        memory_bytes: budget of all processes together
        overwrite: replace what is in `output`
        progress: called with (bytes done, bytes in all, documents done), about 4 times a second
        unit_bytes: text that a worker takes at a time, and that a killed worker has to do again
        workers: from `start_tokenizing`, when started early; ended here, sets `num_workers`

    Raises:
        ConfigError: the memory budget is too small for so many workers
        CorpusError: a source is missing or broken; nothing is left unless a shard was finished
        TokenizerError: a document, encoded again by `tokenizers`, came out differently
        MismatchError: `output` holds an unfinished build of another plan
        OutputError: `output` exists, can't be written or its disk is full
        LmdataError: a worker was killed
        KeyboardInterrupt: with a text that says what is kept
    """
    with workers or start_tokenizing(num_workers) as pool:
        budget = divide_memory(memory_bytes, pool.num_workers)
        with OutputFolder(output, overwrite=overwrite) as folder:
            build = _Build(list(sources), config, tokenizer, folder, unit_bytes)
            try:
                build.begin()
                build.start_workers(pool, *budget)
                build.run(pool, progress)
                return build.finish()
            except (CorpusError, TokenizerError):
                pool.close()
                build.discard_if_worthless()
                raise
            except KeyboardInterrupt:
                raise KeyboardInterrupt(build.describe_state()) from None
            finally:
                build.close()
                pool.close()
                folder.remove_temporary_files()  # what workers were in the middle of


def divide_memory(memory_bytes: int, num_workers: int) -> tuple[int, int]:
    """Return the bytes of a batch of text, and the memory that a worker has for documents.

    Raises:
        ConfigError: the budget is too small

    Example:
        >>> divide_memory(1 << 30, 2)
        (8388608, 327155712)
    """
    worker_bytes = (memory_bytes - _OWN_BYTES) // num_workers - _WORKER_BASE_BYTES
    batch_bytes = min(worker_bytes // _BATCH_SHARE, _MAX_BATCH_BYTES)
    if batch_bytes < _MIN_BATCH_BYTES:
        needed = _OWN_BYTES + num_workers * (_WORKER_BASE_BYTES + _BATCH_SHARE * _MIN_BATCH_BYTES)
        raise ConfigError(
            f"{memory_bytes >> 20} MiB of memory is too little for {num_workers} workers: give "
            f"--memory at least {-(-needed >> 20)}MiB, or lower --num-workers"
        )
    return batch_bytes, worker_bytes


class _Build:
    """The state of one run of `tokenize_corpus`."""

    def __init__(
        self, sources: list[Source], config: TokenizeConfig, tokenizer: Tokenizer,
        folder: OutputFolder, unit_bytes: int,
    ) -> None:  # fmt: skip
        self._config, self._tokenizer, self._folder = config, tokenizer, folder
        self._unit_bytes = unit_bytes
        self._sources = sources
        self._units: list[Unit] = []
        self._receipts: dict[int, UnitReceipt] = {}
        self._to_do: deque[Unit] = deque()
        self._doing: dict[int, Unit] = {}  # worker -> unit
        self._assembly: Assembly | None = None
        self._assembler = ThreadPoolExecutor(1, "assembly")
        self._added: list[Future[None]] = []
        self._unchecked = 0  # the first of `_added` whose result has not been looked at
        self._done_bytes: dict[int, int] = {}  # unit -> bytes of its sources read so far
        self._num_documents = 0

    def begin(self) -> None:
        """Plan, and find what an earlier run has done."""
        self._folder.remove_temporary_files()
        self._sources = [self._on_disk(source) for source in self._sources]
        self._agree_on_plan()
        with output_errors(self._folder.path / TOKENIZER_FOLDER):
            save_tokenizer(self._tokenizer, self._folder.path / TOKENIZER_FOLDER)
        self._units = make_units(self._sources, self._config.corpus, self._unit_bytes)
        self._assembly = Assembly(
            self._folder.path, self._folder.build, self._sources, self._config,
            np.dtype(self._tokenizer.id_dtype),
        )  # fmt: skip
        self._find_done()

    def _on_disk(self, source: Source) -> Source:
        """Return the source itself, or a copy of standard input, which can be read only once."""
        if source.path is not None:
            return source
        path = self._folder.build / "stdin"
        with output_errors(path), AtomicFile(path, is_durable=False) as file:
            while chunk := sys.stdin.buffer.read(1 << 20):
                file.write(chunk)
        return dataclasses.replace(source, path=path, size_bytes=file.size_bytes)

    def _agree_on_plan(self) -> None:
        """Write the plan, or make sure that the build that is there has the same."""
        path = self._folder.build / PLAN_NAME
        plan = describe_plan(self._sources, self._config, self._tokenizer.hash, self._unit_bytes)
        try:
            begun = parse_json_object(path.read_text(encoding="utf-8"), path)
        except FileNotFoundError:
            write_atomically(path, json.dumps(plan, indent=1).encode())
        else:
            check_same_plan(begun, plan, self._folder.path)

    def _find_done(self) -> None:
        """Read the receipts of an earlier run; a unit is done if its rows are still there."""
        assert self._assembly is not None
        for unit in self._units:
            receipt = read_receipt(self._folder.build, unit.number)
            if receipt is not None and self._are_whole(self._assembly.needs(receipt)):
                self._receipts[unit.number] = receipt
                self._note_progress(unit, self._weigh(unit), receipt.num_documents_read)
            else:
                self._assembly.forget()
                self._to_do.append(unit)

    def _are_whole(self, parts: list[ShardRecord]) -> bool:
        try:
            for part in parts:
                check_shard(self._folder.build, part)
        except IntegrityError:
            return False  # killed before, or damaged after: the unit is done again
        return True

    def start_workers(self, pool: WorkerPool, batch_bytes: int, worker_bytes: int) -> None:
        """Tell the workers what they need and give each a unit."""
        setup = UnitSetup(
            sources=self._sources, config=self._config, batch_bytes=batch_bytes,
            tokenizer_folder=self._folder.path / TOKENIZER_FOLDER,
            build_folder=self._folder.build, worker_bytes=worker_bytes,
        )  # fmt: skip
        pool.prepare(setup, self._folder.lock)
        for worker in range(pool.num_workers):
            self._hand_out(pool, worker)

    def run(self, pool: WorkerPool, progress: OnProgress | None) -> None:
        """Go on until every unit is done and its rows are on their way into shards."""
        self._assemble()
        while self._doing:
            for message in pool.receive(_POLL_S):
                self._handle(pool, message)
            self._assemble()
            if progress is not None:
                progress(*self._state())

    def _handle(self, pool: WorkerPool, message: Message) -> None:
        match message:
            case Reported(worker, value):
                self._note_progress(self._doing[worker], value.source_bytes, value.documents)
            case Finished(worker, receipt):
                unit = self._doing.pop(worker)
                self._receipts[unit.number] = receipt
                self._done_bytes[unit.number] = self._weigh(unit)
                self._hand_out(pool, worker)
            case Failed(_, error):
                raise error
            case Died(worker, reason):
                raise LmdataError(self._describe_death(worker, reason))

    def _hand_out(self, pool: WorkerPool, worker: int) -> None:
        if self._to_do:
            self._doing[worker] = self._to_do.popleft()
            pool.submit(worker, self._doing[worker])

    def _assemble(self) -> None:
        """Pass on the units that are next in order; raise what went wrong with earlier ones."""
        assert self._assembly is not None
        while (receipt := self._receipts.get(len(self._added))) is not None:
            self._added.append(self._assembler.submit(self._assembly.add, receipt))
        while self._unchecked < len(self._added) and self._added[self._unchecked].done():
            self._added[self._unchecked].result()
            self._unchecked += 1

    def finish(self) -> Manifest:
        """Finish the shards, balance the ledger, write the manifest.

        Raises:
            CorpusError: there was no text at all
        """
        assert self._assembly is not None
        for future in self._added[self._unchecked :]:
            future.result()
        shards = self._assembly.finish()
        receipts = [self._receipts[unit.number] for unit in self._units]
        if not any(shards.values()):
            raise CorpusError(describe_nothing(receipts))
        definition = self._tokenizer.definition
        manifest = Manifest(
            kind="tokens",
            format_version=FORMAT_VERSION,
            created_with=f"lmdata {__version__}",
            configuration={
                **config_to_dict(self._config), "sentence_splitter": SPLITTER_VERSION,
            },
            tokenizer=TokenizerIdentity(
                hash=self._tokenizer.hash, vocab_size=self._tokenizer.vocab_size,
                kind=definition["model"]["type"],
            ),
            sources=describe_sources(self._sources, receipts),
            splits=shards,
            ledger=combine_receipts(receipts, shards),
            notes=describe_encoding(receipts),
        )  # fmt: skip
        self._folder.finish(manifest)
        return manifest

    def discard_if_worthless(self) -> None:
        """Remove everything, unless a shard is already finished: bad input leaves no trace."""
        self._stop_assembling()
        if self._assembly is None or not self._assembly.has_shards:
            self._folder.discard()

    def describe_state(self) -> str:
        """Say what an interrupted build keeps."""
        kept = f"{len(self._receipts)} of {len(self._units)} units are kept"
        if not self._units:
            kept = "What was finished is kept"
        return f"{kept} in {self._folder.path}; type the same command again to go on."

    def close(self) -> None:
        """Wait for the assembling thread and remove open shards."""
        self._stop_assembling()

    def _stop_assembling(self) -> None:
        self._assembler.shutdown(wait=True, cancel_futures=True)
        if self._assembly is not None:
            self._assembly.close()

    def _describe_death(self, worker: int | None, reason: str) -> str:
        unit = self._doing.get(worker) if worker is not None else None
        names = [str(self._sources[index]) for index in unit.sources] if unit else []
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        place = f" while it read {', '.join(names[:3])}{more}" if names else " while it started"
        return (
            f"a worker {reason}{place}. If memory ran out, lower --num-workers or --memory. "
            f"{self.describe_state()}"
        )

    def _weigh(self, unit: Unit) -> int:
        """Return the bytes of sources that a unit reads."""
        return sum(
            (self._sources[piece.source].size_bytes if piece.stop is None else piece.stop)
            - piece.start
            for piece in unit.pieces
        )

    def _note_progress(self, unit: Unit, source_bytes: int, num_documents: int) -> None:
        done = self._done_bytes.get(unit.number, 0) + source_bytes
        self._done_bytes[unit.number] = min(done, self._weigh(unit))
        self._num_documents += num_documents

    def _state(self) -> tuple[int, int, int]:
        total = sum(source.size_bytes for source in self._sources)
        return sum(self._done_bytes.values()), total, self._num_documents
