"""Sequences that are too long, cut into overlapping windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmmodel.finetuning.spans import Integers, offsets_of, span_index

DEFAULT_OVERLAP = 64


@dataclass(frozen=True)
class Windows:
    """N windows of S sequences, in their order."""

    sequence: Integers  # (N,) in [0, S), ascending
    starts: Integers  # (N,) first token, counted from the beginning of its sequence
    lengths: Integers  # (N,)
    core_starts: Integers  # (N,) the tokens that this window has with most context
    core_ends: Integers  # (N,) one past the last of them

    @property
    def is_whole(self) -> npt.NDArray[np.bool_]:
        """(N,): the window is all of its sequence."""
        is_whole: npt.NDArray[np.bool_] = (np.bincount(self.sequence) == 1)[self.sequence]
        return is_whole

    @property
    def is_core(self) -> npt.NDArray[np.bool_]:
        """Of each token of the windows, end to end: this is the window that has it in its core."""
        place = span_index(self.starts, self.lengths)
        starts, ends = (np.repeat(at, self.lengths) for at in (self.core_starts, self.core_ends))
        return (place >= starts) & (place < ends)


def cut_windows(lengths: Integers, room: Integers, overlap: int | None = None) -> Windows:
    """Return windows that hold every token of every sequence; a sequence that fits is one window.

    Windows begin `room - overlap` tokens apart, and the last ends with its sequence (as
    `return_overflowing_tokens` of `tokenizers` cuts). The cores of a sequence's windows are its
    tokens, each once: an overlap belongs half to the window before, half to the one after.

    Args:
        lengths: int64 (S,) tokens of each sequence
        room: int64 (S,) tokens that a window of it may have, at least 1
        overlap: tokens that neighbouring windows share, at most half of the room; None: 64, or
            half of the room where that is less

    Example:
        >>> windows = cut_windows(np.array([3, 10]), np.array([4, 4]), 2)
        >>> windows.sequence.tolist(), windows.starts.tolist(), windows.lengths.tolist()
        ([0, 1, 1, 1, 1], [0, 0, 2, 4, 6], [3, 4, 4, 4, 4])
        >>> windows.core_starts.tolist(), windows.core_ends.tolist()
        ([0, 0, 3, 5, 7], [3, 3, 5, 7, 10])
    """
    shared = np.minimum(DEFAULT_OVERLAP if overlap is None else overlap, room // 2)
    step = room - shared
    counts = 1 + np.maximum(0, -(-(lengths - room) // step))
    sequence = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(sequence)) - np.repeat(offsets_of(counts)[:-1], counts)
    starts = number * step[sequence]
    ends = np.minimum(starts + room[sequence], lengths[sequence])
    is_first, is_last = number == 0, number == counts[sequence] - 1
    half = shared[sequence] // 2
    return Windows(
        sequence=sequence,
        starts=starts,
        lengths=ends - starts,
        core_starts=np.where(is_first, 0, starts + half),
        core_ends=np.where(is_last, ends, starts + step[sequence] + half),
    )
