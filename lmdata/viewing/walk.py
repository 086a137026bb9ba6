"""The walk over a document that finds its examples, and the states it starts again from.

A document is walked from its first sentence to its last, and the walk of every other document is
independent of it. So an example is found by walking its own document only, from the nearest kept
state: eight bytes a document (the number of examples before it) and eight for every 16 examples.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from lmdata.viewing.store_table import StoreTable, sentence_range

NSP, SOP, SINGLE = 0, 1, 2
# A state of the walk is kept for every example whose number is a multiple of this.
STATE_STRIDE = 16
STRIDE_SHIFT = 4

# Columns of a span table, int64 (B, NUM_COLUMNS): where the two segments of an example lie.
A_ROW, A_BLOCK, A_START, A_LENGTH = 0, 1, 2, 3
B_ROW, B_BLOCK, B_START, B_LENGTH = 4, 5, 6, 7
LABEL, DUPLICATE, ORDINAL = 8, 9, 10
NUM_COLUMNS = 11


class WalkRules(NamedTuple):
    """What the walk over a document needs to know.

    Attributes:
        kind: NSP, SOP or SINGLE
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
