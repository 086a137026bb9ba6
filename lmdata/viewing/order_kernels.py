"""The shuffled order of `lmdata.order`, compiled: the same examples at the same rows."""

from __future__ import annotations

import numba
import numpy as np

from lmdata.viewing.rng_kernels import below_wide, philox_block


@numba.njit(cache=True, nogil=True)
def walk_cells_compiled(
    rows: np.ndarray,
    num_examples: int,
    grid: tuple[int, int],
    key: tuple[int, int],
    num_rounds: int,
) -> np.ndarray:
    """Return `lmdata.order.walk_cells`, int64 (B,).

    Args:
        rows: int64 (B,), in [0, num_examples)
        num_examples: at most as many as the grid has cells
        grid: height and width
        key: two words, from `rng.stream_key`
        num_rounds: of the network, even
    """
    examples = np.empty(len(rows), np.int64)
    for index in range(len(rows)):
        cell = _shuffle_cell(rows[index], grid[0], grid[1], key, num_rounds)
        while cell >= num_examples:
            cell = _shuffle_cell(cell, grid[0], grid[1], key, num_rounds)
        examples[index] = cell
    return examples


@numba.njit(cache=True)
def _shuffle_cell(cell: int, height: int, width: int, key: tuple[int, int], num_rounds: int) -> int:
    """Return the cell of the height x width grid that a cell goes to, one to one."""
    line, column = cell // width, cell % width
    for number in range(0, num_rounds, 2):
        w0, w1, _, _ = philox_block(key[0], key[1], column, 0, number)
        line = (line + below_wide(w0, w1, height)) % height
        w0, w1, _, _ = philox_block(key[0], key[1], line, 0, number + 1)
        column = (column + below_wide(w0, w1, width)) % width
    return line * width + column
