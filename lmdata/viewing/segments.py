"""Single segments of whole sentences: what the single and the packed view lay into rows."""

from __future__ import annotations

import numba
import numpy as np

from lmdata.viewing.rng_kernels import int64
from lmdata.viewing.store_table import (
    StoreTable,
    find_block,
    lengths_until,
    sentence_range,
    token_start,
)
from lmdata.viewing.walk import (
    A_BLOCK,
    A_LENGTH,
    A_ROW,
    A_START,
    B_BLOCK,
    B_ROW,
    LABEL,
    ORDINAL,
    STATE_STRIDE,
    STRIDE_SHIFT,
    ExampleIndex,
    WalkRules,
    find_document,
    kept_state,
)

_MOST_FILLERS = 2


@numba.njit(cache=True)
def _next_piece(
    rules: WalkRules, lengths: np.ndarray, first: int, stop: int, state: int
) -> tuple[int, int]:
    """Return the length of the single segment at a state, and the state after it.

    Whole sentences while they fit; a sentence that is longer than a row is cut hard. The state
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
    while sentence < stop and total + lengths[sentence] <= rules.capacity:
        total += lengths[sentence]
        sentence += 1
    return total, _pack_state(sentence - first, 0)


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
            state = 0
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
