"""Tables -> records: the text column of .csv, .tsv, Parquet and Arrow IPC files."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmdata.arrow_text import check_text, cut_rows, is_text, text_lengths, unfold_text
from lmdata.errors import CorpusError
from lmdata.reading.records import Job, Records, make_records
from lmdata.reading.streams import ByteStream, DamagedError, read_utf8, spool, unify_newlines

_MAX_COLUMNS = 1 << 20  # each takes some 60 bytes of memory, however little is in it

_OTHER_CELLS_BYTES = 1 << 20  # that a row may hold beside its text
_LINE_FEEDS = re.compile(rb"\n+")

# What PyArrow raises for a damaged file; the last where a name in it is not UTF-8.
_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)


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
        if header and header.cells is None:
            raise CorpusError(f"{job.source}: the names of its columns, its first row, are broken")
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
            if num_bytes >= job.batch_bytes or job.num_seen - first >= job.max_records:
                now = stream.tell_stored()
                yield make_records(texts, positions, job.num_seen - first, now - stored)
                texts, positions, num_bytes, first, stored = [], [], 0, job.num_seen, now
        job.count_if_empty()
        yield make_records(texts, positions, job.num_seen - first, stream.tell_stored() - stored)


class _RowTooLargeError(Exception):
    """A row that does not fit into memory; the parser goes on behind its last line."""


class _Lines:
    """The lines of a text for `csv.reader`, which hears of a row that is too large in time.

    Not a generator: that could not go on behind an error.
    """

    def __init__(
        self, pieces: Iterator[bytes], max_row_bytes: int, delimiter: bytes, quote: bytes
    ) -> None:
        self._pieces, self._piece, self._at = pieces, b"", 0
        self._max_row_bytes, self._delimiter, self._quote = max_row_bytes, delimiter, quote
        self.num_bytes = self.num_lines = 0
        self.begin_row()

    def begin_row(self) -> None:
        self._row_start, self._num_delimiters, self._is_quoted = self.num_bytes, 0, False

    def skip_blank(self) -> int:
        """Pass over the blank lines that come next in the piece in hand; return how many."""
        run = _LINE_FEEDS.match(self._piece, self._at)
        count = run.end() - self._at if run else 0
        self._at += count
        self.num_bytes += count
        self.num_lines += count
        return count

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line, length = self._read_line()
        self.num_bytes += length
        self.num_lines += 1
        self._num_delimiters += self._count_delimiters(line)
        is_too_long = self.num_bytes - self._row_start > self._max_row_bytes
        if is_too_long or self._num_delimiters > _MAX_COLUMNS:
            raise _RowTooLargeError
        return line.decode("utf-8", "surrogateescape")

    def _read_line(self) -> tuple[bytes, int]:
        """Return a line with its line feed, only its beginning if it is too long, and its length.

        Raises:
            StopIteration: there is none
        """
        parts: list[bytes] = []
        length = 0
        while True:
            stop = self._piece.find(b"\n", self._at) + 1
            part = self._piece[self._at : stop or len(self._piece)]
            length += len(part)
            if length <= self._max_row_bytes:
                parts.append(part)
            self._at += len(part)
            if not stop:
                self._piece, self._at = next(self._pieces, b""), 0
            if stop or not self._piece:
                break
        if not length:
            raise StopIteration
        return b"".join(parts), length

    def _count_delimiters(self, line: bytes) -> int:
        """Return how many delimiters a line has; of a great many, only those outside quotes."""
        was_quoted = self._is_quoted
        self._is_quoted ^= bool(self._quote and line.count(self._quote) & 1)
        count = line.count(self._delimiter)
        if count > _MAX_COLUMNS - self._num_delimiters and self._quote:
            outside = line.split(self._quote)[int(was_quoted) :: 2]
            count = sum(part.count(self._delimiter) for part in outside)
        return count


def _parse_rows(job: Job, pieces: Iterator[bytes]) -> Iterator[_Row]:
    """Yield the rows of a .csv or .tsv text; a broken one, if not an error, without cells."""
    limit = max(job.config.max_document_bytes, 1 << 17)
    csv.field_size_limit(limit)
    row_limit = limit + _OTHER_CELLS_BYTES
    if job.source.format == "csv":
        lines = _Lines(pieces, row_limit, b",", b'"')
        rows = csv.reader(lines, strict=True)
    else:
        lines = _Lines(pieces, row_limit, b"\t", b"")
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    while True:
        lines.begin_row()
        before = lines.num_bytes
        try:
            cells = next(rows)
        except StopIteration:
            return
        except DamagedError as error:
            job.rejections.reject(error.reason, lines.num_bytes - before, str(error))
            return
        except (csv.Error, _RowTooLargeError) as error:
            _reject_row(job, error, lines.num_lines, lines.num_bytes - before)
            yield _Row(None, lines.num_lines, lines.num_bytes - before)
        else:
            yield _Row(cells, lines.num_lines, lines.num_bytes - before)
        if num_blank := lines.skip_blank():
            job.rejections.add("empty", num_blank, 0)
            job.num_seen += num_blank


def _reject_row(job: Job, error: Exception, line: int, num_bytes: int) -> None:
    where = f"{job.source} line {line}"
    if isinstance(error, _RowTooLargeError) or "field limit" in str(error):
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
        found = f"line {row.line} has {len(row.cells)} fields where the header has {width}"
        job.rejections.reject("broken", row.num_bytes, found, job.source)
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
        except _DAMAGE as error:
            message = f"{job.source} is not valid .{job.source.format}: {error}"
            job.rejections.reject("damaged", 0, message)
            return
        yield from _read_batches(job, batches, num_rows)


def _open_parquet(job: Job, file: Any) -> tuple[Iterator[Any], int]:
    """Return the record batches of the row groups in the range, and the rows of the file."""
    metadata = pq.read_metadata(file)
    _check_column(job, metadata.schema.to_arrow_schema())
    table = pq.ParquetFile(
        file, metadata=metadata, pre_buffer=False, read_dictionary=[job.config.text_field],
        page_checksum_verification=True,
    )  # fmt: skip
    starts = _row_group_starts(metadata)
    if any(not 0 <= start < file.size() for start in starts):
        raise pa.ArrowInvalid("a row group begins outside of the file")
    groups = [
        group
        for group, start in enumerate(starts)
        if job.start <= start and (job.stop is None or start < job.stop)
    ]
    return _row_group_batches(job, table, groups), metadata.num_rows


def _row_group_batches(job: Job, table: Any, groups: list[int]) -> Iterator[Any]:
    """Yield record batches of about `batch_bytes` of the text column of some row groups.

    Their texts stay as Parquet's dictionaries hold them, however often a row names one.

    Raises:
        pa.ArrowInvalid: a row group has not the rows that the footer says
    """
    column = job.config.text_field
    for group in groups:
        metadata = table.metadata.row_group(group)
        size = max(1, metadata.total_byte_size)
        rows = min(metadata.num_rows, job.batch_bytes * metadata.num_rows // size, job.max_records)
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
    return batches, 0


def _check_column(job: Job, schema: Any) -> None:
    """Raise a CorpusError unless the text column is there, once, and holds text."""
    name = job.config.text_field
    if name not in schema.names:
        raise CorpusError(job.missing_field(str(job.source), schema.names))
    if schema.names.count(name) > 1:
        raise CorpusError(f"{job.source} has {schema.names.count(name)} columns named {name!r}")
    type_ = schema.field(name).type
    if not is_text(type_):
        raise CorpusError(
            f"{job.source}: column {name!r} is of type {type_}, not string; name another column "
            f"with --text-field"
        )


def _read_batches(job: Job, batches: Iterator[Any], num_rows: int) -> Iterator[Records]:
    """Yield the text column of record batches; `num_rows` > 0 says that the file is not empty."""
    while True:
        try:
            batch = next(batches, None)
        except _DAMAGE as error:
            message = f"{job.source} is damaged after record {job.num_seen}: {error}"
            job.rejections.reject("damaged", 0, message)
            return
        if batch is None:
            if not num_rows:
                job.count_if_empty()
            return
        try:
            column = check_text(batch.column(job.config.text_field))
        except pa.ArrowException as error:
            where = f"{job.source} records {job.num_seen + 1} to {job.num_seen + len(batch)}"
            job.rejections.check(f"{where} are damaged: {error}")
            job.rejections.add("damaged", len(batch), 0)
            job.num_seen += len(batch)
        else:
            yield from _column_records(job, column)


def _column_records(job: Job, column: Any) -> Iterator[Records]:
    """Yield a checked column in pieces of about `batch_bytes` of text, however it is stored."""
    for first in range(0, len(column), job.max_records):
        part = column.slice(first, job.max_records)
        lengths, is_null = text_lengths(part)
        is_kept = ~is_null
        _reject_nulls(job, is_null)
        for row in np.flatnonzero(lengths > job.config.max_document_bytes).tolist():
            message = job.too_large(f"{job.source} record {job.num_seen + row + 1}", lengths[row])
            job.rejections.reject("too-large", int(lengths[row]), message)
            is_kept[row] = False
        for start, stop in cut_rows(lengths, job.batch_bytes):
            kept = np.flatnonzero(is_kept[start:stop])
            # Where no row is kept, it may be one that is too large to unfold.
            texts = unfold_text(part.slice(start, stop - start if len(kept) else 0))
            if len(kept) < len(texts):
                texts = texts.take(kept)
            positions = kept + job.num_seen
            job.num_seen += stop - start
            text = np.asarray(texts.values, np.uint8)
            yield Records(text, np.asarray(texts.offsets, np.int64), positions, stop - start)


def _reject_nulls(job: Job, is_null: np.ndarray[Any, Any]) -> None:
    """Count the rows without a text, or raise for the first."""
    if is_null.any():
        row = job.num_seen + int(np.flatnonzero(is_null)[0]) + 1
        job.rejections.check(f"{job.source} record {row}: {job.config.text_field!r} is null")
        job.rejections.add("null", int(is_null.sum()), 0)
