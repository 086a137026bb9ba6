"""What the rules count of lines and paragraphs (kernels)."""

from __future__ import annotations

import numba
import numpy as np

from lmdata.encoders.cut_kernels import Int
from lmdata.encoders.word_kernels import hash_of, word_key
from lmdata.intrinsics import borrowed, load8, trailing_zeros
from lmdata.splitting.tables import decode, previous
from lmdata.tagging.characters import (
    ENDS_SENTENCE,
    SPACE,
)
from lmdata.tagging.gram_tables import find_slot, table_size
from lmdata.tagging.numbers import is_unspaced

NUM_LINE_COUNTS = 18
(
    CHARS, HASHES, ELLIPSES, FEEDS, LINES, BULLETS, ENDS_IN_ELLIPSIS, PARAGRAPHS,
    PARAGRAPHS_AGAIN, PARAGRAPH_CHARS, ROWS, ROWS_AGAIN, ROW_CHARS, FULL, ENDED, SHORT, FULL_CHARS,
    UNSPACED,
) = range(NUM_LINE_COUNTS)  # fmt: skip
SHORT_LINE = 30  # characters

_FEEDS = np.uint64(0x0A0A0A0A0A0A0A0A)
_LOW_BITS, _HIGH_BITS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


@numba.njit(cache=True, nogil=True)
def count_lines(
    text: np.ndarray, offsets: np.ndarray, bits: np.ndarray, counts: np.ndarray
) -> None:
    """Count what the rules ask of the lines of each document.

    A row is what lies between line feeds, one or more; a paragraph, two or more; a full line holds
    more than white space. What is there again is counted from the second time on.

    Args:
        text: uint8 (N,), UTF-8
        offsets: int64 (D + 1,), where documents begin; none is blank
        bits: uint8, from `character_bits`
        counts: int64 (D, NUM_LINE_COUNTS), written, zeros before
    """
    most = 1
    for document in range(len(offsets) - 1):
        feeds = 1
        for index in range(offsets[document], offsets[document + 1]):
            feeds += text[index] == 10
        most = max(most, feeds + 2)
    keys = np.empty((3, table_size(most)), np.uint64)
    for document in range(len(offsets) - 1):
        start, stop = offsets[document], offsets[document + 1]
        row = counts[document]
        _count_characters(borrowed(text), start, stop, row)
        mask = table_size(row[FEEDS] + 3) - 1
        keys[:, : mask + 1] = 0
        _count_rows(borrowed(text), start, stop, borrowed(bits), keys[0], keys[1], mask, row)
        _count_paragraphs(borrowed(text), start, stop, borrowed(bits), keys[2], mask, row)


@numba.njit(cache=True, nogil=True)
def _count_characters(text: np.ndarray, start: int, stop: int, row: np.ndarray) -> None:
    chars, feeds, hashes, ellipses = 0, 0, 0, 0
    for index in range(start, stop):
        byte = text[index]
        chars += (byte & 0xC0) != 0x80
        feeds += byte == 10
        hashes += byte == 35
    for index in range(start + 2, stop):
        if text[index] == 0xA6 and text[index - 1] == 0x80:
            ellipses += text[index - 2] == 0xE2
    here = start
    while here + 2 < stop:
        if text[here + 2] != 46:
            here += 3
        elif text[here + 1] != 46 or text[here] != 46:
            here += 1
        else:
            ellipses += 1
            here += 3
    row[CHARS], row[FEEDS], row[HASHES], row[ELLIPSES] = chars, feeds, hashes, ellipses
    here = start
    while here < stop:
        if text[here] < 0xE0:  # below them there is no such script
            here += 1
            continue
        code, size = decode(text, here, stop)
        row[UNSPACED] += is_unspaced(code)
        here += size


