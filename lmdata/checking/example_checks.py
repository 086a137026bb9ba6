"""Do examples hold what their recipe promises? Counts that add up, then verdicts (pure).

`count_examples` reduces a batch to counts, so shards of any size are checked in constant memory;
`judge` compares the counts with the recipe. The tests run the same checks on views, and beside
each on a broken variant that it must refuse.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lmdata.batch import ORDERS, ExampleBatch
from lmdata.checking.checks import Check, chi_square, never, share
from lmdata.masking import candidate_pieces, drawn_pieces, predictions
from lmdata.ragged import offsets_of
from lmdata.recipes import Recipe

# Sixteen equal parts of an example; its first and its last token, where mistakes show most, apart.
NUM_POSITION_BINS = 18
NUM_PIECE_BINS = 64
# One decision holds for a span of 3.8 words on average, up to 10: this much wider is the error.
_SPAN_WIDTH = 3.0


@dataclass(frozen=True)
class Counts:
    """What was counted in some examples; `a + b` is the count of both.

    Attributes:
        num_examples: examples
        num_tokens: tokens with the special ones
        num_candidates: tokens that may be masked
        num_masked: tokens that are
        too_long: examples over `max_seq_length`
        unframed: examples that do not begin and end with their special tokens
        badly_typed: examples whose token types are not 0s, then, for pairs, 1s
        out_of_order: masked positions that are unsorted, repeated or outside of their example
        masked_special: masked tokens whose label is a special token
        produced_special: masked tokens that became a special token other than [MASK]
        strange_pieces: masked tokens that became an id which no piece has
        stray_masks: [MASK] where no label says so
        wrong_count: examples with another number of masked tokens than the recipe says
        became_mask: masked tokens that became [MASK]
        became_random: another piece
        kept: stayed
        num_pairs: examples with a label that relates their segments
        positive_pairs: those labelled 1
        mislabelled_pairs: pairs whose label contradicts their documents
        position_counts: int64 (NUM_POSITION_BINS,), masked tokens by relative position
        position_means: float64 (NUM_POSITION_BINS,), their expectation
        position_variances: float64 (NUM_POSITION_BINS,), their variance
        piece_counts: int64 (NUM_PIECE_BINS,), random pieces by their number
        unordered: segments whose order is none of their tokens to predict and special tokens
        num_neighbours: tokens that take part in an order and have another behind them that does
        rising_neighbours: those that come before it in the order
    """

    num_examples: int
    num_tokens: int
    num_candidates: int
    num_masked: int
    too_long: int
    unframed: int
    badly_typed: int
    out_of_order: int
    masked_special: int
    produced_special: int
    strange_pieces: int
    stray_masks: int
    wrong_count: int
    became_mask: int
    became_random: int
    kept: int
    num_pairs: int
    positive_pairs: int
    mislabelled_pairs: int
    position_counts: np.ndarray
    position_means: np.ndarray
    position_variances: np.ndarray
    piece_counts: np.ndarray
    unordered: int
    num_neighbours: int
    rising_neighbours: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            **{
                field.name: getattr(self, field.name) + getattr(other, field.name)
                for field in fields(self)
            }
        )


def count_examples(batch: ExampleBatch, recipe: Recipe, tokenizer: Any) -> Counts:
    """Return the counts of a batch that `judge` needs.

    Args:
        batch: examples
        recipe: that they were made by
        tokenizer: with `special_ids`, `is_special` (V,), `word_rule`
    """
    bert = recipe.is_bert
    flat, is_sound = _sound_positions(batch)
    original = batch.input_ids.astype(np.int64)
    original[flat] = batch.masked_labels[is_sound]
    is_masked = np.zeros(len(original), bool)
    is_masked[flat] = True
    is_candidate = candidate_pieces(tokenizer, bert=bert)[original]
    return Counts(
        num_examples=len(batch),
        num_tokens=len(original),
        num_candidates=int(is_candidate.sum()),
        num_masked=int(is_masked.sum()),
        out_of_order=int((~is_sound).sum()) + _num_unsorted(batch),
        masked_special=int((is_masked & ~is_candidate).sum()),
        wrong_count=_num_wrong_counts(batch, recipe, tokenizer, original, is_candidate, is_masked),
        **_count_frames(batch, recipe, tokenizer),
        **_count_replacements(batch, tokenizer, flat, batch.masked_labels[is_sound], bert),
        **_count_pairs(batch, recipe),
        **_count_positions(batch, is_candidate, is_masked),
        **_count_orders(batch, is_masked | ~is_candidate),
    )


def _sound_positions(batch: ExampleBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return masked positions in the flat ids, and which of them lie in their example."""
    lengths = np.repeat(np.diff(batch.offsets), np.diff(batch.mask_offsets))
    is_sound = batch.masked_positions < lengths
    return batch.flat_masked_positions()[is_sound], is_sound


