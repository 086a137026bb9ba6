"""A packed micro-batch: sequences end to end, no padding between them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""Label of a row that no loss counts, as in `torch.nn.functional.cross_entropy`."""

LEAST_TOKENS = 256
"""Of a micro-batch that is worth its own gradients."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """S sequences of T tokens in all, P of which have a label.

    The length of a sequence may be 0 (static shapes need it); none is longer than `max_seqlen`.
    Attention on a CPU is fastest when sequences of equal length are neighbours.
    """

    input_ids: Tensor  # int32 or int64 (T,)
    token_type_ids: Tensor  # int32 or int64 (T,), segment of each token, 0 or 1
    position_ids: Tensor  # int32 or int64 (T,), place of each token in its sequence
    cu_seqlens: Tensor  # int32 (S + 1,), where sequences begin; ends with T
    max_seqlen: int
    masked_positions: Tensor  # int64 (P,), rows of `input_ids` that have a label
    masked_labels: Tensor  # int64 (P,), IGNORED where there is none
    next_sentence_label: Tensor  # int64 (S,), IGNORED where there is none

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

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory, from which copies need not wait."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: object) -> Batch:
        assert callable(function)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Batch(
            **{
                name: function(value) if isinstance(value, Tensor) else value
                for name, value in values.items()
            }
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
) -> Batch:
    """Return the batch of sequences that lie end to end, with positions counted from 0 in each.

    Args:
        input_ids: integers (T,)
        lengths: integers (S,) that sum to T
        max_seqlen: at least the longest length; None: the longest length
        token_type_ids: integers (T,); None: all 0
        masked_positions: int64 (P,); None: no token has a label
        masked_labels: int64 (P,)
        next_sentence_label: int64 (S,); None: no sequence has one

    Raises:
        ValueError: the lengths do not sum to T, or one exceeds `max_seqlen`

    Example:
        >>> batch = make_batch(torch.tensor([5, 6, 7, 8, 9]), torch.tensor([2, 3]))
        >>> batch.cu_seqlens.tolist(), batch.position_ids.tolist(), batch.max_seqlen
        ([0, 2, 5], [0, 1, 0, 1, 2], 3)
    """
    longest = int(lengths.max()) if len(lengths) else 0
    if int(lengths.sum()) != len(input_ids):
        raise ValueError(
            f"sequence lengths sum to {int(lengths.sum())}, but there are {len(input_ids)} tokens"
        )
    if max_seqlen is not None and longest > max_seqlen:
        raise ValueError(f"a sequence of {longest} tokens is longer than max_seqlen={max_seqlen}")
    none = torch.zeros(0, dtype=torch.int64)
    cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    starts = cu_seqlens[:-1].long().repeat_interleave(lengths.long())
    return Batch(
        input_ids=input_ids,
        token_type_ids=torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        position_ids=torch.arange(len(input_ids)) - starts,
        cu_seqlens=cu_seqlens,
        max_seqlen=longest if max_seqlen is None else max_seqlen,
        masked_positions=none if masked_positions is None else masked_positions,
        masked_labels=none if masked_labels is None else masked_labels,
        next_sentence_label=torch.full((len(lengths),), IGNORED, dtype=torch.int64)
        if next_sentence_label is None
        else next_sentence_label,
    )


def pad_batch(
    batch: Batch, *, num_tokens: int, num_sequences: int, num_masked: int, pad_id: int = 0
) -> Batch:
    """Return the batch with fixed shapes, so that `torch.compile` and CUDA graphs see one shape.

    Added tokens form sequences of their own of at most `max_seqlen` tokens, then empty sequences
    follow; no label belongs to them, so losses and gradients stay the same.

    Args:
        batch: at most the shape asked for
        num_tokens: T of the result
        num_sequences: S of the result; `spare_sequences` says how many the added tokens need
        num_masked: P of the result
        pad_id: the id of added tokens

    Raises:
        ValueError: the batch is larger than the shape asked for

    Example:
        >>> batch = make_batch(torch.tensor([5, 6, 7]), torch.tensor([1, 2]))
        >>> pad_batch(batch, num_tokens=6, num_sequences=5, num_masked=0).cu_seqlens.tolist()
        [0, 1, 3, 5, 6, 6]
    """
    more_tokens = num_tokens - batch.num_tokens
    more_masked = num_masked - len(batch.masked_positions)
    more_sequences = num_sequences - batch.num_sequences
    needed = spare_sequences(max(more_tokens, 0), batch.max_seqlen)
    if more_tokens < 0 or more_masked < 0 or more_sequences < needed:
        raise ValueError(
            f"a batch of {batch.num_tokens} tokens, {batch.num_sequences} sequences and "
            f"{len(batch.masked_positions)} labels does not fit into {num_tokens} tokens, "
            f"{num_sequences} sequences and {num_masked} labels "
            f"(the added tokens alone take {needed} sequences)"
        )
    ends = torch.arange(1, more_sequences + 1) * batch.max_seqlen + batch.num_tokens
    return Batch(
        input_ids=F.pad(batch.input_ids, (0, more_tokens), value=pad_id),
        token_type_ids=F.pad(batch.token_type_ids, (0, more_tokens)),
        position_ids=torch.cat(
            [
                batch.position_ids,
                (torch.arange(more_tokens) % max(batch.max_seqlen, 1)).to(batch.position_ids),
            ]
        ),
        cu_seqlens=torch.cat([batch.cu_seqlens, ends.clamp(max=num_tokens).to(torch.int32)]),
        max_seqlen=batch.max_seqlen,
        masked_positions=F.pad(batch.masked_positions, (0, more_masked)),
        masked_labels=F.pad(batch.masked_labels, (0, more_masked), value=IGNORED),
        next_sentence_label=F.pad(batch.next_sentence_label, (0, more_sequences), value=IGNORED),
    )


def spare_sequences(num_tokens: int, max_seqlen: int) -> int:
    """Return how many sequences `num_tokens` added tokens need.

    Example:
        >>> spare_sequences(0, 128), spare_sequences(1, 128), spare_sequences(129, 128)
        (0, 1, 2)
    """
    return -(-num_tokens // max_seqlen) if num_tokens else 0


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