@numba.njit(cache=True, nogil=True)
def find_feed(text: np.ndarray, start: int, stop: int) -> Int:
    """Return where the first line feed stands, or `stop`; eight bytes are looked at in one."""
    while start + 8 <= stop:
        word = load8(text, start) ^ _FEEDS
        found = (word - _LOW_BITS) & ~word & _HIGH_BITS
        if found:
            return start + np.int64(trailing_zeros(found) >> np.uint64(3))
        start += 8
    while start < stop and text[start] != 10:
        start += 1
    return start


@numba.njit(cache=True, nogil=True)
def _key(text: np.ndarray, start: int, stop: int) -> Int:
    return hash_of(word_key(text, start, stop), stop - start) | np.uint64(1)


@numba.njit(cache=True, nogil=True)
def _note(key: int, keys: np.ndarray, mask: int) -> bool:
    """Return whether a key was there before, and keep it."""
    slot = find_slot(keys, mask, key)
    if keys[slot] == key:
        return True
    keys[slot] = key
    return False


@numba.njit(cache=True, nogil=True)
def count_characters(text: np.ndarray, start: int, stop: int) -> int:
    """Return the characters of a stretch of UTF-8."""
    chars = 0
    for index in range(start, stop):
        chars += (text[index] & 0xC0) != 0x80
    return chars


@numba.njit(cache=True, nogil=True)
def skip_space(text: np.ndarray, start: int, stop: int, bits: np.ndarray) -> int:
    """Return where the first character stands that is no white space, or `stop`."""
    while start < stop:
        code, size = decode(text, start, stop)
        if not bits[code] & SPACE:
            break
        start += size
    return start


@numba.njit(cache=True, nogil=True)
def trim_space(text: np.ndarray, start: int, stop: int, bits: np.ndarray) -> int:
    """Return where the last character ends that is no white space, or `start`."""
    while stop > start:
        last = previous(text, stop, start)
        code, _ = decode(text, last, stop)
        if not bits[code] & SPACE:
            break
        stop = last
    return stop


@numba.njit(cache=True, nogil=True)
def _count_rows(
    text: np.ndarray, start: int, stop: int, bits: np.ndarray, row_keys: np.ndarray,
    full_keys: np.ndarray, mask: int, row: np.ndarray,
) -> None:  # fmt: skip
    num_empty = int(text[start] == 10) + int(text[stop - 1] == 10)
    row[ROWS], row[ROWS_AGAIN] = num_empty, max(0, num_empty - 1)
    begin = start
    while begin < stop:
        end = find_feed(text, begin, stop)
        if end > begin:
            row[ROWS] += 1
            key, chars = _key(text, begin, end), count_characters(text, begin, end)
            if _note(key, row_keys, mask):
                row[ROWS_AGAIN] += 1
                row[ROW_CHARS] += chars
            if skip_space(text, begin, end, bits) < end:
                row[FULL] += 1
                row[SHORT] += chars <= SHORT_LINE
                code, _ = decode(text, previous(text, end, begin), end)
                row[ENDED] += (bits[code] & ENDS_SENTENCE) != 0
                if _note(key, full_keys, mask):
                    row[FULL_CHARS] += chars
        begin = end + 1


@numba.njit(cache=True, nogil=True)
def _count_paragraphs(
    text: np.ndarray, start: int, stop: int, bits: np.ndarray, keys: np.ndarray, mask: int,
    row: np.ndarray,
) -> None:  # fmt: skip
    here = skip_space(text, start, stop, bits)
    stop = trim_space(text, here, stop, bits)
    while here < stop:
        end = find_feed(text, here, stop)
        while end + 1 < stop and text[end + 1] != 10:
            end = find_feed(text, end + 1, stop)
        row[PARAGRAPHS] += 1
        if _note(_key(text, here, end), keys, mask):
            row[PARAGRAPHS_AGAIN] += 1
            row[PARAGRAPH_CHARS] += count_characters(text, here, end)
        while end < stop and text[end] == 10:
            end += 1
        here = end
