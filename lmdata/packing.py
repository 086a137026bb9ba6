"""Lengths to rows: which pieces share a row of the packed view (pure)."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np


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
    if len(sizes) and not 1 <= sizes.min() <= sizes.max() <= capacity:
        raise ValueError(f"sizes must be in [1, {capacity}], got {sizes.min()} to {sizes.max()}")
    rows, num_rows = _best_fit(np.ascontiguousarray(sizes, np.uint16), capacity)
    dtype = np.uint32 if len(sizes) < 2**32 else np.int64
    return PackingPlan(*_group_by_row(rows, num_rows, np.empty(len(sizes), dtype)))


@numba.njit(cache=True, nogil=True)
def _sort_by_size(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pieces from the longest to the shortest (stable), and their counts by size."""
    counts = np.zeros(capacity + 2, np.int64)
    for size in sizes:
        counts[size] += 1
    next_slot = np.zeros(capacity + 2, np.int64)
    for size in range(capacity, -1, -1):
        next_slot[size] = next_slot[size + 1] + counts[size + 1]
    order = np.empty(len(sizes), np.int64)
    for piece in range(len(sizes)):
        order[next_slot[sizes[piece]]] = piece
        next_slot[sizes[piece]] += 1
    return order, counts


@numba.njit(cache=True, nogil=True)
def _best_fit(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Return the row of each piece, int64 (P,), and the number of rows."""
    order, counts = _sort_by_size(sizes, capacity)
    top = np.full(capacity + 1, -1, np.int64)  # by free space: the last row with it
    below_top = np.empty(len(sizes), np.int64)  # by row: the row before it on its stack
    rows = np.empty(len(sizes), np.int64)
    num_rows, done = 0, 0
    for size in range(capacity, 0, -1):
        free = size  # the rows that fit tightest; only grows while `size` stays
        for piece in order[done : done + counts[size]]:
            while free <= capacity and top[free] < 0:
                free += 1
            if free <= capacity:
                row = top[free]
                top[free] = below_top[row]
                left = free - size
            else:
                row, left = num_rows, capacity - size
                num_rows += 1
            below_top[row] = top[left]
            top[left] = row
            rows[piece] = row
            if left >= size:
                free = min(free, left)
        done += counts[size]
    return rows, num_rows


@numba.njit(cache=True, nogil=True)
def _group_by_row(
    rows: np.ndarray, num_rows: int, pieces: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pieces in the order of their rows, and where each row begins."""
    offsets = np.zeros(num_rows + 1, np.int64)
    for row in rows:
        offsets[row + 1] += 1
    for row in range(num_rows):
        offsets[row + 1] += offsets[row]
    next_slot = offsets[:-1].copy()
    for piece in range(len(rows)):
        pieces[next_slot[rows[piece]]] = piece
        next_slot[rows[piece]] += 1
    return pieces, offsets
