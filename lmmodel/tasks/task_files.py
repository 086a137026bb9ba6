"""A task file as its user describes it: lines of fields, records, or text of its own kind."""

from __future__ import annotations

import collections
import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from lmdata.errors import counted
from lmdata.settings import COMPRESSIONS, CorpusConfig
from lmdata.xxh3 import hash_file
from lmmodel.errors import TaskError
from lmmodel.tasks.tables import (
    SKIPPED,
    FileFormat,
    Table,
    detect_format,
    parse_json,
    read_parquet,
    read_text,
)

TagColumn = Literal["upos", "xpos"]
_DELIMITERS: dict[str, str] = {"tsv": "\t", "csv": ","}
_OTHER_DELIMITERS = (";", "\t", "|", ",")

BEYOND = "lines with more fields than columns: what is beyond is not read"


@dataclass(frozen=True, kw_only=True)
class TaskFormat:
    """Which columns of a task file hold what.

    Columns are names, or 0-based numbers where there is no header. None: guessed from the usual
    names and the values, an error where two fit.
    """

    text: str | None = None
    """Column of the text, of the first of two, of the words, or of the question."""

    pair: str | None = None
    """Column of the second text, or of the passage that the question is about."""

    label: str | None = None
    """Column of the class, classes, number, tags or answers."""

    has_header: bool = True
    """Whether the first line of TSV and CSV names the columns."""

    tags: TagColumn = "upos"
    """Which tags of CoNLL-U are the labels."""

    has_labels: bool = True
    """False: only texts are read, as for predictions."""

    file_format: FileFormat | None = None
    """None: what the file's extension says."""

    delimiter: str | None = None
    """Between fields, one character; None: a tab in TSV, in CSV a comma or what plainly is one."""

    encoding: str = "auto"
    """A Python codec such as cp1252; auto: what the byte-order mark says, else UTF-8."""

    errors: Literal["strict", "skip"] = "strict"
    """skip: lines that do not fit are left out and counted."""

    unlabelled: tuple[str, ...] = ("-1", "-", "nan", "NaN")
    """Classes that stand for none, as in hidden tests and in what pandas writes: such rows are left
    out and counted, unless fewer than two classes would stay."""

    def __post_init__(self) -> None:
        if self.tags not in get_args(TagColumn):
            raise ValueError(f"tags must be upos or xpos, got {self.tags!r}")
        if self.label is not None and not self.has_labels:
            raise ValueError(f"no labels are read: the column {self.label!r} has no effect")
        if self.delimiter is not None and len(self.separator or "") != 1:
            raise ValueError(
                f"delimiter must be one character, such as ';' or tab, got {self.delimiter!r}"
            )
        CorpusConfig(encoding=self.encoding)  # checks it

    @property
    def separator(self) -> str | None:
        """What stands between fields, where the user says it."""
        return {"tab": "\t", "\\t": "\t"}.get(self.delimiter or "", self.delimiter)


