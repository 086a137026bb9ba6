"""Which spans of which documents form example i: BERT's pairs, ALBERT's, and single segments.

A document is walked from its first sentence to its last, and the walk of every other document is
independent of it. So an example is found by walking its own document only, from the nearest kept
state: eight bytes a document (the number of examples before it) and eight for every 32 examples.
FIDELITY.md gives the rules by number; the draws of a document are addressed by its row, the pass
(duplicate) and the ordinal of the example within the document.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from lmdata.rng import below, below_wide, philox_block
from lmdata.store_table import (
    StoreTable,
    find_block,
    lengths_until,
    sentence_range,
    token_start,
)

NSP, SOP, SINGLE = 0, 1, 2
# A state of the walk is kept for every example whose number is a multiple of this.
STATE_STRIDE = 32
_STRIDE_SHIFT = 5

# Columns of a span table, int64 (B, NUM_COLUMNS): where the two segments of an example lie.
A_ROW, A_BLOCK, A_START, A_LENGTH = 0, 1, 2, 3
B_ROW, B_BLOCK, B_START, B_LENGTH = 4, 5, 6, 7
LABEL, DUPLICATE, ORDINAL = 8, 9, 10
NUM_COLUMNS = 11

# The bits that choose the end to drop from: those of B begin at this word.
_B_WORDS = 1 << 26
_RETRIES_OF_BERT = 10


class WalkRules(NamedTuple):
    """What the walk over a document needs to know.

    Attributes:
        kind: NSP, SOP or SINGLE
        capacity: tokens of an example without its special tokens
        short_word: a document is short when its word is below this (probability * 2**32)
        random_word: a pair is random (nsp) or swapped (sop) when its word is below this
        min_sentences: 1, or 2 where a pair can only be made of neighbours
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
    duplicates: int
    same_document: bool
    length_key: tuple[int, int]
    pair_key: tuple[int, int]
    truncate_key: tuple[int, int]


class ExampleIndex(NamedTuple):
    """How many examples lie before each document, and states of the walk to start from.

    Attributes:
        before: int64 (documents + 1,)
        states: int64 (examples / 32,), of the examples 0, 32, 64, ...
    """

    before: np.ndarray
    states: np.ndarray


@numba.njit(cache=True)
def target_length(rules: WalkRules, row: int, duplicate: int) -> int:
    """Return the target length of a document in one pass (rule 6)."""
    k0, k1 = rules.length_key
    short, w1, w2, _ = philox_block(k0, k1, row, duplicate, 0)
    if short >= rules.short_word:
        return rules.capacity
    return 2 + below_wide(w1, w2, rules.capacity - 1)


@numba.njit(cache=True)
def chunk_end(
    lengths: np.ndarray, sentence: int, stop: int, target: int, min_sentences: int
) -> int:
    """Return the end of the chunk that begins at a sentence (rule 7).

    Whole sentences accumulate until their tokens reach the target or the document ends.
    """
    total, end = np.int64(0), sentence
    while end < stop:
        total += lengths[end]
        end += 1
        if total >= target and end - sentence >= min_sentences:
            break
    return end


@numba.njit(cache=True)
def truncated_lengths(length_a: int, length_b: int, capacity: int) -> tuple[int, int]:
    """Return the lengths after dropping from the longer, of equals from B (rule 13).

    Example:
        >>> truncated_lengths(90, 60, 125), truncated_lengths(9, 9, 17), truncated_lengths(5, 6, 99)
        ((65, 60), (9, 8), (5, 6))
    """
    if length_a + length_b <= capacity:
        return length_a, length_b
    if length_a > length_b and 2 * length_b <= capacity:
        return capacity - length_b, length_b
    if length_a <= length_b and 2 * length_a <= capacity + 1:
        return length_a, capacity - length_a
    return capacity - capacity // 2, capacity // 2


@numba.njit(cache=True)
def _count_ones(word: int) -> int:
    count = 0
    while word:
        word &= word - 1
        count += 1
    return count


@numba.njit(cache=True)
def dropped_in_front(
    key: tuple[int, int], row: int, ordinal: int, is_b: bool, num_dropped: int
) -> int:
    """Return how many of the dropped tokens go from the front: fair bits, counted (rule 13)."""
    total = 0
    block = (_B_WORDS if is_b else 0) >> 2
    remaining = num_dropped
    while remaining > 0:
        for word in philox_block(key[0], key[1], row, ordinal, block):
            if remaining < 32:
                word &= (1 << max(remaining, 0)) - 1
            total += _count_ones(word)
            remaining -= 32
        block += 1
    return total


@numba.njit(cache=True)
def _cut_pair(rules: WalkRules, span: np.ndarray) -> None:
    """Truncate both segments of a pair to the capacity, in place."""
    length_a, length_b = span[A_LENGTH], span[B_LENGTH]
    new_a, new_b = truncated_lengths(length_a, length_b, rules.capacity)
    if new_a < length_a:
        span[A_START] += dropped_in_front(
            rules.truncate_key, span[A_ROW], span[ORDINAL], False, length_a - new_a
        )
    if new_b < length_b:
        span[B_START] += dropped_in_front(
            rules.truncate_key, span[A_ROW], span[ORDINAL], True, length_b - new_b
        )
    span[A_LENGTH], span[B_LENGTH] = new_a, new_b


