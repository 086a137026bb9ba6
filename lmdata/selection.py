"""Which documents of a corpus are read: an expression over its tags, resolved to a number each.

No text is read. The expression is a condition of Polars' SQL; of conditions joined by AND, the
first that does not hold is the reason why a document goes, so that the ledger balances by reason.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata import __version__
from lmdata.batch import to_array, to_column
from lmdata.building.output import ALL_DOCUMENTS, PLAN_NAME, AnyFolder, check_apart, claim_folder
from lmdata.chosen import Chosen, GroupRecord, SelectionManifest, read_selection, selection_schema
from lmdata.config import build_config, config_to_dict
from lmdata.errors import ConfigError, MismatchError
from lmdata.files import write_atomically
from lmdata.mixing import (
    MixtureConfig,
    Phase,
    allocate,
    repeat_documents,
    repeats_by_cluster,
    resolve_shares,
)
from lmdata.ragged import Ragged, offsets_of
from lmdata.schema import (
    FORMAT_VERSION,
    Flow,
    Ledger,
    ShardRecord,
)
from lmdata.settings import DEFAULT_SHARD_BYTES, CorpusConfig
from lmdata.tagging.expressions import find_first_failed, group_names, words_of
from lmdata.tagging.manifests import TagManifest, read_tag_manifest, read_tags
from lmdata.writer import ShardWriter

if TYPE_CHECKING:  # reading needs Numba, which takes longer than to select
    from lmdata.corpus import Documents, Source

_USED = frozenset({
    "source", "position", "num_bytes", "hash_high", "hash_low", "component", "duplicate",
    "duplicate_of", "near_duplicate", "near_of",
})  # fmt: skip
"""Columns that a selection is made of, beside those that its expressions name."""

NOT_SELECTED = "not-selected"
SELECTED = "selected"
_NOT_DRAWN = "in the mixture"
_MUCH = 0.5  # of a source: lost without a word, it would be missed late
I64 = npt.NDArray[np.int64]


def select_documents(
    tags_path: Path, where: str, output: Path, *, mixture: MixtureConfig | None = None,
    replaces_pii: bool = False, overwrite: bool = False,
) -> SelectionManifest:  # fmt: skip
    """Write a selection of documents by an expression over their tags, and return its manifest.

    Args:
        tags_path: the folder that `lmdata tag` wrote
        where: a condition in SQL, as "gopher_quality and num_words > 100 and not duplicate"
        output: folder to write
        mixture: how often what is selected is read; None: once
        replaces_pii: personal data is replaced by its kind where the text is tokenized
        overwrite: replace what is in `output`

    Raises:
        ConfigError: the expression names no tag, is no condition, or holds for no document; the
            mixture can't be made of what is selected
        IntegrityError: the tags are not whole
        OutputError: `output` exists, can't be written or its disk is full
    """
    tags = read_tag_manifest(tags_path)
    by = [] if mixture is None else [mixture.by]
    table = read_tags(tags_path, tags, _USED | words_of(where, *by))
    first_failed, reasons = find_first_failed(table, where)
    if not (first_failed < 0).any():
        raise ConfigError(
            f"where: {where!r} holds for none of {len(first_failed):,} documents: ask for less"
        )
    repeats, groups = (first_failed < 0).astype(np.int64)[None], None
    if mixture is not None:
        mixture = build_config(MixtureConfig, config_to_dict(mixture))  # 1 and 1.0 are the same
        repeats, groups = mix(table, first_failed < 0, mixture)
        first_failed[(first_failed < 0) & ~repeats.any(axis=0)] = len(reasons)
        reasons = [*reasons, _NOT_DRAWN]
    check_apart(tags_path, output)
    with claim_folder(output, overwrite=overwrite) as folder:
        plan = {"created_with": f"lmdata {__version__}"}
        write_atomically(folder.build / PLAN_NAME, json.dumps(plan))
        shards = _write(folder, table, repeats, tags)
        manifest = SelectionManifest(
            format_version=FORMAT_VERSION,
            created_with=plan["created_with"],
            where=where,
            tags=tags.hash,
            tags_path=os.path.relpath(tags_path, output),
            configuration=tags.configuration,
            starts=tags.starts,
            sources=tags.sources,
            splits={ALL_DOCUMENTS: shards},
            ledger=balance(table, first_failed, reasons),
            notes=tuple(_losses(table, first_failed)),
            mixture=mixture,
            groups=groups,
            replaces_pii=replaces_pii or None,
        )
        folder.finish(manifest)
    return manifest


def _write(
    folder: AnyFolder, table: pa.Table, repeats: I64, tags: TagManifest
) -> tuple[ShardRecord, ...]:
    numbers = {source.name: number for number, source in enumerate(tags.sources)}
    names, codes = _sources(table)
    sources = np.array([numbers[name] for name in names], np.int32)[codes]
    columns = [sources, _column(table, "position"), split_keys(table), *repeats.astype(np.uint16)]
    schema = selection_schema(len(repeats))
    writer = ShardWriter(folder.path, ALL_DOCUMENTS, schema, shard_bytes=DEFAULT_SHARD_BYTES)
    try:
        writer.write(pa.RecordBatch.from_arrays([*map(to_column, columns)], schema=schema))
        return tuple(writer.finish())
    finally:
        writer.close()


def _column(table: pa.Table, name: str) -> np.ndarray:
    return to_array(table.column(name).combine_chunks())


def split_keys(table: pa.Table) -> npt.NDArray[np.uint64]:
    """Return what the split of each document is drawn by, uint64 (D,), the same in a component.

    It is the smallest hash of the contents of the component, so that documents change sides only
    where new ones join two components to one.

    Example:
        >>> hashes = pa.array([9, 5, 7], pa.uint64())
        >>> split_keys(pa.table({"hash_high": hashes, "component": [0, 1, 0]})).tolist()
        [7, 5, 7]
    """
    hashes, component = _column(table, "hash_high"), _column(table, "component").astype(np.int64)
    least = np.full(len(hashes), 2**64 - 1, np.uint64)
    np.minimum.at(least, component, hashes)
    return least[component]


# ---- Mixtures


def mix(
    table: pa.Table, is_kept: npt.NDArray[np.bool_], mixture: MixtureConfig
) -> tuple[I64, tuple[GroupRecord, ...]]:
    """Return how often each document is read, int64 (P, D), by phase, and what that is by group.

    Args:
        table: of tags, D rows
        is_kept: bool (D,), which documents are selected
        mixture: how often they are read

    Raises:
        ConfigError: the mixture can't be made of these documents
    """
    rows = np.flatnonzero(is_kept)
    names = group_names(table.take(pa.array(rows)), mixture.by)
    num_bytes = _column(table, "num_bytes").astype(np.int64)[rows]
    members = {name: np.flatnonzero(names == name) for name in sorted(set(names.tolist()))}
    if mixture.cluster_repeats:
        own = repeats_by_cluster(_cluster_sizes(table)[rows], mixture.cluster_repeats)[None]
    else:
        keys = _column(table, "hash_low")[rows]
        sizes = num_bytes if mixture.unit == "bytes" else np.ones(len(rows), np.int64)
        own = _resolve(members, sizes, keys, mixture)
    if not own.any():
        raise ConfigError("mixture: it reads no document at all: raise its budget or its weights")
    repeats = np.zeros((len(own), len(table)), np.int64)
    repeats[:, rows] = own
    groups = tuple(
        GroupRecord(
            name=name,
            documents=len(places),
            bytes=int(num_bytes[places].sum()),
            read_documents=tuple(own[:, places].sum(axis=1).tolist()),
            read_bytes=tuple((own[:, places] * num_bytes[places]).sum(axis=1).tolist()),
        )
        for name, places in members.items()
    )
    return repeats, groups


def _resolve(
    members: dict[str, I64], sizes: I64, keys: npt.NDArray[np.uint64], mixture: MixtureConfig
) -> I64:
    """Return repeats by phase, int64 (P, K); a phase goes on in a group where the last ended."""
    phases = mixture.phases or (Phase(),)
    totals = {name: int(sizes[places].sum()) for name, places in members.items()}
    budget = mixture.budget if mixture.budget is not None else sum(totals.values())
    budgets = allocate([phase.share for phase in phases], budget)
    read, asked = np.zeros((len(phases) + 1, len(sizes)), np.int64), dict.fromkeys(totals, 0)
    for number, (phase, own) in enumerate(zip(phases, budgets.tolist(), strict=True), 1):
        for name, amount in resolve_shares(totals, mixture, phase, own, asked).items():
            asked[name] += amount
            places = members[name]
            read[number, places] = repeat_documents(
                sizes[places], asked[name], keys[places], mixture.seed
            )
    return np.diff(read, axis=0)


def _cluster_sizes(table: pa.Table) -> I64:
    """Return how many documents each stands for: itself, its copies and its near copies."""
    rows = np.arange(len(table))
    is_copy, is_near = _column_of(table, "duplicate"), _column_of(table, "near_duplicate")
    of_copy = table.column("duplicate_of").fill_null(0).to_numpy().astype(np.int64)
    of_near = table.column("near_of").fill_null(0).to_numpy().astype(np.int64)
    roots = np.where(is_copy, of_copy, rows)
    roots = np.where(is_near[roots], of_near[roots], roots)
    return np.bincount(roots, minlength=len(rows))


def _column_of(table: pa.Table, name: str) -> npt.NDArray[np.bool_]:
    return np.asarray(table.column(name).to_numpy(), bool)


def balance(table: pa.Table, first_failed: npt.NDArray[np.int16], reasons: list[str]) -> Ledger:
    """Return the ledger in documents and in bytes; dropped by the first reason."""
    amounts = {
        "documents": np.ones(len(first_failed), np.int64),
        "bytes": _column(table, "num_bytes").astype(np.int64),
    }
    flows = {}
    for quantity, values in amounts.items():
        kept, *lost = np.bincount(first_failed + 1, values, len(reasons) + 1).astype(int).tolist()
        dropped = Counter[str]()
        for reason, amount in zip(reasons, lost, strict=True):
            dropped[reason] += amount  # one may be written twice
        flows[quantity] = Flow(
            read=int(values.sum()), written={SELECTED: kept}, dropped=dict(dropped)
        )
    return Ledger(flows=flows)


def _losses(table: pa.Table, first_failed: npt.NDArray[np.int16]) -> list[str]:
    """Return a sentence for each source that loses more than half of its bytes."""
    names, numbers = _sources(table)
    num_bytes = _column(table, "num_bytes").astype(np.float64)
    before = np.bincount(numbers, num_bytes, len(names))
    after = np.bincount(numbers, num_bytes * (first_failed < 0), len(names))
    lost = np.where(before > 0, 1 - after / np.maximum(before, 1), 0)
    return [
        f"{name} loses {share:.0%} of its bytes"
        for name, share in sorted(zip(names, lost.tolist(), strict=True))
        if share > _MUCH
    ]


def _sources(table: pa.Table) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Return the names of sources, and which one each row is of, int32 (D,)."""
    column = table.column("source").unify_dictionaries().combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return column.dictionary.to_pylist(), to_array(column.indices)