class TaskFile:
    """A task file and how it is laid out; what was guessed about it is in `notes`."""

    def __init__(self, path: Path | str, columns: TaskFormat) -> None:
        self.path = Path(path)
        self.columns = columns
        self.aligned = aligned_files(self.path, columns)
        self.format = "jsonl" if self.aligned else columns.file_format or detect_format(self.path)
        self.notes: list[str] = []

    @cached_property
    def text(self) -> str:
        """The whole file, lines ended by a line feed."""
        return read_text(self.path, self.columns.encoding)

    @cached_property
    def json(self) -> Any:
        """What a JSON file holds; None where it is not one JSON value."""
        if self.format != "json":
            return None
        try:
            return parse_json(self.path, self.text, 1)
        except TaskError:
            if "\n" not in self.text.strip():
                raise
            return None

    def check_no_columns(self) -> None:
        """Check that no columns are described where they are fixed.

        Raises:
            TaskError: one is, which would have no effect
        """
        given = self.columns
        if not given.has_header:
            raise TaskError(
                f"{self.path} has no header to leave out: --no-header is for TSV and CSV"
            )
        named = next(filter(None, (given.text, given.pair, given.label, given.delimiter)), None)
        if named is not None:
            raise TaskError(
                f"{self.path} has no columns to choose from: {named!r} would have no effect"
            )

    def note(self, text: str) -> None:
        """Keep what was guessed, to be told."""
        self.notes.append(f"{self.path}: {text}")

    @cached_property
    def table(self) -> Table:
        """The file as a table; blank lines are passed over.

        TSV has no quoting, as in GLUE: a quotation mark is text. CSV has that of RFC 4180. JSON is
        a record a line, or one list of records.

        Raises:
            TaskError: the file is unreadable, empty, or a line of it does not fit
        """
        if self.aligned:
            return _join_lines(self.path, self.aligned, self.columns)
        columns, has_fields = self.columns, self.format in _DELIMITERS
        if columns.tags != "upos":
            raise TaskError(
                f"{self.path} is no CoNLL-U: name the column of its tags, not {columns.tags}"
            )
        if not has_fields and not columns.has_header:
            raise TaskError(f"{self.path} always names its columns: --no-header is for TSV and CSV")
        if not has_fields and columns.delimiter is not None:
            raise TaskError(f"{self.path} has no delimiter: --delimiter is for TSV and CSV")
        if has_fields:
            table = self._tabulate()
        elif self.format == "parquet":
            table = read_parquet(self.path, skips=columns.errors == "skip")
        else:
            table = self._records()
        if not len(table.lines):
            raise TaskError(f"{self.path} holds no rows")
        return table

    # Lines of fields.

    def _tabulate(self) -> Table:
        """Return lines of fields as columns."""
        numbers, rows = self._fields(self._delimiter())
        names = [str(number) for number in range(len(rows[0]) if rows else 0)]
        if self.columns.has_header and rows:
            names, rows, numbers = rows[0], rows[1:], numbers[1:]
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise TaskError(
                    f"{self.path} names the column {repeated[0]!r} twice: rename one; or, if its "
                    "first line is data, say that it has no header (--no-header)"
                )
        counts: collections.Counter[str] = collections.Counter()
        fitting = [
            (number, row[: len(names)])
            for number, row in zip(numbers, rows, strict=True)
            if self._fits(number, row, len(names), counts)
        ]
        lines = np.array([number for number, _ in fitting], np.int64)
        cells = zip(*[row for _, row in fitting], strict=True) if fitting else [()] * len(names)
        return Table(
            path=str(self.path), lines=lines, columns=dict(zip(names, cells, strict=True)),
            has_names=self.columns.has_header, skips=self.columns.errors == "skip", counts=counts,
        )  # fmt: skip

    def _fits(
        self, number: int, row: list[str], width: int, counts: collections.Counter[str]
    ) -> bool:
        """Whether a line has a field for each column, counting what it has otherwise.

        Lines of TSV may have more, as those of STS-B do, which end with licences.

        Raises:
            TaskError: it has not, and such lines are not left out
        """
        is_beyond = len(row) > width and self.format == "tsv"
        counts[BEYOND] += is_beyond
        if len(row) == width or is_beyond:
            return True
        if self.columns.errors == "skip":
            counts[SKIPPED] += 1
            return False
        raise TaskError(
            f"{self.path}, line {number} has {counted(len(row), 'field')}, the first line has "
            f"{width}: mend or remove it, or leave such lines out by --errors skip"
        )

    def _delimiter(self) -> str:
        """Return what stands between fields: as the user says, as usual, or what plainly does."""
        usual = _DELIMITERS[self.format]
        if self.columns.separator is not None:
            return self.columns.separator
        heads = [line for line in self.text[:100_000].split("\n")[:10] if line]
        if not heads or any(usual in line for line in heads):
            return usual
        found = [
            other
            for other in _OTHER_DELIMITERS
            if other != usual
            and len({line.count(other) for line in heads}) == 1
            and other in heads[0]
        ]
        if len(found) != 1:
            return usual
        self.note(f"fields are taken to be separated by {found[0]!r} (--delimiter)")
        return found[0]

    def _fields(self, delimiter: str) -> tuple[list[int], list[list[str]]]:
        """Return the numbers of the lines that are not blank, and their fields."""
        if self.format == "tsv":
            lines = [(n, line) for n, line in enumerate(self.text.split("\n"), 1) if line]
            return [number for number, _ in lines], [line.split(delimiter) for _, line in lines]
        reader = csv.reader(io.StringIO(self.text, newline=""), strict=True, delimiter=delimiter)
        numbers, rows, number = [], [], 1
        limit = csv.field_size_limit(max(len(self.text), csv.field_size_limit()))  # of the process
        try:
            for row in reader:
                if row:
                    numbers.append(number)
                    rows.append(row)
                number = reader.line_num + 1
        except csv.Error as error:
            raise TaskError(
                f"{self.path}, line {number}: {error}; a quotation mark inside a quoted field is "
                "written twice, and a file without quoting that has tabs is TSV"
            ) from error
        finally:
            csv.field_size_limit(limit)
        return numbers, rows

    # Records.

    def _records(self) -> Table:
        """Return JSON objects as a table."""
        counts: collections.Counter[str] = collections.Counter()
        records = [
            (number, value)
            for number, value in self._values(counts)
            if self._is_record(number, value, counts)
        ]
        names = dict.fromkeys(name for _, record in records for name in record)
        return Table(
            path=str(self.path),
            lines=np.array([line for line, _ in records], np.int64),
            columns={name: [record.get(name) for _, record in records] for name in names},
            has_names=True, skips=self.columns.errors == "skip", counts=counts,
        )  # fmt: skip

    def _values(self, counts: collections.Counter[str]) -> list[tuple[int, Any]]:
        """Return the line or number of each JSON value, and the value."""
        if isinstance(self.json, list):
            return list(enumerate(self.json, 1))
        if isinstance(self.json, dict) and (records := self._nested(self.json)) is not None:
            return list(enumerate(records, 1))
        values = []
        for number, line in enumerate(self.text.split("\n"), 1):
            if line.strip():
                try:
                    values.append((number, parse_json(self.path, line, number)))
                except TaskError:
                    if self.columns.errors != "skip":
                        raise
                    counts[SKIPPED] += 1
        return values

    def _nested(self, value: dict[str, Any]) -> list[Any] | None:
        """Return the records that a JSON object holds in a list; None where it is one itself.

        Raises:
            TaskError: it is several lines, so no record a line, and has no such list or several
        """
        lists = [
            name
            for name, part in value.items()
            if isinstance(part, list) and part and all(isinstance(item, dict) for item in part)
        ]
        if len(lists) == 1 and not any(isinstance(part, dict) for part in value.values()):
            self.note(f"it is one JSON object; its records are taken from its list {lists[0]!r}")
            records: list[Any] = value[lists[0]]
            return records
        if "\n" not in self.text.strip():
            return None
        raise TaskError(
            f"{self.path} is one JSON object with {', '.join(map(repr, value))}, not a list of "
            "records: write the list of records into a file, or one record a line"
        )

    def _is_record(self, number: int, value: Any, counts: collections.Counter[str]) -> bool:
        if isinstance(value, dict):
            return True
        if self.columns.errors == "skip":
            counts[SKIPPED] += 1
            return False
        raise TaskError(
            f"{self.path}, line {number} is {type(value).__name__}: a JSON object is wanted"
        )


