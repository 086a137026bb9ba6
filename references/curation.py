"""What the rules of curation measure, in plain Python: slow, and obvious."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from lmdata.tagging.characters import SYMBOLS, TERMINALS

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_WORDS = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
_BLANKS = re.compile(r"[^\S ]\s*| \s+")  # white space that is not one blank
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


def cut(text: str) -> list[str]:
    return _WORDS.findall(text)


def measure_plainly(text: str) -> dict[str, float]:
    """Return every figure of one document that is not blank."""
    words, cleaned, lines = cut(text), _clean_lines(text), _measure_lines(text)
    plain = [word for word in words if not SYMBOLS.issuperset(word)]
    num_words = len(words)
    counts = {name: lines.pop(name) for name in ("hash_ratio", "ellipsis_ratio", "line_word_ratio")}
    grams = {f"top_{n}_gram_ratio": _top_characters(words, n) for n in range(2, 5)}
    grams |= {f"repeated_{n}_gram_ratio": _repeated_characters(words, n) for n in range(5, 11)}
    nan = float("nan")
    return {
        **lines,
        **{name: value / len(text) for name, value in grams.items()},
        **{name: value / num_words if num_words else nan for name, value in counts.items()},
        "num_words": num_words,
        "num_plain_words": len(plain),
        "num_stop_words": len(set(words) & set(STOP_WORDS)),
        "mean_word_length": sum(map(len, plain)) / len(plain) if plain else nan,
        "lettered_word_ratio": sum(any(map(str.isalpha, word)) for word in words) / num_words
        if num_words
        else nan,
        "c4_num_sentences": sum(map(_count_sentences, cleaned.kept)),
        "c4_lorem_ipsum": cleaned.stop == "lorem ipsum",
        "c4_curly_bracket": cleaned.stop == "{",
    }


def _top_characters(words: list[str], n: int) -> int:
    grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    return max((count * len(gram) for gram, count in grams.most_common(1)), default=0)


def _repeated_characters(words: list[str], n: int) -> int:
    seen, total, first = set(), 0, 0
    while first < len(words) - n + 1:
        gram = "".join(words[first : first + n])
        total += len(gram) if gram in seen else 0
        first += n if gram in seen else 1
        seen.add(gram)
    return total


def _count_sentences(line: str) -> int:
    words = [
        word
        for chunk in _BLANKS.sub(" \n ", line).split(" ")
        if chunk
        for word in (cut(chunk) if chunk != "\n" else ["\n"])
    ]
    ends = [word in TERMINALS for word in words]
    marks = [all(unicodedata.category(c)[0] == "P" for c in word) for word in words]
    count, is_over = bool(words), False
    for is_end, is_mark in zip(ends, marks, strict=True):
        count += is_over and not is_end and not is_mark
        is_over = is_end or (is_over and is_mark)
    return count


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
