"""Corruption of ids for masked language models (pure; kernels over flat ragged batches).

Which positions are chosen and what becomes of them is addressed by (example, part), so an example
is masked in the same way wherever and whenever it is made. FIDELITY.md gives the rules by number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from lmdata.errors import TokenizerError
from lmdata.recipes import Recipe
from lmdata.rng import below, draw, fill_words, probability_word, stream_key

EXACT, BERNOULLI, WORDS, WORDS_BERNOULLI = 0, 1, 2, 3

# SpanBERT (Joshi et al., 2019, section 3.1): lengths from Geo(0.2), cut at 10 and renormalised.
_SPAN_PROBABILITY, _SPAN_LONGEST = 0.2, 10
# ALBERT (Lan et al., 2019, section 4.1): n-grams of n words, probability in proportion to 1 / n.
_NGRAM_LONGEST = 3
# Blocks of words that one cycle of balanced coverage may use: four words each for 65,535 tokens.
_CYCLE_SHIFT = 15


class MaskRules(NamedTuple):
    """What the masking kernels need to know; made by `mask_rules`.

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
        continues_word: bool (V,), piece does not start a word
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
    continues_word: np.ndarray
    random_pieces: np.ndarray
    position_key: tuple[int, int]
    replace_key: tuple[int, int]
    coverage_key: tuple[int, int]


def mask_rules(
    recipe: Recipe,
    tokenizer: Any,
    *,
    seed: int,
    epoch: int = 0,
    progress: float = 0.0,
    id_dtype: Any = np.uint16,
) -> MaskRules:
    """Return the rules of a recipe for one epoch.

    Args:
        recipe: its corruption is not "none"
        tokenizer: with `is_special`, `continues_word` (V,), `special_ids`, `vocab_size`
        seed: of all draws
        epoch: part of the address of all draws
        progress: of the training, 0 to 1, where the mask rate changes
        id_dtype: of the ids to mask

    Raises:
        TokenizerError: no mask token, no piece that is not special, or no word boundaries
    """
    rate = recipe.rate_at(progress)
    by_words = recipe.corruption != "token"
    method = (WORDS if by_words else EXACT) + (recipe.count == "bernoulli")
    bert = recipe.compat == "bert"
    return MaskRules(
        method=method,
        rate=rate,
        rate_word=probability_word(rate),
        most=recipe.most_predictions,
        mask_id=_mask_id(tokenizer),
        mask_word=probability_word(recipe.mask_proportion),
        random_word=probability_word(recipe.mask_proportion + recipe.random_proportion),
        span_words=_span_words(recipe.corruption),
        decides_per_span=recipe.corruption == "span",
        joins_segments=bert,
        balanced=recipe.coverage == "balanced",
        epoch=epoch,
        is_candidate=candidate_pieces(tokenizer, bert=bert),
        continues_word=np.ascontiguousarray(tokenizer.continues_word, bool),
        random_pieces=_random_pieces(tokenizer, bert=bert).astype(id_dtype),
        position_key=stream_key(seed, "mask-positions", epoch),
        replace_key=stream_key(seed, "mask-replace", epoch),
        coverage_key=stream_key(seed, "coverage"),
    )


def candidate_pieces(tokenizer: Any, *, bert: bool = False) -> np.ndarray:
    """Return which pieces may be masked, bool (V,): all but the special, and unknown (rule 15).

    Args:
        tokenizer: with `is_special` and `special_ids`
        bert: all but [CLS] and [SEP], as BERT's script
    """
    special_ids = tokenizer.special_ids
    if bert:
        candidates = np.ones(len(tokenizer.is_special), bool)
        candidates[[special_ids["cls"], special_ids["sep"]]] = False
        return candidates
    candidates = ~np.asarray(tokenizer.is_special, bool)
    if special_ids.get("unk") is not None:
        candidates[special_ids["unk"]] = True
    return candidates


def _random_pieces(tokenizer: Any, *, bert: bool) -> np.ndarray:
    """Return the pieces that random replacement draws from (rule 18)."""
    is_special = np.asarray(tokenizer.is_special, bool)
    if is_special.all():
        raise TokenizerError(
            f"all {len(is_special)} pieces of the vocabulary are special tokens: "
            "there is nothing to mask, train a larger vocabulary"
        )
    return np.arange(len(is_special)) if bert else np.flatnonzero(~is_special)


def _mask_id(tokenizer: Any) -> int:
    mask_id = tokenizer.special_ids.get("mask")
    if mask_id is None:
        raise TokenizerError(
            "the tokenizer has no mask token: use corruption=none, or a tokenizer with one"
        )
    return int(mask_id)


