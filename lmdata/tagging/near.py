"""Near duplicates: candidates by bands, verified by their shingles, removed for a survivor only.

Documents are taken from the best to the worst by an order that knows no workers and no files: the
longest first, of equals the smallest hash of content, then the corpus. Each is compared with the
survivors that share a band with it, so a document goes only for one that stays and that it was
compared with itself: A and C are not joined by way of B. What a split must keep together is wider:
components of all that was found to overlap by half.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.batch import to_column
from lmdata.settings import WIDE_JACCARD

MOST_COMPARED = 32  # survivors of a band's group, the best ones: templates make groups of thousands

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """What each of D documents overlaps with.

    Attributes:
        nearest: int64 (D,), the survivor that it overlaps with most, or for which it goes; -1: none
        jaccard: float64 (D,), shingles that both have to those that one of them has; 0: none
        containment: float64 (D,), the part of its own shingles that the other has
        is_near: bool (D,), whether it goes
        component: int64 (D,), the first document of those that overlap by half, by any way
        num_passed_over: comparisons that were not made as a group had too many survivors
    """

    nearest: I64
    jaccard: npt.NDArray[np.float64]
    containment: npt.NDArray[np.float64]
    is_near: npt.NDArray[np.bool_]
    component: I64
    num_passed_over: int


def rank_documents(num_chars: I64, high: U64, low: U64) -> I64:
    """Return documents from the best to the worst: int64 (D,).

    Example:
        >>> high = np.array([7, 2, 5], np.uint64)
        >>> rank_documents(np.array([4, 9, 9]), high, high).tolist()
        [1, 2, 0]
    """
    return np.lexsort((low, high, -num_chars))


def find_neighbours(
    keys: U64, order: I64, originals: I64, shingles_of: Callable[[int], U64], jaccard: float
) -> Neighbours:
    """Return the near duplicates of documents.

    Args:
        keys: uint64 (D, B), of their bands; 0 where a document has no words
        order: int64 (D,), from the best to the worst
        originals: int64 (D,), the first document of the same bytes; only these are compared
        shingles_of: a document to its shingles, in any order, with repeats
        jaccard: from which on a document goes
    """
    num_documents = len(keys)
    groups = _group(keys, (originals == np.arange(num_documents)) & keys.any(axis=1))
    nearest = np.full(num_documents, -1, np.int64)
    overlap, inside = np.zeros(num_documents), np.zeros(num_documents)
    parents, is_near = np.arange(num_documents), np.zeros(num_documents, bool)
    ranks = np.empty(num_documents, np.int64)
    ranks[order] = np.arange(num_documents)
    survivors: dict[int, list[int]] = {}
    num_passed_over = 0

    @functools.lru_cache(maxsize=4096)
    def distinct(row: int) -> U64:
        return np.unique(shingles_of(row))

    for row in order[(groups[order] >= 0).any(axis=1)].tolist():
        own = [group for group in groups[row].tolist() if group >= 0]
        others = {other for group in own for other in survivors.get(group, ())}
        for other in sorted(others, key=ranks.__getitem__):
            one, two = distinct(row), distinct(other)
            common = _count_common(one, two)
            found = common / (len(one) + len(two) - common)
            if found > overlap[row]:
                nearest[row], overlap[row], inside[row] = other, found, common / len(one)
            if found >= WIDE_JACCARD:
                _join(parents, row, other)
            if found >= jaccard:
                is_near[row] = True
                nearest[row], overlap[row], inside[row] = other, found, common / len(one)
                break
        for group in own if not is_near[row] else ():
            members = survivors.setdefault(group, [])
            if len(members) < MOST_COMPARED:
                members.append(row)
            else:
                num_passed_over += 1
    component = np.array([_root(parents, row) for row in range(num_documents)], np.int64)
    return Neighbours(nearest, overlap, inside, is_near, component[originals], num_passed_over)


def _group(keys: U64, is_compared: npt.NDArray[np.bool_]) -> I64:
    """Return which group of equal keys each document belongs to in each band, -1: to none of two.

    int64 (D, B); numbers of groups are those of one band alone.
    """
    groups = np.full(keys.shape, -1, np.int64)
    rows, total = np.flatnonzero(is_compared), 0
    for band in range(keys.shape[1]):
        own = keys[rows, band]
        order = np.argsort(own, kind="stable")
        is_new = np.ones(len(own), bool)
        is_new[1:] = own[order][1:] != own[order][:-1]
        numbers = np.cumsum(is_new) - 1
        sizes = np.bincount(numbers, minlength=1)
        is_shared = sizes[numbers] > 1
        groups[rows[order[is_shared]], band] = total + numbers[is_shared]
        total += len(sizes)
    return groups


@numba.njit(cache=True, nogil=True)
def _count_common(one: np.ndarray, other: np.ndarray) -> int:
    """Return how many numbers two ascending arrays share.

    Example:
        >>> _count_common(np.array([1, 3, 5]), np.array([3, 4, 5]))
        2
    """
    here, there, common = 0, 0, 0
    while here < len(one) and there < len(other):
        a, b = one[here], other[there]
        common += a == b
        here += a <= b
        there += b <= a
    return common


def _root(parents: I64, row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row


def _join(parents: I64, one: int, other: int) -> None:
    """Join two components; the first document of both stands for them."""
    low, high = sorted((_root(parents, one), _root(parents, other)))
    parents[high] = low


@dataclass(frozen=True)
class Repeats:
    """Which of D documents were there before.

    Attributes:
        originals: int64 (D,), from `find_originals`
        first_words: int64 (D,), the first document of the same words, whatever their case and marks
        near: what they overlap with
    """

    originals: np.ndarray
    first_words: np.ndarray
    near: Neighbours

    def notes(self) -> tuple[str, ...]:
        """Say how many there are."""
        is_same = self.first_words != np.arange(len(self.first_words))
        num_again = int((self.originals != np.arange(len(self.originals))).sum())
        notes = [
            f"documents that repeat an earlier one to the byte: {num_again:,}",
            f"documents that have the words of an earlier one: {int(is_same.sum()):,}",
            f"near duplicates of a document that stays: {int(self.near.is_near.sum()):,}",
        ]
        if self.near.num_passed_over:
            notes.append(
                f"documents that stay in a group of more than {MOST_COMPARED} alike, which later "
                f"ones were not compared with: {self.near.num_passed_over:,}"
            )
        return tuple(notes)

    def columns(self, start: int, stop: int) -> list[pa.Array]:
        """Return the last columns of tags, of some rows."""
        rows, near = slice(start, stop), self.near
        originals, nearest = self.originals[rows], near.nearest[rows]
        is_again = originals != np.arange(start, stop)
        first_words = self.first_words[rows]
        is_same = first_words != np.arange(start, stop)
        return [
            pa.array(is_again),
            to_column(originals.astype(np.uint64), is_again),
            pa.array(is_same),
            to_column(first_words.astype(np.uint64), is_same),
            pa.array(near.is_near[rows]),
            to_column(nearest.astype(np.uint64), nearest >= 0),
            to_column(near.jaccard[rows]),
            to_column(near.containment[rows]),
            to_column(near.component[rows].astype(np.uint64)),
        ]


def find_originals(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return the first document of the same bytes for each, which may be itself: int64 (D,).

    Args:
        high: uint64 (D,), the upper halves of the hashes of contents
        low: uint64 (D,), the lower halves

    Example:
        >>> high, low = np.array([7, 7, 7, 1], np.uint64), np.array([1, 2, 1, 1], np.uint64)
        >>> find_originals(high, low).tolist()
        [0, 1, 0, 3]
    """
    order = np.lexsort((low, high))  # stable: equal ones stay in the order of the corpus
    is_new = np.ones(len(order), bool)
    is_new[1:] = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
    originals = np.empty(len(order), np.int64)
    originals[order] = order[is_new][np.cumsum(is_new) - 1]
    return originals
