"""Shards whose bytes depend on their rows alone."""

from __future__ import annotations

import errno
import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from lmdata.errors import OutputError
from lmdata.files import AtomicFile
from lmdata.schema import example_schema, token_schema
from lmdata.shards import count_tokens, row_bytes
from lmdata.writer import ShardWriter
from lmdata.xxh3 import hash_file

SCHEMA = token_schema(np.dtype(np.uint16))


def make_batch(lengths: list[int], first: int = 0) -> pa.RecordBatch:
    rows = range(first, first + len(lengths))
    ids = [[(row * 7 + k) % 65536 for k in range(n)] for row, n in zip(rows, lengths, strict=True)]
    codes = pa.array([row % 2 for row in rows], pa.int32())
    return pa.RecordBatch.from_arrays(
        [
            pa.DictionaryArray.from_arrays(codes, pa.array(["a.txt", "b.txt"])),
            pa.array(rows, pa.uint64()),
            pa.array(ids, SCHEMA.field("input_ids").type),
            pa.array([[n] if n else [] for n in lengths], SCHEMA.field("sentence_lengths").type),
        ],
        schema=SCHEMA,
    )


def write_rows(folder: Path, batches: list[pa.RecordBatch], **sizes: int) -> list[bytes]:
    folder.mkdir(exist_ok=True)
    shards = ShardWriter(folder, "train", SCHEMA, **sizes)
    for batch in batches:
        shards.write(batch)
    records = shards.finish()
    assert sorted(path.name for path in folder.iterdir()) == [record.file for record in records]
    return [(folder / record.file).read_bytes() for record in records]


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    shard_bytes=st.integers(1, 900),
    batch_bytes=st.integers(1, 400),
)
def test_the_same_rows_in_any_batches_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    cuts: list[int],
    shard_bytes: int,
    batch_bytes: int,
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    whole = make_batch(lengths)
    bounds = sorted({0, len(lengths), *(cut for cut in cuts if cut < len(lengths))})
    pieces = [whole.slice(a, b - a) for a, b in pairwise(bounds)]
    sizes = {"shard_bytes": shard_bytes, "batch_bytes": batch_bytes}
    expected = write_rows(folder / "whole", [whole], **sizes)
    assert write_rows(folder / "pieces", pieces, **sizes) == expected
    tables = [pa.ipc.open_file(data).read_all() for data in expected]
    assert pa.concat_tables(tables).equals(pa.Table.from_batches([whole]))
    for table in tables:  # no shard is larger than asked, unless by a single row
        assert table.num_rows == 1 or row_bytes(join(table)).sum() <= shard_bytes


def join(table: pa.Table) -> pa.RecordBatch:
    return pa.concat_batches(table.to_batches())


def test_a_shard_is_as_full_as_it_may_be(tmp_path: Path) -> None:
    width = int(row_bytes(make_batch([5]))[0])
    shards = ShardWriter(tmp_path, "train", SCHEMA, shard_bytes=3 * width)
    shards.write(make_batch([5] * 7))
    assert [record.rows for record in shards.finish()] == [3, 3, 1]


def test_the_record_of_a_shard_describes_its_file(tmp_path: Path) -> None:
    shards = ShardWriter(tmp_path, "test", SCHEMA)
    shards.write(make_batch([3, 0, 4]))
    (record,) = shards.finish()
    data = (tmp_path / "test-00000.arrow").read_bytes()
    assert (record.file, record.rows, record.tokens) == ("test-00000.arrow", 3, 7)
    assert (record.bytes, record.xxh3) == (len(data), xxhash.xxh3_128_hexdigest(data))
    assert hash_file(tmp_path / record.file) == record.xxh3


def test_shards_of_examples_keep_null_labels(tmp_path: Path) -> None:
    schema = example_schema(np.dtype(np.uint16))
    lists = [pa.array([[1, 2], [3]], schema.field(index).type) for index in range(4)]
    labels = pa.array([None, 1], pa.int8())
    rest = [pa.array([0, 1], schema.field(index).type) for index in (5, 6, 7)]
    batch = pa.RecordBatch.from_arrays([*lists, labels, *rest], schema=schema)
    shards = ShardWriter(tmp_path, "train", schema)
    shards.write(batch.slice(0, 1))
    shards.write(batch.slice(1, 1))
    (record,) = shards.finish()
    table = pa.ipc.open_file(tmp_path / record.file).read_all()
    assert table.column("next_sentence_label").to_pylist() == [None, 1]


def test_row_bytes_and_tokens_look_only_at_the_slice() -> None:
    batch = make_batch([2, 9, 4])
    assert row_bytes(batch.slice(1, 1)).tolist() == [row_bytes(batch)[1]]
    assert count_tokens(batch.slice(1, 2)) == 13


def test_a_disk_that_fills_up_ends_the_shard_and_keeps_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = ShardWriter(tmp_path, "train", SCHEMA, shard_bytes=100, batch_bytes=100)
    shards.write(make_batch([30, 30]))
    shards.end_shard()
    first = [path.name for path in tmp_path.iterdir()]

    def refuse(self: AtomicFile, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(AtomicFile, "write", refuse)
    with pytest.raises(OutputError, match=re.escape("the shards finished before it are kept")):
        shards.write(make_batch([60, 60]))
    shards.close()
    assert [path.name for path in tmp_path.iterdir()] == first
