"""What the rules of curation measure, in plain Python: slow, and obvious."""

from __future__ import annotations

import re
import statistics
import unicodedata
from collections import Counter
from dataclasses import dataclass

from lmdata.tagging.characters import SYMBOLS, TERMINALS

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_WORDS = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
_BLANKS = re.compile(r"[^\S ]\s*| \s+")  # white space that is not one blank
_PARAGRAPHS, _LINES = re.compile(r"\n{2,}"), re.compile(r"\n+")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
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
        "unspaced_ratio": len(_UNSPACED.findall(text)) / len(text),
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


def clean_lines(text: str) -> list[str]:
    """Return the lines that C4 keeps of a text that nothing stops."""
    return _clean_lines(text).kept


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


def measure_as_dolma(text: str) -> dict[str, float]:
    """Return what dolma counts of one document: words are what white space divides."""
    words, lines = text.split(), text.split("\n")
    num_chars, copies = sum(map(len, words)), Counter(lines)
    again = {line: count for line, count in copies.items() if count > 1}
    figures = {
        "num_words": len(words),
        "median_word_length": statistics.median(map(len, words)),
        "symbol_ratio": sum("#" in word or "…" in word for word in words) / len(words),
        "lettered_word_ratio": sum(any(map(str.isalpha, word)) for word in words) / len(words),
        "num_stop_words": sum(word in STOP_WORDS for word in words),
        "bullet_line_ratio": sum(line.startswith(("*", "-")) for line in lines) / len(lines),
        "ellipsis_line_ratio": sum(line.endswith("…") for line in lines) / len(lines),
        "repeated_line_ratio": sum(again.values()) / len(lines),
        "repeated_line_char_ratio": sum(len(line) * n for line, n in again.items()) / num_chars,
    }
    for n in range(2, 11):
        grams = Counter(zip(*(words[start:] for start in range(n)), strict=False))
        sizes = {gram: count * sum(map(len, gram)) for gram, count in grams.items()}
        if n <= 4:
            top = sizes[grams.most_common(1)[0][0]] if grams else 0
            figures[f"top_{n}_gram_ratio"] = top / num_chars
        else:
            repeated = sum(size for gram, size in sizes.items() if grams[gram] > 1)
            figures[f"repeated_{n}_gram_ratio"] = repeated / max(1, sum(sizes.values()))
    return {f"dolma_{name}": value for name, value in figures.items()}


def measure_as_dclm(text: str) -> dict[str, float]:
    """Return what DCLM counts of one document: words of n-grams begin with a letter or digit."""
    chunks, words = text.split(), [word for word in cut(text) if word[0].isalnum()]
    lines, paragraphs = (
        [part.strip() for part in text.split(end) if part.strip()] for end in ("\n", "\n\n")
    )
    symbols = sum(map(text.count, ("#", "...", ". . .", "…")))
    bullets = sum(line.startswith(("●", "•", "*", "-")) for line in lines)
    figures = {
        "num_words": len(words),
        "mean_word_length": sum(map(len, chunks)) / len(chunks),
        "symbol_ratio": symbols / len(chunks),
        "bullet_line_ratio": bullets / len(lines),
        "ellipsis_line_ratio": sum(line.endswith(("...", ". . .", "…")) for line in lines)
        / len(lines),
        "unlettered_word_ratio": sum(not any(map(str.isalpha, word)) for word in chunks)
        / len(chunks),
        "num_stop_words": sum(word.lower() in STOP_WORDS for word in chunks),
    }
    for kind, parts in (("line", lines), ("paragraph", paragraphs)):
        again = {part: count for part, count in Counter(parts).items() if count > 1}
        figures[f"repeated_{kind}_ratio"] = sum(again.values()) / len(parts)
        size = sum(len(part) * count for part, count in again.items())
        figures[f"repeated_{kind}_char_ratio"] = size / sum(map(len, parts))
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        figures[f"{'top' if n <= 4 else 'repeated'}_{n}_gram_ratio"] = (
            _top_of_dclm(grams) if n <= 4 else _covered_of_dclm(grams, words, n)
        ) / max(1, sum(map(len, words)))
    return {f"dclm_{name}": value for name, value in figures.items()}


def _top_of_dclm(grams: list[tuple[str, ...]]) -> int:
    counts = Counter(grams)
    most = max(counts.values(), default=0)
    longest = max((sum(map(len, gram)) for gram, n in counts.items() if n == most), default=0)
    return longest * most if most > 1 else 0


def _covered_of_dclm(grams: list[tuple[str, ...]], words: list[str], n: int) -> int:
    counts, covered = Counter(grams), set[int]()
    for index, gram in enumerate(grams):
        if counts[gram] > 1:
            covered.update(range(index, index + n))
    return sum(len(words[index]) for index in covered)


def find_overlaps(texts: list[str], documents: list[str]) -> list[dict[str, float]]:
    """Return what each document shares with texts of an evaluation, by looking everywhere."""
    cut_texts = [re.findall(r"\w+", text.lower()) for text in texts]
    cut_documents = [re.findall(r"\w+", document.lower()) for document in documents]

    def grams(words: list[str], size: int) -> list[tuple[str, ...]]:
        return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]

    standing = Counter(g for words in cut_texts for g in grams(words, 8))
    known = {
        size: {g for words in cut_texts for g in grams(words, size)
               if all(standing[part] <= 64 for part in grams(list(g), 8))}
        for size in (8, 13)
    }  # fmt: skip
    spread = {
        size: Counter(g for words in cut_documents for g in set(grams(words, size)) & known[size])
        for size in (8, 13)
    }
    whole = [tuple(words) for words in cut_texts if 4 <= len(words) < 8]
    short = Counter(
        number for words in cut_documents for number, own in enumerate(whole)
        if own in grams(words, len(own))
    )  # fmt: skip
    return [_overlap(words, cut_texts, known, spread, whole, short) for words in cut_documents]


def _overlap(
    words: list[str], texts: list[list[str]], known: dict[int, set[tuple[str, ...]]],
    spread: dict[int, Counter[tuple[str, ...]]], whole: list[tuple[str, ...]],
    short: Counter[int],
) -> dict[str, float]:  # fmt: skip
    def grams(words: list[str], size: int) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}

    own = {size: {g for g in grams(words, size) & known[size] if spread[size][g] <= 10}
           for size in (8, 13)}  # fmt: skip
    longest, ratio, run_ratio = 0, 0.0, 0.0
    for text in texts:
        of_text = grams(text, 8) & known[8]
        ratio = max(ratio, len(of_text & own[8]) / len(of_text) if of_text else 0.0)
        sizes = [
            size
            for size in range(8, len(text) + 1)
            if any(grams(list(g), 8) <= known[8] for g in grams(text, size) & grams(words, size))
        ]
        best = max(sizes, default=0)
        longest = max(longest, best)
        run_ratio = max(run_ratio, best / len(text) if best >= 10 else 0.0)
    num_short = sum(
        number
        for number in (
            short[i] <= 10 and text in grams(words, len(text)) for i, text in enumerate(whole)
        )
    )
    return {
        "eval_13_grams": len(own[13]), "eval_8_gram_ratio": ratio, "eval_run_ratio": run_ratio,
        "eval_longest": longest, "eval_num_short": num_short,
    }  # fmt: skip
