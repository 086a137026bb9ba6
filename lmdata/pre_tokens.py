"""What a pre-tokenizer makes of characters: which are of one kind, and where it cuts among them.

All that is known of a pre-tokenizer is asked of it: it cuts short texts of one character of each
kind. What is long is shortened first, and what it answers alike counts as one thing, so that a
rule for any text is made of some thousand answers.
"""

from __future__ import annotations

import functools
import itertools
import json
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers

from lmdata.tokenizer_classes import steps_of

METASPACE = "\u2581"
_RUN = 3  # a longer run of characters of one kind is like one of three: numbers are cut in threes
_KEPT = 4  # kinds at either end of a piece, and at the end of a word, that can matter
_NUM_CHARACTERS = 0x110000
# Where characters are, and which blocks hold one kind of letters only: CJK, Hangul, private use.
_ASSIGNED = ((0, 0xD800), (0xF900, 0x20000), (0xE0000, 0xE0200))
_BLOCKS = (
    (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xE000, 0xF900), (0x20000, 0x33480)
)  # fmt: skip


class Spelling(NamedTuple):
    """The bytes of a piece as characters."""

    head: int  # as in `lmdata.word_starts.WordRule.heads`
    whole: str  # the characters that are whole
    cut: int  # as in `WordRule.cuts`


@functools.cache
def spell(text: bytes) -> Spelling:
    r"""Return what a piece holds of characters: the end of one, whole ones, the beginning of one.

    Example:
        >>> spell(b"\xa4\xb8a\xe4")
        Spelling(head=18882, whole='a', cut=18)
    """
    rest = text.lstrip(_CONTINUATION)
    inside = text[: len(text) - len(rest)][:3]
    bits = functools.reduce(lambda value, byte: value << 6 | byte & 0x3F, inside, 0)
    head = bits << 3 | (not rest) << 2 | len(inside) if inside else 0
    whole = rest.decode("utf-8", "ignore")
    end = rest[len(whole.encode()) :]
    if not end or not 0xC2 <= end[0] <= 0xF4:
        return Spelling(head, whole or "\N{REPLACEMENT CHARACTER}" * bool(rest), 0)
    length = 2 if end[0] < 0xE0 else 3 if end[0] < 0xF0 else 4
    first = end[0] & (0x7F >> length)
    bits = functools.reduce(lambda value, byte: value << 6 | byte & 0x3F, end[1:], first)
    return Spelling(head, whole, bits << 2 | max(1, length - len(end)))


