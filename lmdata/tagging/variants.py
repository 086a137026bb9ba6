"""Gopher's figures as dolma 1.2 and DCLM count them, of the words that all share; dolma's of C4.

dolma takes what is between white space for words, their median length, and all copies of a line.
DCLM takes words that begin with a letter or digit for its n-grams, counts every word of a repeated
n-gram once, and takes the longest of those that occur most.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lmdata.ragged import frozen, offsets_of
from lmdata.tagging.characters import HAS_LETTER, character_bits
from lmdata.tagging.variant_kernels import (
    ALL,
    BULLETED,
    COPIES,
    COPY_CHARS,
    COVERED,
    DOTTED,
    LINES,
    LINES_AS_THEY_ARE,
    NUM_GRAM_COUNTS,
    NUM_KINDS,
    NUM_PART_COUNTS,
    PARAGRAPHS,
    PART_CHARS,
    PARTS,
    REPEATED,
    TOP_FIRST,
    TOP_LONGEST,
    count_grams,
    count_parts,
)
from lmdata.tagging.word_kernels import (
    BEGINS_CHUNK,
    FIRST_STOP_BIT,
    IS_ALPHANUMERIC,
    LONGEST,
    LONGEST_TOP,
)
from lmdata.tagging.words import STOP_KEYS, Figures, Offsets, Text, Words

_ELLIPSIS = "…".encode()
_C4_ENDS, _C4_FEWEST_WORDS = (".", "?", "!", '"'), 3
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Chunks:
    """What is between white space, C in all, as words.

    Attributes:
        words: the chunks
        num_parts: int64 (C,), words of each
        num_rows: int64 (D,), chunks of each document, 1 where there is none
    """

    words: Words
    num_parts: I64
    num_rows: I64

    @classmethod
    def of(cls, words: Words) -> _Chunks:
        """Return the chunks that words make."""
        first = np.flatnonzero(words.flags & BEGINS_CHUNK)
        edges = np.append(first, len(words.lengths))
        lengths = np.add.reduceat(words.lengths, first) if len(first) else words.lengths
        flags = np.bitwise_or.reduceat(words.flags, first) if len(first) else words.flags
        rows = np.searchsorted(first, words.rows)
        chunks = replace(
            words, starts=words.starts[edges], lengths=lengths.astype(np.int32), flags=flags,
            rows=rows,
        )  # fmt: skip
        return cls(chunks, np.diff(edges), np.maximum(1, np.diff(rows)))

    def sum(self, values: np.ndarray) -> I64:
        """Return sums by document, int64 (D,), of what is said of chunks, (C,)."""
        return _sum_rows(values, self.words.rows)

    def median_lengths(self) -> npt.NDArray[np.float64]:
        """Return the median length of the chunks of each document, float64 (D,)."""
        rows, counts = self.words.rows, np.diff(self.words.rows)
        keys = np.repeat(np.arange(len(counts)), counts) << 32 | self.words.lengths
        keys.sort()
        lengths = np.append(keys & 0xFFFFFFFF, 0)
        middle = np.minimum(rows[:-1] + (np.maximum(counts, 1) - 1) // 2, len(keys))
        other = np.minimum(rows[:-1] + counts // 2, len(keys))
        return np.where(counts > 0, (lengths[middle] + lengths[other]) / 2, 0.0)

    def hold(self, places: I64) -> npt.NDArray[np.bool_]:
        """Return which chunks hold one of some places of the stream, bool (C,)."""
        found = np.zeros(len(self.words.lengths), bool)
        found[np.searchsorted(self.words.starts, places, "right") - 1] = True
        return found

    def are_stop_words(self) -> npt.NDArray[np.bool_]:
        """Return which chunks are stop words in any case, bool (C,)."""
        stream, starts = self.words.stream, self.words.starts
        sizes, keys = np.diff(starts), np.zeros(len(starts) - 1, np.uint64)
        for place in range(4):  # the longest has so many bytes
            byte = (stream[starts[:-1] + place] | 0x20).astype(np.uint64)
            keys |= np.where(sizes > place, byte << np.uint64(8 * place), 0).astype(np.uint64)
        return np.isin(keys, STOP_KEYS) & (sizes <= 4)


def measure_dolma(text: Text, offsets: Offsets, words: Words) -> Figures:
    """Return what dolma's `gopher_v1` counts of documents, each (D,).

    Args:
        text: uint8 (N,), UTF-8
        offsets: int64 (D + 1,), where documents begin; none of them is blank
        words: of the documents
    """
    chunks = _Chunks.of(words)
    own, num_chunks = chunks.words, chunks.num_rows
    lines = _count_parts(text, offsets)[:, LINES_AS_THEY_ARE]
    grams = _count_grams(own.stream, own.starts[:-1], own.starts[1:], own.lengths, own.rows)
    num_chars, num_lines = np.maximum(1, chunks.sum(own.lengths)), lines[:, PARTS]
    stream = own.stream[: own.starts[-1]]
    symbols = np.concatenate([_find(stream, b"#"), _find(stream, _ELLIPSIS)])
    is_stop_word = (chunks.num_parts == 1) & (own.flags >> FIRST_STOP_BIT > 0)
    return {
        "dolma_num_words": np.diff(own.rows),
        "dolma_median_word_length": chunks.median_lengths(),
        "dolma_symbol_ratio": chunks.sum(chunks.hold(symbols)) / num_chunks,
        "dolma_lettered_word_ratio": chunks.sum(own.flags & HAS_LETTER) / num_chunks,
        "dolma_num_stop_words": chunks.sum(is_stop_word),
        "dolma_bullet_line_ratio": lines[:, BULLETED] / num_lines,
        "dolma_ellipsis_line_ratio": lines[:, DOTTED] / num_lines,
        "dolma_repeated_line_ratio": lines[:, COPIES] / num_lines,
        "dolma_repeated_line_char_ratio": lines[:, COPY_CHARS] / num_chars,
        **{
            _gram_name("dolma", n):
                grams[:, n - 2, TOP_FIRST] / num_chars if n <= LONGEST_TOP
                else grams[:, n - 2, REPEATED] / np.maximum(1, grams[:, n - 2, ALL])
            for n in range(2, LONGEST + 1)
        },
    }  # fmt: skip


def measure_dclm(text: Text, offsets: Offsets, words: Words) -> Figures:
    """Return what DCLM's filters count of documents, each (D,).

    Args:
        text: uint8 (N,), UTF-8
        offsets: int64 (D + 1,), where documents begin; none of them is blank
        words: of the documents
    """
    chunks = _Chunks.of(words)
    own, num_chunks = chunks.words, chunks.num_rows
    is_word = words.flags & IS_ALPHANUMERIC > 0
    num_words = _sum_rows(is_word, words.rows)
    taken, rows = np.flatnonzero(is_word), offsets_of(num_words)
    lengths, starts, ends = words.lengths[taken], words.starts[taken], words.starts[taken + 1]
    grams = _count_grams(words.stream, starts, ends, lengths, rows)
    parts = _count_parts(text, offsets)
    lines, num_lines = parts[:, LINES], np.maximum(1, parts[:, LINES, PARTS])
    num_chars = np.maximum(1, _sum_rows(lengths, rows))
    return {
        "dclm_num_words": num_words,
        "dclm_mean_word_length": chunks.sum(own.lengths) / num_chunks,
        "dclm_symbol_ratio": _count_symbols(text, offsets) / num_chunks,
        "dclm_bullet_line_ratio": lines[:, BULLETED] / num_lines,
        "dclm_ellipsis_line_ratio": lines[:, DOTTED] / num_lines,
        "dclm_unlettered_word_ratio": chunks.sum(own.flags & HAS_LETTER == 0) / num_chunks,
        "dclm_num_stop_words": chunks.sum(chunks.are_stop_words()),
        **_repeated(parts[:, LINES], "line"),
        **_repeated(parts[:, PARAGRAPHS], "paragraph"),
        **{
            _gram_name("dclm", n):
                grams[:, n - 2, TOP_LONGEST if n <= LONGEST_TOP else COVERED] / num_chars
            for n in range(2, LONGEST + 1)
        },
    }  # fmt: skip


def _gram_name(variant: str, n: int) -> str:
    return f"{variant}_{'top' if n <= LONGEST_TOP else 'repeated'}_{n}_gram_ratio"


def _repeated(parts: I64, kind: str) -> Figures:
    """Return the shares of lines or paragraphs that repeat, from int64 (D, NUM_PART_COUNTS)."""
    return {
        f"dclm_repeated_{kind}_ratio": parts[:, COPIES] / np.maximum(1, parts[:, PARTS]),
        f"dclm_repeated_{kind}_char_ratio":
            parts[:, COPY_CHARS] / np.maximum(1, parts[:, PART_CHARS]),
    }  # fmt: skip


def _count_parts(text: Text, offsets: Offsets) -> I64:
    """Return what is counted of lines and paragraphs, int64 (D, NUM_KINDS, NUM_PART_COUNTS)."""
    counts = np.zeros((len(offsets) - 1, NUM_KINDS, NUM_PART_COUNTS), np.int64)
    count_parts(frozen(text), offsets, character_bits(), counts)
    return counts


def _count_grams(
    stream: Text, starts: I64, ends: I64, lengths: npt.NDArray[np.int32], rows: I64
) -> I64:
    """Return what is counted of n-grams, int64 (D, LONGEST - 1, NUM_GRAM_COUNTS)."""
    counts = np.zeros((len(rows) - 1, LONGEST - 1, NUM_GRAM_COUNTS), np.int64)
    count_grams(stream, np.ascontiguousarray(starts), np.ascontiguousarray(ends), lengths, rows,
                counts)  # fmt: skip
    return counts


def _count_symbols(text: Text, offsets: Offsets) -> I64:
    """Return the number signs and ellipses of any form in documents, int64 (D,)."""
    return np.array([
        content.count(b"#") + content.count(b"...") + content.count(b". . .")
        + content.count(_ELLIPSIS)
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        for content in [text[start:stop].tobytes()]
    ], np.int64)  # fmt: skip


def _find(stream: Text, phrase: bytes) -> I64:
    """Return where a phrase begins, int64 ascending.

    Example:
        >>> _find(np.frombuffer(b"a--b--", np.uint8), b"--").tolist()
        [1, 4]
    """
    places = np.flatnonzero(stream[: len(stream) - len(phrase) + 1] == phrase[0])
    for place, byte in enumerate(phrase):
        places = places[stream[places + place] == byte]
    return places


def _sum_rows(values: np.ndarray, rows: I64) -> I64:
    """Return sums of values, (W,), by row, int64 (D,).

    Example:
        >>> _sum_rows(np.array([1, 2, 4]), np.array([0, 2, 2, 3])).tolist()
        [3, 0, 4]
    """
    before = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return np.diff(before[rows])


def measure_c4_as_dolma(text: Text, offsets: Offsets, _: Words) -> Figures:
    """Return what dolma's `c4_v1` counts of documents but for bad words, each (D,).

    A line that does not end in a mark counts, and one of fewer than three words; an apostrophe is
    no end mark, and javascript must stand alone.

    Args:
        text: uint8 (N,), UTF-8
        offsets: int64 (D + 1,), where documents begin

    Example:
        >>> text = np.frombuffer(b"It's JavaScript!Use javascript {", np.uint8)
        >>> figures = measure_c4_as_dolma(text, np.array([0, 16, 32]), None)
        >>> [column.tolist() for column in figures.values()]
        [[0, 1], [0, 0], [0, 1], [0.0, 1.0], [1.0, 0.0]]
    """
    found = [
        _count_c4(text[start:stop].tobytes().decode("utf-8", errors="replace").lower())
        for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    counts = np.array(found, np.int64).reshape(-1, 6)
    return {
        "dolma_c4_javascript": counts[:, 0],
        "dolma_c4_lorem_ipsum": counts[:, 1],
        "dolma_c4_curly_bracket": counts[:, 2],
        "dolma_unended_line_ratio": counts[:, 3] / counts[:, 5],
        "dolma_few_word_line_ratio": counts[:, 4] / counts[:, 5],
    }


def _count_c4(text: str) -> tuple[bool, bool, bool, int, int, int]:
    lines = [line.strip() for line in text.split("\n")]
    return (
        "javascript" in text and "javascript" in text.split(), "lorem ipsum" in text, "{" in text,
        sum(not line.endswith(_C4_ENDS) for line in lines),
        sum(len(line.split(maxsplit=3)) < _C4_FEWEST_WORDS for line in lines), len(lines),
    )  # fmt: skip
