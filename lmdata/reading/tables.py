"""Tables -> records: the text column of Parquet and Arrow IPC files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from lmdata.arrow_text import (
    check_text,
    cut_rows,
    is_text,
    largest_buffer,
    largest_page,
    text_lengths,
    unfold_text,
)
from lmdata.errors import CorpusError
from lmdata.reading.records import Reading, Records
from lmdata.reading.streams import DamagedError, spool

# What PyArrow raises for a damaged file; the last where a name in it is not UTF-8.
_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)


def read_parquet(reading: Reading) -> Iterator[Records]:
    """Yield the text column of the row groups that begin in the range."""
    return _read_table(reading, _open_parquet)


def read_arrow(reading: Reading) -> Iterator[Records]:
    """Yield the text column of an Arrow IPC file or stream."""
    return _read_table(reading, _open_arrow)


def _read_table(
    reading: Reading, open_batches: Callable[[Reading, Any], tuple[Iterator[Any], int]]
) -> Iterator[Records]:
    """Yield the text column of the record batches that `open_batches` finds in a file."""
    try:
        file = yield from spool(reading)
    except DamagedError as error:
        reading.rejections.reject(error.reason, 0, str(error))
        return
    with file:
        if file.size() == 0:
            reading.count_if_empty()
            return
        try:
            batches, num_rows = open_batches(reading, file)
        except DamagedError as error:
            reading.rejections.reject(error.reason, 0, str(error))
            return
        except _DAMAGE as error:
            message = f"{reading.source} is not valid .{reading.source.format}: {error}"
            reading.rejections.reject("damaged", 0, message)
            return
        yield from _read_batches(reading, batches, num_rows)


def _open_parquet(reading: Reading, file: Any) -> tuple[Iterator[Any], int]:
    """Return the record batches of the row groups in the range, and the rows of the file."""
    import pyarrow.parquet as pq  # takes 0.1 s, which few corpora need

    metadata = pq.read_metadata(file)
    _check_column(reading, metadata.schema.to_arrow_schema())
    table = pq.ParquetFile(
        file, metadata=metadata, pre_buffer=False, read_dictionary=[reading.config.text_field],
        page_checksum_verification=True,
    )  # fmt: skip
    starts = _row_group_starts(metadata)
    if any(not 0 <= start < file.size() for start in starts):
        raise pa.ArrowInvalid("a row group begins outside of the file")
    groups = [
        group
        for group, start in enumerate(starts)
        if reading.start <= start and (reading.stop is None or start < reading.stop)
    ]
    chunks = (metadata.row_group(group) for group in groups)
    _refuse_large(reading, "page", largest_page(file, chunks, reading.config.text_field))
    return _row_group_batches(reading, table, groups), metadata.num_rows


def _refuse_large(reading: Reading, what: str, num_bytes: int) -> None:
    """Raise a DamagedError for a file of which a part takes too much memory, decompressed."""
    limit = 4 * reading.config.max_document_bytes  # such a part holds many documents as a rule
    if num_bytes > limit:
        wanted = -(-num_bytes // 4)
        raise DamagedError(
            f"{reading.source} has a {what} of {num_bytes >> 20} MiB, which is decompressed at "
            f"once: raise what a reader may take by --set corpus.max_document_bytes={wanted}, and "
            "the memory for it",
            "too-large",
        )


def _row_group_batches(reading: Reading, table: Any, groups: list[int]) -> Iterator[Any]:
    """Yield record batches of about `batch_bytes` of the text column of some row groups.

    Their texts stay as Parquet's dictionaries hold them, however often a row names one.

    Raises:
        pa.ArrowInvalid: a row group has not the rows that the footer says
    """
    column = reading.config.text_field
    for group in groups:
        metadata = table.metadata.row_group(group)
        size = max(1, metadata.total_byte_size)
        rows = min(
            metadata.num_rows, reading.batch_bytes * metadata.num_rows // size, reading.max_records
        )
        num_found = 0
        for batch in table.iter_batches(max(1, rows), [group], columns=[column], use_threads=False):
            num_found += len(batch)
            yield batch
        if num_found != metadata.num_rows:
            raise pa.ArrowInvalid(f"{num_found} rows where {metadata.num_rows} are announced")


def _row_group_starts(metadata: Any) -> list[int]:
    """Return where each row group of a Parquet file begins, in bytes."""
    starts = []
    for index in range(metadata.num_row_groups):
        column = metadata.row_group(index).column(0)
        pages = (column.dictionary_page_offset, column.data_page_offset)
        starts.append(min(page for page in pages if page is not None))
    return starts


def _open_arrow(reading: Reading, file: Any) -> tuple[Iterator[Any], int]:
    """Return the record batches of an IPC file, or else stream, with only the text column."""
    _refuse_large(reading, "buffer", largest_buffer(file.read_buffer()))
    file.seek(0)
    try:
        opener, reader = pa.ipc.open_file, pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        opener, reader = pa.ipc.open_stream, pa.ipc.open_stream(file)
    _check_column(reading, reader.schema)
    file.seek(0)
    index = reader.schema.get_field_index(reading.config.text_field)
    options = pa.ipc.IpcReadOptions(included_fields=[index], use_threads=False)
    reader = opener(file, options=options)
    if opener is pa.ipc.open_file:
        batches: Iterator[Any] = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = iter(reader)
    return batches, 0


def _check_column(reading: Reading, schema: Any) -> None:
    """Raise a CorpusError unless the text column is there, once, and holds text."""
    name = reading.config.text_field
    if name not in schema.names:
        raise CorpusError(reading.missing_field(str(reading.source), schema.names))
    if schema.names.count(name) > 1:
        raise CorpusError(f"{reading.source} has {schema.names.count(name)} columns named {name!r}")
    type_ = schema.field(name).type
    if not is_text(type_):
        raise CorpusError(
            f"{reading.source}: column {name!r} is of type {type_}, not string; name another "
            f"column with --text-field"
        )


def _read_batches(reading: Reading, batches: Iterator[Any], num_rows: int) -> Iterator[Records]:
    """Yield the text column of record batches; `num_rows` > 0 says that the file is not empty."""
    while True:
        try:
            batch = next(batches, None)
        except _DAMAGE as error:
            message = f"{reading.source} is damaged after record {reading.num_seen}: {error}"
            reading.rejections.reject("damaged", 0, message)
            return
        if batch is None:
            if not num_rows:
                reading.count_if_empty()
            return
        try:
            column = check_text(batch.column(reading.config.text_field))
        except pa.ArrowException as error:
            last = reading.num_seen + len(batch)
            where = f"{reading.source} records {reading.num_seen + 1} to {last}"
            reading.rejections.check(f"{where} are damaged: {error}")
            reading.rejections.add("damaged", len(batch), 0)
            reading.num_seen += len(batch)
        else:
            yield from _column_records(reading, column)


def _column_records(reading: Reading, column: Any) -> Iterator[Records]:
    """Yield a checked column in pieces of about `batch_bytes` of text, however it is stored."""
    for first in range(0, len(column), reading.max_records):
        part = column.slice(first, reading.max_records)
        lengths, is_null = text_lengths(part)
        is_kept = ~is_null
        _reject_nulls(reading, is_null)
        for row in np.flatnonzero(lengths > reading.config.max_document_bytes).tolist():
            message = reading.too_large(
                f"{reading.source} record {reading.num_seen + row + 1}", lengths[row]
            )
            reading.rejections.reject("too-large", int(lengths[row]), message)
            is_kept[row] = False
        for start, stop in cut_rows(lengths, reading.batch_bytes):
            kept = np.flatnonzero(is_kept[start:stop])
            # Where no row is kept, it may be one that is too large to unfold.
            texts = unfold_text(part.slice(start, stop - start if len(kept) else 0))
            if len(kept) < len(texts):
                texts = texts.take(kept)
            positions = kept + reading.num_seen
            reading.num_seen += stop - start
            text = np.asarray(texts.values, np.uint8)
            yield Records(text, np.asarray(texts.offsets, np.int64), positions, stop - start)


def _reject_nulls(reading: Reading, is_null: np.ndarray[Any, Any]) -> None:
    """Count the rows without a text, or raise for the first."""
    if is_null.any():
        row = reading.num_seen + int(np.flatnonzero(is_null)[0]) + 1
        reading.rejections.check(
            f"{reading.source} record {row}: {reading.config.text_field!r} is null"
        )
        reading.rejections.add("null", int(is_null.sum()), 0)
