"""Task files as bytes, text, JSON and tables of named columns, in bounded memory."""

from __future__ import annotations

import collections
import difflib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.arrow_text import check_text, count_page_bytes, is_text, text_lengths
from lmdata.settings import COMPRESSIONS
from lmdata.stored import CompressionError, read_decompressed
from lmdata.text_marks import marked_encoding, name_utf16
from lmmodel.errors import TaskError

AUTO = "auto"

# What a task file may unfold to. A table of Python values takes some ten times as much memory.
MAX_BYTES = 512 << 20
# Texts come to a third of their size and less, never to a thousandth: small files stay small.
LEAST_LIMIT = 64 << 20
MAX_UNFOLDING = 200
MAX_TEXT = 2_000_000  # characters of one text


def _limit(path: Path) -> int:
    """Return how many bytes a file may unfold to."""
    if path.suffix.lower() not in COMPRESSIONS or not path.is_file():
        return MAX_BYTES
    return min(MAX_BYTES, max(LEAST_LIMIT, MAX_UNFOLDING * path.stat().st_size))


def read_bytes(path: Path) -> bytes:
    """Return what a file holds, decompressed where its name says so.

    Raises:
        TaskError: it is missing, unreadable, damaged, or unfolds to more than is read
    """
    try:
        return read_decompressed(path, _limit(path))
    except OSError as error:
        raise TaskError(f"can't read {path}: {error.strerror or error}") from error
    except CompressionError as error:
        kind = path.suffix if path.suffix.lower() in COMPRESSIONS else "a task file"
        raise TaskError(
            f"{path} can't be read as {kind}: {error}; get it again, or take a part of it"
        ) from error


def read_text(path: Path, encoding: str = AUTO, *, keeps_line_ends: bool = False) -> str:
    """Return the text of a file, without a byte-order mark, lines ended by a line feed.

    Args:
        path: of the file, compressed or not
        encoding: a Python codec; auto: what the mark says, else UTF-8
        keeps_line_ends: leave those of Windows as they are

    Raises:
        TaskError: it is missing, damaged, too large or of another encoding
    """
    text = decode(str(path), read_bytes(path), encoding)
    return text if keeps_line_ends else text.replace("\r\n", "\n")


def decode(name: str, data: bytes, encoding: str = AUTO) -> str:
    r"""Return the text of bytes, without a byte-order mark.

    Args:
        name: of the file, for errors
        data: of it
        encoding: a Python codec; auto: what the mark says, else UTF-8

    Raises:
        TaskError: they are of another encoding

    Example:
        >>> decode("a.txt", b"\xff\xfea\x00"), decode("a.txt", b"\xe4", "cp1252")
        ('a', 'ä')
    """
    chosen = marked_encoding(data) if encoding == AUTO else encoding
    if chosen == "utf-8" and (found := name_utf16(data[:1024])):
        raise TaskError(
            f"{name} looks like UTF-16 without a byte-order mark, every second byte is zero: name "
            f"its --encoding {found}"
        )
    try:
        return data.decode(chosen).removeprefix("\ufeff")
    except UnicodeError as error:
        place = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        shown = "UTF-8" if chosen == "utf-8" else chosen
        raise TaskError(
            f"{name} is not {shown}{place}: name its --encoding (such as cp1252, cp932, utf-16)"
        ) from error


def parse_json(path: Path, text: str, line: int) -> Any:
    """Return the value of a JSON text that begins at a line.

    Raises:
        TaskError: it is not valid, nested too deeply, or holds a number of thousands of digits
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
    except ValueError as error:  # Python's limit
        raise TaskError(
            f"{path}, line {line} holds a number of more than {sys.get_int_max_str_digits()} "
            "digits: mend it"
        ) from error


def suggest(name: str, known: Sequence[str]) -> str:
    """Return a clause that names the near match, or nothing.

    Example:
        >>> suggest("entailmnt", ["entailment", "neutral"])
        "; did you mean 'entailment'?"
    """
    close = difflib.get_close_matches(name[:100], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def describe(value: Any) -> str:
    """Return a value for an error, however long it is.

    Example:
        >>> describe(None), describe(""), describe(0.5)
        ('missing', 'empty', "'0.5'")
    """
    if value is None:
        return "missing"
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return "empty" if value == "" else f"{str(value)[:40]!r}"


def parse_text(where: str, name: str, value: Any) -> str:
    """Return a text without the white space around it; where there is none, an empty one.

    Raises:
        TaskError: it is no text, or too long
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TaskError(f"{where}: {name!r} is {describe(value)}, a text is wanted")
    if len(value) > MAX_TEXT:
        raise TaskError(
            f"{where}: {name!r} has {len(value):,} characters, at most {MAX_TEXT:,} are read: cut "
            "it into several"
        )
    return value.strip()


FileFormat = Literal["tsv", "csv", "jsonl", "json", "parquet", "conllu"]
T = TypeVar("T")

