"""Text columns of Arrow and Parquet, of any layout: checked before use, unfolded piece by piece.

A file says where its texts lie: by offsets, by views, by the numbers of a dictionary's entries.
Nothing is read where such a number points before every one of them was looked at, and a text that
is stored once and named a million times is copied only as often as the piece in hand needs it.
What PyArrow decompresses at once, a page of Parquet or a buffer of Arrow, says beforehand how large
it will be; PyArrow takes that much memory without asking, so it is asked here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

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


def largest_page(file: pa.NativeFile, row_groups: Iterable[Any], column: str) -> int:
    """Return the bytes of the largest page of a column of Parquet, decompressed.

    Args:
        file: open to read at any place
        row_groups: metadata of those that will be read
        column: name of a column

    Raises:
        pa.ArrowInvalid: the header of a page is damaged
    """
    largest = 0
    for group in row_groups:
        chunks = [group.column(index) for index in range(group.num_columns)]
        for chunk in chunks:
            if chunk.path_in_schema == column and group.num_rows:
                largest = max(largest, *_page_sizes(file, chunk))
    return largest


def count_page_bytes(file: pa.NativeFile, metadata: Any) -> int:
    """Return the bytes of all pages of a Parquet file, decompressed, without doing so.

    Args:
        file: open to read at any place
        metadata: of the file

    Raises:
        pa.ArrowInvalid: the header of a page is damaged
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(sum(_page_sizes(file, chunk)) for chunk in chunks)


def _page_sizes(file: pa.NativeFile, chunk: Any) -> Iterator[int]:
    """Yield the decompressed bytes of each page, as its header (Thrift, compact) says them."""
    yield 0
    places = [chunk.dictionary_page_offset, chunk.data_page_offset]
    place = min(place for place in places if place is not None)
    stop = place + chunk.total_compressed_size
    while place < stop:
        try:
            try:
                fields, length = _read_thrift(file.read_at(_PAGE_HEADER_BYTES, place), 0)
            except IndexError:
                fields, length = _read_thrift(file.read_at(_MAX_PAGE_HEADER_BYTES, place), 0)
            yield fields[_UNCOMPRESSED_SIZE]
            if fields[_COMPRESSED_SIZE] < 0:
                raise ValueError("a negative size")
            place += length + fields[_COMPRESSED_SIZE]
        except (IndexError, KeyError, ValueError) as error:
            raise pa.ArrowInvalid(f"the header of the page at byte {place} is damaged") from error


_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE = 2, 3  # fields of a PageHeader
# A header may hold the smallest and the largest value of its page.
_PAGE_HEADER_BYTES, _MAX_PAGE_HEADER_BYTES = 512, 16 << 20
_THRIFT_DEPTH = 8


def _read_thrift(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, int], int]:
    """Return the integers of a struct in Thrift's compact protocol, by field, and where it ends.

    Raises:
        IndexError: it does not end
        ValueError: it is no such struct
    """
    fields: dict[int, int] = {}
    number = 0
    while byte := data[at]:
        at += 1
        if byte >> 4:
            number += byte >> 4
        else:
            number, at = _read_zigzag(data, at)
        kind = byte & 15
        if kind in (4, 5, 6):
            fields[number], at = _read_zigzag(data, at)
        else:
            at = _skip_thrift(data, at, kind, depth)
    return fields, at + 1


def _skip_thrift(data: bytes, at: int, kind: int, depth: int) -> int:
    """Return where a value of a kind that is no integer ends."""
    if depth > _THRIFT_DEPTH:
        raise ValueError("structs within structs")
    if kind in (1, 2):  # true and false
        return at
    if kind in (3, 7):
        return at + (1 if kind == 3 else 8)
    if kind == 8:
        length, at = _read_varint(data, at)
        return at + length
    if kind == 12:
        return _read_thrift(data, at, depth + 1)[1]
    raise ValueError(f"a value of kind {kind}")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")


def _read_zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_varint(data, at)
    return value >> 1 ^ -(value & 1), at


