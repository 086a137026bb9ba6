"""Tables -> records: the text column of .csv, .tsv, Parquet and Arrow IPC files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmdata.errors import CorpusError
from lmdata.reading.records import Job, Records, make_records
from lmdata.reading.streams import ByteStream, DamagedError, read_utf8, spool, unify_newlines


@dataclass(frozen=True)
class _Row:
    """One row: its cells (None where it could not be parsed), last line and size."""

    cells: list[str] | None
    line: int
    num_bytes: int


def read_csv(job: Job) -> Iterator[Records]:
    """Yield the text column of .csv (quoting as in RFC 4180) or .tsv (tabs, no quoting).

    The first row is the header; positions count the rows after it.
    """
    with ByteStream(job) as stream:
        rows = _parse_rows(job, unify_newlines(read_utf8(stream, job.config)))
        header = next(rows, None)
        names = header.cells if header and header.cells else []
        column = _find_column(job, names) if header else 0
        texts: list[bytes] = []
        positions: list[int] = []
        num_bytes = first = stored = 0
        for row in rows:
            text = _take_cell(job, row, len(names), column)
            if text is not None:
                texts.append(text)
                positions.append(job.num_seen)
                num_bytes += len(text)
            job.num_seen += 1
            if num_bytes >= job.batch_bytes:
                now = stream.tell_stored()
                yield make_records(texts, positions, job.num_seen - first, now - stored)
                texts, positions, num_bytes, first, stored = [], [], 0, job.num_seen, now
        job.count_if_empty()
        yield make_records(texts, positions, job.num_seen - first, stream.tell_stored() - stored)


def _parse_rows(job: Job, pieces: Iterator[bytes]) -> Iterator[_Row]:
    """Yield the rows of a .csv or .tsv text; a broken one, if not an error, without cells."""
    num_bytes = 0

    def lines() -> Iterator[str]:
        nonlocal num_bytes
        for line in _split_lines(pieces):
            num_bytes += len(line)
            yield line.decode("utf-8", "surrogateescape")

    csv.field_size_limit(max(job.config.max_document_bytes, 1 << 17))
    if job.source.format == "csv":
        rows = csv.reader(lines(), strict=True)
    else:
        rows = csv.reader(lines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    while True:
        before = num_bytes
        try:
            cells = next(rows)
        except StopIteration:
            return
        except DamagedError as error:
            job.rejections.reject(error.reason, num_bytes - before, str(error))
            return
        except csv.Error as error:
            _reject_row(job, error, rows.line_num, num_bytes - before)
            yield _Row(None, rows.line_num, num_bytes - before)
        else:
            yield _Row(cells, rows.line_num, num_bytes - before)


def _split_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines of a text, each with its line feed."""
    parts: list[bytes] = []
    for piece in pieces:
        first, *others = piece.split(b"\n")
        parts.append(first)
        for line in others:
            yield b"".join([*parts, b"\n"])
            parts = [line]
    if any(parts):
        yield b"".join(parts)


def _reject_row(job: Job, error: csv.Error, line: int, num_bytes: int) -> None:
    where = f"{job.source} line {line}"
    if "field limit" in str(error):
        job.rejections.reject("too-large", num_bytes, job.too_large(where, num_bytes))
    else:
        message = f"{where} is not valid .{job.source.format}: {error}"
        job.rejections.reject("broken", num_bytes, message)


def _find_column(job: Job, header: list[str]) -> int:
    if job.config.text_field not in header:
        raise CorpusError(job.missing_field(str(job.source), header))
    return header.index(job.config.text_field)


def _take_cell(job: Job, row: _Row, width: int, column: int) -> bytes | None:
    """Return the text of one row; a blank line is an empty text; None if it was rejected."""
    if row.cells is None:
        return None
    if not row.cells:
        return b""
    if len(row.cells) != width:
        message = (
            f"{job.source} line {row.line} has {len(row.cells)} fields where the header has {width}"
        )
        job.rejections.reject("broken", row.num_bytes, message)
        return None
    return row.cells[column].encode("utf-8", "surrogateescape")


def read_parquet(job: Job) -> Iterator[Records]:
    """Yield the text column of the row groups that begin in the range."""
    return _read_table(job, _open_parquet)


def read_arrow(job: Job) -> Iterator[Records]:
    """Yield the text column of an Arrow IPC file or stream."""
    return _read_table(job, _open_arrow)


def _read_table(
    job: Job, open_batches: Callable[[Job, Any], tuple[Iterator[Any], int]]
) -> Iterator[Records]:
    """Yield the text column of the record batches that `open_batches` finds in a file."""
    try:
        file = spool(job)
    except DamagedError as error:
        job.rejections.reject(error.reason, 0, str(error))
        return
    with file:
        if file.size() == 0:
            job.count_if_empty()
            return
        try:
            batches, num_rows = open_batches(job, file)
        except (pa.ArrowException, OSError) as error:
            message = f"{job.source} is not valid .{job.source.format}: {error}"
            job.rejections.reject("damaged", 0, message)
            return
        yield from _read_batches(job, batches, num_rows)


