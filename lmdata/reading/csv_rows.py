"""The text column of .csv and .tsv files, in bounded memory whatever a row holds.

Rows without quotes, as most tables of short texts have them, are cut many at a time; all others
are parsed by `csv`, one by one.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lmdata.errors import CorpusError, counted
from lmdata.ragged import Ragged, offsets_of, ranges
from lmdata.reading.records import Reading, Records, make_records
from lmdata.reading.streams import ByteStream, DamagedError, read_utf8, unify_newlines

_MAX_COLUMNS = 1 << 20  # each takes some 60 bytes of memory, however little is in it

_OTHER_CELLS_BYTES = 1 << 20  # that a row may hold beside its text
_LINE_FEEDS = re.compile(rb"\n+")

# Rows without quotes are cut many at once; behind an odd one, so many lines are parsed one by one
# before that is tried again, with so few bytes at first.
_TRIED_BYTES = 4 << 10
_PLAIN_BYTES, _MAX_PLAIN_ROW_BYTES, _LINES_BETWEEN_TRIES = 256 << 10, 64 << 10, 1000


@dataclass(frozen=True)
class _Row:
    """One row: its cells (None where it could not be parsed), last line and size."""

    cells: list[str] | None
    line: int
    num_bytes: int


def read_csv(reading: Reading) -> Iterator[Records]:
    """Yield the text column of .csv (quoting as in RFC 4180) or .tsv (tabs, no quoting).

    The first row is the header; positions count the rows after it.
    """
    with ByteStream(reading) as stream:
        lines = _make_lines(reading, unify_newlines(read_utf8(stream, reading.config)))
        rows = _parse_rows(reading, lines)
        header = next(rows, None)
        if header and header.cells is None:
            raise CorpusError(
                f"{reading.source}: the names of its columns, its first row, are broken"
            )
        names = header.cells if header and header.cells else []
        column = _find_column(reading, names) if header else 0
        stored = 0
        for records in _collect(reading, lines, rows, len(names), column):
            now = stream.tell_stored()
            yield dataclasses.replace(records, num_source_bytes=now - stored)
            stored = now
        reading.count_if_empty()


def _collect(
    reading: Reading, lines: _Lines, rows: Iterator[_Row], width: int, column: int
) -> Iterator[Records]:
    """Yield the cells of a column in batches: of plain rows as they lie, of others one by one."""
    texts: list[bytes] = []
    positions: list[int] = []
    num_bytes, first = 0, reading.num_seen
    while True:
        plain = lines.take_plain(width, column)
        row = None if plain else next(rows, None)
        if row is not None:
            if (text := _take_cell(reading, row, width, column)) is not None:
                texts.append(text)
                positions.append(reading.num_seen)
                num_bytes += len(text)
            reading.num_seen += 1
            if num_bytes < reading.batch_bytes and reading.num_seen - first < reading.max_records:
                continue
        if reading.num_seen > first:
            yield make_records(texts, positions, reading.num_seen - first, 0)
            texts, positions, num_bytes, first = [], [], 0, reading.num_seen
        if plain:
            cells, offsets = np.asarray(plain.values, np.uint8), np.asarray(plain.offsets, np.int64)
            numbers = np.arange(len(plain)) + reading.num_seen
            yield Records(cells, offsets, numbers, len(plain))
            reading.num_seen = first = reading.num_seen + len(plain)
        elif row is None:
            return


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
        self.num_bytes = self.num_lines = self._next_try = 0
        self._reach = _PLAIN_BYTES
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

    def take_plain(self, width: int, column: int) -> Ragged | None:
        """Return the cells of one column of the rows that come next, if many of them are plain.

        Those have no quotes, as many cells as the header and are not long; they are passed over. A
        blank line has an empty cell.
        """
        if self.num_lines < self._next_try:
            return None
        stop = self._piece.rfind(b"\n", self._at, self._at + self._reach) + 1
        quote = self._piece.find(self._quote, self._at, stop) if self._quote else -1
        if quote >= 0:
            stop = self._piece.rfind(b"\n", self._at, quote) + 1
        self._reach = min(_PLAIN_BYTES, 4 * self._reach)
        if stop <= self._at:
            self._next_try = self.num_lines + (_LINES_BETWEEN_TRIES if quote >= 0 else 1)
            return None
        block = np.frombuffer(self._piece, np.uint8, stop - self._at, self._at)
        ends = np.flatnonzero(block == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1])
        marks = np.flatnonzero(block == self._delimiter[0])
        is_blank = ends == starts
        marks_to_end = (width - 1) * np.cumsum(~is_blank)
        is_odd = np.searchsorted(marks, ends) != marks_to_end
        is_odd |= ends - starts > _MAX_PLAIN_ROW_BYTES
        count = int(np.argmax(is_odd)) if is_odd.any() else len(ends)
        if quote >= 0 or count < len(ends):
            self._next_try = self.num_lines + count + _LINES_BETWEEN_TRIES
            self._reach = min(_PLAIN_BYTES, _TRIED_BYTES)
        if not count:
            return None
        left, right, filled = ends[:count].copy(), ends[:count].copy(), ~is_blank[:count]
        firsts = marks_to_end[:count][filled] - (width - 1)
        left[filled] = marks[firsts + column - 1] + 1 if column else starts[:count][filled]
        if column < width - 1:
            right[filled] = marks[firsts + column]
        self._at += int(ends[count - 1]) + 1
        self.num_bytes += int(ends[count - 1]) + 1
        self.num_lines += count
        return Ragged(block[ranges(left, right - left)], offsets_of(right - left))

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


def _make_lines(reading: Reading, pieces: Iterator[bytes]) -> _Lines:
    row_limit = _cell_limit(reading) + _OTHER_CELLS_BYTES
    is_csv = reading.source.format == "csv"
    return _Lines(pieces, row_limit, b"," if is_csv else b"\t", b'"' if is_csv else b"")


def _cell_limit(reading: Reading) -> int:
    return max(reading.config.max_document_bytes, 1 << 17)


def _parse_rows(reading: Reading, lines: _Lines) -> Iterator[_Row]:
    """Yield the rows of a .csv or .tsv text; a broken one, if not an error, without cells."""
    csv.field_size_limit(_cell_limit(reading))
    if reading.source.format == "csv":
        rows = csv.reader(lines, strict=True)
    else:
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    while True:
        lines.begin_row()
        before = lines.num_bytes
        try:
            cells = next(rows)
        except StopIteration:
            return
        except DamagedError as error:
            reading.rejections.reject(error.reason, lines.num_bytes - before, str(error))
            return
        except (csv.Error, _RowTooLargeError) as error:
            _reject_row(reading, error, lines.num_lines, lines.num_bytes - before)
            yield _Row(None, lines.num_lines, lines.num_bytes - before)
        else:
            yield _Row(cells, lines.num_lines, lines.num_bytes - before)
        if num_blank := lines.skip_blank():
            reading.rejections.add("empty", num_blank, 0)
            reading.num_seen += num_blank


def _reject_row(reading: Reading, error: Exception, line: int, num_bytes: int) -> None:
    where = f"{reading.source} line {line}"
    if isinstance(error, _RowTooLargeError) or "field limit" in str(error):
        reading.rejections.reject("too-large", num_bytes, reading.too_large(where, num_bytes))
    else:
        message = f"{where} is not valid .{reading.source.format}: {error}"
        reading.rejections.reject("broken", num_bytes, message)


def _find_column(reading: Reading, header: list[str]) -> int:
    if reading.config.text_field not in header:
        raise CorpusError(reading.missing_field(str(reading.source), header))
    return header.index(reading.config.text_field)


def _take_cell(reading: Reading, row: _Row, width: int, column: int) -> bytes | None:
    """Return the text of one row; a blank line is an empty text; None if it was rejected."""
    if row.cells is None:
        return None
    if not row.cells:
        return b""
    if len(row.cells) != width:
        found = (
            f"line {row.line} has {counted(len(row.cells), 'field')} where the header has {width}"
        )
        reading.rejections.reject("broken", row.num_bytes, found, reading.source)
        return None
    return row.cells[column].encode("utf-8", "surrogateescape")