def span_length_weights(corruption: str) -> np.ndarray:
    """Return the probability of spans of 1, 2, ... words, float64 (longest,).

    Example:
        >>> span_length_weights("ngram").round(3).tolist(), len(span_length_weights("span"))
        ([0.545, 0.273, 0.182], 10)
    """
    if corruption == "span":
        lengths = np.arange(_SPAN_LONGEST)
        weights = _SPAN_PROBABILITY * (1 - _SPAN_PROBABILITY) ** lengths
    elif corruption == "ngram":
        weights = 1 / np.arange(1, _NGRAM_LONGEST + 1)
    else:
        weights = np.ones(1)
    return weights / weights.sum()


def _span_words(corruption: str) -> np.ndarray:
    """Return the bounds of 32-bit words above which a span has more than 1, 2, ... words."""
    shares = np.cumsum(span_length_weights(corruption))[:-1]
    return np.round(shares * 2**32).astype(np.int64)


def mask_tokens(
    ids: np.ndarray,
    offsets: np.ndarray,
    examples: np.ndarray,
    parts: np.ndarray,
    rules: MaskRules,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corrupt ids in place and return what was masked.

    Args:
        ids: uint16 or uint32 (T,), with special tokens; changed
        offsets: int64 (B + 1,)
        examples: int64 (B,), address of each example
        parts: int64 (B,), the rest of its address
        rules: from `mask_rules`

    Returns:
        masked_positions uint16 (P,) within the example, sorted; masked_labels (P,), the original
        ids; mask_offsets int64 (B + 1,).
    """
    capacity = _most_masked(offsets, rules)
    positions = np.empty(capacity, np.uint16)
    labels = np.empty(capacity, ids.dtype)
    mask_offsets = np.zeros(len(offsets), np.int64)
    _mask_batch(ids, offsets, examples, parts, rules, positions, labels, mask_offsets)
    num_masked = int(mask_offsets[-1])
    return positions[:num_masked], labels[:num_masked], mask_offsets


def _most_masked(offsets: np.ndarray, rules: MaskRules) -> int:
    if rules.method in (BERNOULLI, WORDS_BERNOULLI):
        return int(offsets[-1])
    return int(predictions(np.diff(offsets), rules.rate, rules.most).sum())


def predictions(lengths: np.ndarray, rate: float, most: int) -> np.ndarray:
    """Return how many tokens of examples to mask, exact count (rule 16), int64.

    Args:
        lengths: int64 (B,), tokens with the special ones
        rate: share to mask
        most: largest number

    Example:
        >>> predictions(np.array([2, 50, 90, 128]), 0.15, 19).tolist()  # 7.5 and 13.5: half to even
        [1, 8, 14, 19]
    """
    return np.minimum(most, np.maximum(1, np.rint(lengths * rate).astype(np.int64)))


def mask_each(
    ids: Any,
    examples: Any,
    parts: Any,
    positions: Any,
    starts: Any,
    rules: MaskRules,
    is_candidate: Any,
    random_pieces: Any,
) -> tuple[Any, Any]:
    """Return corrupted ids and what was masked: `mask_tokens` with a Bernoulli count, as arrays.

    Only operators are used, so this is the same computation for NumPy arrays and for torch tensors
    on any device, and the readable form of the kernel.

    Args:
        ids: int64 array or tensor (T,)
        examples: int64 (T,), address of each token's example
        parts: int64 (T,), the rest of the address
        positions: int64 (T,), within the example
        starts: int64 (T,), where in `ids` each token's example begins
        rules: from `mask_rules`
        is_candidate: `rules.is_candidate`, on the device of `ids`
        random_pieces: `rules.random_pieces` as int64, on the device of `ids`

    Returns:
        Corrupted ids int64 (T,), and bool (T,), true where `ids` holds the label.
    """
    is_masked = (draw(rules.position_key, examples, positions, parts) < rules.rate_word) & (
        is_candidate[ids]
    )
    before = is_masked.cumsum(0) - is_masked * 1
    rank = before - before[starts]
    word = draw(rules.replace_key, examples, 2 * rank, parts)
    piece_word = draw(rules.replace_key, examples, 2 * rank + 1, parts)
    piece = random_pieces[(piece_word * len(random_pieces)) >> 32]
    to_mask = is_masked & (word < rules.mask_word)
    to_random = is_masked & (word >= rules.mask_word) & (word < rules.random_word)
    kept = ids * ~(to_mask | to_random)
    return kept + rules.mask_id * to_mask + piece * to_random, is_masked


@numba.njit(cache=True, nogil=True)
def _mask_batch(
    ids: np.ndarray, offsets: np.ndarray, examples: np.ndarray, parts: np.ndarray,
    rules: MaskRules, positions: np.ndarray, labels: np.ndarray, mask_offsets: np.ndarray,
) -> None:
    longest = 0
    for number in range(len(examples)):
        longest = max(longest, offsets[number + 1] - offsets[number])
    words = np.empty(2 * longest + 8, np.uint32)
    candidates = np.empty(longest + 1, np.uint16)
    flags = np.zeros(longest + 1, np.uint8)
    order = np.empty(longest + 1, np.uint16)
    starts = np.empty(longest + 2, np.int64)
    decisions = np.empty(longest + 1, np.uint16)
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
                    row, candidates, num_candidates, example, part, rules,
                    words, flags, order, starts, decisions, chosen,
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
    row: np.ndarray, example: int, part: int, rules: MaskRules, words: np.ndarray,
    chosen: np.ndarray,
) -> int:
    """Choose each candidate by itself: when the word at its position is below the rate's."""
    k0, k1 = rules.position_key
    fill_words(words, len(row), k0, k1, example, part)
    count = 0
    for position in range(len(row)):
        if words[position] < rules.rate_word and rules.is_candidate[row[position]]:
            chosen[count] = position
            count += 1
    return count


@numba.njit(cache=True)
def _num_predictions(length: int, num_candidates: int, rules: MaskRules) -> int:
    """Return k of rule 16, and no more than there are candidates."""
    k = max(1, np.int64(np.rint(length * rules.rate)))
    return min(min(rules.most, k), num_candidates)


@numba.njit(cache=True)
def _shuffle_first(candidates: np.ndarray, num_candidates: int, k: int, words: np.ndarray) -> None:
    """Bring k of the candidates to the front: the first k steps of a Fisher-Yates shuffle."""
    for step in range(k):
        other = step + below(np.int64(words[step]), num_candidates - step)
        candidates[step], candidates[other] = candidates[other], candidates[step]


@numba.njit(cache=True)
def _flag_window(
    candidates: np.ndarray, num_candidates: int, k: int, example: int, part: int,
    rules: MaskRules, words: np.ndarray, flags: np.ndarray,
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
    length: int, candidates: np.ndarray, num_candidates: int, example: int, part: int,
    rules: MaskRules, words: np.ndarray, flags: np.ndarray, chosen: np.ndarray,
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
    row: np.ndarray, candidates: np.ndarray, num_candidates: int, rules: MaskRules,
    starts: np.ndarray,
) -> int:
    """Write where in `candidates` each word begins, then the end; return how many words."""
    count = 0
    for index in range(num_candidates):
        joins = (
            index > 0
            and rules.continues_word[row[candidates[index]]]
            and (rules.joins_segments or candidates[index] == candidates[index - 1] + 1)
        )
        if not joins:
            starts[count] = index
            count += 1
    starts[count] = num_candidates
    return count


@numba.njit(cache=True)
def _span_end(
    first: int, num_words: int, longest: int, room: int, candidates: np.ndarray,
    starts: np.ndarray, flags: np.ndarray,
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
    num_words: int, k: int, example: int, part: int, rules: MaskRules, words: np.ndarray,
    candidates: np.ndarray, starts: np.ndarray, order: np.ndarray, flags: np.ndarray,
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
        other = step + below(np.int64(words[step * stride]), num_words - step)
        first = np.int64(order[other])
        order[other] = order[step]
        longest = 1
        for index in range(num_lengths):
            longest += words[2 * step + 1] >= rules.span_words[index]
        end = _span_end(first, num_words, longest, k - total, candidates, starts, flags)
        for index in range(first, end):
            flags[index] = 1 if index == first else 2
        total += starts[end] - starts[first]


@numba.njit(cache=True)
def _choose_words(
    row: np.ndarray, candidates: np.ndarray, num_candidates: int, example: int, part: int,
    rules: MaskRules, words: np.ndarray, flags: np.ndarray, order: np.ndarray,
    starts: np.ndarray, decisions: np.ndarray, chosen: np.ndarray,
) -> int:
    """Choose whole words, singly or in spans, and which rank decides for each masked token."""
    num_words = _find_words(row, candidates, num_candidates, rules, starts)
    if rules.method == WORDS_BERNOULLI:
        k0, k1 = rules.position_key
        fill_words(words, num_words, k0, k1, example, part)
        for index in range(num_words):
            flags[index] = words[index] < rules.rate_word
    else:
        k = _num_predictions(len(row), num_candidates, rules)
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
    row: np.ndarray, chosen: np.ndarray, count: int, example: int, part: int, rules: MaskRules,
    words: np.ndarray, decisions: np.ndarray, labels: np.ndarray,
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
            row[position] = rules.random_pieces[below(np.int64(words[2 * rank + 1]), num_pieces)]
