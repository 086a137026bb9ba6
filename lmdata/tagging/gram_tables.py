"""Tables of hashes in which rules count n-grams, and which places they need to count (kernels)."""

from __future__ import annotations

import numba
import numpy as np

from lmdata.encoders.cut_kernels import Int
from lmdata.intrinsics import int64

MIX = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(cache=True, nogil=True)
def table_size(num_keys: int) -> int:
    """Return the slots of a table of so many keys: a power of two, twice as many at least.

    Example:
        >>> table_size(5)
        16
    """
    size = 8
    while size < 2 * num_keys:
        size *= 2
    return size


@numba.njit(cache=True, nogil=True)
def find_slot(keys: np.ndarray, mask: int, key: Int) -> Int:
    """Return the slot that holds a key, or the free one, 0, where it belongs."""
    slot = np.int64((key * MIX) >> np.uint64(32)) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True, nogil=True)
def count_places(
    n: int, hashes: np.ndarray, chosen: np.ndarray, num_chosen: int, keys: np.ndarray,
    totals: np.ndarray, firsts: np.ndarray, slots: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """Return how often the first n-gram that occurs most does, and at which word; count all.

    Where none occurs twice: once, at word 0.

    Args:
        n: words
        hashes: uint64, of the words of a document
        chosen: int64, at which words an n-gram may occur twice
        num_chosen: how many
        keys: uint64, a table of the n-grams; written
        totals: int32, how often each occurs, by its slot; written
        firsts: int64, at which word it occurs first, by its slot; written
        slots: int64, of each chosen place; written
    """
    mask = table_size(num_chosen) - 1
    keys[: mask + 1] = 0
    top, place = 1, int64(0)
    for position in range(num_chosen):
        index = chosen[position]
        key = np.uint64(n)
        for word in range(index, index + n):
            key = (key ^ hashes[word]) * MIX
            key ^= key >> np.uint64(31)
        key |= np.uint64(1)
        slot = find_slot(keys, mask, key)
        if keys[slot] == 0:
            keys[slot] = key
            totals[slot], firsts[slot] = 0, index
        totals[slot] += 1
        slots[position] = slot
        total, own = totals[slot], firsts[slot]
        if total > top or (total == top and total > 1 and own < place):
            top, place = total, own
    return top, place


@numba.njit(cache=True, nogil=True)
def choose_pairs(hashes: np.ndarray, num_words: int, chosen: np.ndarray, seen: np.ndarray) -> int:
    """Write at which words a pair begins that may occur twice, and return how many."""
    mask = 4 * table_size(num_words) - 1
    seen[: mask + 1] = 0
    for index in range(num_words - 1):
        slot = _pair_slot(hashes[index], hashes[index + 1], mask)
        seen[slot] = seen[slot] * 2 + 1  # once: 1, twice or more: above it
    num_chosen = 0
    for index in range(num_words - 1):
        chosen[num_chosen] = index
        num_chosen += seen[_pair_slot(hashes[index], hashes[index + 1], mask)] > 1
    return num_chosen


@numba.njit(cache=True, nogil=True)
def choose_longer(
    n: int, num_words: int, chosen: np.ndarray, num_chosen: int, totals: np.ndarray,
    slots: np.ndarray,
) -> int:  # fmt: skip
    """Keep the places at which n + 1 words may occur twice, since both parts do.

    Args:
        n: words
        num_words: of the document
        chosen: int64, ascending, at which n words may occur twice; written
        num_chosen: how many
        totals: by slot, how often they occur
        slots: of each place
    """
    kept = 0
    for position in range(num_chosen):
        index = chosen[position]
        if totals[slots[position]] > 1 and index + n < num_words:
            chosen[kept] = index
            kept += 1
    num_chosen = 0
    for position in range(kept):
        index = chosen[position]
        is_followed = position + 1 < kept and chosen[position + 1] == index + 1
        if is_followed or index + 1 + n == num_words:
            chosen[num_chosen] = index
            num_chosen += 1
    return num_chosen


@numba.njit(cache=True, nogil=True)
def _pair_slot(one: Int, other: Int, mask: int) -> Int:
    return np.int64(((one ^ (other * MIX)) * MIX) >> np.uint64(33)) & mask
