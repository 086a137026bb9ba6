"""The lines of a document as `str.splitlines` has them, and which of them C4 keeps (kernels)."""

from __future__ import annotations

import numba
import numpy as np

from lmdata.intrinsics import boolean, borrowed, int64
from lmdata.splitting.tables import decode
from lmdata.tagging.characters import DIGIT, ENDS_LINE, ENDS_SENTENCE, IS_PUNCTUATION, SPACE
from lmdata.tagging.line_kernels import (
    BULLETS,
    ENDS_IN_ELLIPSIS,
    LINES,
    skip_space,
    trim_space,
)
from lmdata.tagging.word_kernels import word_end

NOTHING, LOREM_IPSUM, CURLY_BRACKET = range(3)  # why C4 drops a whole document

_C4_LONGEST_WORD, _C4_FEWEST_WORDS = 1000, 3
_KELVIN = 0x212A  # lower case: k
_LOREM = np.frombuffer(b"lorem ipsum", np.uint8)
_JAVASCRIPT = np.frombuffer(b"javascript", np.uint8)
_TERMS = np.frombuffer(b"terms of use", np.uint8)
_PRIVACY = np.frombuffer(b"privacy policy", np.uint8)
_COOKIE_POLICY = np.frombuffer(b"cookie policy", np.uint8)
_COOKIES = np.frombuffer(b"cookies", np.uint8)
_USES, _USE_OF, _USE = (np.frombuffer(text, np.uint8) for text in (b"uses ", b"use of ", b"use "))
_RARE = np.isin(np.arange(256), list(b"jvkfp"))
_EDIT = np.frombuffer(b"edit]", np.uint8)
_CITATION = np.frombuffer(b"citation needed]", np.uint8)


@numba.njit(cache=True, nogil=True)
def line_end(text: np.ndarray, start: int, stop: int, bits: np.ndarray) -> tuple[int, int]:
    """Return where the line that begins at `start` ends, and where the next one begins."""
    here = start
    while here < stop:
        byte = text[here]
        if byte >= 32 and byte != 0xC2 and byte != 0xE2:  # U+0085, U+2028 and U+2029 begin so
            here += 1
            continue
        code, size = decode(text, here, stop)
        if bits[code] & ENDS_LINE:
            if code == 13 and here + 1 < stop and text[here + 1] == 10:
                size = 2
            return here, here + size
        here += size
    return stop, stop


@numba.njit(cache=True, nogil=True)
def clean_lines(
    text: np.ndarray, offsets: np.ndarray, bits: np.ndarray, counts: np.ndarray,
    kept: np.ndarray, ends: np.ndarray, rows: np.ndarray, stops: np.ndarray,
) -> int:  # fmt: skip
    """Write the lines that C4's rules keep of each document, and return how many these are.

    Args:
        text: uint8 (N,), UTF-8
        offsets: int64 (D + 1,), where documents begin
        bits: uint8, from `character_bits`
        counts: int64 (D, NUM_LINE_COUNTS), written: LINES, BULLETS and ENDS_IN_ELLIPSIS
        kept: uint8 (N,), written: the lines, one after the other
        ends: int64 (N + 1,), written: 0, then where each line ends in `kept`
        rows: int64 (D + 1,), written: where documents begin among the lines
        stops: int8 (D,), written: why a document is dropped, or NOTHING
    """
    longest, num_kept, at = 0, 0, int64(0)
    for document in range(len(offsets) - 1):
        longest = max(longest, offsets[document + 1] - offsets[document])
    lower = np.empty(longest, np.uint8)
    ends[0] = 0
    for document in range(len(offsets) - 1):
        rows[document] = num_kept
        here, stop = offsets[document], offsets[document + 1]
        row = counts[document]
        stops[document] = NOTHING
        while here < stop:
            end, following = line_end(borrowed(text), here, stop, borrowed(bits))
            row[LINES] += 1
            begin = skip_space(borrowed(text), here, end, borrowed(bits))
            end = trim_space(borrowed(text), begin, end, borrowed(bits))
            row[BULLETS] += _starts_with_bullet(borrowed(text), begin, end)
            row[ENDS_IN_ELLIPSIS] += _ends_in_dots(borrowed(text), begin, end, boolean(True))
            if stops[document] == NOTHING:
                size, stops[document] = _clean_line(
                    borrowed(text), begin, end, borrowed(bits), borrowed(kept), at, borrowed(lower)
                )
                if size:
                    at += size
                    num_kept += 1
                    ends[num_kept] = at
            here = following
    rows[len(offsets) - 1] = num_kept
    return num_kept