_EXTENSIONS: dict[str, FileFormat] = {
    ".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".parquet": "parquet", ".conllu": "conllu", ".conll": "conllu",
}  # fmt: skip
SKIPPED = "left out: lines that do not fit"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Named columns of R rows."""

    path: str
    lines: npt.NDArray[np.int64]  # (R,) 1-based line, or record of formats without lines
    columns: Mapping[str, Sequence[Any]]  # (R,) each; None: nothing there
    has_names: bool  # False: columns are numbers
    skips: bool = False  # whether rows that do not fit are left out
    counts: collections.Counter[str] = field(default_factory=collections.Counter)

    def column(self, name: str) -> list[Any]:
        """Return the values of a column.

        Raises:
            TaskError: there is no such column
        """
        self.check(name)
        return list(self.columns[name])

    def head(self, name: str, num_rows: int) -> list[Any]:
        """Return the first values of a column."""
        return list(self.columns[name][:num_rows])

    def check(self, *names: str) -> None:
        """Check that there are columns of these names.

        Raises:
            TaskError: one is missing; all that are missing are named
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            near = "".join(suggest(name, list(self.columns)) for name in missing)
            advice = self._advice(missing[0])
            raise TaskError(
                f"{self.path} has no column {' and no column '.join(map(repr, missing))}: it has "
                f"{self.listing()}{near}{advice}"
            )

    def parse(
        self, names: Sequence[str], parse: Callable[..., T]
    ) -> tuple[npt.NDArray[np.int64], list[T]]:
        """Return the lines of the rows that fit, int64, and what each of them is.

        Args:
            names: of columns
            parse: takes the place of a row, for errors, and its values; raises TaskError where they
                do not fit

        Raises:
            TaskError: a column is missing; a row does not fit and `skips` is not set
        """
        self.check(*names)
        lines, parsed = [], []
        cells = zip(*[self.column(name) for name in names], strict=True)
        for line, values in zip(self.lines.tolist(), cells, strict=True):
            try:
                parsed.append(parse(f"{self.path}, line {line}", *values))
            except TaskError:
                if not self.skips:
                    raise
                self.counts[SKIPPED] += 1
            else:
                lines.append(line)
        if not parsed:
            raise TaskError(f"{self.path} has no row that fits: {self.counts[SKIPPED]} do not")
        return np.array(lines, np.int64), parsed

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


def read_parquet(path: Path, *, skips: bool = False) -> Table:
    """Return a Parquet file as a table.

    Raises:
        TaskError: it is none, damaged, or unfolds to more than is read
    """
    import pyarrow.parquet as pq

    data = pa.BufferReader(read_bytes(path))
    try:
        schema = pq.read_schema(data)
        texts = [field.name for field in schema if is_text(field.type)]
        data.seek(0)
        file = pq.ParquetFile(data, read_dictionary=texts, page_checksum_verification=True)
        _check_size(path, file.metadata.num_rows * max(1, len(schema)))
        _check_size(path, count_page_bytes(data, file.metadata))
        table = file.read()
        columns = _unfolded(path, table)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = str(error).strip().split("\n")[0]
        raise TaskError(f"{path} is damaged or not a Parquet file: {reason}") from error
    lines = np.arange(1, table.num_rows + 1)
    return Table(path=str(path), lines=lines, columns=columns, has_names=True, skips=skips)


def _unfolded(path: Path, table: pa.Table) -> dict[str, list[Any]]:
    """Return the values of each column; texts are checked and measured before they are unfolded.

    Raises:
        TaskError: they come to more than is read
        pa.ArrowException, UnicodeDecodeError: an offset, an index or a text is wrong
    """
    _check_size(path, sum(column.nbytes for column in table.columns))
    num_bytes, columns = 0, {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        values: list[Any] = []
        for chunk in column.chunks:
            if is_text(chunk.type):
                checked = check_text(chunk)
                num_bytes += int(text_lengths(checked)[0].sum())
                _check_size(path, num_bytes)
                values += [None if v is None else v.decode() for v in checked.to_pylist()]
            else:
                chunk.validate(full=True)
                values += chunk.to_pylist()
        columns[name] = values
    return columns


def _check_size(path: Path, num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise TaskError(
            f"{path} unfolds to more than the {MAX_BYTES >> 20} MiB that a task file may have: "
            "take a part of it"
        )


def detect_format(path: Path) -> FileFormat:
    """Return the format that a file's name tells.

    Raises:
        TaskError: it tells none

    Example:
        >>> detect_format(Path("dev.TSV.gz")), detect_format(Path("a.b/train.conllu"))
        ('tsv', 'conllu')
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in _EXTENSIONS:
        raise TaskError(
            f"{path} has no known extension: rename it to {' '.join(_EXTENSIONS)}, each also with "
            f"{' '.join(COMPRESSIONS)}, or name its format ({', '.join(get_args(FileFormat))})"
        )
    return _EXTENSIONS[suffixes[-1]]
