"""Arrow shards: rows in, files of the target size out.

The bytes of a shard depend on its rows alone, not on the batches in which they came.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmdata.files import AtomicFile, output_errors
from lmdata.schema import ShardRecord
from lmdata.settings import DEFAULT_SHARD_BYTES
from lmdata.shards import count_tokens, describe_blocks, row_bytes

RECORD_BATCH_BYTES = 8 << 20  # a reader maps one at a time; small enough to be built in memory
_KEPT = "the shards finished before it are kept and the open one was removed"


class ShardFile:
    """One Arrow IPC file, uncompressed so that it can be memory-mapped."""

    def __init__(self, path: Path, schema: pa.Schema, *, is_part: bool = False) -> None:
        """Begin the file; a part of an unfinished build keeps no hashes of its blocks."""
        self._file = AtomicFile(path, is_durable=not is_part)
        self._is_part = is_part
        self._ends: list[int] = []  # of the record batches in the file
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), schema)
        self._num_rows = 0
        self._num_tokens = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append one record batch."""
        self._writer.write_batch(batch)
        self._ends.append(self._file.tell())
        self._num_rows += batch.num_rows
        self._num_tokens += count_tokens(batch)

    def commit(self) -> ShardRecord:
        """Write the footer, give the file its name and return what the manifest keeps of it."""
        self._writer.close()
        blocks, frame = None, None
        if not self._is_part:
            blocks, frame = describe_blocks(self._file.partial_path, self._ends)
        self._file.commit()
        return ShardRecord(
            file=self._file.path.name, rows=self._num_rows, tokens=self._num_tokens,
            bytes=self._file.size_bytes, xxh3=self._file.xxh3, blocks=blocks, frame=frame,
        )  # fmt: skip

    def close(self) -> None:
        """Remove the file, unless it has been committed."""
        self._file.close()


class ShardWriter:
    """Rows in, shards `SPLIT-00000.arrow`, `SPLIT-00001.arrow` ... out, cut by size.

    A record batch ends before the row that would make it larger than `batch_bytes`, a shard
    before the row that would make it larger than `shard_bytes`; a row is never split, so a larger
    one has a batch or a shard of its own.
    """

    def __init__(
        self, folder: Path, split: str, schema: pa.Schema, *,
        shard_bytes: int = DEFAULT_SHARD_BYTES, batch_bytes: int = RECORD_BATCH_BYTES,
        first_shard: int = 0,
    ) -> None:  # fmt: skip
        self.finished: list[ShardRecord] = []
        self._folder, self._split, self._schema = folder, split, schema
        self._shard_bytes, self._batch_bytes = shard_bytes, min(batch_bytes, shard_bytes)
        self._next_shard = first_shard
        self._open: ShardFile | None = None
        self._open_bytes = 0
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows of any number; their columns are copied at the latest when a batch is full.

        Raises:
            OutputError: the disk is full or the folder can't be written; the open shard is removed
        """
        ends = np.cumsum(row_bytes(batch))
        start = done = 0
        while start < batch.num_rows:
            stop = int(np.searchsorted(ends, done + self._room(), side="right"))
            if stop == start and not self._pending:
                stop = start + 1
            if stop > start:
                self._pending.append(batch.slice(start, stop - start))
                self._pending_bytes += int(ends[stop - 1]) - done
                start, done = stop, int(ends[stop - 1])
            if start < batch.num_rows:
                self._make_room(int(ends[start]) - done)

    def end_shard(self) -> None:
        """Finish the open shard, if there is one; the next row begins another."""
        self._flush()
        if self._open is not None:
            shard, self._open, self._open_bytes = self._open, None, 0
            with self._cleaned_up(shard):
                self.finished.append(shard.commit())

    def finish(self) -> list[ShardRecord]:
        """Finish the last shard and return all that this writer finished."""
        self.end_shard()
        return self.finished

    def close(self) -> None:
        """Remove the open shard, if there is one."""
        self._pending = []
        if self._open is not None:
            self._open.close()
            self._open = None

    def _room(self) -> int:
        """The bytes that still fit into the pending batch."""
        in_shard = self._shard_bytes - self._open_bytes - self._pending_bytes
        return min(self._batch_bytes - self._pending_bytes, in_shard)

    def _make_room(self, next_row_bytes: int) -> None:
        """End the batch, and the shard if the next row does not fit into it."""
        self._flush()
        if self._open_bytes + next_row_bytes > self._shard_bytes:
            self.end_shard()

    def _flush(self) -> None:
        if not self._pending:
            return
        batch = join_batches(self._pending)
        shard = self._open_shard()
        with self._cleaned_up(shard):
            shard.write(batch)
        self._open_bytes += self._pending_bytes
        self._pending, self._pending_bytes = [], 0

    def _open_shard(self) -> ShardFile:
        if self._open is None:
            path = self._folder / shard_name(self._split, self._next_shard)
            with output_errors(path, _KEPT):
                self._open = ShardFile(path, self._schema)
            self._next_shard += 1
        return self._open

    @contextmanager
    def _cleaned_up(self, shard: ShardFile) -> Iterator[None]:
        """Remove the open shard when writing it fails."""
        path = self._folder / shard_name(self._split, self._next_shard - 1)
        try:
            with output_errors(path, _KEPT):
                yield
        except BaseException:
            shard.close()
            self._open = None
            raise


def shard_name(split: str, number: int) -> str:
    """Return the file name of a shard.

    Example:
        >>> shard_name("train", 3)
        'train-00003.arrow'
    """
    return f"{split}-{number:05d}.arrow"


def join_batches(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Return one record batch with the rows of all, always a copy.

    PyArrow writes the bytes that follow a slice as its padding, so that the bytes of a file would
    depend on what a slice was cut from; a copy has zeros there.
    """
    return pa.concat_batches(batches)
