"""What a worker does: one unit of a corpus in, its rows in part files and a receipt out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa

from lmdata.batch import to_column, to_list_column
from lmdata.building.memory import WorkerMemory, held_memory
from lmdata.building.plan import (
    Extent,
    Unit,
    UnitProgress,
    UnitReceipt,
    UnitSetup,
    assign_splits,
    part_schema,
)
from lmdata.building.receipts import (
    bring_tokenizer,
    count_in,
    in_build,
    keep_receipt,
    part_name,
    receipt_name,
)
from lmdata.corpus import Documents, Source, read_documents
from lmdata.encoders.plain_encoding import (
    DifferentIdsError,
    EncodedDocuments,
    EncodingError,
    PlainEncoder,
)
from lmdata.encoding import Encoder, check_encoding, make_encoder, measure_round_trip
from lmdata.errors import CorpusError, LmdataError, TokenizerError
from lmdata.files import output_errors
from lmdata.intrinsics import start_numba
from lmdata.places import new_attempt
from lmdata.ragged import Ragged, offsets_of
from lmdata.rng import draw, stream_key
from lmdata.sentences import find_sentence_starts
from lmdata.settings import CorpusConfig
from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmdata.writer import ShardFile
from lmdata.xxh3 import hash_file

_MAX_CHECKED_BYTES = 8 << 10  # `tokenizers` takes about 5 ms for this
_MAX_DECODED_BYTES = 32 << 10  # of a unit; takes about 15 ms


def prepare_nursery(
    receive_setup: Callable[[], UnitSetup], tokenizer_path: str | None = None
) -> Callable[[Unit, Callable[[Any], None]], UnitReceipt]:
    """Do as `prepare_units`, in a process that is ours alone: there Numba may start faster.

    The tokenizer that is going to be taken is read before the setup is there, which names it.
    """
    start_numba()
    _load_kernels()
    ahead = None
    if tokenizer_path is not None:
        with suppress(LmdataError):  # who sends the setup reads it too, and says what is wrong
            ahead = _ReadyTokenizer(Path(tokenizer_path))
            _ = ahead.tokenizer.quick_hash
    return _prepare(receive_setup(), ahead)


def prepare_units(
    receive_setup: Callable[[], UnitSetup],
) -> Callable[[Unit, Callable[[Any], None]], UnitReceipt]:
    """Return the work function of a worker; runs once, before the workers fork.

    It does a unit at a time: an encoder learns words as it reads, so two threads can't share one.
    """
    _load_kernels()
    return _prepare(receive_setup(), None)


class _ReadyTokenizer:
    """A tokenizer, its encoder and how many bytes both hold."""

    def __init__(self, path: Path) -> None:
        held_bytes = held_memory()
        self.tokenizer = load_tokenizer(path)
        self.encoder = make_encoder(self.tokenizer, num_threads=1)
        self.num_bytes = max(held_memory() - held_bytes, 0)


def _prepare(
    setup: UnitSetup, ready: _ReadyTokenizer | None
) -> Callable[[Unit, Callable[[Any], None]], UnitReceipt]:
    if ready is None or ready.tokenizer.quick_hash != setup.tokenizer_hash:
        ready = _ReadyTokenizer(bring_tokenizer(setup.place))
    tokenizer, encoder = ready.tokenizer, ready.encoder
    memory = setup.memory.divide(ready.num_bytes)
    encoder.keep_within(memory.cache_bytes)

    def work(unit: Unit, report: Callable[[Any], None]) -> UnitReceipt:
        try:
            return UnitRun(setup, memory, tokenizer, encoder, unit).run(report)
        except DifferentIdsError as error:
            plain = PlainEncoder(tokenizer, reason=str(error))
            return UnitRun(setup, memory, tokenizer, plain, unit).run(report)

    return work


def _load_kernels() -> None:
    """Run a document through reader and splitter: loading compiled code takes half a second."""
    with NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(b'{"text": "One. Two."}\n')
        file.flush()
        path = Path(file.name)
        source = Source(name=path.name, path=path, format="jsonl", size_bytes=path.stat().st_size)
        for documents in read_documents(source, CorpusConfig()):
            find_sentence_starts(documents.text, documents.offsets)


class UnitRun:
    """One unit on its way; parts that are not finished are removed."""

    def __init__(
        self, setup: UnitSetup, memory: WorkerMemory, tokenizer: Tokenizer, encoder: Encoder,
        unit: Unit,
    ) -> None:  # fmt: skip
        self._setup, self._memory, self._unit = setup, memory, unit
        self._tokenizer, self._encoder = tokenizer, encoder
        self._receipt = UnitReceipt(number=unit.number, encoder=f"{encoder.kind}: {encoder.reason}")
        self._attempt = new_attempt()
        self._schema = part_schema(np.dtype(tokenizer.id_dtype))
        self._parts: dict[str, ShardFile] = {}
        self._cleanup = ExitStack()

    def run(self, report: Callable[[Any], None]) -> UnitReceipt:
        """Encode the unit and return its receipt, which is then kept too.

        Small batches, of small files, are encoded together: a batch costs some milliseconds.
        """
        with self._cleanup:
            pile: list[tuple[int, Documents]] = []
            pile_bytes = 0
            for extent, documents in self._read_all():
                self._refuse_too_large(extent.source, documents)
                if pile_bytes + len(documents.text) > self._memory.batch_bytes:
                    self._add(pile)
                    pile, pile_bytes = [], 0
                pile.append((extent.source, documents))
                pile_bytes += len(documents.text)
                num_documents = len(documents.positions)
                report(
                    UnitProgress(source_bytes=documents.num_source_bytes, documents=num_documents)
                )
            self._add(pile)
            for index in self._unit.sources:
                self._setup.sources[index].refuse_changed()
            for split, part in self._parts.items():
                with output_errors(self._path(split)):
                    self._receipt.parts[split] = part.commit()
            name = receipt_name(self._unit.number)
            return keep_receipt(self._setup.place, name, self._receipt)

    def _path(self, split: str) -> Path:
        part = part_name(self._unit.number, split, self._attempt)
        return self._setup.place.folder / in_build(part)

    def _read_all(self) -> Iterator[tuple[Extent, Documents]]:
        """Yield the documents of all extents, whose positions count from the source's first one.

        A whole file of a store is copied to this disk.
        """
        num_read = Counter[int]()
        for extent in self._unit.extents:
            source, before = self._setup.sources[extent.source], num_read[extent.source]
            with source.at_hand() if extent.stop is None else nullcontext(source) as own:
                self._hash_source(extent, own)
                for documents in self._read(extent, own):
                    num_read[extent.source] += documents.num_records
                    positions = documents.positions + np.uint64(before)
                    yield extent, replace(documents, positions=positions)

    def _read(self, extent: Extent, source: Source) -> Iterator[Documents]:
        selection = self._setup.selection
        for documents in read_documents(
            source, self._setup.config.corpus, start=extent.start, stop=extent.stop,
            batch_bytes=self._memory.batch_bytes,
        ):  # fmt: skip
            if selection is None:
                yield documents
            else:
                yield selection.keep(source, extent.start, documents)

    def _hash_source(self, extent: Extent, source: Source) -> None:
        if extent.start == 0 and source.path is not None:
            try:
                self._receipt.hashes[str(extent.source)] = hash_file(source.path)
            except OSError as error:
                raise CorpusError(f"can't read {source}: {error.strerror}") from error

    def _add(self, pile: list[tuple[int, Documents]]) -> None:
        """Encode batches together and append their rows to the parts."""
        if not pile:
            return
        documents, sources = _join(pile)
        starts = find_sentence_starts(
            documents.text, documents.offsets, self._setup.config.sentences
        )
        try:
            encoded = self._encoder.encode(documents.text, documents.offsets, starts)
        except DifferentIdsError:
            raise
        except EncodingError as error:
            source = self._setup.sources[int(sources[error.row])]
            position = int(documents.positions[error.row])
            raise TokenizerError(f"{source}, document {position} of its part: {error}") from error
        self._check(documents, encoded)
        self._decode_some(documents)
        self._count(pile, encoded)
        splits = assign_splits(
            documents.text, documents.offsets, self._setup.config, documents.split_keys
        )
        splits[np.diff(encoded.document_offsets) == 0] = -1
        sizes = np.diff(documents.offsets)
        for code, split in enumerate(self._setup.config.split_ratios):
            rows = np.flatnonzero(splits == code)
            if len(rows):
                count_in(self._receipt.written_bytes, split, sizes[rows].sum())
                places = sources[rows], documents.positions[rows]
                self._write(split, make_part_batch(self._schema, *places, encoded, rows))

    def _write(self, split: str, batch: pa.RecordBatch) -> None:
        path = self._path(split)
        with output_errors(path):
            if split not in self._parts:
                self._parts[split] = ShardFile(path, self._schema, is_part=True)
                self._cleanup.callback(self._parts[split].close)
            self._parts[split].write(batch)

    def _count(self, pile: list[tuple[int, Documents]], encoded: EncodedDocuments) -> None:
        """Count what became of the batches."""
        lengths, begin = np.diff(encoded.document_offsets), 0
        for source, documents in pile:
            end = begin + len(documents.positions)
            self._count_batch(str(source), documents, lengths[begin:end])
            begin = end

    def _count_batch(self, key: str, documents: Documents, lengths: np.ndarray) -> None:
        receipt = self._receipt
        empty_bytes = np.diff(documents.offsets)[lengths == 0]
        count_in(receipt.records, key, documents.num_records)
        count_in(receipt.documents, key, (lengths > 0).sum())
        count_in(receipt.tokens, key, lengths.sum())
        count_in(receipt.read, "documents", len(lengths) + sum(documents.dropped.values()))
        count_in(receipt.read, "bytes", len(documents.text))
        count_in(receipt.read, "bytes", sum(documents.dropped_bytes.values()))
        count_in(receipt.read, "tokens", lengths.sum())
        dropped = {**documents.dropped, "no-tokens": len(empty_bytes)}
        dropped_bytes = {**documents.dropped_bytes, "no-tokens": int(empty_bytes.sum())}
        for kind, count in documents.replaced.items():
            count_in(receipt.replaced, kind, count)
        for reason, count in dropped.items():
            if count:
                count_in(receipt.dropped, reason, count)
                count_in(receipt.dropped_bytes, reason, dropped_bytes.get(reason, 0))

    def _check(self, documents: Documents, encoded: EncodedDocuments) -> None:
        """Encode one document, chosen at random, again with `tokenizers` and compare."""
        if not len(documents.positions):
            return
        key = stream_key(self._setup.config.seed, "sample")
        unit, count = np.array([self._unit.number]), np.array([self._receipt.checked_documents])
        row = int(draw(key, unit, count)[0]) * len(documents.positions) >> 32
        start, stop = documents.offsets[row : row + 2].tolist()
        if stop - start <= _MAX_CHECKED_BYTES:
            check_encoding(self._tokenizer, documents.text, documents.offsets, encoded, [row])
        else:
            self._check_beginning(documents.text[start : start + _MAX_CHECKED_BYTES])
        self._receipt.checked_documents += 1

    def _decode_some(self, documents: Documents) -> None:
        """Count what comes back of documents, chosen evenly, until the unit's sample is full."""
        room = _MAX_DECODED_BYTES - self._receipt.sampled_bytes
        if room <= 0 or not len(documents.positions):
            return
        sizes = np.minimum(np.diff(documents.offsets), _MAX_CHECKED_BYTES)
        rows = np.arange(0, len(sizes), max(1, int(sizes.sum()) // room))
        rows = rows[np.cumsum(sizes[rows]) <= max(room, _MAX_CHECKED_BYTES)]
        texts = [
            _beginning(documents.text[start : start + size])
            for start, size in zip(documents.offsets[rows], sizes[rows], strict=True)
        ]
        offsets = offsets_of(np.array([len(text) for text in texts]))
        encoded = self._encoder.encode(np.concatenate(texts), offsets, offsets[:-1])
        self._receipt.sampled_bytes += int(sizes[rows].sum())
        self._receipt.round_trip += measure_round_trip(
            self._tokenizer,
            [text.tobytes().decode() for text in texts],
            ids=np.split(encoded.ids, encoded.document_offsets[1:-1]),
        )

    def _check_beginning(self, text: np.ndarray) -> None:
        """Compare on the beginning of a long document, encoded alone."""
        whole = _beginning(text)
        offsets = np.array([0, len(whole)])
        encoded = self._encoder.encode(whole, offsets, offsets[:1])
        check_encoding(self._tokenizer, whole, offsets, encoded, [0])

    def _refuse_too_large(self, source: int, documents: Documents) -> None:
        largest = int(np.diff(documents.offsets).max(initial=0))
        if not largest:
            return
        row = int(np.argmax(np.diff(documents.offsets)))
        document = documents.text[documents.offsets[row] : documents.offsets[row + 1]]
        needed = self._encoder.memory_for(document)
        if needed > self._memory.document_bytes:
            raise CorpusError(
                f"{self._setup.sources[source]} holds a document of {largest >> 20} MiB, which "
                f"takes about {needed >> 20} MiB of memory, a worker has "
                f"{self._memory.document_bytes >> 20} MiB: raise --memory or lower --num-workers"
            )


def _beginning(text: np.ndarray) -> np.ndarray:
    """Return the UTF-8 bytes of a text that was cut anywhere, up to its last whole character."""
    last = len(text) - 1
    while last > 0 and text[last] & 0xC0 == 0x80:
        last -= 1
    length = 1 + int(np.count_nonzero(np.uint8(text[last]) >= np.array([0xC0, 0xE0, 0xF0])))
    return text if last + length == len(text) else text[:last]


def _join(pile: list[tuple[int, Documents]]) -> tuple[Documents, np.ndarray]:
    """Return batches as one, and the source of each document, int32 (D,)."""
    batches = [documents for _, documents in pile]
    numbers = [len(documents.positions) for documents in batches]
    sources = np.repeat(np.array([source for source, _ in pile], np.int32), numbers)
    if len(batches) == 1:
        return batches[0], sources
    joined = Documents(
        text=np.concatenate([documents.text for documents in batches]),
        offsets=offsets_of(np.concatenate([np.diff(documents.offsets) for documents in batches])),
        positions=np.concatenate([documents.positions for documents in batches]),
        split_keys=_join_keys(batches),
    )
    return joined, sources


def _join_keys(batches: Sequence[Documents]) -> np.ndarray | None:
    keys = [batch.split_keys for batch in batches if batch.split_keys is not None]
    return np.concatenate(keys) if keys else None  # a selection has them for all


def make_part_batch(
    schema: pa.Schema,
    sources: np.ndarray,
    positions: np.ndarray,
    encoded: EncodedDocuments,
    rows: np.ndarray,
) -> pa.RecordBatch:
    """Return some documents of a batch, as a record batch.

    Args:
        schema: from `part_schema`
        sources: int32 (R,), index of the source of each
        positions: uint64 (R,)
        encoded: all documents of the batch
        rows: int64 (R,) which of them, ascending
    """
    ids = Ragged(encoded.ids, encoded.document_offsets).take(rows)
    lengths = Ragged(encoded.sentence_lengths, encoded.sentence_offsets).take(rows)
    types = [schema.field(name).type for name in ("input_ids", "sentence_lengths")]
    columns = [
        to_column(sources),
        to_column(positions),
        to_list_column(ids.values, ids.offsets, types[0]),
        to_list_column(lengths.values, lengths.offsets, types[1]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
