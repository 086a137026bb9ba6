"""Lengths to rows: which pieces share a row of the packed view (pure)."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from lmdata.ragged import Ragged
from lmdata.viewing.store_table import scratch_array

_CHUNK = 1 << 20


class PackingPlan(NamedTuple):
    """Which pieces lie in which row.

    Attributes:
        pieces: uint32 or int64 (P,), piece numbers, those of one row together
        row_offsets: int64 (R + 1,), into `pieces`
    """

    pieces: np.ndarray
    row_offsets: np.ndarray

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.row_offsets) - 1

    def pieces_of(self, rows: np.ndarray) -> Ragged:
        """Return the pieces of some rows, int64 (S,), by row.

        Args:
            rows: int64 (B,)
        """
        found = Ragged(self.pieces, self.row_offsets).take(rows)
        return Ragged(found.values.astype(np.int64), found.offsets)


def to_row_sizes(sizes: np.ndarray, taken: np.ndarray) -> int:
    """Change the texts of pieces to what they take of a row, and return the sum.

    Args:
        sizes: uint16 (P,), tokens of each text; changed
        taken: integers (longest + 1,), what texts of 0, 1, ... tokens take

    Example:
        >>> sizes = np.array([3, 1], np.uint16)
        >>> to_row_sizes(sizes, np.arange(2, 6)), sizes.tolist()
        (8, [5, 3])
    """
    total, taken = 0, taken.astype(np.uint16)
    for start in range(0, len(sizes), _CHUNK):  # they may lie on disk
        part = sizes[start : start + _CHUNK]
        part[:] = taken[part]
        total += int(part.sum(dtype=np.int64))
    return total


def pack(sizes: np.ndarray, capacity: int) -> PackingPlan:
    """Return a plan that puts every piece into exactly one row, best fit first.

    Best-fit decreasing: the longest piece first, each into the fullest row that still takes it
    (Johnson, 1974: at most 11/9 of the best possible number of rows, plus 4). Pieces of one size
    come from a counting sort and rows of one free space from a stack, so the cost is linear.

    Args:
        sizes: uint16 (P,), tokens of each piece with its own special tokens, 1 .. capacity
        capacity: tokens of a row

    Raises:
        ValueError: a size is outside [1, capacity]

    Example:
        >>> plan = pack(np.array([3, 5, 2, 6, 4], np.uint16), 8)
        >>> [row.tolist() for row in np.split(plan.pieces, plan.row_offsets[1:-1])]
        [[2, 3], [0, 1], [4]]
    """
    sizes = np.ascontiguousarray(sizes, np.uint16)
    counts = _count_by_size(sizes, capacity)
    dtype = np.uint32 if len(sizes) < 2**32 - 1 else np.int64
    rows, below_top, pieces = (scratch_array(len(sizes), dtype) for _ in range(3))
    _sort_by_size(sizes, counts, pieces)
    num_rows = _best_fit(pieces, counts, capacity, below_top, rows)
    offsets = scratch_array(num_rows + 1, np.int64)
    _group_by_row(rows, pieces, offsets)
    return PackingPlan(pieces, offsets)


def count_rows(sizes: np.ndarray, capacity: int) -> int:
    """Return how many rows `pack` would need, without a plan.

    Args:
        sizes: uint16 (P,), as for `pack`
        capacity: tokens of a row

    Raises:
        ValueError: a size is outside [1, capacity]

    Example:
        >>> count_rows(np.array([3, 5, 2, 6, 4], np.uint16), 8)
        3
    """
    return int(_count_rows(_count_by_size(np.ascontiguousarray(sizes, np.uint16), capacity)))


def _count_by_size(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Return how many pieces there are of each size, int64 (capacity + 2,)."""
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= capacity:
        raise ValueError(f"sizes must be in [1, {capacity}], got {sizes.min()} to {sizes.max()}")
    counts = np.zeros(capacity + 2, np.int64)
    _add_counts(sizes, counts)
    return counts


