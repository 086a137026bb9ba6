"""What is counted of the words of documents, and the sentences of lines (kernels)."""

from __future__ import annotations

import numba
import numpy as np

from lmdata.tagging.words import ENDS_SENTENCE, HAS_LETTER, IS_PUNCTUATION, IS_SYMBOL

NUM_COUNTS = 14
LONGEST_TOP, LONGEST = 4, 10  # n-grams of 2 to 4 words, of 5 to 10


@numba.njit(cache=True, nogil=True)
def count_words(
    words: np.ndarray,
    offsets: np.ndarray,
    lengths: np.ndarray,
    hashes: np.ndarray,
    powers: np.ndarray,
    flags: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Count what the rules ask of the words of each document.

    Args:
        words: int64 (T,), numbers of words
        offsets: int64 (D + 1,), where documents begin in `words`
        lengths: int64 (W,), as in `words.WordFacts`, like the next three
        hashes: uint64 (W,)
        powers: uint64 (W,)
        flags: int64 (W,)
        counts: int64 (D, NUM_COUNTS), written: words; words that are no symbols; their characters;
            words with a letter; distinct stop words; characters of the most frequent n-gram of 2,
            3, 4 words, all its places together; characters of repeated n-grams of 5 to 10 words
    """
    longest = 1
    for document in range(len(offsets) - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    size = 4
    while size < 2 * longest:
        size *= 2
    keys = np.empty(size, np.uint64)
    stamps = np.zeros(size, np.int64)
    totals = np.empty(size, np.int64)
    stamp = 0
    for document in range(len(offsets) - 1):
        own = words[offsets[document] : offsets[document + 1]]
        row = counts[document]
        _count_kinds(own, lengths, flags, row)
        for n in range(2, LONGEST + 1):
            stamp += 1
            if n <= LONGEST_TOP:
                row[3 + n] = _top_characters(
                    own, n, lengths, hashes, powers, keys, stamps, totals, stamp
                )
            else:
                row[3 + n] = _repeated_characters(
                    own, n, lengths, hashes, powers, keys, stamps, stamp
                )


@numba.njit(cache=True)
def _count_kinds(
    words: np.ndarray, lengths: np.ndarray, flags: np.ndarray, row: np.ndarray
) -> None:
    num_plain, num_characters, num_lettered, seen = 0, 0, 0, 0
    for word in words:
        kind = flags[word]
        if not kind & IS_SYMBOL:
            num_plain += 1
            num_characters += lengths[word]
        num_lettered += kind & HAS_LETTER
        seen |= kind >> 8
    num_stops = 0
    while seen:
        seen &= seen - 1
        num_stops += 1
    row[0], row[1], row[2], row[3], row[4] = (
        len(words),
        num_plain,
        num_characters,
        num_lettered,
        num_stops,
    )


@numba.njit(cache=True)
def _find(keys: np.ndarray, stamps: np.ndarray, stamp: int, key: int) -> int:
    """Return the slot that holds a key of this stamp, or the free one where it belongs."""
    mask = len(keys) - 1
    mixed = (key ^ (key >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    slot = np.int64((mixed >> np.uint64(32)) & np.uint64(mask))
    while stamps[slot] == stamp and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True)
def _top_characters(
    words: np.ndarray,
    n: int,
    lengths: np.ndarray,
    hashes: np.ndarray,
    powers: np.ndarray,
    keys: np.ndarray,
    stamps: np.ndarray,
    totals: np.ndarray,
    stamp: int,
) -> int:
    """Return the characters of the n-gram that occurs most, of equals the first, in all places.

    Words are joined by blanks.
    """
    best_total, slots_first = 0, 0
    num_grams = len(words) - n + 1
    for first in range(num_grams):
        slot = _find(keys, stamps, stamp, _joined(words, first, n, hashes, powers, True))
        if stamps[slot] != stamp:
            stamps[slot] = stamp
            keys[slot] = _joined(words, first, n, hashes, powers, True)
            totals[slot] = 0
        totals[slot] += 1
        best_total = max(best_total, totals[slot])
    for first in range(num_grams):
        slot = _find(keys, stamps, stamp, _joined(words, first, n, hashes, powers, True))
        if totals[slot] == best_total:
            slots_first = first
            break
    if best_total == 0:
        return 0
    size = n - 1
    for index in range(slots_first, slots_first + n):
        size += lengths[words[index]]
    return size * best_total


@numba.njit(cache=True)
def _repeated_characters(
    words: np.ndarray,
    n: int,
    lengths: np.ndarray,
    hashes: np.ndarray,
    powers: np.ndarray,
    keys: np.ndarray,
    stamps: np.ndarray,
    stamp: int,
) -> int:
    """Return the characters of n-grams that were there before, none counted twice.

    Words are joined without blanks; after a repeated n-gram, the search goes on behind it.
    """
    total, first = 0, 0
    while first < len(words) - n + 1:
        key = _joined(words, first, n, hashes, powers, False)
        slot = _find(keys, stamps, stamp, key)
        if stamps[slot] == stamp:
            for index in range(first, first + n):
                total += lengths[words[index]]
            first += n
        else:
            stamps[slot] = stamp
            keys[slot] = key
            first += 1
    return total


@numba.njit(cache=True)
def _joined(
    words: np.ndarray, first: int, n: int, hashes: np.ndarray, powers: np.ndarray, blanks: bool
) -> int:
    """Return the polynomial of n words joined to one string."""
    key = hashes[words[first]]
    for index in range(first + 1, first + n):
        word = words[index]
        if blanks:
            key = key * np.uint64(0x9E3779B97F4A7C15) + np.uint64(33)
        key = key * powers[word] + hashes[word]
    return key


@numba.njit(cache=True, nogil=True)
def count_sentences(words: np.ndarray, offsets: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Return the sentences of each line, int64 (L,).

    A sentence ends before the first word behind its end mark that is no punctuation.

    Args:
        words: int64 (T,), numbers of words
        offsets: int64 (L + 1,), where lines begin in `words`
        flags: int64 (W,), as in `words.WordFacts`
    """
    counts = np.zeros(len(offsets) - 1, np.int64)
    for line in range(len(offsets) - 1):
        is_over = False
        for word in words[offsets[line] : offsets[line + 1]]:
            is_end = flags[word] & ENDS_SENTENCE
            if is_over and not is_end and not flags[word] & IS_PUNCTUATION:
                counts[line] += 1
                is_over = False
            elif is_end:
                is_over = True
        counts[line] += offsets[line + 1] > offsets[line]
    return counts
