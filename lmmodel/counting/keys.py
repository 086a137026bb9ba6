"""Documents as lines of ids, and their n-grams as keys of 64-bit words.

Each line lies between a begin and an end. A key holds the ids behind the first one of an n-gram,
each plus 1, the first of them highest; 0 stands where the line has ended. So keys sort as n-grams
do, a shorter one before its longer ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from lmdata.dataset import ExampleSet, TokenStore
from lmdata.ragged import frozen, offsets_of
from lmdata.rng import draw, stream_key

# ---- Lines


_ROWS = 4096  # of frozen examples that are read at a time


@dataclass(frozen=True)
class Lines:
    """Lines one after the other, each between a begin and an end.

    Attributes:
        ids: uint16 | uint32 (T,); pieces below `num_pieces`, then the end, then the begin
        num_pieces: of the vocabulary
    """

    ids: np.ndarray
    num_pieces: int

    @property
    def end(self) -> int:
        """The id behind each line."""
        return self.num_pieces

    @property
    def begin(self) -> int:
        """The id before each line, the highest of all."""
        return self.num_pieces + 1

    @property
    def num_ids(self) -> int:
        """Ids that there may be."""
        return self.num_pieces + 2

    def reversed(self) -> Lines:
        """Return each line from its last piece to its first.

        Example:
            >>> Lines(np.array([4, 0, 1, 3], np.uint16), num_pieces=3).reversed().ids.tolist()
            [4, 1, 0, 3]
        """
        ids = self.ids[::-1].copy()
        was_begin = ids == self.begin
        ids[ids == self.end] = self.begin
        ids[was_begin] = self.end
        return Lines(ids, self.num_pieces)


def lines_of_store(
    store: TokenStore, most_tokens: int | None = None, is_taken: np.ndarray | None = None
) -> Lines:
    """Return the documents of a store, each a line; of a large store a fair sample.

    Args:
        store: of one split
        most_tokens: documents are drawn by chance so that about so many tokens are left at most;
            None: all
        is_taken: bool (num_documents,) of those that count; None: all
    """
    num_pieces = store.tokenizer.vocab_size
    share = 1.0 if most_tokens is None else most_tokens / max(store.num_tokens, 1)
    parts = [np.zeros(0, _dtype(num_pieces))]
    for block in store.blocks:
        rows = np.arange(block.first_row, block.first_row + block.num_documents)
        is_own = _is_drawn(rows, share) & (True if is_taken is None else is_taken[rows])
        parts.append(lay_out(block.ids, block.id_offsets, is_own, num_pieces))
    return Lines(np.concatenate(parts), num_pieces)


def lines_of_examples(examples: ExampleSet, most_tokens: int | None = None) -> Lines:
    """Return frozen examples as they were before corruption, as lines without special tokens.

    Args:
        examples: of one split
        most_tokens: as in `lines_of_store`
    """
    tokenizer = examples.tokenizer
    num_pieces, is_special = tokenizer.vocab_size, tokenizer.is_special
    rows, parts, num_tokens = np.arange(examples.num_examples), [np.zeros(0, _dtype(num_pieces))], 0
    rows = rows[
        np.argsort(draw(stream_key(0, "yardstick"), rows, np.zeros_like(rows)), kind="stable")
    ]
    for start in range(0, len(rows), _ROWS):
        if most_tokens is not None and num_tokens >= most_tokens:
            break
        batch = examples.rows(np.sort(rows[start : start + _ROWS]))
        texts = examples.original(batch)
        ids, bounds = texts.values, texts.offsets
        is_kept = ~is_special[ids]
        breaks = np.union1d(np.flatnonzero(~is_kept), bounds)
        before = offsets_of(is_kept)[breaks]
        lengths = np.diff(before)
        offsets = offsets_of(lengths[lengths > 0])
        taken = np.ones(len(offsets) - 1, bool)
        parts.append(lay_out(ids[is_kept], offsets, taken, num_pieces))
        num_tokens += len(ids)
    return Lines(np.concatenate(parts), num_pieces)


def _dtype(num_pieces: int) -> type[np.unsignedinteger]:
    return np.uint16 if num_pieces + 2 <= 1 << 16 else np.uint32


def _is_drawn(rows: np.ndarray, share: float) -> np.ndarray:
    """Return which documents, int64 (d,), are in a sample of this share: bool (d,)."""
    if share >= 1:
        return np.ones(len(rows), bool)
    return np.asarray(draw(stream_key(0, "yardstick"), rows, np.zeros_like(rows)) < share * 2**32)


def lay_out(
    ids: np.ndarray, offsets: np.ndarray, is_taken: np.ndarray, num_pieces: int
) -> np.ndarray:
    """Return those documents that are taken as lines, each between a begin and an end.

    Args:
        ids: uint16 | uint32 (t,)
        offsets: int64 (d + 1,), where documents begin in `ids`
        is_taken: bool (d,)
        num_pieces: of the vocabulary

    Returns:
        uint16 | uint32 (T,)

    Example:
        >>> ids, taken = np.array([0, 1, 1], np.uint16), np.array([True, False])
        >>> lay_out(ids, np.array([0, 2, 3]), taken, num_pieces=3).tolist()
        [4, 0, 1, 3]
    """
    lengths = np.diff(offsets)[is_taken]
    lines = np.empty(int(lengths.sum()) + 2 * len(lengths), _dtype(num_pieces))
    _copy_lines(frozen(ids), frozen(offsets), is_taken, num_pieces, lines)
    return lines


@numba.njit(cache=True, nogil=True)
def _copy_lines(
    ids: np.ndarray, offsets: np.ndarray, is_taken: np.ndarray, end: int, lines: np.ndarray
) -> None:
    place = 0
    for row in range(len(is_taken)):
        if not is_taken[row]:
            continue
        lines[place] = end + 1
        place += 1
        for index in range(offsets[row], offsets[row + 1]):
            lines[place] = ids[index]
            place += 1
        lines[place] = end
        place += 1


# ---- Keys: gathered from the text, sorted by radix, read off in order


_DIGIT_BITS = 8
_FEW = 24  # keys that are sorted by insertion


class Layout(NamedTuple):
    """How the ids after the first are packed: `per_word` of `num_bits` each, the first highest."""

    order: int
    num_bits: int
    per_word: int
    num_words: int


def make_layout(num_ids: int, order: int) -> Layout:
    """Return how n-grams of so many ids are packed.

    Example:
        >>> make_layout(30_524, 5)
        Layout(order=5, num_bits=15, per_word=4, num_words=1)
    """
    num_bits = int(num_ids).bit_length()  # an id is kept plus 1: 0 stands behind the end of a line
    per_word = 64 // num_bits
    return Layout(order, num_bits, per_word, -(-(order - 1) // per_word))


@numba.njit(cache=True, nogil=True)
def gather(
    ids: np.ndarray, end: int, low: int, high: int, layout: Layout, cursors: np.ndarray,
    keys: np.ndarray,
) -> None:  # fmt: skip
    """Put the key of each position of a range into the bucket of its first id.

    Args:
        ids: uint16 | uint32 (T,) of the text
        end: the id behind each line
        low: code of the first pair of ids
        high: code behind the last
        layout: of the keys
        cursors: int64 (B,), where each bucket begins; they move to its end
        keys: uint64 (n, num_words), zeros, written
    """
    stride = end + 3
    first_low, first_high = low // stride, (high - 1) // stride
    is_partial = low % stride != 0 or high % stride != 0
    for start in range(len(ids)):
        first = np.int64(ids[start])
        if first < first_low or first > first_high:
            continue
        if is_partial:
            following = 0 if first == end else np.int64(ids[start + 1]) + 1
            code = first * stride + following
            if code < low or code >= high:
                continue
        slot = cursors[first - first_low]
        cursors[first - first_low] = slot + 1
        last, place = first, start + 1
        word, left = 0, layout.per_word
        key = np.uint64(0)
        for _ in range(layout.order - 1):
            if last == end:
                break
            if left == 0:
                keys[slot, word] = key
                word, left, key = word + 1, layout.per_word, np.uint64(0)
            last = np.int64(ids[place])
            place += 1
            left -= 1
            key |= np.uint64(last + 1) << np.uint64(left * layout.num_bits)
        keys[slot, word] = key


@numba.njit(cache=True, nogil=True)
def sort_buckets(keys: np.ndarray, starts: np.ndarray, layout: Layout) -> None:
    """Sort the keys, uint64 (n, num_words), of each bucket."""
    largest = 0
    for bucket in range(len(starts) - 1):
        largest = max(largest, starts[bucket + 1] - starts[bucket])
    other = np.empty((largest, keys.shape[1]), np.uint64)
    for bucket in range(len(starts) - 1):
        own = keys[starts[bucket] : starts[bucket + 1]]
        if len(own) <= _FEW:
            _sort_few(own)
        else:
            _sort_many(own, other, layout.per_word * layout.num_bits)


@numba.njit(cache=True, nogil=True)
def _is_below(keys: np.ndarray, row: int, key: np.ndarray) -> bool:
    for word in range(len(key)):
        if key[word] != keys[row, word]:
            return bool(key[word] < keys[row, word])
    return False


@numba.njit(cache=True, nogil=True)
def _sort_few(keys: np.ndarray) -> None:
    key = np.empty(keys.shape[1], np.uint64)
    for index in range(1, len(keys)):
        for word in range(len(key)):
            key[word] = keys[index, word]
        place = index
        while place > 0 and _is_below(keys, place - 1, key):
            for word in range(len(key)):
                keys[place, word] = keys[place - 1, word]
            place -= 1
        for word in range(len(key)):
            keys[place, word] = key[word]


@numba.njit(cache=True, nogil=True)
def _sort_many(keys: np.ndarray, other: np.ndarray, num_bits: int) -> None:
    """Sort by digits, the lowest first; those that all keys share are passed over."""
    num_words = keys.shape[1]
    source, target = keys, other[: len(keys)]
    mask = np.uint64((1 << _DIGIT_BITS) - 1)
    ends = np.empty(1 << _DIGIT_BITS, np.int64)
    is_moved = False
    for word in range(num_words - 1, -1, -1):
        for shift in range(0, num_bits, _DIGIT_BITS):
            ends[:] = 0
            by = np.uint64(shift)
            for index in range(len(source)):
                ends[(source[index, word] >> by) & mask] += 1
            if ends[(source[0, word] >> by) & mask] == len(source):
                continue
            total = 0
            for digit in range(len(ends)):
                count = ends[digit]
                ends[digit] = total
                total += count
            for index in range(len(source)):
                digit = (source[index, word] >> by) & mask
                place = ends[digit]
                ends[digit] = place + 1
                for part in range(num_words):
                    target[place, part] = source[index, part]
            source, target = target, source
            is_moved = not is_moved
    if is_moved:
        for index in range(len(source)):
            for part in range(num_words):
                target[index, part] = source[index, part]


@numba.njit(cache=True, nogil=True)
def _id_at(keys: np.ndarray, row: int, depth: int, layout: Layout) -> np.int64:
    """Return the id, plus 1, at a depth (from 1) of a key; 0: the line has ended."""
    word, place = (depth - 1) // layout.per_word, (depth - 1) % layout.per_word
    shift = np.uint64((layout.per_word - 1 - place) * layout.num_bits)
    mask = (np.uint64(1) << np.uint64(layout.num_bits)) - np.uint64(1)
    return np.int64((keys[row, word] >> shift) & mask)


@numba.njit(cache=True, nogil=True)
def _first_difference(keys: np.ndarray, row: int, layout: Layout) -> int:
    """Return the first depth at which a key differs from the one before; the order if none."""
    for depth in range(1, layout.order):
        if _id_at(keys, row, depth, layout) != _id_at(keys, row - 1, depth, layout):
            return depth
    return layout.order


@numba.njit(cache=True, nogil=True)
def count_distinct(keys: np.ndarray, starts: np.ndarray, layout: Layout) -> np.ndarray:
    """Return how many distinct n-grams there are of each order from 2: int64 (order - 1,)."""
    sizes = np.zeros(layout.order - 1, np.int64)
    for bucket in range(len(starts) - 1):
        for row in range(starts[bucket], starts[bucket + 1]):
            depth = 1 if row == starts[bucket] else _first_difference(keys, row, layout)
            while depth < layout.order and _id_at(keys, row, depth, layout) > 0:
                sizes[depth - 1] += 1
                depth += 1
    return sizes


@numba.njit(cache=True, nogil=True)
def fill_levels(
    keys: np.ndarray, starts: np.ndarray, layout: Layout, bases: np.ndarray, words: np.ndarray,
    first_child: np.ndarray, counts: np.ndarray, num_bigrams: np.ndarray,
) -> None:  # fmt: skip
    """Write the distinct n-grams of sorted keys, those of order n from `bases[n - 2]` on.

    Args:
        keys: uint64 (n, num_words), sorted within each bucket
        starts: int64 (B + 1,) of the buckets
        layout: of the keys
        bases: int64 (order,)
        words: uint16 | uint32 (M,), written: the last id of each n-gram
        first_child: uint32 (M,), written: place of the first longer one in the next order
        counts: uint32 (M,), zeros, written: how often each occurs
        num_bigrams: int64 (B,), written: distinct ids behind the first id of each bucket
    """
    filled = np.zeros(layout.order, np.int64)  # n-grams of each order from 2, and a 0
    for bucket in range(len(starts) - 1):
        before = filled[0]
        for row in range(starts[bucket], starts[bucket + 1]):
            differs = 1 if row == starts[bucket] else _first_difference(keys, row, layout)
            for depth in range(1, layout.order):
                word = _id_at(keys, row, depth, layout)
                if word == 0:
                    break
                place = bases[depth - 1] + filled[depth - 1]
                if depth >= differs:
                    words[place] = word - 1
                    first_child[place] = filled[depth]
                    filled[depth - 1] += 1
                else:
                    place -= 1
                counts[place] += 1
        num_bigrams[bucket] = filled[0] - before