@dataclass(frozen=True)
class Selection:
    """An open selection, as what reads a corpus asks it: which documents of a batch are read.

    Attributes:
        hash: of its manifest
        where: the expression
        starts: source -> byte and first position of each range that was tagged
        sources: source -> what is read of it
        replaces_pii: personal data is replaced by its kind
    """

    hash: str
    where: str
    starts: dict[str, dict[int, int]]
    sources: dict[str, Chosen]
    replaces_pii: bool

    def keep(self, source: Source, start: int, documents: Documents) -> Documents:
        """Return the documents that are selected, the others counted as dropped.

        Args:
            source: that they come from
            start: byte of the source at which their range begins
            documents: of the range

        Raises:
            MismatchError: the selection is of other files or other ranges
        """
        if start not in self.starts.get(source.name, {}):
            raise MismatchError(
                f"the selection says nothing of {source.name} from byte {start}: it is of another "
                "corpus; tag and select this one"
            )
        before = np.uint64(self.starts[source.name][start])
        chosen = self.sources[source.name]
        places, is_kept = chosen.find(documents.positions + before)
        sizes = np.diff(documents.offsets)
        kept = Ragged(documents.text, documents.offsets).take(np.flatnonzero(is_kept))
        kept, replaced = _replace(kept) if self.replaces_pii else (kept, {})
        dropped, num_bytes = dict(documents.dropped), dict(documents.dropped_bytes)
        if not is_kept.all():
            dropped[NOT_SELECTED] = int((~is_kept).sum())
            num_bytes[NOT_SELECTED] = int(sizes[~is_kept].sum())
        return replace(
            documents, text=np.asarray(kept.values, np.uint8),
            offsets=np.asarray(kept.offsets, np.int64), positions=documents.positions[is_kept],
            dropped=dropped, dropped_bytes=num_bytes, replaced=documents.replaced | replaced,
            split_keys=chosen.split_keys[places[is_kept]],
        )  # fmt: skip


