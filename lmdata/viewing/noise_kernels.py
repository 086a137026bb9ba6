"""Kernels of `denoising`: one segment at a time, in buffers that a batch shares.

A segment's random words are those of (document, place), from `duplicate << 16` blocks on: it has at
most 65,535 tokens, none of which takes more than three words.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from lmdata.intrinsics import int64
from lmdata.viewing.rng_kernels import below, fill_words

_DUPLICATE_SHIFT = 16


class InfillRules(NamedTuple):
    """What `infill` needs to know; made by `denoising.Infilling`.

    Attributes:
        rate: share of the words (tokens) that are masked
        mask_id: of the mask
        span_words: int64 (lengths,), a span has more than i words when its word is at least [i]
        permutes: whether sentences come in another order
        inserts: whether spans of no word count; else they are drawn again
        by_words: whether spans are of whole words
        word_classes, word_joins, word_states: a `lmdata.word_starts.WordRule`'s three arrays
        span_key: two words, from `rng.stream_key`
        sentence_key: two words, from `rng.stream_key`
    """

    rate: float
    mask_id: int
    span_words: np.ndarray
    permutes: bool
    inserts: bool
    by_words: bool
    word_classes: np.ndarray
    word_joins: np.ndarray
    word_states: np.ndarray
    span_key: tuple[int, int]
    sentence_key: tuple[int, int]


@numba.njit(cache=True)
def _draw_parts(words: np.ndarray, first: int, total: int, parts: np.ndarray) -> None:
    """Fill `parts` with lengths of at least 1 that sum to `total`, each such list as likely.

    Which of the items after the first begin a part is chosen one by one, each with the share that
    is still to be chosen (Knuth, volume 2, section 3.4.2, algorithm S).
    """
    number, begin = 0, 0
    for item in range(1, total):
        if below(int64(words[first + item - 1]), total - item) < len(parts) - 1 - number:
            parts[number] = item - begin
            number, begin = number + 1, item
    parts[number] = total - begin


@numba.njit(cache=True)
def _copy(ids: np.ndarray, begin: int, length: int, out: np.ndarray, at: int) -> int:
    """Copy `ids[begin:begin + length]` to `out[at:]` and return where it ends."""
    for index in range(length):
        out[at + index] = ids[begin + index]
    return at + length


@numba.njit(cache=True, nogil=True)
def lay_spans(
    ids: np.ndarray, lengths: np.ndarray, noise: np.ndarray, spans: np.ndarray,
    documents: np.ndarray, places: np.ndarray, duplicates: np.ndarray, sentinels: np.ndarray,
    start: int, key: tuple[int, int], source: np.ndarray, target: np.ndarray,
) -> None:  # fmt: skip
    """Write sources with a sentinel for each span, and targets with what the spans held.

    Kept and noisy parts alternate, a kept one first.

    Args:
        ids: uint16 or uint32 (T,), the segments, each followed by its end
        lengths: int64 (S,), tokens of each without its end
        noise: int64 (S,), how many of them are noise
        spans: int64 (S,), in how many spans
        documents: int64 (S,), as in `denoising.Segments`
        places: int64 (S,)
        duplicates: int64 (S,)
        sentinels: like the ids, in the order of their use
        start: the id that targets begin with
        key: two words, from `rng.stream_key`
        source: like the ids, written: every segment without its noise, with sentinels and its end
        target: like the ids, written: start, sentinel, span, sentinel, span, ..., end
    """
    longest = 0
    for segment in range(len(lengths)):
        longest = max(longest, lengths[segment])
    words = np.empty(longest + 8, np.uint32)
    kept_parts, noise_parts = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    begin, at, written = int64(0), int64(0), int64(0)
    for segment in range(len(lengths)):
        length, count = lengths[segment], spans[segment]
        target[written] = start
        written += 1
        if count:
            num_kept = length - noise[segment]
            first_block = duplicates[segment] << _DUPLICATE_SHIFT
            fill_words(
                words, length, key[0], key[1], documents[segment], places[segment], first_block
            )
            _draw_parts(words, int64(0), num_kept, kept_parts[:count])
            _draw_parts(words, num_kept, noise[segment], noise_parts[:count])
            for number in range(count):
                at = _copy(ids, begin, kept_parts[number], source, at)
                begin += kept_parts[number]
                source[at] = target[written] = sentinels[number]
                at += 1
                written = _copy(ids, begin, noise_parts[number], target, written + 1)
                begin += noise_parts[number]
        else:
            at = _copy(ids, begin, length, source, at)
            begin += length
        source[at] = target[written] = ids[begin]
        at, written, begin = at + 1, written + 1, begin + 1


@numba.njit(cache=True, nogil=True)
def join_spans(
    source: np.ndarray, source_lengths: np.ndarray, target: np.ndarray,
    target_lengths: np.ndarray, sentinels: np.ndarray, text: np.ndarray, lengths: np.ndarray,
) -> int:  # fmt: skip
    """Put what targets hold back in place of the sentinels of their sources.

    Args:
        source: uint16 or uint32 (T,), from `lay_spans`
        source_lengths: int64 (S,), tokens of each with its end
        target: like the source (U,)
        target_lengths: int64 (S,), tokens of each with its start and its end
        sentinels: int64, in the order of their use
        text: like the source, of at least T + U, written: the segments, each with its end
        lengths: int64 (S,), written: the tokens of each

    Returns:
        The tokens of all segments.
    """
    begin, read, at = 0, 0, 0
    for segment in range(len(source_lengths)):
        first, number = at, 0
        end, stop = begin + source_lengths[segment], read + target_lengths[segment] - 1
        read += 1
        while begin < end:
            is_next = number < len(sentinels) and source[begin] == sentinels[number]
            if is_next and read < stop and target[read] == sentinels[number]:
                number, read = number + 1, read + 1
                while read < stop and (
                    number == len(sentinels) or target[read] != sentinels[number]
                ):
                    text[at] = target[read]
                    read, at = read + 1, at + 1
            else:
                text[at] = source[begin]
                at += 1
            begin += 1
        read, lengths[segment] = stop + 1, at - first
    return at


@numba.njit(cache=True)
def _permute(
    ids: np.ndarray, begin: int, sentence_lengths: np.ndarray, words: np.ndarray,
    order: np.ndarray, row: np.ndarray,
) -> None:  # fmt: skip
    """Write the sentences that begin at `ids[begin]` to `row`, shuffled by Fisher-Yates."""
    count = len(sentence_lengths)
    starts = np.empty(count, np.int64)
    for index in range(count):
        order[index], starts[index] = index, begin
        begin += sentence_lengths[index]
    at = int64(0)
    for step in range(count):
        other = step + below(int64(words[step]), count - step)
        order[step], order[other] = order[other], order[step]
        at = _copy(ids, starts[order[step]], sentence_lengths[order[step]], row, at)


@numba.njit(cache=True)
def _find_units(row: np.ndarray, rules: InfillRules, starts: np.ndarray) -> int:
    """Write where each word (token) begins, then the end; return how many there are."""
    count, state = 0, 0
    for position in range(len(row)):
        goes_on = False
        if rules.by_words:
            kind = rules.word_classes[row[position]]
            goes_on = rules.word_joins[state, kind]
            state = rules.word_states[state, kind]
        if position == 0 or not goes_on:
            starts[count] = position
            count += 1
    starts[count] = len(row)
    return count


@numba.njit(cache=True)
def _draw_lengths(words: np.ndarray, budget: int, rules: InfillRules, lengths: np.ndarray) -> int:
    """Write lengths of spans that sum to `budget`, the last one cut; return how many.

    There are at most `budget`, so that masks never make a source longer than its text.
    """
    left, count = budget, 0
    for draw in range(budget):
        if left == 0:
            break
        length = 0
        while length < len(rules.span_words) and words[draw] >= rules.span_words[length]:
            length += 1
        if length == 0 and not rules.inserts:
            continue
        lengths[count] = min(length, left)
        left -= lengths[count]
        count += 1
    if left:  # of a short text, whose draws were not enough
        if count == 0:
            count, lengths[0] = 1, 0
        lengths[count - 1] += left
    return count


@numba.njit(cache=True)
def _lay_masks(
    row: np.ndarray, starts: np.ndarray, num_units: int, rules: InfillRules, words: np.ndarray,
    lengths: np.ndarray, out: np.ndarray, at: int,
) -> int:  # fmt: skip
    """Write a row with one mask for each span, wherever among the kept words; return its end."""
    budget = min(num_units, int64(np.ceil(num_units * rules.rate - 1e-9)))
    count = _draw_lengths(words, budget, rules, lengths)
    for step in range(count):  # the last length was cut: no place is its own
        other = step + below(int64(words[budget + step]), count - step)
        lengths[step], lengths[other] = lengths[other], lengths[step]
    num_slots, number, unit = num_units - budget + count, 0, 0
    for slot in range(num_slots):
        if below(int64(words[2 * budget + slot]), num_slots - slot) < count - number:
            out[at] = rules.mask_id
            at += 1
            unit += lengths[number]
            number += 1
        else:
            at = _copy(row, starts[unit], starts[unit + 1] - starts[unit], out, at)
            unit += 1
    return at


@numba.njit(cache=True, nogil=True)
def infill(
    ids: np.ndarray, lengths: np.ndarray, documents: np.ndarray, places: np.ndarray,
    duplicates: np.ndarray, sentence_lengths: np.ndarray, sentence_offsets: np.ndarray,
    rules: InfillRules, source: np.ndarray, source_lengths: np.ndarray,
) -> int:  # fmt: skip
    """Write sources: segments whose sentences are shuffled and whose spans are one mask each.

    Args:
        ids: uint16 or uint32 (T,), the segments, each between its two special tokens
        lengths: int64 (S,), tokens of each with both
        documents: int64 (S,), as in `denoising.Segments`, like the next four
        places: int64 (S,)
        duplicates: int64 (S,)
        sentence_lengths: int64 (N,)
        sentence_offsets: int64 (S + 1,)
        rules: from `denoising.Infilling`
        source: like the ids (T,), written: no source is longer than its segment
        source_lengths: int64 (S,), written

    Returns:
        The tokens of all sources.
    """
    longest, most_sentences = 0, 0
    for segment in range(len(lengths)):
        longest = max(longest, lengths[segment])
        count = sentence_offsets[segment + 1] - sentence_offsets[segment]
        most_sentences = max(most_sentences, count)
    words = np.empty(3 * longest + 8, np.uint32)
    row = np.empty(longest, ids.dtype)
    starts, spans = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    order = np.empty(most_sentences, np.int64)
    begin, at = int64(0), int64(0)
    for segment in range(len(lengths)):
        length, first = lengths[segment] - 2, at
        document, place = documents[segment], places[segment]
        first_block = duplicates[segment] << _DUPLICATE_SHIFT
        sentences = sentence_lengths[sentence_offsets[segment] : sentence_offsets[segment + 1]]
        if rules.permutes:
            k0, k1 = rules.sentence_key
            fill_words(words, len(sentences), k0, k1, document, place, first_block)
            _permute(ids, begin + 1, sentences, words, order, row)
        else:
            _copy(ids, begin + 1, length, row, int64(0))
        source[at] = ids[begin]
        num_units = _find_units(row[:length], rules, starts)
        k0, k1 = rules.span_key
        fill_words(words, 3 * num_units, k0, k1, document, place, first_block)
        at = _lay_masks(row[:length], starts, num_units, rules, words, spans, source, at + 1)
        begin += lengths[segment]
        source[at] = ids[begin - 1]
        at += 1
        source_lengths[segment] = at - first
    return at
