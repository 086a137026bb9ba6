"""Files of evaluations as texts that a corpus is compared with.

A text is a line, a string anywhere in a JSON value, a cell of a table, or the words of a sentence,
one a line as in CoNLL. What a file is, its name says; what no name tells is read by lines.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import feather, parquet

from lmdata.arrow_text import is_text
from lmdata.errors import CorpusError
from lmdata.settings import COMPRESSIONS
from lmdata.stored import CompressionError, read_decompressed
from lmdata.xxh3 import xxh3_128

MOST_BYTES = 512 << 20  # that a file may unfold to
Texts = Iterator[tuple[int, str]]  # line, record or row, counted from 1, and a text of it


@dataclass(frozen=True, kw_only=True)
class EvaluationFile:
    """One file: its texts, each once, and where they stand."""

    name: str
    bytes: int
    xxh3: str  # of its bytes, decompressed
    texts: tuple[str, ...]
    rows: tuple[int, ...]  # line, record or row of each text, counted from 1


def read_evaluations(paths: Sequence[Path]) -> list[EvaluationFile]:
    """Return the texts of evaluation files, in the order of their names.

    Args:
        paths: files, or folders with files

    Raises:
        CorpusError: a file is missing, can't be read, or holds no text
    """
    files = sorted({file for path in paths for file in _expand(path)})
    return [_read(file) for file in files]


def _expand(path: Path) -> list[Path]:
    if not path.exists():
        raise CorpusError(f"no such evaluation file: {path}")
    if path.is_file():
        return [path]
    found = [
        file for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part[0] == "." for part in file.relative_to(path).parts)
    ]  # fmt: skip
    if not found:
        raise CorpusError(f"{path} holds no evaluation file: give files, or a folder with some")
    return found


def _read(path: Path) -> EvaluationFile:
    try:
        content = read_decompressed(path, MOST_BYTES)
        suffixes = [suffix.lower() for suffix in path.suffixes]
        is_compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
        kind = ([""] + (suffixes[:-1] if is_compressed else suffixes))[-1]
        found: dict[str, int] = {}
        for row, text in _READERS.get(kind, _lines)(content):
            if any(map(str.isalnum, text)):
                found.setdefault(text, row)
    except (OSError, CompressionError, ValueError, csv.Error, RecursionError) as error:
        raise CorpusError(
            f"{path} can't be read as an evaluation: {_first_line(error)}; give text, JSON lines, "
            "JSON, TSV, CSV, CoNLL, Parquet or Arrow, in UTF-8"
        ) from error
    if not found:
        raise CorpusError(f"{path} holds no text to compare with: leave it out of --against")
    return EvaluationFile(
        name=str(path), bytes=len(content), xxh3=str(xxh3_128(content).hexdigest()),
        texts=tuple(found), rows=tuple(found.values()),
    )  # fmt: skip


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _decode(content: bytes) -> str:
    return content.decode("utf-8-sig").replace("\r\n", "\n")


def _lines(content: bytes) -> Texts:
    yield from enumerate(_decode(content).split("\n"), 1)


def _json_lines(content: bytes) -> Texts:
    for row, line in _lines(content):
        if line.strip():
            yield from ((row, text) for text in strings_of(json.loads(line)))


def _json(content: bytes) -> Texts:
    """Yield the strings of one value, or of JSON lines under that name."""
    try:
        value = json.loads(_decode(content))
    except json.JSONDecodeError:
        yield from _json_lines(content)
        return
    for row, record in enumerate(value if isinstance(value, list) else [value], 1):
        yield from ((row, text) for text in strings_of(record))


def strings_of(value: Any) -> Iterator[str]:
    """Yield the strings of a JSON value, not the names of its fields.

    Example:
        >>> list(strings_of({"question": "Why?", "choices": [{"text": "So."}, 3]}))
        ['Why?', 'So.']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_of(item)


def _tsv(content: bytes) -> Texts:
    for row, line in _lines(content):
        yield from ((row, cell.strip('"')) for cell in line.split("\t"))


def _csv(content: bytes) -> Texts:
    for row, cells in enumerate(csv.reader(io.StringIO(_decode(content), newline=""), strict=True)):
        yield from ((row + 1, cell) for cell in cells)


def _conll(column: int) -> Callable[[bytes], Texts]:
    """Return a reader of sentences whose words stand in a column, lines without one between."""

    def read(content: bytes) -> Texts:
        first, words = 1, list[str]()
        for row, line in _lines(content + b"\n\n"):
            cells = line.split("\t") if "\t" in line else line.split()
            if len(cells) > column and not line.startswith("#"):
                first = first if words else row
                words.append(cells[column])
            elif not line.strip() and words:
                yield first, " ".join(words)
                words = []

    return read


def _table(open_table: Callable[[pa.BufferReader], pa.Table]) -> Callable[[bytes], Texts]:
    def read(content: bytes) -> Texts:
        table = open_table(pa.BufferReader(content))
        texts = [column for column in table.columns if is_text(column.type)]
        for column in texts:
            yield from ((row, text) for row, text in enumerate(column.to_pylist(), 1) if text)

    return read


_READERS: dict[str, Callable[[bytes], Texts]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".tsv": _tsv,
    ".csv": _csv,
    ".conll": _conll(0),
    ".iob": _conll(0),
    ".bio": _conll(0),
    ".conllu": _conll(1),
    ".parquet": _table(parquet.read_table),
    ".arrow": _table(feather.read_table),
    ".feather": _table(feather.read_table),
}
