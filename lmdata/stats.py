"""What is in a dataset: lengths, fill, pieces per word, vocabulary use, masks by position.

Lengths are counted, not collected, so that a dataset of any size is described in constant memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmdata.batch import TARGET_LENGTHS, ExampleBatch
from lmdata.checking.example_checks import Counts, count_examples
from lmdata.checking.text_checks import NoiseCounts, count_noise
from lmdata.copies import at_hand
from lmdata.dataset import ExampleSet, TokenStore, open_examples, open_store
from lmdata.schema import read_manifest, read_settings
from lmdata.tokenizer import Tokenizer

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MAX_LENGTH = 1 << 20  # longer ones are counted with this length in quantiles
_BATCH_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long some things are."""

    count: int
    mean: float
    smallest: int
    quantiles: dict[str, int]  # "5%" to "95%"
    largest: int
    edges: tuple[int, ...]  # of the bins of the histogram, E + 1
    histogram: tuple[int, ...]  # things of at least edges[i] and less than edges[i + 1]


@dataclass(frozen=True, kw_only=True)
class PieceUse:
    """How the vocabulary is used."""

    vocab_size: int
    used: int  # pieces that occur at all
    unknown_ratio: float  # share of tokens that are the unknown piece
    pieces_per_word: float | None  # fertility; None where no piece goes on a word
    top: tuple[tuple[str, int], ...]  # most frequent pieces, special ones apart
    by_rank: tuple[int, ...]  # how often the 1st, 2nd, 4th, 8th ... most frequent piece occurs


@dataclass(frozen=True, kw_only=True)
class StoreStatistics:
    """A split of a token store."""

    path: str
    split: str
    documents: int
    sentences: int
    tokens: int
    bytes_per_token: float | None  # of the text, from the ledger
    document_tokens: Lengths
    document_sentences: Lengths
    sentence_tokens: Lengths
    pieces: PieceUse


@dataclass(frozen=True, kw_only=True)
class ExampleStatistics:
    """A split of example shards."""

    path: str
    split: str
    examples: int
    tokens: int
    max_seq_length: int
    fill: float  # mean length / max_seq_length: the rest would be padding
    example_tokens: Lengths
    second_segment_tokens: Lengths | None  # of pairs
    target_tokens: Lengths | None  # of segments with a source and a target
    noise_share: float | None  # of their text: what sources do not show
    positive_share: float | None  # of pairs: random (nsp) or swapped (sop)
    masked_share: float  # of all tokens, specials among them
    became_mask: float  # shares of the masked
    became_random: float
    kept: float
    mask_rate_by_position: tuple[float, ...]  # (max_seq_length,)
    tokens_by_position: tuple[int, ...]  # (max_seq_length,), examples that reach it
    pieces: PieceUse  # with the labels put back


Statistics = StoreStatistics | ExampleStatistics


def dataset_statistics(path: Path | str, *, split: str = "train", num_top: int = 25) -> Statistics:
    """Return what is in a split of a token store or of example shards.

    Args:
        path: a dataset folder, or its URI in a store
        split: "train", "validation" or "test"
        num_top: how many of the most frequent pieces to name

    Raises:
        IntegrityError: the dataset is not whole
        MismatchError: it has no such split
    """
    if read_manifest(at_hand(path)).kind == "tokens":
        return store_statistics(open_store(path, split), str(path), num_top)
    return example_statistics(open_examples(path, split), str(path), num_top)


def store_statistics(store: TokenStore, path: str, num_top: int) -> StoreStatistics:
    """Return the statistics of an open token store."""
    pieces, num_words = np.zeros(store.tokenizer.vocab_size, np.int64), 0
    tokens, sentences, sizes = LengthCounter(), LengthCounter(), LengthCounter()
    for block in store.blocks:
        pieces += np.bincount(block.ids, minlength=len(pieces))
        num_words += count_words(block.ids, block.id_offsets, store.tokenizer)
        tokens.add(np.diff(block.id_offsets))
        sentences.add(np.diff(block.sentence_offsets))
        sizes.add(block.sentence_lengths)
    flow = store.manifest.ledger.flows.get("bytes")
    num_bytes = flow.written.get(store.split) if flow else None
    return StoreStatistics(
        path=path,
        split=store.split,
        documents=store.num_documents,
        sentences=store.num_sentences,
        tokens=store.num_tokens,
        bytes_per_token=num_bytes / store.num_tokens if num_bytes and store.num_tokens else None,
        document_tokens=tokens.result(),
        document_sentences=sentences.result(),
        sentence_tokens=sizes.result(),
        pieces=describe_pieces(pieces, num_words, store.tokenizer, num_top),
    )