@numba.njit(cache=True)
def _next_chunk(
    rules: WalkRules, lengths: np.ndarray, first: int, sentence: int, stop: int,
    target: int, row: int, ordinal: int,
) -> tuple[int, int, int, bool, int]:
    """Return (start, a_end, end, is_random, next sentence) of the chunk at a sentence.

    The sentences of A are start..a_end, those left for B are a_end..end (rules 7, 8, 9, 12).
    Where neighbours are needed, a lone last sentence takes the one before it as well; a document
    of one sentence then gives (start, start, start, ...): no pair.
    """
    end = chunk_end(lengths, sentence, stop, target, rules.min_sentences)
    start = max(first, min(sentence, end - rules.min_sentences))
    num_sentences = end - start
    if num_sentences < rules.min_sentences:
        return start, start, start, False, end
    k0, k1 = rules.pair_key
    split_word, random_word, _, _ = philox_block(k0, k1, row, ordinal, 0)
    a_end = start + 1
    if num_sentences >= 2:
        a_end += below(split_word, num_sentences - 1)
    chosen = random_word < rules.random_word
    if rules.kind == SOP:
        return start, a_end, end, chosen, end
    is_random = num_sentences == 1 or chosen
    return start, a_end, end, is_random, a_end if is_random else end


@numba.njit(cache=True)
def _next_piece(
    lengths: np.ndarray, sentence: int, skip: int, stop: int, capacity: int
) -> tuple[int, int, int]:
    """Return (length, next sentence, next skip) of the single segment at a sentence.

    Whole sentences while they fit; a sentence that is longer than a row is cut hard.
    """
    total = np.int64(lengths[sentence]) - skip
    if total > capacity:
        return capacity, sentence, skip + capacity
    sentence += 1
    while sentence < stop and total + lengths[sentence] <= capacity:
        total += lengths[sentence]
        sentence += 1
    return total, sentence, 0


@numba.njit(cache=True, nogil=True)
def index_pairs(
    table: StoreTable, rules: WalkRules, before: np.ndarray, states: np.ndarray
) -> tuple[int, int, int]:
    """Count the pairs of every document, and keep the states of the walk.

    Args:
        table: of the store
        rules: of the walk
        before: int64 (documents + 1,), written
        states: int64, large enough for the examples / 32, written

    Returns:
        The number of pairs, of pairs of which one segment is a whole chunk of one sentence (these
        are random whatever is drawn), and of sentences that no pair could be made of.
    """
    total, forced, left_out = 0, 0, 0
    for block in range(len(table.ids)):
        for row in range(table.first_rows[block], table.first_rows[block + 1]):
            before[row] = total
            first, stop = sentence_range(table, block, row)
            lengths = lengths_until(table, block, stop)
            for duplicate in range(rules.duplicates):
                target = target_length(rules, row, duplicate)
                sentence = first
                while sentence < stop:
                    start, a_end, end, _, following = _next_chunk(
                        rules, lengths, first, sentence, stop, target, row, total - before[row]
                    )
                    if a_end == start:
                        left_out += 1
                    else:
                        if total & (STATE_STRIDE - 1) == 0:
                            states[total >> _STRIDE_SHIFT] = (duplicate << 40) | (sentence - first)
                        total += 1
                        forced += end - start == 1
                    sentence = following
    before[table.first_rows[-1]] = total
    return total, forced, left_out


