"""Rows of different lengths as flat values and offsets: the one data shape of the house (pure).

Documents, sentences, examples, masks and segments all lie this way: the items of row i are
`values[offsets[i]:offsets[i + 1]]`. NumPy only, so that every room may use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.generic]
Integers = npt.NDArray[np.integer]
Offsets = npt.NDArray[np.int64]
Item = TypeVar("Item", bound=np.generic)

# Rows that follow each other are copied as one piece where a piece has so many items on average;
# shorter ones are gathered item by item.
_WORTH_A_PIECE = 64


@dataclass(frozen=True, eq=False)
class Ragged:
    """R rows of N items in all.

    Attributes:
        values: any type (N,), the items of all rows
        offsets: int32 or int64 (R + 1,), where rows begin in `values` and the last ends; the first
            may be above 0, as in a slice of an Arrow column. What the methods return begins at 0
            and ends with the number of its values.
    """

    values: npt.NDArray[np.generic]
    offsets: Integers

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Offsets:
        """Items of each row: int64 (R,)."""
        return np.diff(self.offsets).astype(np.int64, copy=False)

    def check(self) -> None:
        """Refuse offsets that no kernel may follow: read from a file, they may be anything.

        Raises:
            ValueError: there are none, they descend, or point outside of the values
        """
        if not len(self.offsets):
            raise ValueError("there are no offsets, at least one is needed")
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        if (
            first < 0
            or last > len(self.values)
            or bool((self.offsets[1:] < self.offsets[:-1]).any())
        ):
            raise ValueError(
                f"the offsets must ascend within [0, {len(self.values)}], they go from {first} "
                f"to {last}" + ("" if first < 0 or last > len(self.values) else " and back between")
            )

    def row(self, index: int) -> Values:
        """Return the items of one row, a view."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def rows(self) -> Iterator[Values]:
        """Yield the items of each row, views."""
        return (self.row(index) for index in range(len(self)))

    def take(self, rows: Integers) -> Ragged:
        """Return copies of some rows, in this order, repeats allowed.

        Args:
            rows: integers (B,), in [0, R)

        Example:
            >>> taken = Ragged(np.array([7, 8, 9]), np.array([0, 2, 2, 3])).take(np.array([2, 0]))
            >>> taken.values.tolist(), taken.offsets.tolist()
            ([9, 7, 8], [0, 1, 3])
        """
        starts = self.offsets[rows].astype(np.int64, copy=False)
        offsets = offsets_of(self.offsets[rows + 1] - starts)
        breaks = np.flatnonzero(rows[1:] != rows[:-1] + 1) + 1  # where a row isn't the next one
        if (len(breaks) + 1) * _WORTH_A_PIECE > offsets[-1]:
            return Ragged(self.values[ranges(starts, np.diff(offsets))], offsets)
        firsts = [0, *breaks.tolist()]
        lasts = [*(breaks - 1).tolist(), len(rows) - 1]
        begins, ends = self.offsets[rows[firsts]].tolist(), self.offsets[rows[lasts] + 1].tolist()
        pieces = [self.values[a:b] for a, b in zip(begins, ends, strict=True)]
        return Ragged(np.concatenate(pieces), offsets)

    def slice(self, start: int, stop: int) -> Ragged:
        """Return the rows [start, stop), `values` as a view on the same memory.

        Example:
            >>> part = Ragged(np.array([7, 8, 9]), np.array([0, 2, 2, 3])).slice(1, 3)
            >>> part.values.tolist(), part.offsets.tolist()
            ([9], [0, 0, 1])
        """
        bounds = self.offsets[start : stop + 1]
        offsets = bounds.astype(np.int64, copy=False) - int(bounds[0])
        return Ragged(self.values[int(bounds[0]) : int(bounds[-1])], offsets)


def concatenate(parts: Sequence[Ragged]) -> Ragged:
    """Return the rows of all parts, one after the other.

    Args:
        parts: at least one

    Example:
        >>> both = concatenate([Ragged(np.array([7, 8]), np.array([0, 0, 2]))] * 2)
        >>> both.values.tolist(), both.offsets.tolist()
        ([7, 8, 7, 8], [0, 0, 2, 2, 4])
    """
    values = [part.values[int(part.offsets[0]) : int(part.offsets[-1])] for part in parts]
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate(values), offsets_of(lengths))


def offsets_of(lengths: npt.ArrayLike) -> Offsets:
    """Return where rows of these lengths begin, and at the end where the last ends: int64 (R + 1,).

    Args:
        lengths: integers (R,), none negative; their sum is taken in 64 bits

    Example:
        >>> offsets_of([2, 0, 3]).tolist()
        [0, 2, 2, 5]
    """
    lengths = np.asarray(lengths)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: Integers, lengths: Integers) -> Offsets:
    """Return the integers of several ranges, one after the other: int64 (sum of the lengths,).

    Args:
        starts: integers (R,), the first of each range
        lengths: integers (R,), none negative

    Example:
        >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
        [5, 6, 0, 1, 2]
    """
    offsets = offsets_of(lengths)
    shifts = np.repeat(starts.astype(np.int64, copy=False) - offsets[:-1], lengths)
    return np.arange(offsets[-1]) + shifts


def frozen(array: npt.NDArray[Item]) -> npt.NDArray[Item]:
    """Return a read-only view: one compiled kernel serves what can and can't be written to.

    Example:
        >>> frozen(np.arange(3)).flags.writeable
        False
    """
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
