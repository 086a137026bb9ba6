"""Counts to probabilities: interpolated modified Kneser-Ney.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling", 1998, as
Heafield et al., "Scalable modified Kneser-Ney language model estimation", ACL 2013, have it and
`lmplz` computes it: all orders are interpolated, the lowest with a uniform guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import numba
import numpy as np

from lmmodel.counting.sorting import Level

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where the counts give none, those of `lmplz --discount_fallback`."""

_PIECES = 16  # of a level, for the threads


@dataclass(frozen=True, kw_only=True)
class Discounts:
    """What is taken from counts of 1, 2 and more at one order."""

    order: int
    amounts: tuple[float, float, float]
    why_fallback: str | None = None
    """Why they are `FALLBACK`; None: they follow from the counts of counts."""


@dataclass
class Smoothed:
    """One order: levels of `Level` with what is known of each n-gram, natural logarithms."""

    words: np.ndarray  # uint16 | uint32 (M,)
    first_child: np.ndarray  # uint32 (M + 1,), empty at the highest order
    log_p: np.ndarray  # float32 (M,)
    log_backoff: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """float32 (M,), of each as a context; empty at the highest order."""


def smooth(
    levels: list[Level], num_threads: int = 1
) -> tuple[list[Smoothed], tuple[Discounts, ...]]:
    """Return the probabilities of all n-grams, by order.

    The adjusted count of an n-gram is how often it occurs at the highest order, and at lower ones
    how many ids stand before it; those that begin a line, which nothing stands before, keep their
    counts. The begin itself has none, and probability 1.

    Args:
        levels: of orders 1 to N; of level 1 the last id is the begin of a line
        num_threads: whatever it is, the result is the same
    """
    order, found = len(levels), []
    done: list[Smoothed] = []
    link = np.zeros(0, np.uint32)
    with ThreadPoolExecutor(num_threads) as pool:
        for n in range(1, order + 1):
            level = levels[n - 1]
            longer = _links(levels, n + 1, link, pool) if n < order else link
            adjusted = _adjust(levels, n, longer)
            discounts = find_discounts(adjusted, n)
            found.append(discounts)
            if n == 1:
                p = _smooth_unigrams(adjusted, discounts)
            else:
                p = _smooth_level(levels[n - 2], adjusted, discounts, link, done[-1], pool)
                _to_logs(done[-1].log_p, pool)
            done.append(Smoothed(level.words, level.first_child, p))
            link = longer
        _to_logs(done[-1].log_p, pool)
    return done, tuple(found)


def find_discounts(adjusted: np.ndarray, order: int) -> Discounts:
    """Return the discounts of one order from how many n-grams have counts of 1, 2, 3 and 4.

    Y = n1 / (n1 + 2 n2), D_k = k - (k + 1) Y n_(k+1) / n_k; Chen and Goodman, equation 26.

    Args:
        adjusted: uint32 (M,), adjusted counts; zeros are no n-grams
        order: of the n-grams

    Example:
        >>> counts = np.repeat(np.array([1, 2, 3, 4], np.uint32), [8, 4, 2, 1])
        >>> find_discounts(counts, 2).amounts
        (0.5, 1.25, 2.0)
        >>> find_discounts(counts[counts > 1], 2).why_fallback
        'no n-gram has count 1'
    """
    n = _count_counts(adjusted).tolist()
    for k in (1, 2, 3):
        if n[k] == 0:
            why = f"no n-gram has count {k}"
            return Discounts(order=order, amounts=FALLBACK, why_fallback=why)
    share = n[1] / (n[1] + 2 * n[2])
    amounts = tuple(k - (k + 1) * share * n[k + 1] / n[k] for k in (1, 2, 3))
    for k, amount in enumerate(amounts, start=1):
        if not 0 <= amount <= k:
            why = f"the discount of count {k} would be {amount:.4g}, outside [0, {k}]"
            return Discounts(order=order, amounts=FALLBACK, why_fallback=why)
    return Discounts(order=order, amounts=(amounts[0], amounts[1], amounts[2]))


@numba.njit(cache=True, nogil=True)
def _count_counts(counts: np.ndarray) -> np.ndarray:
    """Return how many counts are 0, 1, 2, 3 and 4: int64 (5,)."""
    found = np.zeros(5, np.int64)
    for index in range(len(counts)):
        if counts[index] < 5:
            found[counts[index]] += 1
    return found


def _links(
    levels: Sequence[Level], order: int, link: np.ndarray, pool: ThreadPoolExecutor
) -> np.ndarray:
    """Return the place of each n-gram of an order without its first id: uint32 (M,).

    Args:
        levels: of all orders
        order: at least 2
        link: the same of the order below
        pool: of threads
    """
    level, context = levels[order - 1], levels[order - 2]
    if order == 2:
        return level.words.astype(np.uint32)
    below = levels[order - 3]
    result = np.empty(len(level.words), np.uint32)

    def fill(piece: slice) -> None:
        _find_links(
            context.first_child[piece.start : piece.stop + 1], link[piece], level.words,
            below.first_child, context.words, result,
        )  # fmt: skip

    list(pool.map(fill, _pieces(context.first_child)))
    return result


