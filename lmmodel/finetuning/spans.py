"""Index arithmetic over sequences that lie end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def span_index(starts: Integers, lengths: Integers) -> Integers:
    """Return the places of the items of some spans, span after span: int64 (N,).

    Args:
        starts: int64 (S,) where each span begins
        lengths: int64 (S,) at least 0

    Example:
        >>> span_index(np.array([7, 0]), np.array([2, 3])).tolist()
        [7, 8, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    shift = starts - (ends - lengths)
    places: Integers = np.arange(ends[-1] if len(ends) else 0) + np.repeat(shift, lengths)
    return places


def offsets_of(lengths: Integers) -> Integers:
    """Return where sequences of these lengths begin, and at the end where they end: int64 (S+1,).

    Example:
        >>> offsets_of(np.array([2, 3])).tolist()
        [0, 2, 5]
    """
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@dataclass(frozen=True)
class Part:
    """What each of E sequences has at one place: a span of `values`."""

    values: npt.NDArray[np.int32]  # (N,)
    starts: Integers  # (E,)
    lengths: Integers  # (E,)

    @property
    def source(self) -> Integers:
        """Places in `values`, sequence after sequence: int64 (sum of lengths,)."""
        return span_index(self.starts, self.lengths)


def interleave(parts: Sequence[Part]) -> tuple[npt.NDArray[np.int32], Integers, list[Integers]]:
    """Return sequences that are made of one span of each part, in their order.

    Args:
        parts: P of them, each with E spans

    Returns:
        values int32 (T,), offsets int64 (E + 1,), and for each part the places in `values` of what
        its `source` names, int64.

    Example:
        >>> ones, twos = np.array([1], np.int32), np.array([21, 22, 23], np.int32)
        >>> first = Part(ones, np.array([0, 0]), np.array([1, 1]))
        >>> second = Part(twos, np.array([0, 1]), np.array([1, 2]))
        >>> values, offsets, places = interleave([first, second])
        >>> values.tolist(), offsets.tolist(), places[1].tolist()
        ([1, 21, 1, 22, 23], [0, 2, 5], [1, 3, 4])
    """
    lengths = np.stack([part.lengths for part in parts], axis=1)  # (E, P)
    flat = offsets_of(lengths.reshape(-1))
    begins = flat[:-1].reshape(lengths.shape)
    values = np.empty(int(flat[-1]), np.int32)
    places = [span_index(begins[:, p], part.lengths) for p, part in enumerate(parts)]
    for part, place in zip(parts, places, strict=True):
        values[place] = part.values[part.source]
    return values, flat[:: len(parts)], places
