"""What tags know of themselves, and their rows as they lie on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from lmdata.chosen import DOCUMENTS, read_manifest_of
from lmdata.errors import MismatchError
from lmdata.schema import (
    Ledger,
    ShardRecord,
    SourceRecord,
    to_json,
)
from lmdata.settings import LATE, TagConfig
from lmdata.shards import Shard
from lmdata.xxh3 import xxh3_128

_SINCE = "common_line_ratio"  # a column that tags have had since places are right


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One file that the corpus was compared with."""

    bytes: int
    xxh3: str  # of its bytes, decompressed
    texts: int  # that are looked for by n-grams of 8 words
    short_texts: int  # of 4 to 7 words, looked for whole
    passed_over: int  # of fewer words, not looked for


@dataclass(frozen=True, kw_only=True)
class TagManifest:
    """All that tags know of themselves."""

    kind: Literal["tags"] = "tags"
    format_version: int
    created_with: str  # package and version
    configuration: TagConfig
    rules: dict[str, str]  # column -> name and version of the rule
    words: str  # name and version of what cut the words
    starts: dict[str, tuple[tuple[int, int], ...]]  # source -> byte, position of ranges
    sources: tuple[SourceRecord, ...]
    splits: dict[str, tuple[ShardRecord, ...]]
    ledger: Ledger
    notes: tuple[str, ...] = ()
    against: dict[str, EvaluationRecord] = field(default_factory=dict, metadata=LATE)  # by name

    @property
    def hash(self) -> str:
        """The xxh3_128 of the canonical JSON, hexadecimal."""
        return str(xxh3_128(to_json(self).encode()).hexdigest())


def read_tag_manifest(folder: Path) -> TagManifest:
    """Return the manifest of a folder of tags.

    Raises:
        IntegrityError: it has none, of another kind, or altered
        MismatchError: it is of the time when places behind the first 4 MiB of a file were wrong
    """
    manifest = read_manifest_of(folder, TagManifest, "tags", "lmdata tag CORPUS")
    if _SINCE not in manifest.rules:
        raise MismatchError(
            f"{folder} was made by an earlier lmdata, which counted wrongly which document of a "
            "large file is which: make it again with `lmdata tag CORPUS --overwrite`"
        )
    return manifest


def read_tags(
    folder: Path, manifest: TagManifest, names: Collection[str] | None = None
) -> pa.Table:
    """Return all tags, one row a document in the order of the corpus, on memory maps.

    Args:
        folder: of the tags
        manifest: of the tags
        names: of the columns that will be used, which are compared with their hashes; None: all

    Raises:
        IntegrityError: a shard is missing or altered
    """
    return pa.Table.from_batches(iterate_rows(folder, manifest.splits[DOCUMENTS], names))


def iterate_rows(
    folder: Path, records: Sequence[ShardRecord], names: Collection[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of shards of tags; arguments and errors as of `read_tags`."""
    for record in records:
        yield from _rows_of(folder, record, names)


def _rows_of(
    folder: Path, record: ShardRecord, names: Collection[str] | None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a shard, which is let go of before the next one is opened."""
    with pa.OSFile(str(folder / record.file)) as file:
        schema = pa.ipc.open_file(file).schema
    for block in Shard(folder, record, schema).blocks:
        yield block.read(names)
