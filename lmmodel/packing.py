"""Which rows make a micro-batch, and rows as a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lmdata.batch import ORDERS, TARGET_IDS, ExampleBatch, targets_of
from lmmodel.batch import (
    IGNORED,
    QUERIES,
    SOURCE,
    TARGET,
    TOKENS,
    Batch,
    Labels,
    make_batch,
    make_stream,
)

LEAST_TOKENS = 256
"""Of a micro-batch that is worth its own gradients."""


def pack_examples(examples: ExampleBatch, max_seqlen: int | None = None) -> Batch:
    """Return examples as one packed batch of one stream, with the labels that every view makes.

    Args:
        examples: in the order of the result
        max_seqlen: at least the longest segment; None: the longest segment
    """
    lengths = examples.segment_lengths.astype(np.int64)
    pairs = examples.next_sentence_label.astype(np.int64)
    if len(pairs) != len(lengths):
        pairs = np.full(len(lengths), -1)
    return make_batch(
        _tensor(examples.input_ids, np.int32),
        torch.from_numpy(lengths),
        max_seqlen=max_seqlen,
        token_type_ids=_tensor(examples.token_type_ids, np.int32),
        masked_positions=torch.from_numpy(examples.flat_masked_positions()),
        masked_labels=_tensor(examples.masked_labels, np.int64),
        next_sentence_label=torch.from_numpy(np.where(pairs < 0, IGNORED, pairs)),
        addresses=torch.from_numpy(addresses_of(examples)),
    )


def pack_streams(examples: ExampleBatch, max_seqlen: int | None = None) -> Batch:
    """Return examples as one packed batch of a source and a target, every token of it labelled.

    The decoder reads the target from its start to the last token but one, and is asked for the
    next of each.

    Args:
        examples: with a target for each segment, in the order of the result
        max_seqlen: at least the longest segment; None: the longest of each stream
    """
    targets = targets_of(examples)
    if targets is None:
        raise ValueError("examples have no targets to pack: label them first")
    rows = np.delete(targets.values, targets.offsets[1:] - 1)
    labels = np.delete(targets.values, targets.offsets[:-1])
    source = make_stream(
        _tensor(examples.input_ids, np.int32), _tensor(examples.segment_lengths, np.int64),
        max_seqlen=max_seqlen,
    )  # fmt: skip
    target = make_stream(
        _tensor(rows, np.int32), torch.from_numpy(targets.lengths - 1), max_seqlen=max_seqlen,
        labels={TOKENS: Labels(torch.arange(len(rows)), _tensor(labels, np.int64))},
    )  # fmt: skip
    return Batch(
        streams={SOURCE: source, TARGET: target}, sequence_labels={},
        addresses=torch.from_numpy(addresses_of(examples)),
    )  # fmt: skip


def pack_queries(examples: ExampleBatch, max_seqlen: int | None = None) -> Batch:
    """Return examples as one packed batch of contents, with their order, and of queries.

    There is a query for each label, at the place of its token.

    Args:
        examples: with orders, in the order of the result
        max_seqlen: at least the longest segment; None: the longest of each stream
    """
    batch = pack_examples(examples, max_seqlen)
    rows, labels = batch.masked_positions, batch.masked_labels
    ranks = _tensor(examples.arrays()[ORDERS.name], np.int32)
    contents = replace(batch.stream, labels={}, ranks=ranks)
    ends = torch.searchsorted(rows, batch.cu_seqlens.long())
    queries = make_stream(
        torch.zeros(len(rows), dtype=torch.int32), ends.diff(), max_seqlen=max_seqlen,
        token_type_ids=contents.token_type_ids[rows],
        labels={TOKENS: Labels(torch.arange(len(rows)), labels)},
    )  # fmt: skip
    queries = replace(queries, position_ids=contents.position_ids[rows], ranks=ranks[rows])
    return replace(batch, streams={TOKENS: contents, QUERIES: queries})


def stream_tokens(examples: ExampleBatch) -> dict[str, np.ndarray]:
    """Return the tokens of each example, int64 (B,), in each of its streams.

    Targets count without their last token, which no model reads.
    """
    lengths = np.diff(examples.offsets)
    if ORDERS.name in examples.arrays():
        return {TOKENS: lengths, QUERIES: labels_of(examples)}
    if TARGET_IDS.name not in examples.arrays():
        return {TOKENS: lengths}
    return {SOURCE: lengths, TARGET: labels_of(examples)}


def tokens_of(examples: ExampleBatch) -> np.ndarray:
    """Return the tokens of each example in all its streams, int64 (B,); queries are none."""
    streams = stream_tokens(examples)
    streams.pop(QUERIES, None)
    return np.asarray(sum(streams.values()))


def labels_of(examples: ExampleBatch) -> np.ndarray:
    """Return the labelled tokens of each example: int64 (B,)."""
    arrays = examples.arrays()
    if TARGET_IDS.name not in arrays:
        return np.diff(examples.mask_offsets)
    return np.diff(arrays[TARGET_IDS.offsets]) - np.diff(examples.segment_offsets)


def num_pairs(examples: ExampleBatch) -> int:
    """Return how many tokens attend to each other: the sum of squared sequence lengths.

    Of a source and a target those of the source, half of the target's, and all between them.
    """
    lengths, targets = examples.segment_lengths.astype(np.int64), targets_of(examples)
    if targets is None:
        return int((lengths**2).sum())
    written = targets.lengths - 1
    return int((lengths**2 + written**2 // 2 + lengths * written).sum())


def addresses_of(examples: ExampleBatch) -> np.ndarray:
    """Return epoch, row in it and first token in the row of each segment: int64 (S, 3).

    -1 where examples do not know their rows.
    """
    if "row" not in {column.name for column in examples.columns}:
        return np.full((len(examples.segment_lengths), 3), -1, np.int64)
    lengths = examples.segment_lengths.astype(np.int64)
    example = np.repeat(np.arange(len(examples)), np.diff(examples.segment_offsets))
    start = np.cumsum(lengths) - lengths - examples.offsets[example]
    known = examples.arrays()
    columns = [known["epoch"][example], known["row"][example], start]
    return np.stack(columns, axis=1).astype(np.int64)


@dataclass(frozen=True)
class Padding:
    """Shares of computed tokens that are none, in [0, 1]."""

    ratio: float  # of micro-batches as they are: static shapes are filled up
    padded_ratio: float  # if each were filled up to its longest sequence, in each stream

    @property
    def sentence(self) -> str:
        """What a user is told."""
        ratio = f"{self.ratio:.1%} of a micro-batch" if self.ratio else "none"
        return f"{ratio}; padded batches would waste {self.padded_ratio:.1%}"


def padding_of(batches: Sequence[Batch], num_tokens: int) -> Padding:
    """Return what is padding in micro-batches that hold so many tokens, queries left out.

    Example:
        >>> batch = make_batch(torch.arange(6), torch.tensor([1, 5]))
        >>> padding_of([batch], 6)
        Padding(ratio=0.0, padded_ratio=0.4)
    """
    num_computed = num_padded = 0
    for batch in batches:
        for name, stream in batch.streams.items():
            if name != QUERIES:
                lengths = stream.cu_seqlens.diff()
                num_computed += stream.num_tokens
                num_padded += int((lengths > 0).sum()) * int(lengths.max())
    return Padding(
        round(1 - num_tokens / max(num_computed, 1), 4),
        round(1 - min(1.0, num_tokens / max(num_padded, 1)), 4),
    )


def _tensor(array: np.ndarray, dtype: type[np.integer]) -> torch.Tensor:
    return torch.from_numpy(array.astype(dtype))


def cut_rows(amounts: list[tuple[np.ndarray, int]]) -> list[int]:
    """Return the row after the last one of each micro-batch, filled in order.

    Args:
        amounts: of each quantity, what every row has of it, int64 (B,), and the most allowed

    Example:
        >>> cut_rows([(np.array([2, 2, 3, 4, 9]), 7)])
        [3, 4, 5]
    """
    totals = [(np.concatenate([[0], np.cumsum(amount)]), most) for amount, most in amounts]
    num_rows = len(amounts[0][0])
    ends: list[int] = []
    start = 0
    while start < num_rows:
        fitting = [
            int(np.searchsorted(total, total[start] + most, side="right")) - 1
            for total, most in totals
        ]
        start = max(min(fitting), start + 1)
        ends.append(start)
    return ends


def deal_rows(lengths: np.ndarray, most: int, num_groups: int) -> list[np.ndarray]:
    """Return rows dealt out to groups of about equally many tokens, each with rows of all lengths.

    A row longer than allowed is a group of its own. Within a group the shortest is first.

    Args:
        lengths: int64 (B,) tokens of each row
        most: tokens of a group
        num_groups: at least so many, where there are as many rows

    Example:
        >>> lengths = np.array([9, 1, 5, 2, 4, 3])
        >>> [lengths[group].tolist() for group in deal_rows(lengths, most=8, num_groups=2)]
        [[9], [1, 2, 5], [3, 4]]
    """
    order = np.argsort(-lengths, kind="stable")
    num_long = int((lengths > most).sum())
    long, rest = order[:num_long], order[num_long:]
    wanted = max(num_groups - num_long, -(-int(lengths[rest].sum()) // most), 1)
    groups = _deal(rest, wanted)
    while any(lengths[group].sum() > most for group in groups):
        wanted += 1 + wanted // 16
        groups = _deal(rest, wanted)
    return [*long[:, None], *groups]


def _deal(rows: np.ndarray, num_groups: int) -> list[np.ndarray]:
    """Return rows, longest first, dealt to and fro, so that each group's shortest is first."""
    num_groups = min(num_groups, len(rows))
    turn = np.arange(len(rows)) % max(1, 2 * num_groups)
    group = np.minimum(turn, 2 * num_groups - 1 - turn)
    return [rows[group == number][::-1] for number in range(num_groups)]
