"""In which order examples come: a keyed permutation without memory, rank split and resume.

Row i of an epoch is example permute(i), a pure function. So there is no shuffle buffer to fill, no
state to save, and step n costs the same whether it is the first or the one after a crash.
"""

from __future__ import annotations

import numba
import numpy as np

from lmdata.rng import below_wide, int64, philox_block, stream_key

# Rounds of the Feistel network. Four of strong round functions make it indistinguishable from a
# random permutation (Luby and Rackoff, 1988); more, because a small corpus has a small grid.
_NUM_ROUNDS = 8


def permute(rows: np.ndarray, num_examples: int, *, seed: int, epoch: int = 0) -> np.ndarray:
    """Return the examples at some rows of the shuffled order of an epoch.

    The permutation is a generalised Feistel network over a grid of a x b >= num_examples cells,
    a and b near the square root (Black and Rogaway, "Ciphers with arbitrary finite domains",
    CT-RSA 2002), that walks on from the few cells outside.

    Args:
        rows: int64 (B,), in [0, num_examples)
        num_examples: of the epoch
        seed: of the order
        epoch: each has another order

    Returns:
        int64 (B,): over all rows, every example exactly once.

    Raises:
        IndexError: a row is outside [0, num_examples)

    Example:
        >>> permute(np.arange(10), 10, seed=1).tolist()
        [2, 1, 8, 5, 9, 4, 7, 3, 6, 0]
    """
    rows = np.ascontiguousarray(rows, np.int64)
    check_rows(rows, num_examples)
    examples = np.empty(len(rows), np.int64)
    _permute(rows, num_examples, stream_key(seed, "order", epoch), examples)
    return examples


def check_rows(rows: np.ndarray, num_examples: int) -> None:
    """Refuse rows outside [0, num_examples).

    Raises:
        IndexError: names the first such row
    """
    if len(rows) and not 0 <= rows.min() <= rows.max() < num_examples:
        outside = rows[(rows < 0) | (rows >= num_examples)][0]
        raise IndexError(
            f"row {outside} is outside [0, {num_examples}): the epoch has {num_examples} examples"
        )


@numba.njit(cache=True, nogil=True)
def _permute(
    rows: np.ndarray, num_examples: int, key: tuple[int, int], examples: np.ndarray
) -> None:
    height = int64(np.ceil(np.sqrt(num_examples)))
    width = (num_examples + height - 1) // height
    for index in range(len(rows)):
        cell = _shuffle_cell(rows[index], height, width, key)
        while cell >= num_examples:
            cell = _shuffle_cell(cell, height, width, key)
        examples[index] = cell


@numba.njit(cache=True)
def _shuffle_cell(cell: int, height: int, width: int, key: tuple[int, int]) -> int:
    """Return the cell of the height x width grid that a cell goes to, one to one."""
    line, column = cell // width, cell % width
    for number in range(0, _NUM_ROUNDS, 2):
        w0, w1, _, _ = philox_block(key[0], key[1], column, 0, number)
        line = (line + below_wide(w0, w1, height)) % height
        w0, w1, _, _ = philox_block(key[0], key[1], line, 0, number + 1)
        column = (column + below_wide(w0, w1, width)) % width
    return line * width + column


def batch_rows(
    step: int, batch_size: int, num_examples: int, *, rank: int = 0, num_ranks: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return the epoch and the row of each example of one rank's batch at a step.

    Batches follow each other over the ends of epochs without a gap: nothing is left out and
    nothing is seen twice within an epoch of `num_examples` rows.

    Args:
        step: 0, 1, 2, ...
        batch_size: examples of one rank and step
        num_examples: rows of an epoch
        rank: 0 .. num_ranks - 1
        num_ranks: processes that share the work

    Returns:
        epochs int64 (batch_size,) and rows int64 (batch_size,).

    Raises:
        ValueError: an argument is out of range

    Example:
        >>> [part.tolist() for part in batch_rows(2, 4, 10)]
        [[0, 0, 1, 1], [8, 9, 0, 1]]
    """
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    if batch_size < 1 or num_examples < 1:
        raise ValueError(
            f"batch_size and num_examples must be at least 1, got {batch_size} and {num_examples}"
        )
    if not 0 <= rank < num_ranks:
        raise ValueError(f"rank must be in [0, {num_ranks}), got {rank}")
    first = (step * num_ranks + rank) * batch_size
    epochs, rows = np.divmod(first + np.arange(batch_size, dtype=np.int64), num_examples)
    return epochs, rows