@numba.njit(cache=True, nogil=True)
def _add_counts(sizes: np.ndarray, counts: np.ndarray) -> None:
    for size in sizes:
        counts[size] += 1


@numba.njit(cache=True, nogil=True)
def _count_rows(counts: np.ndarray) -> int:
    """Return the number of rows of `_best_fit`, which depends on the counts of sizes alone.

    Pieces of one size fill the tightest rows first, each with as many as it takes.

    Args:
        counts: int64 (capacity + 2,), pieces of each size
    """
    capacity, num_rows = len(counts) - 2, 0
    with_free = np.zeros(capacity + 1, np.int64)  # rows by their free space
    for size in range(capacity, 0, -1):
        left = counts[size]
        for free in range(size, capacity + 1):
            if left == 0:
                break
            each = free // size
            available = with_free[free] if free < capacity else (left + each - 1) // each
            full, rest = min(available, left // each), 0
            if full < available:
                rest = left - full * each
            if free < capacity:
                with_free[free] -= full + (rest > 0)
            else:
                num_rows += full + (rest > 0)
            with_free[free - each * size] += full
            if rest > 0:
                with_free[free - rest * size] += 1
            left -= full * each + rest
    return num_rows


@numba.njit(cache=True, nogil=True)
def _sort_by_size(sizes: np.ndarray, counts: np.ndarray, order: np.ndarray) -> None:
    """Fill `order`, integers (P,), with the pieces from the longest to the shortest.

    Args:
        sizes: uint16 (P,), tokens of each piece
        counts: int64 (capacity + 2,), pieces of each size
        order: written
    """
    capacity = len(counts) - 2
    next_slot = np.zeros(capacity + 2, np.int64)
    for size in range(capacity, -1, -1):
        next_slot[size] = next_slot[size + 1] + counts[size + 1]
    for piece in range(len(sizes)):
        order[next_slot[sizes[piece]]] = piece
        next_slot[sizes[piece]] += 1


@numba.njit(cache=True, nogil=True)
def _best_fit(
    order: np.ndarray, counts: np.ndarray, capacity: int, below_top: np.ndarray, rows: np.ndarray
) -> int:
    """Fill `rows` with the row of each piece, (P,), and return the number of rows.

    Args:
        order: integers (P,), the pieces from the longest to the shortest
        counts: int64 (capacity + 2,), pieces of each size
        capacity: tokens of a row
        below_top: integers (P,), filled: of each row, 1 + the row below it on its stack, 0 for none
        rows: integers (P,)
    """
    top = np.full(capacity + 1, -1, np.int64)  # by free space: the last row with it
    num_rows, done = 0, 0
    for size in range(capacity, 0, -1):
        free = size  # the rows that fit tightest; only grows while `size` stays
        for piece in order[done : done + counts[size]]:
            while free <= capacity and top[free] < 0:
                free += 1
            if free <= capacity:
                row = top[free]
                top[free] = np.int64(below_top[row]) - 1
                left = free - size
            else:
                row, left = num_rows, capacity - size
                num_rows += 1
            below_top[row] = top[left] + 1
            top[left] = row
            rows[piece] = row
            if left >= size:
                free = min(free, left)
        done += counts[size]
    return num_rows


@numba.njit(cache=True, nogil=True)
def _group_by_row(rows: np.ndarray, pieces: np.ndarray, offsets: np.ndarray) -> None:
    """Fill `pieces`, (P,), with the pieces in the order of their rows, `offsets` with the bounds.

    Each row's offset counts up to where the row ends, then all move on by one place.
    """
    offsets[:] = 0
    for row in rows:
        offsets[np.int64(row) + 1] += 1
    for row in range(len(offsets) - 1):
        offsets[row + 1] += offsets[row]
    for piece in range(len(rows)):
        row = np.int64(rows[piece])
        pieces[offsets[row]] = piece
        offsets[row] += 1
    for row in range(len(offsets) - 1, 0, -1):
        offsets[row] = offsets[row - 1]
    offsets[0] = 0
