"""A packed micro-batch: sequences end to end, no padding between them, in one stream or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a row that no loss counts, as in `torch.nn.functional.cross_entropy`."""

TOKENS = "tokens"
"""The stream, and the labels in it, of objectives that have one of each."""
SOURCE = "source"
TARGET = "target"
"""The streams of an encoder-decoder. A target begins with the start token of the family; its labels
of `TOKENS` are the tokens after each."""
QUERIES = "queries"
"""The stream beside `TOKENS` of a permutation: a row at the place of each token that is asked. Ids
are 0: nothing reads them."""
PAIRS = "pairs"
"""The labels of sentence pairs."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Rows that are asked something, and the right answers."""

    rows: Tensor  # int64 (P,), of a stream's tokens
    values: Tensor  # int64 or floats (P,), IGNORED where there is no answer


@dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """S sequences of T tokens in all.

    The length of a sequence may be 0 (static shapes need it); none is longer than `max_seqlen`.
    Attention on a CPU is fastest when sequences of equal length are neighbours.
    """

    input_ids: Tensor  # int32 or int64 (T,)
    token_type_ids: Tensor  # int32 or int64 (T,), segment of each token, 0 or 1
    position_ids: Tensor  # int32 or int64 (T,), place of each token in its sequence
    cu_seqlens: Tensor  # int32 (S + 1,), where sequences begin; ends with T
    max_seqlen: int
    labels: Mapping[str, Labels]  # by what is asked
    ranks: Tensor | None = None  # integers (T,), in what order tokens are read; None: in none

    @property
    def num_tokens(self) -> int:
        """T, padding of static shapes included."""
        return self.input_ids.shape[0]

    @property
    def num_sequences(self) -> int:
        """S, empty sequences included."""
        return self.cu_seqlens.shape[0] - 1

    @property
    def first_positions(self) -> Tensor:
        """Row of the first token of each sequence: int64 (S,); any valid row for empty ones."""
        return self.cu_seqlens[:-1].long().clamp(max=self.num_tokens - 1)

    def map(self, function: Callable[[Tensor], Tensor]) -> Stream:
        """Return the stream of what a function makes of each tensor."""
        labels = {
            name: Labels(function(own.rows), function(own.values))
            for name, own in self.labels.items()
        }
        return replace(
            self, input_ids=function(self.input_ids), token_type_ids=function(self.token_type_ids),
            position_ids=function(self.position_ids), cu_seqlens=function(self.cu_seqlens),
            labels=labels, ranks=None if self.ranks is None else function(self.ranks),
        )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Streams of S sequences each: sequence i of one belongs to sequence i of the others.

    Encoders and decoders have one stream, whose arrays are also named here; an encoder-decoder has
    a source and a target. A token is addressed by its sequence's address and its place there, so
    what is sampled for it does not depend on how sequences are packed.
    """

    streams: Mapping[str, Stream]
    sequence_labels: Mapping[str, Tensor]  # int64 (S,) each, IGNORED where there is none
    addresses: Tensor  # int64 (S, 3): epoch, row in it, first token in the row; -1 where unknown

    @property
    def stream(self) -> Stream:
        """The only stream."""
        (stream,) = self.streams.values()
        return stream

    @property
    def input_ids(self) -> Tensor:
        """Ids of the only stream: integers (T,)."""
        return self.stream.input_ids

    @property
    def token_type_ids(self) -> Tensor:
        """Segments of the only stream: integers (T,)."""
        return self.stream.token_type_ids

    @property
    def position_ids(self) -> Tensor:
        """Places in the sequences of the only stream: integers (T,)."""
        return self.stream.position_ids

    @property
    def cu_seqlens(self) -> Tensor:
        """Where the sequences of the only stream begin: int32 (S + 1,)."""
        return self.stream.cu_seqlens

    @property
    def max_seqlen(self) -> int:
        """No sequence of the only stream is longer."""
        return self.stream.max_seqlen

    @property
    def first_positions(self) -> Tensor:
        """First rows of the sequences of the only stream: int64 (S,)."""
        return self.stream.first_positions

    @property
    def masked_positions(self) -> Tensor:
        """Rows of the only stream whose token is asked: int64 (P,)."""
        return self.stream.labels[TOKENS].rows

    @property
    def masked_labels(self) -> Tensor:
        """Ids of those tokens: int64 (P,)."""
        return self.stream.labels[TOKENS].values

    @property
    def next_sentence_label(self) -> Tensor:
        """Label of each sentence pair: int64 (S,)."""
        return self.sequence_labels[PAIRS]

    @property
    def num_tokens(self) -> int:
        """T of all streams, padding of static shapes included."""
        return sum(stream.num_tokens for stream in self.streams.values())

    @property
    def num_labels(self) -> int:
        """P, of the kind that most rows have."""
        labels = [own for stream in self.streams.values() for own in stream.labels.values()]
        return max((len(own.rows) for own in labels), default=0)

    @property
    def num_sequences(self) -> int:
        """S, empty sequences included."""
        return self.addresses.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory, from which copies need not wait."""
        return self._map(lambda tensor: tensor.pin_memory())

    def with_positions(self, position_ids: Tensor) -> Batch:
        """Return the batch with other places of the tokens of its only stream."""
        (name,) = self.streams
        return replace(self, streams={name: replace(self.stream, position_ids=position_ids)})

    def with_ids(self, input_ids: Tensor) -> Batch:
        """Return the batch with other tokens in its only stream."""
        (name,) = self.streams
        return replace(self, streams={name: replace(self.stream, input_ids=input_ids)})

    def with_labels(self, name: str, rows: Tensor, values: Tensor) -> Batch:
        """Return the batch with labels of one more kind in its only stream."""
        (stream_name,) = self.streams
        labels = {**self.stream.labels, name: Labels(rows, values)}
        return replace(self, streams={stream_name: replace(self.stream, labels=labels)})

    def with_sequence_labels(self, labels: Mapping[str, Tensor]) -> Batch:
        """Return the batch with labels of more kinds, int64 (S,) each."""
        return replace(self, sequence_labels={**self.sequence_labels, **labels})

    def without_labels(self) -> Batch:
        """Return the batch with no answer anywhere, so that its losses are 0."""
        streams = {
            name: replace(stream, labels={
                kind: Labels(own.rows, torch.full_like(own.values, IGNORED))
                for kind, own in stream.labels.items()
            })
            for name, stream in self.streams.items()
        }  # fmt: skip
        labels = {
            name: torch.full_like(values, IGNORED) for name, values in self.sequence_labels.items()
        }
        return replace(self, streams=streams, sequence_labels=labels)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            streams={name: stream.map(function) for name, stream in self.streams.items()},
            sequence_labels={name: function(own) for name, own in self.sequence_labels.items()},
            addresses=function(self.addresses),
        )


