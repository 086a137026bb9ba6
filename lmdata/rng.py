"""Addressed random numbers: the bits at an address never depend on what was drawn before.

The generator is Philox4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011), a keyed bijection of 128-bit counters that passes BigCrush. An address is
(seed, purpose, epoch, example, position), where an example may have parts. The first three become
a 64-bit key; the others are the counter: four consecutive positions share one Philox block.

`philox` and `draw` use operators on int64 that holds 32-bit values, so they are the same code for
NumPy arrays and for torch tensors on any device. `viewing.rng_kernels` has the same bits for Numba.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

MASK32 = 0xFFFFFFFF

# Multipliers and Weyl increments of Philox4x32 (Salmon et al., table 2 and section 4.3).
PHILOX_M0, PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
PHILOX_W0, PHILOX_W1 = 0x9E3779B9, 0xBB67AE85

# What a random number is for. The value is part of the address: never reuse or renumber one.
PURPOSES = {
    "split": 1,
    "order": 2,
    "length": 3,
    "pairs": 4,
    "truncate": 5,
    "mask-positions": 6,
    "mask-replace": 7,
    "spans": 8,
    "swap": 9,
    "coverage": 10,
    "dropout": 11,
    "init": 12,
    "sample": 13,
    "packing": 14,
    "objective": 15,
    "generate": 16,
    "resample": 17,
    "yardstick": 18,
    "sentences": 19,
    "replace": 20,
    "factor": 21,
    "mixture": 30,
}


def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> tuple[Any, Any, Any, Any]:
    """Return the four 32-bit words of the Philox4x32-10 block at counter (c0..c3), key (k0, k1).

    Args:
        c0: counter words, int64 arrays or tensors, values in [0, 2**32)
        c1: as c0
        c2: as c0
        c3: as c0
        k0: key words, int64 in [0, 2**32), broadcast against the counter
        k1: as k0

    Returns:
        Four int64 values of the broadcast shape, each in [0, 2**32).

    Example:
        >>> zero = np.zeros(1, np.int64)
        >>> [hex(int(w[0])) for w in philox(zero, zero, zero, zero, zero, zero)]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    for _ in range(10):
        p0 = c0 * PHILOX_M0
        p1 = c2 * PHILOX_M1
        h0 = (p0 >> 32) & MASK32
        h1 = (p1 >> 32) & MASK32
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, p1 & MASK32, h0 ^ c3 ^ k1, p0 & MASK32
        k0 = (k0 + PHILOX_W0) & MASK32
        k1 = (k1 + PHILOX_W1) & MASK32
    return c0, c1, c2, c3


@functools.lru_cache(maxsize=1024)
def stream_key(seed: int, purpose: str, epoch: int = 0) -> tuple[int, int]:
    """Return the 64-bit key, as two 32-bit words, of the numbers for one purpose in one epoch.

    Raises:
        ValueError: an unknown purpose, or a seed or epoch outside [0, 2**63) or [0, 2**32)

    Example:
        >>> stream_key(0, "pairs") == stream_key(0, "pairs", 0) != stream_key(0, "pairs", 1)
        True
    """
    if purpose not in PURPOSES:
        raise ValueError(f"unknown purpose {purpose!r}, known are {', '.join(PURPOSES)}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2**63), got {seed}")
    if not 0 <= epoch < 2**32:
        raise ValueError(f"epoch must be in [0, 2**32), got {epoch}")
    counter = [np.array([word], np.int64) for word in (PURPOSES[purpose], epoch, 0, 0)]
    key = [np.array([word], np.int64) for word in (seed & MASK32, seed >> 32)]
    first, second, _, _ = philox(*counter, *key)
    return int(first[0]), int(second[0])


def draw(key: tuple[int, int], example: Any, position: Any, part: Any = 0) -> Any:
    """Return the 32-bit words at the addresses (example, part, position) of a stream.

    Args:
        key: from `stream_key`
        example: int64 array or tensor, any shape, values in [0, 2**63)
        position: int64 array or tensor that broadcasts against `example`, values in [0, 2**34)
        part: of the example, values in [0, 2**32), broadcasts as well

    Returns:
        int64 array or tensor of the broadcast shape, values in [0, 2**32), uniform.

    Example:
        >>> key = stream_key(7, "pairs")
        >>> draw(key, np.array([3, 3]), np.array([0, 1])).tolist()
        [1202264864, 2569949585]
    """
    block, lane = position >> 2, position & 3
    zero = (example ^ example) + (position ^ position) + (part ^ part)
    words = philox(
        zero + block,
        zero + part,
        zero + (example & MASK32),
        zero + (example >> 32),
        zero + key[0],
        zero + key[1],
    )
    total = zero
    for index, word in enumerate(words):
        total = total + word * (lane == index)
    return total


def probability_word(probability: float) -> int:
    """Return the bound below which a 32-bit word lies with this probability.

    Example:
        >>> probability_word(0.0), probability_word(0.5), probability_word(1.0)
        (0, 2147483648, 4294967296)
    """
    return round(probability * 2**32)