# Two files whose lines belong together.


def aligned_files(path: Path, columns: TaskFormat) -> dict[str, Path]:
    """Return the files PATH.en and PATH.de of columns en and de, where there is no file PATH.

    Empty where these are not both there; they may be compressed.
    """
    if path.exists() or columns.text is None or columns.label is None:
        return {}
    found: dict[str, Path] = {}
    for name in (columns.text, columns.label):
        places = [path.with_name(f"{path.name}.{name}{end}") for end in ("", *COMPRESSIONS)]
        there = [place for place in places if place.is_file()]
        found |= {name: there[0]} if there else {}
    return found if len(found) == 2 else {}


def _join_lines(path: Path, files: Mapping[str, Path], columns: TaskFormat) -> Table:
    """Return both files as a table of a line a row.

    Raises:
        TaskError: they have not equally many lines
    """
    lines = {
        name: read_text(file, columns.encoding).removesuffix("\n").split("\n")
        for name, file in files.items()
    }
    counts = {len(own) for own in lines.values()}
    if len(counts) > 1:
        told = ", ".join(f"{files[name]} has {len(own):,} lines" for name, own in lines.items())
        raise TaskError(f"{told}: line i of one must belong to line i of the other")
    return Table(
        path=str(path), lines=np.arange(1, counts.pop() + 1), columns=lines, has_names=True,
        skips=columns.errors == "skip",
    )  # fmt: skip


def hash_task_file(path: Path, columns: TaskFormat) -> str:
    """Return the xxh3_128 of a task file, in hex; of two that belong together, both."""
    return "+".join(hash_file(one) for one in (aligned_files(path, columns).values() or [path]))
