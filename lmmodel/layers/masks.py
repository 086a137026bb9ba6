"""Which keys a query sees, as data.

Sequence i of the queries sees sequence i of the keys and no other. In it, key j is seen by query i
where rank_k[j] <= rank_q[i] (strict: <) and no further away than the window.

    bidirectional   all ranks are 0               Mask()
    causal          the rank is the place         Mask(is_causal=True)
    prefix          0 in the prefix, then 1, 2, ...
    permutation     the order of factorisation; queries that may not see themselves: strict

Shapes: Q queries, T keys, S sequences, L queries and L' keys of one sequence, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lmmodel.layers.buckets import Bucket, put_rows
from lmmodel.layers.relative import OfRows, Relative, pair_of_rows

Ranks = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Side:
    """How the rows of one side are packed."""

    cu_seqlens: Tensor  # int32 (S + 1,), where sequences begin; ends with all rows; may be empty
    max_seqlen: int  # no sequence is longer


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Which keys of its own sequence a query sees, and what is added to their scores."""

    is_causal: bool = False
    """Whether the rank of a row is its place in its sequence; else 0, unless `ranks` tells."""
    ranks: Ranks | None = None
    """Integers (Q,) of the queries and (T,) of the keys, any that order them."""
    is_strict: bool = False
    """Whether a query sees keys of lower rank only, not of its own."""
    window: int | None = None
    """How many places to either side a query sees; None: all."""
    bias: Tensor | None = None
    """Floats (H, L, L'): added to the score of query place i and key place j, in every sequence."""
    relative: Relative | None = None
    """What is added to a score by distance and segment, given the query."""

    def __post_init__(self) -> None:
        if self.is_causal and self.ranks is not None:
            raise ValueError("is_causal means that ranks are places: give it or ranks, not both")
        if self.is_strict and not self.is_causal and self.ranks is None:
            raise ValueError("is_strict without an order hides every key: give ranks, or is_causal")

    @property
    def is_plain(self) -> bool:
        """Whether every row of the longest sequences sees something, as itself: no special case."""
        return self.ranks is None and not self.is_strict

    @property
    def shows_itself(self) -> bool:
        """Whether every row of sequences that attend to themselves sees itself."""
        return not self.is_strict and (self.ranks is None or self.ranks[0] is self.ranks[1])

    @property
    def has_own_scores(self) -> bool:
        """Whether something is added to the scores, which ready-made kernels don't know."""
        return self.bias is not None or self.relative is not None

    @property
    def knows_rows(self) -> bool:
        """Whether something is told of each row."""
        return self.ranks is not None or self.relative is not None

    def within(self, length: int) -> Mask:
        """Return the mask of sequences of at most `length` rows: a window that hides none is gone.

        Example:
            >>> Mask(window=9).within(11).window, Mask(window=9).within(10).window
            (9, None)
        """
        is_idle = self.window is not None and self.window >= length - 1
        return replace(self, window=None) if is_idle else self

    def of_rows(self, of_queries: OfRows, of_keys: OfRows) -> Mask:
        """Return the same of other rows, which two functions take from those of each side."""
        ranks = self.ranks and pair_of_rows(self.ranks, of_queries, of_keys)
        relative = self.relative and self.relative.of_rows(of_queries, of_keys)
        return replace(self, ranks=ranks, relative=relative)


Filling = tuple[Tensor, int, list[int]]


def split_mask(mask: Mask, queries: Filling, keys: Filling) -> list[Mask]:
    """Return the masks of buckets, whose rows are filled up.

    Args:
        mask: of all rows
        queries: the row of each once all are filled up, int64 (Q,), all rows, those of each bucket
        keys: the same
    """
    if not mask.knows_rows:
        return [mask] * len(queries[2])

    def cut(side: Filling) -> list[OfRows]:
        rows, num_rows, sizes = side
        ends = np.cumsum(sizes)
        return [
            lambda x, first=end - size, end=end: put_rows(x, rows, num_rows)[first:end]  # type: ignore[misc]
            for size, end in zip(sizes, ends.tolist(), strict=True)
        ]

    own = cut(queries)
    other = own if keys is queries else cut(keys)
    return [mask.of_rows(*pair) for pair in zip(own, other, strict=True)]


