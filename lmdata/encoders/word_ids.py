"""The ids of every distinct word, and copying them in the order of a text.

An entry is four ids wide: how many ids the word has and, up to three, the ids themselves, so that
almost every word costs one access to memory. The ids of longer words lie elsewhere.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lmdata.encoders.word_kernels import I32, I64, Int
from lmdata.intrinsics import prefetch

Ids = npt.NDArray[Any]

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
        self._num_long_ids = self._num_long_words = 0
        self._long_ids: Ids = np.zeros(1 << 10, id_dtype)
        self._long_spans: I64 = np.zeros(1 << 9, np.int64)

    def extend(self, ids: I64, lengths: I64) -> None:
        """Add words: int64 (T,) ids, int64 (W,) how many each has, -1 for still to be given."""
        first, self.num_words = self.num_words, self.num_words + len(lengths)
        if 4 * self.num_words > len(self._entries):
            self._entries = np.resize(self._entries, 8 * self.num_words)
        self.replace(np.arange(first, self.num_words), ids, np.maximum(lengths, 0))

    def replace(self, numbers: I64, ids: I64, lengths: I64) -> None:
        """Give words their ids: int64 (W,) numbers, (T,) ids, int64 (W,) how many each has."""
        stops = np.cumsum(lengths)
        starts = stops - lengths
        self._entries[4 * numbers] = np.minimum(lengths, INLINE + 1)
        for place in range(INLINE):
            has = lengths > place
            self._entries[4 * numbers[has] + place + 1] = ids[starts[has] + place]
        is_long = lengths > INLINE
        if np.any(is_long):
            self._add_long(numbers[is_long], ids[np.repeat(is_long, lengths)], lengths[is_long])

    def _add_long(self, numbers: I64, ids: I64, lengths: I64) -> None:
        """Keep ids elsewhere; the entry says, in two halves of 16 bits, the place of their span."""
        first, self._num_long_words = self._num_long_words, self._num_long_words + len(numbers)
        places = np.arange(first, self._num_long_words)
        self._entries[4 * numbers + 1] = places & 0xFFFF
        self._entries[4 * numbers + 2] = places >> 16
        stops = self._num_long_ids + np.cumsum(lengths)
        self._long_spans = _with_room(self._long_spans, 2 * self._num_long_words)
        self._long_spans[2 * places], self._long_spans[2 * places + 1] = stops - lengths, stops
        begin, self._num_long_ids = self._num_long_ids, self._num_long_ids + len(ids)
        self._long_ids = _with_room(self._long_ids, self._num_long_ids)
        self._long_ids[begin : self._num_long_ids] = ids

    def gather(self, words: I32, before_mark: I64) -> tuple[Ids, I64]:
        """Return the ids of words in order, and how many are before each mark.

        Args:
            words: int32 (W,), numbers of words
            before_mark: int64 (M,), sorted, how many words are before each mark
        """
        ids = np.empty(len(words) * 5 // 4 + 1024, self._entries.dtype)
        before = np.empty(len(before_mark), np.int64)
        state = np.zeros(3, np.int64)
        stores = (self._entries, self._long_ids, self._long_spans)
        while not gather_ids(words, *stores, before_mark, state, ids, before):
            ids = np.resize(ids, 2 * len(ids))
        return ids[: state[_USED]], before


def _with_room(array: Ids, size: int) -> Ids:
    """Return an array with at least `size` places, twice as many if it has to grow."""
    return array if size <= len(array) else np.resize(array, 2 * size)


@numba.njit(cache=True, nogil=True)
def gather_ids(
    words: I32, entries: Ids, long_ids: Ids, long_spans: I64, before_mark: I64, state: I64,
    ids: Ids, before: I64,
) -> bool:  # fmt: skip
    """Copy the ids of words from where `state` says; return False if `ids` is full.

    Args:
        words: int32 (W,), numbers of words
        entries: ids (4 * words of the table,), number of ids and up to INLINE ids of each
        long_ids: ids, of the words that have more
        long_spans: int64, where in `long_ids` those of each begin and end
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
            place = 2 * (np.int64(entries[entry + 1]) | np.int64(entries[entry + 2]) << 16)
            start, count = long_spans[place], long_spans[place + 1] - long_spans[place]
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