def _open_parquet(job: Job, file: Any) -> tuple[Iterator[Any], int]:
    """Return the record batches of the row groups in the range, and the rows of the file."""
    table = pq.ParquetFile(file, pre_buffer=False)
    _check_column(job, table.schema_arrow)
    groups = [
        group
        for group, start in enumerate(_row_group_starts(table.metadata))
        if job.start <= start and (job.stop is None or start < job.stop)
    ]
    return _row_group_batches(job, table, groups), table.metadata.num_rows


def _row_group_batches(job: Job, table: Any, groups: list[int]) -> Iterator[Any]:
    """Yield record batches of about `batch_bytes` of the text column of some row groups."""
    column = job.config.text_field
    for group in groups:
        metadata = table.metadata.row_group(group)
        size = max(1, metadata.total_byte_size)
        rows = max(1, min(metadata.num_rows, job.batch_bytes * metadata.num_rows // size))
        yield from table.iter_batches(rows, [group], columns=[column], use_threads=False)


def _row_group_starts(metadata: Any) -> list[int]:
    """Return where each row group of a Parquet file begins, in bytes."""
    starts = []
    for index in range(metadata.num_row_groups):
        column = metadata.row_group(index).column(0)
        pages = (column.dictionary_page_offset, column.data_page_offset)
        starts.append(min(page for page in pages if page is not None))
    return starts


def _open_arrow(job: Job, file: Any) -> tuple[Iterator[Any], int]:
    """Return the record batches of an IPC file, or else stream, with only the text column."""
    try:
        opener, reader = pa.ipc.open_file, pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        opener, reader = pa.ipc.open_stream, pa.ipc.open_stream(file)
    _check_column(job, reader.schema)
    file.seek(0)
    index = reader.schema.get_field_index(job.config.text_field)
    options = pa.ipc.IpcReadOptions(included_fields=[index], use_threads=False)
    reader = opener(file, options=options)
    if opener is pa.ipc.open_file:
        batches: Iterator[Any] = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = iter(reader)
    return _slice_batches(job, batches), 0


def _slice_batches(job: Job, batches: Iterator[Any]) -> Iterator[Any]:
    """Yield pieces of about `batch_bytes`, however large a batch the file was written with."""
    for batch in batches:
        rows = max(1, job.batch_bytes * len(batch) // max(1, batch.nbytes))
        for start in range(0, len(batch), rows):
            yield batch.slice(start, rows)


def _check_column(job: Job, schema: Any) -> None:
    """Raise a CorpusError unless the text column is there, once, and holds text."""
    name = job.config.text_field
    if name not in schema.names:
        raise CorpusError(job.missing_field(str(job.source), schema.names))
    if schema.names.count(name) > 1:
        raise CorpusError(f"{job.source} has {schema.names.count(name)} columns named {name!r}")
    type_ = schema.field(name).type
    value_type = type_.value_type if pa.types.is_dictionary(type_) else type_
    if value_type not in (pa.string(), pa.large_string(), pa.string_view()):
        raise CorpusError(
            f"{job.source}: column {name!r} is of type {type_}, not string; name another column "
            f"with --text-field"
        )


def _read_batches(job: Job, batches: Iterator[Any], num_rows: int) -> Iterator[Records]:
    """Yield the text column of record batches; `num_rows` > 0 says that the file is not empty."""
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            message = f"{job.source} is damaged after record {job.num_seen}: {error}"
            job.rejections.reject("damaged", 0, message)
            return
        if batch is None:
            if not num_rows:
                job.count_if_empty()
            return
        yield _column_records(job, batch.column(job.config.text_field))
        job.num_seen += len(batch)


def _column_records(job: Job, column: Any) -> Records:
    """Return an Arrow string array as records, without copying where it has no nulls."""
    strings = column.cast(pa.large_string())
    positions = np.arange(len(column)) + job.num_seen
    if strings.null_count:
        is_null = strings.is_null().to_numpy(zero_copy_only=False)
        for row in positions[is_null].tolist():
            message = f"{job.source} record {row + 1}: {job.config.text_field!r} is null"
            job.rejections.reject("null", 0, message)
        positions, strings = positions[~is_null], strings.drop_null()
    _, offsets_buffer, text_buffer = strings.buffers()
    offsets = np.frombuffer(offsets_buffer or bytes(8), np.int64)
    offsets = offsets[strings.offset : strings.offset + len(strings) + 1]
    text = np.frombuffer(text_buffer or b"", np.uint8)[offsets[0] : offsets[-1]]
    return Records(text, offsets - offsets[0], positions, len(column))