def example_statistics(examples: ExampleSet, path: str, num_top: int) -> ExampleStatistics:
    """Return the statistics of open example shards."""
    recipe, tokenizer = read_settings(examples.manifest).recipe, examples.tokenizer
    longest = recipe.max_seq_length
    pieces, num_words = np.zeros(tokenizer.vocab_size, np.int64), 0
    reached, masked = np.zeros(longest, np.int64), np.zeros(longest, np.int64)
    sizes, second_sizes, target_sizes = LengthCounter(), LengthCounter(), LengthCounter()
    noise = NoiseCounts()
    counts: Counts | None = None
    for batch in _batches(examples):
        found = count_examples(batch, recipe, tokenizer)
        counts = found if counts is None else counts + found
        original = examples.original(batch)
        pieces += np.bincount(original.values, minlength=len(pieces))
        num_words += count_words(original.values, original.offsets, tokenizer)
        if recipe.noise is not None:
            noise += count_noise(batch, original, recipe, tokenizer)
            target_sizes.add(batch.arrays()[TARGET_LENGTHS.name])
        lengths = np.diff(batch.offsets)
        sizes.add(lengths)
        reached += reach(lengths, longest)
        masked += np.bincount(batch.masked_positions, minlength=longest)
        if recipe.has_pairs:
            starts = batch.offsets[:-1]
            second_sizes.add(np.add.reduceat(batch.token_type_ids, starts, dtype=np.int64) - 1)
    num_masked = max(1, counts.num_masked) if counts else 1
    num_tokens = counts.num_tokens if counts else 0
    return ExampleStatistics(
        path=path,
        split=examples.split,
        examples=len(examples),
        tokens=num_tokens,
        max_seq_length=longest,
        fill=num_tokens / max(1, len(examples) * longest),
        example_tokens=sizes.result(),
        second_segment_tokens=second_sizes.result() if recipe.has_pairs else None,
        target_tokens=target_sizes.result() if recipe.noise is not None else None,
        noise_share=noise.num_noise / max(1, noise.num_text) if recipe.noise is not None else None,
        positive_share=counts.positive_pairs / max(1, counts.num_pairs)
        if counts and recipe.has_pairs
        else None,
        masked_share=counts.num_masked / max(1, num_tokens) if counts else 0.0,
        became_mask=counts.became_mask / num_masked if counts else 0.0,
        became_random=counts.became_random / num_masked if counts else 0.0,
        kept=counts.kept / num_masked if counts else 0.0,
        mask_rate_by_position=tuple((masked / np.maximum(1, reached)).tolist()),
        tokens_by_position=tuple(reached.tolist()),
        pieces=describe_pieces(pieces, num_words, tokenizer, num_top),
    )


def _batches(examples: ExampleSet) -> Iterable[ExampleBatch]:
    for start in range(0, len(examples), _BATCH_ROWS):
        yield examples.rows(np.arange(start, min(start + _BATCH_ROWS, len(examples))))


def reach(lengths: np.ndarray, longest: int) -> np.ndarray:
    """Return how many things reach each position, int64 (longest,).

    Example:
        >>> reach(np.array([1, 3, 3]), 4).tolist()
        [3, 2, 2, 0]
    """
    ends = np.bincount(np.minimum(lengths, longest), minlength=longest + 1)
    return np.asarray(len(lengths) - np.cumsum(ends)[:-1])


