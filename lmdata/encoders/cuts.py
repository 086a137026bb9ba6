r"""Where a text may be cut so that the parts, encoded apart, have the ids that they have together.

Nothing is known of a tokenizer but the kinds of its rules; where they allow a cut, it is asked. A
cut between two parts is safe if normalizer and pre-tokenizer make of both together what they make
of each alone, as the model sees one pre-token at a time. So every part can be encoded by itself,
as if it were a text: the white space at its beginning then stands where it stands in the text.

Two kinds of cuts are looked for: before white space, and before punctuation behind a letter. A
character is asked when it first occurs in a text. What depends on more than a neighbour (a
combining mark on white space, a character that is taken away) is never cut at: the part grows.
`find_unsafe_cut` compares cuts with the tokenizer; a rule is used after it has passed on texts
that join every kind of character with every other.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tokenizers

from lmdata.encoders.cut_kernels import (
    BLANK,
    COMBINING,
    I64,
    NUM_CLASSES,
    OTHER,
    PUNCT,
    TEXT,
    U8,
    UNKNOWN,
    WORD,
    find_unknown,
    flag_alphanumeric,
    spaced_word_end,
)
from lmdata.errors import TokenizerError
from lmdata.ragged import frozen
from lmdata.tokenizer_classes import ask_tokenizers, steps_of

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
LETTERS = "xX5"
FOLLOWERS = ("", "{p}", "{a}", " {a}", "s {a}", "re", "\n{a}", "5", "\u00e9", "\u4e2d", "\u0301")
"""What may follow a punctuation character `p` behind a letter `a`."""

LETTER = "\u4e2d"
"""A letter that stands for all those of which the same becomes beside the same neighbours."""
_BESIDE = f" {LETTER}x{LETTER}x x\u00a0{LETTER} x{LETTER}"
_BESIDE_MARKS = f". x{LETTER}'s x{LETTER}!x x{LETTER}"
_AT_ONCE = 32

_NORMALIZERS = {
    "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Nmt", "Precompiled",
    "BertNormalizer", "Prepend", "Replace",
}  # fmt: skip
_PRE_TOKENIZERS = {
    "BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "Whitespace",
    "WhitespaceSplit",
}  # fmt: skip
_MOST_ASKED = 1000
_SPACES_ONLY = re.compile(r"^(?: |\\s|\[ \])(?:\+|\{\d*,?\d*\})?$")
_CASED = (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]")
_ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
KNOWN_ALTERNATIVES = frozenset({
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", _ENDING, "'(?i:[sdmt]|ll|ve|re)",
    r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", r"[\p{L}]+", r"\p{L}+", r"[\p{N}]", r"\p{N}",
    r"[^\s\p{L}\p{N}]+", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"[^\r\n\p{L}\p{N}]?+\p{L}+", r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]++[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+", r"\s*[\r\n]", r"\s+(?!\S)", r"\s+", r"\s", r"\d", r"\d+", r"\w+", r"[^\w\s]+",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}*{_CASED[1]}+{_ENDING}?",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_CASED[0]}+{_CASED[1]}*{_ENDING}?",
    r"<\|startoftext\|>", r"<\|endoftext\|>", "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+",
    "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+", r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    " ?[\\p{P}\\p{S}]+[\r\n]*", r" ?[\p{P}\p{S}]+[\r\n]*", "\\s*[\r\n]+",
})  # fmt: skip
"""Alternatives of the regular expressions in use (GPT-2, GPT-4, GPT-4o, Llama-3, Qwen2, DeepSeek,
CLIP). None looks back, and none goes on from what is no white space to a space."""


def find_obstacle(definition: dict[str, Any]) -> str | None:
    """Return why a text can't be cut for a tokenizer, None if it can where the tokenizer says so.

    Args:
        definition: parsed `tokenizer.json`

    Example:
        >>> find_obstacle({"model": {"type": "BPE"}, "pre_tokenizer": None})
        'there is no pre-tokenizer'
    """
    if definition.get("pre_tokenizer") is None:
        return "there is no pre-tokenizer"
    for step in steps_of(definition.get("normalizer"), "normalizers"):
        if step["type"] not in _NORMALIZERS:
            return f"the normalizer {step['type']} is not known"
        if step["type"] == "Replace" and (reason := _replaces_across(step["pattern"])):
            return reason
    for step in steps_of(definition["pre_tokenizer"], "pretokenizers"):
        if step["type"] not in _PRE_TOKENIZERS:
            return f"the pre-tokenizer {step['type']} is not known"
        if step["type"] == "Metaspace" and not step.get("split", True):
            return "its Metaspace does not split"
        if step["type"] == "Split" and (reason := _splits_across(step["pattern"])):
            return reason
    return None


def _replaces_across(pattern: dict[str, str]) -> str | None:
    text, regex = pattern.get("String"), pattern.get("Regex")
    if text is not None and (text.isspace() or not re.search(r"\s|\w\W", text)):
        return None
    if regex is not None and _SPACES_ONLY.match(regex):
        return None
    return f"its normalizer replaces {text if text is not None else regex!r}"


def _splits_across(pattern: dict[str, str]) -> str | None:
    text, regex = pattern.get("String"), pattern.get("Regex")
    if text is not None:
        return f"it splits at {text!r}" if len(text) > 1 and re.search(r"\s", text) else None
    unknown = [part for part in split_alternatives(regex or "") if part not in KNOWN_ALTERNATIVES]
    return f"its regular expression has the part {unknown[0]!r}" if unknown else None


def split_alternatives(regex: str) -> list[str]:
    r"""Return the alternatives of a regular expression.

    Example:
        >>> split_alternatives(r"(?i:'s|'t)|[|]+|\|")
        ["(?i:'s|'t)", '[|]+', '\\|']
    """
    parts, depth, in_class, start, index = [], 0, False, 0, 0
    while index < len(regex):
        character = regex[index]
        if character == "\\":
            index += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "|" and not depth:
            parts.append(regex[start:index])
            start = index + 1
        index += 1
    return [*parts, regex[start:]]


def make_rule(
    backend: tokenizers.Tokenizer, definition: dict[str, Any]
) -> tuple[CutRule | None, str | None]:
    """Return where the texts of a tokenizer may be cut, and None; or None, and why they can't be.

    Args:
        backend: normalizer and pre-tokenizer are asked
        definition: its parsed `tokenizer.json`
    """
    obstacle = find_obstacle(definition)
    if obstacle is not None:
        return None, obstacle
    try:
        rule = ask_tokenizers("its rules fail", lambda: CutRule(backend, definition))
    except TokenizerError as error:
        return None, str(error)
    return (rule, None) if rule.obstacle is None else (None, rule.obstacle)


class CutRule:
    """The classes of characters by which a text is cut: asked of the tokenizer, as they occur.

    Args:
        backend: normalizer and pre-tokenizer are asked
        definition: its parsed `tokenizer.json`, for which `find_obstacle` finds none

    Attributes:
        classes: uint8 (NUM_CLASSES,), as `spaced_word_end` takes them
        obstacle: why it can't be used; None if it can
        alike: letters that have been asked about and come out as `LETTER` does

    Example:
        >>> backend = tokenizers.Tokenizer(tokenizers.models.BPE())
        >>> backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        >>> rule = CutRule(backend, {"added_tokens": []})
        >>> rule.cut("Well, it's late.")
        ['Well', ',', ' it', "'s", ' late', '.']
    """

    def __init__(self, backend: tokenizers.Tokenizer, definition: dict[str, Any]) -> None:
        self._normalizer, self._pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        self._asked: dict[str, list[str]] = {}
        self.alike: set[str] = set()
        self.classes = np.full(NUM_CLASSES, UNKNOWN, np.uint8)
        self.classes[:0x80] = OTHER
        for letter in itertools.chain(range(48, 58), range(65, 91), range(97, 123)):
            self.classes[letter] = WORD
        self._find_blanks()
        self._find_punctuation()
        self.obstacle = self._spare_tokens(backend, definition)
        if self.classes[32] != BLANK:
            self.obstacle = "what is before a space depends on it"
        elif self.obstacle is None and (unsafe := find_unsafe_cut(self, battery())):
            self.obstacle = f"its rules look further than a character, as in {unsafe[0]!r}"

    @property
    def description(self) -> str:
        """Before what a text is cut."""
        has_marks = bool(np.any(self.classes[:0x80] == PUNCT))
        return "white space and punctuation" if has_marks else "white space"

    def pre_tokens(self, text: str) -> list[str]:
        """Return what normalizer and pre-tokenizer make of a text."""
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        return [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(text)]

    def is_safe(self, left: str, right: str) -> bool:
        """Whether two parts, each by itself, come out as both together."""
        if right not in self._asked:
            if len(self._asked) > _MOST_ASKED:
                self._asked.clear()
            self._asked[right] = self.pre_tokens(right)
        return self.pre_tokens(left + right) == self.pre_tokens(left) + self._asked[right]

    def _find_blanks(self) -> None:
        """Find the white space before which a text may be cut, behind letters and punctuation."""
        behind = ("x", "X5", "x.", "x)", "x's", "...", "x!!")
        before = ("x", ".", " x", "\nx", "  x", "\n\nx", "\u00a0x", "", "\u3000", "\u0301x")
        for blank in " \n\t\r\u3000\u00a0":
            # A mark may vanish with a no-break space, before which nothing is cut then.
            some = before[:-1] if blank == "\u00a0" else before
            if all(self.is_safe(left, blank + right) for left in behind for right in some):
                self.classes[ord(blank)] = BLANK
        for mark in PUNCTUATION:
            if all(self.is_safe(f"{left}{mark}", " x") for left in ("", "x", " ", "5", mark)):
                self.classes[ord(mark)] = TEXT

    def _find_punctuation(self) -> None:
        """Find the marks before which a text may be cut behind a letter."""
        for mark in PUNCTUATION:
            if self.classes[ord(mark)] == TEXT and all(
                self.is_safe(letter, mark + following.format(p=mark, a=letter))
                for letter in LETTERS
                for following in FOLLOWERS
            ):
                self.classes[ord(mark)] = PUNCT

    def _spare_tokens(
        self, backend: tokenizers.Tokenizer, definition: dict[str, Any]
    ) -> str | None:
        """Have no token that is found in the text itself be cut; return why one would be."""
        for spelling, token in added_spellings(backend, definition):
            if token["rstrip"]:
                return f"the added token {spelling!r} takes the white space behind it"
            if re.search(r"\S\s", spelling):
                return f"the added token {spelling!r} has white space inside"
            marks = PUNCTUATION if token["single_word"] else spelling[1:]
            for mark in marks:
                if mark in PUNCTUATION and self.classes[ord(mark)] == PUNCT:
                    self.classes[ord(mark)] = TEXT
        return None

    def learn(self, text: U8) -> I64:
        """Ask for the characters of a text that have no class yet; return int64 (C,), which."""
        codes = np.flatnonzero(find_unknown(frozen(text), self.classes))
        if len(codes):
            asked = ask_tokenizers("it fails on a character", lambda: self._ask_each(codes))
            self.classes[codes] = asked
        return codes

    def _ask_each(self, codes: I64) -> list[int]:
        has_marks = bool(np.any(self.classes[:0x80] == PUNCT))
        characters = [chr(code) for code in codes.tolist()]
        letters = [
            c for c in characters
            if unicodedata.category(c) == "Lo" and unicodedata.is_normalized("NFKC", c)
        ]  # fmt: skip
        if letters:
            kind = self._ask(LETTER, has_marks)
            beside = _BESIDE + _BESIDE_MARKS if has_marks else _BESIDE
            self.alike.update(*self._find_alike(letters, beside, self.pre_tokens(beside)))
        return [kind if c in self.alike else self._ask(c, has_marks) for c in characters]

    def _find_alike(
        self, letters: list[str], beside: str, becomes: list[str]
    ) -> Iterator[list[str]]:
        """Yield the letters of which the same becomes as of `LETTER`, many asked about at once.

        Args:
            letters: without spaces to divide words, text has thousands of them
            beside: `LETTER` beside every kind of neighbour that `_ask` puts a character beside
            becomes: what becomes of that
        """
        for first in range(0, len(letters), _AT_ONCE):
            some = letters[first : first + _AT_ONCE]
            text = "".join([beside.replace(LETTER, letter) for letter in some])
            expected = [part.replace(LETTER, letter) for letter in some for part in becomes]
            if self.pre_tokens(text) == expected:
                yield some
            elif len(some) > 2:
                half = len(some) // 2
                yield from self._find_alike(some[:half], beside, becomes)
                yield from self._find_alike(some[half:], beside, becomes)

    def _ask(self, character: str, has_marks: bool) -> int:
        kind = unicodedata.category(character)[0]
        is_safe = self.is_safe
        if (
            kind in "CZ"
            or not all(is_safe(left + character, " x") for left in ("x", ""))
            or not is_safe("x", f" {character}x")
        ):
            return OTHER
        is_mark = kind == "M" or not is_safe("x\u00a0" + character, " x")
        if is_mark or not is_safe("x", f"\u00a0{character}x"):
            return COMBINING
        if kind == "L" and has_marks and all(
            is_safe("x" + character, mark) for mark in (".", "'s", "!x")
        ):  # fmt: skip
            return WORD
        return TEXT

    def cut(self, text: str) -> list[str]:
        """Return the words of a text, with the white space before them."""
        raw = np.frombuffer(text.encode("utf-8"), np.uint8)
        self.learn(raw)
        flags, position, parts = flag_alphanumeric(frozen(raw)), 0, []
        while position < len(raw):
            end, _ = spaced_word_end(frozen(raw), flags, position, len(raw), self.classes, OTHER)
            parts.append(raw[position:end].tobytes().decode("utf-8"))
            position = end
        return parts


def find_unsafe_cut(rule: CutRule, texts: Iterable[str]) -> tuple[str, list[str]] | None:
    """Return the first text that comes out differently once it is cut, and its parts.

    Args:
        rule: cuts, and says what comes out
        texts: to be cut
    """
    for text in texts:
        parts = rule.cut(text)
        if rule.pre_tokens(text) != [token for part in parts for token in rule.pre_tokens(part)]:
            return text, parts
    return None


WITNESSES = (
    "x", "X", "s", "7", " ", "\n", "\t", ".", "'", "-", "_", "\u00e9", "\u0301", "\u00a0", "\u4e2d",
    "\u0e33", "\u3002", "\u200d", "\ufb01", "\u2581", "\u00a8", "\u0939", "\u094d", "\U0001f600",
)  # fmt: skip
"""One character of every kind that rules are known to look at."""


def battery() -> Iterator[str]:
    """Yield texts in which every three kinds of characters stand side by side."""
    for first, second in itertools.product(WITNESSES, repeat=2):
        yield "x".join(f"{first}{second}{third}" for third in WITNESSES)


def added_spellings(
    backend: tokenizers.Tokenizer, definition: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """Return how tokens that are found in a text before it is cut are spelled there.

    Those that are special are text like any other. Others are looked for in the text as it is or,
    where the token says so, once it is normalized, as the token is then too.
    """
    found = []
    for token in definition["added_tokens"]:
        if not token["special"]:
            found.append((token["content"], token))
            if token["normalized"] and backend.normalizer is not None:
                found.append((backend.normalizer.normalize_str(token["content"]), token))
    return [(spelling, token) for spelling, token in found if spelling]


@functools.cache
def composing_characters() -> frozenset[str]:
    """Return the characters that may become one with the character before them."""
    seconds = {chr(code) for code in range(0x1100, 0x1200)}  # parts of Korean syllables
    for parts in filter(None, map(unicodedata.decomposition, map(chr, range(0xC0, NUM_CLASSES)))):
        first, _, second = parts.partition(" ")
        if second and " " not in second and not first.startswith("<"):
            seconds.add(chr(int(second, 16)))
    return frozenset(seconds)
