"""Which sequences are computed side by side, and rows filled up so that they can be.

Neighbours of one length form a bucket: that is what dense products on a CPU want. In bf16 every
product of another shape costs oneDNN about a millisecond before its first run, and it remembers a
thousand of them: there lengths are rounded up, by a fourth at most, and a bucket holds 1, 2, 4, ...
sequences. A source and its target are of any two lengths, and mostly short: there a few larger
buckets are best, padding and all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Filled:
    """Neighbouring sequences of one side, each filled up to `length` rows."""

    lengths: tuple[int, ...]  # of its sequences, none longer than `length`
    length: int

    @property
    def num_rows(self) -> int:
        """Rows, padding included."""
        return len(self.lengths) * self.length

    @property
    def is_full(self) -> bool:
        """Whether there is no padding."""
        return min(self.lengths) == self.length

    def is_real(self) -> Tensor:
        """Which places hold a row: bool (sequences, length)."""
        return torch.arange(self.length) < torch.tensor(self.lengths)[:, None]


@dataclass(frozen=True)
class Bucket:
    """Neighbouring sequences whose queries, and whose keys, are of nearly equal length."""

    queries: Filled
    keys: Filled  # the same object where a sequence attends to itself


def equal_buckets(queries: list[int], keys: list[int] | None = None) -> list[Bucket]:
    """Return each run of equal lengths as a bucket; sequences without any row are in none.

    Args:
        queries: how many each sequence has
        keys: the same; None: they are the queries

    Example:
        >>> [bucket.queries.lengths for bucket in equal_buckets([3, 3, 0, 5])]
        [(3, 3), (5,)]
        >>> [bucket.keys.lengths for bucket in equal_buckets([3, 3, 0, 5], [2, 2, 7, 0])]
        [(2, 2), (7,), (0,)]
    """
    pairs = zip(queries, queries if keys is None else keys, strict=True)
    runs = groupby(pairs)
    return [_bucket(list(run), lengths, keys is None) for lengths, run in runs if any(lengths)]


def rounded_buckets(
    queries: list[int], keys: list[int] | None = None, *, most_pairs: int
) -> list[Bucket]:
    """Return buckets of few different shapes; sequences without any row are in none.

    Args:
        queries: how many each sequence has, nearly equal ones side by side
        keys: the same; None: they are the queries
        most_pairs: a bucket of several sequences has no more pairs of a query and a key

    Example:
        >>> buckets = rounded_buckets([3, 3, 0, 33, 38, 35, 48], most_pairs=10**6)
        >>> [(bucket.queries.lengths, bucket.queries.length) for bucket in buckets]
        [((3, 3), 3), ((33, 38), 40), ((35,), 40), ((48,), 48)]
    """
    buckets = []
    pairs = zip(queries, queries if keys is None else keys, strict=True)
    for lengths, group in groupby(filter(any, pairs), key=_round_both):
        rest = list(group)
        while rest:
            num = min(len(rest), max(1, most_pairs // max(1, lengths[0] * lengths[1])))
            num = 1 << (num.bit_length() - 1)
            buckets.append(_bucket(rest[:num], lengths, keys is None))
            rest = rest[num:]
    return buckets


def joined_buckets(
    queries: list[int], keys: list[int] | None = None, *, spare: int, most_pairs: int,
    is_rounded: bool = False,
) -> list[Bucket]:  # fmt: skip
    """Return few buckets: neighbours are joined while that adds less padding than `spare`.

    Args:
        queries: how many each sequence has
        keys: the same; None: they are the queries
        spare: pairs of a query and a key that take as long as another bucket
        most_pairs: a bucket of several sequences has no more
        is_rounded: whether lengths are rounded up, and numbers of sequences are few different ones

    Example:
        >>> buckets = joined_buckets([3, 4, 0, 9], [5, 4, 2, 9], spare=20, most_pairs=10**6)
        >>> [(bucket.queries.lengths, bucket.queries.length) for bucket in buckets]
        [((3, 4, 0), 4), ((9,), 9)]
    """
    groups: list[list[tuple[int, int]]] = []
    longest = 0, 0  # of the last group
    for pair in filter(any, zip(queries, queries if keys is None else keys, strict=True)):
        own = _round_both(pair) if is_rounded else pair
        joined = max(longest[0], own[0]), max(longest[1], own[1])
        num = len(groups[-1]) if groups else 0
        size = (num + 1) * math.prod(joined)
        if num and size - num * math.prod(longest) - math.prod(own) <= spare and size <= most_pairs:
            groups[-1].append(pair)
            longest = joined
        else:
            groups.append([pair])
            longest = own
    buckets = []
    for group in groups:
        lengths = max(query for query, _ in group), max(key for _, key in group)
        lengths = _round_both(lengths) if is_rounded else lengths
        while group:
            num = _round_down(len(group)) if is_rounded else len(group)
            buckets.append(_bucket(group[:num], lengths, keys is None))
            group = group[num:]
    return buckets


def _round_down(number: int) -> int:
    """Return a number rounded down to three binary digits."""
    return number >> max(0, number.bit_length() - 3) << max(0, number.bit_length() - 3)


def _round_both(pair: tuple[int, int]) -> tuple[int, int]:
    return round_up(pair[0]), round_up(pair[1])


def _bucket(pairs: list[tuple[int, int]], lengths: tuple[int, int], is_self: bool) -> Bucket:
    queries = Filled(tuple(query for query, _ in pairs), lengths[0])
    return Bucket(queries, queries if is_self else Filled(tuple(k for _, k in pairs), lengths[1]))


def round_up(number: int, num_digits: int = 3) -> int:
    """Return a number rounded up to some binary digits; three let an octave keep four numbers.

    Example:
        >>> [round_up(number) for number in (0, 7, 16, 17, 100, 129, 512)]
        [0, 7, 16, 20, 112, 160, 512]
    """
    step = max(1, 1 << max(number - 1, 0).bit_length() >> num_digits)
    return -(-number // step) * step


def padded_rows(sides: list[Filled]) -> tuple[Tensor, int]:
    """Return the row of each token once all are filled up, int64 (T,), and all rows."""
    lengths = np.concatenate([side.lengths for side in sides])
    room = np.concatenate([np.full(len(side.lengths), side.length) for side in sides])
    before = np.cumsum(room - lengths) - (room - lengths)  # padding before each sequence
    rows = np.arange(lengths.sum()) + np.repeat(before, lengths)
    return torch.from_numpy(rows), int(room.sum())


def pad(x: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Return zeros (num_rows, ...) with x (T, ...) at distinct rows (T,)."""
    padded: Tensor = _Pad.apply(x, rows, num_rows)  # type: ignore[no-untyped-call]
    return padded


def unpad(x: Tensor, rows: Tensor) -> Tensor:
    """Return the rows (T, ...) of x that are distinct."""
    taken: Tensor = _Unpad.apply(x, rows)  # type: ignore[no-untyped-call]
    return taken


# torch's own gradient of taking rows adds them up one by one, as they might not be distinct.
class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        ctx.rows = rows
        return put_rows(x, rows, num_rows)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor, None, None]:
        return upstream[0].index_select(0, ctx.rows), None, None


class _Unpad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.rows, ctx.num_rows = rows, len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor, None]:
        return put_rows(upstream[0], ctx.rows, ctx.num_rows), None


def put_rows(x: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Return zeros (num_rows, ...) with x (T, ...) at distinct rows (T,), without a gradient."""
    return x.new_zeros((num_rows, *x.shape[1:])).index_copy_(0, rows, x)
