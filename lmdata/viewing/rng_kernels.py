"""The addressed numbers of `lmdata.rng` and the order of `lmdata.order`, bit for bit, in kernels.

In a form that LLVM vectorises: 2,000 million words/s on one core.
"""

from __future__ import annotations

import numba
import numpy as np

from lmdata.intrinsics import int64
from lmdata.rng import MASK32, PHILOX_M0, PHILOX_M1, PHILOX_W0, PHILOX_W1

_U_M0, _U_M1 = np.uint64(PHILOX_M0), np.uint64(PHILOX_M1)
_U_W0, _U_W1 = np.uint64(PHILOX_W0), np.uint64(PHILOX_W1)
_U_MASK, _U_32 = np.uint64(MASK32), np.uint64(32)


@numba.njit(cache=True, inline="always")
def _philox_unsigned(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return `philox` of uint64 scalars, for Numba: one 32 x 32 -> 64 bit product a line."""
    for _ in range(10):
        p0 = c0 * _U_M0
        p1 = c2 * _U_M1
        c0, c1, c2, c3 = (
            (p1 >> _U_32) ^ c1 ^ k0,
            p1 & _U_MASK,
            (p0 >> _U_32) ^ c3 ^ k1,
            p0 & _U_MASK,
        )
        k0 = (k0 + _U_W0) & _U_MASK
        k1 = (k1 + _U_W1) & _U_MASK
    return c0, c1, c2, c3


@numba.njit(cache=True)
def philox_block(
    k0: int, k1: int, example: int, part: int, block: int
) -> tuple[int, int, int, int]:
    """Return the words at positions 4 * block .. 4 * block + 3 of (example, part), as int64."""
    w0, w1, w2, w3 = _philox_unsigned(
        np.uint64(block),
        np.uint64(part),
        np.uint64(example) & _U_MASK,
        np.uint64(example) >> _U_32,
        np.uint64(k0),
        np.uint64(k1),
    )
    return int64(w0), int64(w1), int64(w2), int64(w3)


@numba.njit(cache=True, nogil=True)
def fill_words(
    out: np.ndarray, count: int, k0: int, k1: int, example: int, part: int, first_block: int = 0
) -> None:
    """Write the words at positions 4 * first_block + (0 .. count - 1) of (example, part).

    Args:
        out: uint32 array of at least `count` rounded up to a multiple of 4
        count: how many are needed
        k0: from `stream_key`
        k1: from `stream_key`
        example: the address, as in `draw`
        part: as in `draw`
        first_block: a quarter of the first position
    """
    low, high = np.uint64(example) & _U_MASK, np.uint64(example) >> _U_32
    for block in range((count + 3) >> 2):
        w0, w1, w2, w3 = _philox_unsigned(
            np.uint64(first_block + block),
            np.uint64(part),
            low,
            high,
            np.uint64(k0),
            np.uint64(k1),
        )
        out[4 * block] = w0
        out[4 * block + 1] = w1
        out[4 * block + 2] = w2
        out[4 * block + 3] = w3


@numba.njit(cache=True)
def below(word: int, bound: int) -> int:
    """Return a uniform integer in [0, bound) from one 32-bit word.

    Example:
        >>> below(2**31, 10), below(0, 10), below(2**32 - 1, 10)
        (5, 0, 9)

    The bias is below bound / 2**32: use `below_wide` where `bound` may exceed 2**20.
    """
    return (word * bound) >> 32


@numba.njit(cache=True)
def below_wide(word0: int, word1: int, bound: int) -> int:
    """Return a uniform integer in [0, bound) from two 32-bit words (62 bits are used)."""
    return (((word0 & 0x3FFFFFFF) << 32) | word1) % bound


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
        w0, w1, _, _ = philox_block(key[0], key[1], column, int64(0), number)
        line = (line + below_wide(w0, w1, height)) % height
        w0, w1, _, _ = philox_block(key[0], key[1], line, int64(0), number + 1)
        column = (column + below_wide(w0, w1, width)) % width
    return line * width + column
