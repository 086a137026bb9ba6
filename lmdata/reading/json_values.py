"""JSON values -> where they end: RFC 8259's grammar, and NaN and infinities as Python has them.

Kernels over the bytes of JSON lines; no value goes on behind a line feed.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

ODD = -1  # what a kernel returns for the end of a value that is broken
QUOTE, BACKSLASH, COLON, COMMA, NEWLINE = 0x22, 0x5C, 0x3A, 0x2C, 0x0A
OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY = 0x7B, 0x7D, 0x5B, 0x5D
MAX_DEPTH = 1000  # deeper nesting is called broken

# Bytes that end a run of plain characters inside a string.
_SPECIAL = np.zeros(256, np.bool_)
_SPECIAL[:0x20] = True
_SPECIAL[[QUOTE, BACKSLASH]] = True

# What a one-letter escape stands for; 0 where there is none.
ESCAPES = np.zeros(256, np.uint8)
for _letter, _value in zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True):
    ESCAPES[_letter] = _value


@numba.njit(cache=True, nogil=True, inline="always")
def skip_space(block: U8, at: int) -> int:
    """Return the first position from `at` on that is not a blank, tab or carriage return."""
    while at < len(block) and (block[at] == 0x20 or block[at] == 0x09 or block[at] == 0x0D):
        at += 1
    return at


@numba.njit(cache=True, nogil=True, inline="always")
def run_end(block: U8, at: int) -> int:
    """Return where a run of plain string characters ends."""
    while at < len(block) and not _SPECIAL[block[at]]:
        at += 1
    return at


@numba.njit(cache=True, nogil=True)
def hex_unit(block: U8, at: int) -> int:
    r"""Return the UTF-16 unit of the \uXXXX at `at`, or -1."""
    if at + 6 > len(block) or block[at] != BACKSLASH or block[at + 1] != 0x75:
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
def _skip_string(block: U8, at: int) -> int:
    """Return the end of the string whose opening quote is at `at`, or ODD."""
    at += 1
    while True:
        at = run_end(block, at)
        if at >= len(block) or block[at] < 0x20:
            return ODD
        if block[at] == QUOTE:
            return at + 1
        if at + 1 >= len(block):
            return ODD
        if ESCAPES[block[at + 1]]:
            at += 2
        elif hex_unit(block, at) >= 0:
            at += 6
        else:
            return ODD


@numba.njit(cache=True, nogil=True)
def _skip_digits(block: U8, at: int) -> int:
    """Return the end of one or more digits, or ODD."""
    start = at
    while at < len(block) and 0x30 <= block[at] <= 0x39:
        at += 1
    return at if at > start else ODD


@numba.njit(cache=True, nogil=True)
def _skip_number(block: U8, at: int) -> int:
    """Return the end of a number, or ODD."""
    if at < len(block) and block[at] == 0x2D:
        at += 1
    start = at
    at = _skip_digits(block, at)
    if at == ODD or (block[start] == 0x30 and at > start + 1):
        return ODD
    if at < len(block) and block[at] == 0x2E:
        at = _skip_digits(block, at + 1)
    if at != ODD and at < len(block) and (block[at] | 0x20) == 0x65:
        at += 1
        if at < len(block) and (block[at] == 0x2B or block[at] == 0x2D):
            at += 1
        at = _skip_digits(block, at)
    return at


@numba.njit(cache=True, nogil=True)
def _skip_word(block: U8, at: int, word: bytes) -> int:
    if at + len(word) > len(block):
        return ODD
    for index in range(len(word)):
        if block[at + index] != word[index]:
            return ODD
    return at + len(word)


@numba.njit(cache=True, nogil=True)
def _skip_scalar(block: U8, at: int) -> int:
    """Return the end of a string, number, true, false or null, or ODD."""
    byte = block[at]
    if byte == QUOTE:
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
def skip_value(block: U8, at: int, nesting: Bools) -> int:
    """Return the end of a value of any kind, or ODD.

    Args:
        block: uint8 array (N,)
        at: where the value begins
        nesting: bool array (MAX_DEPTH,), written: whether the container at a depth is an array
    """
    depth = 0
    while True:
        if at >= len(block):
            return ODD
        byte = block[at]
        if byte in (OPEN_ARRAY, OPEN_OBJECT):
            is_array = byte == OPEN_ARRAY
            after = skip_space(block, at + 1)
            if after >= len(block) or depth >= MAX_DEPTH:
                return ODD
            if block[after] != (CLOSE_ARRAY if is_array else CLOSE_OBJECT):
                nesting[depth] = is_array
                depth += 1
                at = after if is_array else _skip_key(block, after)
                if at == ODD:
                    return ODD
                continue
            at = after + 1
        else:
            at = _skip_scalar(block, at)
            if at == ODD:
                return ODD
        while depth:
            at = skip_space(block, at)
            if at >= len(block):
                return ODD
            if block[at] == COMMA:
                at = skip_space(block, at + 1)
                if not nesting[depth - 1]:
                    at = _skip_key(block, at)
                break
            if block[at] != (CLOSE_ARRAY if nesting[depth - 1] else CLOSE_OBJECT):
                return ODD
            depth -= 1
            at += 1
        if depth == 0 or at == ODD:
            return at


@numba.njit(cache=True, nogil=True)
def _skip_key(block: U8, at: int) -> int:
    """Return where the value after the key at `at` begins, or ODD."""
    if at >= len(block) or block[at] != QUOTE:
        return ODD
    at = _skip_string(block, at)
    if at == ODD:
        return ODD
    at = skip_space(block, at)
    if at >= len(block) or block[at] != COLON:
        return ODD
    return skip_space(block, at + 1)