def make_stream(
    input_ids: Tensor,
    lengths: Tensor,
    *,
    max_seqlen: int | None = None,
    token_type_ids: Tensor | None = None,
    labels: Mapping[str, Labels] | None = None,
) -> Stream:
    """Return the stream of sequences that lie end to end, with positions counted from 0 in each.

    Args:
        input_ids: integers (T,)
        lengths: integers (S,) that sum to T
        max_seqlen: at least the longest length; None: the longest length
        token_type_ids: integers (T,); None: all 0
        labels: rows that are asked something; None: none

    Raises:
        ValueError: the lengths do not sum to T, or one exceeds `max_seqlen`
    """
    longest = int(lengths.max()) if len(lengths) else 0
    if int(lengths.sum()) != len(input_ids):
        raise ValueError(
            f"sequence lengths sum to {int(lengths.sum())}, but there are {len(input_ids)} tokens"
        )
    if max_seqlen is not None and longest > max_seqlen:
        raise ValueError(f"a sequence of {longest} tokens is longer than max_seqlen={max_seqlen}")
    cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    starts = cu_seqlens[:-1].long().repeat_interleave(lengths.long())
    return Stream(
        input_ids=input_ids,
        token_type_ids=torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        position_ids=torch.arange(len(input_ids)) - starts,
        cu_seqlens=cu_seqlens,
        max_seqlen=longest if max_seqlen is None else max_seqlen,
        labels=labels or {},
    )


def make_batch(
    input_ids: Tensor,
    lengths: Tensor,
    *,
    max_seqlen: int | None = None,
    token_type_ids: Tensor | None = None,
    masked_positions: Tensor | None = None,
    masked_labels: Tensor | None = None,
    next_sentence_label: Tensor | None = None,
    addresses: Tensor | None = None,
) -> Batch:
    """Return a batch of one stream, `TOKENS`.

    Args:
        input_ids: integers (T,)
        lengths: integers (S,) that sum to T
        max_seqlen: at least the longest length; None: the longest length
        token_type_ids: integers (T,); None: all 0
        masked_positions: int64 (P,); None: no token has a label
        masked_labels: int64 (P,)
        next_sentence_label: int64 (S,); None: no sequence has one
        addresses: int64 (S, 3), as in `Batch`; None: unknown

    Raises:
        ValueError: the lengths do not sum to T, or one exceeds `max_seqlen`

    Example:
        >>> batch = make_batch(torch.tensor([5, 6, 7, 8, 9]), torch.tensor([2, 3]))
        >>> batch.cu_seqlens.tolist(), batch.position_ids.tolist(), batch.max_seqlen
        ([0, 2, 5], [0, 1, 0, 1, 2], 3)
    """
    none = torch.zeros(0, dtype=torch.int64)
    labels = Labels(
        none if masked_positions is None else masked_positions,
        none if masked_labels is None else masked_labels,
    )
    stream = make_stream(
        input_ids, lengths, max_seqlen=max_seqlen, token_type_ids=token_type_ids,
        labels={TOKENS: labels},
    )  # fmt: skip
    num = len(lengths)
    unpaired = torch.full((num,), IGNORED, dtype=torch.int64)
    pairs = unpaired if next_sentence_label is None else next_sentence_label
    unknown = torch.full((num, 3), -1, dtype=torch.int64)
    return Batch(
        streams={TOKENS: stream},
        sequence_labels={PAIRS: pairs},
        addresses=unknown if addresses is None else addresses,
    )