def _pieces(first_child: np.ndarray) -> list[slice]:
    """Return slices of contexts with about as many n-grams each."""
    wanted = np.linspace(0, int(first_child[-1]), _PIECES + 1).astype(np.int64)[1:-1]
    num_contexts = len(first_child) - 1
    bounds = np.unique([0, *np.searchsorted(first_child[:-1], wanted), num_contexts]).tolist()
    return [slice(a, b) for a, b in pairwise(bounds)]


@numba.njit(cache=True, nogil=True)
def _find_links(
    first_child: np.ndarray, link: np.ndarray, words: np.ndarray, shorter_first: np.ndarray,
    shorter_words: np.ndarray, result: np.ndarray,
) -> None:  # fmt: skip
    """Find each n-gram w1..wn among the children of w2..w(n-1), which has it.

    Args:
        first_child: uint32 (C + 1,), of some contexts w1..w(n-1)
        link: uint32 (C,), the place of w2..w(n-1) among the (n-2)-grams
        words: of the n-grams
        shorter_first: uint32, of the (n-2)-grams
        shorter_words: of the (n-1)-grams
        result: uint32, written: places among the (n-1)-grams
    """
    for context in range(len(link)):
        low = np.int64(shorter_first[link[context]])
        stop = np.int64(shorter_first[np.int64(link[context]) + 1])
        for child in range(np.int64(first_child[context]), np.int64(first_child[context + 1])):
            word = words[child]
            high = stop  # words of a context ascend: what is below `low` is done
            while high - low > 1:
                middle = (low + high) >> 1
                if shorter_words[middle] <= word:
                    low = middle
                else:
                    high = middle
            result[child] = low
            low += 1


def _adjust(levels: Sequence[Level], order: int, longer: np.ndarray) -> np.ndarray:
    """Return the adjusted counts of an order, uint32 (M,), from the links of the one above."""
    level = levels[order - 1]
    if order == len(levels):
        counts = level.counts
    else:
        counts = np.zeros(len(level.words), np.uint32)
        _count_links(longer, counts)
        if len(level.counts):
            counts[-len(level.counts) :] = level.counts
    if order == 1:
        counts = counts.copy()
        counts[-1] = 0
    return counts


@numba.njit(cache=True, nogil=True)
def _count_links(links: np.ndarray, counts: np.ndarray) -> None:
    for index in range(len(links)):
        counts[links[index]] += 1


def _smooth_unigrams(adjusted: np.ndarray, discounts: Discounts) -> np.ndarray:
    """Return probabilities, float32 (num_ids,); ids never seen share what is taken equally."""
    amounts = np.array([0.0, *discounts.amounts])
    kinds = np.minimum(adjusted, 3)
    total = int(adjusted.sum(dtype=np.int64))
    left = amounts[kinds].sum() / total
    p = (adjusted - amounts[kinds]) / total + left / (len(adjusted) - 1)
    p[-1] = 1.0
    return np.asarray(p, np.float32)


def _smooth_level(
    context: Level, adjusted: np.ndarray, discounts: Discounts, link: np.ndarray, below: Smoothed,
    pool: ThreadPoolExecutor,
) -> np.ndarray:  # fmt: skip
    """Return the probabilities of an order, float32 (M,), and set the back-off of its contexts."""
    p = np.empty(len(adjusted), np.float32)
    below.log_backoff = np.zeros(len(below.words), np.float32)
    amounts = np.array([0.0, *discounts.amounts])

    def fill(piece: slice) -> None:
        starts = context.first_child[piece.start : piece.stop + 1]
        _interpolate(starts, adjusted, amounts, link, below.log_p, p, below.log_backoff[piece])

    list(pool.map(fill, _pieces(context.first_child)))
    return p


@numba.njit(cache=True, nogil=True)
def _interpolate(
    first_child: np.ndarray, adjusted: np.ndarray, amounts: np.ndarray, link: np.ndarray,
    shorter_p: np.ndarray, p: np.ndarray, log_backoff: np.ndarray,
) -> None:  # fmt: skip
    """Fill in the probabilities of the n-grams of some contexts, and what the contexts leave over.

    Args:
        first_child: uint32 (C + 1,)
        adjusted: uint32 (M,), counts
        amounts: float64 (4,), taken from counts of 0, 1, 2 and more
        link: uint32 (M,), place of each n-gram without its first id
        shorter_p: float32, probabilities one order below
        p: float32 (M,), written
        log_backoff: float32 (C,), zeros, written where a context has n-grams
    """
    for context in range(len(first_child) - 1):
        start, stop = np.int64(first_child[context]), np.int64(first_child[context + 1])
        if start == stop:
            continue
        total, taken = np.int64(0), 0.0
        for child in range(start, stop):
            count = np.int64(adjusted[child])
            total += count
            taken += amounts[count if count < 3 else 3]
        left = taken / total
        for child in range(start, stop):
            count = np.int64(adjusted[child])
            own = (count - amounts[count if count < 3 else 3]) / total
            p[child] = own + left * shorter_p[link[child]]
        log_backoff[context] = np.log(left)


def _to_logs(p: np.ndarray, pool: ThreadPoolExecutor) -> None:
    list(pool.map(_take_logs, np.array_split(p, _PIECES)))


@numba.njit(cache=True, nogil=True)
def _take_logs(p: np.ndarray) -> None:
    for index in range(len(p)):
        p[index] = min(np.log(p[index]), np.float32(0.0))
