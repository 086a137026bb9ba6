"""JSON Lines -> the text of one field, in one Numba pass over the bytes.

The scanner checks the whole of RFC 8259's grammar, but takes only the common road: an object with
plain keys in which the field occurs once and is a string without lone surrogates. Every other line
it marks as odd, and `json.loads` decides (see `readers`). So it need not be complete, only right.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_ODD = -1
_QUOTE, _BACKSLASH, _COLON, _COMMA, _NEWLINE = 0x22, 0x5C, 0x3A, 0x2C, 0x0A
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = 0x7B, 0x7D, 0x5B, 0x5D
_MAX_DEPTH = 62

# Bytes that end a run of plain characters inside a string.
_SPECIAL = np.zeros(256, np.bool_)
_SPECIAL[:0x20] = True
_SPECIAL[[_QUOTE, _BACKSLASH]] = True

# What a one-letter escape stands for; 0 where there is none.
_ESCAPES = np.zeros(256, np.uint8)
for _letter, _value in zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True):
    _ESCAPES[_letter] = _value


def extract_field(block: U8, field: bytes) -> tuple[U8, I64, I64, Bools]:
    r"""Return the unescaped texts of a field in a block of JSON lines.

    Args:
        block: uint8 array (N,), whole lines; the last one may lack its line feed
        field: UTF-8 name of the field

    Returns:
        text: uint8 array (T,), the texts of all lines, concatenated
        offsets: int64 array (L + 1,), where each line's text lies in `text`
        lines: int64 array (L + 1,), where each line begins in `block`
        odd: bool array (L,), lines that must be looked at by `json.loads`; their text is empty

    Example:
        >>> block = np.frombuffer(b'{"text": "a\\n"}\n[]\n{"id": 1, "text": "bc"}\n', np.uint8)
        >>> text, offsets, lines, odd = extract_field(block, b"text")
        >>> text.tobytes(), offsets.tolist(), lines.tolist(), odd.tolist()
        (b'a\nbc', [0, 2, 2, 4], [0, 16, 19, 43], [False, True, False])
    """
    num_lines = count_lines(block)
    text = np.empty(len(block), np.uint8)
    offsets = np.zeros(num_lines + 1, np.int64)
    lines = np.zeros(num_lines + 1, np.int64)
    odd = np.zeros(num_lines, np.bool_)
    length = _extract(block, np.frombuffer(field, np.uint8), text, offsets, lines, odd)
    return text[:length], offsets, lines, odd


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
def _extract(block: U8, field: U8, text: U8, offsets: I64, lines: I64, odd: Bools) -> int:
    at = 0
    written = 0
    for line in range(len(odd)):
        at_next, end = _scan_line(block, at, field, text, written)
        if at_next == _ODD:
            odd[line] = True
            at_next = at
            while at_next < len(block) and block[at_next] != _NEWLINE:
                at_next += 1
            at_next += 1
        else:
            written = end
        at = min(at_next, len(block))
        offsets[line + 1] = written
        lines[line + 1] = at
    return written


@numba.njit(cache=True, nogil=True)
def _scan_line(block: U8, at: int, field: U8, text: U8, written: int) -> tuple[int, int]:
    """Return the start of the next line and the end of this line's text, or (_ODD, _)."""
    at = _skip_space(block, at)
    if at >= len(block) or block[at] != _OPEN_OBJECT:
        return _ODD, written
    num_found = 0
    end = written
    while True:
        at = _skip_space(block, at + 1)
        if at >= len(block) or block[at] != _QUOTE:
            return _ODD, written
        key = at + 1
        at = _plain_string_end(block, key)
        if at == _ODD:
            return _ODD, written
        is_field = _is_equal(block, key, at, field)
        at = _skip_space(block, at + 1)
        if at >= len(block) or block[at] != _COLON:
            return _ODD, written
        at = _skip_space(block, at + 1)
        if is_field:
            num_found += 1
            at, end = _copy_string(block, at, text, written)
        else:
            at = _skip_value(block, at)
        if at == _ODD:
            return _ODD, written
        at = _skip_space(block, at)
        if at >= len(block) or block[at] != _COMMA:
            break
    if at >= len(block) or block[at] != _CLOSE_OBJECT or num_found != 1:
        return _ODD, written
    at = _skip_space(block, at + 1)
    if at < len(block) and block[at] != _NEWLINE:
        return _ODD, written
    return at + 1, end


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
def _plain_string_end(block: U8, at: int) -> int:
    """Return the closing quote of a string without escapes whose first character is at `at`."""
    at = _run_end(block, at)
    return at if at < len(block) and block[at] == _QUOTE else _ODD


@numba.njit(cache=True, nogil=True)
def _copy_string(block: U8, at: int, text: U8, written: int) -> tuple[int, int]:
    """Unescape the string whose opening quote is at `at`; return the end of both sides."""
    if at >= len(block) or block[at] != _QUOTE:
        return _ODD, written
    at += 1
    while True:
        stop = _run_end(block, at)
        text[written : written + stop - at] = block[at:stop]
        written += stop - at
        at = stop
        if at >= len(block) or block[at] < 0x20:
            return _ODD, written
        if block[at] == _QUOTE:
            return at + 1, written
        if at + 1 >= len(block):
            return _ODD, written
        plain = _ESCAPES[block[at + 1]]
        if plain:
            text[written] = plain
            written += 1
            at += 2
            continue
        point, at = _escaped_point(block, at)
        if point < 0:
            return _ODD, written
        written = _put_point(text, written, point)


@numba.njit(cache=True, nogil=True)
def _escaped_point(block: U8, at: int) -> tuple[int, int]:
    r"""Return the code point of the \uXXXX (or pair of them) at `at`, and its end; -1 if odd."""
    high = _hex_unit(block, at)
    if high < 0 or 0xDC00 <= high < 0xE000:
        return -1, at
    if high < 0xD800 or high >= 0xE000:
        return high, at + 6
    low = _hex_unit(block, at + 6)
    if low < 0xDC00 or low >= 0xE000:
        return -1, at
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00), at + 12


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
    return _skip_number(block, at)


@numba.njit(cache=True, nogil=True)
def _skip_value(block: U8, at: int) -> int:
    """Return the end of a value of any kind, or _ODD.

    Bit d of `arrays` says that the container at depth d is an array.
    """
    arrays = 0
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
                depth += 1
                arrays = (arrays << 1) | is_array
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
                if not arrays & 1:
                    at = _skip_key(block, at)
                break
            if block[at] != (_CLOSE_ARRAY if arrays & 1 else _CLOSE_OBJECT):
                return _ODD
            depth -= 1
            arrays >>= 1
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
