"""Byte ranges of a source that can be read alone: how to cut, and where the documents begin.

A document belongs to the range in which its first byte lies, so every way of cutting a source
gives the same documents.
"""

from __future__ import annotations

import itertools
import re
from typing import BinaryIO

import numpy as np

from lmdata.errors import CorpusError
from lmdata.reading.blank_lines import find_after_blank, is_blank
from lmdata.reading.sources import CorpusConfig, Source


def split_source(source: Source, config: CorpusConfig, target_bytes: int) -> list[tuple[int, int]]:
    """Return byte ranges of about `target_bytes` that cover a source and can be read alone.

    A document belongs to the range in which its first byte lies, so any other cut gives the same
    documents. What can't be split (compressed, .csv, .arrow, one document a file, an encoding
    other than UTF-8) is one range.
    """
    size = source.size_bytes
    if not is_splittable(source, config) or size <= target_bytes:
        return [(0, size)]
    count = -(-size // target_bytes)
    cuts = [size * index // count for index in range(count + 1)]
    return list(itertools.pairwise(cuts))


def is_splittable(source: Source, config: CorpusConfig) -> bool:
    """Return whether a source can be read in byte ranges."""
    if source.path is None or source.compression is not None:
        return False
    if source.format == "parquet":
        return True
    is_lines = source.format == "jsonl" or (source.format == "txt" and config.documents != "file")
    return is_lines and config.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


def align_offset(source: Source, config: CorpusConfig, offset: int) -> int:
    """Return the first byte from `offset` on at which a range of whole documents can begin."""
    if offset <= 0 or offset >= source.size_bytes:
        return min(max(offset, 0), source.size_bytes)
    assert source.path is not None
    try:
        with source.path.open("rb") as file:
            if source.format == "txt" and config.documents == "blank-line":
                found = _next_paragraph(file, offset)
            else:
                found = _next_line(file, offset, _TXT_END if source.format == "txt" else _JSON_END)
    except OSError as error:
        raise CorpusError(f"can't open {source}: {error.strerror}") from error
    return source.size_bytes if found is None else found


_TXT_END = re.compile(rb"\r\n|\r|\n")
_JSON_END = re.compile(rb"\n")


def _next_line(file: BinaryIO, offset: int, end: re.Pattern[bytes]) -> int | None:
    """Return where the first line from `offset` on begins; None at the end of the file."""
    position = offset - 1
    file.seek(position)
    carry = b""
    while chunk := file.read(1 << 16):
        chunk = carry + chunk
        match = end.search(chunk)
        if match and (match.end() < len(chunk) or match.group().endswith(b"\n")):
            return position + match.end()
        carry = b"\r" if chunk.endswith(b"\r") else b""
        position += len(chunk) - len(carry)
    return None


def _next_paragraph(file: BinaryIO, offset: int) -> int | None:
    """Return where the first line from `offset` on begins that follows a blank line."""
    position = _line_start(file, offset - 1)
    file.seek(position)
    carry = b""
    is_blank_so_far = True
    while True:
        chunk = file.read(1 << 16)
        block = np.frombuffer(carry + chunk, np.uint8)
        found, is_blank_so_far, used = find_after_blank(block, is_blank_so_far, not chunk)
        if found >= 0:
            return position + int(found)
        if not chunk:
            return None
        carry = block[used:].tobytes()
        position += int(used)


def _line_start(file: BinaryIO, offset: int) -> int:
    """Return a position from which the line that holds the byte at `offset` can be judged.

    It is the start of that line, or one inside it from which on it is not blank anyway.
    """
    width = 1 << 12
    while True:
        start = max(0, offset - width)
        file.seek(start)
        window = file.read(offset - start + 1)
        before = window[:-2] if window.endswith(b"\r\n") else window[:-1]
        last = max(before.rfind(b"\n"), before.rfind(b"\r"))
        if last >= 0:
            return start + last + 1
        inner = np.frombuffer(before.lstrip(bytes(range(0x80, 0xC0))), np.uint8)
        if start == 0 or not is_blank(inner, 0, len(inner)):
            return start
        width *= 16