def count_words(ids: np.ndarray, offsets: np.ndarray, tokenizer: Tokenizer) -> int:
    """Return how many words begin in rows of ids; 0 where the pieces do not tell.

    Args:
        ids: uint16 | uint32 (N,)
        offsets: int64 (R + 1,), where rows begin in `ids`
        tokenizer: that made them
    """
    rule, unknown = tokenizer.find_word_rule(), tokenizer.special_ids["unk"]
    if rule is None:
        return 0
    is_text = ~tokenizer.is_special[ids] | (ids == unknown)
    return int((~rule.continues(ids, offsets) & is_text).sum())


def describe_pieces(
    counts: np.ndarray, num_words: int, tokenizer: Tokenizer, num_top: int
) -> PieceUse:
    """Return how a vocabulary is used.

    Args:
        counts: int64 (V,), how often each piece occurs
        num_words: how many words they make, as `count_words` says
        tokenizer: that they belong to
        num_top: how many of the most frequent to name
    """
    unknown = tokenizer.special_ids.get("unk")
    ordinary = np.where(tokenizer.is_special, 0, counts)
    order = np.argsort(-ordinary, kind="stable")
    used = int((ordinary > 0).sum())
    num_unknown = 0 if unknown is None else int(counts[unknown])
    rule = tokenizer.find_word_rule()
    pieces = int(ordinary.sum()) + num_unknown
    ranks = [2**power - 1 for power in range(max(1, used).bit_length()) if 2**power <= used]
    return PieceUse(
        vocab_size=tokenizer.vocab_size,
        used=used,
        unknown_ratio=num_unknown / max(1, pieces),
        pieces_per_word=pieces / num_words if num_words and rule and rule.tells else None,
        top=tuple(
            (tokenizer.piece(index), int(ordinary[index])) for index in order[: min(num_top, used)]
        ),
        by_rank=tuple(int(ordinary[order[rank]]) for rank in ranks),
    )


class LengthCounter:
    """How often each length occurs; grows with the largest length, not with how many there are."""

    def __init__(self) -> None:
        self._counts = np.zeros(1, np.int64)
        self._total = 0
        self._largest = 0

    def add(self, lengths: np.ndarray) -> None:
        """Count some lengths, int (n,), none negative."""
        if not len(lengths):
            return
        self._total += int(lengths.sum(dtype=np.int64))
        self._largest = max(self._largest, int(lengths.max()))
        found = np.bincount(np.minimum(lengths, _MAX_LENGTH).astype(np.int64))
        size = max(len(found), len(self._counts))
        self._counts = np.pad(self._counts, (0, size - len(self._counts)))
        self._counts += np.pad(found, (0, size - len(found)))

    def result(self, num_bins: int = 40) -> Lengths:
        """Return the summary of all lengths.

        Example:
            >>> counter = LengthCounter()
            >>> counter.add(np.array([2, 2, 3, 9]))
            >>> counter.result().quantiles["50%"], counter.result().mean
            (2, 4.0)
        """
        count = int(self._counts.sum())
        cumulated = np.cumsum(self._counts)
        places = [int(np.searchsorted(cumulated, max(1, q * count))) for q in QUANTILES]
        places = places if count else [0] * len(QUANTILES)
        edges = _edges(len(self._counts) - 1, num_bins)
        before = np.concatenate(([0], cumulated))[np.minimum(edges, len(self._counts))]
        return Lengths(
            count=count,
            mean=self._total / max(1, count),
            smallest=int(np.flatnonzero(self._counts)[0]) if count else 0,
            quantiles={f"{q:.0%}": p for q, p in zip(QUANTILES, places, strict=True)},
            largest=self._largest,
            edges=tuple(edges.tolist()),
            histogram=tuple(np.diff(before).tolist()),
        )


def _edges(largest: int, num_bins: int) -> np.ndarray:
    """Return edges of bins that cover 0 to `largest`: equal up to 256, then equal ratios.

    Example:
        >>> _edges(7, 40).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """
    if largest <= 256:
        step = -(-(largest + 1) // num_bins)
        return np.arange(0, largest + step + 1, step)
    ratios = np.geomspace(1, largest + 1, num_bins)
    return np.unique(np.concatenate(([0], np.ceil(ratios).astype(np.int64))))
