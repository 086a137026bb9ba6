"""One unit of a corpus to the figures of its documents: what a worker does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from lmdata.batch import to_column, to_text_column
from lmdata.building.output import ALL_DOCUMENTS
from lmdata.building.plan import Unit, UnitProgress
from lmdata.building.receipts import count_in, in_build, keep_receipt, part_name, receipt_name
from lmdata.corpus import Documents, Source, read_documents
from lmdata.places import Place, new_attempt
from lmdata.schema import ShardRecord
from lmdata.settings import TagConfig
from lmdata.tagging.common_lines import STRETCH, list_stretches
from lmdata.tagging.numbers import NumberedWords, number_words
from lmdata.tagging.overlap_index import FOUND, OverlapIndex
from lmdata.tagging.perplexity import Scorer
from lmdata.tagging.rules import COUNTS, DEFAULT_RULES, figures_of, measure
from lmdata.tagging.signatures import NUM_BANDS, sign
from lmdata.tagging.taggers import PiiTagger, Tagger, make_taggers
from lmdata.tagging.words import CUTTERS, Batch, Cutter
from lmdata.writer import ShardFile
from lmdata.xxh3 import hash_file, xxh3_128

_BATCH_BYTES = 4 << 20
_BEGINNING = 160  # characters of a document that are kept, so that what goes can be read
SCRATCH = ("bands", "shingles", "found", "stretches")  # columns of a unit that no tags have
FIGURES = (
    "num_chars", "num_words", "num_plain_words", "num_stop_words", "c4_num_sentences",
    "c4_lorem_ipsum", "c4_curly_bracket", "unspaced_ratio",
    *(figure for figure in figures_of(DEFAULT_RULES) if figure not in COUNTS),
)  # fmt: skip


def part_fields(taggers: Sequence[Tagger]) -> list[pa.Field]:
    """Return the columns of a unit: sources are numbers, positions count within the unit.

    Those named in `SCRATCH` are for what takes all documents to know, and are not kept.
    """
    names = {"source": pa.int32(), "position": pa.uint64(), "num_bytes": pa.uint64(),
             "hash_high": pa.uint64(), "hash_low": pa.uint64(),
             "words_hash": pa.uint64()}  # fmt: skip
    names |= {name: pa.int64() if name in COUNTS else pa.float64() for name in FIGURES}
    scratch = (pa.list_(pa.uint64(), NUM_BANDS), pa.large_list(pa.uint64()), pa.large_list(FOUND),
               pa.large_list(STRETCH))  # fmt: skip
    return [
        *(pa.field(name, kind, nullable=False) for name, kind in names.items()),
        pa.field("beginning", pa.string(), nullable=False),
        *(field for tagger in taggers for field in tagger.fields),
        *(
            pa.field(name, kind, nullable=False)
            for name, kind in zip(SCRATCH, scratch, strict=True)
        ),
    ]


@dataclass(kw_only=True)
class TagReceipt:
    """What became of a unit; written when its part is complete."""

    number: int
    part: ShardRecord | None = None
    starts: tuple[int, ...] = ()  # record of its source, by extent of the unit
    read: dict[str, int] = field(default_factory=dict)  # quantity -> amount, before any drop
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> documents
    dropped_bytes: dict[str, int] = field(default_factory=dict)  # reason -> bytes
    replaced: dict[str, int] = field(default_factory=dict)  # rewrite -> documents or lines
    records: dict[str, int] = field(default_factory=dict)  # source index -> lines or records
    documents: dict[str, int] = field(default_factory=dict)  # source index -> documents tagged
    hashes: dict[str, str] = field(default_factory=dict)  # source index -> xxh3 of the file

    @property
    def files(self) -> tuple[ShardRecord, ...]:
        """The part that was written."""
        return () if self.part is None else (self.part,)


@dataclass(frozen=True)
class TagSetup:
    """What the workers are told."""

    sources: list[Source]
    config: TagConfig
    place: Place
    index: OverlapIndex | None  # of what the corpus is compared with
    scorer: Scorer | None = None  # of perplexities


def prepare_tags(
    receive_setup: Callable[[], TagSetup],
) -> Callable[[Unit, Callable[[Any], None]], TagReceipt]:
    """Return the work function of a worker: units in, receipts of their parts out."""
    _load_kernels()
    setup = receive_setup()
    own = threading.local()  # a cutter is of one thread

    def work(unit: Unit, report: Callable[[Any], None]) -> TagReceipt:
        if not hasattr(own, "cutter"):
            own.cutter = CUTTERS[setup.config.words]()
            own.taggers = make_taggers(setup.config, setup.scorer)
        return _tag_unit(unit, setup, own.cutter, own.taggers, report)

    return work


def _load_kernels() -> None:
    """Tag a few words: loading compiled code takes a second, here before there is work."""
    text = np.frombuffer(b"Some words, 1 line.", np.uint8)
    few = Documents(text=text, offsets=np.array([0, len(text)]), positions=np.zeros(1, np.uint64))
    _tag_documents(few, 0, 0, CUTTERS["plain"](), [PiiTagger()], None)


def _tag_unit(
    unit: Unit, setup: TagSetup, cutter: Cutter, taggers: Sequence[Tagger],
    report: Callable[[Any], None],
) -> TagReceipt:  # fmt: skip
    receipt = TagReceipt(number=unit.number)
    schema = pa.schema(part_fields(taggers))
    name = part_name(unit.number, ALL_DOCUMENTS, new_attempt())
    part = ShardFile(setup.place.folder / in_build(name), schema, is_part=True)
    try:
        for extent in unit.extents:
            source, key = setup.sources[extent.source], str(extent.source)
            first = receipt.records.get(key, 0)
            receipt.starts += (first,)
            with source.at_hand() if extent.stop is None else nullcontext(source) as own:
                if extent.start == 0:
                    receipt.hashes[key] = hash_file(own.path)
                for documents in read_documents(
                    own, setup.config.corpus, start=extent.start, stop=extent.stop,
                    batch_bytes=_BATCH_BYTES,
                ):  # fmt: skip
                    if len(documents.positions):
                        part.write(
                            _tag_documents(
                                documents, extent.source, first, cutter, taggers, setup.index
                            )
                        )
                    _count(receipt, key, documents)
                    count = len(documents.positions)
                    report(UnitProgress(source_bytes=documents.num_source_bytes, documents=count))
            source.refuse_changed()
        receipt.part = part.commit()
    finally:
        part.close()
    return keep_receipt(setup.place, receipt_name(unit.number), receipt)


def _tag_documents(
    documents: Documents, source: int, first: int, cutter: Cutter, taggers: Sequence[Tagger],
    index: OverlapIndex | None,
) -> pa.RecordBatch:  # fmt: skip
    """Return the figures of some documents of a range that begins at `first`."""
    content = documents.text.tobytes()
    parts = [content[a:b] for a, b in pairwise(documents.offsets.tolist())]
    cut = cutter.words(documents.text, documents.offsets)
    figures = measure(documents.text, documents.offsets, cutter, cut)
    batch = Batch(parts, documents.text, documents.offsets, cut, figures)
    hashes = np.array([divmod(xxh3_128(part).intdigest(), 1 << 64) for part in parts], np.uint64)
    words = number_words(documents.text, documents.offsets)
    signed = sign(words)
    found, ends = (
        index.find(words) if index else (np.empty((0, 4), np.int64), np.zeros(len(parts) + 1, int))
    )
    columns = [
        np.full(len(parts), source, np.int32),
        documents.positions + np.uint64(first),
        np.diff(documents.offsets).astype(np.uint64),
        np.ascontiguousarray(hashes[:, 0]),
        np.ascontiguousarray(hashes[:, 1]),
        _hash_words(words),
        *(figures[name] for name in FIGURES),
    ]
    near = [
        pa.FixedSizeListArray.from_arrays(to_column(signed.keys.ravel()), NUM_BANDS),
        pa.LargeListArray.from_arrays(to_column(signed.rows), to_column(signed.shingles)),
        _to_rows(found, ends, FOUND),
        _to_rows(*list_stretches(documents.text, documents.offsets, source), STRETCH),
    ]
    own = [array for tagger in taggers for array in tagger.tag(batch)]
    beginnings = to_text_column([_begin(part) for part in parts])
    arrays = [*(to_column(values) for values in columns), beginnings, *own, *near]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(part_fields(taggers)))


def _to_rows(values: np.ndarray, ends: np.ndarray, kind: pa.DataType) -> pa.LargeListArray:
    """Return lists of some numbers each, (n, k), as a column of documents that begin at `ends`."""
    items = pa.FixedSizeListArray.from_arrays(to_column(values.ravel()), type=kind)
    return pa.LargeListArray.from_arrays(to_column(ends), items)


def _hash_words(words: NumberedWords) -> np.ndarray:
    """Return a hash of the words of each document, uint64 (D,), 0 where there is none."""
    return np.array([
        xxh3_128(words.exact[a:b].tobytes()).intdigest() & (1 << 64) - 1 if b > a else 0
        for a, b in pairwise(words.exact_rows.tolist())
    ], np.uint64)  # fmt: skip


def _begin(document: bytes) -> str:
    """Return the first characters of a document, white space as blanks."""
    text = document[: 4 * _BEGINNING].decode("utf-8", errors="ignore")
    return " ".join(text.split())[:_BEGINNING]


def _count(receipt: TagReceipt, key: str, documents: Documents) -> None:
    num_documents = len(documents.positions)
    count_in(receipt.records, key, documents.num_records)
    count_in(receipt.documents, key, num_documents)
    count_in(receipt.read, "documents", num_documents + sum(documents.dropped.values()))
    count_in(receipt.read, "bytes", len(documents.text) + sum(documents.dropped_bytes.values()))
    for name, count in documents.replaced.items():
        count_in(receipt.replaced, name, count)
    for reason, count in documents.dropped.items():
        count_in(receipt.dropped, reason, count)
        count_in(receipt.dropped_bytes, reason, documents.dropped_bytes.get(reason, 0))
