"""Words as numbers, which near duplicates and overlaps with evaluations compare (kernel)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from lmdata.encoders.cut_kernels import Int
from lmdata.intrinsics import borrowed, int64
from lmdata.ragged import frozen
from lmdata.splitting.tables import decode
from lmdata.tagging.characters import DIGIT, WORD, character_bits
from lmdata.tagging.word_kernels import word_end

_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_NUM_LOWER = 1 << 17  # code points; those behind have no case
_UNSPACED = 1  # of a word: it holds characters of a script that is written without spaces
_HAS_DIGIT = 2

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NumberedWords:
    """The words of D documents that begin with a letter or digit, in lower case, as numbers.

    Attributes:
        folded: uint64 (W,), each digit taken as 0, as the definition `minhash-1` has them
        rows: int64 (D + 1,), where documents begin among them
        exact: uint64 (V,), digits as they are, and each character of a script that is written
            without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) a word
        spans: int64 (V, 2), first byte of each in its document, and the byte behind it
        exact_rows: int64 (D + 1,), where documents begin among these
    """

    folded: U64
    rows: I64
    exact: U64
    spans: I64
    exact_rows: I64


def number_words(text: npt.NDArray[np.uint8], offsets: I64) -> NumberedWords:
    """Return the words of documents as numbers.

    Args:
        text: uint8 (N,), UTF-8
        offsets: int64 (D + 1,), where documents begin

    Example:
        >>> text = np.frombuffer("The 7 cats, the 9. 漢字".encode(), np.uint8)
        >>> words = number_words(text, np.array([0, len(text)]))
        >>> len(words.folded), len(words.exact), words.spans[:3].tolist()
        (6, 7, [[0, 3], [4, 5], [6, 10]])
        >>> bool(words.folded[1] == words.folded[4]), bool(words.exact[1] == words.exact[4])
        (True, False)
    """
    size = len(text) // 2 + 1
    folded, exact = np.empty(size, np.uint64), np.empty(size, np.uint64)
    spans = np.empty((size, 2), np.int64)
    rows, exact_rows = (np.empty(len(offsets), np.int64) for _ in range(2))
    bits, lower = character_bits(), lower_case()
    _number(frozen(text), offsets, bits, lower, folded, rows, exact, spans, exact_rows)
    last, exact_last = int(rows[-1]), int(exact_rows[-1])
    return NumberedWords(folded[:last], rows, exact[:exact_last], spans[:exact_last], exact_rows)


@functools.cache
def lower_case() -> npt.NDArray[np.uint32]:
    """Return the lower case of each code point where that is one character, uint32 (131072,)."""
    table = np.arange(_NUM_LOWER, dtype=np.uint32)
    for code in range(_NUM_LOWER):
        lower = chr(code).lower()
        if len(lower) == 1:
            table[code] = ord(lower)
    return table


@numba.njit(cache=True, nogil=True)
def mixed(value: Int) -> Int:
    """Return the finalizer of MurmurHash3 (Appleby)."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@numba.njit(cache=True, nogil=True)
def is_unspaced(code: int) -> bool:
    """Return whether a character is of a script that is written without spaces between words.

    Example:
        >>> [is_unspaced(ord(character)) for character in "漢ก한a"]
        [True, True, False, False]
    """
    if code < 0x0E00:
        return False
    return (
        (
            code < 0x1100  # Thai, Lao, Tibetan, Burmese (and Georgian, which begins at 0x10A0)
            and code < 0x10A0
        )
        or 0x1780 <= code < 0x1800  # Khmer
        or 0x3040 <= code < 0x3100  # Hiragana, Katakana
        or 0x31F0 <= code < 0x3200
        or 0x3400 <= code < 0xA000  # ideographs
        or 0xF900 <= code < 0xFB00
        or 0x20000 <= code < 0x40000
    )


@numba.njit(cache=True, nogil=True)
def _number_word(
    text: np.ndarray, start: int, stop: int, bits: np.ndarray, lower: np.ndarray
) -> tuple[Int, Int, int]:
    """Return the number of a word with digits as 0, that with digits as they are, and its kind."""
    code: Int
    folded, exact, kind = _OFFSET, _OFFSET, 0
    while start < stop:
        code, size = decode(text, start, stop)
        if code < _NUM_LOWER:
            if code >= 0x0E00 and is_unspaced(code):
                kind |= _UNSPACED
            is_digit = (bits[code] & DIGIT) != 0
            code = np.int64(lower[code])
            exact = (exact ^ np.uint64(code)) * _PRIME
            if is_digit:
                kind |= _HAS_DIGIT
                code = 48
        else:
            kind |= _UNSPACED if is_unspaced(code) else 0
            exact = (exact ^ np.uint64(code)) * _PRIME
        folded = (folded ^ np.uint64(code)) * _PRIME
        start += size
    last = mixed(folded)
    return last, mixed(exact) if kind & _HAS_DIGIT else last, kind


@numba.njit(cache=True, nogil=True)
def _number(
    text: np.ndarray, offsets: np.ndarray, bits: np.ndarray, lower: np.ndarray,
    folded: np.ndarray, rows: np.ndarray, exact: np.ndarray, spans: np.ndarray,
    exact_rows: np.ndarray,
) -> None:  # fmt: skip
    num_words, num_exact = 0, int64(0)
    for document in range(len(offsets) - 1):
        rows[document], exact_rows[document] = num_words, num_exact
        here, stop = offsets[document], offsets[document + 1]
        while here < stop:
            code, size = decode(text, here, stop)
            if not bits[code] & WORD:
                here += size
                continue
            end, _, _ = word_end(borrowed(text), here, stop, borrowed(bits))
            number, own, kind = _number_word(
                borrowed(text), here, end, borrowed(bits), borrowed(lower)
            )
            folded[num_words] = number
            num_words += 1
            if kind & _UNSPACED:
                num_exact = _cut_unspaced(
                    text, here, end, bits, lower, exact, spans, offsets[document], num_exact
                )
            else:
                exact[num_exact] = own
                spans[num_exact, 0] = here - offsets[document]
                spans[num_exact, 1] = end - offsets[document]
                num_exact += 1
            here = end
    rows[len(offsets) - 1], exact_rows[len(offsets) - 1] = num_words, num_exact


@numba.njit(cache=True, nogil=True)
def _cut_unspaced(
    text: np.ndarray, start: int, stop: int, bits: np.ndarray, lower: np.ndarray,
    exact: np.ndarray, spans: np.ndarray, origin: int, num_exact: int,
) -> int:  # fmt: skip
    """Write what a run of letters holds: characters of scripts without spaces, others by runs."""
    while start < stop:
        code, size = decode(text, start, stop)
        end = start + size
        if not is_unspaced(code):
            while end < stop:
                code, size = decode(text, end, stop)
                if is_unspaced(code):
                    break
                end += size
        _, exact[num_exact], _ = _number_word(text, start, end, bits, lower)
        spans[num_exact, 0], spans[num_exact, 1] = start - origin, end - origin
        num_exact += 1
        start = end
    return num_exact
