"""Files as tables: named columns of one length, whatever the format and compression."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmmodel.errors import TaskError
from lmmodel.finetuning.tasks import FileFormat, suggest

_EXTENSIONS: dict[str, FileFormat] = {
    ".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".parquet": "parquet", ".conllu": "conllu", ".conll": "conllu",
}  # fmt: skip
_READERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".zst": lambda data: bytes(pa.CompressedInputStream(pa.BufferReader(data), "zstd").read()),
    ".xz": lzma.decompress,
    ".bz2": bz2.decompress,
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Named columns of R rows."""

    path: str
    lines: npt.NDArray[np.int64]  # (R,) 1-based line, or record of formats without lines
    columns: Mapping[str, Sequence[Any] | pa.ChunkedArray]  # (R,) each; None: nothing there
    has_names: bool  # False: columns are numbers

    def column(self, name: str) -> list[Any]:
        """Return the values of a column.

        Raises:
            TaskError: there is no such column
        """
        if name not in self.columns:
            raise TaskError(
                f"{self.path} has no column {name!r}: it has {self.listing()}"
                f"{suggest(name, list(self.columns))}{self._advice(name)}"
            )
        values = self.columns[name]
        return list(values.to_pylist() if isinstance(values, pa.ChunkedArray) else values)

    def listing(self) -> str:
        """Return the columns for an error; those without a name with their first value."""
        if self.has_names:
            return ", ".join(map(repr, self.columns))
        first = [(name, values[0] if len(values) else "") for name, values in self.columns.items()]
        return "numbers only: " + ", ".join(f"{name} ({value[:30]!r})" for name, value in first)

    def _advice(self, name: str) -> str:
        if self.has_names and name.isdigit():
            return "; columns have numbers where the file has no header (--no-header)"
        return ""


def detect_format(path: Path) -> FileFormat:
    """Return the format that a file's name tells.

    Raises:
        TaskError: it tells none

    Example:
        >>> detect_format(Path("dev.TSV.gz")), detect_format(Path("a.b/train.conllu"))
        ('tsv', 'conllu')
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _READERS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in _EXTENSIONS:
        raise TaskError(
            f"{path} has no known extension: rename it to {' '.join(_EXTENSIONS)}, each also with "
            f"{' '.join(_READERS)}, or name its format ({', '.join(get_args(FileFormat))})"
        )
    return _EXTENSIONS[suffixes[-1]]


def read_bytes(path: Path) -> bytes:
    """Return what a file holds, decompressed where its name says so.

    Raises:
        TaskError: it is missing, unreadable, or damaged
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaskError(f"can't read {path}: {error.strerror or error}") from error
    decompress = _READERS.get(path.suffix.lower())
    try:
        return data if decompress is None else decompress(data)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise TaskError(
            f"{path} is truncated or not valid {path.suffix}: {error}; get it again"
        ) from error


def read_text(path: Path, *, keeps_line_ends: bool = False) -> str:
    """Return the text of a UTF-8 file, without a byte-order mark, lines ended by a line feed.

    Args:
        path: of the file, compressed or not
        keeps_line_ends: leave those of Windows as they are

    Raises:
        TaskError: it is missing, damaged or not UTF-8
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{path} is not UTF-8 at byte {error.start}: convert it, as with iconv -t utf-8"
        ) from error
    return text if keeps_line_ends else text.replace("\r\n", "\n")


def read_table(path: Path, file_format: FileFormat, *, has_header: bool = True) -> Table:
    """Return a file as a table.

    TSV has no quoting, as in GLUE: a quotation mark is text. CSV has that of RFC 4180. JSON is a
    record a line, or one list of records. Blank lines are passed over.

    Args:
        path: of the file
        file_format: tsv, csv, jsonl, json or parquet
        has_header: whether the first line of TSV and CSV names the columns

    Raises:
        TaskError: the file is unreadable, empty, or a line of it does not fit
    """
    if file_format in ("tsv", "csv"):
        split = _split_tsv if file_format == "tsv" else _split_csv
        table = _tabulate(path, *split(path, read_text(path)), has_header=has_header)
    elif file_format == "parquet":
        table = _read_parquet(path)
    else:
        records = _read_records(path, file_format)
        names = dict.fromkeys(name for _, record in records for name in record)
        columns = {name: [record.get(name) for _, record in records] for name in names}
        lines = np.array([line for line, _ in records], np.int64)
        table = Table(path=str(path), lines=lines, columns=columns, has_names=True)
    if not len(table.lines):
        raise TaskError(f"{path} holds no rows")
    return table


def _split_tsv(path: Path, text: str) -> tuple[list[int], list[list[str]]]:
    """Return the numbers of the lines that are not blank, and their fields."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line]
    return [number for number, _ in lines], [line.split("\t") for _, line in lines]