def _num_unsorted(batch: ExampleBatch) -> int:
    flat = batch.flat_masked_positions()
    return int((np.diff(flat) <= 0).sum())


def _count_frames(batch: ExampleBatch, recipe: Recipe, tokenizer: Any) -> dict[str, Any]:
    lengths = np.diff(batch.offsets)
    first, last = batch.offsets[:-1], batch.offsets[1:] - 1
    special_ids = tokenizer.special_ids
    unframed = np.zeros(len(batch), bool)
    types_first, types_last = batch.token_type_ids[first], batch.token_type_ids[last]
    if recipe.corruption_traits.has_start:
        unframed = (batch.input_ids[first] != special_ids["cls"]) | (
            batch.input_ids[last] != special_ids["sep"]
        )
    rises = np.diff(batch.token_type_ids.astype(np.int64), prepend=0)
    rises[first] = 0
    switches = np.add.reduceat(np.abs(rises), first) if len(batch) else rises
    is_typed = (types_first == 0) & (types_last == switches) & (switches == recipe.has_pairs)
    return {
        "too_long": int((lengths > recipe.max_seq_length).sum()),
        "unframed": int(unframed.sum()),
        "badly_typed": int((~is_typed).sum()),
    }


def drawn_bounds(batch: ExampleBatch, recipe: Recipe) -> np.ndarray:
    """Return where what is chosen from by itself begins: examples, or segments of an order."""
    return offsets_of(batch.segment_lengths) if recipe.corruption_traits.orders else batch.offsets


def _num_wrong_counts(
    batch: ExampleBatch,
    recipe: Recipe,
    tokenizer: Any,
    original: np.ndarray,
    is_candidate: np.ndarray,
    is_masked: np.ndarray,
) -> int:
    """Return how many examples have another number of masked tokens than k of rule 16.

    Whole words may leave room, but only where no free word of one piece would fit.
    """
    if not recipe.has_exact_count or not len(batch):
        return 0
    bounds = drawn_bounds(batch, recipe)
    first = bounds[:-1]
    k = predictions(np.diff(bounds), recipe.rate_at(0.0), recipe.most_predictions)
    k = np.minimum(k, np.add.reduceat(is_candidate, first, dtype=np.int64))
    num_masked = np.add.reduceat(is_masked, first, dtype=np.int64)
    if not recipe.corruption_traits.by_words:
        return int((num_masked != k).sum())
    continues = tokenizer.word_rule.continues(original, bounds) & is_candidate
    goes_on = np.append(continues[1:], False)
    is_free = is_candidate & ~continues & ~goes_on & ~is_masked
    has_free = np.add.reduceat(is_free, first, dtype=np.int64) > 0
    return int(((num_masked > k) | (has_free & (num_masked < k))).sum())


