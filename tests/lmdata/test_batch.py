import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.batch import (
    COLUMNS,
    Column,
    ExampleBatch,
    concatenate,
    from_record_batch,
    no_examples,
    to_record_batch,
)
from lmdata.dataset import open_examples
from lmdata.errors import IntegrityError
from lmdata.ragged import offsets_of
from lmdata.schema import example_schema
from lmdata.verification import check_files
from references.made_up import write_dataset
from tests.lmdata.builds import make_tokenizer

NOISE = Column("noise_lengths", "uint16", "noise")
SCORE = Column("score", "float32")
RANK = Column("rank", "int16", null=-7)
MORE = (*COLUMNS, NOISE, SCORE, RANK)
STORED = tuple(column for column in MORE if column.is_stored)
ADDED = [vars(column) for column in (NOISE, SCORE, RANK)]


def make_examples(lengths, columns=MORE):
    """Examples of some lengths, half of their tokens masked, every value different."""
    lengths = np.array(lengths, np.int64)
    masks, noise = lengths // 2, lengths % 3
    offsets, num_rows = offsets_of(lengths), len(lengths)
    arrays = {
        "input_ids": np.arange(offsets[-1], dtype=np.uint16),
        "offsets": offsets,
        "token_type_ids": (np.arange(offsets[-1]) % 2).astype(np.uint8),
        "masked_positions": np.concatenate(
            [np.arange(n) for n in masks] or [[]]).astype(np.uint16),
        "mask_offsets": offsets_of(masks),
        "masked_labels": np.arange(masks.sum(), dtype=np.uint16),
        "next_sentence_label": (np.arange(num_rows) % 3 - 1).astype(np.int8),
        "document_a": np.arange(num_rows, dtype=np.uint64),
        "document_b": np.arange(num_rows, dtype=np.uint64) + 5,
        "duplicate": np.arange(num_rows, dtype=np.uint16),
        "segment_lengths": lengths.astype(np.int32),
        "segment_offsets": np.arange(num_rows + 1),
        "noise_lengths": np.arange(noise.sum(), dtype=np.uint16) + 100,
        "noise_offsets": offsets_of(noise),
        "score": np.arange(num_rows, dtype=np.float32) / 3,
        "rank": (np.arange(num_rows) % 4 - 7).astype(np.int16),
    }  # fmt: skip
    return ExampleBatch(columns, **arrays)


def rows_of(batch):
    """Return every example as comparable values."""
    names = [c.name for c in batch.columns if c.is_ragged]
    ragged = {c.name: batch.ragged(c) for c in batch.columns if c.is_ragged}
    flat = {c.name: batch.arrays()[c.name] for c in batch.columns if not c.is_ragged}
    return [
        {name: ragged[name].row(i).tolist() for name in names}
        | {name: values[i].item() for name, values in flat.items()}
        for i in range(len(batch))
    ]


lengths_strategy = st.lists(st.integers(1, 9), max_size=12)


@given(lengths_strategy, st.data())
def test_examples_with_columns_of_their_own_are_taken_sliced_and_joined(lengths, data):
    examples = make_examples(lengths)
    whole = rows_of(examples)
    cut = data.draw(st.integers(0, len(lengths)))
    parts = [examples.slice(0, cut), examples.slice(cut, len(lengths))]
    assert rows_of(parts[0]) == whole[:cut]
    assert rows_of(concatenate(parts)) == whole
    index = st.lists(st.integers(0, len(lengths) - 1), max_size=9) if lengths else st.just([])
    rows = data.draw(index)
    taken = examples.take(np.array(rows, np.int64))
    assert rows_of(taken) == [whole[row] for row in rows]
    assert {name: array.dtype for name, array in taken.arrays().items()} == {
        name: array.dtype for name, array in examples.arrays().items()
    }


@given(lengths_strategy)
def test_examples_with_columns_of_their_own_go_through_arrow(lengths):
    examples = make_examples(lengths)
    record = to_record_batch(examples, example_schema(np.dtype(np.uint16), MORE))
    assert record.schema.names == [column.name for column in STORED]
    assert record.column("rank").null_count == sum(i % 4 == 0 for i in range(len(lengths)))
    found = from_record_batch(record, MORE)
    kept = [{k: v for k, v in row.items() if k != "segment_lengths"} for row in rows_of(examples)]
    assert rows_of(found) == kept


