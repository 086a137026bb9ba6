"""Arrow shards as files: what they hold, and whether they are what the manifest promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from lmdata.columns import to_array
from lmdata.errors import IntegrityError
from lmdata.schema import Manifest, ShardRecord, dataset_schema
from lmdata.xxh3 import hash_file

Verify = Literal["sizes", "hashes"]


def read_batches(
    folder: Path, manifest: Manifest, split: str, *, verify: Verify = "sizes"
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield each record batch of a split and its first row, on a memory map, after checking.

    Raises:
        IntegrityError: a shard is missing, truncated, swapped or altered
    """
    schema = dataset_schema(manifest)
    row = 0
    for shard in manifest.splits[split]:
        check_shard(folder, shard, verify=verify)
        for batch in map_shard(folder / shard.file, shard, schema):
            yield row, batch
            row += batch.num_rows


def check_shard(folder: Path, shard: ShardRecord, *, verify: Verify = "hashes") -> None:
    """Raise unless a shard is there, of the promised size and (with "hashes") of the same bytes.

    Raises:
        IntegrityError: missing, truncated or altered
    """
    path = folder / shard.file
    if not path.is_file():
        raise IntegrityError(f"{path} is missing: restore it, or build {folder} again")
    size_bytes = path.stat().st_size
    if size_bytes != shard.bytes:
        raise IntegrityError(
            f"{path} has {size_bytes} bytes instead of {shard.bytes} (truncated or swapped): "
            f"restore it, or build {folder} again"
        )
    if verify == "hashes" and (found := hash_file(path)) != shard.xxh3:
        raise IntegrityError(
            f"{path} was altered, its xxh3 is {found} instead of {shard.xxh3}: restore it, or "
            f"build {folder} again"
        )


def map_shard(path: Path, shard: ShardRecord, schema: pa.Schema) -> list[pa.RecordBatch]:
    """Return the record batches of a shard, on a memory map that lives as long as they do.

    Raises:
        IntegrityError: not an Arrow file, other columns, or other counts than the manifest's
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if not reader.schema.equals(schema):
            raise IntegrityError(
                f"{path} has other columns than its manifest promises "
                f"({', '.join(map(str, reader.schema))}): restore it, or build it again"
            )
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        for batch in batches:
            _validate(batch)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(
            f"{path} is damaged ({error}): restore it, or build it again"
        ) from error
    rows, tokens = sum(b.num_rows for b in batches), sum(map(count_tokens, batches))
    if (rows, tokens) != (shard.rows, shard.tokens):
        raise IntegrityError(
            f"{path} holds {rows} rows and {tokens} tokens instead of {shard.rows} and "
            f"{shard.tokens} (swapped?): restore it, or build it again"
        )
    return batches


def _validate(batch: pa.RecordBatch) -> None:
    """Raise ArrowInvalid for buffers that do not fit together; does not look at each value."""
    batch.validate()
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if column.null_count and not field.nullable:
            raise pa.ArrowInvalid(f"{column.null_count} nulls in column {field.name}")


def count_tokens(batch: pa.RecordBatch) -> int:
    """Return the number of ids in the column `input_ids`."""
    offsets = _list_offsets(batch.column("input_ids"))
    return int(offsets[-1]) - int(offsets[0])


def row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """Return what each row takes in a shard: int64 array (num_rows,).

    A list counts its values and one offset, a dictionary its index; validity bits and padding are
    left out.

    Example:
        >>> lists = pa.array([[1, 2], []], pa.list_(pa.uint16()))
        >>> row_bytes(pa.record_batch({"ids": lists, "label": pa.array([0, 1], pa.int8())}))
        array([9, 5])
    """
    total = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            offsets = _list_offsets(column)
            width = kind.value_type.bit_width // 8
            total += np.diff(offsets.astype(np.int64)) * width + offsets.itemsize
        else:
            total += (kind.index_type if pa.types.is_dictionary(kind) else kind).bit_width // 8
    return total


def _list_offsets(column: pa.Array) -> np.ndarray:
    """Offsets of a list column, of this slice only: int32 | int64 array (rows + 1,)."""
    return to_array(column.offsets)
