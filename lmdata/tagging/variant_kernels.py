"""What dolma and DCLM count of words and lines, where it is not what datatrove counts (kernels)."""

from __future__ import annotations

import numba
import numpy as np

from lmdata.encoders.word_kernels import hash_of, word_key
from lmdata.intrinsics import borrowed, int64
from lmdata.tagging.gram_tables import (
    choose_longer,
    choose_pairs,
    count_places,
    find_slot,
    table_size,
)
from lmdata.tagging.line_kernels import count_characters, find_feed, skip_space, trim_space
from lmdata.tagging.word_kernels import LONGEST

NUM_GRAM_COUNTS = 5
TOP_FIRST, TOP_LONGEST, REPEATED, ALL, COVERED = range(NUM_GRAM_COUNTS)
NUM_PART_COUNTS = 6
PARTS, PART_CHARS, BULLETED, DOTTED, COPIES, COPY_CHARS = range(NUM_PART_COUNTS)
NUM_KINDS = 3
LINES_AS_THEY_ARE, LINES, PARAGRAPHS = range(NUM_KINDS)  # the last two without space around them


@numba.njit(cache=True, nogil=True)
def count_grams(
    stream: np.ndarray, starts: np.ndarray, ends: np.ndarray, lengths: np.ndarray,
    rows: np.ndarray, counts: np.ndarray,
) -> None:  # fmt: skip
    """Count the characters of n-grams of 2 to LONGEST words of each document.

    Args:
        stream: uint8 (N,), with words in it
        starts: int64 (W,), where each begins
        ends: int64 (W,), where each ends
        lengths: int32 (W,), characters
        rows: int64 (D + 1,), where documents begin among the words
        counts: int64 (D, LONGEST - 1, NUM_GRAM_COUNTS), written, zeros before: of the n-gram that
            occurs most, in all its places: the first of equals, even if it occurs once; the
            longest of equals, only if it occurs twice; of n-grams that occur twice, in all their
            places; of all n-grams; of words that are in an n-gram that occurs twice
    """
    most = int64(1)
    for document in range(len(rows) - 1):
        most = max(most, rows[document + 1] - rows[document])
    size = table_size(most)
    keys, totals = np.empty(size, np.uint64), np.empty(size, np.int32)
    firsts, slots = np.empty(size, np.int64), np.empty(most, np.int64)
    hashes, chosen = np.empty(most, np.uint64), np.empty(most, np.int64)
    before, seen = np.zeros(most + 1, np.int64), np.empty(8 * size, np.uint8)
    for document in range(len(rows) - 1):
        first, num_words = rows[document], rows[document + 1] - rows[document]
        for index in range(num_words):
            begin, end = starts[first + index], ends[first + index]
            hashes[index] = hash_of(word_key(borrowed(stream), begin, end), end - begin)
            before[index + 1] = before[index] + lengths[first + index]
        num_chosen = choose_pairs(borrowed(hashes), num_words, borrowed(chosen), borrowed(seen))
        for n in range(2, min(LONGEST, num_words) + 1):
            row = counts[document, n - 2]
            for index in range(num_words - n + 1):
                row[ALL] += before[index + n] - before[index]
            top, place = count_places(n, borrowed(hashes), borrowed(chosen), num_chosen,
                                      borrowed(keys), borrowed(totals), borrowed(firsts),
                                      borrowed(slots))  # fmt: skip
            row[TOP_FIRST] = top * (before[place + n] - before[place])
            _sum_places(n, top, borrowed(before), borrowed(chosen), num_chosen, borrowed(totals),
                        borrowed(slots), row)  # fmt: skip
            num_chosen = choose_longer(
                n, num_words, borrowed(chosen), num_chosen, borrowed(totals), borrowed(slots)
            )


@numba.njit(cache=True, nogil=True)
def _sum_places(
    n: int, top: int, before: np.ndarray, chosen: np.ndarray, num_chosen: int,
    totals: np.ndarray, slots: np.ndarray, row: np.ndarray,
) -> None:  # fmt: skip
    covered, longest = int64(0), int64(0)
    for position in range(num_chosen):
        index, total = chosen[position], totals[slots[position]]
        if total < 2:
            continue
        size = before[index + n] - before[index]
        row[REPEATED] += size
        row[COVERED] += before[index + n] - before[max(index, covered)]
        covered = index + n
        if total == top:
            longest = max(longest, size)
    row[TOP_LONGEST] = longest * top


