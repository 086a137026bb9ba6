"""Which pieces to join: byte-pair merges over counted words, by pair frequency.

The algorithm is that of Sennrich et al., "Neural Machine Translation of Rare Words with Subword
Units" (ACL 2016), section 3.2, with counts that are updated instead of recomputed. Everything is
integer arithmetic and ties go to the smaller pair of ids, so the result depends only on the
multiset of words: not on their order, on hashing or on threads.

Symbols lie in one array, a word after the other. A merge at position p keeps p, removes the next
position and relinks its neighbours, so a merge costs as much as the pair has occurrences, however
long the words are.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lmdata.intrinsics import borrowed, int64

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

GONE = -1  # a symbol that a merge has removed, a link that leads nowhere, an empty slot
# Positions that are counted between two looks at the room in the hash table.
_BLOCK = int64(1 << 14)


class LinkedWords(NamedTuple):
    """The words as linked lists of symbols."""

    symbols: Int32s  # (N,) changed by merges
    original: Int32s  # (N,) as given: the piece at p is spelled by original[p : p + its length]
    before: Int32s  # (N,) position of the previous symbol of the word, or GONE
    after: Int32s  # (N,) position of the next symbol of the word, or GONE
    word_of: Int32s  # (N,)
    counts: Int64s  # (W,)


class SymbolPairs(NamedTuple):
    """The pairs of neighbours, how often each occurs, and where."""

    slots: Int32s  # hash of the key -> pair
    keys: Int64s  # pair -> left << 32 | right
    counts: Int64s
    heads: Int32s  # pair -> its newest occurrence
    num_occurrences: Int64s  # pair -> how many there are, outdated ones included
    stamps: Int32s  # pair -> the last merge that raised its count
    places: Int32s  # occurrence -> position of its left symbol
    older: Int32s  # occurrence -> the one before it
    sizes: Int64s  # (2,) number of pairs, number of occurrences


class SpelledPieces(NamedTuple):
    """The pieces and where each is spelled."""

    slots: Int32s  # hash of the spelling -> piece
    starts: Int32s  # piece -> a position at which it occurs
    lengths: Int32s  # piece -> how many original symbols it joins


def learn_merges(
    symbols: Int32s, offsets: Int64s, counts: Int64s, num_symbols: int, max_new_pieces: int,
    min_frequency: int,
) -> tuple[Int32s, Int32s]:  # fmt: skip
    """Return the merges that join the most frequent pair of neighbours, over and over.

    A pair whose joined piece exists already, by other merges, makes no new piece: it gets that
    piece's id.

    Args:
        symbols: int32 (N,), ids of the words' symbols, each in [0, num_symbols)
        offsets: int64 (W+1,), where each word begins in `symbols`
        counts: int64 (W,), how often each word occurs, >= 0
        num_symbols: ids from here on are given to new pieces
        max_new_pieces: stop after that many new pieces
        min_frequency: stop when no pair occurs that often, >= 1

    Returns:
        pairs: int32 (M, 2), the two pieces of each merge, in order
        pieces: int32 (M,), the piece that each merge makes

    Raises:
        ValueError: lengths that do not belong together, or a number out of range

    Example:
        >>> ids = np.array([0, 1, 0, 1, 2], np.int32)  # the words "abab" and "c"
        >>> pairs, _ = learn_merges(ids, np.array([0, 4, 5]), np.array([3, 9]), 3, 9, 1)
        >>> pairs.tolist()
        [[0, 1], [3, 3]]
    """
    if len(offsets) != len(counts) + 1 or offsets[-1] != len(symbols):
        raise ValueError(
            f"{len(counts)} words need {len(counts) + 1} offsets that end at {len(symbols)}, "
            f"got {len(offsets)} that end at {offsets[-1]}"
        )
    if min_frequency < 1 or max_new_pieces < 0:
        raise ValueError(
            "min_frequency must be at least 1 and max_new_pieces at least 0, "
            f"got {min_frequency} and {max_new_pieces}"
        )
    if 3 * len(symbols) >= 2**31:
        raise ValueError(f"at most {2**31 // 3} symbols in all words, got {len(symbols)}")
    words = _link(symbols.astype(np.int32), offsets, counts.astype(np.int64))
    pairs, pieces = _merge_all(words, num_symbols, min(max_new_pieces, len(symbols)), min_frequency)
    return pairs, pieces


def _link(symbols: Int32s, offsets: Int64s, counts: Int64s) -> LinkedWords:
    positions = np.arange(len(symbols), dtype=np.int32)
    before, after = positions - 1, positions + 1
    lengths = np.diff(offsets)
    before[offsets[:-1][lengths > 0]] = GONE
    after[offsets[1:][lengths > 0] - 1] = GONE
    word_of = np.repeat(np.arange(len(counts), dtype=np.int32), lengths)
    return LinkedWords(symbols.copy(), symbols, before, after, word_of, counts)


@numba.njit(cache=True)
def _merge_all(words: LinkedWords, num_symbols: int, max_new: int, min_frequency: int) -> Any:
    """Return the merges' pairs and pieces; `words.symbols` is used up."""
    pairs = _count_pairs(words)
    heap = _most_frequent_first(pairs, min_frequency)
    pieces = _empty_pieces(num_symbols, max_new)
    num_pieces, num_merges = num_symbols, 0
    merged = np.empty((len(words.symbols), 2), np.int32)  # a merge removes at least one symbol
    made = np.empty(len(words.symbols), np.int32)
    while len(heap) > 0 and num_pieces < num_symbols + max_new:
        negative_count, key = heapq.heappop(heap)
        pair = _find(pairs, key)
        if pairs.counts[pair] != -negative_count:
            if pairs.counts[pair] >= min_frequency:
                heapq.heappush(heap, (-pairs.counts[pair], key))
            continue
        pairs = _reserve(pairs, 2 * pairs.num_occurrences[pair])
        positions = _occurrences(words, pairs, pair)
        left, right = np.int32(key >> 32), np.int32(key & 0xFFFFFFFF)
        piece = _piece(words, pieces, left, right, positions[0], num_pieces)
        num_pieces = max(num_pieces, piece + 1)
        merged[num_merges, 0], merged[num_merges, 1] = left, right
        made[num_merges] = piece
        num_merges += 1
        for raised in _merge_pair(words, pairs, positions, pair, piece, num_merges):
            if pairs.counts[raised] >= min_frequency:
                heapq.heappush(heap, (-pairs.counts[raised], pairs.keys[raised]))
        pairs.counts[pair] = 0
    return merged[:num_merges].copy(), made[:num_merges].copy()


