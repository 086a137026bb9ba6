"""Examples as flat arrays: what every view returns and every shard holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NO_LABEL = -1


@dataclass(frozen=True)
class ExampleBatch:
    """B examples, ragged: the tokens of example i are `input_ids[offsets[i]:offsets[i + 1]]`.

    Attributes:
        input_ids: uint16 or uint32 (T,), with special tokens and corruption, without padding
        offsets: int64 (B + 1,), into `input_ids` and `token_type_ids`
        token_type_ids: uint8 (T,), 0 through the first [SEP], then 1
        masked_positions: uint16 (P,), within the example, sorted
        mask_offsets: int64 (B + 1,), into `masked_positions` and `masked_labels`
        masked_labels: like `input_ids` (P,), the original ids
        next_sentence_label: int8 (B,), 1 = random or swapped, `NO_LABEL` where there are no pairs
        document_a: uint64 (B,), row of the store that the first segment comes from
        document_b: uint64 (B,), the same for the last segment
        duplicate: uint16 (B,), which of the passes over the documents made the example
        segment_lengths: int32 (S,), tokens that attend to each other; one segment an example,
            except in the packed view
        segment_offsets: int64 (B + 1,), into `segment_lengths`
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    token_type_ids: np.ndarray
    masked_positions: np.ndarray
    mask_offsets: np.ndarray
    masked_labels: np.ndarray
    next_sentence_label: np.ndarray
    document_a: np.ndarray
    document_b: np.ndarray
    duplicate: np.ndarray
    segment_lengths: np.ndarray
    segment_offsets: np.ndarray

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.offsets) - 1

    def original_ids(self) -> np.ndarray:
        """Return `input_ids` before the corruption, (T,)."""
        restored = self.input_ids.copy()
        restored[self.flat_masked_positions()] = self.masked_labels
        return restored

    def flat_masked_positions(self) -> np.ndarray:
        """Return the masked positions as indices into `input_ids`, int64 (P,)."""
        starts = np.repeat(self.offsets[:-1], np.diff(self.mask_offsets))
        flat: np.ndarray = starts + self.masked_positions
        return flat

    def arrays(self) -> dict[str, Any]:
        """Return the fields by name."""
        return dict(vars(self))


def split_segments(
    input_ids: np.ndarray, offsets: np.ndarray, end_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the segments of packed rows, found by the special token that ends each.

    Args:
        input_ids: (T,), rows that end with `end_id`, as it is never masked nor put in
        offsets: int64 (B + 1,), where rows begin
        end_id: of the special token

    Returns:
        segment_lengths int32 (S,) and segment_offsets int64 (B + 1,), as in `ExampleBatch`.

    Example:
        >>> ids = np.array([2, 7, 3, 2, 3, 2, 9, 9, 3])
        >>> [part.tolist() for part in split_segments(ids, np.array([0, 5, 9]), 3)]
        [[3, 2, 4], [0, 2, 3]]
    """
    ends = np.flatnonzero(input_ids == end_id) + 1
    lengths = np.diff(ends, prepend=0).astype(np.int32)
    return lengths, np.searchsorted(ends, offsets, side="right").astype(np.int64)
