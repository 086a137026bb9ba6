"""Documents as lines of ids, each between a begin and an end, as n-grams are counted in them."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from lmdata.dataset import ExampleSet, TokenStore
from lmdata.ragged import offsets_of
from lmdata.rng import draw, stream_key

_ROWS = 4096  # of frozen examples that are read at a time


@dataclass(frozen=True)
class Text:
    """Lines one after the other, each between a begin and an end.

    Attributes:
        ids: uint16 | uint32 (T,); pieces below `num_pieces`, then the end, then the begin
        num_pieces: of the vocabulary
    """

    ids: np.ndarray
    num_pieces: int

    @property
    def end(self) -> int:
        """The id behind each line."""
        return self.num_pieces

    @property
    def begin(self) -> int:
        """The id before each line, the highest of all."""
        return self.num_pieces + 1

    @property
    def num_ids(self) -> int:
        """Ids that there may be."""
        return self.num_pieces + 2

    def reversed(self) -> Text:
        """Return each line from its last piece to its first.

        Example:
            >>> Text(np.array([4, 0, 1, 3], np.uint16), num_pieces=3).reversed().ids.tolist()
            [4, 1, 0, 3]
        """
        ids = self.ids[::-1].copy()
        was_begin = ids == self.begin
        ids[ids == self.end] = self.begin
        ids[was_begin] = self.end
        return Text(ids, self.num_pieces)


def lines_of_store(store: TokenStore, most_tokens: int | None = None) -> Text:
    """Return the documents of a store, each a line; of a large store a fair sample.

    Args:
        store: of one split
        most_tokens: documents are drawn by chance so that about so many tokens are left at most;
            None: all
    """
    num_pieces = store.tokenizer.vocab_size
    share = 1.0 if most_tokens is None else most_tokens / max(store.num_tokens, 1)
    parts = [np.zeros(0, _dtype(num_pieces))]
    for block in store.blocks:
        rows = np.arange(block.first_row, block.first_row + block.num_documents)
        is_taken = _is_drawn(rows, share)
        parts.append(lay_out(block.ids, block.id_offsets, is_taken, num_pieces))
    return Text(np.concatenate(parts), num_pieces)


def lines_of_examples(examples: ExampleSet, most_tokens: int | None = None) -> Text:
    """Return frozen examples as they were before corruption, as lines without special tokens.

    Args:
        examples: of one split
        most_tokens: as in `lines_of_store`
    """
    tokenizer = examples.tokenizer
    num_pieces, is_special = tokenizer.vocab_size, tokenizer.is_special
    rows, parts, num_tokens = np.arange(examples.num_examples), [np.zeros(0, _dtype(num_pieces))], 0
    rows = rows[
        np.argsort(draw(stream_key(0, "yardstick"), rows, np.zeros_like(rows)), kind="stable")
    ]
    for start in range(0, len(rows), _ROWS):
        if most_tokens is not None and num_tokens >= most_tokens:
            break
        batch = examples.rows(np.sort(rows[start : start + _ROWS]))
        texts = examples.original(batch)
        ids, bounds = texts.values, texts.offsets
        is_kept = ~is_special[ids]
        breaks = np.union1d(np.flatnonzero(~is_kept), bounds)
        before = offsets_of(is_kept)[breaks]
        lengths = np.diff(before)
        offsets = offsets_of(lengths[lengths > 0])
        taken = np.ones(len(offsets) - 1, bool)
        parts.append(lay_out(ids[is_kept], offsets, taken, num_pieces))
        num_tokens += len(ids)
    return Text(np.concatenate(parts), num_pieces)


def _dtype(num_pieces: int) -> type[np.unsignedinteger]:
    return np.uint16 if num_pieces + 2 <= 1 << 16 else np.uint32


def _is_drawn(rows: np.ndarray, share: float) -> np.ndarray:
    """Return which documents, int64 (d,), are in a sample of this share: bool (d,)."""
    if share >= 1:
        return np.ones(len(rows), bool)
    return np.asarray(draw(stream_key(0, "yardstick"), rows, np.zeros_like(rows)) < share * 2**32)


def lay_out(
    ids: np.ndarray, offsets: np.ndarray, is_taken: np.ndarray, num_pieces: int
) -> np.ndarray:
    """Return those documents that are taken as lines, each between a begin and an end.

    Args:
        ids: uint16 | uint32 (t,)
        offsets: int64 (d + 1,), where documents begin in `ids`
        is_taken: bool (d,)
        num_pieces: of the vocabulary

    Returns:
        uint16 | uint32 (T,)

    Example:
        >>> ids, taken = np.array([0, 1, 1], np.uint16), np.array([True, False])
        >>> lay_out(ids, np.array([0, 2, 3]), taken, num_pieces=3).tolist()
        [4, 0, 1, 3]
    """
    lengths = np.diff(offsets)[is_taken]
    lines = np.empty(int(lengths.sum()) + 2 * len(lengths), _dtype(num_pieces))
    _copy_lines(ids, offsets, is_taken, num_pieces, lines)
    return lines


@numba.njit(cache=True, nogil=True)
def _copy_lines(
    ids: np.ndarray, offsets: np.ndarray, is_taken: np.ndarray, end: int, lines: np.ndarray
) -> None:
    place = 0
    for row in range(len(is_taken)):
        if not is_taken[row]:
            continue
        lines[place] = end + 1
        place += 1
        for index in range(offsets[row], offsets[row + 1]):
            lines[place] = ids[index]
            place += 1
        lines[place] = end
        place += 1
