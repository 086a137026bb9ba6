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
from typing import Any

import numpy as np

from lmdata import __version__
from lmdata.building.assembly import (
    Assembly,
    Totals,
)
from lmdata.building.memory import MemoryBudget, give_back_memory
from lmdata.building.output import AnyFolder
from lmdata.building.plan import (
    DEFAULT_UNIT_BYTES,
    Choice,
    Unit,
    UnitProgress,
    UnitReceipt,
    UnitSetup,
    describe_plan,
    make_units,
    read_sources,
)
from lmdata.building.receipts import Packed, bring_tokenizer, find_receipts
from lmdata.building.resumable import FACTS, Part, PartDone, finish_build, run_build, run_part
from lmdata.building.workers import Workers, start_tokenizing
from lmdata.config import Change, build_config, config_to_dict
from lmdata.errors import ConfigError, CorpusError, TokenizerError
from lmdata.files import AtomicFile, output_errors
from lmdata.reading.rewrites import describe_rewrites
from lmdata.reading.sources import Source
from lmdata.reading.web import describe_web
from lmdata.schema import FORMAT_VERSION, Manifest, TokenizerIdentity, to_json
from lmdata.settings import TokenizeConfig
from lmdata.splitting import SPLITTER_VERSION
from lmdata.tokenizer import Tokenizer, load_tokenizer

OnProgress = Callable[[int, int, int], None]

DEFAULT_MEMORY_BYTES = 1 << 30
_MAX_WAITING = 4096  # receipts whose rows wait for the thread that writes shards

# Made stricter or laxer, these change nothing in a unit that went through with `errors=strict`.
_ERRORS = "configuration.corpus.errors"
_HARMLESS_AFTER_STRICT = (_ERRORS, "configuration.corpus.max_document_bytes")


def tokenize_corpus(
    sources: Sequence[Source], config: TokenizeConfig, tokenizer: Tokenizer, output: Path | str, *,
    num_workers: int = 2, memory_bytes: int = DEFAULT_MEMORY_BYTES, overwrite: bool = False,
    progress: OnProgress | None = None, unit_bytes: int = DEFAULT_UNIT_BYTES,
    workers: Workers | None = None, selection: Choice | None = None, part: Part | None = None,
) -> Manifest | PartDone:  # fmt: skip
    """Write the token store of a corpus and return its manifest.

    The bytes written depend on sources, configuration and tokenizer alone. An unfinished build of
    the same plan in `output` is continued.

    Args:
        sources: from `find_sources`
        config: everything that changes the result
        tokenizer: makes the ids; a copy is kept in the store
        output: folder to write, or its URI in a store
        num_workers: worker processes, at least 1
        memory_bytes: budget of all processes together
        overwrite: replace what is in `output`
        progress: called with (bytes done, bytes in all, documents done), about 4 times a second
        unit_bytes: text that a worker takes at a time, and that a killed worker has to do again
        workers: from `start_tokenizing`, when started early; ended here, sets `num_workers`
        selection: of the documents to read, from `lmdata.selection.open_selection`; None: all
        part: do only these units, beside other commands that do the others; what was done is
            returned, and `finish_store` ends the build

    Raises:
        ConfigError: the memory budget is too small for so many workers
        CorpusError: a source is missing or broken; nothing is left unless a shard was finished
        TokenizerError: a document, encoded again by `tokenizers`, came out differently
        MismatchError: `output` holds an unfinished build of another plan
        OutputError: `output` exists, can't be written or its disk is full
        LmdataError: a worker was killed
        KeyboardInterrupt: with a text that says what is kept
    """
    pool = workers or start_tokenizing(num_workers)
    try:
        memory = MemoryBudget(memory_bytes, pool.num_workers)
        memory.divide()
    except ConfigError:
        pool.close()
        raise

    def make(folder: AnyFolder) -> _StoreJob:
        return _StoreJob(
            folder, list(sources), config, tokenizer, memory, unit_bytes, progress, selection
        )

    if part is not None:
        return run_part(make, pool, output, part)
    return run_build(make, pool, output, overwrite=overwrite)