@numba.njit(cache=True, nogil=True)
def index_pieces(
    table: StoreTable, rules: WalkRules, before: np.ndarray, states: np.ndarray, sizes: np.ndarray
) -> int:
    """Count the single segments of every document, keep states, and their sizes if wanted.

    Args:
        table: of the store
        rules: of the walk
        before: int64 (documents + 1,), written
        states: int64, large enough for the segments / 32, written
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
            sentence, skip = first, 0
            while sentence < stop:
                if total & (STATE_STRIDE - 1) == 0:
                    states[total >> _STRIDE_SHIFT] = ((sentence - first) << 32) | skip
                size, sentence, skip = _next_piece(lengths, sentence, skip, stop, rules.capacity)
                if len(sizes):
                    sizes[total] = size
                total += 1
    before[table.first_rows[-1]] = total
    return total


@numba.njit(cache=True)
def find_document(before: np.ndarray, example: int) -> int:
    """Return the document that holds an example: `before[row] <= example < before[row + 1]`."""
    low, high = 0, len(before) - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if before[middle] <= example:
            low = middle
        else:
            high = middle
    return low


@numba.njit(cache=True)
def _kept_state(index: ExampleIndex, row: int, example: int) -> tuple[int, int]:
    """Return the ordinal and the state to start the walk from, (0, 0) for the beginning."""
    kept = (example >> _STRIDE_SHIFT) << _STRIDE_SHIFT
    if kept < index.before[row]:
        return 0, 0
    return kept - index.before[row], index.states[kept >> _STRIDE_SHIFT]


@numba.njit(cache=True)
def _random_segment(
    table: StoreTable, rules: WalkRules, before: np.ndarray, span: np.ndarray, wanted: int
) -> None:
    """Choose B from another document: whole sentences from a random one on (rules 10, 11)."""
    row, num_documents = span[A_ROW], len(before) - 1
    k0, k1 = rules.pair_key
    attempt = 0
    while True:
        attempt += 1
        w0, w1, w2, w3 = philox_block(k0, k1, row, span[ORDINAL], attempt)
        other = below_wide(w0, w1, num_documents)
        if before[other] == before[other + 1]:
            continue
        if other != row or (rules.same_document and attempt >= _RETRIES_OF_BERT):
            break
    block = find_block(table.first_rows, other)
    first, stop = sentence_range(table, block, other)
    lengths = lengths_until(table, block, stop)
    start = first + below_wide(w2, w3, stop - first)
    end = chunk_end(lengths, start, stop, wanted, 1)
    span[B_ROW], span[B_BLOCK] = other, block
    span[B_START] = token_start(table, block, start)
    span[B_LENGTH] = lengths[start:end].sum()


@numba.njit(cache=True)
def _write_pair(
    table: StoreTable, rules: WalkRules, before: np.ndarray, span: np.ndarray,
    chunk: tuple[int, int, int, bool], target: int,
) -> None:
    """Write the spans of one pair whose row, block, ordinal and duplicate are written."""
    start, a_end, end, chosen = chunk
    block = span[A_BLOCK]
    lengths = lengths_until(table, block, end)
    length_a = np.int64(lengths[start:a_end].sum())
    token = token_start(table, block, start)
    span[A_START], span[A_LENGTH], span[LABEL] = token, length_a, chosen
    if rules.kind == NSP and chosen:
        _random_segment(table, rules, before, span, target - length_a)
    else:
        length_b = np.int64(lengths[a_end:end].sum())
        span[B_ROW], span[B_BLOCK] = span[A_ROW], block
        span[B_START], span[B_LENGTH] = token + length_a, length_b
        if chosen:
            span[A_START], span[A_LENGTH] = token + length_a, length_b
            span[B_START], span[B_LENGTH] = token, length_a
    _cut_pair(rules, span)


@numba.njit(cache=True, nogil=True)
def find_pairs(
    table: StoreTable, rules: WalkRules, index: ExampleIndex, examples: np.ndarray,
    spans: np.ndarray,
) -> None:
    """Write where the segments of some pairs lie.

    Args:
        table: of the store
        rules: of the walk
        index: from `index_pairs` by the same rules
        examples: int64 (B,), canonical numbers
        spans: int64 (B, NUM_COLUMNS), written
    """
    for number in range(len(examples)):
        example = examples[number]
        row = find_document(index.before, example)
        block = find_block(table.first_rows, row)
        first, stop = sentence_range(table, block, row)
        lengths = lengths_until(table, block, stop)
        ordinal, state = _kept_state(index, row, example)
        wanted = example - index.before[row]
        duplicate, sentence = state >> 40, first + (state & ((1 << 40) - 1))
        target = target_length(rules, row, duplicate)
        while True:
            if sentence >= stop:
                duplicate, sentence = duplicate + 1, first
                target = target_length(rules, row, duplicate)
            start, a_end, end, chosen, following = _next_chunk(
                rules, lengths, first, sentence, stop, target, row, ordinal
            )
            if ordinal == wanted:
                break
            ordinal, sentence = ordinal + 1, following
        span = spans[number]
        span[A_ROW], span[A_BLOCK], span[ORDINAL], span[DUPLICATE] = row, block, ordinal, duplicate
        _write_pair(table, rules, index.before, span, (start, a_end, end, chosen), target)


@numba.njit(cache=True, nogil=True)
def find_pieces(
    table: StoreTable, rules: WalkRules, index: ExampleIndex, examples: np.ndarray,
    spans: np.ndarray,
) -> None:
    """Write where some single segments lie, as the A columns of `find_pairs`; B is empty."""
    for number in range(len(examples)):
        example = examples[number]
        row = find_document(index.before, example)
        block = find_block(table.first_rows, row)
        first, stop = sentence_range(table, block, row)
        lengths = lengths_until(table, block, stop)
        ordinal, state = _kept_state(index, row, example)
        wanted = example - index.before[row]
        sentence, skip = first + (state >> 32), state & 0xFFFFFFFF
        size, following, next_skip = _next_piece(lengths, sentence, skip, stop, rules.capacity)
        while ordinal < wanted:
            ordinal, sentence, skip = ordinal + 1, following, next_skip
            size, following, next_skip = _next_piece(lengths, sentence, skip, stop, rules.capacity)
        span = spans[number]
        span[:] = 0
        span[A_ROW], span[B_ROW], span[A_BLOCK], span[B_BLOCK] = row, row, block, block
        span[A_START] = token_start(table, block, sentence) + skip
        span[A_LENGTH], span[LABEL], span[ORDINAL] = size, -1, ordinal


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