@numba.njit(cache=True, nogil=True)
def count_parts(
    text: np.ndarray, offsets: np.ndarray, bits: np.ndarray, counts: np.ndarray
) -> None:
    """Count what is in the lines and paragraphs of each document, all copies of those that repeat.

    Args:
        text: uint8 (N,), UTF-8
        offsets: int64 (D + 1,), where documents begin
        bits: uint8, from `character_bits`
        counts: int64 (D, NUM_KINDS, NUM_PART_COUNTS), written, zeros before. Lines as they are
            also count where they are empty, begin with * or -, end in U+2026; lines without space
            around them begin with a filled circle, a bullet, * or -, end in U+2026, dots or dots
            with blanks between them
    """
    most = 1
    for document in range(len(offsets) - 1):
        feeds = 1
        for index in range(offsets[document], offsets[document + 1]):
            feeds += text[index] == 10
        most = max(most, feeds)
    size = table_size(most)
    keys, repeats = np.empty(size, np.uint64), np.empty(size, np.bool_)
    for document in range(len(offsets) - 1):
        start, stop = offsets[document], offsets[document + 1]
        feeds = 0
        for index in range(start, stop):
            feeds += text[index] == 10
        mask = table_size(feeds + 1) - 1
        for kind in range(NUM_KINDS):
            keys[: mask + 1], repeats[: mask + 1] = 0, False
            _count_kind(borrowed(text), start, stop, borrowed(bits), kind, borrowed(keys), mask,
                        borrowed(repeats), counts[document, kind])  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _count_kind(
    text: np.ndarray, start: int, stop: int, bits: np.ndarray, kind: int, keys: np.ndarray,
    mask: int, repeats: np.ndarray, row: np.ndarray,
) -> None:  # fmt: skip
    num_empty, following = 0, start
    while following <= stop:
        begin, end = following, find_feed(text, following, stop)
        if kind == PARAGRAPHS:
            while end < stop and not (end + 1 < stop and text[end + 1] == 10):
                end = find_feed(text, end + 1, stop)
            following = end + 2
        else:
            following = end + 1
        if kind != LINES_AS_THEY_ARE:
            begin = skip_space(text, begin, end, bits)
            end = trim_space(text, begin, end, bits)
        if begin == end:
            num_empty += 1
            continue
        row[PARTS] += 1
        row[BULLETED] += _begins_with_bullet(text, begin, end, kind)
        row[DOTTED] += _ends_in_dots(text, begin, end, kind)
        chars = count_characters(text, begin, end)
        row[PART_CHARS] += chars
        key = hash_of(word_key(text, begin, end), end - begin) | np.uint64(1)
        slot = find_slot(keys, mask, key)
        if keys[slot] == key:
            num_more = 1 if repeats[slot] else 2
            repeats[slot] = True
            row[COPIES] += num_more
            row[COPY_CHARS] += num_more * chars
        keys[slot] = key
    if kind == LINES_AS_THEY_ARE:
        row[PARTS] += num_empty
        row[COPIES] += num_empty if num_empty > 1 else 0


@numba.njit(cache=True, nogil=True)
def _begins_with_bullet(text: np.ndarray, start: int, stop: int, kind: int) -> bool:
    if text[start] == 42 or text[start] == 45:
        return True
    if kind == LINES_AS_THEY_ARE or stop - start < 3 or text[start] != 0xE2:
        return False
    second, third = text[start + 1], text[start + 2]
    return bool((second == 0x80 and third == 0xA2) or (second == 0x97 and third == 0x8F))


@numba.njit(cache=True, nogil=True)
def _ends_in_dots(text: np.ndarray, start: int, stop: int, kind: int) -> bool:
    if stop - start < 3:
        return False
    a, b, c = text[stop - 3], text[stop - 2], text[stop - 1]
    if a == 0xE2 and b == 0x80 and c == 0xA6:
        return True
    if kind == LINES_AS_THEY_ARE or a != 46 or c != 46:
        return False
    is_spaced = b == 32 and stop - start >= 5 and text[stop - 4] == 32 and text[stop - 5] == 46
    return b == 46 or is_spaced
