"""Formats -> records: text and JSON lines here, tables in `tables`, pages in `web`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmdata.ragged import offsets_of
from lmdata.reading.blank_lines import (
    copy_lines,
    copy_paragraphs,
    end_of_lines,
    find_after_blank,
    find_last_blank,
)
from lmdata.reading.csv_rows import read_csv
from lmdata.reading.json_lines import (
    BROKEN,
    MISSING,
    NOT_OBJECT,
    NULL,
    SURROGATE,
    TEXT,
    WRONG_TYPE,
    bare_lengths,
    count_lines,
    extract_field,
)
from lmdata.reading.records import Reading, Records
from lmdata.reading.streams import ByteStream, DamagedError, read_utf8, unify_newlines
from lmdata.reading.tables import read_arrow, read_parquet
from lmdata.reading.web import read_html, read_warc

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
_SURROGATES = re.compile("[\ud800-\udfff]")


def read_records(reading: Reading) -> Iterator[Records]:
    """Yield the records of a range of a source, in order."""
    return _READERS[reading.source.format](reading)


@dataclass(frozen=True)
class _LineFormat:
    """How a text is cut into records, by lines."""

    split: Callable[[Reading, U8], Records]
    find_last: Callable[[bytes], int]
    """Return where the last record that may begin in a block begins; 0 if none does."""

    find_first: Callable[[bytes], int]
    """Return where the first record after a line begins, given that line and more; 0 if none."""

    newlines: bool
    """Whether CRLF and CR are line ends, too."""


def _read_txt(reading: Reading) -> Iterator[Records]:
    if reading.config.documents == "file":
        return _read_file(reading)
    return _read_blocks(reading, _LINES if reading.config.documents == "line" else _PARAGRAPHS)


def _read_jsonl(reading: Reading) -> Iterator[Records]:
    return _read_blocks(reading, _JSON)


def _read_file(reading: Reading) -> Iterator[Records]:
    """Yield the whole file as one record, or none."""
    with ByteStream(reading) as stream:
        content, num_bytes = _read_whole(reading, stream)
        stored = stream.tell_stored()
    reading.num_seen = 1 if num_bytes else 0
    reading.count_if_empty()
    text = np.frombuffer(content, np.uint8)
    offsets = np.array([0, len(text)] if content else [0], np.int64)
    yield Records(text, offsets, np.zeros(len(offsets) - 1, np.int64), reading.num_seen, stored)


def _read_whole(reading: Reading, stream: ByteStream) -> tuple[bytes, int]:
    """Return a whole text, empty where it was rejected, and its size."""
    parts: list[bytes] = []
    num_bytes = 0
    try:
        for piece in unify_newlines(read_utf8(stream, reading.config)):
            num_bytes += len(piece)
            if num_bytes <= reading.config.max_document_bytes:
                parts.append(piece)
            else:
                reading.rejections.check(reading.too_large(str(reading.source), num_bytes))
    except DamagedError as error:
        reading.rejections.reject(error.reason, num_bytes, str(error))
        return b"", num_bytes
    if num_bytes > reading.config.max_document_bytes:
        reading.rejections.add("too-large", 1, num_bytes)
        return b"", num_bytes
    return b"".join(parts), num_bytes


def _read_blocks(reading: Reading, lines: _LineFormat) -> Iterator[Records]:
    """Yield the records of one block after the other."""
    stored, num_done = reading.start, 0
    with ByteStream(reading) as stream:
        for block in _cut_blocks(reading, stream, lines):
            for part in _cut_short_lines(reading, np.frombuffer(block, np.uint8), lines):
                records = lines.split(reading, part)
                positions = records.positions + reading.num_seen
                reading.num_seen += records.num_records
                num_new, num_done = reading.num_seen - num_done, reading.num_seen
                now = stream.tell_stored()
                yield Records(records.text, records.offsets, positions, num_new, now - stored)
                stored = now
    reading.count_if_empty()


def _cut_blocks(reading: Reading, stream: ByteStream, lines: _LineFormat) -> Iterator[bytes]:
    """Yield blocks of whole records of about `batch_bytes`, or longer where one record is."""
    pieces = read_utf8(stream, reading.config)
    if lines.newlines:
        pieces = unify_newlines(pieces)
    parts: list[bytes] = []
    num_bytes = 0
    try:
        for piece in pieces:
            parts.append(piece)
            num_bytes += len(piece)
            if num_bytes < reading.batch_bytes:
                continue
            is_over = num_bytes > reading.config.max_document_bytes + reading.batch_bytes
            if is_over:
                parts = [b"".join(parts)]
            cut = lines.find_last(parts[-1])
            if cut:
                last = parts.pop()
                block = b"".join([*parts, memoryview(last)[:cut]])
                parts = [last[cut:]]
                del last
                yield block
            elif is_over:
                parts = [_pass_over(reading, parts[0], pieces, lines)]
            num_bytes = sum(map(len, parts))
    except DamagedError as error:
        whole = b"".join(parts)
        cut = lines.find_last(whole)
        if cut:
            yield whole[:cut]
        reading.rejections.reject(error.reason, len(whole) - cut, str(error))
        return
    if num_bytes:
        block = b"".join(parts)
        parts.clear()
        yield block


def _cut_short_lines(reading: Reading, block: U8, lines: _LineFormat) -> Iterator[U8]:
    """Yield a block in parts of so few lines that what is kept of each line takes little memory."""
    num_left = count_lines(block)
    while num_left > reading.max_records:
        stop = end_of_lines(block, reading.max_records)
        if stop < len(block) and lines.find_last is _find_last_paragraph:
            stop = int(find_last_blank(block[:stop])) or len(block)
        num_left -= count_lines(block[:stop])
        yield block[:stop]
        block = block[stop:]
    if len(block):
        yield block


def _pass_over(reading: Reading, head: bytes, pieces: Iterator[bytes], lines: _LineFormat) -> bytes:
    """Leave out a record that does not fit into memory; return what was read behind it."""
    reading.rejections.check(reading.too_large(f"a document of {reading.source}", len(head)))
    num_bytes, num_lines = len(head), head.count(b"\n")
    line = head[head.rfind(b"\n") + 1 :][:4096]
    rest = b""
    for piece in pieces:
        cut = max(0, lines.find_first(line + piece) - len(line))
        num_bytes += cut or len(piece)
        num_lines += piece.count(b"\n", 0, cut or len(piece))
        if cut:
            rest = piece[cut:]
            break
        line = (line + piece)[(line + piece).rfind(b"\n") + 1 :][:4096]
    reading.rejections.add("too-large", 1, num_bytes)
    reading.num_seen += num_lines
    return rest


def _find_last_line(block: bytes) -> int:
    return block.rfind(b"\n") + 1


def _find_first_line(block: bytes) -> int:
    return block.find(b"\n") + 1


def _find_last_paragraph(block: bytes) -> int:
    return int(find_last_blank(np.frombuffer(block, np.uint8)))


def _find_first_paragraph(block: bytes) -> int:
    return max(0, int(find_after_blank(np.frombuffer(block, np.uint8), True, True)[0]))


def _split_lines(reading: Reading, block: U8) -> Records:
    """Return every line as a record."""
    num_lines = count_lines(block)
    text = np.empty(len(block), np.uint8)
    offsets = np.zeros(num_lines + 1, np.int64)
    length = copy_lines(block, text, offsets)
    return Records(text[:length], offsets, np.arange(num_lines), num_lines)


def _split_paragraphs(reading: Reading, block: U8) -> Records:
    """Return the lines between blank lines as records."""
    num_lines = count_lines(block)
    text = np.empty(len(block), np.uint8)
    offsets = np.zeros(num_lines + 1, np.int64)
    positions = np.zeros(num_lines, np.int64)
    count = copy_paragraphs(block, text, offsets, positions)
    return Records(text[: offsets[count]], offsets[: count + 1], positions[:count], num_lines)


def _split_json(reading: Reading, block: U8) -> Records:
    """Return the text field of every line; those without one are left out, or an error."""
    replaces = reading.config.errors == "replace"
    text, offsets, lines, states = extract_field(
        block, reading.config.text_field.encode(), replaces_surrogates=replaces
    )
    kept = states == TEXT
    if not kept.all():
        _reject_lines(reading, block, lines, states)
        offsets = offsets_of(np.diff(offsets)[kept])
    return Records(text, offsets, np.flatnonzero(kept), len(states))


def _reject_lines(reading: Reading, block: U8, lines: I64, states: U8) -> None:
    """Count the lines that hold no text, by reason, or raise for the first."""
    if not reading.rejections.skip:
        line = int(np.flatnonzero(states)[0])
        raw = block[lines[line] : lines[line + 1]].tobytes()
        where = f"{reading.source} line {reading.num_seen + line + 1}"
        reading.rejections.check(_describe_line(reading, where, raw, int(states[line])))
    lengths = bare_lengths(block, lines)
    lengths[states == NULL] = 0
    for state, reason in _REASONS.items():
        if (states == state).any():
            found = states == state
            reading.rejections.add(reason, int(found.sum()), int(lengths[found].sum()))


_REASONS = {
    BROKEN: "broken",
    NOT_OBJECT: "broken",
    MISSING: "missing-field",
    NULL: "null",
    WRONG_TYPE: "wrong-type",
    SURROGATE: "lone-surrogate",
}
_MAX_DESCRIBED_BYTES = 1 << 20  # of a longer line, only the kind of fault is said


def _describe_line(reading: Reading, where: str, raw: bytes, state: int) -> str:
    """Return what is wrong with a line that holds no text."""
    name = reading.config.text_field
    value: Any = None
    problem = "it is nested deeper than 1,000 times, or long and not JSON somewhere"
    if len(raw) <= _MAX_DESCRIBED_BYTES:
        try:
            value = json.loads(raw.decode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            problem = str(error)
    hint = "a JSON file must hold one object a line"
    if state == BROKEN:
        problem = hint if raw.strip() in (b"[", b"{") else problem
        return f"{where} is not valid JSON: {problem}"
    if state == NOT_OBJECT:
        return f"{where} is not a JSON object but {_kind(value, raw)}: {hint}"
    if state == MISSING:
        return reading.missing_field(where, value or ())
    if state == NULL:
        return f"{where}: {name!r} is null"
    found = value.get(name) if isinstance(value, dict) else None
    if state == WRONG_TYPE:
        return f"{where}: {name!r} is {_kind(found, b'')}, not text"
    unit = "".join(f" (\\u{ord(u):04x})" for u in _SURROGATES.findall(found or "")[:1])
    return f"{where}: the text has a lone surrogate{unit}; --errors replace mends it"


def _kind(value: Any, raw: bytes) -> str:
    if raw.lstrip().startswith(b"["):
        return "a list"
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


_LINES = _LineFormat(_split_lines, _find_last_line, _find_first_line, True)
_PARAGRAPHS = _LineFormat(_split_paragraphs, _find_last_paragraph, _find_first_paragraph, True)
_JSON = _LineFormat(_split_json, _find_last_line, _find_first_line, False)
_READERS: dict[str, Callable[[Reading], Iterator[Records]]] = {
    "txt": _read_txt,
    "jsonl": _read_jsonl,
    "csv": read_csv,
    "tsv": read_csv,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "warc": read_warc,
    "html": read_html,
}
