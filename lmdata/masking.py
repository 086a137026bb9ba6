"""Corruption of ids for masked language models (pure; kernels over flat ragged batches).

Which positions are chosen and what becomes of them is addressed by (example, part), so an example
is masked in the same way wherever and whenever it is made. docs/fidelity.md gives the rules by
number.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np

from lmdata.batch import ORDERS, ExampleBatch
from lmdata.errors import TokenizerError
from lmdata.ragged import offsets_of
from lmdata.recipes import CORRUPTIONS, Recipe
from lmdata.rng import draw, probability_word, stream_key
from lmdata.viewing.mask_kernels import (
    BERNOULLI,
    EXACT,
    WORDS,
    WORDS_BERNOULLI,
    MaskRules,
    mask_batch,
)
from lmdata.word_starts import NO_WORDS


class Corrupt(Protocol):
    """What a corruption makes of examples that are views of plain text so far."""

    def __call__(self, batch: ExampleBatch, addresses: Any, progress: float) -> ExampleBatch:
        """Return the corrupted examples; arrays of `batch` may be changed.

        Args:
            batch: uncorrupted, without labels
            addresses: two int64 arrays (B,), which say whence each example comes; for noise the
                `denoising.Segments` of the batch
            progress: of the training, 0 to 1
        """


def prepare_corruption(
    recipe: Recipe, tokenizer: Any, seed: int, epoch: int, id_dtype: Any = np.uint16
) -> Corrupt | None:
    """Return the corruption of a recipe for one epoch, None where the text stays as it is.

    Raises:
        TokenizerError: the tokenizer lacks what it needs
    """
    traits = recipe.corruption_traits
    prepare = prepare_masks if traits.is_masking else traits.prepare
    if traits.orders:
        prepare = prepare_orders
    if traits.noise is not None:
        prepare = traits.noise.prepare
    if prepare is None:
        return None
    made: Corrupt = prepare(recipe, tokenizer, seed=seed, epoch=epoch, id_dtype=id_dtype)
    return made


def prepare_masks(
    recipe: Recipe, tokenizer: Any, *, seed: int, epoch: int, id_dtype: Any
) -> Corrupt:
    """Return what masks examples by the rules of a recipe in one epoch."""
    rules = mask_rules(recipe, tokenizer, seed=seed, epoch=epoch, id_dtype=id_dtype)
    return functools.partial(_mask, recipe, rules)


def _mask(
    recipe: Recipe,
    rules: MaskRules,
    batch: ExampleBatch,
    addresses: tuple[np.ndarray, np.ndarray],
    progress: float,
) -> ExampleBatch:
    rate = recipe.rate_at(progress)
    rules = rules._replace(rate=rate, rate_word=probability_word(rate))
    found = mask_tokens(batch.input_ids, batch.offsets, *addresses, rules)
    positions, labels, mask_offsets = found
    return batch.replace(
        masked_positions=positions, masked_labels=labels, mask_offsets=mask_offsets
    )


def prepare_orders(
    recipe: Recipe, tokenizer: Any, *, seed: int, epoch: int, id_dtype: Any
) -> Corrupt:
    """Return what gives segments an order by the rules of a recipe in one epoch."""
    rules = mask_rules(recipe, tokenizer, seed=seed, epoch=epoch, id_dtype=id_dtype)
    return functools.partial(_order, recipe, rules, stream_key(seed, "factor", epoch))


def _order(
    recipe: Recipe, rules: MaskRules, key: tuple[int, int], batch: ExampleBatch,
    addresses: tuple[np.ndarray, np.ndarray], progress: float,
) -> ExampleBatch:  # fmt: skip
    """Return examples with tokens to predict, each segment's by itself, and the order of those.

    Special tokens are never predicted, and take part in the order all the same, as in the original.
    """
    rate = recipe.rate_at(progress)
    rules = rules._replace(rate=rate, rate_word=probability_word(rate))
    bounds = offsets_of(batch.segment_lengths)
    positions, labels, ends = mask_tokens(batch.input_ids, bounds, *addresses, rules)
    flat = positions + np.repeat(bounds[:-1], np.diff(ends))
    is_ordered = ~rules.is_candidate[batch.input_ids]
    is_ordered[flat] = True
    orders = draw_orders(is_ordered, bounds, addresses, key)
    mask_offsets = ends[batch.segment_offsets]
    starts = np.repeat(batch.offsets[:-1], np.diff(mask_offsets))
    arrays = batch.arrays() | {
        "masked_positions": (flat - starts).astype(np.uint16), "masked_labels": labels,
        "mask_offsets": mask_offsets, ORDERS.name: orders,
    }  # fmt: skip
    return ExampleBatch((*batch.columns, ORDERS), **arrays)


def draw_orders(
    is_ordered: np.ndarray, bounds: np.ndarray, addresses: tuple[np.ndarray, np.ndarray],
    key: tuple[int, int],
) -> np.ndarray:  # fmt: skip
    """Return when each token is read: uint16 (T,), from 1 in each segment, 0 of the others.

    Every order of a segment is as likely: its tokens are sorted by the word at their address.

    Args:
        is_ordered: bool (T,)
        bounds: int64 (S + 1,), where segments begin
        addresses: int64 (S,) each, of the segments
        key: from `rng.stream_key`

    Example:
        >>> is_ordered = np.array([True, False, True, True, True])
        >>> addresses = np.array([7, 8]), np.array([0, 0])
        >>> draw_orders(is_ordered, np.array([0, 3, 5]), addresses, (1, 2)).tolist()
        [2, 0, 1, 1, 2]
    """
    flat = np.flatnonzero(is_ordered)
    segment = np.searchsorted(bounds, flat, side="right") - 1
    example, part = (own[segment] for own in addresses)
    words = draw(key, example, flat - bounds[segment], part=part)
    by_time = np.lexsort((words, segment))  # stable: equal words keep their places
    starts = np.searchsorted(segment, segment)  # the first of each segment, which are sorted
    orders = np.zeros(len(is_ordered), np.uint16)
    orders[flat[by_time]] = np.arange(len(flat)) - starts + 1
    return orders


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
        recipe: its corruption is a masking one
        tokenizer: with `special_ids`, `is_special` (V,), `is_piece` (V,) and, where whole words
            are masked, `word_rule`
        seed: of all draws
        epoch: part of the address of all draws
        progress: of the training, 0 to 1, where the mask rate changes
        id_dtype: of the ids to mask

    Raises:
        TokenizerError: no mask token, no piece that is not special, or no word boundaries
    """
    rate = recipe.rate_at(progress)
    traits, bert = recipe.corruption_traits, recipe.is_bert
    to_mask, at_random, _ = recipe.proportions
    method = (WORDS if traits.by_words else EXACT) + (recipe.count == "bernoulli")
    words = tokenizer.word_rule if traits.by_words else NO_WORDS
    return MaskRules(
        method=method,
        rate=rate,
        rate_word=probability_word(rate),
        most=recipe.most_predictions,
        mask_id=0 if traits.orders else _mask_id(tokenizer),
        mask_word=probability_word(to_mask),
        random_word=probability_word(to_mask + at_random),
        span_words=_span_words(recipe.corruption),
        decides_per_span=traits.decides_per_span,
        joins_segments=bert,
        balanced=recipe.coverage == "balanced",
        epoch=epoch,
        is_candidate=candidate_pieces(tokenizer, bert=bert),
        words=words,
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


def drawn_pieces(tokenizer: Any, *, bert: bool = False) -> np.ndarray:
    """Return which pieces random replacement draws from, bool (V,) (rule 18).

    Args:
        tokenizer: with `is_special` (V,) and `is_piece` (V,), false where an id has no piece
        bert: the special ones too, as BERT's script
    """
    is_piece = np.asarray(tokenizer.is_piece, bool)
    return is_piece if bert else is_piece & ~np.asarray(tokenizer.is_special, bool)


def _random_pieces(tokenizer: Any, *, bert: bool) -> np.ndarray:
    """Return the pieces that random replacement draws from, int64 (R,)."""
    if not drawn_pieces(tokenizer).any():
        raise TokenizerError(
            f"all {int(np.sum(tokenizer.is_piece))} pieces of the vocabulary are special tokens: "
            "there is nothing to mask, train a larger vocabulary"
        )
    return np.flatnonzero(drawn_pieces(tokenizer, bert=bert))


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
    weights = np.array(CORRUPTIONS[corruption].span_weights, np.float64)
    shares: np.ndarray = weights / weights.sum()
    return shares


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
    mask_batch(ids, offsets, examples, parts, rules, positions, labels, mask_offsets)
    num_masked = int(mask_offsets[-1])
    return positions[:num_masked], labels[:num_masked], mask_offsets


def _most_masked(offsets: np.ndarray, rules: MaskRules) -> int:
    if rules.method in (BERNOULLI, WORDS_BERNOULLI):
        return int(offsets[-1])
    return min(int(offsets[-1]), rules.most * (len(offsets) - 1))


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
