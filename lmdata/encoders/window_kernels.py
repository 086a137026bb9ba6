"""Text to words, a window of bytes at a time: where they begin and end is found as bits.

Which ASCII characters are letters, marks or white space is flagged first, eight at a time; then
the words of a window are a few operations for all of them. What goes on behind the window, or
needs a closer look, is cut one by one, as `lmdata.encoders.cut_kernels` says.
"""

from __future__ import annotations

import numba
import numpy as np

from lmdata.encoders.cut_kernels import (
    BLANK,
    I64,
    ISOLATED,
    NUM_CLASSES,
    OTHER,
    PUNCT,
    SPACE,
    TEXT,
    U8,
    UNKNOWN,
    WORD,
    Int,
    character_at,
    flag_alphanumeric,
    spaced_word_end,
    word_end,
)
from lmdata.intrinsics import int64, leading_zeros, load8, trailing_zeros

BATCH = 128
"""Words cut ahead of their look-up: enough to hide a cache miss, few enough to stay in L1."""
WINDOW = 56
"""Bytes that are looked at together: 8 flags may lie before them in the 64 that are loaded."""

DOCUMENT, POSITION = range(2)
"""Places in the state of a scan."""

_ONES = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_LOW = np.uint64(0x7F7F7F7F7F7F7F7F)
_GATHER = np.uint64(0x0102040810204080)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@numba.njit(cache=True, nogil=True)
def class_of_marks(classes: U8) -> Int:
    """Return the class of ASCII punctuation, UNKNOWN where words can't be cut as bits.

    They can where ASCII white space is of the class of the space, and punctuation of one class
    that goes with it. What is UNKNOWN does not occur.

    Args:
        classes: uint8 (NUM_CLASSES,)
    """
    found, space = np.int64(UNKNOWN), np.int64(classes[0x20])
    for code in range(0x09, 0x7F):
        kind = np.int64(classes[code])
        if kind == UNKNOWN or 48 <= code <= 57 or 97 <= code | 32 <= 122:
            continue
        if code <= 0x20:
            if kind != space and (code < 0x0B or code == 0x0D):
                return UNKNOWN
            continue
        if found != UNKNOWN and kind != found:
            return UNKNOWN
        found = kind
    if found == UNKNOWN:
        found = np.int64(WORD)
    if space == SPACE:
        return found if found in (WORD, ISOLATED) else UNKNOWN
    return found if space == BLANK and found in (WORD, PUNCT, TEXT) else UNKNOWN


@numba.njit(cache=True, nogil=True)
def flag_signs(text: U8, classes: U8) -> tuple[U8, U8, U8]:
    """Return a bit a byte, lowest first, for each of three things; the rest is white space.

    Letters are ASCII letters and digits, and punctuation too where it is of class WORD, else that
    is marks; odd is what needs a closer look: everything where `class_of_marks` is UNKNOWN.

    Args:
        text: uint8 (N,)
        classes: uint8 (NUM_CLASSES,)

    Returns:
        letters, marks, odd: uint8 (N // 8 + 17,), zeros follow the last byte
    """
    letters = flag_alphanumeric(text)
    marks, odd = np.zeros_like(letters), np.zeros_like(letters)
    kind, whole = class_of_marks(classes), len(text) // 8
    if kind == UNKNOWN:
        odd[:] = 255
        return letters, marks, odd
    for block in range(whole):
        marks[block], odd[block] = signs_of(load8(text, 8 * block))
    rest = np.full(8, 0x20, np.uint8)
    for position in range(8 * whole, len(text)):
        rest[position & 7] = text[position]
    marks[whole], odd[whole] = signs_of(load8(rest, 0))
    for block in range(whole + 1):
        marks[block] &= ~letters[block]
        if kind == WORD:
            letters[block] |= marks[block]
            marks[block] = 0
    return letters, marks, odd


@numba.njit(cache=True, nogil=True)
def signs_of(chunk: np.uint64) -> tuple[Int, Int]:
    """Return, of 8 characters, which are visible ASCII and which neither that nor white space."""
    low = chunk & _LOW
    visible = (low + _ONES * np.uint64(95)) & ~(low + _ONES) & ~chunk & _HIGH
    other = (low ^ (_ONES * np.uint64(0x20))) + _LOW
    other &= (low ^ (_ONES * np.uint64(0x0A))) + _LOW
    other &= (low ^ (_ONES * np.uint64(0x0D))) + _LOW
    other &= (low ^ (_ONES * np.uint64(0x09))) + _LOW
    odd = (other | chunk) & ~visible & _HIGH
    return (
        np.uint8(((visible >> np.uint64(7)) * _GATHER) >> np.uint64(56)),
        np.uint8(((odd >> np.uint64(7)) * _GATHER) >> np.uint64(56)),
    )


@numba.njit(cache=True, nogil=True)
def low_bits(number: Int) -> Int:
    """Return as many set bits, 0 to 63, the lowest first."""
    return (np.uint64(1) << np.uint64(number)) - np.uint64(1)


