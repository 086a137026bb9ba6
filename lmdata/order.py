"""In which order examples come: a keyed permutation without memory, rank split and resume.

Row i of an epoch is example permute(i), a pure function. So there is no shuffle buffer to fill, no
state to save, and step n costs the same whether it is the first or the one after a crash.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache

import numpy as np

from lmdata.rng import MASK32, philox, stream_key

# Rounds of the Feistel network. Four of strong round functions make it indistinguishable from a
# random permutation (Luby and Rackoff, 1988); more, because a small corpus has a small grid.
NUM_ROUNDS = 8

Key = tuple[int, int]


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
    height = int(np.ceil(np.sqrt(num_examples)))
    grid = (height, -(-num_examples // height))
    return _cell_walk()(rows, num_examples, grid, stream_key(seed, "order", epoch), NUM_ROUNDS)


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


@cache
def _cell_walk() -> Callable[[np.ndarray, int, tuple[int, int], Key, int], np.ndarray]:
    """Return `walk_cells`, compiled where Numba is there; frozen shards need no more of it."""
    if importlib.util.find_spec("numba") is None:
        return walk_cells
    from lmdata.viewing.rng_kernels import walk_cells_compiled

    return walk_cells_compiled


def walk_cells(
    rows: np.ndarray, num_examples: int, grid: tuple[int, int], key: Key, num_rounds: int
) -> np.ndarray:
    """Return where the cells `rows` of a grid go, by as many steps as lead to an example.

    Args:
        rows: int64 (B,), in [0, num_examples)
        num_examples: at most as many as the grid has cells
        grid: height and width
        key: from `stream_key`
        num_rounds: of the network, even

    Returns:
        int64 (B,).
    """
    cells = _shuffle_cells(rows, grid, key, num_rounds)
    while len(outside := np.flatnonzero(cells >= num_examples)):
        cells[outside] = _shuffle_cells(cells[outside], grid, key, num_rounds)
    return cells


def _shuffle_cells(
    cells: np.ndarray, grid: tuple[int, int], key: Key, num_rounds: int
) -> np.ndarray:
    """Return the cells that cells go to, one to one."""
    height, width = grid
    line, column = np.divmod(cells, width)
    for number in range(0, num_rounds, 2):
        line = (line + _below(key, column, number, height)) % height
        column = (column + _below(key, line, number + 1, width)) % width
    return np.asarray(line * width + column)


def _below(key: Key, examples: np.ndarray, block: int, bound: int) -> np.ndarray:
    """Return a number in [0, bound) from the first words of a Philox block of each example."""
    zero = np.zeros_like(examples)
    first, second, _, _ = philox(
        zero + block, zero, examples & MASK32, examples >> 32, zero + key[0], zero + key[1]
    )
    return np.asarray((((first & 0x3FFFFFFF) << 32) | second) % bound)


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
