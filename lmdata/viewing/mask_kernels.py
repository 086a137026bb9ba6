"""Kernels of `masking`: one example at a time, in buffers that a batch shares."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from lmdata.intrinsics import int64
from lmdata.viewing.rng_kernels import below, fill_words
from lmdata.word_starts import WordRule, follow

EXACT, BERNOULLI, WORDS, WORDS_BERNOULLI = 0, 1, 2, 3

# Blocks of words that one cycle of balanced coverage may use: four words each for 65,535 tokens.
_CYCLE_SHIFT = 15

_follow = numba.njit(cache=True, nogil=True)(follow)


class MaskRules(NamedTuple):
    """What the masking kernels need to know; made by `masking.mask_rules`.

    Attributes:
        method: EXACT, BERNOULLI, WORDS or WORDS_BERNOULLI
        rate: share of the tokens to predict
        rate_word: the same as a bound for 32-bit words
        most: largest number of masked tokens of an example, exact count
        mask_id: of [MASK]
        mask_word: a masked token becomes [MASK] when its word is below this
        random_word: else a random piece when its word is below this
        span_words: int64 (lengths,), a span has more than i words when its word is at least [i]
        decides_per_span: one decision a span (SpanBERT), or one a token
        joins_segments: a piece that continues a word joins it across special tokens (BERT, rule 19)
        balanced: whether consecutive epochs mask different tokens until all have been masked
        epoch: used by balanced coverage only
        is_candidate: bool (V,), may be masked
        words: which pieces go on with a word
        random_pieces: like the ids (R,), what random replacement draws from
        position_key: two words, from `rng.stream_key`
        replace_key: two words, from `rng.stream_key`
        coverage_key: two words, the same in all epochs, from `rng.stream_key`
    """

    method: int
    rate: float
    rate_word: int
    most: int
    mask_id: int
    mask_word: int
    random_word: int
    span_words: np.ndarray
    decides_per_span: bool
    joins_segments: bool
    balanced: bool
    epoch: int
    is_candidate: np.ndarray
    words: WordRule
    random_pieces: np.ndarray
    position_key: tuple[int, int]
    replace_key: tuple[int, int]
    coverage_key: tuple[int, int]


@numba.njit(cache=True, nogil=True)
def mask_batch(
    ids: np.ndarray,
    offsets: np.ndarray,
    examples: np.ndarray,
    parts: np.ndarray,
    rules: MaskRules,
    positions: np.ndarray,
    labels: np.ndarray,
    mask_offsets: np.ndarray,
) -> None:
    """Corrupt a batch in place and write what was masked.

    Args:
        ids: uint16 or uint32 (T,), with special tokens; changed
        offsets: int64 (B + 1,), ascending, from 0 to T
        examples: int64 (B,), address of each example
        parts: int64 (B,), the rest of its address
        rules: from `masking.mask_rules`; ids are below the length of its tables
        positions: uint16 (P',), room for the masked positions, written
        labels: like `ids` (P',), written: the original ids
        mask_offsets: int64 (B + 1,), begins with 0, written
    """
    longest = 0
    for number in range(len(examples)):
        longest = max(longest, offsets[number + 1] - offsets[number])
    words = np.empty(2 * longest + 8, np.uint32)
    candidates = np.empty(longest + 1, np.uint16)
    flags = np.zeros(longest + 1, np.uint8)
    order = np.empty(longest + 1, np.uint16)
    starts = np.empty(longest + 2, np.int64)
    decisions = np.empty(longest + 1, np.uint16)
    goes_on = np.empty(len(ids) if rules.method >= WORDS else 0, np.bool_)
    if rules.method >= WORDS:
        _follow(ids, offsets, rules.words, goes_on)
    total = 0
    for number in range(len(examples)):
        example, part = examples[number], parts[number]
        row = ids[offsets[number] : offsets[number + 1]]
        chosen = positions[total:]
        if rules.method == BERNOULLI:
            count = _choose_each(row, example, part, rules, words, chosen)
        else:
            num_candidates = _find_candidates(row, rules.is_candidate, candidates)
            if rules.method == EXACT:
                count = _choose_exactly(
                    len(row), candidates, num_candidates, example, part, rules, words, flags, chosen
                )
            else:
                count = _choose_words(
                    goes_on[offsets[number] : offsets[number + 1]],
                    candidates,
                    num_candidates,
                    example,
                    part,
                    rules,
                    words,
                    flags,
                    order,
                    starts,
                    decisions,
                    chosen,
                )
        _replace(row, chosen, count, example, part, rules, words, decisions, labels[total:])
        total += count
        mask_offsets[number + 1] = total


@numba.njit(cache=True)
def _find_candidates(row: np.ndarray, is_candidate: np.ndarray, candidates: np.ndarray) -> int:
    """Write the positions that may be masked and return how many there are (rule 15)."""
    count = 0
    for position in range(len(row)):
        candidates[count] = position
        count += is_candidate[row[position]]
    return count


@numba.njit(cache=True)
def _choose_each(
    row: np.ndarray,
    example: int,
    part: int,
    rules: MaskRules,
    words: np.ndarray,
    chosen: np.ndarray,
) -> int:
    """Choose each candidate by itself: when the word at its position is below the rate's."""
    k0, k1 = rules.position_key
    fill_words(words, len(row), k0, k1, example, part)
    num_below = 0
    for position in range(len(row)):
        chosen[num_below] = position
        num_below += words[position] < rules.rate_word
    count = 0
    for index in range(num_below):
        chosen[count] = chosen[index]
        count += rules.is_candidate[row[chosen[index]]]
    return count


@numba.njit(cache=True)
def _num_predictions(length: int, num_candidates: int, rules: MaskRules) -> int:
    """Return k of rule 16, and no more than there are candidates."""
    k = max(1, int64(np.rint(length * rules.rate)))
    return min(rules.most, k, num_candidates)


@numba.njit(cache=True)
def _shuffle_first(candidates: np.ndarray, num_candidates: int, k: int, words: np.ndarray) -> None:
    """Bring k of the candidates to the front: the first k steps of a Fisher-Yates shuffle."""
    for step in range(k):
        other = step + below(int64(words[step]), num_candidates - step)
        candidates[step], candidates[other] = candidates[other], candidates[step]


@numba.njit(cache=True)
def _flag_window(
    candidates: np.ndarray,
    num_candidates: int,
    k: int,
    example: int,
    part: int,
    rules: MaskRules,
    words: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Flag the k candidates that are due in this epoch of balanced coverage.

    The candidates are shuffled once a cycle of ceil(num_candidates / k) epochs, each of which
    takes the next k; the last of a cycle is filled up from its beginning.
    """
    if k == 0:
        return
    cycle, turn = divmod(rules.epoch, (num_candidates + k - 1) // k)
    k0, k1 = rules.coverage_key
    fill_words(words, num_candidates, k0, k1, example, part, cycle << _CYCLE_SHIFT)
    _shuffle_first(candidates, num_candidates, num_candidates, words)
    for step in range(turn * k, turn * k + k):
        flags[candidates[step % num_candidates]] = 1


@numba.njit(cache=True)
def _choose_exactly(
    length: int,
    candidates: np.ndarray,
    num_candidates: int,
    example: int,
    part: int,
    rules: MaskRules,
    words: np.ndarray,
    flags: np.ndarray,
    chosen: np.ndarray,
) -> int:
    """Choose k candidates: the first k of a Fisher-Yates shuffle, then sorted (rule 17)."""
    k = _num_predictions(length, num_candidates, rules)
    if rules.balanced:
        _flag_window(candidates, num_candidates, k, example, part, rules, words, flags)
    else:
        k0, k1 = rules.position_key
        fill_words(words, k, k0, k1, example, part)
        _shuffle_first(candidates, num_candidates, k, words)
        for step in range(k):
            flags[candidates[step]] = 1
    count = 0
    for position in range(length):
        if flags[position]:
            chosen[count] = position
            flags[position] = 0
            count += 1
    return count


@numba.njit(cache=True)
def _find_words(
    goes_on: np.ndarray,
    candidates: np.ndarray,
    num_candidates: int,
    joins_segments: bool,
    starts: np.ndarray,
) -> int:
    """Write where in `candidates` each word begins, then the end; return how many words."""
    count = 0
    for index in range(num_candidates):
        joins = (
            index > 0
            and goes_on[candidates[index]]
            and (joins_segments or candidates[index] == candidates[index - 1] + 1)
        )
        if not joins:
            starts[count] = index
            count += 1
    starts[count] = num_candidates
    return count


@numba.njit(cache=True)
def _span_end(
    first: int,
    num_words: int,
    longest: int,
    room: int,
    candidates: np.ndarray,
    starts: np.ndarray,
    flags: np.ndarray,
) -> int:
    """Return the end of a span of free, neighbouring words that begins at word `first`."""
    end, size = first, 0
    while end < num_words and end - first < longest and not flags[end]:
        begin = starts[end]
        if end > first and candidates[begin] != candidates[begin - 1] + 1:
            break
        size += starts[end + 1] - begin
        if size > room:
            break
        end += 1
    return end


@numba.njit(cache=True)
def _mark_spans(
    num_words: int,
    k: int,
    example: int,
    part: int,
    rules: MaskRules,
    words: np.ndarray,
    candidates: np.ndarray,
    starts: np.ndarray,
    order: np.ndarray,
    flags: np.ndarray,
) -> None:
    """Mark words in `flags`: 1 where a span begins, 2 where it goes on (rule 19).

    The words are gone through in a random order; a span that would exceed k is cut at a whole
    word, and skipped when not even its first word fits.
    """
    num_lengths = len(rules.span_words)
    stride = 2 if num_lengths else 1
    k0, k1 = rules.position_key
    fill_words(words, num_words * stride, k0, k1, example, part)
    for index in range(num_words):
        order[index] = index
    total = 0
    for step in range(num_words):
        if total >= k:
            break
        other = step + below(int64(words[step * stride]), num_words - step)
        first = int64(order[other])
        order[other] = order[step]
        longest = int64(1)
        for index in range(num_lengths):
            longest += words[2 * step + 1] >= rules.span_words[index]
        end = _span_end(first, num_words, longest, k - total, candidates, starts, flags)
        for index in range(first, end):
            flags[index] = 1 if index == first else 2
        total += starts[end] - starts[first]


@numba.njit(cache=True)
def _choose_words(
    goes_on: np.ndarray,
    candidates: np.ndarray,
    num_candidates: int,
    example: int,
    part: int,
    rules: MaskRules,
    words: np.ndarray,
    flags: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    decisions: np.ndarray,
    chosen: np.ndarray,
) -> int:
    """Choose whole words, singly or in spans, and which rank decides for each masked token."""
    num_words = _find_words(goes_on, candidates, num_candidates, rules.joins_segments, starts)
    if rules.method == WORDS_BERNOULLI:
        k0, k1 = rules.position_key
        fill_words(words, num_words, k0, k1, example, part)
        for index in range(num_words):
            flags[index] = words[index] < rules.rate_word
    else:
        k = _num_predictions(len(goes_on), num_candidates, rules)
        _mark_spans(num_words, k, example, part, rules, words, candidates, starts, order, flags)
    count, decision = 0, 0
    for word in range(num_words):
        if flags[word] == 0:
            continue
        if flags[word] == 1:
            decision = count
        flags[word] = 0
        for index in range(starts[word], starts[word + 1]):
            chosen[count] = candidates[index]
            decisions[count] = decision
            count += 1
    return count


@numba.njit(cache=True)
def _replace(
    row: np.ndarray,
    chosen: np.ndarray,
    count: int,
    example: int,
    part: int,
    rules: MaskRules,
    words: np.ndarray,
    decisions: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Keep the originals as labels, then put [MASK], a random piece or nothing (rule 18).

    The masked token of rank m decides by the word at 2 m and draws its piece by that at 2 m + 1.
    """
    k0, k1 = rules.replace_key
    fill_words(words, 2 * count, k0, k1, example, part)
    num_pieces = len(rules.random_pieces)
    for rank in range(count):
        position = chosen[rank]
        labels[rank] = row[position]
        decider = decisions[rank] if rules.decides_per_span else rank
        word = words[2 * decider]
        if word < rules.mask_word:
            row[position] = rules.mask_id
        elif word < rules.random_word:
            row[position] = rules.random_pieces[below(int64(words[2 * rank + 1]), num_pieces)]
