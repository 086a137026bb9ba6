"""Parts in, shards out: the rows of all units, in order, cut into files of the target size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmdata.building.output import OutputFolder
from lmdata.building.plan import TokenizeConfig
from lmdata.building.resumable import SplitShards
from lmdata.building.units import UnitReceipt, part_schema
from lmdata.columns import to_array, to_column, to_text_column
from lmdata.corpus import Source
from lmdata.schema import ShardRecord, token_schema
from lmdata.shards import map_shard

# A shard's dictionary lists at most this many consecutive sources, so that a corpus of a million
# small files does not repeat a million names in every shard.
DICTIONARY_SIZE = 1 << 16


class Assembly:
    """The shards of all splits, growing with each unit that is done; resumable at whole shards."""

    def __init__(
        self, folder: OutputFolder, sources: Sequence[Source], config: TokenizeConfig,
        id_dtype: np.dtype[Any],
    ) -> None:  # fmt: skip
        self._build = folder.build
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
            skipped = place.begin_part(self._build / part.file, part.rows)
            if skipped < part.rows:
                for batch in map_shard(self._build / part.file, part, self._part_schema):
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

    def __init__(
        self, folder: OutputFolder, split: str, schema: pa.Schema, shard_bytes: int
    ) -> None:
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
