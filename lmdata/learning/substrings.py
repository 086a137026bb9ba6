"""The substrings of words as a trie, and the best and the likely ways to spell words with them.

A node of the trie is a substring; the root, node 0, is the empty one. Nodes are numbered by length
and then by content, so everything here depends on the words and not on their order.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

MAX_LENGTH = 16
"""Longest piece, in characters: SentencePiece's `max_sentencepiece_length`."""

NONE = -1


class Words(NamedTuple):
    """Counted words as one array of character numbers."""

    characters: Int32s  # (N,)
    offsets: Int64s  # (W + 1,)
    counts: Int64s  # (W,)


class Substrings(NamedTuple):
    """Substrings, by node."""

    parents: Int32s  # (K,) node of the substring without its last character
    characters: Int32s  # (K,) last character
    lengths: Int32s  # (K,)
    counts: Int64s  # (K,) how often it occurs in the words
    slots: Int32s  # hash of parent and character -> node


def find_substrings(words: Words, min_count: int) -> Substrings:
    """Return all substrings of at most MAX_LENGTH characters that occur often enough.

    Single characters are there in any case. Longer substrings are found from those one shorter, as
    a substring is at most as frequent as what it begins with.

    Example:
        >>> words = Words(np.array([0, 1, 0, 1], np.int32), np.array([0, 2, 4]), np.array([1, 1]))
        >>> find_substrings(words, 2).counts.tolist()  # "", "a", "b", "ab"
        [0, 2, 2, 2]
    """
    ends = np.repeat(words.offsets[1:], np.diff(words.offsets))
    weights = np.repeat(words.counts, np.diff(words.offsets))
    starts = np.arange(len(ends))  # where the substrings of this round begin
    nodes = np.zeros(len(ends), np.int64)  # and the substring there that is one shorter
    levels = [(np.zeros(1, np.int64), np.zeros(1, np.int64))]
    num_nodes = 1
    for length in range(1, MAX_LENGTH + 1):
        fits = starts + length <= ends[starts]
        starts, nodes = starts[fits], nodes[fits]
        keys, child = np.unique(
            (nodes << 32) | words.characters[starts + length - 1], return_inverse=True
        )
        counts = np.bincount(child, weights[starts], len(keys)).astype(np.int64)
        is_kept = counts >= (1 if length == 1 else min_count)
        levels.append((keys[is_kept], counts[is_kept]))
        number_of = num_nodes + np.cumsum(is_kept) - 1
        num_nodes += int(is_kept.sum())
        is_alive = is_kept[child]
        starts, nodes = starts[is_alive], number_of[child[is_alive]]
    keys = np.concatenate([level for level, _ in levels])
    lengths = np.repeat(np.arange(len(levels)), [len(level) for level, _ in levels])
    return make_trie(
        (keys >> 32).astype(np.int32),
        (keys & 0xFFFFFFFF).astype(np.int32),
        lengths.astype(np.int32),
        np.concatenate([counts for _, counts in levels]),
    )


def make_trie(parents: Int32s, characters: Int32s, lengths: Int32s, counts: Int64s) -> Substrings:
    """Return a trie of nodes that are given shortest first.

    Args:
        parents: int32 (K,), node without its last character
        characters: int32 (K,), last character
        lengths: int32 (K,), ascending
        counts: int64 (K,), how often each occurs
    """
    slots = np.full(1 << (2 * len(parents)).bit_length(), NONE, np.int32)
    trie = Substrings(parents, characters, lengths, counts, slots)
    _fill_slots(trie)
    return trie


def keep_nodes(trie: Substrings, is_wanted: Bools) -> tuple[Substrings, Int64s]:
    """Return the trie of some nodes and what they begin with, and the old numbers of its nodes.

    Args:
        trie: of K nodes
        is_wanted: bool (K,)
    """
    is_kept = is_wanted.copy()
    _mark_prefixes(trie.parents, is_kept)
    old = np.flatnonzero(is_kept)
    new = np.cumsum(is_kept) - 1
    parents = new[trie.parents[old]].astype(np.int32)
    kept = make_trie(parents, trie.characters[old], trie.lengths[old], trie.counts[old])
    return kept, old


@numba.njit(cache=True)
def _mark_prefixes(parents: Int32s, is_kept: Bools) -> None:
    is_kept[0] = True
    for node in range(len(parents) - 1, 0, -1):
        if is_kept[node]:
            is_kept[parents[node]] = True


@numba.njit(cache=True)
def _fill_slots(trie: Substrings) -> None:
    for node in range(1, len(trie.parents)):
        trie.slots[_slot(trie, trie.parents[node], trie.characters[node])] = node


@numba.njit(cache=True)
def _slot(trie: Substrings, parent: Any, character: Any) -> Any:
    """Return the slot that holds the child of a node, or the empty one where it belongs."""
    mask = len(trie.slots) - 1
    mixed = np.uint64(parent) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(character)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)  # both odd constants are SplitMix64's
    slot = np.int64(mixed >> np.uint64(33)) & mask
    while trie.slots[slot] != NONE:
        node = trie.slots[slot]
        if trie.parents[node] == parent and trie.characters[node] == character:
            break
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True)
def _find_edges(trie: Substrings, scores: Float64s, word: Int32s, edges: Int32s) -> None:
    """Write to edges[i, k] the piece that spells word[i : i + k + 1], or NONE."""
    for start in range(len(word)):
        node = np.int32(0)
        edges[start, :] = NONE
        for length in range(min(MAX_LENGTH, len(word) - start)):
            node = trie.slots[_slot(trie, node, word[start + length])]
            if node == NONE:
                break
            if scores[node] > -math.inf:
                edges[start, length] = node


