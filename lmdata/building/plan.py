"""The plan of a tokenization: its units of work, what a worker is told, what it leaves behind.

A unit is a few small files, a file, or a byte range of one. Units depend on the sources alone,
never on the number of workers, so any number of them makes the same parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import xxhash

from lmdata.building.memory import MemoryBudget
from lmdata.encoding import RoundTrip
from lmdata.errors import IntegrityError
from lmdata.places import Place
from lmdata.reading.sources import Source, split_source
from lmdata.remote import RemoteFile
from lmdata.rng import draw, stream_key
from lmdata.schema import ShardRecord
from lmdata.settings import CorpusConfig, TokenizeConfig
from lmdata.stores import is_uri

if TYPE_CHECKING:
    from lmdata.corpus import Documents

DEFAULT_UNIT_BYTES = 32 << 20
_EXPANSION = 4  # compressed text weighs about this many times its stored size


@dataclass(frozen=True)
class Extent:
    """The bytes [start, stop) of a source, or all of it when `stop` is None."""

    source: int  # index into the sources
    start: int
    stop: int | None


@dataclass(frozen=True)
class Unit:
    """Work for one worker at a time, whose result depends on nothing else."""

    number: int
    extents: tuple[Extent, ...]

    @property
    def sources(self) -> list[int]:
        """The sources that this unit reads, in order."""
        return sorted({extent.source for extent in self.extents})


def make_units(sources: Sequence[Source], config: CorpusConfig, unit_bytes: int) -> list[Unit]:
    """Return the units of a corpus: small files together, large ones in ranges."""
    units: list[Unit] = []
    pending: list[Extent] = []
    pending_bytes = 0
    for extent, weight in _weigh_extents(sources, config, unit_bytes):
        if pending and pending_bytes + weight > unit_bytes:
            units.append(Unit(len(units), tuple(pending)))
            pending, pending_bytes = [], 0
        pending.append(extent)
        pending_bytes += weight
    if pending:
        units.append(Unit(len(units), tuple(pending)))
    return units


def describe_plan(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return sources as JSON values, from which `read_sources` makes them again."""
    return [
        {"name": source.name, "path": str(source.path), "format": source.format,
         "compression": source.compression, "size_bytes": source.size_bytes,
         "version": source.version}
        for source in sources
    ]  # fmt: skip


def read_sources(plan: dict[str, Any]) -> list[Source]:
    """Return the sources of a plan, wherever they are now.

    Raises:
        IntegrityError: the plan does not say
    """
    try:
        return [
            Source(**{**values, "path": _path_of(values)}) for values in plan["facts"]["sources"]
        ]
    except (KeyError, TypeError) as error:
        raise IntegrityError(
            f"the plan of this build does not say what its sources are ({error}): type the command "
            "that began it again to go on"
        ) from error


def _path_of(values: dict[str, Any]) -> Path | RemoteFile:
    if is_uri(values["path"]):
        return RemoteFile(values["path"], values["size_bytes"], values["version"])
    return Path(values["path"])


def _weigh_extents(
    sources: Sequence[Source], config: CorpusConfig, unit_bytes: int
) -> Iterator[tuple[Extent, int]]:
    for index, source in enumerate(sources):
        expansion = _EXPANSION if source.compression else 1
        ranges = split_source(source, config, unit_bytes)
        for start, stop in ranges:
            is_whole = len(ranges) == 1
            yield Extent(index, start, None if is_whole else stop), (stop - start) * expansion


class Choice(Protocol):
    """Which documents of a corpus are read."""

    @property
    def hash(self) -> str:
        """What tells another choice."""

    @property
    def where(self) -> str:
        """By what it was made, in words."""

    def keep(self, source: Source, start: int, documents: Documents) -> Documents:
        """Return the documents that are read, the others counted as dropped.

        Args:
            source: that they come from
            start: byte of the source at which their range begins
            documents: of the range
        """


@dataclass(frozen=True, kw_only=True)
class UnitSetup:
    """What every unit of a build shares."""

    sources: list[Source]
    config: TokenizeConfig
    place: Place
    memory: MemoryBudget
    tokenizer_hash: str  # quick, of that in the place
    selection: Choice | None = None  # of the documents that are read; None: all


@dataclass(frozen=True, kw_only=True)
class UnitProgress:
    """What was done since the last report."""

    source_bytes: int
    documents: int


@dataclass(kw_only=True)
class UnitReceipt:
    """What became of a unit; written when its parts are complete."""

    number: int
    encoder: str
    parts: dict[str, ShardRecord] = field(default_factory=dict)  # split -> part file
    written_bytes: dict[str, int] = field(default_factory=dict)  # split -> bytes of text
    read: dict[str, int] = field(default_factory=dict)  # quantity -> amount, before any drop
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> documents
    dropped_bytes: dict[str, int] = field(default_factory=dict)  # reason -> bytes
    replaced: dict[str, int] = field(default_factory=dict)  # kind -> stretches of text
    records: dict[str, int] = field(default_factory=dict)  # source index -> lines or records
    documents: dict[str, int] = field(default_factory=dict)  # source index -> documents written
    tokens: dict[str, int] = field(default_factory=dict)  # source index -> tokens written
    hashes: dict[str, str] = field(default_factory=dict)  # source index -> xxh3 of the file
    checked_documents: int = 0  # encoded again by `tokenizers`, and equal
    sampled_bytes: int = 0  # encoded and decoded again, to see what comes back
    round_trip: RoundTrip = field(default_factory=RoundTrip)  # of these

    @property
    def files(self) -> tuple[ShardRecord, ...]:
        """The parts that were written."""
        return tuple(self.parts.values())

    @property
    def num_documents_read(self) -> int:
        """The documents of the unit, before any was dropped."""
        return self.read.get("documents", 0)


def part_schema(id_dtype: np.dtype[Any]) -> pa.Schema:
    """Return the schema of a part: positions count within the unit, sources are numbers."""
    item = pa.field("item", pa.from_numpy_dtype(id_dtype), nullable=False)
    length = pa.field("item", pa.uint32(), nullable=False)
    return pa.schema(
        [
            pa.field("source", pa.int32(), nullable=False),
            pa.field("position", pa.uint64(), nullable=False),
            pa.field("input_ids", pa.large_list(item), nullable=False),
            pa.field("sentence_lengths", pa.list_(length), nullable=False),
        ]
    )


def assign_splits(
    text: np.ndarray, offsets: np.ndarray, config: TokenizeConfig, keys: np.ndarray | None = None
) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Return the split of each document, by its content: equal documents share a split.

    The address of the draw is (seed, "split", upper 63 bits of the xxh3_64 of the UTF-8 bytes).

    Args:
        text: uint8 (N,)
        offsets: int64 (D+1,)
        config: ratios and seed
        keys: uint64 (D,), in the place of the hashes of contents; None: these

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
    hashes = keys if keys is not None else _hash_documents(text, offsets)
    example = (hashes >> np.uint64(1)).astype(np.int64)
    words = draw(stream_key(config.seed, "split"), example, np.zeros(1, np.int64))
    limits = np.round(np.cumsum([0.0, *ratios[1:]]) * 2.0**32)  # train takes what lies beyond
    codes = np.searchsorted(limits, words, side="right")
    return np.where(codes < len(ratios), codes, 0).astype(np.int8)


def _hash_documents(text: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the xxh3_64 of each document, uint64 (D,)."""
    view = np.ascontiguousarray(text).data
    bounds = offsets.tolist()
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(view[a:b]) for a, b in pairwise(bounds)), np.uint64, len(bounds) - 1)
