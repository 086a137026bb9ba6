"""An exact index of evaluation texts, by n-grams of 8 words and by the beginnings of short ones.

Hashes of n-grams only propose: all words are compared, none is left to a hash of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.encoders.cut_kernels import Int
from lmdata.intrinsics import int64
from lmdata.ragged import offsets_of, ranges
from lmdata.tagging.evaluations import EvaluationFile
from lmdata.tagging.gram_tables import find_slot, table_size
from lmdata.tagging.manifests import EvaluationRecord
from lmdata.tagging.numbers import I64, U64, NumberedWords, mixed, number_words

GRAM, SHORTEST = 8, 4  # words
MOST_TEXTS = 64  # of an evaluation that may share an n-gram: more, and it is of their template
FOUND = pa.list_(pa.field("item", pa.int64(), nullable=False), 4)
"""What is found of texts in a document, as `OverlapIndex.find` returns it."""

_MULTIPLIER, _SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True, eq=False)
class OverlapIndex:
    """The texts of evaluations, T of V words, by n-grams and by their beginnings.

    Attributes:
        words: uint64 (V,), from `number_words`
        rows: int64 (T + 1,), where texts begin among them
        grams: int32 (V,), number of the 8 words that begin at each, -1: none, or of a template
        places: int64 (G,), where each n-gram stands first
        keys: uint64 (S,), a table of n-grams
        numbers: int32 (S,), which n-gram or, in the other table, which text stands there
        short_keys: uint64 (R,), a table of the first words of short texts
        short_numbers: int32 (R,)
        next_short: int32 (T,), the next short text that begins alike, -1: none
        seen: uint8, a filter over n-grams, bit by bit
        short_seen: uint8, one over the beginnings of short texts
    """

    words: U64
    rows: I64
    grams: npt.NDArray[np.int32]
    places: I64
    keys: U64
    numbers: npt.NDArray[np.int32]
    short_keys: U64
    short_numbers: npt.NDArray[np.int32]
    next_short: npt.NDArray[np.int32]
    seen: npt.NDArray[np.uint8]
    short_seen: npt.NDArray[np.uint8]

    def find(self, words: NumberedWords) -> tuple[I64, I64]:
        """Return what documents share with the texts, and where each document begins in it.

        Returns:
            int64 (F, 4): the number of an n-gram, or -1 minus that of a short text; the word of
            the document at which it stands; its first byte there; the byte behind. int64 (D + 1,).
        """
        found, ends = _find(
            words.exact, words.exact_rows, self.words, self.rows, self.places, self.keys,
            self.numbers, self.short_keys, self.short_numbers, self.next_short, self.seen,
            self.short_seen,
        )  # fmt: skip
        firsts = words.exact_rows[np.searchsorted(ends[1:], np.arange(len(found)), side="right")]
        sizes = np.where(found[:, 0] < 0, np.diff(self.rows)[np.maximum(-1 - found[:, 0], 0)], GRAM)
        places = firsts + found[:, 1]
        spans = words.spans[places, 0], words.spans[places + sizes - 1, 1]
        return np.column_stack([found, *spans]), ends


def make_index(files: Sequence[EvaluationFile]) -> OverlapIndex:
    """Return the index of the texts of some files."""
    content = [text.encode() for file in files for text in file.texts]
    text = np.frombuffer(b"".join(content), np.uint8)
    numbered = number_words(text, offsets_of([len(part) for part in content]))
    words, rows = numbered.exact, numbered.exact_rows
    lengths = np.diff(rows)
    starts = ranges(rows[:-1], np.maximum(lengths - GRAM + 1, 0))
    short = np.flatnonzero((lengths >= SHORTEST) & (lengths < GRAM))
    keys = np.zeros(table_size(len(starts)), np.uint64)
    numbers = np.zeros(len(keys), np.int32)
    short_keys = np.zeros(table_size(len(short)), np.uint64)
    short_numbers, next_short = (
        np.zeros(len(short_keys), np.int32),
        np.full(len(rows), -1, np.int32),
    )
    seen, short_seen = np.zeros(len(keys), np.uint8), np.zeros(8 * len(short_keys), np.uint8)
    grams, places = np.full(len(words), -1, np.int32), np.empty(len(starts), np.int64)
    num_grams = _add_grams(words, starts, keys, numbers, grams, places, seen)
    _add_short(words, rows, short, short_keys, short_numbers, next_short, short_seen)
    counts = np.bincount(grams[starts], minlength=1)
    grams[starts[counts[grams[starts]] > MOST_TEXTS]] = -1
    return OverlapIndex(
        words, rows, grams, places[:num_grams], keys, numbers, short_keys, short_numbers,
        next_short, seen, short_seen,
    )  # fmt: skip


def describe(files: Sequence[EvaluationFile], index: OverlapIndex) -> dict[str, EvaluationRecord]:
    """Return what is kept of files: how many texts are looked for."""
    lengths, found, first = np.diff(index.rows), {}, 0
    for file in files:
        own = lengths[first : first + len(file.texts)]
        first += len(own)
        found[file.name] = EvaluationRecord(
            bytes=file.bytes,
            xxh3=file.xxh3,
            texts=int((own >= GRAM).sum()),
            short_texts=int(((own >= SHORTEST) & (own < GRAM)).sum()),
            passed_over=int((own < SHORTEST).sum()),
        )
    return found


@numba.njit(cache=True, nogil=True)
def _fold(words: np.ndarray, start: int, size: int) -> Int:
    key = np.uint64(0)
    for index in range(start, start + size):
        key = key * _MULTIPLIER + words[index]
    return key


@numba.njit(cache=True, nogil=True)
def _are_equal(one: np.ndarray, at: int, other: np.ndarray, there: int, size: int) -> bool:
    for index in range(size):  # noqa: SIM110 - a kernel has no generators
        if one[at + index] != other[there + index]:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _bit(seen: np.ndarray, folded: Int) -> tuple[Int, Int]:
    """Return the byte of a filter that stands for an n-gram, and the bit of it."""
    spread = folded * _SPREAD
    place = np.int64(spread >> np.uint64(28)) & (len(seen) - 1)
    return place, 1 << np.int64(spread >> np.uint64(61))


@numba.njit(cache=True, nogil=True)
def _is_seen(seen: np.ndarray, folded: Int) -> bool:
    place, bit = _bit(seen, folded)
    found: bool = (seen[place] & bit) != 0
    return found


@numba.njit(cache=True, nogil=True)
def _slot_of(
    words: np.ndarray, at: int, key: Int, known: np.ndarray, places: np.ndarray,
    keys: np.ndarray, numbers: np.ndarray,
) -> Int:  # fmt: skip
    """Return the slot of the n-gram at a word, or the free one where it belongs."""
    mask = len(keys) - 1
    slot = find_slot(keys, mask, key)
    while keys[slot] != 0 and not (
        keys[slot] == key and _are_equal(words, at, known, places[numbers[slot]], int64(GRAM))
    ):
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True, nogil=True)
def _add_grams(
    words: np.ndarray, starts: np.ndarray, keys: np.ndarray, numbers: np.ndarray,
    grams: np.ndarray, places: np.ndarray, seen: np.ndarray,
) -> int:  # fmt: skip
    num_grams = 0
    for start in starts:
        folded = _fold(words, start, int64(GRAM))
        key = mixed(folded) | np.uint64(1)
        slot = _slot_of(words, start, key, words, places, keys, numbers)
        if keys[slot] == 0:
            keys[slot], numbers[slot], places[num_grams] = key, num_grams, start
            place, bit = _bit(seen, folded)
            seen[place] |= bit
            num_grams += 1
        grams[start] = numbers[slot]
    return num_grams


@numba.njit(cache=True, nogil=True)
def _add_short(
    words: np.ndarray, rows: np.ndarray, short: np.ndarray, keys: np.ndarray,
    numbers: np.ndarray, next_short: np.ndarray, seen: np.ndarray,
) -> None:  # fmt: skip
    for text in short[::-1]:
        folded = _fold(words, rows[text], int64(SHORTEST))
        key = mixed(folded) | np.uint64(1)
        slot = find_slot(keys, len(keys) - 1, key)
        next_short[text] = numbers[slot] if keys[slot] else -1
        keys[slot], numbers[slot] = key, text
        place, bit = _bit(seen, folded)
        seen[place] |= bit


@numba.njit(cache=True, nogil=True)
def _grown(found: np.ndarray, num_found: int) -> np.ndarray:
    if num_found < len(found):
        return found
    larger = np.empty((2 * len(found), 2), np.int64)
    for row in range(num_found):
        larger[row, 0], larger[row, 1] = found[row, 0], found[row, 1]
    return larger


@numba.njit(cache=True, nogil=True)
def _find(
    words: np.ndarray, rows: np.ndarray, known: np.ndarray, known_rows: np.ndarray,
    places: np.ndarray, keys: np.ndarray, numbers: np.ndarray, short_keys: np.ndarray,
    short_numbers: np.ndarray, next_short: np.ndarray, seen: np.ndarray,
    short_seen: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return number and word of what is found, int64 (F, 2), and where documents begin in it."""
    found, num_found = np.empty((64, 2), np.int64), int64(0)
    ends = np.zeros(len(rows), np.int64)
    behind, short_behind = np.uint64(1), np.uint64(1)
    for _ in range(GRAM):
        behind *= _MULTIPLIER
    for _ in range(SHORTEST):
        short_behind *= _MULTIPLIER
    for document in range(len(rows) - 1):
        first, last = rows[document], rows[document + 1]
        long, short = np.uint64(0), np.uint64(0)
        for index in range(first, last):
            long, short = long * _MULTIPLIER + words[index], short * _MULTIPLIER + words[index]
            if index >= first + GRAM:
                long -= behind * words[index - GRAM]
            if index >= first + SHORTEST:
                short -= short_behind * words[index - SHORTEST]
            start = index - GRAM + 1
            if start >= first and _is_seen(seen, long):
                key = mixed(long) | np.uint64(1)
                slot = _slot_of(words, start, key, known, places, keys, numbers)
                if keys[slot] != 0:
                    found = _grown(found, num_found)
                    found[num_found, 0], found[num_found, 1] = numbers[slot], start - first
                    num_found += 1
            start = index - SHORTEST + 1
            if start >= first and _is_seen(short_seen, short):
                key = mixed(short) | np.uint64(1)
                slot = find_slot(short_keys, len(short_keys) - 1, key)
                text = short_numbers[slot] if short_keys[slot] == key else -1
                while text >= 0:
                    size = known_rows[text + 1] - known_rows[text]
                    if start + size <= last and _are_equal(
                        words, start, known, known_rows[text], size
                    ):
                        found = _grown(found, num_found)
                        found[num_found, 0], found[num_found, 1] = -1 - text, start - first
                        num_found += 1
                    text = next_short[text]
        ends[document + 1] = num_found
    return found[:num_found], ends
