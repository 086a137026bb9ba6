"""MinHash signatures by a definition that does not change: `minhash-1`.

1. Words are those of `words.PlainCutter` that begin with a letter or digit; each character in lower
   case where that is one character, each decimal digit as 0.
2. A word is a number: h = 0xCBF29CE484222325; for each code point h = (h ^ code) * 0x100000001B3;
   then mix(h), where mix is the finalizer of MurmurHash3. All is modulo 2**64.
3. A shingle is 5 words that follow each other, or all of them where there are fewer: s = 0; for
   each word s = mix(s * 0x9E3779B97F4A7C15 + word).
4. Value i of 112 is the least a[i] * s + b[i] of all shingles s; a and b come from SplitMix64 that
   begins at 1: a[0], b[0], a[1], ..., each a made odd.
5. Of 14 bands of 8 values, the key is k = 0; for each value k = mix(k * 0x9E3779B97F4A7C15 + it).

A document without such a word has no shingle, and keys of 0. `references/minhash.py` is the same in
plain Python. Sources: Broder, 1997; bands by Leskovec et al., Mining of Massive Datasets, 3.4.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from lmdata.tagging.numbers import NumberedWords, mixed

VERSION = "minhash-1"
NUM_BANDS, BAND_SIZE, SHINGLE_WORDS = 14, 8, 5
NUM_VALUES = NUM_BANDS * BAND_SIZE
_MIX = np.uint64(0x9E3779B97F4A7C15)

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Signatures:
    """What is compared of D documents.

    Attributes:
        keys: uint64 (D, NUM_BANDS), a key for each band
        shingles: uint64 (S,), those of all documents, in the order of the text
        rows: int64 (D + 1,), where documents begin among them
    """

    keys: U64
    shingles: U64
    rows: npt.NDArray[np.int64]


def sign(words: NumberedWords) -> Signatures:
    """Return the signatures of documents.

    Args:
        words: of them, from `number_words`

    Example:
        >>> from lmdata.tagging.numbers import number_words
        >>> text = np.frombuffer(b"a b c d e fA B; C d e f", np.uint8)
        >>> signed = sign(number_words(text, np.array([0, 11, 23])))
        >>> bool((signed.keys[0] == signed.keys[1]).all()), signed.rows.tolist()
        (True, [0, 2, 4])
    """
    num_documents = len(words.rows) - 1
    keys = np.zeros((num_documents, NUM_BANDS), np.uint64)
    shingles = np.empty(len(words.folded), np.uint64)
    rows = np.empty(num_documents + 1, np.int64)
    total = _sign(words.folded, words.rows, *permutations(), keys, shingles, rows)
    return Signatures(keys, shingles[:total], rows)


@functools.cache
def permutations() -> tuple[U64, U64]:
    """Return multipliers and addends of the values, uint64 (NUM_VALUES,) each.

    Source: SplitMix64 (Steele et al., 2014).
    """
    state, drawn = 1, []
    for _ in range(2 * NUM_VALUES):
        state = (state + int(_MIX)) & (1 << 64) - 1
        mixed = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & (1 << 64) - 1
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & (1 << 64) - 1
        drawn.append(mixed ^ mixed >> 31)
    numbers = np.array(drawn, np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(numbers[:, 0] | np.uint64(1)), np.ascontiguousarray(numbers[:, 1])


@numba.njit(cache=True, nogil=True)
def _sign(
    words: np.ndarray, word_rows: np.ndarray, multipliers: np.ndarray, addends: np.ndarray,
    keys: np.ndarray, shingles: np.ndarray, rows: np.ndarray,
) -> int:  # fmt: skip
    total, values = 0, np.empty(NUM_VALUES, np.uint64)
    for document in range(len(word_rows) - 1):
        rows[document] = total
        values[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
        first, last = word_rows[document], word_rows[document + 1]
        size = min(SHINGLE_WORDS, last - first)
        for start in range(first, last - size + 1 if size else first):
            key = np.uint64(0)
            for index in range(start, start + size):
                key = mixed(key * _MIX + words[index])
            shingles[total] = key
            total += 1
        if size:
            own = shingles[rows[document] : total]
            _take_least(own, multipliers, addends, values)
            _key_bands(values, keys[document])
    rows[len(word_rows) - 1] = total
    return total


@numba.njit(cache=True, nogil=True)
def _take_least(
    shingles: np.ndarray, multipliers: np.ndarray, addends: np.ndarray, values: np.ndarray
) -> None:
    for shingle in shingles:
        for index in range(NUM_VALUES):
            value = multipliers[index] * shingle + addends[index]
            values[index] = value if value < values[index] else values[index]


@numba.njit(cache=True, nogil=True)
def _key_bands(values: np.ndarray, keys: np.ndarray) -> None:
    for band in range(NUM_BANDS):
        key = np.uint64(0)
        for index in range(band * BAND_SIZE, (band + 1) * BAND_SIZE):
            key = mixed(key * _MIX + values[index])
        keys[band] = key