def places(side: Side, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return the sequence of each row and its place there: int64 (rows,) each."""
    row = torch.arange(num_rows, device=side.cu_seqlens.device)
    sequence = torch.searchsorted(side.cu_seqlens[1:].contiguous(), row, right=True)
    return sequence, row - side.cu_seqlens[:-1].long()[sequence]


def bucket_seen(bucket: Bucket, mask: Mask, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return which places see which, and which queries see nothing and get zeros.

    Returns:
        bool (L, L'), or (S, 1, 1 or L, L') where sequences differ; bool (S, 1, 1 or L, 1), or None
        where each query sees itself. In the first, padding and blind queries see something, as a
        softmax over nothing is NaN.
    """
    is_self = bucket.keys is bucket.queries
    near = None
    if mask.is_causal or mask.window is not None:
        near = band(bucket.queries.length, bucket.keys.length, mask, device)  # (L, L')
    if is_self and mask.is_plain and near is not None:
        if mask.is_causal or bucket.queries.is_full:
            return near, None
        is_real = bucket.keys.is_real()[:, None, None, :].to(device)  # (S, 1, 1, L)
        # Padding far from all tokens would see nothing: let it see itself.
        return near & (is_real | torch.eye(len(near), dtype=torch.bool, device=device)), None
    seen = bucket.keys.is_real()[:, None, None, :].to(device)  # (S, 1, 1, L')
    if is_self and mask.is_plain:
        return seen, None
    if near is not None:
        seen = seen & near
    if mask.ranks is not None:
        num = len(bucket.queries.lengths)
        rank_q, rank_k = (rank.view(num, -1) for rank in mask.ranks)
        seen = seen & _ordered(rank_q[:, None, :, None], rank_k[:, None, None, :], mask.is_strict)
    if is_self and mask.shows_itself:  # and so may padding
        return seen | torch.eye(bucket.keys.length, dtype=torch.bool, device=device), None
    is_blind = ~seen.any(dim=-1, keepdim=True)
    return seen | is_blind, is_blind


def _ordered(rank_q: Tensor, rank_k: Tensor, is_strict: bool) -> Tensor:
    return rank_k < rank_q if is_strict else rank_k <= rank_q


def band(num_queries: int, num_keys: int, mask: Mask, device: torch.device) -> Tensor:
    """Return which places see which by their distance: bool (L, L')."""
    place_q = torch.arange(num_queries, device=device)[:, None]
    place_k = torch.arange(num_keys, device=device)[None, :]
    is_seen = torch.ones((num_queries, num_keys), dtype=torch.bool, device=device)
    if mask.window is not None:
        is_seen &= (place_q - place_k).abs() <= mask.window
    return is_seen & _ordered(place_q, place_k, mask.is_strict) if mask.is_causal else is_seen


def padded_rows_of(side: Side, num_rows: int) -> Tensor:
    """Return the row of each place, any where there is none: int64 (S, max_seqlen)."""
    place = torch.arange(side.max_seqlen, device=side.cu_seqlens.device)
    return (side.cu_seqlens[:-1].long()[:, None] + place).clamp(max=num_rows - 1)


def padded_seen(
    queries: Side, keys: Side, mask: Mask, rows: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Return what `bucket_seen` does, bool (S, 1, 1 or L, L'), of sequences that are all padded.

    Args:
        queries: how they are packed
        keys: the same
        mask: with the ranks of packed rows, if it has any
        rows: of the queries' places and of the keys', int64 (S, L) and (S, L')
    """
    place = torch.arange(keys.max_seqlen, device=keys.cu_seqlens.device)
    seen = (place < keys.cu_seqlens.diff()[:, None])[:, None, None, :]  # (S, 1, 1, L')
    near = None
    if mask.is_causal or mask.window is not None:
        near = band(queries.max_seqlen, keys.max_seqlen, mask, place.device)
    if keys is queries and mask.is_plain:
        # Padding queries of an empty sequence would see nothing: let all see place 0, and itself.
        seen = seen | (place == 0)
        return (seen if near is None else seen & near | torch.eye(
            len(place), dtype=torch.bool, device=place.device
        )), None  # fmt: skip
    if near is not None:
        seen = seen & near
    if mask.ranks is not None:
        rank_q, rank_k = (rank[at] for rank, at in zip(mask.ranks, rows, strict=True))
        seen = seen & _ordered(rank_q[:, None, :, None], rank_k[:, None, None, :], mask.is_strict)
    is_blind = ~seen.any(dim=-1, keepdim=True)
    return seen | is_blind, is_blind
