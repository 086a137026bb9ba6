"""Sequences of nearly equal length side by side: what dense products on a CPU want.

Neighbours of one length form a bucket. In bf16 every product of another shape costs oneDNN about a
millisecond before its first run, and it remembers a thousand of them: there lengths are rounded up,
by a fourth at most, and a bucket holds 1, 2, 4, ... sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Bucket:
    """Neighbouring sequences, each filled up to `length` tokens."""

    lengths: tuple[int, ...]  # of its sequences, none longer than `length`
    length: int

    @property
    def num_rows(self) -> int:
        """Tokens, padding included."""
        return len(self.lengths) * self.length

    @property
    def is_full(self) -> bool:
        """Whether there is no padding."""
        return min(self.lengths) == self.length

    def is_real(self) -> Tensor:
        """Which places hold a token: bool (sequences, length)."""
        return torch.arange(self.length) < torch.tensor(self.lengths)[:, None]


def equal_buckets(lengths: list[int]) -> list[Bucket]:
    """Return each run of equal lengths as a bucket; sequences of length 0 are in none.

    Example:
        >>> equal_buckets([3, 3, 0, 5])
        [Bucket(lengths=(3, 3), length=3), Bucket(lengths=(5,), length=5)]
    """
    return [Bucket(tuple(run), length) for length, run in groupby(lengths) if length]


def rounded_buckets(lengths: list[int], most_pairs: int) -> list[Bucket]:
    """Return buckets of few different shapes; sequences of length 0 are in none.

    Args:
        lengths: tokens of each sequence, those of nearly equal length side by side
        most_pairs: a bucket of several sequences has no more pairs of tokens

    Example:
        >>> rounded_buckets([3, 3, 0, 33, 38, 35, 48], 10**6)  # doctest: +NORMALIZE_WHITESPACE
        [Bucket(lengths=(3, 3), length=3), Bucket(lengths=(33, 38), length=40),
         Bucket(lengths=(35,), length=40), Bucket(lengths=(48,), length=48)]
    """
    buckets = []
    for length, group in groupby((n for n in lengths if n), key=round_up):
        rest = tuple(group)
        while rest:
            num = min(len(rest), max(1, most_pairs // length**2))
            num = 1 << (num.bit_length() - 1)
            buckets.append(Bucket(rest[:num], length))
            rest = rest[num:]
    return buckets


def round_up(number: int, num_digits: int = 3) -> int:
    """Return a number rounded up to some binary digits; three let an octave keep four numbers.

    Example:
        >>> [round_up(number) for number in (0, 7, 16, 17, 100, 129, 512)]
        [0, 7, 16, 20, 112, 160, 512]
    """
    step = max(1, 1 << max(number - 1, 0).bit_length() >> num_digits)
    return -(-number // step) * step


def padded_rows(buckets: list[Bucket]) -> tuple[Tensor, int]:
    """Return the row of each token once all buckets are filled up, int64 (T,), and all rows."""
    lengths = np.concatenate([bucket.lengths for bucket in buckets])
    room = np.concatenate([np.full(len(bucket.lengths), bucket.length) for bucket in buckets])
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
        return _put(x, rows, num_rows)

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
        return _put(upstream[0], ctx.rows, ctx.num_rows), None


def _put(x: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    return x.new_zeros((num_rows, *x.shape[1:])).index_copy_(0, rows, x)