def largest_buffer(data: pa.Buffer) -> int:
    """Return the bytes of the largest compressed buffer of an Arrow file or stream, decompressed.

    Raises:
        pa.ArrowInvalid: the metadata is damaged
    """
    view = memoryview(data)
    try:
        is_file = bytes(view[:6]) == _MAGIC and bytes(view[-6:]) == _MAGIC
        places = _footer_messages(view) if is_file else _stream_messages(view)
        return max((size for place in places for size in _buffer_sizes(view, place)), default=0)
    except (struct.error, ValueError, IndexError) as error:
        raise pa.ArrowInvalid(f"its metadata is damaged: {error}") from error


_MAGIC = b"ARROW1"
_DICTIONARY, _RECORD_BATCH = 2, 3  # kinds of messages


def _footer_messages(view: memoryview) -> Iterator[int]:
    """Yield where the messages of an Arrow file begin, dictionaries and record batches."""
    (length,) = struct.unpack_from("<i", view, len(view) - 10)
    if not 0 < length <= len(view) - 10:
        raise ValueError("no footer")
    footer = view[len(view) - 10 - length : len(view) - 10]
    for field in (2, 3):
        for block in _flat_vector(footer, _flat_root(footer), field, 24):
            yield struct.unpack_from("<q", footer, block)[0]


def _stream_messages(view: memoryview) -> Iterator[int]:
    place = 0
    while place + 8 <= len(view):
        start, length = _message_bounds(view, place)
        if not length:
            return
        yield place
        body = _flat_field(view[start:], _flat_root(view[start:]), 3)
        (size,) = struct.unpack_from("<q", view, start + body) if body else (0,)
        if size < 0:
            raise ValueError("a negative length")
        place = start + length + size


def _message_bounds(view: memoryview, place: int) -> tuple[int, int]:
    """Return where the metadata of a message begins, and its length."""
    if place < 0:
        raise ValueError("a negative place")
    (length,) = struct.unpack_from("<i", view, place)
    if length != -1:  # before Arrow 0.15
        return place + 4, length
    return place + 8, struct.unpack_from("<i", view, place + 4)[0]


def _buffer_sizes(view: memoryview, place: int) -> Iterator[int]:
    """Yield the decompressed bytes of each compressed buffer of a message."""
    start, length = _message_bounds(view, place)
    flat = view[start : start + length]
    message = _flat_root(flat)
    kind = _flat_field(flat, message, 1)
    batch = _flat_follow(flat, _flat_field(flat, message, 2))
    if kind and flat[kind] == _DICTIONARY:
        batch = _flat_follow(flat, _flat_field(flat, batch, 1))
    if (
        not kind
        or flat[kind] not in (_DICTIONARY, _RECORD_BATCH)
        or not _flat_field(flat, batch, 3)
    ):
        return
    for buffer in _flat_vector(flat, batch, 2, 16):
        offset, size = struct.unpack_from("<qq", flat, buffer)
        if size and offset >= 0:
            yield struct.unpack_from("<q", view, start + length + offset)[0]


def _flat_root(flat: memoryview) -> int:
    return _flat_follow(flat, 0)


def _flat_follow(flat: memoryview, at: int) -> int:
    return at + int(struct.unpack_from("<I", flat, at)[0])


def _flat_field(flat: memoryview, table: int, number: int) -> int:
    """Return where a field of a FlatBuffers table lies, 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", flat, table)[0]
    if vtable < 0:
        raise ValueError("a table outside")
    (size,) = struct.unpack_from("<H", flat, vtable)
    slot = 4 + 2 * number
    (offset,) = struct.unpack_from("<H", flat, vtable + slot) if slot < size else (0,)
    return table + offset if offset else 0


def _flat_vector(flat: memoryview, table: int, number: int, item_bytes: int) -> range:
    """Return where the items of a vector of structs lie."""
    field = _flat_field(flat, table, number)
    if not field:
        return range(0)
    vector = _flat_follow(flat, field)
    (count,) = struct.unpack_from("<I", flat, vector)
    if vector + 4 + count * item_bytes > len(flat):
        raise ValueError("a vector outside")
    return range(vector + 4, vector + 4 + count * item_bytes, item_bytes)
