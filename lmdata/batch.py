"""Examples as declared columns over flat arrays: what every view returns and every shard holds.

`COLUMNS` is the one declaration. Taking, slicing, joining, the Arrow schema, writing and reading
follow from it, so a corruption that adds a column declares it and edits nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lmdata.ragged import Ragged, offsets_of
from lmdata.ragged import concatenate as concatenate_rows

if TYPE_CHECKING:  # where Arrow is made it is imported: settings that name columns do without
    import pyarrow as pa

NO_LABEL = -1
EXAMPLE, TOKEN = "example", "token"


@dataclass(frozen=True)
class Column:
    """Something that is known of each example.

    Attributes:
        name: attribute of `ExampleBatch`, and name in the shards
        dtype: of the values, in NumPy's name; None for that of the ids, uint16 or uint32
        per: "example" for one value an example, else what an example has any number of; columns
            of one kind share their offsets
        null: value that stands for null in the shards, None where there always is a value
        is_stored: whether shards hold it; else it is found again when they are read
    """

    name: str
    dtype: str | None
    per: str = EXAMPLE
    null: int | None = None
    is_stored: bool = True

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or not self.per.isidentifier():
            raise ValueError(
                f"name and per must be names in Python, got {self.name!r}, {self.per!r}"
            )
        if self.dtype is not None and np.dtype(self.dtype).kind not in "iuf":
            raise ValueError(f"column {self.name}: dtype must be of numbers, got {self.dtype!r}")
        if self.null is not None and self.is_ragged:
            raise ValueError(f"column {self.name}: only a column per example may have a null")

    @property
    def is_ragged(self) -> bool:
        """Whether an example has any number of its values."""
        return self.per != EXAMPLE

    @property
    def offsets(self) -> str:
        """Attribute of `ExampleBatch` with the offsets of a ragged column.

        Example:
            >>> Column("input_ids", None, "token").offsets, Column("a", "uint8", "mask").offsets
            ('offsets', 'mask_offsets')
        """
        return "offsets" if self.per == TOKEN else f"{self.per}_offsets"


def stored(column: Column) -> Column:
    """Return the column as one that shards hold."""
    return replace(column, is_stored=True)


SEGMENT_LENGTHS = Column("segment_lengths", "int32", "segment", is_stored=False)
# Of examples that are to be read and written: what the decoder writes of each segment, after the
# token that it starts with, to the end; and its tokens with both. The rest is the source.
TARGET_IDS = Column("target_ids", None, "target")
TARGET_LENGTHS = Column("target_lengths", "int32", "segment")
ORDERS = Column("orders", "uint16", TOKEN)  # 0 of what all see, else when in its segment, from 1
COLUMNS = (
    Column("input_ids", None, TOKEN),
    Column("token_type_ids", "uint8", TOKEN),
    Column("masked_positions", "uint16", "mask"),
    Column("masked_labels", None, "mask"),
    Column("next_sentence_label", "int8", null=NO_LABEL),
    Column("document_a", "uint64"),
    Column("document_b", "uint64"),
    Column("duplicate", "uint16"),
    SEGMENT_LENGTHS,
)


class ExampleBatch:
    """B examples, ragged: the tokens of example i are `input_ids[offsets[i]:offsets[i + 1]]`.

    Attributes:
        columns: what is known of each example, `COLUMNS` and what a corruption adds
        input_ids: uint16 or uint32 (T,), with special tokens and corruption, without padding
        offsets: int64 (B + 1,), into `input_ids` and `token_type_ids`
        token_type_ids: uint8 (T,), 0 through the first [SEP], then 1
        masked_positions: uint16 (P,), within the example, sorted
        mask_offsets: int64 (B + 1,), into `masked_positions` and `masked_labels`
        masked_labels: like `input_ids` (P,), the original ids
        next_sentence_label: int8 (B,), 1 = random or swapped, `NO_LABEL` where there are no pairs
        document_a: uint64 (B,), row of the store that the first segment comes from
        document_b: uint64 (B,), the same for the last segment
        duplicate: uint16 (B,), which of the passes over the documents made the example
        segment_lengths: int32 (S,), tokens that attend to each other; one segment an example,
            except in the packed view
        segment_offsets: int64 (B + 1,), into `segment_lengths`
    """

    columns: tuple[Column, ...]
    input_ids: np.ndarray
    offsets: np.ndarray
    token_type_ids: np.ndarray
    masked_positions: np.ndarray
    mask_offsets: np.ndarray
    masked_labels: np.ndarray
    next_sentence_label: np.ndarray
    document_a: np.ndarray
    document_b: np.ndarray
    duplicate: np.ndarray
    segment_lengths: np.ndarray
    segment_offsets: np.ndarray

    def __init__(self, columns: tuple[Column, ...] = COLUMNS, /, **arrays: np.ndarray) -> None:
        """Keep the arrays by name.

        Raises:
            ValueError: a declared column or its offsets are missing, or an array is not declared
        """
        expected = {column.name for column in columns}
        expected |= {column.offsets for column in columns if column.is_ragged}
        if arrays.keys() != expected:
            raise ValueError(
                f"examples have the columns {', '.join(sorted(expected))}, got "
                f"{', '.join(sorted(arrays))}: declare and give each"
            )
        vars(self).update(arrays, columns=columns)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"examples do not change: use replace({name}=...) for others")

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        """Say how many there are, without the arrays."""
        return f"<ExampleBatch: {len(self)} examples, {len(self.input_ids)} tokens>"

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the columns and their offsets by name."""
        return {name: array for name, array in vars(self).items() if name != "columns"}

    def ragged(self, column: Column) -> Ragged:
        """Return a ragged column with its offsets."""
        return Ragged(vars(self)[column.name], vars(self)[column.offsets])

    def replace(self, **arrays: np.ndarray) -> ExampleBatch:
        """Return the same examples with other arrays under some names."""
        return ExampleBatch(self.columns, **{**self.arrays(), **arrays})

    def take(self, rows: np.ndarray) -> ExampleBatch:
        """Return copies of the examples at int64 (B',) rows, in this order, repeats allowed."""
        return _map([self], lambda parts: parts[0].take(rows), lambda parts: parts[0][rows])

    def slice(self, start: int, stop: int) -> ExampleBatch:
        """Return the rows [start, stop) as views on the same memory."""
        return _map(
            [self],
            lambda parts: parts[0].slice(start, stop),
            lambda parts: parts[0][start:stop],
        )

    def original_ids(self) -> np.ndarray:
        """Return `input_ids` before the corruption, (T,)."""
        restored = self.input_ids.copy()
        restored[self.flat_masked_positions()] = self.masked_labels
        return restored

    def flat_masked_positions(self) -> np.ndarray:
        """Return the masked positions as indices into `input_ids`, int64 (P,)."""
        starts = np.repeat(self.offsets[:-1], np.diff(self.mask_offsets))
        flat: np.ndarray = starts + self.masked_positions
        return flat


