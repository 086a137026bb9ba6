"""Where words begin and end, in compiled code.

A first pass marks ASCII letters and digits, one bit a byte (SWAR: Lamport, "Multiple byte
processing with full-word instructions", 1975), so that the end of a run is one count of trailing
zeros.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from lmdata.intrinsics import int64, load8, trailing_zeros

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
Int: TypeAlias = Any
"""An integer in compiled code, where NumPy's and Python's are one."""

WORD, SPACE, ISOLATED = 0, 1, 2
BLANK, PUNCT, TEXT, COMBINING, OTHER, UNKNOWN = 3, 4, 5, 6, 7, 8
"""Classes of characters: the first three where white space is dropped; see `spaced_word_end`."""
NUM_CLASSES = 0x30000

_ONES = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_LOW = np.uint64(0x7F7F7F7F7F7F7F7F)
_CASE = np.uint64(0x2020202020202020)
_GATHER = np.uint64(0x0102040810204080)


@numba.njit(cache=True, nogil=True)
def flag_alphanumeric(text: U8) -> U8:
    """Return one bit a byte, lowest first: is it an ASCII letter or digit? Zeros follow.

    Args:
        text: uint8 (N,)

    Returns:
        uint8 (N // 8 + 17,)
    """
    flags = np.zeros(len(text) // 8 + 17, np.uint8)
    for block in range(len(text) // 8):
        chunk = load8(text, 8 * block)
        low = chunk & _LOW
        letter = low | _CASE
        letters = (letter + _ONES * np.uint64(31)) & ~(letter + _ONES * np.uint64(5))
        digits = (low + _ONES * np.uint64(80)) & ~(low + _ONES * np.uint64(70))
        both = ((letters | digits) & ~chunk & _HIGH) >> np.uint64(7)
        flags[block] = np.uint8((both * _GATHER) >> np.uint64(56))
    for index in range(len(text) // 8 * 8, len(text)):
        byte = text[index]
        if 48 <= byte <= 57 or 97 <= byte | 32 <= 122:
            flags[index >> 3] |= np.uint8(1 << (index & 7))
    return flags


@numba.njit(cache=True, nogil=True)
def character_at(text: U8, position: Int, stop: Int) -> tuple[Int, Int]:
    """Return code point and length in bytes of the UTF-8 character at a position."""
    first = np.int64(text[position])
    if first < 0x80:
        return first, 1
    if first < 0xE0 or position + 2 >= stop:
        length = min(2, stop - position)
        return ((first & 0x1F) << 6) | (np.int64(text[position + length - 1]) & 0x3F), length
    second, third = np.int64(text[position + 1]) & 0x3F, np.int64(text[position + 2]) & 0x3F
    if first < 0xF0 or position + 3 >= stop:
        return ((first & 0xF) << 12) | (second << 6) | third, 3
    fourth = np.int64(text[position + 3]) & 0x3F
    return ((first & 7) << 18) | (second << 12) | (third << 6) | fourth, 4


@numba.njit(cache=True, nogil=True)
def run_end(flags: U8, position: Int, stop: Int) -> Int:
    """Return where the run of flagged bytes that begins at a position ends.

    One that goes on behind `stop` is not followed: a place at or behind `stop` is returned.
    """
    while True:
        clear = ~(load8(flags, position >> 3) >> np.uint64(position & 7))
        run: Int = min(np.int64(trailing_zeros(clear)), 56)
        position += run
        if run < 56 or position >= stop:
            return position


@numba.njit(cache=True, nogil=True)
def word_end(text: U8, flags: U8, position: Int, stop: Int, classes: U8) -> Int:
    """Return where the run of WORD characters that begins at a position ends.

    Args:
        text: uint8 (N,)
        flags: from `flag_alphanumeric`
        position: in [0, stop]
        stop: byte behind the document
        classes: uint8 (NUM_CLASSES,), of each code point
    """
    while position < stop:
        position = run_end(flags, position, stop)
        if position >= stop:
            return stop
        code, length = character_at(text, position, stop)
        if code < NUM_CLASSES and classes[code] != WORD:
            return position
        position += length
    return stop


@numba.njit(cache=True, nogil=True)
def is_solid(kind: Int) -> bool:
    """Whether a text may be cut beside a character of a class and before or behind white space."""
    return kind in (WORD, PUNCT, TEXT)


@numba.njit(cache=True, nogil=True)
def skip_blanks(text: U8, position: Int, stop: Int, classes: U8) -> tuple[Int, Int]:
    """Return where BLANK characters from a position on end, and the class of what follows.

    Args: as `word_end` takes them
    """
    while position < stop:
        code, length = character_at(text, position, stop)
        kind = np.int64(classes[code]) if code < NUM_CLASSES else np.int64(OTHER)
        if kind != BLANK:
            return position, kind
        position += length
    return stop, np.int64(OTHER)


@numba.njit(cache=True, nogil=True)
def spaced_word_end(
    text: U8, flags: U8, position: Int, stop: Int, classes: U8, seen: Int
) -> tuple[Int, Int]:
    """Return where the word ends that goes on at a position, and what it ends with.

    The white space before a word belongs to it. A word ends between a WORD, PUNCT or TEXT
    character and white space (BLANK) with such a character behind it, and between a WORD character
    and a PUNCT one. A combining mark makes TEXT of what it stands on. Nothing ends beside OTHER
    characters, nor at a mark on white space.

    Args:
        text: uint8 (N,)
        flags: from `flag_alphanumeric`
        position: first byte that is not looked at yet
        stop: end of the document
        classes: uint8 (NUM_CLASSES,); ASCII letters and digits must be WORD
        seen: class of the word so far, OTHER where it is only beginning
    """
    while position < stop:
        if seen == WORD:
            position = run_end(flags, position, stop)
            if position >= stop:
                break
        code, length = character_at(text, position, stop)
        kind = classes[code] if code < NUM_CLASSES else np.uint8(OTHER)
        can_end = is_solid(seen)
        if kind == PUNCT and seen == WORD:
            break
        if kind == BLANK:
            behind, following = skip_blanks(text, position, stop, classes)
            if can_end and is_solid(following):
                break
            seen = OTHER
            position = behind
            continue
        seen = np.int64(kind)
        if kind == COMBINING:
            seen = TEXT if can_end else OTHER
        position += length
    return min(position, stop), seen


@numba.njit(cache=True, nogil=True)
def find_loose(words: U8, starts: I64, classes: U8) -> npt.NDArray[np.bool_]:
    """Return bool (W,): may other words stand beside a word only where a text begins or ends?

    Args:
        words: uint8 (N,), the bytes of all words
        starts: int64 (W + 1,), where each begins
        classes: uint8 (NUM_CLASSES,)
    """
    flags = flag_alphanumeric(words)
    found = np.empty(len(starts) - 1, np.bool_)
    for index in range(len(found)):
        start, stop = starts[index], starts[index + 1]
        _, seen = spaced_word_end(words, flags, start, stop, classes, np.int64(OTHER))
        behind, following = skip_blanks(words, start, stop, classes)
        begins_well = is_solid(following) and (behind > start or following == PUNCT)
        found[index] = not (begins_well and is_solid(seen))
    return found


@numba.njit(cache=True, nogil=True)
def find_unknown(text: U8, classes: U8) -> U8:
    """Return uint8 (NUM_CLASSES,), 1 for code points of a text whose class is UNKNOWN.

    Args:
        text: uint8 (N,), valid UTF-8
        classes: uint8 (NUM_CLASSES,)
    """
    found = np.zeros(NUM_CLASSES, np.uint8)
    position, stop = int64(0), len(text)
    while position < stop:
        if text[position] < 0x80:
            position += 1
            while position + 8 <= stop and load8(text, position) & _HIGH == np.uint64(0):
                position += 8
            continue
        code, length = character_at(text, position, stop)
        if code < NUM_CLASSES and classes[code] == UNKNOWN:
            found[code] = 1
        position += length
    return found
