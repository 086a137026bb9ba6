"""JSON Lines -> the text of one field, in one Numba pass over the bytes.

The scanner knows the whole of RFC 8259's grammar, and NaN and infinities as Python does, so that it
judges every line itself: a line costs the same whether it holds a text or is left out. Of keys that
occur twice the last counts, as for `json.loads`.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from lmdata.intrinsics import boolean, borrowed, copy, int64
from lmdata.reading.json_values import (
    CLOSE_OBJECT,
    COLON,
    COMMA,
    ESCAPES,
    MAX_DEPTH,
    NEWLINE,
    ODD,
    OPEN_OBJECT,
    QUOTE,
    hex_unit,
    run_end,
    skip_space,
    skip_value,
)

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# What became of a line.
TEXT, BROKEN, NOT_OBJECT, MISSING, NULL, WRONG_TYPE, SURROGATE = range(7)
"""It holds a text (or nothing: a blank line); it is not JSON; no object; the field is not there, is
null, is no string, or has half a character."""


def extract_field(
    block: U8, field: bytes, *, replaces_surrogates: bool = False
) -> tuple[U8, I64, I64, U8]:
    r"""Return the unescaped texts of a field in a block of JSON lines.

    Args:
        block: uint8 array (N,), whole lines; the last one may lack its line feed
        field: UTF-8 name of the field
        replaces_surrogates: half a character, such as \ud800 alone, becomes U+FFFD

    Returns:
        text: uint8 array (T,), the texts of all lines, concatenated
        offsets: int64 array (L + 1,), where each line's text lies in `text`
        lines: int64 array (L + 1,), where each line begins in `block`
        states: uint8 array (L,), TEXT or why the line holds none; then its text is empty

    Example:
        >>> block = np.frombuffer(b'{"text": "a\\n"}\n[]\n{"id": 1, "text": "bc"}\n', np.uint8)
        >>> text, offsets, lines, states = extract_field(block, b"text")
        >>> text.tobytes(), offsets.tolist(), lines.tolist(), states.tolist()
        (b'a\nbc', [0, 2, 2, 4], [0, 16, 19, 43], [0, 2, 0])
    """
    num_lines = count_lines(block)
    text = np.empty(len(block), np.uint8)
    offsets = np.zeros(num_lines + 1, np.int64)
    lines = np.zeros(num_lines + 1, np.int64)
    states = np.zeros(num_lines, np.uint8)
    name = np.frombuffer(field, np.uint8)
    nesting = np.empty(MAX_DEPTH, np.bool_)
    length = _extract(block, name, replaces_surrogates, nesting, text, offsets, lines, states)
    return text[:length], offsets, lines, states


@numba.njit(cache=True, nogil=True)
def count_lines(block: U8) -> int:
    """Return the number of lines, the last one counting even without its line feed."""
    count = 0
    for byte in block:
        count += byte == NEWLINE
    if len(block) and block[-1] != NEWLINE:
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def bare_lengths(block: U8, lines: I64) -> I64:
    r"""Return the bytes of each line without the \r and \n at its end, int64 array (L,)."""
    lengths = np.empty(len(lines) - 1, np.int64)
    for line in range(len(lengths)):
        stop = lines[line + 1]
        while stop > lines[line] and (block[stop - 1] == NEWLINE or block[stop - 1] == 0x0D):
            stop -= 1
        lengths[line] = stop - lines[line]
    return lengths


@numba.njit(cache=True, nogil=True)
def _extract(
    block: U8,
    field: U8,
    replaces: bool,
    nesting: Bools,
    text: U8,
    offsets: I64,
    lines: I64,
    states: U8,
) -> int:
    at, written = int64(0), int64(0)
    block, text = borrowed(block), borrowed(text)
    field, nesting = borrowed(field), borrowed(nesting)
    for line in range(len(states)):
        stop = at
        if block[at] == NEWLINE:  # a blank line: gigabytes of them may come
            states[line] = TEXT
        else:
            state, stop, end = _scan_line(block, at, field, replaces, nesting, text, written)
            states[line] = state
            if state == TEXT:
                written = end
        while stop < len(block) and block[stop] != NEWLINE:
            stop += 1
        at = min(stop + 1, len(block))
        offsets[line + 1] = written
        lines[line + 1] = at
    return written


@numba.njit(cache=True, nogil=True)
def _scan_line(
    block: U8, start: int, field: U8, replaces: bool, nesting: Bools, text: U8, written: int
) -> tuple[int, int, int]:
    """Return what the line at `start` is, a position in it or at its end, and its text's end."""
    at = skip_space(block, start)
    if at >= len(block) or block[at] != OPEN_OBJECT:
        return _judge_other(block, start, nesting), start, written
    state, end, at = MISSING, written, skip_space(block, at + 1)
    if at < len(block) and block[at] == CLOSE_OBJECT:
        return (state if _ends(block, at + 1) else BROKEN), at, written
    while True:
        is_field, at = _read_key(block, at, field, text, end)
        if at == ODD:
            return BROKEN, start, written
        if is_field and block[at] == QUOTE:
            state, at, end = _copy_string(block, at, replaces, text, written)
        else:
            if is_field:
                state = NULL if block[at] == 0x6E else WRONG_TYPE
            at = skip_value(block, at, nesting)
        if at == ODD:
            return BROKEN, start, written
        at = skip_space(block, at)
        if at >= len(block) or block[at] != COMMA:
            break
        at = skip_space(block, at + 1)
    if at >= len(block) or block[at] != CLOSE_OBJECT or not _ends(block, at + 1):
        return BROKEN, start, written
    return state, at, end