def _split_csv(path: Path, text: str) -> tuple[list[int], list[list[str]]]:
    """Return at which line each record begins, and its fields."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    numbers, rows, number = [], [], 1
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))  # of the whole process
    try:
        for row in reader:
            if row:
                numbers.append(number)
                rows.append(row)
            number = reader.line_num + 1
    except csv.Error as error:
        raise TaskError(
            f"{path}, line {number}: {error}; a quotation mark inside a quoted field is written "
            "twice, and a file without quoting that has tabs is TSV"
        ) from error
    finally:
        csv.field_size_limit(limit)
    return numbers, rows


def _tabulate(path: Path, numbers: list[int], rows: list[list[str]], *, has_header: bool) -> Table:
    """Return rows of fields as columns."""
    names = [str(number) for number in range(len(rows[0]) if rows else 0)]
    if has_header and rows:
        names, rows, numbers = rows[0], rows[1:], numbers[1:]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise TaskError(
                f"{path} names the column {repeated[0]!r} twice: rename one; or, if its first line "
                "is data, say that it has no header (--no-header)"
            )
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != len(names):
            raise TaskError(
                f"{path}, line {number} has {len(row)} fields, the first line has {len(names)}: "
                "mend or remove it"
            )
    columns = dict(zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True))
    lines = np.array(numbers, np.int64)
    return Table(path=str(path), lines=lines, columns=columns, has_names=has_header)


def _read_parquet(path: Path) -> Table:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(read_bytes(path)))
    except pa.ArrowException as error:
        raise TaskError(f"{path} is not a Parquet file: {error}") from error
    columns = dict(zip(table.column_names, table.columns, strict=True))
    lines = np.arange(1, table.num_rows + 1)
    return Table(path=str(path), lines=lines, columns=columns, has_names=True)


def _read_records(path: Path, file_format: FileFormat) -> list[tuple[int, dict[str, Any]]]:
    """Return the line or number of each JSON object, and the object."""
    text = read_text(path)
    if file_format == "json" and text.lstrip().startswith("["):
        values = list(enumerate(parse_json(path, text, 1), 1))
    else:
        lines = enumerate(text.split("\n"), 1)
        values = [
            (number, parse_json(path, line, number)) for number, line in lines if line.strip()
        ]
    for number, value in values:
        if not isinstance(value, dict):
            raise TaskError(
                f"{path}, line {number} is {type(value).__name__}: a JSON object is wanted"
            )
    return values


def parse_json(path: Path, text: str, line: int) -> Any:
    """Return the value of a JSON text that begins at a line.

    Raises:
        TaskError: it is not valid
    """
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        number = line + error.lineno - 1
        raise TaskError(f"{path}, line {number} is not JSON: {error.msg}") from error
    except UnicodeEncodeError as error:
        raise TaskError(
            f"{path}, line {line} holds half a character, \\u{ord(error.object[error.start]):x}: "
            "mend the escape"
        ) from error
    except RecursionError as error:
        raise TaskError(f"{path}, line {line} is nested too deeply") from error