def _count_replacements(
    batch: ExampleBatch, tokenizer: Any, flat: np.ndarray, labels: np.ndarray, bert: bool
) -> dict[str, Any]:
    mask_id = tokenizer.special_ids.get("mask")
    mask_id = len(tokenizer.is_special) if mask_id is None else mask_id
    is_special = np.asarray(tokenizer.is_special, bool)
    is_drawn = drawn_pieces(tokenizer, bert=bert)
    ids = batch.input_ids[flat]
    is_kept = ids == labels
    is_mask = ~is_kept & (ids == mask_id)
    is_random = ~is_kept & ~is_mask
    numbers = np.cumsum(is_drawn) - 1
    drawn = ids[is_random & is_drawn[ids]]
    bins = numbers[drawn] * NUM_PIECE_BINS // max(1, int(is_drawn.sum()))
    num_masks = int((batch.input_ids == mask_id).sum())
    return {
        "produced_special": int((is_random & is_special[ids]).sum()),
        "strange_pieces": int((is_random & ~is_drawn[ids] & ~is_special[ids]).sum()),
        "stray_masks": num_masks - int((ids == mask_id).sum()),
        "became_mask": int(is_mask.sum()),
        "became_random": int(is_random.sum()),
        "kept": int(is_kept.sum()),
        "piece_counts": np.bincount(bins, minlength=NUM_PIECE_BINS),
    }


def _count_pairs(batch: ExampleBatch, recipe: Recipe) -> dict[str, Any]:
    label = batch.next_sentence_label
    is_same = batch.document_a == batch.document_b
    if recipe.view_traits.draws_documents:
        is_wrong = (label == 0) & ~is_same
        if recipe.compat is None:
            is_wrong |= (label == 1) & is_same
    else:
        is_wrong = ~is_same if recipe.has_pairs else label >= 0
    if recipe.has_pairs:
        is_wrong |= (label != 0) & (label != 1)
    return {
        "num_pairs": int((label >= 0).sum()),
        "positive_pairs": int((label == 1).sum()),
        "mislabelled_pairs": int(is_wrong.sum()),
    }


def _count_positions(
    batch: ExampleBatch, is_candidate: np.ndarray, is_masked: np.ndarray
) -> dict[str, Any]:
    """Count masked tokens by relative position, and what chance says of their number."""
    lengths = np.diff(batch.offsets)
    first = batch.offsets[:-1]
    if not len(batch):
        empty = np.zeros(NUM_POSITION_BINS)
        return {
            "position_counts": empty.astype(np.int64),
            "position_means": empty,
            "position_variances": empty.copy(),
        }
    within = np.arange(len(is_masked)) - np.repeat(first, lengths)
    length = np.repeat(lengths, lengths)
    bins = 1 + within * (NUM_POSITION_BINS - 2) // length
    bins[within == 1], bins[within == length - 2] = 0, NUM_POSITION_BINS - 1
    num_candidates = np.add.reduceat(is_candidate, first, dtype=np.int64)
    num_masked = np.add.reduceat(is_masked, first, dtype=np.int64)
    share = np.repeat(num_masked / np.maximum(1, num_candidates), lengths) * is_candidate
    return {
        "position_counts": np.bincount(bins[is_masked], minlength=NUM_POSITION_BINS),
        "position_means": np.bincount(bins, share, NUM_POSITION_BINS),
        "position_variances": np.bincount(bins, share * (1 - share), NUM_POSITION_BINS),
    }


def _count_orders(batch: ExampleBatch, is_ordered: np.ndarray) -> dict[str, int]:
    """Count segments that have no proper order, and neighbours by which of them comes first."""
    orders = batch.arrays().get(ORDERS.name)
    if orders is None:
        return {"unordered": 0, "num_neighbours": 0, "rising_neighbours": 0}
    lengths = batch.segment_lengths.astype(np.int64)
    segment = np.repeat(np.arange(len(lengths)), lengths)
    flat = np.flatnonzero(is_ordered)
    own, times = segment[flat], orders[flat].astype(np.int64)
    by_time = np.lexsort((times, own))
    wanted = np.arange(len(flat)) - np.searchsorted(own, own) + 1
    is_wrong = (orders != 0) & ~is_ordered
    is_wrong[flat] = times[by_time] != wanted
    is_pair = own[1:] == own[:-1]
    return {
        "unordered": len(np.unique(segment[is_wrong])),
        "num_neighbours": int(is_pair.sum()),
        "rising_neighbours": int((is_pair & (np.diff(times) > 0)).sum()),
    }


