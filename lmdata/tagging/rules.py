"""The named rules: what is measured of a document, and the limits that judge it (pure).

Figures and limits are apart, so that another limit reads no text. Each rule is named after who
published it and after the implementation that it equals: `datatrove` 0.10 where spaCy cuts the
words, `paper` where code and paper differ, `dolma` 1.2 and `dclm`, which count otherwise.

Sources: Gopher (Rae et al., 2021, appendix A.1), C4 (Raffel et al., 2020, section 2.2), FineWeb
(Penedo et al., 2024, section 3.6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lmdata.ragged import frozen, offsets_of
from lmdata.tagging.c4_kernels import CURLY_BRACKET, LOREM_IPSUM, clean_lines
from lmdata.tagging.characters import character_bits
from lmdata.tagging.languages import LANGUAGES, OWN, quality_of, stop_words_of
from lmdata.tagging.line_kernels import (
    BULLETS,
    CHARS,
    ELLIPSES,
    ENDED,
    ENDS_IN_ELLIPSIS,
    FEEDS,
    FULL,
    FULL_CHARS,
    HASHES,
    LINES,
    NUM_LINE_COUNTS,
    PARAGRAPH_CHARS,
    PARAGRAPHS,
    PARAGRAPHS_AGAIN,
    ROW_CHARS,
    ROWS,
    ROWS_AGAIN,
    SHORT,
    UNSPACED,
    count_lines,
)
from lmdata.tagging.word_kernels import LONGEST, LONGEST_TOP, NUM_COUNTS, count_words
from lmdata.tagging.words import Cutter, Figures, Offsets, Text, Words


@dataclass(frozen=True)
class Limit:
    """A document is dropped whose figure is beyond a limit."""

    figure: str
    side: Literal["below", "above", "from"]  # from: also the limit itself
    value: float

    @property
    def reason(self) -> str:
        """Say why a document goes.

        Example:
            >>> Limit("num_plain_words", "below", 50).reason
            'num_plain_words below 50'
        """
        return f"{self.figure} {self.side} {self.value:g}"

    def drops(self, values: np.ndarray) -> np.ndarray:
        """Return which figures are beyond it, bool like `values`."""
        if self.side == "below":
            return np.asarray(values < self.value)
        return np.asarray(values >= self.value if self.side == "from" else values > self.value)


_GRAM_LIMITS = (0.2, 0.18, 0.16, 0.15, 0.14, 0.13, 0.12, 0.11, 0.10)  # of 2 to 10 words


def _gram_limits(prefix: str = "") -> tuple[Limit, ...]:
    return tuple(
        Limit(f"{prefix}{'top' if n <= LONGEST_TOP else 'repeated'}_{n}_gram_ratio", "above", limit)
        for n, limit in enumerate(_GRAM_LIMITS, 2)
    )


def _quality(
    stop_words: str = "num_stop_words", length: str = "mean_word_length",
    shortest: float = 3, longest: float = 10,
) -> tuple[Limit, ...]:  # fmt: skip
    """Return the limits of Gopher's rule of quality, by which figures tell of a language."""
    return (
        Limit("num_plain_words", "below", 50),
        Limit("num_plain_words", "above", 100_000),
        Limit(length, "below", shortest),
        Limit(length, "above", longest),
        Limit("hash_ratio", "above", 0.1),
        Limit("ellipsis_ratio", "above", 0.1),
        Limit("bullet_line_ratio", "above", 0.9),
        Limit("ellipsis_line_ratio", "above", 0.3),
        Limit("lettered_word_ratio", "below", 0.8),
        Limit(stop_words, "below", 2),
    )


