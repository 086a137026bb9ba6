"""The named rules: what is measured of a document, and the limits that judge it (pure).

Figures and limits are apart, so that another limit reads no text. Each rule is named after who
published it and after the implementation that it equals: `datatrove` 0.10 where spaCy cuts the
words, `paper` where code and paper differ.

Sources: Gopher (Rae et al., 2021, appendix A.1), C4 (Raffel et al., 2020, section 2.2), FineWeb
(Penedo et al., 2024, section 3.6).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lmdata.ragged import offsets_of
from lmdata.tagging.kernels import NUM_COUNTS, count_sentences, count_words
from lmdata.tagging.words import TERMINALS, WordTable

Figures = dict[str, np.ndarray]

_PARAGRAPHS, _LINES = re.compile(r"\n{2,}"), re.compile(r"\n+")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_BULLETS, _ELLIPSES = ("•", "-"), ("...", "…")
_ENDS = tuple(sorted(TERMINALS))
_C4_ENDS = (".", "?", "!", '"', "'")
_POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_C4_LONGEST_WORD, _C4_FEWEST_WORDS, _SHORT_LINE = 1000, 3, 30


@dataclass(frozen=True)
class Limit:
    """A document is dropped whose figure is beyond a limit."""

    figure: str
    side: Literal["below", "above"]
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
        return np.asarray(values < self.value if self.side == "below" else values > self.value)


RULES: dict[str, tuple[Limit, ...]] = {
    "gopher_quality": (
        Limit("num_plain_words", "below", 50),
        Limit("num_plain_words", "above", 100_000),
        Limit("mean_word_length", "below", 3),
        Limit("mean_word_length", "above", 10),
        Limit("hash_ratio", "above", 0.1),
        Limit("ellipsis_ratio", "above", 0.1),
        Limit("bullet_line_ratio", "above", 0.9),
        Limit("ellipsis_line_ratio", "above", 0.3),
        Limit("lettered_word_ratio", "below", 0.8),
        Limit("num_stop_words", "below", 2),
    ),
    "gopher_repetition": (
        Limit("repeated_paragraph_ratio", "above", 0.3),
        Limit("repeated_paragraph_char_ratio", "above", 0.2),
        Limit("repeated_line_ratio", "above", 0.3),
        Limit("repeated_line_char_ratio", "above", 0.2),
        *(
            Limit(f"top_{n}_gram_ratio", "above", limit)
            for n, limit in zip((2, 3, 4), (0.2, 0.18, 0.16), strict=True)
        ),
        *(
            Limit(f"repeated_{n}_gram_ratio", "above", limit)
            for n, limit in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True)
        ),
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
}
"""Rules by name, their limits in the order in which the first one that drops is the reason."""

VERSIONS = {
    "gopher_quality": "gopher@datatrove-0.10",
    "gopher_repetition": "gopher@datatrove-0.10",
    "c4": "c4@datatrove-0.10",
    "fineweb": "fineweb@datatrove-0.10",
    "fineweb_paper": "fineweb@paper",
}

COUNTS = ("num_chars", "num_words", "num_plain_words", "num_stop_words", "c4_num_sentences",
          "c4_lorem_ipsum", "c4_curly_bracket")  # fmt: skip
"""Figures that are whole numbers; all others are ratios."""


def judge(figures: Mapping[str, np.ndarray], rule: str) -> np.ndarray:
    """Return the first limit of a rule that drops each document, int8 (D,), -1 where none does.

    Args:
        figures: of D documents, by name
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
    return found


def measure(texts: list[str], table: WordTable) -> Figures:
    """Return what all rules ask of documents, each (D,).

    Args:
        texts: of D documents, none of them blank
        table: cuts them into words
    """
    table.begin()
    words, lines = table.words(table.split(texts)), [_measure_lines(text) for text in texts]
    cleaned = [_clean_lines(text) for text in texts]
    kept = table.words(table.split_lines([line for part in cleaned for line in part.kept]))
    facts = table.facts()
    counts = np.zeros((len(texts), NUM_COUNTS), np.int64)
    count_words(words.values, words.offsets, facts.lengths, facts.hashes, facts.powers,
                facts.flags, counts)  # fmt: skip
    figures = {name: np.array([row[name] for row in lines]) for name in lines[0]} if lines else {}
    figures |= _word_ratios(figures, counts)
    sentences = offsets_of(count_sentences(kept.values, kept.offsets, facts.flags))
    figures["c4_num_sentences"] = np.diff(sentences[offsets_of([len(p.kept) for p in cleaned])])
    figures["c4_lorem_ipsum"] = np.array([part.stop == "lorem ipsum" for part in cleaned])
    figures["c4_curly_bracket"] = np.array([part.stop == "{" for part in cleaned])
    return {
        name: values.astype(np.int64 if name in COUNTS else np.float64)
        for name, values in figures.items()
    }


