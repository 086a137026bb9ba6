"""Text to numbered words, in one pass over the bytes.

A word is a maximal run of characters of class WORD, or one character of class ISOLATED; characters
of class SPACE belong to no word. Which character is of which class is the caller's to say, so that
the same pass serves every tokenizer whose rules allow such cuts. Words are numbered in the order
in which they are first seen and kept as bytes, exactly: equal hashes are compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lmdata.encoders.word_kernels import (
    BYTES_FULL,
    DONE,
    FOUND,
    I32,
    I64,
    ISOLATED,
    NUM_BYTES,
    NUM_CLASSES,
    NUM_WORDS,
    POSITION,
    SPACE,
    U8,
    U64,
    WORD,
    flag_alphanumeric,
    move_slots,
    scan_words,
)

Array = TypeVar("Array", U8, I64)

__all__ = ["ISOLATED", "NUM_CLASSES", "SPACE", "WORD", "Occurrences", "WordTable", "ascii_classes"]


@dataclass(frozen=True)
class Occurrences:
    """The words of a text, in order.

    Attributes:
        words: int32 (W,), number of each word in its table
        before_mark: int64 (M,), how many words begin before each mark
        cut_words: int64 (M,), first byte of the word that has the mark inside it, -1 for none
    """

    words: I32
    before_mark: I64
    cut_words: I64


class WordTable:
    """Numbers words in the order in which they are first seen.

    Args:
        classes: uint8 (NUM_CLASSES,), WORD, SPACE or ISOLATED for each code point; ASCII letters
            and digits are always WORD, as are characters from U+30000 on

    Example:
        >>> table = WordTable(ascii_classes())
        >>> text = np.frombuffer(b"to be, to", np.uint8)
        >>> table.scan(text, np.array([0, 9]), np.array([0])).words.tolist(), list(table)
        ([0, 1, 2, 0], [b'to', b'be', b','])
    """

    def __init__(self, classes: U8) -> None:
        self._classes = frozen(classes)
        self.clear()

    def clear(self) -> None:
        """Forget every word; numbers start from 0 again."""
        self.num_words = 0
        self.starts: I64 = np.zeros(1 << 13, np.int64)
        self.bytes: U8 = np.zeros(1 << 16, np.uint8)
        self._slots: U64 = np.zeros(2 << 14, np.uint64)

    @property
    def arrays(self) -> tuple[U64, I64, U8]:
        """Slots, starts and bytes, as `lmdata.encoders.word_kernels.find_word` takes them."""
        return self._slots, self.starts, self.bytes

    @property
    def num_bytes(self) -> int:
        """Length of all words together."""
        return int(self.starts[self.num_words])

    @property
    def size_bytes(self) -> int:
        """Memory that the table holds."""
        return self.starts.nbytes + self.bytes.nbytes + self._slots.nbytes

    def word(self, number: int) -> bytes:
        """Return the bytes of one word."""
        return self.bytes[self.starts[number] : self.starts[number + 1]].tobytes()

    def __len__(self) -> int:
        return self.num_words

    def __iter__(self) -> Iterator[bytes]:
        return (self.word(number) for number in range(self.num_words))

    def scan(self, text: U8, offsets: I64, marks: I64) -> Occurrences:
        """Return the words of every document, adding those that are new to the table.

        Args:
            text: uint8 (N,), UTF-8 of all documents
            offsets: int64 (D + 1,), where documents begin; no word crosses a boundary
            marks: int64 (M,), sorted byte positions; the result tells how many words are before
        """
        text, offsets, marks = frozen(text), frozen(offsets), frozen(marks)
        words = np.empty(len(text), np.int32)
        before, cut = np.zeros(len(marks), np.int64), np.full(len(marks), -1, np.int64)
        state = np.zeros(6, np.int64)
        state[NUM_WORDS], state[NUM_BYTES] = self.num_words, self.num_bytes
        if len(offsets) < 2:
            return Occurrences(words[:0], before, cut)
        state[POSITION] = offsets[0]
        inputs = (text, flag_alphanumeric(text), offsets, marks, self._classes)
        status = -1
        while status != DONE:
            status = scan_words(*inputs, *self.arrays, state, words, before, cut)
            self.num_words = int(state[NUM_WORDS])
            if status != DONE:
                self._grow(status, len(text))
        return Occurrences(words[: state[FOUND]], before, cut)

    def _grow(self, status: int, text_bytes: int) -> None:
        if status == BYTES_FULL:
            least = self.num_bytes + text_bytes
            self.bytes = np.resize(self.bytes, max(2 * len(self.bytes), least))
            return
        self.starts = np.resize(self.starts, 2 * len(self.starts))
        slots = np.zeros(2 * len(self._slots), np.uint64)
        move_slots(self._slots, slots)
        self._slots = slots


def frozen(array: Array) -> Array:
    """Return a read-only view: one compiled kernel serves what can and can't be written to."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def ascii_classes() -> U8:
    r"""Return the class table that cuts at ASCII white space and around ASCII punctuation.

    White space is what every tokenizer treats so: tab, line feed, carriage return and space.

    Example:
        >>> [int(ascii_classes()[ord(character)]) for character in "a \t,\x0b\u00e9"]
        [0, 1, 1, 2, 0, 0]
    """
    classes = np.zeros(NUM_CLASSES, np.uint8)
    classes[[ord(character) for character in "\t\n\r "]] = SPACE
    for first, last in ((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)):
        classes[first : last + 1] = ISOLATED
    return classes
