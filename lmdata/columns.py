"""NumPy arrays as Arrow columns and back, without a copy.

`pyarrow.array` and `Array.to_numpy` would do, but their first call imports pandas where that is
installed, to ask whether the values are its own: 0.4 s for every process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


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
    """Return a column of integers as an array that looks at the same memory.

    Args:
        column: integers without nulls (N,)

    Example:
        >>> to_array(pa.array([1, 2, 3], pa.uint16())[1:])
        array([2, 3], dtype=uint16)
    """
    assert column.null_count == 0
    dtype = np.dtype(str(column.type))  # Arrow's names of integers are NumPy's
    data = column.buffers()[1]
    whole = np.frombuffer(data if data is not None else b"", dtype)
    return whole[column.offset : column.offset + len(column)]


def to_list_column(
    values: npt.NDArray[Any], offsets: npt.NDArray[np.int64], kind: pa.DataType
) -> pa.Array:
    """Return ragged values as a column of lists.

    Args:
        values: numbers (N,)
        offsets: int64 (R + 1,), where each row begins in `values`
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