def judge(
    counts: Counts,
    recipe: Recipe,
    *,
    num_random_pieces: int,
    num_random_specials: int = 0,
    spells_mask: bool = False,
    positive_share: float | None = None,
) -> list[Check]:
    """Return every check that applies to a recipe.

    Args:
        counts: of all examples
        recipe: that they were made by
        num_random_pieces: pieces that random replacement draws from
        num_random_specials: special ones among them, but for [MASK]
        spells_mask: whether a text may spell [MASK], so that one without a label says nothing
        positive_share: expected share of pairs labelled 1, from the notes of the view: by rule 9
            more than half are random, and how many more depends on the documents
    """
    checks = [
        never("examples over max_seq_length", counts.too_long),
        never("examples without their special tokens", counts.unframed),
        never("examples with wrong token types", counts.badly_typed),
        never("masked positions out of order or range", counts.out_of_order),
    ]
    if recipe.has_pairs:
        checks += _judge_pairs(counts, recipe, positive_share)
    if recipe.is_masking:
        checks += _judge_masks(counts, recipe, num_random_pieces, num_random_specials)
    if recipe.corruption_traits.orders:
        checks += [
            never("segments whose order is none", counts.unordered),
            share("share of neighbours in rising order", 0.5, counts.rising_neighbours,
                  counts.num_neighbours),
        ]  # fmt: skip
    elif recipe.is_masking and not spells_mask:
        checks.append(never("[MASK] without a label", counts.stray_masks))
    return checks


def _judge_pairs(counts: Counts, recipe: Recipe, positive_share: float | None) -> list[Check]:
    is_drawn = recipe.view_traits.draws_documents
    name = "share of random pairs" if is_drawn else "share of swapped pairs"
    if not is_drawn:
        positive_share = 0.5
    expected = 0.5 if positive_share is None else positive_share
    found = share(name, expected, counts.positive_pairs, counts.num_pairs)
    if positive_share is None:
        found = Check(name, expected, found.observed, found.low, 1.0)
    return [never("pairs labelled against their documents", counts.mislabelled_pairs), found]


def _judge_masks(
    counts: Counts, recipe: Recipe, num_random_pieces: int, num_random_specials: int
) -> list[Check]:
    rate = recipe.rate_at(0.0)
    to_mask, at_random, to_keep = recipe.proportions
    special = at_random * num_random_specials / num_random_pieces
    same = at_random / num_random_pieces
    masked = counts.num_masked
    width = _SPAN_WIDTH if recipe.corruption_traits.decides_per_span else 1.0
    checks = [
        never("special tokens masked", counts.masked_special),
        never("special tokens put in", counts.produced_special)
        if not num_random_specials
        else share("share replaced by special tokens", special, counts.produced_special, masked,
                   width),
        never("ids put in that no piece has", counts.strange_pieces),
        never("examples with a wrong number of masks", counts.wrong_count),
        share("share replaced by [MASK]", to_mask, counts.became_mask, masked, width),
        share("share replaced at random", at_random - same, counts.became_random, masked, width),
        share("share kept", to_keep + same, counts.kept, masked, width),
        _judge_pieces(counts, num_random_pieces),
    ]  # fmt: skip
    by_tokens = not recipe.corruption_traits.by_words
    if recipe.count == "bernoulli" and by_tokens:
        checks.append(share("mask rate", rate, masked, counts.num_candidates))
    if by_tokens:
        checks.append(
            chi_square(
                "mask positions",
                counts.position_counts,
                counts.position_means,
                counts.position_variances,
            )
        )
    return checks


def _judge_pieces(counts: Counts, num_random_pieces: int) -> Check:
    """Return whether random pieces are uniform; a small vocabulary fills its bins unevenly."""
    pieces = np.arange(num_random_pieces) * NUM_PIECE_BINS // num_random_pieces
    sizes = np.bincount(pieces, minlength=NUM_PIECE_BINS)
    means = counts.piece_counts.sum() * sizes / num_random_pieces
    return chi_square("random pieces", counts.piece_counts, means, means)
