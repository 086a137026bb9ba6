"""Text as a stream of words that all rules share, each cut once.

How text is cut has a name and a version: the project's own way, by a kernel, or that of spaCy, by
which the figures of datatrove's rules are met exactly and each chunk between white space is asked
for once.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lmdata.errors import ConfigError
from lmdata.ragged import Ragged, frozen, offsets_of
from lmdata.tagging.c4_kernels import count_line_sentences, count_sentences
from lmdata.tagging.characters import (
    ENDS_SENTENCE,
    HAS_LETTER,
    IS_PUNCTUATION,
    IS_SYMBOL,
    SYMBOLS,
    character_bits,
)
from lmdata.tagging.word_kernels import (
    BEGINS_CHUNK,
    FIRST_STOP_BIT,
    IS_ALPHANUMERIC,
    PADDING,
    cut_words,
)

_BLANKS = re.compile(r"[^\S ]\s*| \s+")  # white space that is not one blank
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
STOP_KEYS = np.array([int.from_bytes(word.encode(), "little") for word in STOP_WORDS], np.uint64)
_SPACE = "\n"  # the chunk that stands for white space which is more than one blank
_MOST_CHUNKS = 1 << 20  # kept at a time; the result does not depend on it

Text = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Figures = dict[str, np.ndarray]  # of documents, each (D,)


@dataclass(frozen=True)
class Words:
    """The words of D documents, W in all.

    Attributes:
        stream: uint8, the words one after the other, and some bytes of 0
        starts: int64 (W + 1,), where each begins in the stream, and where the last ends
        lengths: int32 (W,), characters
        flags: uint16 (W,), `HAS_LETTER` and its like, `BEGINS_CHUNK`, `IS_ALPHANUMERIC`
        rows: int64 (D + 1,), where documents begin among the words
    """

    stream: npt.NDArray[np.uint8]
    starts: Offsets
    lengths: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint16]
    rows: Offsets


@dataclass(frozen=True)
class Batch:
    """Some documents, D of them, cut into words once for all taggers.

    Attributes:
        documents: UTF-8 of each
        text: uint8 (N,), all of them
        offsets: int64 (D + 1,), where they begin
        words: of the documents
        figures: that the rules ask for which are always measured
    """

    documents: Sequence[bytes]
    text: Text
    offsets: Offsets
    words: Words
    figures: Figures


class Cutter(Protocol):
    """How text is cut into words; of one thread."""

    @property
    def name(self) -> str:
        """Name and version, kept with what was counted."""

    @property
    def needs_spaces(self) -> bool:
        """Whether it finds no words in scripts that are written without spaces between them."""

    def words(self, text: Text, offsets: Offsets) -> Words:
        """Return the words of documents: uint8 (N,), int64 (D + 1,)."""

    def sentences(self, text: Text, ends: Offsets) -> Offsets:
        """Return the sentences of lines, int64 (L,): uint8 (N,), int64 (L + 1,)."""


class PlainCutter:
    """Runs of letters and digits, with the apostrophes inside; all else by the character."""

    needs_spaces = True

    def __init__(self) -> None:
        self.name = f"words-1-unicode-{unicodedata.unidata_version}"
        self._bits = character_bits()

    def words(self, text: Text, offsets: Offsets) -> Words:
        """Return the words of documents.

        Example:
            >>> text = np.frombuffer(b"(don't, it", np.uint8)
            >>> words = PlainCutter().words(text, np.array([0, 10]))
            >>> bytes(words.stream[:9]), words.lengths.tolist()
            (b"(don't,it", [1, 5, 1, 2])
        """
        size = len(text)
        stream, starts = np.empty(size + PADDING, np.uint8), np.empty(size + 1, np.int64)
        lengths, flags = np.empty(size, np.int32), np.empty(size, np.uint16)
        rows = np.empty(len(offsets), np.int64)
        num_words = cut_words(frozen(text), offsets, self._bits, STOP_KEYS, stream, starts,
                              lengths, flags, rows)  # fmt: skip
        return Words(stream, starts[: num_words + 1], lengths[:num_words], flags[:num_words], rows)

    def sentences(self, text: Text, ends: Offsets) -> Offsets:
        """Return the sentences of lines.

        Example:
            >>> text = np.frombuffer(b"Yes. No, it (is).", np.uint8)
            >>> PlainCutter().sentences(text, np.array([0, 8, 17])).tolist()
            [2, 1]
        """
        counts: Offsets = count_line_sentences(frozen(text), ends, len(ends) - 1, self._bits)
        return counts


class SpacyCutter:
    """The English words of spaCy, as datatrove takes them; each chunk is asked for once."""

    needs_spaces = False  # what it finds there is what datatrove judges

    def __init__(self) -> None:
        try:
            import spacy
            from spacy.about import __version__ as version
        except ImportError as error:
            raise ConfigError(
                "words=spacy needs the spacy package: pip install 'lmdata-lmmodel[curation]', or "
                "take words=plain"
            ) from error
        self._language = spacy.blank("en")
        self.name = f"spacy-{version}-en"
        sentencizer: Any = self._language.add_pipe("sentencizer")
        self._terminals = frozenset(sentencizer.punct_chars)
        self._table = _WordTable(self._cut, self._flag)

    def words(self, text: Text, offsets: Offsets) -> Words:
        """Return the words of documents."""
        self._table.begin()
        rows = [part.decode("utf-8").split() for part in _rows_of(text, offsets)]
        return self._table.words(rows)

    def sentences(self, text: Text, ends: Offsets) -> Offsets:
        """Return the sentences of lines."""
        rows = []
        for line in _rows_of(text, ends):
            part = _BLANKS.sub(f" {_SPACE} ", line.decode("utf-8")).split(" ")
            rows.append([chunk for chunk in part if chunk])
        words = self._table.words(rows)
        counts: Offsets = count_sentences(words.flags, words.rows)
        return counts

    def _cut(self, chunk: str) -> list[str]:
        return [token.text for token in self._language.tokenizer(chunk)]

    def _flag(self, word: str) -> int:
        flags = HAS_LETTER * any(map(str.isalpha, word))
        flags |= IS_SYMBOL * SYMBOLS.issuperset(word)
        flags |= ENDS_SENTENCE * (word in self._terminals)
        flags |= IS_PUNCTUATION * bool(self._language.vocab[word].is_punct)
        flags |= IS_ALPHANUMERIC * word[0].isalnum()
        if word in STOP_WORDS:
            flags |= 1 << (FIRST_STOP_BIT + STOP_WORDS.index(word))
        return flags


CUTTERS: dict[str, Callable[[], Cutter]] = {"plain": PlainCutter, "spacy": SpacyCutter}


def _rows_of(text: Text, offsets: Offsets) -> list[bytes]:
    content = text.tobytes()
    return [content[a:b] for a, b in pairwise(offsets.tolist())]


class _WordTable:
    """Chunks of text between white space, each cut once, and what is known of their words."""

    def __init__(self, cut: Callable[[str], list[str]], flag: Callable[[str], int]) -> None:
        self._cut, self._flag = cut, flag
        self._forget()

    def _forget(self) -> None:
        self._chunks = _Numbers(self._add_chunk)
        self._words = _Numbers(self._add_word)
        self._members, self._ends = array("q"), array("q", [0])  # words of each chunk, ragged
        self._bytes, self._byte_ends = bytearray(), array("q", [0])  # bytes of each word, ragged
        self._lengths, self._flags = array("i"), array("H")

    def begin(self) -> None:
        """Forget chunks when there are too many; the result does not depend on it."""
        if len(self._chunks) > _MOST_CHUNKS:
            self._forget()

    def words(self, rows: list[list[str]]) -> Words:
        """Return the words of rows of chunks."""
        numbers = [[*map(self._chunks.__getitem__, row)] for row in rows]
        offsets = offsets_of([len(row) for row in numbers])
        chunks = np.fromiter(itertools.chain.from_iterable(numbers), np.int64, int(offsets[-1]))
        members = Ragged(np.array(self._members, np.int64), np.array(self._ends, np.int64))
        words = members.take(chunks)
        own = np.asarray(words.values, np.int64)
        content = Ragged(
            np.frombuffer(bytes(self._bytes), np.uint8), np.array(self._byte_ends, np.int64)
        ).take(own)
        stream = np.concatenate([content.values, np.zeros(PADDING, np.uint8)])
        flags = np.array(self._flags, np.uint16)[own]
        flags[np.asarray(words.offsets[:-1], np.int64)] |= BEGINS_CHUNK
        return Words(
            stream.astype(np.uint8, copy=False), np.asarray(content.offsets, np.int64),
            np.array(self._lengths, np.int32)[own], flags,
            np.asarray(words.offsets[offsets], np.int64),
        )  # fmt: skip

    def _add_chunk(self, chunk: str) -> None:
        found = [chunk] if chunk == _SPACE else self._cut(chunk)
        self._members.extend([self._words[word] for word in found])
        self._ends.append(len(self._members))

    def _add_word(self, word: str) -> None:
        self._bytes += word.encode()
        self._byte_ends.append(len(self._bytes))
        self._lengths.append(len(word))
        self._flags.append(self._flag(word) if word != _SPACE else 0)


class _Numbers(dict[str, int]):
    """Strings by number, in the order in which they come; each new one is told of."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def __missing__(self, text: str) -> int:
        self._tell(text)
        number = self[text] = len(self)
        return number
