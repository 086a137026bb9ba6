"""Sequence-to-sequence noise: a text becomes a source to read and a target to write (pure).

T5 (Raffel et al., 2019, section 3.1.4) replaces spans by sentinels, one each, and asks for what the
spans held. BART (Lewis et al., 2019, section 2.2) permutes sentences, replaces spans by one mask
each, and asks for the whole text. Every segment is corrupted by itself and addressed by its
document and its place there, so its noise is the same however segments are packed into rows.
docs/fidelity.md gives the rules by number.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from lmdata.batch import (
    SEGMENT_LENGTHS,
    TARGET_IDS,
    TARGET_LENGTHS,
    ExampleBatch,
    stored,
)
from lmdata.errors import TokenizerError
from lmdata.ragged import Ragged, offsets_of
from lmdata.rng import stream_key
from lmdata.word_starts import NO_WORDS

MEAN_SPAN_LENGTH = 3.0
TARGET_COLUMNS = (stored(SEGMENT_LENGTHS), TARGET_IDS, TARGET_LENGTHS)
# Spans of more tokens than this have probabilities that 32 bits do not hold.
_LONGEST_SPAN = 128


class Segments(NamedTuple):
    """Where the segments of some examples come from, which addresses their noise.

    Attributes:
        documents: int64 (S,), row of the store
        places: int64 (S,), the first token in its document
        duplicates: int64 (S,), which of the passes over the documents
        sentence_lengths: int64 (N,), tokens of the sentences of each; they sum to its text
        sentence_offsets: int64 (S + 1,), into `sentence_lengths`
    """

    documents: np.ndarray
    places: np.ndarray
    duplicates: np.ndarray
    sentence_lengths: np.ndarray
    sentence_offsets: np.ndarray


CorruptSegments = Callable[[ExampleBatch, Segments, float], ExampleBatch]


class Settings(Protocol):
    """What noise needs of a `recipes.Recipe`."""

    @property
    def max_seq_length(self) -> int:
        """Tokens of the longest source and target."""

    @property
    def span_length(self) -> float:
        """Mean tokens (words) of a span."""

    @property
    def whole_words(self) -> bool | None:
        """Whether spans are of whole words; None: they are. So for the next two."""

    @property
    def permute_sentences(self) -> bool | None:
        """Whether sentences come in another order."""

    @property
    def insert_masks(self) -> bool | None:
        """Whether spans of no token put a mask between two."""

    def rate_at(self, progress: float) -> float:
        """Return the share of noise at a progress of the training."""


class Noise(Protocol):
    """How a text becomes a source and a target."""

    def text_capacity(self, recipe: Settings) -> int:
        """Return the most tokens of a text whose source and target are no longer than allowed."""

    def row_lengths(self, recipe: Settings, lengths: np.ndarray) -> np.ndarray:
        """Return what texts, int64 (S,) tokens, take of a row at most, with special tokens."""

    def text_lengths(self, recipe: Settings, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return the tokens of texts, int64 (S,), by those of their sources and targets."""

    def prepare(
        self, recipe: Settings, tokenizer: Any, *, seed: int, epoch: int, id_dtype: Any
    ) -> CorruptSegments:
        """Return what corrupts examples in one epoch.

        Raises:
            TokenizerError: the tokenizer lacks what it needs
        """

    def restore(self, examples: ExampleBatch, tokenizer: Any) -> Ragged:
        """Return the ids of examples before the corruption, with their special tokens."""

    def start_id(self, tokenizer: Any) -> int:
        """Return the id that targets begin with.

        Raises:
            TokenizerError: the tokenizer has none
        """

    def marks(self, tokenizer: Any) -> np.ndarray:
        """Return the ids that stand for spans: int64 (M,)."""

    def expected(self, recipe: Settings, texts: Ragged, tokenizer: Any) -> np.ndarray:
        """Return how many tokens of framed texts are noise on average: float64 (S,)."""

    @property
    def spread(self) -> float:
        """How much wider than of single tokens the error of that number is; 0: it is exact."""


