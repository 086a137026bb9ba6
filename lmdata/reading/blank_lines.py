"""White space, blank lines and what lies between them, over UTF-8 bytes (Numba, pure).

And where in a file a range of whole documents can begin: a document belongs to the range in which
its first byte lies, so every way of cutting a source gives the same documents.
"""

from __future__ import annotations

import re
from typing import BinaryIO

import numba
import numpy as np
import numpy.typing as npt

from lmdata.errors import CorpusError
from lmdata.intrinsics import copy, int64
from lmdata.reading.sources import Source
from lmdata.settings import CorpusConfig

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@numba.njit(cache=True, nogil=True)
def white_width(text: U8, at: int, stop: int) -> int:
    """Return the length in bytes of the white-space character at `at`, 0 if it is another one.

    White space is what `str.isspace` says. Source: Unicode White_Space and U+001C..U+001F.
    """
    byte = text[at]
    if byte < 0x80:
        return 1 if byte == 0x20 or 0x09 <= byte <= 0x0D or 0x1C <= byte <= 0x1F else 0
    if byte == 0xC2 and at + 1 < stop:
        return 2 if text[at + 1] == 0x85 or text[at + 1] == 0xA0 else 0
    if not 0xE1 <= byte <= 0xE3 or at + 2 >= stop:
        return 0
    point = ((byte & 0x0F) << 12) | ((text[at + 1] & 0x3F) << 6) | (text[at + 2] & 0x3F)
    is_white = 0x2000 <= point <= 0x200A or point in (
        0x1680,
        0x2028,
        0x2029,
        0x202F,
        0x205F,
        0x3000,
    )
    return 3 if is_white else 0


@numba.njit(cache=True, nogil=True)
def is_blank(text: U8, start: int, stop: int) -> bool:
    """Return whether text[start:stop] is white space only."""
    while start < stop:
        width = white_width(text, start, stop)
        if width == 0:
            return False
        start += width
    return True


@numba.njit(cache=True, nogil=True)
def find_last_blank(block: U8) -> int:
    """Return the end of the last blank line between two line feeds, 0 if there is none."""
    stop = int64(-1)
    for at in range(len(block) - 1, -1, -1):
        if block[at] == 10:
            if stop >= 0 and is_blank(block, at + 1, stop):
                return stop + 1
            stop = at
    return 0


@numba.njit(cache=True, nogil=True)
def end_of_lines(block: U8, max_lines: int) -> int:
    r"""Return where the first `max_lines` lines end, or the block.

    Example:
        >>> end_of_lines(np.frombuffer(b"a\nbc\nd", np.uint8), 2)
        5
    """
    count = 0
    for at in range(len(block)):
        if block[at] == 10:
            count += 1
            if count == max_lines:
                return at + 1
    return len(block)


@numba.njit(cache=True, nogil=True)
def find_blank_documents(text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> Bools:
    r"""Return which documents are white space only, bool array (D,).

    Example:
        >>> find_blank_documents(np.frombuffer(b"a \n", np.uint8), np.array([0, 1, 1, 3])).tolist()
        [False, True, True]
    """
    blank = np.empty(len(offsets) - 1, np.bool_)
    for row in range(len(blank)):
        is_empty = offsets[row] == offsets[row + 1]  # most often so, where many are blank
        blank[row] = is_empty or is_blank(text, offsets[row], offsets[row + 1])
    return blank


@numba.njit(cache=True, nogil=True)
def find_after_blank(
    block: npt.NDArray[np.uint8], is_blank_so_far: bool, is_last: bool
) -> tuple[int, bool, int]:
    """Return the end of the first blank line (or -1), the state, and how much was judged."""
    at = int64(0)
    while at < len(block):
        byte = block[at]
        if byte == 10 or byte == 13:
            if byte == 13 and at + 1 == len(block) and not is_last:
                return -1, is_blank_so_far, at
            at += 2 if byte == 13 and at + 1 < len(block) and block[at + 1] == 10 else 1
            if is_blank_so_far:
                return at, True, at
            is_blank_so_far = True
        elif not is_blank_so_far:
            at += 1
        elif byte >= 0x80 and at + 3 > len(block) and not is_last:
            return -1, is_blank_so_far, at
        else:
            width = white_width(block, at, len(block))
            is_blank_so_far = width > 0
            at += max(width, 1)
    return -1, is_blank_so_far, at


@numba.njit(cache=True, nogil=True)
def copy_lines(block: U8, text: U8, offsets: I64) -> int:
    """Copy a block without its line feeds, note where each line ends; return the length.

    Args:
        block: uint8 array (N,)
        text: uint8 array (N,), written
        offsets: int64 array (L + 1,) of zeros, written; L is `count_lines(block)`
    """
    written = 0
    line = 0
    for byte in block:
        if byte == 10:
            line += 1
            offsets[line] = written
        else:
            text[written] = byte
            written += 1
    offsets[-1] = written
    return written


@numba.njit(cache=True, nogil=True)
def copy_paragraphs(block: U8, text: U8, offsets: I64, positions: I64) -> int:
    """Copy what lies between blank lines, without its last line feed; return how many there are.

    Args:
        block: uint8 array (N,)
        text: uint8 array (N,), written
        offsets: int64 array (L + 1,) of zeros, written; L is `count_lines(block)`
        positions: int64 array (L,), written: the line at which each one begins
    """
    written = 0
    count = 0
    is_open = False
    start = int64(0)
    for line in range(len(positions)):
        stop = start
        while stop < len(block) and block[stop] != 10:
            stop += 1
        if is_blank(block, start, stop):
            is_open = False
        else:
            if is_open:
                text[written] = 10
                written += 1
            else:
                positions[count] = line
                count += 1
                is_open = True
            copy(text, written, block, start, stop - start)
            written += stop - start
            offsets[count] = written
        start = stop + 1
    return count


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
