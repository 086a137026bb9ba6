"""What views lay documents into, and what becomes of the ids: the kinds that recipes name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmdata.batch import ORDERS, Column
from lmdata.denoising import TARGET_COLUMNS, Infilling, Noise, SpanCorruption


@dataclass(frozen=True, kw_only=True)
class ViewTraits:
    """How a view lays documents into examples.

    Attributes:
        has_pairs: examples have two segments and a label that relates them
        draws_documents: the second segment may come from another document (label 1); else both
            are neighbours, which label 1 says are swapped
        is_packed: segments fill up rows, several in one
        may_repeat: segments are so short that a document may hold one twice
    """

    has_pairs: bool = False
    draws_documents: bool = False
    is_packed: bool = False
    may_repeat: bool = False


VIEWS = {
    "nsp": ViewTraits(has_pairs=True, draws_documents=True),
    "sop": ViewTraits(has_pairs=True),
    "single": ViewTraits(),
    "packed": ViewTraits(is_packed=True),
    "sentence": ViewTraits(may_repeat=True),
}
PAIR_VIEWS = tuple(name for name, traits in VIEWS.items() if traits.has_pairs)


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """What becomes of the ids of examples.

    The masks of masked language models are settings of one kernel (`lmdata.masking`). Any other
    corruption brings a function of its own; one entry of `CORRUPTIONS` makes it known everywhere.

    Attributes:
        is_masking: tokens are masked, and to be predicted
        by_words: whole words, not single tokens
        span_weights: of masked spans of 1, 2, ... words, in proportion
        decides_per_span: one decision on [MASK], random or kept for each span; else for each token
        is_causal: rows are read from left to right
        has_start: a special token stands before a segment, not only behind it
        noise: makes a source and a target of each segment
        prepare: of a corruption that is neither: from (recipe, tokenizer, seed, epoch, id_dtype) a
            function from a batch, two address arrays int64 (B,) and the training progress to the
            corrupted batch
        orders: the chosen tokens stay, and come last in an order in which the segment is read;
            what is drawn is addressed by segment, not by example
        columns: that it adds to `batch.COLUMNS`, or declares otherwise: one that moves the ends of
            segments has their lengths stored
        is_undone_by_labels: the labels (the target) put back give the text again
    """

    is_masking: bool = False
    by_words: bool = False
    span_weights: tuple[float, ...] = (1.0,)
    decides_per_span: bool = False
    is_causal: bool = False
    has_start: bool = True
    noise: Noise | None = None
    prepare: Callable[..., Any] | None = None
    orders: bool = False
    columns: tuple[Column, ...] = ()
    is_undone_by_labels: bool = True


CORRUPTIONS = {
    "token": Corruption(is_masking=True),
    "whole-word": Corruption(is_masking=True, by_words=True),
    # SpanBERT (Joshi et al., 2019, section 3.1): lengths from Geo(0.2), cut at 10.
    "span": Corruption(
        is_masking=True, by_words=True, decides_per_span=True,
        span_weights=tuple(0.2 * 0.8**length for length in range(10)),
    ),
    # ALBERT (Lan et al., 2019, section 4.1): n-grams of n words, in proportion to 1 / n.
    "ngram": Corruption(is_masking=True, by_words=True, span_weights=(1, 1 / 2, 1 / 3)),
    # XLNet (Yang et al., 2019, section 2.3, and its code): 1 to 5 words, in proportion to 1 / n.
    "permutation": Corruption(
        is_masking=True, by_words=True, span_weights=tuple(1 / n for n in range(1, 6)),
        orders=True, columns=(ORDERS,),
    ),
    "none": Corruption(is_causal=True, has_start=False),
    "intact": Corruption(),
    "sentinels": Corruption(noise=SpanCorruption(), has_start=False, columns=TARGET_COLUMNS),
    "infilling": Corruption(noise=Infilling(), columns=TARGET_COLUMNS),
}  # fmt: skip
