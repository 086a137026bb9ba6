"""Parts and receipts of all units in, shards and ledger out.

The rows, in order, are cut into files of the target size; the receipts, summed, say what became of
every document and source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmdata.batch import to_array, to_column, to_text_column
from lmdata.building.output import AnyFolder
from lmdata.building.plan import UnitReceipt, part_schema
from lmdata.building.receipts import in_build
from lmdata.building.resumable import SplitShards
from lmdata.encoding import RoundTrip
from lmdata.reading.rewrites import flows_of_replaced
from lmdata.reading.sources import Source
from lmdata.schema import Flow, Ledger, ShardRecord, SourceRecord, token_schema
from lmdata.settings import TokenizeConfig
from lmdata.shards import map_shard

# A shard's dictionary lists at most this many consecutive sources, so that a corpus of a million
# small files does not repeat a million names in every shard.
DICTIONARY_SIZE = 1 << 16


class Assembly:
    """The shards of all splits, growing with each unit that is done; resumable at whole shards."""

    def __init__(
        self, folder: AnyFolder, sources: Sequence[Source], config: TokenizeConfig,
        id_dtype: np.dtype[Any],
    ) -> None:  # fmt: skip
        self._place = folder.place
        self._names = [source.name for source in sources]
        self._schema, self._part_schema = token_schema(id_dtype), part_schema(id_dtype)
        self._splits = {
            split: _SplitAssembly(folder, split, self._schema, config.shard_bytes)
            for split in config.split_ratios
        }
        self._num_records: dict[int, int] = {}  # source -> lines or records in the units so far
        self._window: tuple[int, pa.Array] = (-1, None)
        self._has_forgotten = False

    def needs(self, receipt: UnitReceipt) -> list[ShardRecord]:
        """Return the parts of the next unit whose rows are not all in finished shards.

        To be asked for every unit in order, before anything is added; `forget` for one without a
        receipt. All parts are needed from there on, since nobody knows which rows they hold.
        """
        return [
            part
            for split, part in receipt.parts.items()
            if self._splits[split].expect(part.rows) or self._has_forgotten
        ]

    def forget(self) -> None:
        """Pass over a unit that has to be done again."""
        self._has_forgotten = True

    def add(self, receipt: UnitReceipt) -> None:
        """Append the rows of the next unit.

        Raises:
            IntegrityError: a part is missing or damaged
            OutputError: the disk is full or the folder can't be written
        """
        for split, part in receipt.parts.items():
            place = self._splits[split]
            name = in_build(part.file)
            skipped = place.begin_part(self._place.folder / name, part.rows)
            if skipped < part.rows:
                for batch in map_shard(self._place.bring(name), part, self._part_schema):
                    rows = batch.slice(min(skipped, batch.num_rows))
                    skipped -= batch.num_rows - rows.num_rows
                    for window, ready in self._finish_rows(rows):
                        place.write(window, ready)
            place.remove_done_parts()
        for source, count in receipt.records.items():
            self._num_records[int(source)] = self._num_records.get(int(source), 0) + count

    def finish(self) -> dict[str, tuple[ShardRecord, ...]]:
        """Finish the last shard of every split and return all shards."""
        return {split: place.finish() for split, place in self._splits.items()}

    @property
    def has_shards(self) -> bool:
        """Whether any shard is finished."""
        return any(place.shards.shards for place in self._splits.values())

    def close(self) -> None:
        """Remove the open shards."""
        for place in self._splits.values():
            place.shards.close()

    def _finish_rows(self, batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows as they lie in a shard, by dictionary window."""
        sources = to_array(batch.column("source"))
        windows = sources // DICTIONARY_SIZE
        bounds = [0, *(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(sources)]
        for start, stop in pairwise(bounds):
            if stop > start:
                window = int(windows[start])
                yield window, self._finish_window(batch.slice(start, stop - start), window)

    def _finish_window(self, batch: pa.RecordBatch, window: int) -> pa.RecordBatch:
        sources = to_array(batch.column("source"))
        before = [self._num_records.get(source, 0) for source in range(sources[0], sources[-1] + 1)]
        positions = to_array(batch.column("position"))
        positions = positions + np.array(before, np.uint64)[sources - sources[0]]
        if self._window[0] != window:
            first = window * DICTIONARY_SIZE
            self._window = window, to_text_column(self._names[first : first + DICTIONARY_SIZE])
        codes = to_column((sources - window * DICTIONARY_SIZE).astype(np.int32, copy=False))
        names = pa.DictionaryArray.from_arrays(codes, self._window[1])
        return pa.RecordBatch.from_arrays(
            [names, to_column(positions), *batch.columns[2:]], schema=self._schema
        )


class _SplitAssembly:
    """The shards of one split, and the parts that still wait for theirs."""

    def __init__(self, folder: AnyFolder, split: str, schema: pa.Schema, shard_bytes: int) -> None:
        self.shards = SplitShards(folder, split, schema, shard_bytes)
        self._num_expected_rows = self._num_begun_rows = 0
        self._window = -1
        self._waiting: list[tuple[int, Path]] = []  # rows of the split up to and with this part

    def expect(self, num_rows: int) -> bool:
        """Return whether the next part has rows that are in no finished shard yet."""
        self._num_expected_rows += num_rows
        return self._num_expected_rows > self.shards.num_rows

    def begin_part(self, path: Path, num_rows: int) -> int:
        """Return how many rows at the beginning of the next part are in finished shards."""
        first_row = self._num_begun_rows
        self._num_begun_rows += num_rows
        self._waiting.append((self._num_begun_rows, path))
        return min(max(self.shards.num_rows - first_row, 0), num_rows)

    def write(self, window: int, batch: pa.RecordBatch) -> None:
        if window != self._window:
            self.shards.end_shard()
            self._window = window
        self.shards.write(batch)

    def remove_done_parts(self) -> None:
        """Remove the parts whose rows are all in finished shards."""
        while self._waiting and self._waiting[0][0] <= self.shards.num_rows:
            self._waiting.pop(0)[1].unlink(missing_ok=True)

    def finish(self) -> tuple[ShardRecord, ...]:
        self.shards.end_shard()
        self.remove_done_parts()
        return tuple(self.shards.shards)


class Totals:
    """What the receipts of all units say together; of a unit nothing is kept."""

    def __init__(self, num_sources: int) -> None:
        self._read, self._written_bytes = Counter[str](), Counter[str]()
        self._dropped, self._dropped_bytes = Counter[str](), Counter[str]()
        self._replaced = Counter[str]()
        self._documents, self._tokens = (np.zeros(num_sources, np.int64) for _ in range(2))
        self._hashes: dict[int, str] = {}
        self._encoders: set[str] = set()
        self._sample = RoundTrip()  # what came back of the characters of all units' samples

    def add(self, receipt: UnitReceipt) -> None:
        """Take in what one more unit says."""
        self._read.update(receipt.read)
        self._dropped.update(receipt.dropped)
        self._dropped_bytes.update(receipt.dropped_bytes)
        self._written_bytes.update(receipt.written_bytes)
        self._replaced.update(receipt.replaced)
        for counts, added in (
            (self._documents, receipt.documents), (self._tokens, receipt.tokens),
        ):  # fmt: skip
            for source, count in added.items():
                counts[int(source)] += count
        for source, found in receipt.hashes.items():
            self._hashes[int(source)] = found
        self._encoders.add(receipt.encoder)
        self._sample += receipt.round_trip

    def ledger(self, splits: Mapping[str, Sequence[ShardRecord]]) -> Ledger:
        """Return the ledger: what the readers counted against what lies in the shards."""
        sample, lost = self._sample, sum(self._sample.lost.values())
        rows = {split: sum(shard.rows for shard in shards) for split, shards in splits.items()}
        tokens = {split: sum(shard.tokens for shard in shards) for split, shards in splits.items()}
        written_bytes = {**dict.fromkeys(splits, 0), **self._written_bytes}
        return Ledger(
            flows={
                "documents": Flow(
                    read=self._read["documents"], written=rows, dropped=dict(self._dropped)
                ),
                "bytes": Flow(
                    read=self._read["bytes"], written=written_bytes,
                    dropped=dict(self._dropped_bytes),
                ),
                "tokens": Flow(read=self._read["tokens"], written=tokens, dropped={}),
                "characters": Flow(
                    read=sample.characters, written={"come back": sample.characters - lost},
                    dropped=sample.lost,
                ),
                **flows_of_replaced(self._replaced),
            }
        )  # fmt: skip

    def notes(self) -> tuple[str, ...]:
        """Return the notes of a store: how its text was encoded, and what does not come back."""
        encoders = sorted(f"encoder: {encoder}" for encoder in self._encoders)
        lost = self._sample.sentence
        return (*encoders, *([lost] if lost else []))

    def sources(self, sources: Sequence[Source]) -> tuple[SourceRecord, ...]:
        """Return what the manifest keeps of each source."""
        return tuple(
            SourceRecord(
                name=source.name, bytes=source.size_bytes, xxh3=self._hashes[index],
                documents=int(self._documents[index]), tokens=int(self._tokens[index]),
            )
            for index, source in enumerate(sources)
        )  # fmt: skip

    def nothing(self) -> str:
        """Say why there is nothing to write."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self._dropped.items()))
        return f"no text was found: {reasons or 'no documents'}; is this the right corpus or field?"