@numba.njit(cache=True)
def _lend_words(words: LinkedWords) -> Any:
    """Return the words in `borrowed` arrays, for a function that calls others in a loop."""
    return LinkedWords(
        borrowed(words.symbols), borrowed(words.original), borrowed(words.before),
        borrowed(words.after), borrowed(words.word_of), borrowed(words.counts),
    )  # fmt: skip


@numba.njit(cache=True)
def _lend_pairs(pairs: SymbolPairs) -> Any:
    """Return the pairs in `borrowed` arrays, as long as the caller holds its own."""
    return SymbolPairs(
        borrowed(pairs.slots), borrowed(pairs.keys), borrowed(pairs.counts), borrowed(pairs.heads),
        borrowed(pairs.num_occurrences), borrowed(pairs.stamps), borrowed(pairs.places),
        borrowed(pairs.older), borrowed(pairs.sizes),
    )  # fmt: skip


@numba.njit(cache=True)
def _count_pairs(words: LinkedWords) -> Any:
    """Return all pairs of neighbours with their counts and occurrences."""
    room = 3 * len(words.symbols)  # a merge adds at most two occurrences and removes one symbol
    pairs = SymbolPairs(
        np.full(1 << 16, GONE, np.int32), np.empty(1 << 14, np.int64), np.empty(1 << 14, np.int64),
        np.empty(1 << 14, np.int32), np.empty(1 << 14, np.int64), np.empty(1 << 14, np.int32),
        np.empty(room, np.int32), np.empty(room, np.int32), np.zeros(2, np.int64),
    )  # fmt: skip
    for start in range(0, len(words.symbols), _BLOCK):
        pairs = _reserve(pairs, _BLOCK)
        lent = _lend_pairs(pairs)
        for position in range(start, min(start + _BLOCK, len(words.symbols))):
            following = words.after[position]
            if following != GONE:
                left, right = words.symbols[position], words.symbols[following]
                count = words.counts[words.word_of[position]]
                _raise(lent, np.int64(left), np.int64(right), np.int32(position), count)
    return pairs