RULES: dict[str, tuple[Limit, ...]] = {
    "gopher_quality": _quality(),
    "gopher_repetition": (
        Limit("repeated_paragraph_ratio", "above", 0.3),
        Limit("repeated_paragraph_char_ratio", "above", 0.2),
        Limit("repeated_line_ratio", "above", 0.3),
        Limit("repeated_line_char_ratio", "above", 0.2),
        *_gram_limits(),
    ),
    "c4": (
        Limit("c4_lorem_ipsum", "above", 0),
        Limit("c4_curly_bracket", "above", 0),
        Limit("c4_num_sentences", "below", 5),
    ),
    "fineweb": (
        Limit("ended_line_ratio", "below", 0.12),
        Limit("short_line_ratio", "above", 0.67),
        Limit("repeated_full_line_char_ratio", "above", 0.01),
        Limit("line_word_ratio", "above", 0.3),
    ),
    "fineweb_paper": (
        Limit("ended_line_ratio", "below", 0.12),
        Limit("short_line_ratio", "above", 0.67),
        Limit("repeated_full_line_char_ratio", "above", 0.1),
    ),
    "gopher_quality_dolma": (
        Limit("dolma_num_words", "below", 50),
        Limit("dolma_num_words", "above", 100_000),
        Limit("dolma_median_word_length", "below", 3),
        Limit("dolma_median_word_length", "above", 10),
        Limit("dolma_symbol_ratio", "above", 0.1),
        Limit("dolma_lettered_word_ratio", "below", 0.8),
        Limit("dolma_num_stop_words", "below", 2),
        Limit("dolma_bullet_line_ratio", "above", 0.9),
        Limit("dolma_ellipsis_line_ratio", "above", 0.3),
    ),
    "gopher_repetition_dolma": (
        Limit("dolma_repeated_line_ratio", "above", 0.3),
        Limit("dolma_repeated_line_char_ratio", "above", 0.3),  # Gopher has 0.2
        *_gram_limits("dolma_"),
    ),
    "c4_dolma": (
        Limit("dolma_c4_javascript", "above", 0),
        Limit("dolma_c4_lorem_ipsum", "above", 0),
        Limit("dolma_c4_curly_bracket", "above", 0),
    ),
    "gopher_quality_dclm": (
        Limit("dclm_num_words", "below", 50),
        Limit("dclm_num_words", "above", 100_000),
        Limit("dclm_mean_word_length", "below", 3),
        Limit("dclm_mean_word_length", "above", 10),
        Limit("dclm_symbol_ratio", "above", 0.1),
        Limit("dclm_bullet_line_ratio", "above", 0.9),
        Limit("dclm_ellipsis_line_ratio", "above", 0.3),
        Limit("dclm_unlettered_word_ratio", "above", 0.2),
        Limit("dclm_num_stop_words", "below", 2),
    ),
    "gopher_repetition_dclm": (
        Limit("dclm_repeated_line_ratio", "above", 0.3),
        Limit("dclm_repeated_paragraph_ratio", "above", 0.3),
        Limit("dclm_repeated_line_char_ratio", "above", 0.2),
        Limit("dclm_repeated_paragraph_char_ratio", "above", 0.2),
        *_gram_limits("dclm_"),
    ),
    **{
        quality_of(name): _quality(stop_words_of(name), longest=language.longest)
        for name, language in LANGUAGES.items()
    },
    quality_of(OWN): _quality(stop_words_of(OWN), "own_word_length_ratio", 0.6, 2),
}
"""Rules by name, their limits in the order in which the first one that drops is the reason."""

VERSIONS = {
    "gopher_quality": "gopher@datatrove-0.10",
    "gopher_repetition": "gopher@datatrove-0.10",
    "c4": "c4@datatrove-0.10",
    "fineweb": "fineweb@datatrove-0.10",
    "fineweb_paper": "fineweb@paper",
    **dict.fromkeys(("gopher_quality_dolma", "gopher_repetition_dolma"), "gopher@dolma-1.2"),
    "c4_dolma": "c4@dolma-1.2",
    **dict.fromkeys(("gopher_quality_dclm", "gopher_repetition_dclm"), "gopher@dclm"),
    **{quality_of(name): f"gopher@{name}-1" for name in LANGUAGES},
}
ABSTAINS = -2
MUCH_UNSPACED = 0.3
"""Share of characters of scripts without spaces above which rules that count words abstain."""

_COUNT_NO_WORDS = frozenset({"fineweb_paper", "c4_dolma"})
DEFAULT_RULES = ("gopher_quality", "gopher_repetition", "c4", "fineweb", "fineweb_paper")

COUNTS = ("num_chars", "num_words", "num_plain_words", "num_stop_words", "c4_num_sentences",
          "c4_lorem_ipsum", "c4_curly_bracket", "dolma_num_words", "dolma_num_stop_words",
          "dclm_num_words", "dclm_num_stop_words", "dolma_c4_javascript", "dolma_c4_lorem_ipsum",
          "dolma_c4_curly_bracket")  # fmt: skip
"""Figures that are whole numbers; all others are ratios."""


def judge(figures: Mapping[str, np.ndarray], rule: str) -> np.ndarray:
    """Return the first limit of a rule that drops each document, int8 (D,), -1 where none does.

    A rule that counts words says nothing, ABSTAINS, of text in a script without spaces.

    Args:
        figures: of D documents, by name; with `unspaced_ratio` where that is known
        rule: one of `RULES`

    Example:
        >>> figures = {"c4_lorem_ipsum": [0, 0], "c4_curly_bracket": [0, 1]}
        >>> figures["c4_num_sentences"] = [3, 9]
        >>> judge({name: np.array(values) for name, values in figures.items()}, "c4").tolist()
        [2, 1]
    """
    limits = RULES[rule]
    found = np.full(len(figures[limits[0].figure]), -1, np.int8)
    for number, limit in reversed(list(enumerate(limits))):
        found[limit.drops(figures[limit.figure])] = number
    if "unspaced_ratio" in figures and rule not in _COUNT_NO_WORDS:
        found[figures["unspaced_ratio"] > MUCH_UNSPACED] = ABSTAINS
    return found


