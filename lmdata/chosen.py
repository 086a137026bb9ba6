"""A selection on disk: which documents are read, how often, and what keeps them together.

Made by `lmdata.selection`; here it is read, by what tokenizes and by what trains on tokens that
are there already. A token store with a selection is a store again, without a copy: stretches of
documents that follow each other are its blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.batch import to_array
from lmdata.config import build_config
from lmdata.dataset import StoreBlock, TokenStore
from lmdata.errors import ConfigError, IntegrityError, MismatchError
from lmdata.mixing import MixtureConfig
from lmdata.schema import (
    MANIFEST_NAME,
    Ledger,
    ShardRecord,
    SourceRecord,
    parse_json_object,
    to_json,
)
from lmdata.settings import LATE, TagConfig
from lmdata.shards import Shard
from lmdata.xxh3 import xxh3_128

T = TypeVar("T")
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
DOCUMENTS = "documents"  # the split that tags and selections have


@dataclass(frozen=True, kw_only=True)
class GroupRecord:
    """What is read of one group of a mixture."""

    name: str
    documents: int  # that are selected
    bytes: int
    read_documents: tuple[int, ...]  # repeats counted, by phase
    read_bytes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SelectionManifest:
    """All that a selection knows of itself."""

    kind: Literal["selection"] = "selection"
    format_version: int
    created_with: str  # package and version
    where: str
    tags: str  # hash of the tags' manifest
    tags_path: str  # from the folder of the selection
    configuration: TagConfig  # of the tags
    starts: dict[str, tuple[tuple[int, int], ...]]  # of the tags
    sources: tuple[SourceRecord, ...]
    splits: dict[str, tuple[ShardRecord, ...]]
    ledger: Ledger
    notes: tuple[str, ...] = ()
    mixture: MixtureConfig | None = field(default=None, metadata=LATE)
    replaces_pii: bool | None = field(default=None, metadata=LATE)  # where the text is tokenized
    groups: tuple[GroupRecord, ...] | None = field(default=None, metadata=LATE)

    @property
    def hash(self) -> str:
        """The xxh3_128 of the canonical JSON, hexadecimal."""
        return str(xxh3_128(to_json(self).encode()).hexdigest())

    @property
    def phase_shares(self) -> tuple[float, ...]:
        """The share of the training that each phase has."""
        shares = [phase.share for phase in self.mixture.phases] if self.mixture else []
        return tuple(share / sum(shares) for share in shares) or (1.0,)


def selection_schema(num_phases: int = 1) -> pa.Schema:
    """Return the Arrow schema of a selection, one row a document in the order of the corpus.

    Args:
        num_phases: of the training, each with repeats of its own

    Example:
        >>> selection_schema(2).names
        ['source', 'position', 'split_key', 'repeats', 'repeats_1']
    """
    kinds = {"source": pa.int32(), "position": pa.uint64(), "split_key": pa.uint64()}
    kinds |= {repeats_name(phase): pa.uint16() for phase in range(num_phases)}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])


def repeats_name(phase: int) -> str:
    """Return the column that says how often documents are read in a phase.

    Example:
        >>> repeats_name(0), repeats_name(1)
        ('repeats', 'repeats_1')
    """
    return f"repeats_{phase}" if phase else "repeats"


def is_kind(folder: Path, name: str) -> bool:
    """Return whether the manifest of a folder says that it is of a kind."""
    try:
        text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return parse_json_object(text, folder / MANIFEST_NAME).get("kind") == name


def read_manifest_of(folder: Path, kind: type[T], name: str, command: str) -> T:
    """Return the manifest of a folder that holds one of a kind, whole and unaltered.

    Args:
        folder: with a manifest
        kind: its class, with a ledger
        name: of the kind
        command: that makes such a folder

    Raises:
        IntegrityError: it has none, of another kind, or altered
    """
    path = folder / MANIFEST_NAME
    try:
        values = parse_json_object(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"{folder} holds no finished {name}: `{command} --output {folder}` makes it"
        ) from error
    promised = values.pop("hash", None)
    if values.get("kind") != name:
        raise IntegrityError(
            f"{folder} holds {values.get('kind')}, not {name}: give a folder made by `{command}`"
        )
    try:
        manifest: Any = build_config(kind, values)
    except ConfigError as error:
        raise IntegrityError(f"{path} is damaged: {error}; make it again") from error
    if promised != xxh3_128(to_json(manifest).encode()).hexdigest():
        raise IntegrityError(f"{path} was altered: restore it, or make it again")
    manifest.ledger.check()
    found: T = manifest
    return found


@dataclass(frozen=True)
class Chosen:
    """The documents of one source that are read in some phase.

    Attributes:
        positions: uint64 (K,), ascending
        repeats: int64 (P, K), how often each is read, by phase
        split_keys: uint64 (K,), what the split of each is drawn by
    """

    positions: U64
    repeats: I64
    split_keys: U64

    def find(self, positions: U64) -> tuple[I64, npt.NDArray[np.bool_]]:
        """Return the places of positions among those that are read, and which are."""
        places = np.searchsorted(self.positions, positions)
        places[places == len(self.positions)] = 0
        is_there = np.zeros(len(positions), bool)
        if len(self.positions):
            is_there = self.positions[places] == positions
        return places.astype(np.int64), is_there


@dataclass(frozen=True)
class ReadSelection:
    """A selection in memory: its manifest, and by source what is read."""

    manifest: SelectionManifest
    sources: dict[str, Chosen]

    def choose(self, store: TokenStore, phase: int = 0) -> TokenStore:
        """Return a store of the documents that are read in a phase, each as often as it says.

        Args:
            store: made of the corpus that was tagged
            phase: of the mixture

        Raises:
            MismatchError: the store is of another corpus, or holds none of the documents
        """
        self._check_sources(store)
        stretches: list[Stretch] = []
        for block in store.blocks:
            repeats = self._repeats_in(block, phase)
            for start, stop in _runs(repeats):
                first = stretches[-1].stop_row if stretches else 0
                stretches.append(Stretch(block, start, stop, first))
        if not stretches:
            raise MismatchError(
                f"the selection reads none of the {len(store):,} documents of split {store.split}: "
                "select more, or tokenize the corpus that was tagged"
            )
        blocks: Any = tuple(stretches)  # which have all that a block has
        return TokenStore(store.manifest, store.tokenizer, store.split, blocks)

    def _check_sources(self, store: TokenStore) -> None:
        tagged = {source.name: source.xxh3 for source in self.manifest.sources}
        for source in store.manifest.sources:
            if tagged.get(source.name) != source.xxh3:
                raise MismatchError(
                    f"the selection is of another corpus than the tokens: {source.name} "
                    f"{'is not in it' if source.name not in tagged else 'was changed'}; tag and "
                    "select what was tokenized"
                )

    def _repeats_in(self, block: StoreBlock, phase: int) -> I64:
        """Return how often each document of a block is read, int64 (d,)."""
        found = np.zeros(block.num_documents, np.int64)
        names, codes = block.source_names.to_pylist(), block.source_codes
        for code in np.unique(codes).tolist():
            chosen = self.sources.get(names[code])
            if chosen is not None:
                own = np.flatnonzero(codes == code)
                places, is_there = chosen.find(block.positions[own])
                found[own[is_there]] = chosen.repeats[phase][places[is_there]]
        return found


def choose_training(
    stores: dict[str, TokenStore], selection_path: Path | None, promised: str | None = None
) -> dict[str, TokenStore]:
    """Return the splits of a store, of the training split what a selection reads, as often.

    Args:
        stores: by split
        selection_path: None: everything is read
        promised: the hash that the selection must have; None: any

    Raises:
        ConfigError: the selection has phases, which only a training goes through
        MismatchError: it is of another corpus than the store, or was made anew
    """
    if selection_path is None or "train" not in stores:
        return stores
    selection = read_selection(selection_path)
    num_phases = len(selection.manifest.phase_shares)
    if num_phases > 1:
        raise ConfigError(
            f"{selection_path} has {num_phases} phases, which only a training goes through: give "
            "it to `lmmodel train --select`, or select without phases"
        )
    if promised not in (None, selection.manifest.hash):
        raise MismatchError(
            f"{selection_path} is no longer the selection that was read: its manifest has hash "
            f"{selection.manifest.hash} instead of {promised}; make what was made by it again"
        )
    return {**stores, "train": selection.choose(stores["train"])}


def _runs(repeats: I64) -> Iterator[tuple[int, int]]:
    """Yield stretches of documents, each as often as it is read.

    Example:
        >>> list(_runs(np.array([1, 1, 0, 2, 1])))
        [(0, 2), (3, 5), (3, 4)]
    """
    for time in range(1, int(repeats.max(initial=0)) + 1):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], repeats >= time, [0]])))
        yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


class Stretch:
    """Documents of a block that follow each other, as a block; views, not copies."""

    __slots__ = ("_block", "_first", "_stop", "first_row")

    def __init__(self, block: StoreBlock, first: int, stop: int, first_row: int) -> None:
        """Take documents [first, stop) of a block as rows from `first_row` on."""
        self._block, self._first, self._stop, self.first_row = block, first, stop, first_row

    @property
    def num_documents(self) -> int:
        """How many there are."""
        return self._stop - self._first

    @property
    def stop_row(self) -> int:
        """The row behind the last."""
        return self.first_row + self.num_documents

    @property
    def num_tokens(self) -> int:
        """Tokens of its documents."""
        return int(self.id_offsets[-1] - self.id_offsets[0])

    @property
    def num_sentences(self) -> int:
        """Sentences of its documents."""
        return int(self.sentence_offsets[-1] - self.sentence_offsets[0])

    @property
    def ids(self) -> np.ndarray:
        """Ids of the whole block, into which `id_offsets` point."""
        return self._block.ids

    @property
    def unchecked_ids(self) -> np.ndarray:
        """The same, not looked at."""
        return self._block.unchecked_ids

    @property
    def id_offsets(self) -> np.ndarray:
        """Where its documents begin in `ids`, int64 (d + 1,)."""
        return self._block.id_offsets[self._first : self._stop + 1]

    @property
    def sentence_lengths(self) -> np.ndarray:
        """Tokens of each sentence of the whole block."""
        return self._block.sentence_lengths

    @property
    def sentence_offsets(self) -> np.ndarray:
        """Where its documents begin in `sentence_lengths`, int32 (d + 1,)."""
        return self._block.sentence_offsets[self._first : self._stop + 1]

    @property
    def positions(self) -> np.ndarray:
        """Line or record of each document in its source, uint64 (d,)."""
        return self._block.positions[self._first : self._stop]

    @property
    def source_codes(self) -> np.ndarray:
        """Source of each document, int32 (d,), into `source_names`."""
        return self._block.source_codes[self._first : self._stop]

    @property
    def source_names(self) -> pa.Array:
        """Names of sources, string."""
        return self._block.source_names


def read_selection(folder: Path) -> ReadSelection:
    """Return a selection, every column compared with its hash.

    Raises:
        IntegrityError: it is not whole
    """
    manifest = read_manifest_of(folder, SelectionManifest, "selection", "lmdata select TAGS")
    schema = selection_schema(len(manifest.phase_shares))
    parts = [
        block.read()
        for record in manifest.splits[DOCUMENTS]
        for block in Shard(folder, record, schema).blocks
    ]
    table = pa.Table.from_batches(parts, schema=schema)
    numbers, positions, keys, *repeats = (
        to_array(table.column(name).combine_chunks()) for name in schema.names
    )
    amounts = np.stack(repeats).astype(np.int64)
    found = {}
    for number, source in enumerate(manifest.sources):
        own = np.flatnonzero((numbers == number) & amounts.any(axis=0))
        own = own[np.argsort(positions[own], kind="stable")]
        found[source.name] = Chosen(positions[own], amounts[:, own], keys[own])
    return ReadSelection(manifest, found)