@numba.njit(cache=True)
def _most_frequent_first(pairs: SymbolPairs, min_frequency: int) -> Any:
    """Return a heap of (-count, key): the most frequent pair first, then the smallest ids."""
    heap = [
        (-pairs.counts[pair], pairs.keys[pair])
        for pair in range(pairs.sizes[0])
        if pairs.counts[pair] >= min_frequency
    ]
    heapq.heapify(heap)
    return heap


@numba.njit(cache=True)
def _occurrences(words: LinkedWords, pairs: SymbolPairs, pair: Any) -> Any:
    """Return the positions at which to join a pair, int32; they do not overlap."""
    words, pairs = _lend_words(words), _lend_pairs(pairs)
    left, right = pairs.keys[pair] >> 32, pairs.keys[pair] & 0xFFFFFFFF
    positions = np.empty(pairs.num_occurrences[pair], np.int32)
    size = 0
    occurrence = pairs.heads[pair]
    while occurrence != GONE:
        position = pairs.places[occurrence]
        occurrence = pairs.older[occurrence]
        if left == right:
            previous = words.before[position]
            if previous != GONE and words.symbols[previous] == left:
                continue  # of a run such as "aaaa", the first position adds every second one
        while _is_pair(words, position, left, right):
            positions[size] = position
            size += 1
            if left != right:
                break
            position = words.after[words.after[position]]
            if position == GONE:
                break
    return positions[:size]


@numba.njit(cache=True, inline="always")
def _is_pair(words: LinkedWords, position: Any, left: Any, right: Any) -> Any:
    following = words.after[position]
    is_left = words.symbols[position] == left
    return is_left and following != GONE and words.symbols[following] == right


@numba.njit(cache=True)
def _merge_pair(
    words: LinkedWords, pairs: SymbolPairs, positions: Int32s, pair: Any, piece: Any, merge: Any
) -> Any:
    """Join a pair at its positions; return the pairs whose count rose, int32."""
    words, pairs = _lend_words(words), _lend_pairs(pairs)
    raised = np.empty(2 * len(positions), np.int32)
    num_raised = int64(0)
    symbols = words.symbols
    left, right = pairs.keys[pair] >> 32, pairs.keys[pair] & 0xFFFFFFFF
    for position in positions:
        following = words.after[position]
        count = words.counts[words.word_of[position]]
        previous, beyond = words.before[position], words.after[following]
        if previous != GONE:
            other = np.int64(symbols[previous])
            _lower(pairs, other, left, count)
            joined = _raise(pairs, other, piece, previous, count)
            num_raised = _note(pairs, raised, num_raised, joined, merge)
        if beyond != GONE:
            other = np.int64(symbols[beyond])
            _lower(pairs, right, other, count)
            joined = _raise(pairs, piece, other, position, count)
            num_raised = _note(pairs, raised, num_raised, joined, merge)
            words.before[beyond] = position
        symbols[position], symbols[following] = piece, GONE
        words.after[position] = beyond
    return raised[:num_raised]


@numba.njit(cache=True, inline="always")
def _note(pairs: SymbolPairs, raised: Int32s, num_raised: Any, pair: Any, merge: Any) -> Any:
    """Add a pair to `raised` unless it is there; return how many there are."""
    if pairs.stamps[pair] != merge:
        pairs.stamps[pair] = merge
        raised[num_raised] = pair
        num_raised += 1
    return num_raised


@numba.njit(cache=True, inline="always")
def _raise(pairs: SymbolPairs, left: Any, right: Any, position: Any, count: Any) -> Any:
    """Count a pair at a position and return it; `_reserve` has made room."""
    key = (left << 32) | right
    slot = _slot(pairs, key)
    pair = pairs.slots[slot]
    if pair == GONE:
        pair = pairs.sizes[0]
        pairs.sizes[0] += 1
        pairs.slots[slot], pairs.keys[pair] = pair, key
        pairs.counts[pair], pairs.num_occurrences[pair] = 0, 0
        pairs.heads[pair], pairs.stamps[pair] = GONE, 0
    occurrence = pairs.sizes[1]
    pairs.sizes[1] += 1
    pairs.places[occurrence], pairs.older[occurrence] = position, pairs.heads[pair]
    pairs.heads[pair] = occurrence
    pairs.counts[pair] += count
    pairs.num_occurrences[pair] += 1
    return pair


