"""Which documents of a corpus are read: an expression over its tags, resolved to a number each.

No text is read. The expression is a condition of Polars' SQL; of conditions joined by AND, the
first that does not hold is the reason why a document goes, so that the ledger balances by reason.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from lmdata import __version__
from lmdata.batch import to_array, to_column
from lmdata.building.output import ALL_DOCUMENTS, PLAN_NAME, OutputFolder, check_apart, claim_folder
from lmdata.config import build_config
from lmdata.corpus import Documents, Source
from lmdata.errors import ConfigError, IntegrityError, MismatchError
from lmdata.files import write_atomically
from lmdata.ragged import Ragged
from lmdata.schema import (
    FORMAT_VERSION,
    Flow,
    Ledger,
    ShardRecord,
    SourceRecord,
    to_json,
)
from lmdata.settings import DEFAULT_SHARD_BYTES, CorpusConfig
from lmdata.shards import Shard
from lmdata.tagging.manifests import TagManifest, read_manifest_of
from lmdata.tags import read_tag_manifest, read_tags
from lmdata.writer import ShardWriter
from lmdata.xxh3 import xxh3_128

RECIPES = {
    "english": "gopher_quality and gopher_repetition and c4 and fineweb and not duplicate "
    "and not near_duplicate",
    "distinct": "not duplicate and not near_duplicate",
}
"""Expressions by name: the rules that made FineWeb, and nothing but repeats left out."""

NOT_SELECTED = "not-selected"
SELECTED = "selected"
_MUCH = 0.5  # of a source: lost without a word, it would be missed late
_WORD = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|\w+|.", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class SelectionManifest:
    """All that a selection knows of itself."""

    kind: Literal["selection"] = "selection"
    format_version: int
    created_with: str  # package and version
    where: str
    tags: str  # hash of the tags' manifest
    configuration: dict[str, Any]  # of the tags
    starts: dict[str, tuple[tuple[int, int], ...]]  # of the tags
    sources: tuple[SourceRecord, ...]
    splits: dict[str, tuple[ShardRecord, ...]]
    ledger: Ledger
    notes: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """The xxh3_128 of the canonical JSON, hexadecimal."""
        return str(xxh3_128(to_json(self).encode()).hexdigest())


def selection_schema() -> pa.Schema:
    """Return the Arrow schema of a selection, one row a document in the order of the corpus.

    Example:
        >>> selection_schema().names
        ['source', 'position', 'repeats']
    """
    kinds = {"source": pa.int32(), "position": pa.uint64(), "repeats": pa.uint16()}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])


def select_documents(
    tags_path: Path, where: str, output: Path, *, overwrite: bool = False
) -> SelectionManifest:
    """Write a selection of documents by an expression over their tags, and return its manifest.

    Args:
        tags_path: the folder that `lmdata tag` wrote
        where: a condition in SQL, as "gopher_quality and num_words > 100 and not duplicate"
        output: folder to write
        overwrite: replace what is in `output`

    Raises:
        ConfigError: the expression names no tag, is no condition, or holds for no document
        IntegrityError: the tags are not whole
        OutputError: `output` exists, can't be written or its disk is full
    """
    tags = read_tag_manifest(tags_path)
    table = read_tags(tags_path, tags)
    first_failed, reasons = find_first_failed(table, where)
    if not (first_failed < 0).any():
        raise ConfigError(
            f"where: {where!r} holds for none of {len(first_failed):,} documents: ask for less"
        )
    check_apart(tags_path, output)
    with claim_folder(output, overwrite=overwrite) as folder:
        plan = {"created_with": f"lmdata {__version__}"}
        write_atomically(folder.build / PLAN_NAME, json.dumps(plan))
        shards = _write(folder, table, first_failed, tags)
        manifest = SelectionManifest(
            format_version=FORMAT_VERSION,
            created_with=plan["created_with"],
            where=where,
            tags=tags.hash,
            configuration=tags.configuration,
            starts=tags.starts,
            sources=tags.sources,
            splits={ALL_DOCUMENTS: shards},
            ledger=_balance(table, first_failed, reasons),
            notes=tuple(_losses(table, first_failed)),
        )
        folder.finish(manifest)
    return manifest


def find_first_failed(table: pa.Table, where: str) -> tuple[npt.NDArray[np.int16], list[str]]:
    """Return the first condition that does not hold for each row, and the conditions.

    Args:
        table: of D rows
        where: conditions joined by AND

    Returns:
        int16 (D,), -1 where all hold, else an index into the texts of the conditions.

    Raises:
        ConfigError: it names no column, or is no condition

    Example:
        >>> found, reasons = find_first_failed(pa.table({"a": [1, 5, 9]}), "a > 1 and a < 6")
        >>> found.tolist(), reasons
        ([0, -1, 1], ['a > 1', 'a < 6'])
    """
    frame = pl.DataFrame(pl.from_arrow(table))
    conditions = _split_conditions(where)
    try:
        holds = [_evaluate(frame, condition) for condition in conditions]
    except ConfigError:
        if len(conditions) == 1:
            raise
        conditions = [where.strip()]  # an AND that joins no conditions, as of BETWEEN
        holds = [_evaluate(frame, where)]
    found = np.full(len(frame), -1, np.int16)
    for number in reversed(range(len(conditions))):
        found[~holds[number]] = number
    return found, conditions


def _split_conditions(where: str) -> list[str]:
    """Return what AND joins outside of parentheses and quotes.

    Example:
        >>> _split_conditions("a and (b AND c) and d = ' and '")
        ['a', '(b AND c)', "d = ' and '"]
    """
    parts, depth = [""], 0
    for word in _WORD.findall(where):
        depth += (word == "(") - (word == ")")
        if word.lower() == "and" and depth == 0:
            parts.append("")
        else:
            parts[-1] += word
    return [part.strip() for part in parts]


def _evaluate(frame: pl.DataFrame, condition: str) -> npt.NDArray[np.bool_]:
    """Return for which rows a condition holds; where it is unknown, as of a null, it does not."""
    try:
        values = frame.select(pl.sql_expr(condition).alias("holds"))["holds"]
    except pl.exceptions.ColumnNotFoundError as error:
        raise ConfigError(_explain_name(frame, condition, error)) from error
    except pl.exceptions.PolarsError as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(f"where: {condition!r} can't be read as SQL: {problem}") from error
    if values.dtype != pl.Boolean:
        raise ConfigError(
            f"where: {condition!r} is no condition but {str(values.dtype).lower()}: compare it, as "
            "in 'num_words > 100'"
        )
    return np.asarray(values.fill_null(value=False).to_numpy(), bool)


def _explain_name(frame: pl.DataFrame, condition: str, error: Exception) -> str:
    unknown = [
        word for word in re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'", "", condition))
        if word not in frame.columns and word.lower() not in ("not", "and", "or", "in", "is")
    ]  # fmt: skip
    name = next((word for word in unknown if word in str(error)), condition)
    near = difflib.get_close_matches(name, frame.columns, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(frame.columns)}"
    return f"where: there is no tag {name!r}; {hint}"


def _write(
    folder: OutputFolder, table: pa.Table, first_failed: npt.NDArray[np.int16], tags: TagManifest
) -> tuple[ShardRecord, ...]:
    numbers = {source.name: number for number, source in enumerate(tags.sources)}
    names = table.column("source").cast(pa.string()).combine_chunks()
    sources = np.array([numbers[name] for name in names.to_pylist()], np.int32)
    positions = to_array(table.column("position").combine_chunks())
    repeats = (first_failed < 0).astype(np.uint16)
    columns = [to_column(values) for values in (sources, positions, repeats)]
    writer = ShardWriter(
        folder.path, ALL_DOCUMENTS, selection_schema(), shard_bytes=DEFAULT_SHARD_BYTES
    )
    try:
        writer.write(pa.RecordBatch.from_arrays(columns, schema=selection_schema()))
        return tuple(writer.finish())
    finally:
        writer.close()


def _balance(table: pa.Table, first_failed: npt.NDArray[np.int16], reasons: list[str]) -> Ledger:
    """Return the ledger in documents and in bytes; dropped by the first reason."""
    amounts = {
        "documents": np.ones(len(first_failed), np.int64),
        "bytes": to_array(table.column("num_bytes").combine_chunks()).astype(np.int64),
    }
    flows = {}
    for quantity, values in amounts.items():
        kept = int(values[first_failed < 0].sum())
        dropped = {
            reason: int(values[first_failed == number].sum())
            for number, reason in enumerate(reasons)
        }
        flows[quantity] = Flow(read=int(values.sum()), written={SELECTED: kept}, dropped=dropped)
    return Ledger(flows=flows)


def _losses(table: pa.Table, first_failed: npt.NDArray[np.int16]) -> list[str]:
    """Return a sentence for each source that loses more than half of its bytes."""
    names = table.column("source").cast(pa.string()).combine_chunks()
    num_bytes = to_array(table.column("num_bytes").combine_chunks()).astype(np.float64)
    sources, numbers = np.unique(np.array(names.to_pylist()), return_inverse=True)
    before = np.bincount(numbers, num_bytes)
    after = np.bincount(numbers, num_bytes * (first_failed < 0), len(sources))
    lost = 1 - after / np.maximum(before, 1)
    return [
        f"{name} loses {share:.0%} of its bytes"
        for name, share in zip(sources.tolist(), lost.tolist(), strict=True)
        if share > _MUCH
    ]


@dataclass(frozen=True)
class Selection:
    """An open selection: which documents of a corpus are read.

    Attributes:
        hash: of its manifest
        where: the expression
        starts: source -> byte and first position of each range that was tagged
        positions: source -> uint64 (K,), ascending, of the documents that are read
    """

    hash: str
    where: str
    starts: dict[str, dict[int, int]]
    positions: dict[str, npt.NDArray[np.uint64]]

    def keep(self, source: Source, start: int, first: int, documents: Documents) -> Documents:
        """Return the documents that are selected, the others counted as dropped.

        Args:
            source: that they come from
            start: byte of the source at which their range begins
            first: lines or records of the range before them
            documents: in the order of the file

        Raises:
            MismatchError: the selection is of other files or other ranges
        """
        if start not in self.starts.get(source.name, {}):
            raise MismatchError(
                f"the selection says nothing of {source.name} from byte {start}: it is of another "
                "corpus; tag and select this one"
            )
        before = np.uint64(self.starts[source.name][start] + first)
        is_kept = np.isin(documents.positions + before, self.positions[source.name])
        if is_kept.all():
            return documents
        sizes = np.diff(documents.offsets)
        kept = Ragged(documents.text, documents.offsets).take(np.flatnonzero(is_kept))
        dropped = {**documents.dropped, NOT_SELECTED: int((~is_kept).sum())}
        num_bytes = {**documents.dropped_bytes, NOT_SELECTED: int(sizes[~is_kept].sum())}
        return Documents(
            np.asarray(kept.values, np.uint8), np.asarray(kept.offsets, np.int64),
            documents.positions[is_kept], dropped, num_bytes, documents.num_records,
            documents.num_source_bytes,
        )  # fmt: skip


def open_selection(folder: Path, sources: list[Source], corpus: CorpusConfig) -> Selection:
    """Return a selection, refused unless it is of these files, read in the same way.

    Raises:
        IntegrityError: it is not whole
        MismatchError: it is of another corpus, or of documents that were found otherwise
    """
    manifest = read_manifest_of(folder, SelectionManifest, "selection", "lmdata select TAGS")
    _check_corpus(manifest, sources, corpus, folder)
    parts = [
        block.read()
        for record in manifest.splits[ALL_DOCUMENTS]
        for block in Shard(folder, record, selection_schema()).blocks
    ]
    table = pa.Table.from_batches(parts, schema=selection_schema())
    numbers, positions, repeats = (
        to_array(table.column(name).combine_chunks()) for name in selection_schema().names
    )
    if int(repeats.max(initial=0)) > 1:
        raise IntegrityError(f"{folder} reads documents more than once: select again")
    chosen = {
        source.name: np.sort(positions[(numbers == number) & (repeats > 0)])
        for number, source in enumerate(manifest.sources)
    }
    starts = {name: dict(own) for name, own in manifest.starts.items()}
    return Selection(manifest.hash, manifest.where, starts, chosen)


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
    if build_config(CorpusConfig, manifest.configuration["corpus"]) != corpus:
        raise MismatchError(
            f"{folder} is of documents that were read with other settings: give the same "
            "--documents, --text-field, --encoding and --errors as to `lmdata tag`"
        )
