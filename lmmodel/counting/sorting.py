"""Lines of ids to their distinct n-grams, by sorting: a trie, level by level.

Each position of the text begins one n-gram. Its first id says which bucket it belongs to, the ids
after it are packed into words of 64 bits (one for orders up to 5 and vocabularies up to 65,533
pieces), and the keys of a bucket are sorted by radix. Equal beginnings then lie together, so that
one scan finds the distinct n-grams of all orders. Ranges of buckets depend on nothing else: several
threads take them, each with memory for one range, and the results are put together in order.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numba
import numpy as np

from lmdata.ragged import offsets_of
from lmmodel.counting.keys import (
    Layout,
    Lines,
    count_distinct,
    fill_levels,
    gather,
    make_layout,
    sort_buckets,
)
from lmmodel.errors import MemoryLimitError

# Positions whose keys one thread sorts at a time, some 80 bytes each with what comes of them: so
# many, or a part of the text.
MIN_RANGE = 1 << 21
MAX_RANGES = 32

MOST_NODES = 2**32 - 1
"""N-grams of all orders together."""


@dataclass
class Level:
    """The distinct n-grams of one order, sorted; each but those of order 1 follows its context.

    Attributes:
        words: uint16 | uint32 (M,), the last id of each
        first_child: uint32 (M + 1,), where the next level's n-grams that begin with it lie; empty
            at the highest order
        counts: uint32 (M,), how often each occurs at the highest order; at lower orders of those
            alone that begin with a line's begin, the last of a level: the others' is not needed
    """

    words: np.ndarray
    first_child: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class _Range:
    """N-grams whose first two ids, as a code, lie in [low, high)."""

    low: int
    high: int


def num_usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def find_levels(
    text: Lines, order: int, num_threads: int = 1, most: int | None = None
) -> list[Level]:
    """Return the distinct n-grams of orders 1 to `order`; level 1 holds every id, seen or not.

    Args:
        text: at least one line
        order: at least 1
        num_threads: whatever it is, the result is the same
        most: positions of a range; None: by the length of the text

    Example:
        >>> text = Lines(np.array([4, 0, 1, 3, 4, 0, 0, 3], np.uint16), num_pieces=3)
        >>> [level.words.tolist() for level in find_levels(text, 2)]
        [[0, 1, 2, 3, 4], [0, 1, 3, 3, 0]]
        >>> [level.counts.tolist() for level in find_levels(text, 2)]
        [[2], [1, 1, 1, 1, 2]]
    """
    counts = count_ids(text.ids, text.num_ids)
    dtype = text.ids.dtype
    first = Level(np.arange(text.num_ids, dtype=dtype), np.zeros(0, np.uint32), counts[-1:])
    if order == 1:
        first.counts = counts
        return [first]
    layout = make_layout(text.num_ids, order)
    ranges = _plan(text, counts, most or max(MIN_RANGE, len(text.ids) // MAX_RANGES))
    with ThreadPoolExecutor(num_threads) as pool:
        parts = list(pool.map(partial(_count_range, text, layout, counts), ranges))
    num_children = np.zeros(text.num_ids, np.int64)
    for part in parts:
        num_children += part.num_bigrams
    first.first_child = offsets_of(num_children).astype(np.uint32)
    levels = [first, *(_join(parts, n, order) for n in range(2, order + 1))]
    _give_back_memory()
    return levels


def _give_back_memory() -> None:
    """Have the C library give what the parts took back to the system, where it can be asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # of glibc, which keeps the pages of each thread's small arrays
        trim(0)


@numba.njit(cache=True, nogil=True)
def count_ids(ids: np.ndarray, num_ids: int) -> np.ndarray:
    """Return how often each id occurs: uint32 (num_ids,).

    Example:
        >>> count_ids(np.array([1, 1, 0], np.uint16), 3).tolist()
        [1, 2, 0]
    """
    counts = np.zeros(num_ids, np.uint32)
    for index in range(len(ids)):
        counts[ids[index]] += 1
    return counts


@numba.njit(cache=True, nogil=True)
def _count_followers(ids: np.ndarray, first: int, end: int, num_ids: int) -> np.ndarray:
    """Return how often each id, plus 1, follows one; 0: nothing does: int64 (num_ids + 1,)."""
    counts = np.zeros(num_ids + 1, np.int64)
    for index in range(len(ids)):
        if ids[index] == first:
            counts[0 if first == end else ids[index + 1] + 1] += 1
    return counts


