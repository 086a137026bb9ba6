"""N-grams with their probabilities as one trie of flat arrays, and what is looked up in it.

Nodes lie level by level, each level sorted by context and last id, so a node's children, the
n-grams that it is the context of, lie together. Where a text stands is told by a state: the node of
each of its endings of 1, 2, ... ids, -1 where the model does not know one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from lmdata.ragged import frozen
from lmmodel.counting.smoothing import Smoothed

UNKNOWN = -1


@dataclass(frozen=True)
class Trie:
    """An n-gram model.

    Attributes:
        words: uint16 | uint32 (M,), the last id of each node; the first level holds every id
        first_child: uint32 (C + 1,), of each node below the highest level, and the end
        log_p: float32 (M,), of the last id after those before it, nats
        log_backoff: float32 (C,), added where an n-gram with this context is not known, nats
        sizes: nodes of each level
    """

    words: np.ndarray
    first_child: np.ndarray
    log_p: np.ndarray
    log_backoff: np.ndarray
    sizes: tuple[int, ...]

    @property
    def order(self) -> int:
        """Ids of the longest n-grams."""
        return len(self.sizes)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What kernels that read take: as of a file, also where it was just counted."""
        words, first_child = frozen(self.words), frozen(self.first_child)
        return words, first_child, frozen(self.log_p), frozen(self.log_backoff)

    @property
    def num_pieces(self) -> int:
        """Of the vocabulary, to which the end and the begin of a line are added."""
        return self.sizes[0] - 2

    def check(self) -> None:
        """Raise a ValueError unless every look-up stays inside the arrays."""
        num_nodes, num_inner = sum(self.sizes), sum(self.sizes[:-1])
        lengths = (num_nodes, num_inner + 1, num_nodes, num_inner)
        if tuple(map(len, self.arrays)) != lengths or len(self.first_child) == 0:
            raise ValueError("arrays have other lengths than they should")
        if not _is_sound(self.words, self.first_child, np.array(self.sizes, np.int64)):
            raise ValueError("it does not say where each n-gram lies")


def join_levels(levels: Sequence[Smoothed]) -> Trie:
    """Return the levels of an n-gram model as one trie in memory."""
    sizes = tuple(len(level.words) for level in levels)
    return Trie(
        words=np.concatenate([level.words for level in levels]),
        first_child=np.concatenate([*first_children(levels)]),
        log_p=np.concatenate([level.log_p for level in levels]),
        log_backoff=np.concatenate([level.log_backoff for level in levels]),
        sizes=sizes,
    )


def first_children(levels: Sequence[Smoothed]) -> list[np.ndarray]:
    """Return where the children of each level's nodes lie among all nodes, then the end: uint32."""
    base, parts = len(levels[0].words), []
    for level in levels[:-1]:
        parts.append(level.first_child[:-1] + np.uint32(base))
        base += int(level.first_child[-1])
    return [*parts, np.array([base], np.uint32)]


@numba.njit(cache=True, nogil=True)
def _is_sound(words: np.ndarray, first_child: np.ndarray, sizes: np.ndarray) -> bool:
    if first_child[0] != sizes[0] or first_child[-1] != len(words):
        return False
    for index in range(len(first_child) - 1):
        if first_child[index + 1] < first_child[index]:
            return False
    for index in range(len(words)):
        if words[index] >= sizes[0] or (index < sizes[0] and words[index] != index):
            return False
    start = 0
    for level in range(len(sizes) - 1):  # the children of a level are the next one
        start += sizes[level]
        if first_child[start - sizes[level]] != start:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def find_child(words: np.ndarray, first_child: np.ndarray, node: int, word: int) -> np.int64:
    """Return the child of a node by its last id, -1 if there is none.

    Args:
        words: uint16 | uint32 (M,), as in `Trie`
        first_child: uint32 (C + 1,), as in `Trie`
        node: below the highest level
        word: the id
    """
    low, high = np.int64(first_child[node]), np.int64(first_child[node + 1])
    while low < high:
        middle = (low + high) >> 1
        if words[middle] < word:
            low = middle + 1
        else:
            high = middle
    if low < np.int64(first_child[node + 1]) and words[low] == word:
        return low
    return np.int64(UNKNOWN)


