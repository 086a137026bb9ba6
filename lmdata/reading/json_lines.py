"""JSON Lines -> the text of one field, in one Numba pass over the bytes.

The scanner knows the whole of RFC 8259's grammar, and NaN and infinities as Python does, so that it
judges every line itself: a line costs the same whether it holds a text or is left out. Of keys that
occur twice the last counts, as for `json.loads`.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# What became of a line.
TEXT, BROKEN, NOT_OBJECT, MISSING, NULL, WRONG_TYPE, SURROGATE = range(7)
"""It holds a text (or nothing: a blank line); it is not JSON; no object; the field is not there, is
null, is no string, or has half a character."""

_ODD = -1
_QUOTE, _BACKSLASH, _COLON, _COMMA, _NEWLINE = 0x22, 0x5C, 0x3A, 0x2C, 0x0A
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = 0x7B, 0x7D, 0x5B, 0x5D
_MAX_DEPTH = 1000  # deeper nesting is called broken

# Bytes that end a run of plain characters inside a string.
_SPECIAL = np.zeros(256, np.bool_)
_SPECIAL[:0x20] = True
_SPECIAL[[_QUOTE, _BACKSLASH]] = True

# What a one-letter escape stands for; 0 where there is none.
_ESCAPES = np.zeros(256, np.uint8)
for _letter, _value in zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True):
    _ESCAPES[_letter] = _value


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
    nesting = np.empty(_MAX_DEPTH, np.bool_)
    length = _extract(block, name, replaces_surrogates, nesting, text, offsets, lines, states)
    return text[:length], offsets, lines, states


@numba.njit(cache=True, nogil=True)
def count_lines(block: U8) -> int:
    """Return the number of lines, the last one counting even without its line feed."""
    count = 0
    for byte in block:
        count += byte == _NEWLINE
    if len(block) and block[-1] != _NEWLINE:
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def bare_lengths(block: U8, lines: I64) -> I64:
    r"""Return the bytes of each line without the \r and \n at its end, int64 array (L,)."""
    lengths = np.empty(len(lines) - 1, np.int64)
    for line in range(len(lengths)):
        stop = lines[line + 1]
        while stop > lines[line] and (block[stop - 1] == _NEWLINE or block[stop - 1] == 0x0D):
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
    at, written = 0, 0
    for line in range(len(states)):
        state, stop, end = _scan_line(block, at, field, replaces, nesting, text, written)
        states[line] = state
        if state == TEXT:
            written = end
        while stop < len(block) and block[stop] != _NEWLINE:
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
    at = _skip_space(block, start)
    if at >= len(block) or block[at] != _OPEN_OBJECT:
        return _judge_other(block, start, nesting), start, written
    state, end, at = MISSING, written, _skip_space(block, at + 1)
    if at < len(block) and block[at] == _CLOSE_OBJECT:
        return (state if _ends(block, at + 1) else BROKEN), at, written
    while True:
        is_field, at = _read_key(block, at, field, text, end)
        if at == _ODD:
            return BROKEN, start, written
        if is_field and block[at] == _QUOTE:
            state, at, end = _copy_string(block, at, replaces, text, written)
        else:
            if is_field:
                state = NULL if block[at] == 0x6E else WRONG_TYPE
            at = _skip_value(block, at, nesting)
        if at == _ODD:
            return BROKEN, start, written
        at = _skip_space(block, at)
        if at >= len(block) or block[at] != _COMMA:
            break
        at = _skip_space(block, at + 1)
    if at >= len(block) or block[at] != _CLOSE_OBJECT or not _ends(block, at + 1):
        return BROKEN, start, written
    return state, at, end


@numba.njit(cache=True, nogil=True)
def _judge_other(block: U8, at: int, nesting: Bools) -> int:
    """Return TEXT for a blank line, NOT_OBJECT for another value, else BROKEN."""
    while at < len(block) and (block[at] == 0x20 or 0x09 <= block[at] <= 0x0D):
        if block[at] == _NEWLINE:
            return TEXT
        at += 1
    if at == len(block):
        return TEXT
    at = _skip_value(block, at, nesting)
    return NOT_OBJECT if at != _ODD and _ends(block, at) else BROKEN


@numba.njit(cache=True, nogil=True)
def _ends(block: U8, at: int) -> bool:
    """Return whether nothing but space follows in the line."""
    at = _skip_space(block, at)
    return bool(at >= len(block) or block[at] == _NEWLINE)


@numba.njit(cache=True, nogil=True)
def _read_key(block: U8, at: int, field: U8, text: U8, scratch: int) -> tuple[bool, int]:
    """Return whether the key at `at` is the field, and where its value begins, or _ODD.

    A key with escapes is unescaped into `text` from `scratch` on, where nothing lies yet.
    """
    if at >= len(block) or block[at] != _QUOTE:
        return False, _ODD
    stop = _run_end(block, at + 1)
    if stop < len(block) and block[stop] == _QUOTE:
        is_field = _is_equal(block, at + 1, stop, field)
        at = stop + 1
    else:
        state, at, end = _copy_string(block, at, False, text, scratch)
        if at == _ODD:
            return False, _ODD
        is_field = state == TEXT and _is_equal(text, scratch, end, field)
    at = _skip_space(block, at)
    if at >= len(block) or block[at] != _COLON:
        return False, _ODD
    at = _skip_space(block, at + 1)
    return is_field, at if at < len(block) else _ODD


@numba.njit(cache=True, nogil=True, inline="always")
def _skip_space(block: U8, at: int) -> int:
    """Return the first position from `at` on that is not a blank, tab or carriage return."""
    while at < len(block) and (block[at] == 0x20 or block[at] == 0x09 or block[at] == 0x0D):
        at += 1
    return at


@numba.njit(cache=True, nogil=True)
def _is_equal(block: U8, start: int, stop: int, field: U8) -> bool:
    if stop - start != len(field):
        return False
    for index in range(len(field)):  # noqa: SIM110 - Numba has no generators in all()
        if block[start + index] != field[index]:
            return False
    return True


@numba.njit(cache=True, nogil=True, inline="always")
def _run_end(block: U8, at: int) -> int:
    """Return where a run of plain string characters ends."""
    while at < len(block) and not _SPECIAL[block[at]]:
        at += 1
    return at


@numba.njit(cache=True, nogil=True)
def _copy_string(
    block: U8, at: int, replaces: bool, text: U8, written: int
) -> tuple[int, int, int]:
    """Unescape the string whose opening quote is at `at`; return its state and both ends.

    The state is TEXT or SURROGATE; where the string is broken, its end is _ODD.
    """
    state = TEXT
    at += 1
    while True:
        stop = _run_end(block, at)
        text[written : written + stop - at] = block[at:stop]
        written += stop - at
        at = stop
        if at >= len(block) or block[at] < 0x20:
            return state, _ODD, written
        if block[at] == _QUOTE:
            return state, at + 1, written
        if at + 1 >= len(block):
            return state, _ODD, written
        plain = _ESCAPES[block[at + 1]]
        if plain:
            text[written] = plain
            written += 1
            at += 2
            continue
        point, at = _escaped_point(block, at)
        if at == _ODD:
            return state, _ODD, written
        if 0xD800 <= point < 0xE000:
            state = TEXT if replaces else SURROGATE
            point = 0xFFFD
        written = _put_point(text, written, point)


@numba.njit(cache=True, nogil=True)
def _escaped_point(block: U8, at: int) -> tuple[int, int]:
    r"""Return the code point of the \uXXXX (or pair of them) at `at`, and its end or _ODD.

    Half a pair is returned as it is.
    """
    high = _hex_unit(block, at)
    if high < 0:
        return high, _ODD
    if 0xD800 <= high < 0xDC00:
        low = _hex_unit(block, at + 6)
        if 0xDC00 <= low < 0xE000:
            return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00), at + 12
    return high, at + 6


@numba.njit(cache=True, nogil=True)
def _hex_unit(block: U8, at: int) -> int:
    r"""Return the UTF-16 unit of the \uXXXX at `at`, or -1."""
    if at + 6 > len(block) or block[at] != _BACKSLASH or block[at + 1] != 0x75:
        return -1
    unit = 0
    for index in range(at + 2, at + 6):
        digit = int(block[index])
        if 0x30 <= digit <= 0x39:
            unit = unit * 16 + digit - 0x30
        elif 0x41 <= digit <= 0x46 or 0x61 <= digit <= 0x66:
            unit = unit * 16 + (digit & 0x5F) - 0x37
        else:
            return -1
    return unit


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


@numba.njit(cache=True, nogil=True)
def _skip_string(block: U8, at: int) -> int:
    """Return the end of the string whose opening quote is at `at`, or _ODD."""
    at += 1
    while True:
        at = _run_end(block, at)
        if at >= len(block) or block[at] < 0x20:
            return _ODD
        if block[at] == _QUOTE:
            return at + 1
        if at + 1 >= len(block):
            return _ODD
        if _ESCAPES[block[at + 1]]:
            at += 2
        elif _hex_unit(block, at) >= 0:
            at += 6
        else:
            return _ODD


@numba.njit(cache=True, nogil=True)
def _skip_digits(block: U8, at: int) -> int:
    """Return the end of one or more digits, or _ODD."""
    start = at
    while at < len(block) and 0x30 <= block[at] <= 0x39:
        at += 1
    return at if at > start else _ODD


@numba.njit(cache=True, nogil=True)
def _skip_number(block: U8, at: int) -> int:
    """Return the end of a number, or _ODD."""
    if at < len(block) and block[at] == 0x2D:
        at += 1
    start = at
    at = _skip_digits(block, at)
    if at == _ODD or (block[start] == 0x30 and at > start + 1):
        return _ODD
    if at < len(block) and block[at] == 0x2E:
        at = _skip_digits(block, at + 1)
    if at != _ODD and at < len(block) and (block[at] | 0x20) == 0x65:
        at += 1
        if at < len(block) and (block[at] == 0x2B or block[at] == 0x2D):
            at += 1
        at = _skip_digits(block, at)
    return at


@numba.njit(cache=True, nogil=True)
def _skip_word(block: U8, at: int, word: bytes) -> int:
    if at + len(word) > len(block):
        return _ODD
    for index in range(len(word)):
        if block[at + index] != word[index]:
            return _ODD
    return at + len(word)


@numba.njit(cache=True, nogil=True)
def _skip_scalar(block: U8, at: int) -> int:
    """Return the end of a string, number, true, false or null, or _ODD."""
    byte = block[at]
    if byte == _QUOTE:
        return _skip_string(block, at)
    if byte == 0x74:
        return _skip_word(block, at, b"true")
    if byte == 0x66:
        return _skip_word(block, at, b"false")
    if byte == 0x6E:
        return _skip_word(block, at, b"null")
    if byte == 0x4E:
        return _skip_word(block, at, b"NaN")
    if byte == 0x49:
        return _skip_word(block, at, b"Infinity")
    if byte == 0x2D and at + 1 < len(block) and block[at + 1] == 0x49:
        return _skip_word(block, at, b"-Infinity")
    return _skip_number(block, at)


@numba.njit(cache=True, nogil=True)
def _skip_value(block: U8, at: int, nesting: Bools) -> int:
    """Return the end of a value of any kind, or _ODD.

    Args:
        block: uint8 array (N,)
        at: where the value begins
        nesting: bool array (_MAX_DEPTH,), written: whether the container at a depth is an array
    """
    depth = 0
    while True:
        if at >= len(block):
            return _ODD
        byte = block[at]
        if byte in (_OPEN_ARRAY, _OPEN_OBJECT):
            is_array = byte == _OPEN_ARRAY
            after = _skip_space(block, at + 1)
            if after >= len(block) or depth >= _MAX_DEPTH:
                return _ODD
            if block[after] != (_CLOSE_ARRAY if is_array else _CLOSE_OBJECT):
                nesting[depth] = is_array
                depth += 1
                at = after if is_array else _skip_key(block, after)
                if at == _ODD:
                    return _ODD
                continue
            at = after + 1
        else:
            at = _skip_scalar(block, at)
            if at == _ODD:
                return _ODD
        while depth:
            at = _skip_space(block, at)
            if at >= len(block):
                return _ODD
            if block[at] == _COMMA:
                at = _skip_space(block, at + 1)
                if not nesting[depth - 1]:
                    at = _skip_key(block, at)
                break
            if block[at] != (_CLOSE_ARRAY if nesting[depth - 1] else _CLOSE_OBJECT):
                return _ODD
            depth -= 1
            at += 1
        if depth == 0 or at == _ODD:
            return at


@numba.njit(cache=True, nogil=True)
def _skip_key(block: U8, at: int) -> int:
    """Return where the value after the key at `at` begins, or _ODD."""
    if at >= len(block) or block[at] != _QUOTE:
        return _ODD
    at = _skip_string(block, at)
    if at == _ODD:
        return _ODD
    at = _skip_space(block, at)
    if at >= len(block) or block[at] != _COLON:
        return _ODD
    return _skip_space(block, at + 1)