class Alphabet:
    """Characters by kind, and what a pre-tokenizer makes of them: one stands for all of a kind.

    Two characters are of one kind if the pre-tokenizer cuts them alike beside any of some others.
    Letters of English contractions, which many rules name, stand for themselves. In the same way,
    one unfinished word stands for all that are cut alike, whatever follows, and one text behind
    a word for all that cut alike what is before.
    """

    def __init__(self, definition: Mapping[str, Any]) -> None:
        self._pre_tokenizer = _of_the_middle(definition)
        self._like: dict[tuple[object, ...], str] = {}
        self._of_group: dict[str, str] = {}
        self._of_character: dict[str, str] = {}
        self._places: dict[str, int] = {}
        self._words: dict[str, str] = {"": ""}
        self._behind: dict[str, str] = {"": ""}
        self._alike: dict[tuple[object, ...], str] = {}
        for character in _WITNESSES:
            self._kind(character)

    @property
    def kinds(self) -> tuple[str, ...]:
        """A character of each kind that was met."""
        return tuple(self._like.values())

    def kinds_of_characters(self) -> npt.NDArray[np.uint8]:
        """Return uint8 (0x110000,), for every character the place of its kind in `kinds`."""
        table = np.zeros(_NUM_CHARACTERS, np.uint8)
        is_done = np.zeros(_NUM_CHARACTERS, np.bool_)
        for first, end in _BLOCKS:
            table[first:end], is_done[first:end] = self._place_of(chr(first)), True
        for first, end in _ASSIGNED:
            for code in (first + np.flatnonzero(~is_done[first:end])).tolist():
                table[code] = self._place_of(chr(code))
        return table

    def _place_of(self, character: str) -> int:
        group = _group(character)
        if group not in self._places:
            kind = self._kind(character)
            self._places[group] = self.kinds.index(kind)
        return self._places[group]

    def kinds_of(self, characters: str) -> str:
        """Return one character of each kind; what is long is shortened, contractions are kept."""
        lower = characters.lower()
        if lower.lstrip("'") in _CONTRACTED and len(characters) - len(lower.lstrip("'")) <= 1:
            return characters
        return self.shorten_piece("".join(self._kind(character) for character in characters))

    def shorten_piece(self, kinds: str) -> str:
        """Return a piece's kinds without what can't matter: long runs, and its middle."""
        kinds = _short_runs(kinds)
        return kinds if len(kinds) <= 2 * _KEPT else kinds[:_KEPT] + kinds[-_KEPT:]

    def _kind(self, character: str) -> str:
        if character not in self._of_character:
            self._of_character[character] = self._kind_of_group(character, _group(character))
        return self._of_character[character]

    def _kind_of_group(self, character: str, group: str) -> str:
        if group not in self._of_group:
            signature = tuple(
                tuple(self._starts(text))
                for other in _WITNESSES
                for text in (other + character, character + other, character + other + "x",
                             other + character * 2 + other)
            )  # fmt: skip
            self._of_group[group] = self._like.setdefault(signature, character)
        return self._of_group[group]

    def _starts(self, text: str) -> list[int]:
        """Return where the pre-tokens of a text begin."""
        return [span[0] for _, span in self._pre_tokenizer.pre_tokenize_str(text)]

    def read(self, state: str, shape: tuple[bool, str], behind: str) -> tuple[bool, str]:
        """Return whether a piece goes on with a word, and what is then known of the word.

        Args:
            state: the kinds at the end of the word so far, "" if nothing is known
            shape: of the next piece
            behind: what follows it
        """
        inside, kinds = shape
        goes_on = inside or len(state) not in self._starts(state + kinds + behind)
        word = state + kinds if goes_on else kinds
        return goes_on, self._shorten(word)

    def _runs(self) -> Iterator[str]:
        """Yield runs of each kind, and of two kinds of white space."""
        yield from (kind * _RUN for kind in self.kinds)
        spaces = [kind for kind in self.kinds if kind.isspace()]
        yield from (first * 2 + second for first, second in itertools.permutations(spaces, 2))

    def _shorten(self, word: str) -> str:
        """Return the first word found that is cut as this one is, whatever follows."""
        short = _short_runs(word)[-_KEPT:]
        if short not in self._words:
            followers = [*self._runs(), *sorted(_CONTRACTED)]
            signature = tuple(
                tuple(start - len(short) for start in self._starts(short + text + "x")
                      if start >= len(short))
                for text in followers
            )  # fmt: skip
            self._words[short] = self._alike.setdefault(("word", signature), short)
        return self._words[short]

    def shorten_behind(self, text: str) -> str:
        """Return the first text found before which everything is cut as before this one."""
        short = _short_runs(text)[: 2 * _KEPT]
        if short not in self._behind:
            before = [*self._runs(), "'", *(f"'{letter}" for letter in "rvl")]
            signature = tuple(
                tuple(start for start in self._starts(word + short) if start <= len(word))
                for word in before
            )
            self._behind[short] = self._alike.setdefault(("behind", signature), short)
        return self._behind[short]


def _of_the_middle(definition: Mapping[str, Any]) -> Any:
    """Return a pre-tokenizer that does not know the beginning of a text, where a space may go."""
    step = json.loads(json.dumps(definition["pre_tokenizer"]))
    for part in steps_of(step, "pretokenizers"):
        part.update({key: value for key, value in _NO_PREFIX.items() if key in part})
    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    written = json.dumps(
        {"version": "1.0", "added_tokens": [], "pre_tokenizer": step, "model": model}
    )
    return tokenizers.Tokenizer.from_str(written).pre_tokenizer


_NO_PREFIX = {"add_prefix_space": False, "prepend_scheme": "never"}


def _short_runs(kinds: str) -> str:
    """Return kinds of characters with at most three of one kind in a row.

    Example:
        >>> _short_runs("aaaaab")
        'aaab'
    """
    runs = (itertools.islice(run, _RUN) for _, run in itertools.groupby(kinds))
    return "".join(itertools.chain.from_iterable(runs))


_CONTINUATION = bytes(range(0x80, 0xC0))
_CONTRACTED = {"s", "t", "m", "d", "r", "e", "v", "l", "re", "ve", "ll"}
_WITNESSES = ("x", "s", "X", "1", " ", "\n", "'", "!", "中", "か", "ب", METASPACE)


def _group(character: str) -> str:
    """Return what characters are surely of one kind with a character: itself for ASCII marks.

    Example:
        >>> _group("b"), _group("("), _group("é"), _group("語") == _group("中")
        ('Ll LATIN', '(', 'Ll LATIN', True)
    """
    category = unicodedata.category(character)
    if character <= "\x7f" and category[0] not in "LN":
        return character
    if category[0] in "LMN":
        return f"{category} {unicodedata.name(character, '?').split()[0]}"
    return character if category[0] == "Z" or character == METASPACE else category