@numba.njit(cache=True, nogil=True)
def advance(
    words: np.ndarray, first_child: np.ndarray, log_p: np.ndarray, log_backoff: np.ndarray,
    state: np.ndarray, word: int,
) -> float:  # fmt: skip
    """Return the log-probability of an id after a state, nats, and move the state behind it.

    Args:
        words: as in `Trie`, and so the three that follow
        first_child: see `words`
        log_p: see `words`
        log_backoff: see `words`
        state: int64 (order - 1,), the nodes of the endings of 1, 2, ... ids; written
        word: the id that comes next
    """
    found = np.int64(word)  # the node of the longest n-gram with this id that is known
    result, length = 0.0, 0
    for index in range(len(state) - 1, -1, -1):  # contexts of `index` + 1 ids
        context, child = state[index], np.int64(UNKNOWN)
        if context != UNKNOWN:
            child = find_child(words, first_child, context, word)
            if child == UNKNOWN and length == 0:
                result += log_backoff[context]
        if child != UNKNOWN and length == 0:
            found, length = child, index + 1
        if index + 1 < len(state):
            state[index + 1] = child
    if len(state):
        state[0] = word
    return float(result + log_p[found])


def score_lines(trie: Trie, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the log-probability of each id of some lines after those before it, nats.

    Args:
        trie: the model
        ids: int64 (T,), each below the size of the first level
        starts: int64 (L + 1,), where lines begin; the first id of a line follows nothing

    Returns:
        float64 (T,)
    """
    scores = np.empty(len(ids))
    _score_lines(*trie.arrays, ids, starts, np.empty(trie.order - 1, np.int64), scores)
    return scores


@numba.njit(cache=True, nogil=True)
def _score_lines(
    words: np.ndarray, first_child: np.ndarray, log_p: np.ndarray, log_backoff: np.ndarray,
    ids: np.ndarray, starts: np.ndarray, state: np.ndarray, scores: np.ndarray,
) -> None:  # fmt: skip
    for line in range(len(starts) - 1):
        state[:] = UNKNOWN
        for place in range(starts[line], starts[line + 1]):
            scores[place] = advance(words, first_child, log_p, log_backoff, state, ids[place])


@numba.njit(cache=True, nogil=True)
def find_state(
    words: np.ndarray, first_child: np.ndarray, ids: np.ndarray, state: np.ndarray
) -> None:
    """Write the state, int64 (order - 1,), behind ids, integers (n,) in reading order."""
    state[:] = UNKNOWN
    for word in ids:
        for index in range(len(state) - 1, 0, -1):
            context = state[index - 1]
            state[index] = UNKNOWN
            if context != UNKNOWN:
                state[index] = find_child(words, first_child, context, word)
        if len(state):
            state[0] = word


@numba.njit(cache=True, nogil=True)
def fill_distribution(
    words: np.ndarray, first_child: np.ndarray, log_p: np.ndarray, log_backoff: np.ndarray,
    unigrams: np.ndarray, state: np.ndarray, p: np.ndarray,
) -> None:  # fmt: skip
    """Write the probability of every id after a state.

    Args:
        words: as the next three, an array of a `Trie`
        first_child: of the trie
        log_p: of the trie
        log_backoff: of the trie
        unigrams: float64 (num_ids,), probabilities of the first level
        state: int64 (order - 1,)
        p: float64 (num_ids,), written; that of the begin of a line has no meaning
    """
    total = 0.0
    for context in state:
        if context != UNKNOWN:
            total += log_backoff[context]
    share = np.exp(total)
    for word in range(len(p)):
        p[word] = unigrams[word] * share
    for context in state:
        if context != UNKNOWN:
            total -= log_backoff[context]
            share = np.exp(total)
            for child in range(np.int64(first_child[context]), np.int64(first_child[context + 1])):
                p[words[child]] = np.exp(log_p[child]) * share