def figures_of(rules: Iterable[str]) -> tuple[str, ...]:
    """Return the figures that rules ask for, each once.

    Example:
        >>> figures_of(["c4"])
        ('c4_lorem_ipsum', 'c4_curly_bracket', 'c4_num_sentences')
    """
    return tuple(dict.fromkeys(limit.figure for rule in rules for limit in RULES[rule]))


def rules_told(names: Iterable[str]) -> list[str]:
    """Return the rules whose figures are all among some columns.

    Example:
        >>> rules_told([*figures_of(["c4"]), "num_words"])
        ['c4']
    """
    known = set(names)
    return [rule for rule in RULES if known.issuperset(figures_of([rule]))]


def note_unspaced(count: int) -> list[str]:
    """Say of how many documents rules of words say nothing."""
    said = f"documents without spaces between words, of which rules of words say nothing: {count:,}"
    return [said] if count else []


def measure(text: Text, offsets: Offsets, cutter: Cutter, words: Words | None = None) -> Figures:
    """Return what the rules that are always measured ask of documents, each (D,).

    Args:
        text: uint8 (N,), UTF-8
        offsets: int64 (D + 1,), where documents begin; none of them is blank
        cutter: cuts them into words
        words: theirs, where they are cut already
    """
    text, bits, num_documents = frozen(text), character_bits(), len(offsets) - 1
    words = words or cutter.words(text, offsets)
    counts = np.zeros((num_documents, NUM_COUNTS), np.int64)
    count_words(words.stream, words.starts, words.lengths, words.flags, words.rows, counts)
    lines = np.zeros((num_documents, NUM_LINE_COUNTS), np.int64)
    count_lines(text, offsets, bits, lines)
    kept, ends = np.empty(len(text), np.uint8), np.empty(len(text) + 1, np.int64)
    rows, stops = np.empty(num_documents + 1, np.int64), np.empty(num_documents, np.int8)
    num_kept = clean_lines(text, offsets, bits, lines, kept, ends, rows, stops)
    sentences = offsets_of(cutter.sentences(kept[: ends[num_kept]], ends[: num_kept + 1]))
    return {
        **_word_figures(counts, lines),
        **_line_figures(lines),
        "unspaced_ratio":
            lines[:, UNSPACED] / lines[:, CHARS] if cutter.needs_spaces
            else np.full(num_documents, np.nan),
        "c4_num_sentences": np.diff(sentences[rows]),
        "c4_lorem_ipsum": (stops == LOREM_IPSUM).astype(np.int64),
        "c4_curly_bracket": (stops == CURLY_BRACKET).astype(np.int64),
    }  # fmt: skip


def _word_figures(counts: np.ndarray, lines: np.ndarray) -> Figures:
    """Return the figures that ask for words.

    Args:
        counts: int64 (D, NUM_COUNTS), from `count_words`
        lines: int64 (D, NUM_LINE_COUNTS), from the kernels of lines
    """
    num_words, num_plain, plain_chars, num_lettered, num_stops = counts[:, :5].T
    with np.errstate(divide="ignore", invalid="ignore"):  # of a text without a word: no figure
        return {
            "num_words": num_words,
            "num_plain_words": num_plain,
            "num_stop_words": num_stops,
            "mean_word_length": plain_chars / num_plain,
            "lettered_word_ratio": num_lettered / num_words,
            "hash_ratio": lines[:, HASHES] / num_words,
            "ellipsis_ratio": lines[:, ELLIPSES] / num_words,
            "line_word_ratio": lines[:, FEEDS] / num_words,
            **{
                f"{'top' if n <= LONGEST_TOP else 'repeated'}_{n}_gram_ratio":
                    counts[:, 3 + n] / lines[:, CHARS]
                for n in range(2, LONGEST + 1)
            },
        }  # fmt: skip


def _line_figures(lines: np.ndarray) -> Figures:
    """Return the figures of lines and paragraphs, from their counts, int64 (D, NUM_LINE_COUNTS)."""
    chars, num_full = lines[:, CHARS], np.maximum(1, lines[:, FULL])
    return {
        "num_chars": chars,
        "bullet_line_ratio": lines[:, BULLETS] / lines[:, LINES],
        "ellipsis_line_ratio": lines[:, ENDS_IN_ELLIPSIS] / lines[:, LINES],
        "repeated_paragraph_ratio": lines[:, PARAGRAPHS_AGAIN] / lines[:, PARAGRAPHS],
        "repeated_paragraph_char_ratio": lines[:, PARAGRAPH_CHARS] / chars,
        "repeated_line_ratio": lines[:, ROWS_AGAIN] / lines[:, ROWS],
        "repeated_line_char_ratio": lines[:, ROW_CHARS] / chars,
        "ended_line_ratio": lines[:, ENDED] / num_full,
        "short_line_ratio": lines[:, SHORT] / num_full,
        "repeated_full_line_char_ratio":
            lines[:, FULL_CHARS] / np.maximum(1, chars - lines[:, FEEDS]),
    }  # fmt: skip