def test_examples_with_columns_of_their_own_are_written_and_read(tmp_path):
    examples, tokenizer = make_examples([3, 4, 9, 5, 2, 7]), make_tokenizer()
    schema = example_schema(np.dtype(np.uint16), MORE)
    whole = to_record_batch(examples, schema)
    configuration = {"recipe": {"view": "single"}, "seed": 0, "columns": ADDED}
    write_dataset(tmp_path / "own", "examples", tokenizer, whole, configuration)
    shards = open_examples(tmp_path / "own", verify="hashes")
    rows = np.array([5, 0, 0, 3, 1])
    assert rows_of(shards.rows(rows)) == rows_of(examples.take(rows))
    assert rows_of(shards.rows(rows[:0])) == []
    checks = check_files(tmp_path / "own", shards.manifest)
    assert {row.verdict for row in checks} == {"pass"}


def test_shards_are_refused_whose_columns_are_not_those_of_the_manifest(tmp_path):
    whole = to_record_batch(make_examples([3]), example_schema(np.dtype(np.uint16), MORE))
    write_dataset(tmp_path / "no", "examples", make_tokenizer(), whole, {"recipe": {}, "seed": 0})
    with pytest.raises(IntegrityError, match="has other columns than its manifest promises"):
        open_examples(tmp_path / "no")
    broken = {"recipe": {}, "seed": 0, "columns": [{**ADDED[0], "dtype": "O"}]}
    write_dataset(tmp_path / "bad", "examples", make_tokenizer(), whole, broken)
    with pytest.raises(
        IntegrityError, match=r"configuration can't be read .*dtype must be of numbers"
    ):
        open_examples(tmp_path / "bad")


def test_rows_come_in_the_order_asked_for_across_blocks():
    examples = make_examples(range(1, 9))
    schema = example_schema(np.dtype(np.uint16), MORE)
    blocks = [to_record_batch(examples.slice(a, b), schema) for a, b in ((0, 3), (3, 4), (4, 8))]
    joined = concatenate([from_record_batch(block, MORE) for block in blocks])
    assert rows_of(joined) == rows_of(from_record_batch(to_record_batch(examples, schema), MORE))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 3, 2, 6], r"must ascend within \[0, 6\], they go from 0 to 6 and back between"),
        ([0, 2, 3, 7], r"must ascend within \[0, 6\], they go from 0 to 7"),
        ([-1, 2, 3, 6], r"must ascend within \[0, 6\], they go from -1 to 6"),
        ([0, 1, 3, 6], "column token_type_ids has other offsets than others per token"),
    ],
)
def test_offsets_that_point_elsewhere_are_refused_before_they_are_followed(offsets, message):
    schema = example_schema(np.dtype(np.uint16))
    record = to_record_batch(make_examples([2, 1, 3]), example_schema(np.dtype(np.uint16), MORE))
    arrays = [record.column(name) for name in schema.names]
    memory = np.array([0, 2, 3, 6], np.int32)
    buffers, children = [None, pa.py_buffer(memory)], [arrays[1].values]
    arrays[1] = pa.Array.from_buffers(schema.field(1).type, 3, buffers, children=children)
    damaged = pa.RecordBatch.from_arrays(arrays, schema=schema)
    memory[:] = offsets  # as a flipped bit on disk would
    with pytest.raises(ValueError, match=message):
        from_record_batch(damaged, COLUMNS)


def test_no_examples_are_examples_too():
    nothing = no_examples(MORE, np.dtype(np.uint32))
    assert len(nothing) == 0
    assert nothing.input_ids.dtype == np.uint32
    assert rows_of(concatenate([nothing, nothing])) == rows_of(nothing) == []


def test_every_declared_column_is_given_and_nothing_else():
    arrays = make_examples([3]).arrays()
    with pytest.raises(ValueError, match="declare and give each"):
        ExampleBatch(**arrays)
    with pytest.raises(ValueError, match="declare and give each"):
        ExampleBatch(MORE, **{name: arrays[name] for name in arrays if name != "noise_offsets"})


def test_examples_do_not_change():
    examples = make_examples([3])
    with pytest.raises(AttributeError, match=r"use replace\(score=...\) for others"):
        examples.score = np.ones(1)
    assert examples.replace(score=np.ones(1)).score.tolist() == [1.0]
    assert examples.score.tolist() == [0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "no name"}, "must be names in Python, got 'no name'"),
        ({"name": "a", "dtype": "U3"}, "column a: dtype must be of numbers, got 'U3'"),
        ({"name": "a", "dtype": "int8", "per": "token", "null": 0}, "only a column per example"),
    ],
)
def test_columns_without_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Column(**{"dtype": None, **settings})
