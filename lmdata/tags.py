"""A corpus becomes tags: one row a document, what the rules measure and what they say of it.

The build is that of a token store: units that depend on nothing but the sources, a receipt for
each, the same bytes for any number of workers. What takes the whole corpus to know, as which
documents were there before, is added when the units are done. A threshold is changed later, by
`lmdata.selection`, from these columns alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmdata import __version__
from lmdata.batch import to_array, to_text_column
from lmdata.building.output import ALL_DOCUMENTS, AnyFolder
from lmdata.building.plan import (
    DEFAULT_UNIT_BYTES,
    Unit,
    UnitProgress,
    describe_plan,
    make_units,
    read_sources,
)
from lmdata.building.receipts import find_receipts, in_build
from lmdata.building.resumable import Part, PartDone, finish_build, run_build, run_part
from lmdata.building.workers import WorkerPool, Workers
from lmdata.config import Change, build_config, config_to_dict
from lmdata.corpus import Source
from lmdata.errors import ConfigError, CorpusError
from lmdata.reading.rewrites import describe_rewrites, flows_of_replaced
from lmdata.reading.web import describe_web
from lmdata.schema import (
    FORMAT_VERSION,
    Flow,
    Ledger,
    SourceRecord,
)
from lmdata.settings import TagConfig
from lmdata.shards import map_shard
from lmdata.tagging import common_lines, overlaps
from lmdata.tagging.audit import check_rows
from lmdata.tagging.evaluations import EvaluationFile
from lmdata.tagging.manifests import TagManifest, iterate_rows
from lmdata.tagging.overlap_index import describe, make_index
from lmdata.tagging.overlaps import Overlaps
from lmdata.tagging.perplexity import Scorer, find_thirds
from lmdata.tagging.repeats import Repeats, find_repeats
from lmdata.tagging.rows import Whole, finish_rows, found_in, is_scored, tag_schema
from lmdata.tagging.rules import DEFAULT_RULES, MUCH_UNSPACED, VERSIONS, note_unspaced
from lmdata.tagging.signatures import VERSION as NEAR_VERSION
from lmdata.tagging.taggers import Tagger, make_taggers
from lmdata.tagging.units import TagReceipt, TagSetup, part_fields
from lmdata.tagging.words import CUTTERS
from lmdata.tokens import OnProgress, describe_change
from lmdata.writer import ShardWriter


def start_tagging(num_workers: int) -> Workers:
    """Return the pool that `tag_corpus` needs."""
    return WorkerPool(num_workers, "lmdata.tagging.units:prepare_tags")


def tag_corpus(
    sources: Sequence[Source], config: TagConfig, output: Path | str, *, num_workers: int = 2,
    overwrite: bool = False, progress: OnProgress | None = None,
    unit_bytes: int = DEFAULT_UNIT_BYTES, workers: Workers | None = None,
    evaluations: Sequence[EvaluationFile] = (), part: Part | None = None,
    scorer: Scorer | None = None,
) -> TagManifest | PartDone:  # fmt: skip
    """Write the tags of a corpus and return their manifest.

    The bytes depend on sources and configuration alone. An unfinished build of the same is gone on
    with at the first unit that was not finished.

    Args:
        sources: from `find_sources`
        config: everything that changes the result
        output: folder to write, or its URI in a store
        num_workers: worker processes, at least 1
        overwrite: replace what is in `output`
        progress: called with (bytes done, bytes in all, documents done)
        unit_bytes: text that a worker takes at a time
        workers: of another engine, which run `prepare_tags`; ended here, sets `num_workers`
        evaluations: that the corpus is compared with, from `read_evaluations`
        part: do only these units, beside other commands that do the others; what was done is
            returned, and `finish_tags` ends the build
        scorer: a language model, by which documents have a perplexity; None: they have none

    Raises:
        ConfigError: the words need a package that is not installed
        CorpusError: a source is missing or broken, is standard input, or there is no text
        MismatchError: `output` holds an unfinished build of another plan
        OutputError: `output` exists, can't be written or its disk is full
    """
    name, taggers = CUTTERS[config.words]().name, make_taggers(config, scorer)
    if any(source.path is None for source in sources):
        raise CorpusError(
            "tags are of files that are read again: save standard input to a file first"
        )

    def make(folder: AnyFolder) -> _TagJob:
        return _TagJob(
            folder, list(sources), config, name, taggers, unit_bytes, progress, evaluations,
            scorer,
        )  # fmt: skip

    pool = workers or start_tagging(num_workers)
    if part is not None:
        return run_part(make, pool, output, part)
    return run_build(make, pool, output, overwrite=overwrite)


def finish_tags(output: Path | str) -> TagManifest:
    """End the build of tags whose parts were done by several commands.

    Raises:
        IntegrityError: units are missing, or there is no such build
        OutputError: a part is being done still, or the disk is full
    """

    def make(folder: AnyFolder, plan: dict[str, Any]) -> _TagJob:
        config = build_config(TagConfig, plan["configuration"])
        return _TagJob(
            folder, read_sources(plan), config, plan["words"], make_taggers(config),
            plan["unit_bytes"], None, (),
        )  # fmt: skip

    return finish_build(make, output)


class _TagJob:
    """Tags as `run_build` makes them: parts of units in, shards with what all of them tell out."""

    tokenizer = None
    num_ahead = None  # receipts are small
    bad_input = (CorpusError, ConfigError)
    has_shards = False  # they are written when the units are done

    def __init__(
        self, folder: AnyFolder, sources: list[Source], config: TagConfig, words: str,
        taggers: Sequence[Tagger], unit_bytes: int, progress: OnProgress | None,
        evaluations: Sequence[EvaluationFile], scorer: Scorer | None = None,
    ) -> None:  # fmt: skip
        self._folder, self._sources, self._config, self._words = folder, sources, config, words
        self._taggers, self._unit_bytes, self._progress = taggers, unit_bytes, progress
        rewrites = describe_rewrites(config.corpus.rewrites)
        self._rewrites = [f"{name}: {version}" for name, version in rewrites.items()]
        self._versions = {rule: VERSIONS[rule] for rule in DEFAULT_RULES}
        self._versions |= {"near_duplicate": NEAR_VERSION}
        self._versions |= dict.fromkeys(common_lines.NAMES, common_lines.VERSION)
        for tagger in taggers:
            self._versions |= tagger.versions
        self._evaluations, self._scorer = evaluations, scorer
        self._index = make_index(evaluations) if evaluations else None
        self._versions |= overlaps.VERSIONS if evaluations else {}
        self._receipts: list[TagReceipt] = []
        self._units: list[Unit] = []
        self._num_documents = self._done_bytes = 0
        self._writer: ShardWriter | None = None

    def open(self) -> None:
        """Nothing can be read only once."""

    def plan(self) -> dict[str, Any]:
        """Return what the parts depend on."""
        return {
            "format_version": FORMAT_VERSION,
            "unit_bytes": self._unit_bytes,
            "rules": self._versions,
            "words": self._words,
            "configuration": config_to_dict(self._config),
            "sources": {source.name: source.stamp for source in self._sources},
            **describe_web({source.format for source in self._sources}),
            **({"rewrites": self._rewrites} if self._rewrites else {}),
            "against": {file.name: [file.bytes, file.xxh3] for file in self._evaluations},
        }

    def facts(self) -> dict[str, Any]:
        """Return what `finish_tags` needs."""
        return {"kind": "tags", "sources": describe_plan(self._sources)}

    def obstacles(self, changed: list[Change]) -> list[str]:
        """Return what differs: everything counts."""
        return [describe_change(change) for change in changed]

    def prepare(self) -> tuple[TagSetup, list[Unit], dict[int, TagReceipt]]:
        """Plan the units and read the receipts of an earlier run."""
        self._units = make_units(self._sources, self._config.corpus, self._unit_bytes)
        done = dict(self._find_done())
        setup = TagSetup(self._sources, self._config, self._folder.place, self._index, self._scorer)
        return setup, self._units, done

    def _find_done(self) -> Iterator[tuple[int, TagReceipt]]:
        found = find_receipts(self._folder.place, len(self._units), TagReceipt)
        for unit, (receipt, whole) in zip(self._units, found, strict=True):
            if receipt is not None and whole == {part.file for part in receipt.files}:
                yield unit.number, receipt  # else killed before, or damaged after: done again

    def reads(self, unit: Unit) -> str:
        """Name the first sources of a unit."""
        return ", ".join(str(self._sources[index]) for index in unit.sources[:3])

    def note(self, unit: Unit, value: UnitProgress) -> None:
        """Count what was read."""
        self._done_bytes += value.source_bytes
        self._num_documents += value.documents

    def end(self, unit: Unit) -> None:
        """What counts is in the receipts."""

    def add(self, unit: Unit, result: TagReceipt) -> None:
        """Keep the next receipt."""
        self._receipts.append(result)

    def tell(self) -> None:
        """Tell how far it is."""
        if self._progress is not None:
            total = sum(source.size_bytes for source in self._sources)
            self._progress(min(self._done_bytes, total), total, self._num_documents)

    def finish(self) -> TagManifest:
        """Write the shards from the parts, balance the ledger and return the manifest.

        Raises:
            CorpusError: there was no text at all
        """
        whole, row = self._find_whole(), 0
        schema = tag_schema(self._taggers, is_compared=whole.shared is not None)
        names = to_text_column([source.name for source in self._sources])
        self._writer = ShardWriter(
            self._folder.path, ALL_DOCUMENTS, schema, shard_bytes=self._config.shard_bytes
        )
        starts: dict[str, list[tuple[int, int]]] = {}
        num_bytes, num_unspaced, records, contaminated = 0, 0, Counter[str](), Counter[str]()
        for unit, receipt in zip(self._units, self._receipts, strict=True):
            for extent, first in zip(unit.extents, receipt.starts, strict=True):
                place = extent.start, records[str(extent.source)] + first
                starts.setdefault(self._sources[extent.source].name, []).append(place)
            for part in self._part(receipt):
                rows = finish_rows(part, whole, row, names, records, schema)
                self._writer.write(rows)
                num_bytes += int(to_array(part.column("num_bytes")).sum())
                num_unspaced += int((to_array(part.column("unspaced_ratio")) > MUCH_UNSPACED).sum())
                row += part.num_rows
                for rule in overlaps.RULES if whole.shared else ():
                    contaminated[rule] += rows.column(rule).true_count
            records.update(receipt.records)
        shards = {ALL_DOCUMENTS: tuple(self._writer.finish())}
        sources, ledger = self._describe_sources(), _sum_up(self._receipts, row, num_bytes)
        notes = (
            *self._rewrites, *whole.notes(), *note_unspaced(num_unspaced),
            *overlaps.notes(contaminated if whole.shared else {}),
        )  # fmt: skip
        del whole  # of some bytes a document, as what is looked at now
        written = iterate_rows(self._folder.path, shards[ALL_DOCUMENTS])
        check_rows(written, sources, ledger.flows, self._config.near_jaccard)
        for shard in shards[ALL_DOCUMENTS]:
            self._folder.place.keep(shard.file)
        return TagManifest(
            format_version=FORMAT_VERSION,
            created_with=f"lmdata {__version__}",
            configuration=self._config,
            rules=self._versions,
            words=self._words,
            starts={name: tuple(places) for name, places in starts.items()},
            sources=sources,
            splits=shards,
            ledger=ledger,
            notes=notes,
            against=describe(self._evaluations, self._index) if self._index else {},
        )

    def _find_whole(self) -> Whole:
        """Return what takes the whole corpus to know."""
        repeats = find_repeats(self._parts, self._folder.build, self._config.near_jaccard)
        thirds = find_thirds(self._parts()) if is_scored(self._taggers) else None
        return Whole(repeats, self._find_overlaps(repeats), thirds)

    def _find_overlaps(self, repeats: Repeats) -> Overlaps | None:
        """Return what is common of all that documents share with evaluations."""
        if self._index is None:
            return None
        shared, row = Overlaps(self._evaluations, self._index), 0
        for part in self._parts():
            components = repeats.near.component[row : row + part.num_rows]
            shared.note(*found_in(part), components)
            row += part.num_rows
        shared.close()
        return shared

    def _parts(self) -> Iterator[pa.RecordBatch]:
        """Yield the parts of all units in the order of the corpus."""
        for receipt in self._receipts:
            yield from self._part(receipt)

    def _part(self, receipt: TagReceipt) -> list[pa.RecordBatch]:
        record = receipt.part
        assert record is not None
        path = self._folder.place.bring(in_build(record.file))
        return map_shard(path, record, pa.schema(part_fields(self._taggers)))

    def _describe_sources(self) -> tuple[SourceRecord, ...]:
        documents, hashes = Counter[str](), dict[str, str]()
        for receipt in self._receipts:
            documents.update(receipt.documents)
            hashes.update(receipt.hashes)
        return tuple(
            SourceRecord(
                name=source.name, bytes=source.size_bytes, xxh3=hashes[str(index)],
                documents=documents[str(index)],
            )
            for index, source in enumerate(self._sources)
        )  # fmt: skip

    def state(self) -> str:
        """Say how many units are kept."""
        return f"{len(self._receipts)} of {len(self._units)} units are kept"

    def close(self) -> None:
        """Remove the open shard."""
        if self._writer is not None:
            self._writer.close()


def _sum_up(receipts: Sequence[TagReceipt], num_documents: int, num_bytes: int) -> Ledger:
    """Return the ledger: what the readers counted against what lies in the shards."""
    read, dropped, dropped_bytes, replaced = (Counter[str]() for _ in range(4))
    for receipt in receipts:
        read.update(receipt.read)
        replaced.update(receipt.replaced)
        dropped.update(receipt.dropped)
        dropped_bytes.update(receipt.dropped_bytes)
    documents = Flow(
        read=read["documents"], written={ALL_DOCUMENTS: num_documents}, dropped=dict(dropped)
    )
    content = Flow(
        read=read["bytes"], written={ALL_DOCUMENTS: num_bytes}, dropped=dict(dropped_bytes)
    )
    flows = {"documents": documents, "bytes": content, **flows_of_replaced(replaced)}
    return Ledger(flows=flows)