@numba.njit(cache=True, nogil=True)
def _judge_other(block: U8, at: int, nesting: Bools) -> int:
    """Return TEXT for a blank line, NOT_OBJECT for another value, else BROKEN."""
    while at < len(block) and (block[at] == 0x20 or 0x09 <= block[at] <= 0x0D):
        if block[at] == NEWLINE:
            return TEXT
        at += 1
    if at == len(block):
        return TEXT
    at = skip_value(block, at, nesting)
    return NOT_OBJECT if at != ODD and _ends(block, at) else BROKEN


@numba.njit(cache=True, nogil=True)
def _ends(block: U8, at: int) -> bool:
    """Return whether nothing but space follows in the line."""
    at = skip_space(block, at)
    return bool(at >= len(block) or block[at] == NEWLINE)


@numba.njit(cache=True, nogil=True)
def _read_key(block: U8, at: int, field: U8, text: U8, scratch: int) -> tuple[bool, int]:
    """Return whether the key at `at` is the field, and where its value begins, or ODD.

    A key with escapes is unescaped into `text` from `scratch` on, where nothing lies yet.
    """
    if at >= len(block) or block[at] != QUOTE:
        return False, ODD
    stop = run_end(block, at + 1)
    if stop < len(block) and block[stop] == QUOTE:
        is_field = _is_equal(block, at + 1, stop, field)
        at = stop + 1
    else:
        state, at, end = _copy_string(block, at, boolean(False), text, scratch)
        if at == ODD:
            return False, ODD
        is_field = state == TEXT and _is_equal(text, scratch, end, field)
    at = skip_space(block, at)
    if at >= len(block) or block[at] != COLON:
        return False, ODD
    at = skip_space(block, at + 1)
    return is_field, at if at < len(block) else ODD


@numba.njit(cache=True, nogil=True)
def _is_equal(block: U8, start: int, stop: int, field: U8) -> bool:
    if stop - start != len(field):
        return False
    for index in range(len(field)):  # noqa: SIM110 - Numba has no generators in all()
        if block[start + index] != field[index]:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _copy_string(
    block: U8, at: int, replaces: bool, text: U8, written: int
) -> tuple[int, int, int]:
    """Unescape the string whose opening quote is at `at`; return its state and both ends.

    The state is TEXT or SURROGATE; where the string is broken, its end is ODD.
    """
    state = TEXT
    at += 1
    while True:
        stop = run_end(block, at)
        copy(text, written, block, at, stop - at)
        written += stop - at
        at = stop
        if at >= len(block) or block[at] < 0x20:
            return state, ODD, written
        if block[at] == QUOTE:
            return state, at + 1, written
        if at + 1 >= len(block):
            return state, ODD, written
        plain = ESCAPES[block[at + 1]]
        if plain:
            text[written] = plain
            written += 1
            at += 2
            continue
        point, at = _escaped_point(block, at)
        if at == ODD:
            return state, ODD, written
        if 0xD800 <= point < 0xE000:
            state = TEXT if replaces else SURROGATE
            point = 0xFFFD
        written = _put_point(text, written, point)


@numba.njit(cache=True, nogil=True)
def _escaped_point(block: U8, at: int) -> tuple[int, int]:
    r"""Return the code point of the \uXXXX (or pair of them) at `at`, and its end or ODD.

    Half a pair is returned as it is.
    """
    high = hex_unit(block, at)
    if high < 0:
        return high, ODD
    if 0xD800 <= high < 0xDC00:
        low = hex_unit(block, at + 6)
        if 0xDC00 <= low < 0xE000:
            return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00), at + 12
    return high, at + 6


@numba.njit(cache=True, nogil=True)
def _put_point(text: U8, at: int, point: int) -> int:
    """Write a code point as UTF-8; return the end. It is never longer than its escape."""
    if point < 0x80:
        text[at] = point
        return at + 1
    if point < 0x800:
        text[at] = 0xC0 | (point >> 6)
        text[at + 1] = 0x80 | (point & 0x3F)
        return at + 2
    if point < 0x10000:
        text[at] = 0xE0 | (point >> 12)
        text[at + 1] = 0x80 | ((point >> 6) & 0x3F)
        text[at + 2] = 0x80 | (point & 0x3F)
        return at + 3
    text[at] = 0xF0 | (point >> 18)
    text[at + 1] = 0x80 | ((point >> 12) & 0x3F)
    text[at + 2] = 0x80 | ((point >> 6) & 0x3F)
    text[at + 3] = 0x80 | (point & 0x3F)
    return at + 4
