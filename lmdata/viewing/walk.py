"""The walk over a document that finds its examples, and the ids that it lays into them (kernels).

A document is walked from its first sentence to its last, and the walk of every other document is
independent of it. So an example is found by walking its own document only, from the nearest kept
state: eight bytes a document (the number of examples before it) and eight for every 16 examples.
The walk of pairs is `lmdata.pairs`; here are the single segments of whole sentences, of which the
single and the packed view are made.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from lmdata.intrinsics import int64
from lmdata.viewing.store_table import (
    StoreTable,
    find_block,
    ids_until,
    lengths_until,
    sentence_range,
    token_start,
)

NSP, SOP, SINGLE, LONE = 0, 1, 2, 3
KINDS = {"nsp": NSP, "sop": SOP, "single": SINGLE, "packed": SINGLE, "sentence": LONE}
# A state of the walk is kept for every example whose number is a multiple of this.
STATE_STRIDE = 16
STRIDE_SHIFT = 4

# Columns of a span table, int64 (B, NUM_COLUMNS): where the two segments of an example lie.
A_ROW, A_BLOCK, A_START, A_LENGTH = 0, 1, 2, 3
B_ROW, B_BLOCK, B_START, B_LENGTH = 4, 5, 6, 7
LABEL, DUPLICATE, ORDINAL = 8, 9, 10
# Of single segments: the sentence of the block in which it begins, how many of its tokens are
# before it, and the segment's first token in its document.
SENTENCE, SKIPPED, PLACE = 11, 12, 13
NUM_COLUMNS = 14

_MOST_FILLERS = 2


class WalkRules(NamedTuple):
    """What the walk over a document needs to know.

    Attributes:
        kind: NSP, SOP, SINGLE or LONE (one sentence a segment)
        capacity: tokens of an example without its special tokens
        short_word: a document is short when its word is below this (probability * 2**32)
        random_word: a pair is random (nsp) or swapped (sop) when its word is below this
        min_sentences: 1, or 2 where a pair can only be made of neighbours
        filler: where a long document is cut for packing, up to two sentences of at most so many
            tokens stand alone, to fill rows that have little space left
        duplicates: passes over each document
        same_document: whether the random document may be the same one (BERT, after ten draws)
        length_key: two words, from `rng.stream_key`, as for the others
        pair_key: of a_end, random next, random document
        truncate_key: of the ends to drop from
    """

    kind: int
    capacity: int
    short_word: int
    random_word: int
    min_sentences: int
    filler: int
    duplicates: int
    same_document: bool
    length_key: tuple[int, int]
    pair_key: tuple[int, int]
    truncate_key: tuple[int, int]


class ExampleIndex(NamedTuple):
    """How many examples lie before each document, and states of the walk to start from.

    Attributes:
        before: int64 (documents + 1,)
        states: int64 (examples / 16,), of the examples 0, 16, 32, ...
    """

    before: np.ndarray
    states: np.ndarray


@numba.njit(cache=True)
def find_document(before: np.ndarray, example: int) -> int:
    """Return the document that holds an example: `before[row] <= example < before[row + 1]`.

    Args:
        before: int64 (documents + 1,), examples before each document
        example: in [0, before[-1])

    Example:
        >>> find_document(np.array([0, 2, 2, 5]), 2)
        2
    """
    low, high = 0, len(before) - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if before[middle] <= example:
            low = middle
        else:
            high = middle
    return low


@numba.njit(cache=True)
def kept_state(index: ExampleIndex, row: int, example: int) -> tuple[int, int]:
    """Return the ordinal and the state to start the walk from, (0, 0) for the beginning.

    Args:
        index: with `before` int64 (documents + 1,) and `states` int64 (examples / 16,)
        row: of the document
        example: of the document, its number in the split
    """
    kept = (example >> STRIDE_SHIFT) << STRIDE_SHIFT
    if kept < index.before[row]:
        return 0, 0
    return kept - index.before[row], index.states[kept >> STRIDE_SHIFT]


@numba.njit(cache=True, nogil=True)
def count_documents(table: StoreTable) -> tuple[int, int]:
    """Return how many documents have a sentence, and how many have two or more."""
    some, several = 0, 0
    for block in range(len(table.ids)):
        for row in range(table.first_rows[block], table.first_rows[block + 1]):
            first, stop = sentence_range(table, block, row)
            some += stop > first
            several += stop > first + 1
    return some, several


@numba.njit(cache=True)
def _next_piece(
    rules: WalkRules, lengths: np.ndarray, first: int, stop: int, state: int
) -> tuple[int, int]:
    """Return the length of the single segment at a state, and the state after it.

    Whole sentences while they fit, or one; what is longer than a row is cut hard. The state
    holds the sentence within the document, the number of fillers just made, and the tokens of the
    sentence that are done.
    """
    sentence, num_fillers, skip = _unpack_state(state)
    sentence += first
    total = int64(lengths[sentence]) - skip
    if total > rules.capacity:
        return rules.capacity, state + rules.capacity
    if sentence > first and skip == 0 and total <= rules.filler and num_fillers < _MOST_FILLERS:
        return total, _pack_state(sentence + 1 - first, num_fillers + 1)
    sentence += 1
    if rules.kind == LONE:
        return total, _pack_state(sentence - first, int64(0))
    while sentence < stop and total + lengths[sentence] <= rules.capacity:
        total += lengths[sentence]
        sentence += 1
    return total, _pack_state(sentence - first, int64(0))


@numba.njit(cache=True)
def _pack_state(sentence: int, num_fillers: int) -> int:
    return (sentence << 34) | (num_fillers << 32)


@numba.njit(cache=True)
def _unpack_state(state: int) -> tuple[int, int, int]:
    return state >> 34, (state >> 32) & 3, state & 0xFFFFFFFF


@numba.njit(cache=True, nogil=True)
def index_pieces(
    table: StoreTable, rules: WalkRules, before: np.ndarray, states: np.ndarray, sizes: np.ndarray
) -> int:
    """Count the single segments of every document, keep states, and their sizes if wanted.

    Args:
        table: of the store
        rules: of the walk
        before: int64 (documents + 1,), written
        states: int64, large enough for the segments / 16, written
        sizes: uint16 (segments,), written, or empty

    Returns:
        The number of segments.
    """
    total = 0
    for block in range(len(table.ids)):
        for row in range(table.first_rows[block], table.first_rows[block + 1]):
            before[row] = total
            first, stop = sentence_range(table, block, row)
            lengths = lengths_until(table, block, stop)
            state = int64(0)
            while first + _unpack_state(state)[0] < stop:
                if total & (STATE_STRIDE - 1) == 0:
                    states[total >> STRIDE_SHIFT] = state
                size, state = _next_piece(rules, lengths, first, stop, state)
                if len(sizes):
                    sizes[total] = size
                total += 1
    before[table.first_rows[-1]] = total
    return total


@numba.njit(cache=True, nogil=True)
def find_pieces(
    table: StoreTable,
    rules: WalkRules,
    index: ExampleIndex,
    examples: np.ndarray,
    spans: np.ndarray,
) -> None:
    """Write where some single segments lie, as the A columns of `find_pairs`; B is empty.

    Args:
        table: of the store
        rules: of the walk
        index: from `index_pieces` by the same rules
        examples: int64 (S,), numbers of the segments
        spans: int64 (S, NUM_COLUMNS), written
    """
    for number in range(len(examples)):
        example = examples[number]
        row = find_document(index.before, example)
        block = find_block(table.first_rows, row)
        first, stop = sentence_range(table, block, row)
        lengths = lengths_until(table, block, stop)
        ordinal, state = kept_state(index, row, example)
        wanted = example - index.before[row]
        size, following = _next_piece(rules, lengths, first, stop, state)
        while ordinal < wanted:
            ordinal, state = ordinal + 1, following
            size, following = _next_piece(rules, lengths, first, stop, state)
        sentence, _, skip = _unpack_state(state)
        span = spans[number]
        span[:] = 0
        span[A_ROW], span[B_ROW], span[A_BLOCK], span[B_BLOCK] = row, row, block, block
        span[A_START] = token_start(table, block, first + sentence) + skip
        span[A_LENGTH], span[LABEL], span[ORDINAL] = size, -1, ordinal
        span[SENTENCE], span[SKIPPED] = first + sentence, skip
        span[PLACE] = span[A_START] - token_start(table, block, first)


def sentences_of(table: StoreTable, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of the sentences of single segments, as far as they lie in them.

    Args:
        table: of the store
        spans: int64 (S, NUM_COLUMNS), from `find_pieces`

    Returns:
        lengths int64 (sentences,) and offsets int64 (S + 1,), where those of each segment begin.
    """
    offsets = np.empty(len(spans) + 1, np.int64)
    _find_sentences(table, spans, offsets, offsets[:0])
    lengths = np.empty(offsets[-1], np.int64)
    _find_sentences(table, spans, offsets, lengths)
    return lengths, offsets