def span_counts(
    lengths: np.ndarray, rate: float, mean_length: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return how many tokens of texts are noise, and in how many spans: int64 (S,) each.

    The lengths of sources and targets follow: packing knows them before there is any noise.
    Published as `random_spans_noise_mask` of google-research/text-to-text-transfer-transformer; at
    most as many spans as there are tokens between them, where that leaves it open.

    Args:
        lengths: int64 (S,), tokens of each text
        rate: share of noise
        mean_length: tokens of a span

    Example:
        >>> [counts.tolist() for counts in span_counts(np.array([1, 2, 20, 568]), 0.15, 3.0)]
        [[0, 1, 3, 85], [0, 1, 1, 28]]
    """
    padded = np.maximum(np.asarray(lengths, np.int64), 2)
    noise = np.clip(np.rint(padded * rate).astype(np.int64), 1, padded - 1)
    spans = np.maximum(1, np.rint(noise / mean_length).astype(np.int64))
    spans = np.minimum(spans, np.minimum(noise, padded - noise))
    is_text = np.asarray(lengths) >= 2  # of a single token nothing is noise, as in the original
    return noise * is_text, spans * is_text


@dataclass(frozen=True)
class SpanCorruption:
    """T5: spans to sentinels, and what they held behind the same sentinels."""

    spread: float = 0.0

    def text_capacity(self, recipe: Settings) -> int:
        """As in `Noise`: 568 tokens for sources of 512, whose targets have 114."""
        most = recipe.max_seq_length
        longest = min(2 * most, (1 << 16) - 1)
        source, target = self.stream_lengths(recipe, np.arange(longest + 1))
        return int(np.flatnonzero(np.maximum(source, target - 1) <= most)[-1])

    def stream_lengths(
        self, recipe: Settings, lengths: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of the source and of the target of texts, int64 (S,) each.

        The source ends with one special token, the target also begins with one.
        """
        noise, spans = span_counts(lengths, recipe.rate_at(0.0), recipe.span_length)
        return lengths - noise + spans + 1, noise + spans + 2

    def row_lengths(self, recipe: Settings, lengths: np.ndarray) -> np.ndarray:
        """As in `Noise`."""
        source, target = self.stream_lengths(recipe, lengths)
        longest: np.ndarray = np.maximum(source, target - 1)  # the decoder reads all but the last
        return longest

    def text_lengths(self, recipe: Settings, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """As in `Noise`: a longer text has more of both together."""
        possible = np.arange(int((source + target).max(initial=0)) + 1)
        totals = np.sum(self.stream_lengths(recipe, possible), axis=0)
        lengths: np.ndarray = np.searchsorted(totals, source + target)
        return lengths

    def prepare(
        self, recipe: Settings, tokenizer: Any, *, seed: int, epoch: int, id_dtype: Any
    ) -> CorruptSegments:
        """As in `Noise`."""
        capacity = self.text_capacity(recipe)
        _, most = span_counts(np.arange(capacity + 1), recipe.rate_at(0.0), recipe.span_length)
        sentinels = _sentinels(tokenizer, int(most.max())).astype(id_dtype)
        key = stream_key(seed, "spans", epoch)
        return functools.partial(self._corrupt, recipe, sentinels, self.start_id(tokenizer), key)

    def _corrupt(
        self, recipe: Settings, sentinels: np.ndarray, start: int, key: tuple[int, int],
        batch: ExampleBatch, segments: Segments, progress: float,
    ) -> ExampleBatch:  # fmt: skip
        from lmdata.viewing.noise_kernels import lay_spans

        lengths = batch.segment_lengths.astype(np.int64) - 1
        noise, spans = span_counts(lengths, recipe.rate_at(0.0), recipe.span_length)
        source_lengths, target_lengths = lengths - noise + spans + 1, noise + spans + 2
        source = np.empty(source_lengths.sum(), batch.input_ids.dtype)
        target = np.empty(target_lengths.sum(), batch.input_ids.dtype)
        lay_spans(
            batch.input_ids, lengths, noise, spans, *segments[:3], sentinels, start, key,
            source, target,
        )  # fmt: skip
        return with_targets(batch, source, source_lengths, target, target_lengths)

    def restore(self, examples: ExampleBatch, tokenizer: Any) -> Ragged:
        """As in `Noise`; where a text itself spells sentinels, spans may lie a little aside."""
        from lmdata.viewing.noise_kernels import join_spans

        source_lengths = examples.segment_lengths.astype(np.int64)
        target_lengths = examples.arrays()[TARGET_LENGTHS.name].astype(np.int64)
        sentinels = np.asarray(tokenizer.sentinel_ids, np.int64)
        text = np.empty(int((source_lengths + target_lengths).sum()), examples.input_ids.dtype)
        lengths = np.empty(len(source_lengths), np.int64)
        target = examples.arrays()[TARGET_IDS.name]
        total = join_spans(
            examples.input_ids, source_lengths, target, target_lengths, sentinels, text, lengths
        )
        return Ragged(text[:total], offsets_of(lengths)[examples.segment_offsets])

    def start_id(self, tokenizer: Any) -> int:
        """As in `Noise`."""
        return _required(tokenizer, "pad", "the decoder of T5 starts with it")

    def marks(self, tokenizer: Any) -> np.ndarray:
        """As in `Noise`: the sentinels."""
        return np.asarray(tokenizer.sentinel_ids, np.int64)

    def expected(self, recipe: Settings, texts: Ragged, tokenizer: Any) -> np.ndarray:
        """As in `Noise`."""
        noise, _ = span_counts(texts.lengths - 1, recipe.rate_at(0.0), recipe.span_length)
        return noise.astype(np.float64)


@dataclass(frozen=True)
class Infilling:
    """BART: sentences in another order and spans to one mask each, and the whole text."""

    spread: float = 4.0  # whole words are chosen, and counted are tokens

    def text_capacity(self, recipe: Settings) -> int:
        """As in `Noise`: there is a special token on either side."""
        return recipe.max_seq_length - 2

    def row_lengths(self, recipe: Settings, lengths: np.ndarray) -> np.ndarray:
        """As in `Noise`: those of the target; no source is longer."""
        return lengths + 2

    def text_lengths(self, recipe: Settings, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """As in `Noise`: the target is the text, started and framed."""
        return target - 3

    def prepare(
        self, recipe: Settings, tokenizer: Any, *, seed: int, epoch: int, id_dtype: Any
    ) -> CorruptSegments:
        """As in `Noise`."""
        from lmdata.viewing.noise_kernels import InfillRules

        by_words = recipe.whole_words is not False
        words = tokenizer.word_rule if by_words else NO_WORDS
        rules = InfillRules(
            rate=recipe.rate_at(0.0),
            mask_id=int(self.marks(tokenizer)[0]),
            span_words=poisson_words(recipe.span_length),
            permutes=recipe.permute_sentences is not False,
            inserts=recipe.insert_masks is not False,
            by_words=by_words,
            word_classes=words.classes,
            word_joins=words.joins,
            word_states=words.next_state,
            span_key=stream_key(seed, "spans", epoch),
            sentence_key=stream_key(seed, "sentences", epoch),
        )
        return functools.partial(self._corrupt, recipe, rules, self.start_id(tokenizer))

    def _corrupt(
        self, recipe: Settings, rules: Any, start: int, batch: ExampleBatch, segments: Segments,
        progress: float,
    ) -> ExampleBatch:  # fmt: skip
        from lmdata.viewing.noise_kernels import infill

        rules = rules._replace(rate=recipe.rate_at(progress))
        lengths = batch.segment_lengths.astype(np.int64)
        source, source_lengths = np.empty_like(batch.input_ids), np.empty_like(lengths)
        total = infill(batch.input_ids, lengths, *segments, rules, source, source_lengths)
        target = np.insert(batch.input_ids, offsets_of(lengths)[:-1], start)
        return with_targets(batch, source[:total], source_lengths, target, lengths + 1)

    def restore(self, examples: ExampleBatch, tokenizer: Any) -> Ragged:
        """As in `Noise`: the targets without their starts."""
        lengths = examples.arrays()[TARGET_LENGTHS.name].astype(np.int64)
        starts = offsets_of(lengths)[:-1]
        ids = np.delete(examples.arrays()[TARGET_IDS.name], starts)
        return Ragged(ids, offsets_of(lengths - 1)[examples.segment_offsets])

    def start_id(self, tokenizer: Any) -> int:
        """As in `Noise`: what ends a text, as in fairseq."""
        return _required(tokenizer, "sep", "the decoder of BART starts with it")

    def marks(self, tokenizer: Any) -> np.ndarray:
        """As in `Noise`: the mask."""
        return np.array([_required(tokenizer, "mask", "BART puts it where a span was")])

    def expected(self, recipe: Settings, texts: Ragged, tokenizer: Any) -> np.ndarray:
        """As in `Noise`."""
        lengths = units = texts.lengths - 2
        if recipe.whole_words is not False:
            goes_on = tokenizer.word_rule.continues(texts.values, texts.offsets)
            units = lengths - np.diff(offsets_of(goes_on)[texts.offsets])
        noise = np.ceil(units * recipe.rate_at(0.0) - 1e-9)
        found: np.ndarray = noise / np.maximum(units, 1) * lengths
        return found


def with_targets(
    batch: ExampleBatch, source: np.ndarray, source_lengths: np.ndarray, target: np.ndarray,
    target_lengths: np.ndarray,
) -> ExampleBatch:  # fmt: skip
    """Return examples with other ids, and with what is to be written of them.

    Args:
        batch: as the view laid it
        source: like the ids (T',), of all segments
        source_lengths: int64 (S,), tokens of each source
        target: like the ids (U,), of all segments, each with the token that the decoder starts with
        target_lengths: int64 (S,), tokens of each target
    """
    arrays = batch.arrays() | {
        "input_ids": source,
        "offsets": offsets_of(source_lengths)[batch.segment_offsets],
        "token_type_ids": np.zeros(len(source), np.uint8),
        SEGMENT_LENGTHS.name: source_lengths.astype(np.int32),
        TARGET_IDS.name: target,
        TARGET_IDS.offsets: offsets_of(target_lengths)[batch.segment_offsets],
        TARGET_LENGTHS.name: target_lengths.astype(np.int32),
    }
    columns = {column.name: column for column in (*batch.columns, *TARGET_COLUMNS)}
    return ExampleBatch(tuple(columns.values()), **arrays)


def poisson_words(mean: float) -> np.ndarray:
    """Return the bounds of 32-bit words at which a span has more than 0, 1, ... tokens, int64.

    Example:
        >>> (poisson_words(3.0)[:4] / 2**32).round(4).tolist()  # P(0), P(<= 1), P(<= 2), P(<= 3)
        [0.0498, 0.1991, 0.4232, 0.6472]
    """
    counts = range(_LONGEST_SPAN)
    logs = np.array([k * math.log(mean) - mean - math.lgamma(k + 1) for k in counts])
    return np.round(np.cumsum(np.exp(logs)) * 2**32).astype(np.int64)


def _sentinels(tokenizer: Any, needed: int) -> np.ndarray:
    """Return the sentinels in the order of their use, as many as there are."""
    sentinels = np.asarray(tokenizer.sentinel_ids, np.int64)
    if len(sentinels) < needed:
        have = f"only {len(sentinels)}" if len(sentinels) else "no"
        hint = ", or lower max_seq_length" if len(sentinels) else ""
        raise TokenizerError(
            f"the tokenizer has {have} sentinels (<extra_id_0>, <extra_id_1>, ...), and segments "
            f"of this length need {needed}: train one by `lmdata train-tokenizer --num-sentinels "
            f"{max(needed, 100)}`{hint}"
        )
    return sentinels


def _required(tokenizer: Any, name: str, purpose: str) -> int:
    index = tokenizer.special_ids.get(name)
    if index is None:
        raise TokenizerError(
            f"the tokenizer has no {name} token, and {purpose}: use a tokenizer with one"
        )
    return int(index)