def _word_ratios(lines: Figures, counts: np.ndarray) -> Figures:
    """Return the figures that ask for words.

    Args:
        lines: from `_measure_lines`, each (D,)
        counts: int64 (D, NUM_COUNTS), from `count_words`
    """
    num_words, num_plain, plain_chars, num_lettered, num_stops = counts[:, :5].T
    with np.errstate(divide="ignore", invalid="ignore"):  # of a text without a word: no figure
        return {
            "num_words": num_words,
            "num_plain_words": num_plain,
            "num_stop_words": num_stops,
            "mean_word_length": plain_chars / num_plain,
            "lettered_word_ratio": num_lettered / num_words,
            "hash_ratio": lines["hash_ratio"] / num_words,
            "ellipsis_ratio": lines["ellipsis_ratio"] / num_words,
            "line_word_ratio": lines["line_word_ratio"] / num_words,
            **{
                f"{'top' if n < 5 else 'repeated'}_{n}_gram_ratio":
                    counts[:, 3 + n] / lines["num_chars"]
                for n in range(2, 11)
            },
        }  # fmt: skip


def _measure_lines(text: str) -> dict[str, float]:
    """Return what is counted of the lines of one text; three of the ratios are counts as yet."""
    lines, rows = text.splitlines(), _LINES.split(text)
    paragraphs = _PARAGRAPHS.split(text.strip())
    full = [line for line in text.split("\n") if line.strip()]
    num_feeds = text.count("\n")
    paragraphs_again, paragraph_chars = _repeated(paragraphs)
    rows_again, row_chars = _repeated(rows)
    return {
        "num_chars": len(text),
        "hash_ratio": text.count("#"),
        "ellipsis_ratio": text.count("...") + text.count("…"),
        "line_word_ratio": num_feeds,
        "bullet_line_ratio": sum(line.lstrip().startswith(_BULLETS) for line in lines) / len(lines),
        "ellipsis_line_ratio": sum(line.rstrip().endswith(_ELLIPSES) for line in lines)
        / len(lines),
        "repeated_paragraph_ratio": paragraphs_again / len(paragraphs),
        "repeated_paragraph_char_ratio": paragraph_chars / len(text),
        "repeated_line_ratio": rows_again / len(rows),
        "repeated_line_char_ratio": row_chars / len(text),
        "ended_line_ratio": sum(line.endswith(_ENDS) for line in full) / max(1, len(full)),
        "short_line_ratio": sum(len(line) <= _SHORT_LINE for line in full) / max(1, len(full)),
        "repeated_full_line_char_ratio": _repeated(full)[1] / max(1, len(text) - num_feeds),
    }


def _repeated(parts: list[str]) -> tuple[int, int]:
    """Return how many of some texts were there before, and their characters.

    Example:
        >>> _repeated(["ab", "c", "ab", "ab"])
        (2, 4)
    """
    distinct = set(parts)
    total = sum(map(len, parts)) - sum(map(len, distinct))
    return len(parts) - len(distinct), total


@dataclass(frozen=True)
class _Cleaned:
    """The lines that C4's rules keep, up to one that drops the whole document, and why."""

    kept: list[str]
    stop: str | None = None


def _clean_lines(text: str) -> _Cleaned:
    kept: list[str] = []
    for raw in text.splitlines():
        line = raw.strip()
        words = line.split()
        if len(line) > _C4_LONGEST_WORD and max(map(len, words)) > _C4_LONGEST_WORD:
            continue
        if "[" in line:
            line = _CITATION.sub("", line)
        if not line.endswith(_C4_ENDS) or line.endswith("..."):
            continue
        if len(words) < _C4_FEWEST_WORDS:
            continue
        lower = line.lower()
        if "lorem ipsum" in lower:
            return _Cleaned(kept, "lorem ipsum")
        if "javascript" in lower:
            continue
        if "{" in line:
            return _Cleaned(kept, "{")
        if not any(policy in lower for policy in _POLICIES):
            kept.append(line)
    return _Cleaned(kept)