def _plan(text: Lines, counts: np.ndarray, most: int) -> list[_Range]:
    """Return ranges of at most so many positions, or of one pair of ids; the begin's are last."""
    stride = text.num_ids + 1
    ranges: list[_Range] = []
    is_heavy = counts > most
    is_heavy[text.begin] = True
    start = 0
    for heavy in np.flatnonzero(is_heavy).tolist():
        bounds = start + _cuts(counts[start:heavy], most)
        ranges += [_Range(a * stride, b * stride) for a, b in pairwise(bounds.tolist())]
        followers = _count_followers(text.ids, heavy, text.end, text.num_ids)
        bounds = heavy * stride + _cuts(followers, most)
        ranges += [_Range(a, b) for a, b in pairwise(bounds.tolist())]
        start = heavy + 1
    return ranges


def _cuts(counts: np.ndarray, most: int) -> np.ndarray:
    """Return bounds of runs of counts that sum to at most so much, or are one: int64 (R + 1,).

    Example:
        >>> _cuts(np.array([3, 1, 1, 9, 2]), 4).tolist()
        [0, 2, 3, 4, 5]
    """
    bounds, total = [0], 0
    for index, count in enumerate(counts.tolist()):
        if total and total + count > most:
            bounds.append(index)
            total = 0
        total += count
    return np.array([*bounds, len(counts)] if len(counts) else [0], np.int64)


@dataclass
class _Part:
    """The n-grams of one range; lists by order from 2."""

    num_bigrams: np.ndarray  # int64 (num_ids,), that begin with each id
    words: list[np.ndarray]
    first_child: list[np.ndarray]  # within the part
    counts: list[np.ndarray]


def _count_range(text: Lines, layout: Layout, counts: np.ndarray, wanted: _Range) -> _Part:
    stride = text.num_ids + 1
    low, high = wanted.low // stride, -(-wanted.high // stride)
    starts = offsets_of(counts[low:high])
    if (wanted.low % stride or wanted.high % stride) and high - low == 1:
        followers = _count_followers(text.ids, low, text.end, text.num_ids)
        starts[1] = followers[wanted.low - low * stride : wanted.high - low * stride].sum()
    keys = np.zeros((starts[-1], layout.num_words), np.uint64)
    gather(text.ids, text.end, wanted.low, wanted.high, layout, starts[:-1].copy(), keys)
    sort_buckets(keys, starts, layout)
    sizes = count_distinct(keys, starts, layout)
    bases = offsets_of(sizes)
    words = np.empty(bases[-1], text.ids.dtype)
    first_child, counted = np.empty(len(words), np.uint32), np.zeros(len(words), np.uint32)
    num_bigrams = np.zeros(text.num_ids, np.int64)
    fill_levels(keys, starts, layout, bases, words, first_child, counted, num_bigrams[low:high])
    lowest_counted = 2 if low == text.begin else layout.order
    levels = [slice(*pair) for pair in pairwise(bases.tolist())]
    return _Part(
        num_bigrams,
        words=[words[own].copy() for own in levels],
        first_child=[first_child[own].copy() for own in levels],
        counts=[counted[own if n >= lowest_counted else slice(0)].copy()
                for n, own in enumerate(levels, start=2)],
    )  # fmt: skip


def _join(parts: list[_Part], order: int, highest: int) -> Level:
    """Return the level of an order from the parts, which lose it.

    Raises:
        MemoryLimitError: there are more n-grams than places that are counted in 32 bits
    """
    place = order - 2
    level = Level(
        words=np.concatenate([part.words[place] for part in parts]),
        first_child=np.zeros(0, np.uint32),
        counts=np.concatenate([part.counts[place] for part in parts]),
    )
    if order < highest:
        shifts = offsets_of([len(part.words[place + 1]) for part in parts]).tolist()
        if shifts[-1] >= MOST_NODES:
            raise MemoryLimitError(
                f"there are {shifts[-1]:,} n-grams of order {order + 1}, more than a model holds "
                f"({MOST_NODES:,}): lower --order"
            )
        starts = [part.first_child[place] + np.uint32(shift)
                  for part, shift in zip(parts, shifts, strict=False)]  # fmt: skip
        level.first_child = np.concatenate([*starts, np.array(shifts[-1:], np.uint32)])
    for part in parts:
        part.words[place] = part.first_child[place] = part.counts[place] = np.zeros(0, np.uint32)
    return level