def targets_of(examples: ExampleBatch) -> Ragged | None:
    """Return the target of each segment, started and ended; None: examples have none."""
    arrays = examples.arrays()
    if TARGET_IDS.name not in arrays:
        return None
    return Ragged(arrays[TARGET_IDS.name], offsets_of(arrays[TARGET_LENGTHS.name]))


def no_examples(columns: tuple[Column, ...], id_dtype: np.dtype[Any]) -> ExampleBatch:
    """Return a batch of no example.

    Example:
        >>> len(no_examples(COLUMNS, np.dtype(np.uint16)))
        0
    """
    arrays = {c.name: np.empty(0, id_dtype if c.dtype is None else c.dtype) for c in columns}
    arrays |= {c.offsets: np.zeros(1, np.int64) for c in columns if c.is_ragged}
    return ExampleBatch(columns, **arrays)


def concatenate(batches: Sequence[ExampleBatch]) -> ExampleBatch:
    """Return the examples of all batches, of the same columns, one after the other.

    Args:
        batches: at least one; a single one is returned as it is
    """
    if len(batches) == 1:
        return batches[0]
    return _map(batches, concatenate_rows, np.concatenate)


def _map(
    batches: Sequence[ExampleBatch],
    join_rows: Callable[[list[Ragged]], Ragged],
    join_values: Callable[[list[np.ndarray]], np.ndarray],
) -> ExampleBatch:
    """Return one batch of what functions make of each ragged and of each flat column."""
    arrays: dict[str, np.ndarray] = {}
    for column in batches[0].columns:
        if column.is_ragged:
            own = join_rows([batch.ragged(column) for batch in batches])
            arrays |= {column.name: own.values, column.offsets: own.offsets}
        else:
            arrays[column.name] = join_values([vars(batch)[column.name] for batch in batches])
    return ExampleBatch(batches[0].columns, **arrays)