@numba.njit(cache=True, nogil=True)
def _starts_with_bullet(text: np.ndarray, start: int, stop: int) -> bool:
    if start < stop and text[start] == 45:  # -
        return True
    return (
        stop - start >= 3
        and text[start] == 0xE2 and text[start + 1] == 0x80 and text[start + 2] == 0xA2  # •
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _ends_in_dots(text: np.ndarray, start: int, stop: int, also_ellipsis: bool) -> bool:
    if stop - start < 3:
        return False
    a, b, c = text[stop - 3], text[stop - 2], text[stop - 1]
    if a == 46 and b == 46 and c == 46:
        return True
    return also_ellipsis and a == 0xE2 and b == 0x80 and c == 0xA6


@numba.njit(cache=True, nogil=True)
def _clean_line(
    text: np.ndarray, start: int, stop: int, bits: np.ndarray, kept: np.ndarray, at: int,
    lower: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """Write a line without its citations and return its bytes, 0 if it goes, and what it stops."""
    if not _has_words(text, start, stop, bits):
        return 0, NOTHING
    last = text[stop - 1]
    if not (last == 46 or last == 63 or last == 33 or last == 34 or last == 39 or last == 93):
        return 0, NOTHING
    end, has_curly, has_kelvin, here = at, False, False, start
    while here < stop:
        byte = text[here]
        if byte == 91:  # [
            behind = _citation_end(text, here, stop, bits)
            if behind > here:
                here = behind
                continue
        has_curly |= byte == 123
        has_kelvin |= byte == 0xE2
        kept[end] = byte
        end += 1
        here += 1
    last = kept[end - 1] if end > at else np.uint8(0)
    is_ended = last == 46 or last == 63 or last == 33 or last == 34 or last == 39
    if not is_ended or _ends_in_dots(kept, at, end, boolean(False)):
        return 0, NOTHING
    has_lorem, has_javascript, has_policy = _find_phrases(kept, at, end, lower, has_kelvin)
    if has_lorem:
        return 0, LOREM_IPSUM
    if has_javascript:
        return 0, NOTHING
    if has_curly:
        return 0, CURLY_BRACKET
    return (0 if has_policy else end - at), NOTHING


@numba.njit(cache=True, nogil=True)
def _has_words(text: np.ndarray, start: int, stop: int, bits: np.ndarray) -> bool:
    """Return whether white space makes enough words, none of them too long."""
    num_words, longest, chars = 0, 0, 0
    may_be_long = stop - start > _C4_LONGEST_WORD
    while start < stop:
        code, size = decode(text, start, stop)
        if bits[code] & SPACE:
            chars = 0
        else:
            num_words += chars == 0
            chars += 1
            longest = max(longest, chars)
            if num_words >= _C4_FEWEST_WORDS and not may_be_long:
                return True
        start += size
    return num_words >= _C4_FEWEST_WORDS and longest <= _C4_LONGEST_WORD


@numba.njit(cache=True, nogil=True)
def _has(text: np.ndarray, start: int, stop: int, phrase: np.ndarray) -> bool:
    """Return whether a phrase stands at a place."""
    if start < 0 or start + len(phrase) > stop:
        return False
    for index in range(len(phrase)):  # noqa: SIM110 - a kernel has no generators
        if text[start + index] != phrase[index]:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _citation_end(text: np.ndarray, start: int, stop: int, bits: np.ndarray) -> int:
    """Return where a citation ends that begins at `start`, or `start` where none does."""
    here = start + 1
    if _has(text, here, stop, _EDIT):
        return here + len(_EDIT)
    if _has(text, here, stop, _CITATION):
        return here + len(_CITATION)
    while here < stop:
        code, size = decode(text, here, stop)
        here += size
        if code == 93:  # ]
            return here
        if not bits[code] & DIGIT:
            break
    return start


@numba.njit(cache=True, nogil=True)
def _unify_kelvin(lower: np.ndarray, size: int) -> int:
    """Write k for the sign of Kelvin, which is a K, and return how many bytes there are."""
    here, end = int64(0), 0
    while here < size:
        if lower[here] == 0xE2 and decode(lower, here, size)[0] == _KELVIN:
            lower[end] = 107
            here += 3
        else:
            lower[end] = lower[here]
            here += 1
        end += 1
    return end


@numba.njit(cache=True, nogil=True)
def _find_phrases(
    kept: np.ndarray, start: int, stop: int, lower: np.ndarray, has_kelvin: bool
) -> tuple[bool, bool, bool]:
    """Return whether a line, in lower case, has lorem ipsum, javascript, a phrase of policies.

    Each is looked for at its rarest letter.
    """
    size = stop - start
    for index in range(size):
        byte = kept[start + index]
        lower[index] = byte + 32 if 65 <= byte <= 90 else byte
    if has_kelvin:
        size = _unify_kelvin(lower, size)
    has_lorem, has_javascript, has_policy = False, False, False
    for at in range(size):
        byte = lower[at]
        if not _RARE[byte]:
            continue
        if byte == 106:  # j
            has_javascript |= _has(lower, at, size, _JAVASCRIPT)
        elif byte == 118:  # v
            has_policy |= _has(lower, at - 3, size, _PRIVACY)
        elif byte == 107:  # k
            has_policy |= _has(lower, at - 3, size, _COOKIE_POLICY)
            if _has(lower, at - 3, size, _COOKIES):
                has_policy |= (
                    _has(lower, at - 8, size, _USES)
                    or _has(lower, at - 10, size, _USE_OF)
                    or _has(lower, at - 7, size, _USE)
                )
        elif byte == 102:  # f
            has_policy |= _has(lower, at - 7, size, _TERMS)
        elif byte == 112:  # p
            has_lorem |= _has(lower, at - 7, size, _LOREM)
    return has_lorem, has_javascript, has_policy


@numba.njit(cache=True, nogil=True)
def count_line_sentences(
    text: np.ndarray, ends: np.ndarray, num_lines: int, bits: np.ndarray
) -> np.ndarray:
    """Return the sentences of each line by plain words, int64 (num_lines,).

    As `count_sentences` on the words, with white space that is more than one blank.
    """
    counts = np.zeros(num_lines, np.int64)
    for line in range(num_lines):
        here, stop = ends[line], ends[line + 1]
        is_over = False
        counts[line] = stop > here
        while here < stop:
            byte = text[here]
            if not is_over and byte < 0x80:
                is_over = (bits[byte] & ENDS_SENTENCE) != 0
                here += 1
                continue
            code, _ = decode(text, here, stop)
            kind = int(bits[code])
            if kind & SPACE:
                end = skip_space(borrowed(text), here, stop, borrowed(bits))
                is_word = end - here > 1 or byte != 32
                kind = 0
            else:
                end, _, kind = word_end(borrowed(text), here, stop, borrowed(bits))
                is_word = True
            here = end
            if kind & ENDS_SENTENCE:
                is_over = True
            elif is_over and is_word and not kind & IS_PUNCTUATION:
                counts[line] += 1
                is_over = False
    return counts


@numba.njit(cache=True, nogil=True)
def count_sentences(flags: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the sentences of each line, int64 (L,).

    A sentence ends before the first word behind its end mark that is no punctuation.

    Args:
        flags: uint16 (W,), of words; white space that is more than one blank is one
        rows: int64 (L + 1,), where lines begin among the words
    """
    counts = np.zeros(len(rows) - 1, np.int64)
    for line in range(len(rows) - 1):
        is_over = False
        for kind in flags[rows[line] : rows[line + 1]]:
            is_end = kind & ENDS_SENTENCE
            if is_over and not is_end and not kind & IS_PUNCTUATION:
                counts[line] += 1
                is_over = False
            elif is_end:
                is_over = True
        counts[line] += rows[line + 1] > rows[line]
    return counts
