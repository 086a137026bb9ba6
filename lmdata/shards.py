"""Arrow shards as files, and what keeps damage from being used.

The manifest has a hash of everything in a shard that is not a value (the frame: schema,
dictionaries, where buffers lie) and one of each buffer of each block (record batch). The frame is
compared before a shard is opened, a buffer before it is used for the first time. Shards of format
version 1 have one hash each, which is compared before any of their values are used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lmdata.batch import to_array
from lmdata.errors import IntegrityError
from lmdata.schema import BlockRecord, Manifest, ShardRecord, dataset_schema
from lmdata.xxh3 import hash_file, xxh3_128

Verify = Literal["sizes", "hashes"]
OFFSETS = " offsets"  # after the name of a list column: where its rows begin
_DAMAGES = (pa.ArrowException, OSError, ValueError, IndexError, KeyError)  # of a file that lies


class Shard:
    """A shard on a memory map that lives as long as its blocks are used."""

    def __init__(self, folder: Path, record: ShardRecord, schema: pa.Schema) -> None:
        """Open a shard whose frame is what the manifest promises.

        Raises:
            IntegrityError: missing, truncated, with another frame, other columns or other counts
        """
        check_size(folder, record)
        self.path, self.record = folder / record.file, record
        self._is_whole = False  # of version 1: the file was compared
        try:
            data = pa.memory_map(str(self.path)).read_buffer()
            if record.blocks is not None:
                self._check_frame(data, record.blocks)
            batches = _read_batches(data, schema, self.path)
            self._blocks = [
                (batch, _find_buffers(batch, data, number, record))
                for number, batch in enumerate(batches)
            ]
            rows, tokens = sum(b.num_rows for b in batches), sum(map(_num_ids, batches))
        except _DAMAGES as error:
            raise self.damage(str(error)) from error
        if (rows, tokens) != (record.rows, record.tokens):
            raise IntegrityError(
                f"{self.path} holds {rows} rows and {tokens} tokens instead of {record.rows} and "
                f"{record.tokens} (swapped?): restore it, or build {folder} again"
            )

    @property
    def blocks(self) -> list[Block]:
        """Its blocks, made anew: they know the shard; if it knew them, it would stay mapped."""
        return [Block(self, number, *own) for number, own in enumerate(self._blocks)]

    def _check_frame(self, data: pa.Buffer, blocks: Sequence[BlockRecord]) -> None:
        if hash_frame(data, blocks) != self.record.frame:
            raise self.damage("its schema, its names or its lists of buffers were altered")

    def check_whole(self) -> None:
        """Compare the whole file, once.

        Raises:
            IntegrityError: altered
        """
        if not self._is_whole:
            check_hash(self.path.parent, self.record)
            self._is_whole = True

    def damage(self, problem: str, place: str = "") -> IntegrityError:
        """Return the error that says where and what, and what to do."""
        return IntegrityError(
            f"{self.path}{place} is damaged ({problem}): restore it, or build {self.path.parent} "
            "again"
        )


class Block:
    """One record batch of a shard; its columns are compared with their hashes when they are used.

    Attributes:
        batch: unverified; lengths and types are right, values may be anything
        first_row: within the split
    """

    def __init__(
        self, shard: Shard, number: int, batch: pa.RecordBatch, buffers: list[HashedBuffer]
    ) -> None:
        self.shard, self.number, self.batch, self.first_row = shard, number, batch, 0
        self._buffers = buffers
        self._checked: set[str] = set()

    def check(self, name: str) -> None:
        """Compare a column, or the offsets of one (NAME + OFFSETS), unless that was done.

        Raises:
            IntegrityError: altered; names file, block and column
        """
        if name in self._checked:
            return
        if self.shard.record.blocks is None:
            self.shard.check_whole()
        for buffer in self._buffers:
            if buffer.name == name and hash_bytes(buffer.data) != buffer.xxh3:
                raise self.damage(name, "its xxh3 is not the manifest's")
        self._checked.add(name)

    def read(self, names: Collection[str] | None = None) -> pa.RecordBatch:
        """Return the record batch with its columns compared.

        Args:
            names: of the columns that will be used; the values of others may be anything

        Raises:
            IntegrityError: altered
        """
        for field in self.batch.schema:
            self.check(field.name + OFFSETS)
            if names is None or field.name in names:
                self.check(field.name)
        try:
            _validate(self.batch)
        except pa.ArrowInvalid as error:  # of version 1, or of hashes that were made to fit
            raise self.damage("", str(error)) from error
        return self.batch

    def damages(self) -> Iterator[IntegrityError]:
        """Yield what is wrong with each column."""
        for field in self.batch.schema:
            for part in (field.name + OFFSETS, field.name):
                try:
                    self.check(part)
                except IntegrityError as error:
                    yield error

    def damage(self, column: str, problem: str) -> IntegrityError:
        """Return the error that names this block and a column."""
        where = f", column {column}" if column else ""
        return self.shard.damage(problem, f", block {self.number}{where}")


@dataclass(frozen=True)
class HashedBuffer:
    """A buffer of a block, up to where the next begins, and the hash it must have."""

    name: str  # of the column, with OFFSETS behind it for where its rows begin
    data: pa.Buffer
    xxh3: str


def read_blocks(
    folder: Path, manifest: Manifest, split: str, *, verify: Verify = "sizes"
) -> list[Block]:
    """Return the blocks of a split in order, on memory maps, each to be verified when it is used.

    Args:
        folder: of the dataset
        manifest: of the dataset
        split: one that it has
        verify: "hashes" compares every byte now

    Raises:
        IntegrityError: a shard is missing, truncated, swapped or altered
    """
    schema = dataset_schema(manifest)
    blocks: list[Block] = []
    row = 0
    for record in manifest.splits[split]:
        shard = Shard(folder, record, schema)
        if verify == "hashes":
            shard.check_whole()
        for block in shard.blocks:
            block.first_row = row
            row += block.batch.num_rows
            blocks.append(block)
    return blocks


def map_shard(
    path: Path, record: ShardRecord, schema: pa.Schema, names: Collection[str] | None = None
) -> list[pa.RecordBatch]:
    """Return the record batches of a shard, on a memory map, with the named columns compared.

    Without `names`, every column is.

    Raises:
        IntegrityError: altered, not an Arrow file, other columns, or other counts
    """
    return [block.read(names) for block in Shard(path.parent, record, schema).blocks]


def check_shard(folder: Path, record: ShardRecord) -> None:
    """Raise unless a shard is there, of the promised size and bytes.

    Raises:
        IntegrityError: missing, truncated or altered
    """
    check_size(folder, record)
    check_hash(folder, record)


def check_size(folder: Path, record: ShardRecord) -> None:
    """Raise an IntegrityError unless a shard is there and of the promised size."""
    path = folder / record.file
    if not path.is_file():
        raise IntegrityError(f"{path} is missing: restore it, or build {folder} again")
    size_bytes = path.stat().st_size
    if size_bytes != record.bytes:
        raise IntegrityError(
            f"{path} has {size_bytes} bytes instead of {record.bytes} (truncated or swapped): "
            f"restore it, or build {folder} again"
        )


def check_hash(folder: Path, record: ShardRecord) -> None:
    """Raise an IntegrityError unless the bytes of a shard are the promised ones."""
    path = folder / record.file
    if (found := hash_file(path)) != record.xxh3:
        raise IntegrityError(
            f"{path} was altered, its xxh3 is {found} instead of {record.xxh3}: restore it, or "
            f"build {folder} again"
        )


def hash_bytes(data: Any) -> str:
    """Return the xxh3_128 of a buffer, hexadecimal.

    Example:
        >>> hash_bytes(b"")
        '99aa06d3014798d86001c324468d497f'
    """
    return str(xxh3_128(data).hexdigest())


def hash_frame(data: pa.Buffer, blocks: Sequence[BlockRecord]) -> str:
    """Return the hash of the bytes of a shard that lie in no block, one stretch after the other."""
    frame, whole = xxh3_128(), memoryview(data)
    edges = [0, *(edge for block in blocks for edge in (block.start, block.stop)), len(whole)]
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        frame.update(whole[start:stop])
    return str(frame.hexdigest())


def describe_blocks(path: Path, ends: Sequence[int]) -> tuple[tuple[BlockRecord, ...], str]:
    """Return what the manifest keeps of the blocks of a file just written, and of its frame.

    Args:
        path: an Arrow file
        ends: where each record batch ends in it
    """
    data = pa.memory_map(str(path)).read_buffer()
    reader = pa.ipc.open_file(data)
    blocks = []
    for number, end in enumerate(ends):
        places = _buffer_places(reader.get_batch(number), data)
        edges = [start for _, start in places] + [end]
        hashes = tuple(hash_bytes(data[a:b]) for a, b in pairwise(edges))
        blocks.append(BlockRecord(start=edges[0], stop=end, xxh3=hashes))
    return tuple(blocks), hash_frame(data, blocks)


def _buffer_places(batch: pa.RecordBatch, data: pa.Buffer) -> list[tuple[str, int]]:
    """Return the buffers of a record batch in the order of the file: of what, and where."""
    places = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        is_list = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
        for place, buffer in enumerate(column.buffers()):
            if buffer is not None and buffer.size:
                name = field.name + (OFFSETS if is_list and place == 1 else "")
                places.append((name, buffer.address - data.address))
    return sorted(places, key=lambda place: place[1])


def _find_buffers(
    batch: pa.RecordBatch, data: pa.Buffer, number: int, record: ShardRecord
) -> list[HashedBuffer]:
    """Return the buffers of a block with their hashes; none in version 1."""
    if record.blocks is None:
        return []
    block, places = record.blocks[number], _buffer_places(batch, data)
    edges = [start for _, start in places] + [block.stop]
    if edges[0] != block.start or len(places) != len(block.xxh3):
        raise ValueError(f"block {number} has other buffers than the manifest promises")
    return [
        HashedBuffer(name, data[start:stop], xxh3)
        for (name, start), stop, xxh3 in zip(places, edges[1:], block.xxh3, strict=True)
    ]


def _read_batches(data: pa.Buffer, schema: pa.Schema, path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(data)
    if not reader.schema.equals(schema):
        raise IntegrityError(
            f"{path} has other columns than its manifest promises "
            f"({', '.join(map(str, reader.schema))}): restore it, or build it again"
        )
    return [reader.get_batch(index) for index in range(reader.num_record_batches)]


def _num_ids(batch: pa.RecordBatch) -> int:
    """Return the ids that a record batch has by its metadata, without a look at its values."""
    if "input_ids" not in batch.schema.names:
        return 0
    return len(batch.column("input_ids").values)


def _validate(batch: pa.RecordBatch) -> None:
    """Raise ArrowInvalid for buffers that do not fit together; does not look at each value."""
    batch.validate()
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if column.null_count and not field.nullable:
            raise pa.ArrowInvalid(f"{column.null_count} nulls in column {field.name}")


def count_tokens(batch: pa.RecordBatch) -> int:
    """Return the number of ids in the column `input_ids`, 0 where there is none."""
    if "input_ids" not in batch.schema.names:
        return 0
    offsets = _list_offsets(batch.column("input_ids"))
    return int(offsets[-1]) - int(offsets[0])


def row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """Return what each row takes in a shard: int64 array (num_rows,).

    A list or text counts its values and one offset, a dictionary its index; validity bits and
    padding are left out.

    Example:
        >>> lists = pa.array([[1, 2], []], pa.list_(pa.uint16()))
        >>> row_bytes(pa.record_batch({"ids": lists, "label": pa.array([0, 1], pa.int8())}))
        array([9, 5])
    """
    ends, each = np.zeros(batch.num_rows + 1, np.int64), 0
    for column in batch.columns:
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            offsets = _list_offsets(column)
            ends += offsets.astype(np.int64, copy=False) * (kind.value_type.bit_width // 8)
            each += offsets.itemsize
        elif pa.types.is_string(kind):
            offsets = np.frombuffer(column.buffers()[1], np.int32)
            ends += offsets[column.offset : column.offset + len(column) + 1]
            each += offsets.itemsize
        else:
            each += (kind.index_type if pa.types.is_dictionary(kind) else kind).bit_width // 8
    return np.diff(ends) + each


def _list_offsets(column: pa.Array) -> np.ndarray:
    """Offsets of a list column, of this slice only: int32 | int64 array (rows + 1,)."""
    return to_array(column.offsets)
