"""Which spans of which documents form pair i: BERT's next-sentence pairs and ALBERT's order.

docs/fidelity.md gives the rules by number. The draws of a document are addressed by its row, the
pass (duplicate) and the ordinal of the example within the document.
"""

from __future__ import annotations

import numba
import numpy as np

from lmdata.intrinsics import boolean, int64
from lmdata.viewing.rng_kernels import below, below_wide, philox_block
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
    B_LENGTH,
    B_ROW,
    B_START,
    DUPLICATE,
    LABEL,
    NSP,
    ORDINAL,
    SOP,
    STATE_STRIDE,
    STRIDE_SHIFT,
    ExampleIndex,
    WalkRules,
    find_document,
    kept_state,
)

# The bits that choose the end to drop from: those of B begin at this word.
_B_WORDS = 1 << 26
_RETRIES_OF_BERT = 10
_MOST_ATTEMPTS = 1024  # at documents, nearly all of which are empty then


@numba.njit(cache=True)
def target_length(rules: WalkRules, row: int, duplicate: int) -> int:
    """Return the target length of a document in one pass (rule 6)."""
    k0, k1 = rules.length_key
    short, w1, w2, _ = philox_block(k0, k1, row, duplicate, int64(0))
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
    total, end = int64(0), sentence
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
            rules.truncate_key, span[A_ROW], span[ORDINAL], boolean(False), length_a - new_a
        )
    if new_b < length_b:
        span[B_START] += dropped_in_front(
            rules.truncate_key, span[A_ROW], span[ORDINAL], boolean(True), length_b - new_b
        )
    span[A_LENGTH], span[B_LENGTH] = new_a, new_b


@numba.njit(cache=True)
def _next_chunk(
    rules: WalkRules,
    lengths: np.ndarray,
    first: int,
    sentence: int,
    stop: int,
    target: int,
    row: int,
    ordinal: int,
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
    split_word, random_word, _, _ = philox_block(k0, k1, row, ordinal, int64(0))
    a_end = start + 1
    if num_sentences >= 2:
        a_end += below(split_word, num_sentences - 1)
    chosen = random_word < rules.random_word
    if rules.kind == SOP:
        return start, a_end, end, chosen, end
    is_random = num_sentences == 1 or chosen
    return start, a_end, end, is_random, a_end if is_random else end


@numba.njit(cache=True, nogil=True)
def index_pairs(
    table: StoreTable, rules: WalkRules, before: np.ndarray, states: np.ndarray
) -> tuple[int, int, int, int]:
    """Count the pairs of every document, and keep the states of the walk.

    Args:
        table: of the store
        rules: of the walk
        before: int64 (documents + 1,), written
        states: int64, large enough for the examples / 16, written

    Returns:
        The number of pairs, of pairs of which one segment is a whole chunk of one sentence (these
        are random whatever is drawn), of sentences that no pair could be made of, and of tokens
        that a lone last sentence takes a second time from the one before it.
    """
    total, forced, left_out, repeated = 0, 0, 0, 0
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
                            states[total >> STRIDE_SHIFT] = (duplicate << 40) | (sentence - first)
                        total += 1
                        forced += end - start == 1
                        for again in range(start, sentence):
                            repeated += lengths[again]
                    sentence = following
    before[table.first_rows[-1]] = total
    return total, forced, left_out, repeated


@numba.njit(cache=True)
def _document_of_another(before: np.ndarray, row: int, w0: int, w1: int) -> int:
    """Return the document of an example drawn from those of other documents.

    Args:
        before: int64 (documents + 1,), examples before each document
        row: of the document to avoid; it is returned where no other has examples
        w0: 32 random bits
        w1: 32 more
    """
    num_own = before[row + 1] - before[row]
    if num_own == before[-1]:
        return row
    example = below_wide(w0, w1, before[-1] - num_own)
    return find_document(before, example + (num_own if example >= before[row] else 0))


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
        if attempt == _MOST_ATTEMPTS:
            other = _document_of_another(before, row, w0, w1)
            break
        other = below_wide(w0, w1, num_documents)
        if before[other] == before[other + 1]:
            continue
        if other != row or (rules.same_document and attempt >= _RETRIES_OF_BERT):
            break
    block = find_block(table.first_rows, other)
    first, stop = sentence_range(table, block, other)
    lengths = lengths_until(table, block, stop)
    start = first + below_wide(w2, w3, stop - first)
    end = chunk_end(lengths, start, stop, wanted, int64(1))
    span[B_ROW], span[B_BLOCK] = other, block
    span[B_START] = token_start(table, block, start)
    span[B_LENGTH] = lengths[start:end].sum()


@numba.njit(cache=True)
def _write_pair(
    table: StoreTable,
    rules: WalkRules,
    before: np.ndarray,
    span: np.ndarray,
    chunk: tuple[int, int, int, bool],
    target: int,
) -> None:
    """Write the spans of one pair whose row, block, ordinal and duplicate are written."""
    start, a_end, end, chosen = chunk
    block = span[A_BLOCK]
    lengths = lengths_until(table, block, end)
    length_a = int64(lengths[start:a_end].sum())
    token = token_start(table, block, start)
    span[A_START], span[A_LENGTH], span[LABEL] = token, length_a, chosen
    if rules.kind == NSP and chosen:
        _random_segment(table, rules, before, span, target - length_a)
    else:
        length_b = int64(lengths[a_end:end].sum())
        span[B_ROW], span[B_BLOCK] = span[A_ROW], block
        span[B_START], span[B_LENGTH] = token + length_a, length_b
        if chosen:
            span[A_START], span[A_LENGTH] = token + length_a, length_b
            span[B_START], span[B_LENGTH] = token, length_a
    _cut_pair(rules, span)


@numba.njit(cache=True, nogil=True)
def find_pairs(
    table: StoreTable,
    rules: WalkRules,
    index: ExampleIndex,
    examples: np.ndarray,
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
        ordinal, state = kept_state(index, row, example)
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