@numba.njit(cache=True, nogil=True)
def _find_sentences(
    table: StoreTable, spans: np.ndarray, offsets: np.ndarray, lengths: np.ndarray
) -> None:
    """Write where the sentences of each segment begin and, where there is room, their lengths."""
    total = 0
    for number in range(len(spans)):
        span = spans[number]
        offsets[number] = total
        sentence, skip, left = span[SENTENCE], span[SKIPPED], span[A_LENGTH]
        while left > 0:
            own = lengths_until(table, span[A_BLOCK], sentence + 1)
            length = min(left, int64(own[sentence]) - skip)
            if len(lengths):
                lengths[total] = length
            left, skip, sentence, total = left - length, 0, sentence + 1, total + 1
    offsets[len(spans)] = total


@numba.njit(cache=True, nogil=True)
def lay_pairs(
    table: StoreTable,
    spans: np.ndarray,
    cls_id: int,
    sep_id: int,
    offsets: np.ndarray,
    ids: np.ndarray,
    token_types: np.ndarray,
) -> None:
    """Write `[CLS] A [SEP] B [SEP]` for each pair, type 0 through the first [SEP] (rule 14).

    Args:
        table: of the store
        spans: int64 (B, NUM_COLUMNS), from `pairs.find_pairs`
        cls_id: of [CLS]
        sep_id: of [SEP]
        offsets: int64 (B + 1,), into the next two
        ids: uint16 or uint32 (T,), written
        token_types: uint8 (T,), written
    """
    for number in range(len(spans)):
        span = spans[number]
        at = offsets[number]
        ids[at] = cls_id
        at = _copy(table, span[A_BLOCK], span[A_START], span[A_LENGTH], ids, at + 1)
        ids[at] = sep_id
        token_types[offsets[number] : at + 1] = 0
        token_types[at + 1 : offsets[number + 1]] = 1
        at = _copy(table, span[B_BLOCK], span[B_START], span[B_LENGTH], ids, at + 1)
        ids[at] = sep_id


@numba.njit(cache=True, nogil=True)
def lay_segments(
    table: StoreTable, spans: np.ndarray, first_id: int, last_id: int, ids: np.ndarray
) -> None:
    """Write `first segment last` for each segment, one after the other.

    Args:
        table: of the store
        spans: int64 (S, NUM_COLUMNS), from `pairs.find_pieces`
        first_id: special token before each segment, negative for none
        last_id: special token after each segment
        ids: uint16 or uint32 (T,), written
    """
    at = 0
    for number in range(len(spans)):
        span = spans[number]
        if first_id >= 0:
            ids[at] = first_id
            at += 1
        at = _copy(table, span[A_BLOCK], span[A_START], span[A_LENGTH], ids, at)
        ids[at] = last_id
        at += 1


@numba.njit(cache=True)
def _copy(table: StoreTable, block: int, start: int, length: int, ids: np.ndarray, at: int) -> int:
    """Copy tokens of a block to `ids[at:]` and return where they end."""
    source = ids_until(table, block, start + length, ids)
    for index in range(length):
        ids[at + index] = source[start + index]
    return at + length