@numba.njit(cache=True, nogil=True)
def window_at(letters: U8, marks: U8, odd: U8, position: Int, stop: Int) -> tuple[Int, Int, Int]:
    """Return how many bytes from a position on are not odd, WINDOW at most, and what they are.

    Args:
        letters: from `flag_signs`, and so `marks` and `odd`
        marks: see `letters`
        odd: see `letters`
        position: first byte
        stop: end of the document

    Returns:
        size, and a bit for each of these bytes: is it a letter, is it a mark
    """
    place, shift = position >> 3, np.uint64(position & 7)
    following = np.int64(trailing_zeros(load8(odd, place) >> shift))
    size = min(following, min(np.int64(WINDOW), stop - position))
    run, single = load8(letters, place) >> shift, load8(marks, place) >> shift
    return size, run & low_bits(size), single & low_bits(size)


@numba.njit(cache=True, nogil=True, inline="always")
def seek(offsets: I64, document: Int, position: Int) -> tuple[Int, Int]:
    """Return the next byte that is left to cut, and its document; behind all of them where none is.

    Args:
        offsets: int64 (D + 1,), where documents begin
        document: of `position`
        position: may be the end of the document

    Example:
        >>> seek(np.array([0, 2, 2, 5]), 0, 2)
        (2, 2)
    """
    while position >= offsets[document + 1] and document + 2 < len(offsets):
        document += 1
        position = offsets[document]
    return document, position


@numba.njit(cache=True, nogil=True)
def cut_words(
    text: U8, letters: U8, marks: U8, odd: U8, offsets: I64, classes: U8, state: I64, bounds: I64
) -> Int:
    """Cut the next words, some BATCH, and return how many.

    Args:
        text: uint8 (N,)
        letters: from `flag_signs`, and so `marks` and `odd`
        marks: see `letters`
        odd: see `letters`
        offsets: int64 (D + 1,), where documents begin
        classes: uint8 (NUM_CLASSES,)
        state: DOCUMENT and POSITION are read and moved on
        bounds: int64 (2 * (BATCH + WINDOW),), filled with start and end of each word
    """
    document, position = state[DOCUMENT], state[POSITION]
    found = int64(0)
    while found < BATCH:
        document, position = seek(offsets, document, position)
        stop = offsets[document + 1]
        if position >= stop:
            break
        size, run, single = window_at(letters, marks, odd, position, stop)
        if position + size < stop:  # a word that may go on behind the window is of the next one
            size = np.int64(64) - np.int64(leading_zeros(~run & low_bits(size)))
            run &= low_bits(size)
        begins = (single & low_bits(size)) | (run & ~(run << np.uint64(1)))
        while begins != np.uint64(0):
            begin = trailing_zeros(begins)
            length = np.int64(trailing_zeros(~(run >> begin)))
            start = position + np.int64(begin)
            bounds[2 * found], bounds[2 * found + 1] = start, start + max(length, 1)
            found += 1
            begins &= begins - np.uint64(1)
        position += size
        if size == 0:
            code, length = character_at(text, position, stop)
            kind = classes[code] if code < NUM_CLASSES else np.uint8(WORD)
            end = position + length
            if kind == WORD:
                end = word_end(text, letters, end, stop, classes)
            if kind != SPACE:
                bounds[2 * found], bounds[2 * found + 1] = position, min(end, stop)
                found += 1
            position = end
    state[DOCUMENT], state[POSITION] = document, position
    return found


@numba.njit(cache=True, nogil=True)
def cut_spaced_words(
    text: U8, letters: U8, marks: U8, odd: U8, offsets: I64, classes: U8, state: I64, bounds: I64
) -> Int:
    """Cut the next words as `spaced_word_end` says, so that no byte is left out.

    Args: as `cut_words` takes them
    """
    document, position = state[DOCUMENT], state[POSITION]
    cuts_marks = _ALL * np.uint64(np.any(classes[:0x80] == PUNCT))
    found = int64(0)
    while found < BATCH:
        document, position = seek(offsets, document, position)
        stop = offsets[document + 1]
        if position >= stop:
            break
        size, run, single = window_at(letters, marks, odd, position, stop)
        is_last = position + size == stop
        solid = run | single
        size = np.int64(64) - np.int64(leading_zeros(solid))  # what may follow white space counts
        blank = ~solid & low_bits(size)
        begins = blank & ~(blank << np.uint64(1)) & ~np.uint64(1)
        begins |= single & (run << np.uint64(1)) & cuts_marks
        start = position
        while begins != np.uint64(0):
            end = position + np.int64(trailing_zeros(begins))
            bounds[2 * found], bounds[2 * found + 1] = start, end
            found += 1
            start = end
            begins &= begins - np.uint64(1)
        if is_last or start == position:
            end = stop
            if not is_last:
                seen = np.int64(OTHER)
                end, _ = spaced_word_end(text, letters, position, stop, classes, seen)
            bounds[2 * found], bounds[2 * found + 1] = start, end
            found += 1
            start = end
        position = start
    state[DOCUMENT], state[POSITION] = document, position
    return found