def _replace(texts: Ragged) -> tuple[Ragged, dict[str, int]]:
    """Return documents with personal data replaced by its kind, and how much of each kind."""
    from lmdata.tagging.pii import replace_pii  # with its kernels

    found = [replace_pii(np.asarray(row, np.uint8).tobytes()) for row in texts.rows()]
    content = np.frombuffer(b"".join(text for text, _ in found), np.uint8)
    kinds = Counter(kind for _, own in found for kind in own)
    return Ragged(content, offsets_of([len(text) for text, _ in found])), dict(kinds)


def open_selection(folder: Path, sources: list[Source], corpus: CorpusConfig) -> Selection:
    """Return a selection, refused unless it is of these files, read in the same way.

    Raises:
        IntegrityError: it is not whole
        MismatchError: it is of another corpus, or of documents that were found otherwise
    """
    found = read_selection(folder)
    _check_corpus(found.manifest, sources, corpus, folder)
    starts = {name: dict(own) for name, own in found.manifest.starts.items()}
    replaces_pii = bool(found.manifest.replaces_pii)
    return Selection(found.manifest.hash, found.manifest.where, starts, found.sources, replaces_pii)


def _check_corpus(
    manifest: SelectionManifest, sources: list[Source], corpus: CorpusConfig, folder: Path
) -> None:
    tagged = {source.name: source.bytes for source in manifest.sources}
    found = {source.name: source.size_bytes for source in sources}
    for name in sorted(tagged.keys() | found.keys()):
        if tagged.get(name) != found.get(name):
            raise MismatchError(
                f"{folder} is of another corpus: {name} had {tagged.get(name, 'no')} bytes, has "
                f"{found.get(name, 'none')} now; tag and select this one"
            )
    if manifest.configuration.corpus != corpus:
        raise MismatchError(
            f"{folder} is of documents that were read with other settings: give the same "
            "--documents, --text-field, --encoding, --errors and --rewrite as to `lmdata tag`"
        )