def batch_of(streams: Mapping[str, Stream]) -> Batch:
    """Return a batch of streams without labels of sequences and without addresses."""
    num = {stream.num_sequences for stream in streams.values()}
    if len(num) != 1:
        raise ValueError(f"streams must be of equally many sequences, got {sorted(num)}")
    return Batch(
        streams=streams, sequence_labels={},
        addresses=torch.full((num.pop(), 3), -1, dtype=torch.int64),
    )  # fmt: skip


def pad_batch(
    batch: Batch, *, num_tokens: int | Mapping[str, int], num_sequences: int, num_masked: int,
    pad_id: int = 0,
) -> Batch:  # fmt: skip
    """Return the batch with fixed shapes, so that `torch.compile` and CUDA graphs see one shape.

    Added tokens form sequences of their own of at most `max_seqlen` tokens, then empty sequences
    follow; no label belongs to them, so losses and gradients stay the same.

    Args:
        batch: of streams that are at most the shape asked for
        num_tokens: T of each stream of the result; where there are several, by name
        num_sequences: S of the result; `spare_sequences` says how many the added tokens need
        num_masked: P of the result, of each kind of labels
        pad_id: the id of added tokens

    Raises:
        ValueError: the batch is larger than the shape asked for

    Example:
        >>> batch = make_batch(torch.tensor([5, 6, 7]), torch.tensor([1, 2]))
        >>> pad_batch(batch, num_tokens=6, num_sequences=5, num_masked=0).cu_seqlens.tolist()
        [0, 1, 3, 5, 6, 6]
    """
    wanted = dict.fromkeys(batch.streams, num_tokens) if isinstance(num_tokens, int) else num_tokens
    streams = {
        name: _pad_stream(stream, wanted[name], num_sequences, num_masked, pad_id)
        for name, stream in batch.streams.items()
    }
    more = num_sequences - batch.num_sequences
    return Batch(
        streams=streams,
        sequence_labels={
            name: F.pad(own, (0, more), value=IGNORED)
            for name, own in batch.sequence_labels.items()
        },
        addresses=F.pad(batch.addresses, (0, 0, 0, more), value=-1),
    )


def _pad_stream(
    stream: Stream, num_tokens: int, num_sequences: int, num_labels: int, pad_id: int
) -> Stream:
    more_tokens = num_tokens - stream.num_tokens
    most_labels = max((len(own.rows) for own in stream.labels.values()), default=0)
    more_sequences = num_sequences - stream.num_sequences
    needed = spare_sequences(max(more_tokens, 0), stream.max_seqlen)
    if more_tokens < 0 or num_labels < most_labels or more_sequences < needed:
        raise ValueError(
            f"a batch of {stream.num_tokens} tokens, {stream.num_sequences} sequences and "
            f"{most_labels} labels does not fit into {num_tokens} tokens, "
            f"{num_sequences} sequences and {num_labels} labels "
            f"(the added tokens alone take {needed} sequences)"
        )
    ends = torch.arange(1, more_sequences + 1) * stream.max_seqlen + stream.num_tokens
    places = torch.arange(more_tokens) % max(stream.max_seqlen, 1)
    return Stream(
        input_ids=F.pad(stream.input_ids, (0, more_tokens), value=pad_id),
        token_type_ids=F.pad(stream.token_type_ids, (0, more_tokens)),
        position_ids=torch.cat([stream.position_ids, places.to(stream.position_ids)]),
        cu_seqlens=torch.cat([stream.cu_seqlens, ends.clamp(max=num_tokens).to(torch.int32)]),
        max_seqlen=stream.max_seqlen,
        labels={
            name: Labels(
                F.pad(own.rows, (0, num_labels - len(own.rows))),
                F.pad(own.values, (0, num_labels - len(own.values)), value=IGNORED),
            )
            for name, own in stream.labels.items()
        },
        ranks=None if stream.ranks is None else F.pad(stream.ranks, (0, more_tokens)),
    )


def spare_sequences(num_tokens: int, max_seqlen: int) -> int:
    """Return how many sequences `num_tokens` added tokens need.

    Example:
        >>> spare_sequences(0, 128), spare_sequences(1, 128), spare_sequences(129, 128)
        (0, 1, 2)
    """
    return -(-num_tokens // max_seqlen) if num_tokens else 0
