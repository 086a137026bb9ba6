"""Text as a stream of words that all rules share: each chunk between white space is cut once.

A word is a number; what rules ask of it (length, letters, stop word, a hash of its characters) lies
in arrays by that number. How chunks are cut has a name and a version: the project's own way, or
that of spaCy, by which the figures of datatrove's rules are met exactly.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lmdata.errors import ConfigError
from lmdata.ragged import Ragged, offsets_of

_WORDS = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
_BLANKS = re.compile(r"[^\S ]\s*| \s+")  # white space that is not one blank


def _characters(ranges: str) -> frozenset[str]:
    """Return the characters of ranges in hexadecimal.

    Example:
        >>> sorted(_characters("41-43 61"))
        ['A', 'B', 'C', 'a']
    """
    bounds = [[int(bound, 16) for bound in part.split("-")] for part in ranges.split()]
    return frozenset(chr(code) for pair in bounds for code in range(pair[0], pair[-1] + 1))


# Characters that end a sentence in any script, as datatrove 0.10 has them.
TERMINALS = _characters(
    "21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 "
    "166e 1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f "
    "1b7d-1b7e 1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff "
    "a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 "
    "fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 "
    "110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9 "
    "1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 11a42-11a43 "
    "11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 "
    "16e98 1bc9f 1da88 "
)
# Characters of which words are symbols: the same, other punctuation and control characters.
SYMBOLS = TERMINALS | _characters(
    "0-8 b-1f 22-2d 2f 3a-3e 40 5b-60 7b-9f ab b4 bb 2013-2014 2019 201c-201e 2026 2236 2501 "
    "25ba 3001 3008-300d 3010-3011 ff05 ff08-ff09 ff0c ff11 ff1a-ff1b ff5e "
)

# What a word is, as bits; those of the stop words follow from bit 8 on.
HAS_LETTER, IS_SYMBOL, ENDS_SENTENCE, IS_PUNCTUATION = 1, 2, 4, 8
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_FIRST_STOP_BIT = 8
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd; of the polynomial that names a string
_MASK64 = (1 << 64) - 1
_SPACE = "\n"  # the chunk that stands for white space which is more than one blank
_MOST_CHUNKS = 1 << 20  # kept at a time; the result does not depend on it


class Cutter(Protocol):
    """How text between white space is cut into words."""

    @property
    def name(self) -> str:
        """Name and version, kept with what was counted."""

    @property
    def terminals(self) -> frozenset[str]:
        """Words that end a sentence."""

    def cut(self, chunk: str) -> list[str]:
        """Return the words of a chunk of text without white space."""

    def is_punctuation(self, word: str) -> bool:
        """Return whether a word goes with the sentence before it."""


class PlainCutter:
    """Runs of letters and digits, with the apostrophes inside; all else by the character."""

    name = "words-1"
    terminals = TERMINALS

    def cut(self, chunk: str) -> list[str]:
        """Return the words of a chunk of text without white space.

        Example:
            >>> PlainCutter().cut("(don't,")
            ['(', "don't", ',']
        """
        return _WORDS.findall(chunk)

    def is_punctuation(self, word: str) -> bool:
        """Return whether a word goes with the sentence before it.

        Example:
            >>> PlainCutter().is_punctuation(")"), PlainCutter().is_punctuation("a")
            (True, False)
        """
        return all(unicodedata.category(character).startswith("P") for character in word)


class SpacyCutter:
    """The English words of spaCy, as datatrove takes them; each chunk is asked for once."""

    def __init__(self) -> None:
        try:
            import spacy
        except ImportError as error:
            raise ConfigError(
                "words=spacy needs the spacy package: pip install 'lmdata-lmmodel[curation]', or "
                "take words=plain"
            ) from error
        self._language = spacy.blank("en")
        self.name = f"spacy-{spacy.__version__}-en"
        self.terminals = frozenset(self._language.add_pipe("sentencizer").punct_chars)

    def cut(self, chunk: str) -> list[str]:
        """Return the words of a chunk of text without white space."""
        return [token.text for token in self._language.tokenizer(chunk)]

    def is_punctuation(self, word: str) -> bool:
        """Return whether a word goes with the sentence before it."""
        return bool(self._language.vocab[word].is_punct)


CUTTERS: dict[str, Callable[[], Cutter]] = {"plain": PlainCutter, "spacy": SpacyCutter}


@dataclass(frozen=True)
class WordFacts:
    """What is known of each word that occurred, by its number.

    Attributes:
        lengths: int64 (W,), characters
        hashes: uint64 (W,), a polynomial over its characters, modulo 2**64
        powers: uint64 (W,), the polynomial's multiplier to the number of characters
        flags: int64 (W,), `HAS_LETTER` and its like
    """

    lengths: np.ndarray
    hashes: np.ndarray
    powers: np.ndarray
    flags: np.ndarray


class WordTable:
    """Text as numbers of words, by way of chunks between white space that are cut once."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._forget()

    def _forget(self) -> None:
        self._chunks = _Numbers(self._cut)
        self._words = _Numbers(self._describe)
        self._members, self._ends = array("q"), array("q", [0])  # words of each chunk, ragged
        self._facts = tuple(array(kind) for kind in "qQQq")

    def split(self, texts: list[str]) -> Ragged:
        """Return the chunks of texts, int64; numbers are for `words` until `begin` is called."""
        rows = [[*map(self._chunks.__getitem__, text.split())] for text in texts]
        return _join_rows(rows)

    def split_lines(self, texts: list[str]) -> Ragged:
        """Return the chunks of lines as `split`, with white space that counts as a word."""
        rows = []
        for text in texts:
            parts = (
                _BLANKS.sub(f" {_SPACE} ", text).split(" ")
                if _BLANKS.search(text)
                else text.split()
            )
            rows.append([self._chunks[part] for part in parts if part])
        return _join_rows(rows)

    def begin(self) -> None:
        """Forget chunks when there are too many; numbers handed out before mean nothing then."""
        if len(self._chunks) > _MOST_CHUNKS:
            self._forget()

    def words(self, chunks: Ragged) -> Ragged:
        """Return the words of rows of chunks, int64."""
        members = Ragged(np.array(self._members, np.int64), np.array(self._ends, np.int64))
        words = members.take(np.asarray(chunks.values, np.int64))
        return Ragged(words.values, words.offsets[chunks.offsets])

    def facts(self) -> WordFacts:
        """Return what is known of the words so far."""
        dtypes = np.int64, np.uint64, np.uint64, np.int64
        columns = (np.array(fact, kind) for fact, kind in zip(self._facts, dtypes, strict=True))
        return WordFacts(*columns)

    def _cut(self, chunk: str) -> None:
        found = [chunk] if chunk == _SPACE else self._cutter.cut(chunk)
        self._members.extend([self._words[word] for word in found])
        self._ends.append(len(self._members))

    def _describe(self, word: str) -> None:
        value = 0
        for character in word:
            value = (value * _MULTIPLIER + ord(character) + 1) & _MASK64
        flags = HAS_LETTER * any(map(str.isalpha, word))
        flags |= IS_SYMBOL * SYMBOLS.issuperset(word)
        flags |= ENDS_SENTENCE * (word in self._cutter.terminals)
        flags |= IS_PUNCTUATION * (word != _SPACE and self._cutter.is_punctuation(word))
        if word in STOP_WORDS:
            flags |= 1 << (_FIRST_STOP_BIT + STOP_WORDS.index(word))
        facts = len(word), value, pow(_MULTIPLIER, len(word), 1 << 64), flags
        for column, fact in zip(self._facts, facts, strict=True):
            column.append(fact)


class _Numbers(dict[str, int]):
    """Strings by number, in the order in which they come; each new one is told of."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def __missing__(self, text: str) -> int:
        self._tell(text)
        number = self[text] = len(self)
        return number


def _join_rows(rows: list[list[int]]) -> Ragged:
    offsets = offsets_of([len(row) for row in rows])
    values = np.fromiter(itertools.chain.from_iterable(rows), np.int64, int(offsets[-1]))
    return Ragged(values, offsets)
