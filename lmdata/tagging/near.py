"""Near duplicates: candidates by bands, verified by their shingles, removed for a survivor only.

Documents are taken from the best to the worst by an order that knows no workers and no files: the
longest first, of equals the smallest hash of content, then the corpus. Each is compared with the
survivors that share a band with it, so a document goes only for one that stays and that it was
compared with itself: A and C are not joined by way of B. What a split must keep together is wider:
components of all that was found to overlap by half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from lmdata.ragged import offsets_of
from lmdata.settings import WIDE_JACCARD

MOST_COMPARED = 32  # survivors of a band's group, the best ones: templates make groups of thousands

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
_NONE = np.empty(0, np.uint64)


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


def rank_documents(num_chars: I64 | U64, high: U64, low: U64) -> I64:
    """Return documents from the best to the worst: int64 (D,).

    Example:
        >>> high = np.array([7, 2, 5], np.uint64)
        >>> rank_documents(np.array([4, 9, 9]), high, high).tolist()
        [1, 2, 0]
    """
    return np.lexsort((low, high, -num_chars))


@dataclass(frozen=True)
class Groups:
    """Documents that share the key of a band with another: C of them, in B bands.

    Attributes:
        documents: int64 (C,), ascending
        numbers: int32 (C, B), which group each is of, -1: alone with its key
        sizes: int64 (G,), documents of each group
    """

    documents: I64
    numbers: npt.NDArray[np.int32]
    sizes: I64


def find_groups(bands: Iterable[U64], is_compared: npt.NDArray[np.bool_]) -> Groups:
    """Return which documents have equal keys, one band in memory at a time.

    Args:
        bands: keys of each band, uint64 (D,)
        is_compared: bool (D,), the documents that count

    Example:
        >>> found = find_groups([np.array([7, 5, 7, 7], np.uint64)], np.array([1, 1, 1, 0], bool))
        >>> found.documents.tolist(), found.numbers.tolist(), found.sizes.tolist()
        ([0, 2], [[0], [0]], [2])
    """
    rows, members, sizes = np.flatnonzero(is_compared), [], [np.empty(0, np.int64)]
    for keys in bands:
        order = np.argsort(keys[rows], kind="stable")
        ordered = keys[rows][order]
        is_new = np.ones(len(ordered) + 1, bool)
        is_new[1:-1] = ordered[1:] != ordered[:-1]
        counts = np.diff(np.flatnonzero(is_new))
        members.append(rows[order[np.repeat(counts > 1, counts)]].astype(np.uint32))
        sizes.append(counts[counts > 1])
    is_member = np.zeros(len(is_compared), bool)
    for own in members:
        is_member[own] = True
    documents = np.flatnonzero(is_member)
    numbers, total = np.full((len(documents), len(members)), -1, np.int32), 0
    for band, (own, counts) in enumerate(zip(members, sizes[1:], strict=True)):
        groups = np.repeat(np.arange(total, total + len(counts), dtype=np.int32), counts)
        numbers[np.searchsorted(documents, own), band] = groups
        total += len(counts)
    return Groups(documents, numbers, np.concatenate(sizes))


def find_neighbours(
    groups: Groups, order: I64, originals: I64, shingles_of: Callable[[int], U64], jaccard: float
) -> Neighbours:
    """Return the near duplicates of documents.

    Args:
        groups: those of equal keys
        order: int64 (D,), from the best to the worst
        originals: int64 (D,), the first document of the same bytes
        shingles_of: a place in `groups.documents` to its shingles, each once, ascending
        jaccard: from which on a document goes
    """
    num_documents = len(order)
    nearest = np.full(num_documents, -1, np.int64)
    overlap, inside = np.zeros(num_documents), np.zeros(num_documents)
    parents, is_near = np.arange(num_documents), np.zeros(num_documents, bool)
    ranks = _rank_in(groups.documents, order)
    stays = _Survivors(groups.sizes)
    for place in np.argsort(ranks).tolist():
        own = groups.numbers[place][groups.numbers[place] >= 0].tolist()
        others = sorted(stays.sharing(own), key=ranks.__getitem__)
        row, one = int(groups.documents[place]), shingles_of(place) if others else _NONE
        for there in others:
            two, other = shingles_of(there), int(groups.documents[there])
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
        if not is_near[row]:
            stays.add(place, own)
    component = _roots(parents)[originals]
    return Neighbours(nearest, overlap, inside, is_near, component, stays.num_passed_over)


def _rank_in(documents: I64, order: I64) -> I64:
    """Return the rank of some documents in an order of all, int64 (C,)."""
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[documents]


class _Survivors:
    """What stays of each group, the best ones, in flat arrays."""

    def __init__(self, sizes: I64) -> None:
        self._starts = offsets_of(np.minimum(sizes, MOST_COMPARED))
        self._members = np.empty(self._starts[-1], np.int32)
        self._counts = np.zeros(len(sizes), np.int32)
        self.num_passed_over = 0

    def sharing(self, groups: list[int]) -> set[int]:
        """Return what stays of some groups."""
        found: set[int] = set()
        for group in groups:
            start = self._starts[group]
            found.update(self._members[start : start + self._counts[group]].tolist())
        return found

    def add(self, place: int, groups: list[int]) -> None:
        """Note that a document of some groups stays."""
        for group in groups:
            if self._counts[group] < MOST_COMPARED:
                self._members[self._starts[group] + self._counts[group]] = place
                self._counts[group] += 1
            else:
                self.num_passed_over += 1


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


def _roots(parents: I64) -> I64:
    """Return the root of every document, int64 (D,)."""
    while True:
        above = parents[parents]
        if (above == parents).all():
            return above
        parents = above


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
