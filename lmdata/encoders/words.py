"""Text to numbered words, in one pass over the bytes, and the ids of every distinct word.

A word is a maximal run of characters of class WORD, or one character of class ISOLATED; characters
of class SPACE belong to no word. Which character is of which class is the caller's to say, so that
the same pass serves every tokenizer whose rules allow such cuts. Words are numbered in the order
in which they are first seen and kept as bytes, exactly: equal hashes are compared byte by byte.

An entry of ids is four wide: how many ids the word has and, up to three, the ids themselves, so
that almost every word costs one access to memory. The ids of longer words lie elsewhere, behind
their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lmdata.encoders.cut_kernels import (
    I32,
    I64,
    ISOLATED,
    NUM_CLASSES,
    SPACE,
    U8,
    U64,
    Int,
)
from lmdata.encoders.window_kernels import POSITION, flag_signs
from lmdata.encoders.word_kernels import (
    BYTES_FULL,
    DONE,
    FOUND,
    NUM_BYTES,
    NUM_WORDS,
    SLOT,
    move_slots,
    scan_words,
)
from lmdata.intrinsics import prefetch
from lmdata.ragged import frozen

Ids = npt.NDArray[Any]


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
        self._slots: U64 = _empty_slots(1 << 14)

    @property
    def arrays(self) -> tuple[U64, I64, U8]:
        """Slots, starts and bytes, as `lmdata.encoders.word_kernels.find_or_add` takes them."""
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
        inputs = (text, *flag_signs(text, self._classes), offsets, marks, self._classes)
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
        slots = _empty_slots(2 * len(self._slots) // SLOT)
        move_slots(self._slots, slots, self.bytes)
        self._slots = slots


def _empty_slots(number: int) -> U64:
    """Return uint64 (SLOT * number,), zeros, so placed that no slot lies in two cache lines."""
    room = np.zeros(SLOT * number + 8, np.uint64)
    begin = -room.ctypes.data % 64 // 8
    return room[begin : begin + SLOT * number]


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


INLINE = 3
"""Most ids that an entry holds itself."""
AHEAD = 24
"""Words between asking for an entry and reading it."""

# Places in the state of an unfinished gathering.
_WORD, _USED, _MARK = range(3)


class WordIds:
    """The ids of every distinct word, by its number.

    Example:
        >>> store = WordIds(np.uint16)
        >>> store.extend(np.array([7, 8, 9]), np.array([1, 2]))
        >>> store.gather(np.array([1, 0, 1], np.int32), np.array([0, 2]))[0].tolist()
        [8, 9, 7, 8, 9]
    """

    def __init__(self, id_dtype: type[np.uint16] | type[np.uint32]) -> None:
        self.num_words = 0
        self._entries: Ids = np.zeros(4 << 13, id_dtype)
        self._num_long_ids = 0
        self._long_ids: Ids = np.zeros(1 << 10, id_dtype)

    @property
    def size_bytes(self) -> int:
        """Memory that the ids hold."""
        return self._entries.nbytes + self._long_ids.nbytes

    def extend(self, ids: Ids, lengths: I64) -> None:
        """Add words: integers (T,) ids, int64 (W,) how many each has, -1 for still to be given."""
        first, self.num_words = self.num_words, self.num_words + len(lengths)
        if 4 * self.num_words > len(self._entries):
            self._entries = np.resize(self._entries, 8 * self.num_words)
        self.replace(np.arange(first, self.num_words), ids, np.maximum(lengths, 0))

    def replace(self, numbers: I64, ids: Ids, lengths: I64) -> None:
        """Give words their ids: integers (T,), and int64 (W,) numbers and how many each has."""
        stops = np.cumsum(lengths)
        starts = stops - lengths
        self._entries[4 * numbers] = np.minimum(lengths, INLINE + 1)
        for place in range(INLINE):
            has = lengths > place
            self._entries[4 * numbers[has] + place + 1] = ids[starts[has] + place]
        is_long = lengths > INLINE
        if np.any(is_long):
            self._add_long(numbers[is_long], ids[np.repeat(is_long, lengths)], lengths[is_long])

    def _add_long(self, numbers: I64, ids: Ids, lengths: I64) -> None:
        """Keep ids elsewhere, their number before them; the entry says where, in halves."""
        begins = self._num_long_ids + np.cumsum(lengths + 2) - lengths - 2
        places = np.arange(len(ids)) + np.repeat(2 * np.arange(1, len(lengths) + 1), lengths)
        first, self._num_long_ids = self._num_long_ids, int(begins[-1] + 2 + lengths[-1])
        self._long_ids = _with_room(self._long_ids, self._num_long_ids)
        self._long_ids[first + places] = ids
        self._long_ids[begins], self._long_ids[begins + 1] = lengths & 0xFFFF, lengths >> 16
        self._entries[4 * numbers + 1] = begins & 0xFFFF
        self._entries[4 * numbers + 2] = begins >> 16

    def gather(self, words: I32, before_mark: I64) -> tuple[Ids, I64]:
        """Return the ids of words in order, and how many are before each mark.

        Args:
            words: int32 (W,), numbers of words
            before_mark: int64 (M,), sorted, how many words are before each mark
        """
        ids = np.empty(len(words) * 5 // 4 + 1024, self._entries.dtype)
        before = np.empty(len(before_mark), np.int64)
        state = np.zeros(3, np.int64)
        stores = (self._entries, self._long_ids)
        while not gather_ids(words, *stores, before_mark, state, ids, before):
            ids = np.resize(ids, 2 * len(ids))
        return ids[: state[_USED]], before


def _with_room(array: Ids, size: int) -> Ids:
    """Return an array with at least `size` places, twice as many if it has to grow."""
    return array if size <= len(array) else np.resize(array, 2 * size)


@numba.njit(cache=True, nogil=True)
def gather_ids(
    words: I32, entries: Ids, long_ids: Ids, before_mark: I64, state: I64, ids: Ids, before: I64,
) -> bool:  # fmt: skip
    """Copy the ids of words from where `state` says; return False if `ids` is full.

    Args:
        words: int32 (W,), numbers of words
        entries: ids (4 * words of the table,), number of ids and up to INLINE ids of each
        long_ids: ids, of the words that have more, behind their number in two halves
        before_mark: int64 (M,), sorted, how many words are before each mark
        state: int64 (3,), word, ids used and mark reached; moved on
        ids: filled with the ids of all words
        before: int64 (M,), filled with how many ids are before each mark
    """
    mark: Int = state[_MARK]
    used: Int = state[_USED]
    next_mark = before_mark[mark] if mark < len(before_mark) else len(words) + 1
    for index in range(state[_WORD], len(words)):
        if index + AHEAD < len(words):
            prefetch(entries, 4 * words[index + AHEAD])
        entry = 4 * np.int64(words[index])
        count: Int = np.int64(entries[entry])
        start: Int = 0
        if count > INLINE:
            start = (np.int64(entries[entry + 1]) | np.int64(entries[entry + 2]) << 16) + 2
            count = np.int64(long_ids[start - 2]) | np.int64(long_ids[start - 1]) << 16
        if used + max(count, INLINE) > len(ids):
            state[_WORD], state[_MARK], state[_USED] = index, mark, used
            return False
        while next_mark == index:
            before[mark] = used
            mark += 1
            next_mark = before_mark[mark] if mark < len(before_mark) else len(words) + 1
        if count <= INLINE:
            for offset in range(INLINE):
                ids[used + offset] = entries[entry + 1 + offset]
        else:
            for offset in range(count):
                ids[used + offset] = long_ids[start + offset]
        used += count
    before[mark:] = used
    state[_USED] = used
    return True
