"""Text columns of Arrow and Parquet, of any layout: checked before use, unfolded piece by piece.

A file says where its texts lie: by offsets, by views, by the numbers of a dictionary's entries.
Nothing is read where such a number points before every one of them was looked at, and a text that
is stored once and named a million times is copied only as often as the piece in hand needs it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.ragged import Ragged

_BYTES_OF = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}
_VIEW_BYTES = 16


def is_text(type_: pa.DataType) -> bool:
    """Return whether a column of this type holds texts, in any layout.

    Example:
        >>> is_text(pa.dictionary(pa.int8(), pa.string())), is_text(pa.int8())
        (True, False)
    """
    return (type_.value_type if pa.types.is_dictionary(type_) else type_) in _BYTES_OF


def check_text(column: pa.Array) -> pa.Array:
    """Return a column of texts as one of bytes, each of which lies where the column says.

    Args:
        column: of a type of which `is_text` is true

    Raises:
        pa.ArrowException: an offset, view, index or validity bit is wrong. Whether the bytes are
            UTF-8 is not judged here
    """
    as_bytes = _view_as_bytes(column)
    as_bytes.validate(full=True)
    return as_bytes


def _view_as_bytes(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        values = _view_as_bytes(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, values, safe=False)
    return column.view(_BYTES_OF.get(column.type, column.type))


def text_lengths(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the bytes of each text without unfolding it, and which are null: both (R,).

    Args:
        column: from `check_text`

    Example:
        >>> lengths, is_null = text_lengths(check_text(pa.array(["ab", None, "c"])))
        >>> lengths.tolist(), is_null.tolist()
        ([2, 0, 1], [False, True, False])
    """
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_dictionary(column.type):
        lengths, is_nothing = text_lengths(column.dictionary)
        indices = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
        if not len(lengths):
            return np.zeros(len(column), np.int64), is_null
        is_null = is_null | is_nothing[indices]
        return np.where(is_null, 0, lengths[indices]), is_null
    stop = column.offset + len(column)
    data = column.buffers()[1]
    if not len(column):
        lengths = np.zeros(0, np.int64)
    elif column.type == pa.binary_view():
        views = np.frombuffer(data, np.int32, stop * _VIEW_BYTES // 4)
        lengths = views[:: _VIEW_BYTES // 4][column.offset :].astype(np.int64)
    else:
        dtype = np.int32 if column.type == pa.binary() else np.int64
        lengths = np.diff(np.frombuffer(data, dtype, stop + 1)[column.offset :]).astype(np.int64)
    return np.where(is_null, 0, lengths), is_null


def unfold_text(column: pa.Array) -> Ragged:
    """Return texts as flat bytes, uint8, and int64 offsets; of a plain column without a copy.

    Args:
        column: from `check_text`, or a slice of one; a null's bytes mean nothing
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    plain = column.cast(pa.large_binary())
    _, offsets_buffer, data = plain.buffers()
    offsets = np.frombuffer(offsets_buffer or bytes(8), np.int64)
    offsets = offsets[plain.offset : plain.offset + len(plain) + 1]
    text = np.frombuffer(data or b"", np.uint8)[offsets[0] : offsets[-1]]
    return Ragged(text, offsets - offsets[0])


def cut_rows(lengths: npt.NDArray[np.int64], max_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that hold at most `max_bytes`, or one row that is longer.

    Example:
        >>> list(cut_rows(np.array([3, 3, 9, 1, 1]), 6))
        [(0, 2), (2, 3), (3, 5)]
    """
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        done = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, done + max_bytes, side="right"))
        stop = max(stop, start + 1)
        yield start, stop
        start = stop
