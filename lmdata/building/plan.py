"""The plan of a tokenization: its settings, its units of work, and which split a document is in.

A unit is a few small files, a file, or a byte range of one. Units depend on the sources alone,
never on the number of workers, so any number of them makes the same parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import xxhash

from lmdata.corpus import CorpusConfig, Source, split_source
from lmdata.rng import draw, stream_key
from lmdata.schema import DEFAULT_SHARD_BYTES

DEFAULT_UNIT_BYTES = 32 << 20
_EXPANSION = 4  # compressed text weighs about this many times its stored size


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """How a corpus becomes a token store; every field changes the result."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """How files become documents."""

    sentences: Literal["rules", "lines", "none"] = "rules"
    """Where sentences end: by rules, at line ends, or nowhere (a document is one sentence)."""

    validation_ratio: float = 0.01
    """Share of documents in the validation split, in [0, 1)."""

    test_ratio: float = 0.0
    """Share of documents in the test split, in [0, 1)."""

    seed: int = 0
    """Which documents are held out, in [0, 2**63)."""

    shard_bytes: int = DEFAULT_SHARD_BYTES
    """Target size of a shard in bytes; only a single document may make one larger."""

    def __post_init__(self) -> None:
        for name in ("validation_ratio", "test_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.validation_ratio + self.test_ratio >= 1:
            raise ValueError(
                f"validation_ratio + test_ratio must be below 1, got "
                f"{self.validation_ratio} + {self.test_ratio}: nothing is left to train on"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2**63), got {self.seed}")
        if self.shard_bytes < 1:
            raise ValueError(f"shard_bytes must be at least 1, got {self.shard_bytes}")

    @property
    def split_ratios(self) -> dict[str, float]:
        """The share of documents of each split that exists, train first."""
        held_out = {"validation": self.validation_ratio, "test": self.test_ratio}
        present = {split: ratio for split, ratio in held_out.items() if ratio > 0}
        return {"train": 1 - sum(present.values()), **present}


@dataclass(frozen=True)
class Piece:
    """The bytes [start, stop) of a source, or all of it when `stop` is None."""

    source: int  # index into the sources
    start: int
    stop: int | None


@dataclass(frozen=True)
class Unit:
    """Work for one worker at a time, whose result depends on nothing else."""

    number: int
    pieces: tuple[Piece, ...]

    @property
    def sources(self) -> list[int]:
        """The sources that this unit reads, in order."""
        return sorted({piece.source for piece in self.pieces})


def make_units(sources: Sequence[Source], config: CorpusConfig, unit_bytes: int) -> list[Unit]:
    """Return the units of a corpus: small files together, large ones in ranges."""
    units: list[Unit] = []
    pending: list[Piece] = []
    pending_bytes = 0
    for piece, weight in _weigh_pieces(sources, config, unit_bytes):
        if pending and pending_bytes + weight > unit_bytes:
            units.append(Unit(len(units), tuple(pending)))
            pending, pending_bytes = [], 0
        pending.append(piece)
        pending_bytes += weight
    if pending:
        units.append(Unit(len(units), tuple(pending)))
    return units


def _weigh_pieces(
    sources: Sequence[Source], config: CorpusConfig, unit_bytes: int
) -> Iterator[tuple[Piece, int]]:
    for index, source in enumerate(sources):
        expansion = _EXPANSION if source.compression else 1
        ranges = split_source(source, config, unit_bytes)
        for start, stop in ranges:
            is_whole = len(ranges) == 1
            yield Piece(index, start, None if is_whole else stop), (stop - start) * expansion


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