def split_segments(
    input_ids: np.ndarray, offsets: np.ndarray, end_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the segments of packed rows, found by the special token that ends each.

    Args:
        input_ids: (T,), rows that end with `end_id`, as it is never masked nor put in
        offsets: int64 (B + 1,), where rows begin
        end_id: of the special token

    Returns:
        segment_lengths int32 (S,) and segment_offsets int64 (B + 1,), as in `ExampleBatch`.

    Example:
        >>> ids = np.array([2, 7, 3, 2, 3, 2, 9, 9, 3])
        >>> [part.tolist() for part in split_segments(ids, np.array([0, 5, 9]), 3)]
        [[3, 2, 4], [0, 2, 3]]
    """
    ends = np.flatnonzero(input_ids == end_id) + 1
    lengths = np.diff(ends, prepend=0).astype(np.int32)
    return lengths, np.searchsorted(ends, offsets, side="right").astype(np.int64)


# ---- To Arrow and back, without a copy
#
# `pyarrow.array` and `Array.to_numpy` would do, but their first call imports pandas where that is
# installed, to ask whether the values are its own: 0.4 s for every process.


def to_column(values: npt.NDArray[Any], is_valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Return numbers as a column of the same type.

    Args:
        values: numbers (N,)
        is_valid: bool (N,), False where the column is null; None: nowhere

    Example:
        >>> to_column(np.array([5, 6], np.int8), np.array([True, False])).to_pylist()
        [5, None]
    """
    import pyarrow as pa

    validity = None
    if is_valid is not None and not is_valid.all():
        validity = pa.py_buffer(np.packbits(is_valid, bitorder="little"))
    buffers = [validity, pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def to_array(column: pa.Array) -> npt.NDArray[Any]:
    """Return a column of numbers as an array that looks at the same memory.

    Args:
        column: numbers without nulls (N,)

    Example:
        >>> import pyarrow as pa
        >>> to_array(pa.array([1, 2, 3], pa.uint16())[1:])
        array([2, 3], dtype=uint16)
    """
    assert column.null_count == 0
    dtype, data = np.dtype(column.type.to_pandas_dtype()), column.buffers()[1]
    if not len(column) or data is None:
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype, len(column), column.offset * dtype.itemsize)


def to_list_column(
    values: npt.NDArray[Any], offsets: npt.NDArray[np.integer], kind: pa.DataType
) -> pa.Array:
    """Return ragged values as a column of lists.

    Args:
        values: numbers (N,)
        offsets: int32 or int64 (R + 1,), where each row begins in `values`
        kind: `pa.list_` or `pa.large_list` of the values' type; for `pa.list_`, N < 2**31

    Example:
        >>> import pyarrow as pa
        >>> rows = to_list_column(np.array([5, 6]), np.array([0, 0, 2]), pa.list_(pa.int64()))
        >>> rows.to_pylist()
        [[], [5, 6]]
    """
    import pyarrow as pa

    is_large = pa.types.is_large_list(kind)
    starts = offsets.astype(np.int64 if is_large else np.int32, copy=False)
    lists = pa.LargeListArray if is_large else pa.ListArray
    return lists.from_arrays(to_column(starts), to_column(values), type=kind)


def to_text_column(texts: Sequence[str]) -> pa.StringArray:
    """Return texts as a column of strings.

    Example:
        >>> to_text_column(["a", "", "bc"]).to_pylist()
        ['a', '', 'bc']
    """
    import pyarrow as pa

    encoded = [text.encode("utf-8") for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    data = pa.py_buffer(b"".join(encoded))
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), data)


def to_record_batch(batch: ExampleBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the columns of a schema of examples as one record batch.

    Args:
        batch: examples; arrays that already have the right type are not copied
        schema: from `schema.example_schema`, of columns that the batch has
    """
    import pyarrow as pa

    columns = {column.name: column for column in batch.columns}
    arrays = [_to_example_column(batch, columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _to_example_column(batch: ExampleBatch, column: Column, kind: pa.DataType) -> pa.Array:
    if column.is_ragged:
        rows = batch.ragged(column)
        return to_list_column(rows.values, rows.offsets, kind)
    values = batch.arrays()[column.name]
    return to_column(values, None if column.null is None else values != column.null)


def from_record_batch(record: pa.RecordBatch, columns: Sequence[Column]) -> ExampleBatch:
    """Return a record batch as examples of its stored columns: views, but for nulls filled in.

    Args:
        record: of `schema.example_schema`
        columns: that the schema was made from

    Raises:
        ValueError: offsets that descend, point outside, or differ between columns of one kind
    """
    stored = tuple(column for column in columns if column.is_stored)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for column in stored:
        found = record.column(column.name)
        if column.is_ragged:
            rows = Ragged(to_array(found.values), to_array(found.offsets))
            _check_rows(column, rows, arrays.get(column.offsets))
            arrays |= {column.name: rows.values, column.offsets: rows.offsets}
        else:
            arrays[column.name] = to_array(
                found.fill_null(column.null) if found.null_count else found
            )
    return ExampleBatch(stored, **arrays)


def _check_rows(column: Column, rows: Ragged, offsets: npt.NDArray[Any] | None) -> None:
    """Refuse a column's offsets unless they may be followed, and are those of its kind."""
    try:
        rows.check()
    except ValueError as error:
        raise ValueError(f"column {column.name}: {error}") from error
    if offsets is not None and not np.array_equal(offsets, rows.offsets):
        raise ValueError(f"column {column.name} has other offsets than others per {column.per}")
