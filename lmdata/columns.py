"""NumPy arrays and examples as Arrow columns and back, without a copy.

`pyarrow.array` and `Array.to_numpy` would do, but their first call imports pandas where that is
installed, to ask whether the values are its own: 0.4 s for every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.batch import Column, ExampleBatch
from lmdata.ragged import Ragged


def to_column(values: npt.NDArray[Any], is_valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Return numbers as a column of the same type.

    Args:
        values: numbers (N,)
        is_valid: bool (N,), False where the column is null; None: nowhere

    Example:
        >>> to_column(np.array([5, 6], np.int8), np.array([True, False])).to_pylist()
        [5, None]
    """
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
        >>> rows = to_list_column(np.array([5, 6]), np.array([0, 0, 2]), pa.list_(pa.int64()))
        >>> rows.to_pylist()
        [[], [5, 6]]
    """
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