@numba.njit(cache=True)
def expect_counts(words: Words, trie: Substrings, scores: Float64s) -> Float64s:
    """Return how often each piece is expected to be used, over all ways to spell each word.

    The forward-backward algorithm on the lattice of pieces (Kudo, "Subword Regularization",
    ACL 2018, section 3.2).

    Args:
        words: counted
        trie: of K nodes
        scores: float64 (K,), log probabilities, -inf for nodes that are no pieces

    Returns:
        float64 (K,)
    """
    expected = np.zeros(len(scores))
    longest = np.max(np.diff(words.offsets))
    edges = np.empty((longest, MAX_LENGTH), np.int32)
    forward, backward = np.empty(longest + 1), np.empty(longest + 1)
    for index in range(len(words.counts)):
        word = words.characters[words.offsets[index] : words.offsets[index + 1]]
        _find_edges(trie, scores, word, edges)
        _sum_paths(scores, edges, len(word), forward, backward)
        for start in range(len(word)):
            for length in range(min(MAX_LENGTH, len(word) - start)):
                node = edges[start, length]
                if node != NONE:
                    through = forward[start] + scores[node] + backward[start + length + 1]
                    share = math.exp(through - forward[len(word)])
                    expected[node] += words.counts[index] * share
    return expected


@numba.njit(cache=True)
def _sum_paths(
    scores: Float64s, edges: Int32s, size: int, forward: Float64s, backward: Float64s
) -> None:
    """Write log sums of path probabilities from the beginning to each place, and to the end."""
    forward[: size + 1], backward[: size + 1] = -math.inf, -math.inf
    forward[0], backward[size] = 0.0, 0.0
    for start in range(size):
        for length in range(min(MAX_LENGTH, size - start)):
            node = edges[start, length]
            if node != NONE:
                end = start + length + 1
                forward[end] = _log_add(forward[end], forward[start] + scores[node])
    for start in range(size - 1, -1, -1):
        for length in range(min(MAX_LENGTH, size - start)):
            node = edges[start, length]
            if node != NONE:
                end = start + length + 1
                backward[start] = _log_add(backward[start], scores[node] + backward[end])


@numba.njit(cache=True)
def _log_add(left: Any, right: Any) -> Any:
    """Return log(exp(left) + exp(right))."""
    if left < right:
        left, right = right, left
    return left if right == -math.inf else left + math.log1p(math.exp(right - left))


@numba.njit(cache=True)
def count_best(words: Words, trie: Substrings, scores: Float64s) -> Int64s:
    """Return how often each piece is used when every word is spelled in its most likely way.

    Args: as `expect_counts` takes them

    Returns:
        int64 (K,)
    """
    used = np.zeros(len(scores), np.int64)
    longest = np.max(np.diff(words.offsets))
    edges = np.empty((longest, MAX_LENGTH), np.int32)
    for index in range(len(words.counts)):
        word = words.characters[words.offsets[index] : words.offsets[index + 1]]
        _find_edges(trie, scores, word, edges)
        for node in _best_path(scores, edges, len(word))[0]:
            used[node] += words.counts[index]
    return used


@numba.njit(cache=True)
def _best_path(scores: Float64s, edges: Int32s, size: int) -> Any:
    """Return the nodes of the most likely path, last first, and its log probability."""
    best = np.full(size + 1, -math.inf)
    best[0] = 0.0
    last = np.full(size + 1, NONE, np.int32)
    lengths = np.zeros(size + 1, np.int32)
    for start in range(size):
        for length in range(min(MAX_LENGTH, size - start)):
            node, end = edges[start, length], start + length + 1
            if node != NONE and best[start] + scores[node] > best[end]:
                best[end], last[end], lengths[end] = best[start] + scores[node], node, length + 1
    path = [np.int32(0) for _ in range(0)]
    end = size
    while end > 0:
        path.append(last[end])
        end -= lengths[end]
    return path, best[size]


@numba.njit(cache=True)
def removal_losses(trie: Substrings, scores: Float64s, used: Int64s) -> Float64s:
    """Return how much likelihood the words lose, about, when a piece is taken away.

    The piece is then spelled by its best alternative (Kudo 2018, section 3.2, with the estimate of
    SentencePiece's `PruneSentencePieces`). Single characters lose inf: they must stay. A piece
    that is never used or not its own best spelling loses -inf.

    Args:
        trie: of K nodes
        scores: float64 (K,), as `expect_counts` takes them
        used: int64 (K,), from `count_best`

    Returns:
        float64 (K,), nats
    """
    losses = np.full(len(scores), -math.inf)
    total = float(np.sum(used))
    word = np.empty(MAX_LENGTH, np.int32)
    edges = np.empty((MAX_LENGTH, MAX_LENGTH), np.int32)
    for node in range(1, len(scores)):
        size = trie.lengths[node]
        if size == 1:
            losses[node] = math.inf
        elif scores[node] > -math.inf and used[node] > 0:
            ancestor = node
            for place in range(size - 1, -1, -1):
                word[place] = trie.characters[ancestor]
                ancestor = trie.parents[ancestor]
            _find_edges(trie, scores, word[:size], edges)
            edges[0, size - 1] = NONE
            path, score = _best_path(scores, edges, size)
            if score <= scores[node]:
                total_without = total + used[node] * (len(path) - 1)
                lost = math.log(used[node] / total)
                for part in path:
                    lost -= math.log((used[part] + used[node]) / total_without)
                losses[node] = used[node] * lost
    return losses
