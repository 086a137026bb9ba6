"""Which split a document belongs to, by its content."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import xxhash

from lmdata.building.plan import TokenizeConfig
from lmdata.rng import draw, stream_key


def assign_splits(
    text: np.ndarray, offsets: np.ndarray, config: TokenizeConfig
) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return the split of each document, by its content: equal documents share a split.

    The address of the draw is (seed, "split", upper 63 bits of the xxh3_64 of the UTF-8 bytes).

    Args:
        text: uint8 (N,)
        offsets: int64 (D+1,)
        config: ratios and seed

    Returns:
        int8 (D,) index into `config.split_ratios`.

    Example:
        >>> text = np.frombuffer(b"onetwoone", np.uint8)
        >>> config = TokenizeConfig(validation_ratio=0.5)
        >>> assign_splits(text, np.array([0, 3, 6, 9]), config).tolist()
        [0, 1, 0]
    """
    ratios = list(config.split_ratios.values())
    if len(ratios) == 1:
        return np.zeros(len(offsets) - 1, np.int8)
    view = np.ascontiguousarray(text).data
    bounds = offsets.tolist()
    digest = xxhash.xxh3_64_intdigest
    hashes = np.fromiter(
        (digest(view[a:b]) for a, b in pairwise(bounds)),
        np.uint64, len(bounds) - 1,
    )  # fmt: skip
    example = (hashes >> np.uint64(1)).astype(np.int64)
    words = draw(stream_key(config.seed, "split"), example, np.zeros(1, np.int64))
    limits = np.round(np.cumsum([0.0, *ratios[1:]]) * 2.0**32)  # train takes what lies beyond
    codes = np.searchsorted(limits, words, side="right")
    return np.where(codes < len(ratios), codes, 0).astype(np.int8)