def finish_store(output: Path | str, progress: OnProgress | None = None) -> Manifest:
    """End the build of a token store whose parts were done by several commands.

    Raises:
        IntegrityError: units are missing, or there is no such build
        OutputError: a part is being done still, or the disk is full
    """

    def make(folder: AnyFolder, plan: dict[str, Any]) -> _StoreJob:
        chosen = plan[FACTS].get("selection")
        return _StoreJob(
            folder, read_sources(plan), build_config(TokenizeConfig, plan["configuration"]),
            load_tokenizer(bring_tokenizer(folder.place)), MemoryBudget(0, 1),
            plan["unit_bytes"], progress,
            chosen and _Chosen(**chosen),
        )  # fmt: skip

    return finish_build(make, output)


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """A selection of which only the name is needed, since nothing is read by it any more."""

    where: str
    hash: str

    def keep(self, source: Source, start: int, documents: Any) -> Any:
        """Nothing is read."""
        raise AssertionError


class _StoreJob:
    """A token store as `run_build` makes it: receipts of units in, rows of their parts out."""

    num_ahead = None  # receipts are small
    bad_input = (ConfigError, CorpusError, TokenizerError)

    def __init__(
        self, folder: AnyFolder, sources: list[Source], config: TokenizeConfig,
        tokenizer: Tokenizer, memory: MemoryBudget, unit_bytes: int,
        progress: OnProgress | None, selection: Choice | None,
    ) -> None:  # fmt: skip
        self.tokenizer, self._folder, self._selection = tokenizer, folder, selection
        self._sources, self._config, self._memory = sources, config, memory
        self._unit_bytes, self._progress = unit_bytes, progress
        self._web = describe_web({source.format for source in sources})
        self._web |= describe_rewrites(config.corpus.rewrites)
        self._units: list[Unit] = []
        self._weights: list[int] = []  # bytes of sources that each unit reads
        self._totals = Totals(len(sources))
        self._num_kept = 0  # units whose receipts are there
        self._assembly: Assembly | None = None
        self._assembler = ThreadPoolExecutor(1, "assembly")
        self._added: deque[Future[None]] = deque()  # whose result has not been looked at
        self._read_bytes: dict[int, int] = {}  # unit in work -> bytes of its sources read so far
        self._done_bytes = self._total_bytes = 0  # of sources: of units that are done; of all
        self._num_documents = 0

    def open(self) -> None:
        """Take in what comes from standard input, which can be read only once."""
        self._sources = [self._on_disk(source) for source in self._sources]

    def _on_disk(self, source: Source) -> Source:
        """Return the source itself, or a copy of standard input."""
        if source.path is not None:
            return source
        path = self._folder.build / "stdin"
        with output_errors(path), AtomicFile(path, is_durable=False) as file:
            while chunk := sys.stdin.buffer.read(1 << 20):
                file.write(chunk)
        return dataclasses.replace(source, path=path, size_bytes=file.size_bytes, version=file.xxh3)

    def plan(self) -> dict[str, Any]:
        """Return what the parts depend on."""
        return {
            "format_version": FORMAT_VERSION,
            "unit_bytes": self._unit_bytes,
            "sentence_splitter": SPLITTER_VERSION,
            "tokenizer": self.tokenizer.hash,
            "configuration": config_to_dict(self._config),
            **({"selection": self._selection.hash} if self._selection else {}),
            **self._web,
            "sources": {source.name: source.stamp for source in self._sources},
        }

    def facts(self) -> dict[str, Any]:
        """Return what `finish_store` needs."""
        return {
            "kind": "tokens", "sources": describe_plan(self._sources),
            **_describe_selection(self._selection),
        }  # fmt: skip

    def obstacles(self, changed: list[Change]) -> list[str]:
        """Return what differs, but for what changes nothing in units that went through."""
        was = {key: before for key, before, _ in changed}
        is_strict = was.get(_ERRORS, self._config.corpus.errors) == "strict"
        harmless = _HARMLESS_AFTER_STRICT if is_strict else ()
        return [describe_change(change) for change in changed if change[0] not in harmless]

    def prepare(self) -> tuple[UnitSetup, list[Unit], Packed[UnitReceipt]]:
        """Plan the units and read the receipts of an earlier run."""
        self._units = make_units(self._sources, self._config.corpus, self._unit_bytes)
        self._weights = [self._weigh(unit) for unit in self._units]
        self._total_bytes = sum(source.size_bytes for source in self._sources)
        self._assembly = Assembly(
            self._folder, self._sources, self._config, np.dtype(self.tokenizer.id_dtype)
        )
        setup = UnitSetup(
            sources=self._sources, config=self._config, place=self._folder.place,
            memory=self._memory, tokenizer_hash=self.tokenizer.quick_hash,
            selection=self._selection,
        )  # fmt: skip
        give_back_memory()  # what reading and describing the tokenizer took
        return setup, self._units, self._find_done()

    def _find_done(self) -> Packed[UnitReceipt]:
        """Return the receipts of units whose rows are still there."""
        assert self._assembly is not None
        done = Packed[UnitReceipt]()
        found = find_receipts(self._folder.place, len(self._units), UnitReceipt)
        for unit, (receipt, whole) in zip(self._units, found, strict=True):
            if receipt is not None and whole.issuperset(
                part.file for part in self._assembly.needs(receipt)
            ):  # else killed before, or damaged after: the unit is done again
                self._note_done(unit, receipt.num_documents_read)
                done[unit.number] = receipt
            else:
                self._assembly.forget()
        return done

    def reads(self, unit: Unit) -> str:
        """Name the first sources of a unit."""
        names = [str(self._sources[index]) for index in unit.sources]
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    def note(self, unit: Unit, value: UnitProgress) -> None:
        """Count what was read."""
        read = self._read_bytes.get(unit.number, 0) + value.source_bytes
        self._read_bytes[unit.number] = min(read, self._weights[unit.number])
        self._num_documents += value.documents

    def end(self, unit: Unit) -> None:
        """Count a unit that a worker has done."""
        self._note_done(unit, 0)

    def _note_done(self, unit: Unit, num_documents: int) -> None:
        self._read_bytes.pop(unit.number, None)
        self._done_bytes += self._weights[unit.number]
        self._num_documents += num_documents
        self._num_kept += 1

    def add(self, unit: Unit, result: UnitReceipt) -> None:
        """Put the rows of the next unit on their way into shards."""
        assert self._assembly is not None
        self._totals.add(result)
        self._added.append(self._assembler.submit(self._assembly.add, result))
        if len(self._added) > _MAX_WAITING:
            self._added.popleft().result()

    def tell(self) -> None:
        """Raise what went wrong with earlier units, and tell how far it is."""
        while self._added and self._added[0].done():
            self._added.popleft().result()
        if self._progress is not None:
            done = self._done_bytes + sum(self._read_bytes.values())
            self._progress(done, self._total_bytes, self._num_documents)

    def finish(self) -> Manifest:
        """Finish the shards, balance the ledger and return the manifest.

        Raises:
            CorpusError: there was no text at all
        """
        assert self._assembly is not None
        while self._added:
            self._added.popleft().result()
        shards = self._assembly.finish()
        if not any(shards.values()):
            raise CorpusError(self._totals.nothing())
        return Manifest(
            kind="tokens",
            format_version=FORMAT_VERSION,
            created_with=f"lmdata {__version__}",
            configuration={
                **json.loads(to_json(self._config)), "sentence_splitter": SPLITTER_VERSION,
                **_describe_selection(self._selection),
            },
            tokenizer=TokenizerIdentity(
                hash=self.tokenizer.hash, vocab_size=self.tokenizer.vocab_size,
                kind=self.tokenizer.definition["model"]["type"],
            ),
            sources=self._totals.sources(self._sources),
            splits=shards,
            ledger=self._totals.ledger(shards),
            notes=(*self._totals.notes(), *(f"{k}: {v}" for k, v in self._web.items())),
        )  # fmt: skip

    @property
    def has_shards(self) -> bool:
        """Whether any shard is finished."""
        return self._assembly is not None and self._assembly.has_shards

    def state(self) -> str:
        """Say how many units are kept."""
        if not self._units:
            return "What was finished is kept"
        return f"{self._num_kept} of {len(self._units)} units are kept"

    def close(self) -> None:
        """Wait for the assembling thread and remove open shards."""
        self._assembler.shutdown(wait=True, cancel_futures=True)
        if self._assembly is not None:
            self._assembly.close()

    def _weigh(self, unit: Unit) -> int:
        """Return the bytes of sources that a unit reads."""
        return sum(
            (self._sources[extent.source].size_bytes if extent.stop is None else extent.stop)
            - extent.start
            for extent in unit.extents
        )


def _describe_selection(selection: Choice | None) -> dict[str, Any]:
    if selection is None:
        return {}
    return {"selection": {"where": selection.where, "hash": selection.hash}}


def describe_change(change: Change) -> str:
    """Say what differs between two plans."""
    key, before, now = change
    if key.startswith("sources."):
        what = "is new" if before is None else "is gone" if now is None else "has changed"
        return f"source {key.removeprefix('sources.')} {what}"
    return f"{key}: was {before!r}, is {now!r}"