@numba.njit(cache=True, inline="always")
def _lower(pairs: SymbolPairs, left: Any, right: Any, count: Any) -> None:
    """Take `count` from a pair that exists."""
    pairs.counts[_find(pairs, (left << 32) | right)] -= count


@numba.njit(cache=True, inline="always")
def _find(pairs: SymbolPairs, key: Any) -> Any:
    return pairs.slots[_slot(pairs, key)]


@numba.njit(cache=True, inline="always")
def _slot(pairs: SymbolPairs, key: Any) -> Any:
    """Return the slot that holds the pair, or the empty one where it belongs."""
    mask = len(pairs.slots) - 1
    slot = _mix(key) & mask
    while pairs.slots[slot] != GONE and pairs.keys[pairs.slots[slot]] != key:
        slot = (slot + 1) & mask
    return slot


@numba.njit(cache=True, inline="always")
def _mix(key: Any) -> Any:
    """Return a well-spread hash in [0, 2**31): the finalizer of SplitMix64 (Steele et al. 2014)."""
    value = np.uint64(key)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64(value >> np.uint64(33))


@numba.njit(cache=True)
def _reserve(pairs: SymbolPairs, num_more: Any) -> Any:
    """Return the pairs with room for more of them, moved to larger arrays if necessary."""
    needed = pairs.sizes[0] + num_more
    if needed <= len(pairs.keys):
        return pairs
    capacity = len(pairs.keys)
    while capacity < needed:
        capacity *= 2
    grown = SymbolPairs(
        np.full(4 * capacity, GONE, np.int32), _extend(pairs.keys, capacity),
        _extend(pairs.counts, capacity), _extend(pairs.heads, capacity),
        _extend(pairs.num_occurrences, capacity), _extend(pairs.stamps, capacity),
        pairs.places, pairs.older, pairs.sizes,
    )  # fmt: skip
    lent = _lend_pairs(grown)
    for pair in range(pairs.sizes[0]):
        lent.slots[_slot(lent, lent.keys[pair])] = pair
    return grown


@numba.njit(cache=True)
def _extend(array: Any, capacity: int) -> Any:
    longer = np.empty(capacity, array.dtype)
    for index in range(len(array)):  # not a slice: its shape check takes seconds to compile
        longer[index] = array[index]
    return longer


@numba.njit(cache=True)
def _empty_pieces(num_symbols: int, max_new: int) -> Any:
    num_slots = 1 << 4
    while num_slots < 2 * max_new:
        num_slots *= 2
    lengths = np.ones(num_symbols + max_new, np.int32)
    starts = np.zeros(num_symbols + max_new, np.int32)
    return SpelledPieces(np.full(num_slots, GONE, np.int32), starts, lengths)


@numba.njit(cache=True)
def _piece(
    words: LinkedWords, pieces: SpelledPieces, left: Any, right: Any, position: Any, new_piece: Any
) -> Any:
    """Return the piece that is spelled at `position`: a known one, or `new_piece`, now known."""
    length = pieces.lengths[left] + pieces.lengths[right]
    spelling = words.original[position : position + length]
    mask = len(pieces.slots) - 1
    slot = _hash(spelling) & mask
    while pieces.slots[slot] != GONE:
        known = pieces.slots[slot]
        if pieces.lengths[known] == length:
            start = pieces.starts[known]
            index = 0
            while index < length and words.original[start + index] == spelling[index]:
                index += 1
            if index == length:
                return known
        slot = (slot + 1) & mask
    pieces.slots[slot] = new_piece
    pieces.starts[new_piece], pieces.lengths[new_piece] = position, length
    return new_piece


@numba.njit(cache=True)
def _hash(spelling: Int32s) -> Any:
    hashed = np.int64(len(spelling))
    for symbol in spelling:
        hashed = _mix((np.int64(symbol) << 32) | hashed)
    return hashed
