"""What example i is: a view of a token store, computed, with random access.

`lmdata mask` writes `view.examples(arange(len(view)))` and the trainer asks for the rows of a
batch with a growing epoch: there is one implementation of an example. It depends on (store,
recipe, seed, epoch, row, progress) and on nothing else.

In memory a view holds 8 bytes a document; what else grows with the corpus (8 bytes for 16 examples
and for 64 sentences, the packed view's plan) lies in a temporary file once it is large.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from lmdata.batch import NO_LABEL, ExampleBatch
from lmdata.denoising import Segments
from lmdata.errors import DatasetError, TokenizerError, counted
from lmdata.masking import Corrupt, prepare_corruption
from lmdata.order import check_rows, permute
from lmdata.packing import PackingPlan, count_rows, pack, to_row_sizes
from lmdata.pairs import find_pairs, index_pairs
from lmdata.ragged import Integers, offsets_of
from lmdata.recipes import RECIPES, Recipe
from lmdata.rng import probability_word, stream_key
from lmdata.schema import ViewFacts
from lmdata.viewing.store_table import Block, StoreArrays, build_store_table, scratch_array
from lmdata.viewing.walk import (
    A_LENGTH,
    A_ROW,
    B_LENGTH,
    B_ROW,
    DUPLICATE,
    KINDS,
    LABEL,
    NSP,
    NUM_COLUMNS,
    ORDINAL,
    PLACE,
    STATE_STRIDE,
    ExampleIndex,
    WalkRules,
    count_documents,
    find_pieces,
    index_pieces,
    lay_pairs,
    lay_segments,
    sentences_of,
)

__all__ = ["NO_LABEL", "RECIPES", "ExampleBatch", "Recipe", "Store", "View", "view"]

# Each pass corrects the share of random pairs for the lone sentences that the last one left.
_BALANCE_PASSES = 4
# Packing tries longer and longer fillers, in average sentences, until rows are as full as this. A
# try only counts rows, by size: 3 ms for 1.5 million pieces, where the one plan laid out takes 85.
_FILLER_FACTORS = (0.0, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)
_FULL_ENOUGH = 0.992


class Store(Protocol):
    """What a view needs of a token store."""

    @property
    def blocks(self) -> Any:
        """The record batches, each with the attributes of `store_table.Block`."""

    @property
    def tokenizer(self) -> Any:
        """With `special_ids`, `is_special` (V,), `word_rule`."""


@dataclass(frozen=True, repr=False)
class View:
    """The examples of one epoch; made by `view`.

    Attributes:
        recipe: what examples are
        seed: of all draws
        epoch: part of the address of all draws
        notes: sentences that a reader of the result should know, beyond `facts`
        facts: what the ledger and `verify` count on
    """

    recipe: Recipe
    seed: int
    epoch: int
    notes: tuple[str, ...]
    _tokenizer: Any
    _arrays: StoreArrays
    _walk: WalkRules
    _index: ExampleIndex
    _plan: PackingPlan | None
    _corrupt: Corrupt | None
    _frame: tuple[int, int]
    facts: ViewFacts

    def __len__(self) -> int:
        """Return the number of examples."""
        return self.facts.examples

    def __repr__(self) -> str:
        """Say what it is a view of, without its arrays."""
        return (
            f"<View {self.recipe.view}: {len(self):,} examples, seed {self.seed}, "
            f"epoch {self.epoch}>"
        )

    def examples(self, rows: np.ndarray, *, progress: float = 0.0) -> ExampleBatch:
        """Return the examples at some rows.

        Args:
            rows: int64 (B,), in [0, len(view)), in any order, also repeated
            progress: of the training, 0 to 1; only a mask rate that changes uses it

        Raises:
            IndexError: a row is out of range, or no whole number
        """
        examples = self.canonical(rows)
        return (self._pairs if self.recipe.has_pairs else self._segments)(examples, progress)

    def canonical(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers, int64 (B,), of the examples at int64 (B,) rows, by document."""
        rows = np.asarray(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise IndexError(f"rows must be whole numbers, got {rows.dtype}")
        rows = np.ascontiguousarray(rows, np.int64)
        if self.recipe.shuffle:
            return permute(rows, len(self), seed=self.seed, epoch=self.epoch)
        check_rows(rows, len(self))
        return rows

    def at_epoch(self, epoch: int) -> View:
        """Return the view of another epoch of the same store, recipe and seed."""
        if self.recipe.has_pairs:
            return _view(self._arrays, self._tokenizer, self.recipe, self.seed, epoch)
        dtype, tokenizer = self._arrays.id_dtype, self._tokenizer
        corrupt = prepare_corruption(self.recipe, tokenizer, self.seed, epoch, dtype)
        return replace(self, epoch=epoch, _corrupt=corrupt)

    def _pairs(self, examples: np.ndarray, progress: float) -> ExampleBatch:
        spans = np.empty((len(examples), NUM_COLUMNS), np.int64)
        find_pairs(self._arrays.table, self._walk, self._index, examples, spans)
        lengths = spans[:, A_LENGTH] + spans[:, B_LENGTH] + 3
        offsets = offsets_of(lengths)
        ids = np.empty(offsets[-1], self._arrays.id_dtype)
        types = np.empty(offsets[-1], np.uint8)
        self._arrays.check_ids(spans[:, [A_ROW, B_ROW]].ravel())
        lay_pairs(self._arrays.table, spans, *self._frame, offsets, ids, types)
        batch = ExampleBatch(
            input_ids=ids,
            offsets=offsets,
            token_type_ids=types,
            next_sentence_label=spans[:, LABEL].astype(np.int8),
            document_a=spans[:, A_ROW].astype(np.uint64),
            document_b=spans[:, B_ROW].astype(np.uint64),
            duplicate=spans[:, DUPLICATE].astype(np.uint16),
            segment_lengths=lengths.astype(np.int32),
            segment_offsets=np.arange(len(examples) + 1, dtype=np.int64),
            **_no_labels(ids, len(examples)),
        )
        return self._corrupted(batch, spans[:, A_ROW], spans[:, ORDINAL], progress)

    def _segments(self, examples: np.ndarray, progress: float) -> ExampleBatch:
        rows, duplicates = np.divmod(examples, self.recipe.duplicates)
        pieces = rows
        piece_offsets: Integers = np.arange(len(rows) + 1)
        if self._plan is not None:
            found = self._plan.pieces_of(rows)
            pieces, piece_offsets = found.values, found.offsets
        spans, table = np.empty((len(pieces), NUM_COLUMNS), np.int64), self._arrays.table
        find_pieces(table, self._walk, self._index, pieces, spans)
        lengths = spans[:, A_LENGTH] + (1 if self._frame[0] < 0 else 2)
        offsets = offsets_of(lengths)[piece_offsets]
        ids = np.empty(offsets[-1], self._arrays.id_dtype)
        self._arrays.check_ids(spans[:, A_ROW])
        lay_segments(table, spans, *self._frame, ids)
        batch = ExampleBatch(
            input_ids=ids,
            offsets=offsets,
            token_type_ids=np.zeros(offsets[-1], np.uint8),
            next_sentence_label=np.full(len(examples), NO_LABEL, np.int8),
            document_a=spans[piece_offsets[:-1], A_ROW].astype(np.uint64),
            document_b=spans[piece_offsets[1:] - 1, A_ROW].astype(np.uint64),
            duplicate=duplicates.astype(np.uint16),
            segment_lengths=lengths.astype(np.int32),
            segment_offsets=piece_offsets,
            **_no_labels(ids, len(examples)),
        )
        is_by_segment = self.recipe.corruption_traits.orders  # wherever that is packed
        if self.recipe.noise is None and not is_by_segment:
            return self._corrupted(batch, rows, duplicates, progress)
        assert self._corrupt is not None
        passes = np.repeat(duplicates, np.diff(piece_offsets))
        if is_by_segment:
            documents = spans[:, A_ROW] + (passes << 40)  # a store has fewer documents than that
            return self._corrupted(batch, documents, spans[:, PLACE], progress)
        at = spans[:, A_ROW].copy(), spans[:, PLACE].copy(), passes
        return self._corrupt(batch, Segments(*at, *sentences_of(table, spans)), progress)

    def _corrupted(
        self, batch: ExampleBatch, first: np.ndarray, second: np.ndarray, progress: float
    ) -> ExampleBatch:
        if self._corrupt is None:
            return batch
        addresses = np.ascontiguousarray(first), np.ascontiguousarray(second)
        return self._corrupt(batch, addresses, progress)


def _no_labels(ids: np.ndarray, num_examples: int) -> dict[str, np.ndarray]:
    """Return the masked columns of examples before any corruption."""
    return {
        "masked_positions": np.empty(0, np.uint16), "masked_labels": ids[:0].copy(),
        "mask_offsets": np.zeros(num_examples + 1, np.int64),
    }  # fmt: skip


def view(store: Store, recipe: Recipe, *, seed: int, epoch: int = 0) -> View:
    """Return a view of a store: its examples of one epoch, by row.

    Args:
        store: an open `dataset.TokenStore`, or anything with `blocks` and `tokenizer`
        recipe: what examples are
        seed: in [0, 2**63)
        epoch: in [0, 2**32)

    Raises:
        DatasetError: the store has nothing to make such examples of
        TokenizerError: the tokenizer lacks a special token that they need
        IntegrityError: the sentence lengths of the store do not match its tokens
    """
    blocks: tuple[Block, ...] = tuple(store.blocks)
    return _view(build_store_table(blocks), store.tokenizer, recipe, seed, epoch)


def _view(arrays: StoreArrays, tokenizer: Any, recipe: Recipe, seed: int, epoch: int) -> View:
    num_used, num_several = count_documents(arrays.table) if arrays.num_documents else (0, 0)
    _check_store(arrays, recipe, num_used, num_several)
    notes: list[str] = []
    if num_used < arrays.num_documents:
        total = arrays.num_documents
        notes.append(f"{total - num_used:,} of {total:,} documents are empty")
    frame = _frame(recipe, tokenizer)
    walk = _walk_rules(recipe, seed, epoch, num_used)
    plan = None
    if recipe.has_pairs:
        walk, index, facts = _index_pairs(arrays, walk, recipe, num_used, notes)
    else:
        walk, index, plan, num_examples = _index_segments(arrays, walk, recipe, notes)
        facts = ViewFacts(examples=num_examples)
    corrupt = prepare_corruption(recipe, tokenizer, seed, epoch, arrays.id_dtype)
    return View(
        recipe, seed, epoch, tuple(notes), tokenizer, arrays, walk, index, plan, corrupt, frame,
        facts,
    )  # fmt: skip


def _check_store(arrays: StoreArrays, recipe: Recipe, num_used: int, num_several: int) -> None:
    if num_used == 0:
        raise DatasetError(
            f"the split has {counted(arrays.num_documents, 'document')} and not one token: "
            "tokenize more text, or hold out a larger share of it (--set validation_ratio=0.1)"
        )
    if recipe.has_pairs and num_several == 0:
        raise DatasetError(
            f"view={recipe.view} pairs sentences, but none of the {num_used} documents has two: "
            "tokenize with sentence boundaries, or use view=single or view=packed"
        )


def _frame(recipe: Recipe, tokenizer: Any) -> tuple[int, int]:
    """Return the special tokens around a segment, -1 for none in front (causal rows)."""
    has_start = recipe.corruption_traits.has_start
    first_id, last_id = recipe.frame(tokenizer.special_ids)
    if not has_start and last_id is None:
        raise TokenizerError(
            "the tokenizer has neither an eos nor a sep token to end a document with: "
            "use a tokenizer with one"
        )
    ends = {} if not has_start else {"cls": first_id, "sep": last_id}
    missing = [name for name, index in ends.items() if index is None]
    if missing:
        raise TokenizerError(
            f"view={recipe.view} needs a {' and a '.join(missing)} token, which the tokenizer "
            "lacks: use a tokenizer with it, or corruption=none"
        )
    assert last_id is not None
    return -1 if first_id is None else first_id, last_id


def _walk_rules(recipe: Recipe, seed: int, epoch: int, num_used: int) -> WalkRules:
    only_neighbours = recipe.needs_neighbours(num_used)
    kind = KINDS[recipe.view]
    return WalkRules(
        kind=kind,
        capacity=recipe.text_capacity,
        short_word=probability_word(recipe.short_probability),
        random_word=0 if kind == NSP and only_neighbours else probability_word(0.5),
        min_sentences=2 if only_neighbours else 1,
        filler=0,
        duplicates=recipe.duplicates,
        same_document=recipe.is_bert,
        length_key=stream_key(seed, "length", epoch),
        pair_key=stream_key(seed, "pairs", epoch),
        truncate_key=stream_key(seed, "truncate", epoch),
    )


def _index_pairs(
    arrays: StoreArrays,
    walk: WalkRules,
    recipe: Recipe,
    num_used: int,
    notes: list[str],
) -> tuple[WalkRules, ExampleIndex, ViewFacts]:
    before = np.empty(arrays.num_documents + 1, np.int64)
    most = arrays.num_sentences * recipe.duplicates
    states = scratch_array(most // STATE_STRIDE + 1, np.int64)
    total, forced, left_out, repeated = index_pairs(arrays.table, walk, before, states)
    if recipe.balance_nsp and walk.random_word:
        for _ in range(_BALANCE_PASSES):
            share = max(0.0, (total / 2 - forced) / max(1, total - forced))
            walk = walk._replace(random_word=probability_word(share))
            total, forced, left_out, repeated = index_pairs(arrays.table, walk, before, states)
    chosen = walk.random_word / 2**32 * (total - forced)
    share = round((forced + chosen) / total, 6)
    if walk.kind == NSP and num_used > 1:
        notes.append(f"{share:.1%} of the pairs are random (label 1), give or take chance")
    if walk.kind == NSP and num_used == 1:
        notes.append(
            "random second segments come from the same document, as from BERT's script"
            if walk.same_document
            else "no pair is labelled random: there is no other document"
        )
    if left_out:
        notes.append(f"{left_out:,} sentences are in no pair: they stand alone in their documents")
    if repeated:
        notes.append(
            f"{repeated:,} tokens are there twice: a last sentence without another takes the one "
            "before it again"
        )
    facts = ViewFacts(examples=total, expected_positive_share=share, repeated_tokens=repeated)
    return walk, ExampleIndex(before, states[: total // STATE_STRIDE + 1]), facts


def _index_segments(
    arrays: StoreArrays, walk: WalkRules, recipe: Recipe, notes: list[str]
) -> tuple[WalkRules, ExampleIndex, PackingPlan | None, int]:
    if not recipe.view_traits.is_packed:
        index, sizes = _find_sizes(arrays, walk)
        return walk, index, None, len(sizes) * recipe.duplicates
    walk, index, plan, fill = _pack_full(arrays, walk, recipe)
    notes.append(f"rows are {fill:.1%} full, with {len(plan.pieces):,} segments")
    if walk.filler:
        notes.append(
            f"sentences of at most {walk.filler} tokens beside the cuts of long documents stand "
            "alone, to fill rows"
        )
    return walk, index, plan, plan.num_rows * recipe.duplicates


def _find_sizes(arrays: StoreArrays, walk: WalkRules) -> tuple[ExampleIndex, np.ndarray]:
    """Return the index of the single segments and the tokens of each, uint16 (segments,)."""
    before = np.empty(arrays.num_documents + 1, np.int64)
    most = arrays.num_sentences + arrays.num_tokens // walk.capacity + 1
    states = scratch_array(most // STATE_STRIDE + 1, np.int64)
    sizes = scratch_array(most, np.uint16)
    total = index_pieces(arrays.table, walk, before, states, sizes)
    return ExampleIndex(before, states[: total // STATE_STRIDE + 1]), sizes[:total]


def _pack_full(
    arrays: StoreArrays, walk: WalkRules, recipe: Recipe
) -> tuple[WalkRules, ExampleIndex, PackingPlan, float]:
    """Return the first plan that is full enough, or else the fullest, and how full it is.

    Documents that are longer than a row leave a gap at each cut, which whole documents rarely fit.
    So where the gaps add up, short sentences at the cuts stand alone to fill them: on Wikipedia
    at 512, 96.6 % becomes 99.4 %, while the average token keeps 97 % of its context.
    """
    max_seq_length = recipe.max_seq_length
    taken = recipe.row_lengths(np.arange(walk.capacity + 1))
    mean = arrays.num_tokens / arrays.num_sentences
    best = None
    for factor in _FILLER_FACTORS:
        tried = walk._replace(filler=int(factor * mean))
        index, sizes = _find_sizes(arrays, tried)
        num_tokens = to_row_sizes(sizes, taken)
        num_rows = count_rows(sizes, max_seq_length)
        fill = num_tokens / (num_rows * max_seq_length)
        if best is None or fill > best[-1]:
            best = (tried, index, sizes, fill)
        if fill >= _FULL_ENOUGH or len(sizes) == num_rows == 1:
            break
    assert best is not None
    walk, index, sizes, fill = best
    return walk, index, pack(sizes, max_seq_length), fill
