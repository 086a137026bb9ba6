"""What a dataset on disk promises: Arrow schemas, manifest, ledger, format version.

`docs/file-format.md` is the specification in words; this module is the same in code.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lmdata import __version__
from lmdata.batch import COLUMNS, Column
from lmdata.config import build_config
from lmdata.errors import ConfigError, IntegrityError, VersionError
from lmdata.recipes import Recipe
from lmdata.settings import DEFAULT_SHARD_BYTES, LATE
from lmdata.xxh3 import xxh3_128

FORMAT_VERSION = 2
SPLITS = ("train", "validation", "test")
MANIFEST_NAME = "manifest.json"
BUILD_FOLDER = ".build"
DatasetKind = Literal["tokens", "examples"]

_HASH = "hash"  # key of the manifest's file, from version 2 on
_SHARD_NAME = re.compile(r"(train|validation|test|documents)-\d{5,}\.arrow|unit-\d{6,}-\w+\.part")


def token_schema(id_dtype: np.dtype[Any]) -> pa.Schema:
    """Return the Arrow schema of a token store, one row a document.

    Args:
        id_dtype: uint16 or uint32

    Example:
        >>> str(token_schema(np.dtype(np.uint16)).field("input_ids").type.value_type)
        'uint16'
    """
    return pa.schema(
        [
            pa.field("source", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("position", pa.uint64(), nullable=False),
            pa.field("input_ids", pa.large_list(_item(id_dtype)), nullable=False),
            pa.field("sentence_lengths", pa.list_(_item(np.dtype(np.uint32))), nullable=False),
        ]
    )


def example_schema(id_dtype: np.dtype[Any], columns: tuple[Column, ...] = COLUMNS) -> pa.Schema:
    """Return the Arrow schema of example shards, one row an example.

    Args:
        id_dtype: uint16 or uint32
        columns: of the examples; those that are stored make the schema

    Example:
        >>> example_schema(np.dtype(np.uint32)).field("next_sentence_label").nullable
        True
    """
    fields = []
    for column in columns:
        if column.is_stored:
            dtype = id_dtype if column.dtype is None else np.dtype(column.dtype)
            kind = pa.list_(_item(dtype)) if column.is_ragged else pa.from_numpy_dtype(dtype)
            fields.append(pa.field(column.name, kind, nullable=column.null is not None))
    return pa.schema(fields)


def dataset_schema(manifest: Manifest) -> pa.Schema:
    """Return the Arrow schema of a dataset's shards.

    Raises:
        IntegrityError: the manifest does not say which columns there are
    """
    id_dtype = smallest_id_dtype(manifest.tokenizer.vocab_size)
    if manifest.kind == "tokens":
        return token_schema(id_dtype)
    return example_schema(id_dtype, read_settings(manifest).all_columns)


def _item(dtype: np.dtype[Any]) -> pa.Field:
    return pa.field("item", pa.from_numpy_dtype(dtype), nullable=False)


def smallest_id_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the narrowest type that holds every id of a vocabulary.

    Example:
        >>> smallest_id_dtype(65536), smallest_id_dtype(65537)
        (dtype('uint16'), dtype('uint32'))
    """
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Where an amount went: what was read equals what was written plus what was dropped."""

    read: int
    written: dict[str, int]  # split -> amount
    dropped: dict[str, int]  # reason -> amount

    @property
    def total_written(self) -> int:
        """The amount in all splits together."""
        return sum(self.written.values())

    @property
    def total_dropped(self) -> int:
        """The amount left out, for any reason."""
        return sum(self.dropped.values())


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The conservation ledger of a build: a flow for each quantity (documents, bytes, tokens)."""

    flows: dict[str, Flow]

    def check(self) -> None:
        """Raise unless every quantity balances.

        Raises:
            IntegrityError: read is not written + dropped for a quantity, which is a bug of ours

        Example:
            >>> flow = Flow(read=5, written={"train": 3}, dropped={"empty": 2})
            >>> Ledger(flows={"documents": flow}).check()
        """
        for quantity, flow in self.flows.items():
            if flow.read != flow.total_written + flow.total_dropped:
                raise IntegrityError(
                    f"the ledger does not balance: {flow.read} {quantity} read, but "
                    f"{flow.total_written} written {flow.written} and "
                    f"{flow.total_dropped} dropped {flow.dropped}; please report this"
                )


@dataclass(frozen=True, kw_only=True)
class TokenizerIdentity:
    """Which tokenizer made the ids."""

    hash: str  # xxh3_128, hexadecimal, of the canonical tokenizer.json
    vocab_size: int
    kind: str  # how it cuts: WordPiece, BPE, Unigram ...


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """One input file; `documents` and `tokens` are what was written of it, where known."""

    name: str
    bytes: int
    xxh3: str  # xxh3_128, hexadecimal, of the file's bytes as they lie on disk
    documents: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class BlockRecord:
    """One record batch of a shard: the bytes [start, stop) of the file are its buffers."""

    start: int
    stop: int
    xxh3: tuple[str, ...]  # of each buffer that holds anything, up to where the next begins


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One Arrow file of a dataset; `blocks` and `frame` are None in format version 1."""

    file: str
    rows: int
    tokens: int
    bytes: int
    xxh3: str  # xxh3_128, hexadecimal, of the file's bytes
    blocks: tuple[BlockRecord, ...] | None = field(default=None, metadata=LATE)
    frame: str | None = field(default=None, metadata=LATE)  # xxh3_128 of the bytes in no block

    def __post_init__(self) -> None:
        if not _SHARD_NAME.fullmatch(self.file):
            raise ValueError(f"file must be the name of a shard or a part, got {self.file!r}")
        edges = [0, *(edge for b in self.blocks or () for edge in (b.start, b.stop)), self.bytes]
        if min(self.rows, self.tokens) < 0 or edges != sorted(edges):
            raise ValueError(f"{self.file}: rows, tokens, bytes and blocks contradict each other")


@dataclass(frozen=True, kw_only=True)
class ViewFacts:
    """What a view knows of the examples of a split without making them."""

    examples: int
    expected_positive_share: float | None = None  # of pairs: random (nsp) or swapped (sop)
    repeated_tokens: int = 0  # that a lone last sentence takes from the one before it, uncut


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that a dataset knows of itself; the same build gives the same bytes of JSON."""

    kind: DatasetKind
    format_version: int
    created_with: str  # package and version
    configuration: dict[str, Any]
    tokenizer: TokenizerIdentity
    sources: tuple[SourceRecord, ...]
    splits: dict[str, tuple[ShardRecord, ...]]
    ledger: Ledger
    notes: tuple[str, ...] = ()
    views: dict[str, ViewFacts] = field(
        default_factory=dict, metadata=LATE
    )  # of examples, by split

    @property
    def hash(self) -> str:
        """The xxh3_128 of the manifest's canonical JSON, hexadecimal."""
        return xxh3_128(to_json(self).encode()).hexdigest()

    def num_rows(self, split: str) -> int:
        """The documents or examples of a split."""
        return sum(shard.rows for shard in self.splits.get(split, ()))


@dataclass(frozen=True, kw_only=True)
class ExampleSettings:
    """What the bytes of example shards depend on: the configuration of their manifest."""

    recipe: Recipe
    seed: int = 0  # of all draws, in [0, 2**63)
    epoch: int = 0  # part of the address of all draws, in [0, 2**32)
    shard_bytes: int = DEFAULT_SHARD_BYTES
    store: str = ""  # the token store, from the folder of the shards
    store_manifest: str = ""  # its hash
    columns: tuple[Column, ...] = ()  # added to `batch.COLUMNS`, or declared otherwise than there
    selection: str | None = field(default=None, metadata=LATE)  # as `store`
    selection_manifest: str | None = field(default=None, metadata=LATE)

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """What is known of each example."""
        return tuple({column.name: column for column in (*COLUMNS, *self.columns)}.values())

    def __post_init__(self) -> None:
        for name, end in (("seed", 2**63), ("epoch", 2**32)):
            if not 0 <= getattr(self, name) < end:
                raise ValueError(f"{name} must be in [0, {end}), got {getattr(self, name)}")


def read_settings(manifest: Manifest) -> ExampleSettings:
    """Return what example shards were made with.

    Raises:
        IntegrityError: the manifest does not say
    """
    try:
        return build_config(ExampleSettings, manifest.configuration)
    except ConfigError as error:
        raise IntegrityError(
            f"the manifest's configuration can't be read ({error}): build the shards again"
        ) from error


def to_json(value: Any) -> str:
    """Return a dataclass as canonical JSON: sorted keys, ASCII, one line break at the end.

    Example:
        >>> print(to_json(TokenizerIdentity(hash="ab", vocab_size=5, kind="BPE")), end="")
        {
         "hash": "ab",
         "kind": "BPE",
         "vocab_size": 5
        }
    """
    return json.dumps(_plain(value), sort_keys=True, indent=1, ensure_ascii=True) + "\n"


def _plain(value: Any) -> Any:
    """Dataclasses inside dictionaries too become dictionaries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
        absent = {part.name for part in dataclasses.fields(value) if part.metadata == LATE}
        absent -= {name for name, item in fields.items() if item not in (None, {})}
        return {name: _plain(item) for name, item in fields.items() if name not in absent}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def manifest_json(manifest: Any) -> str:
    """Return the text of `manifest.json`: the canonical JSON of any kind, and its hash."""
    text = to_json(manifest)
    values = {**json.loads(text), _HASH: xxh3_128(text.encode()).hexdigest()}
    return json.dumps(values, sort_keys=True, indent=1) + "\n"


def parse_manifest(text: str, path: Path) -> Manifest:
    """Return the manifest that a JSON text holds; `path` is for the messages.

    Raises:
        VersionError: a newer format version
        IntegrityError: not a manifest, unknown or missing keys, a ledger that does not balance
    """
    values = parse_json_object(text, path)
    version = values.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise VersionError(
            f"{path} has format version {version}, lmdata {__version__} reads up to "
            f"{FORMAT_VERSION}: upgrade lmdata, or build the dataset again"
        )
    promised = values.pop(_HASH, None)
    try:
        manifest = build_config(Manifest, values)
    except ConfigError as error:
        raise IntegrityError(
            f"{path} is not a manifest: {error}; build the dataset again"
        ) from error
    _check_version(manifest, path)
    if manifest.format_version >= 2 and promised != manifest.hash:
        raise IntegrityError(
            f"{path} was altered, its hash is {manifest.hash} instead of {promised}: restore it, "
            "or build the dataset again"
        )
    manifest.ledger.check()
    return manifest


def _check_version(manifest: Manifest, path: Path) -> None:
    """Check that a manifest has what its version promises, and that its numbers may be used.

    Raises:
        IntegrityError: it has not
    """
    shards = [shard for shards in manifest.splits.values() for shard in shards]
    num_hashed = sum(shard.blocks is not None and shard.frame is not None for shard in shards)
    if num_hashed != (len(shards) if manifest.format_version >= 2 else 0):
        problem = f"format version {manifest.format_version} does not go with its blocks"
    elif not 1 <= manifest.tokenizer.vocab_size <= 1 << 32:
        problem = f"vocab_size must be in [1, 2**32], got {manifest.tokenizer.vocab_size}"
    elif strange := sorted(manifest.splits.keys() - set(SPLITS)):
        problem = f"splits are {', '.join(SPLITS)}, got {strange[0]!r}"
    elif manifest.format_version < 1:
        problem = f"format_version must be at least 1, got {manifest.format_version}"
    else:
        return
    raise IntegrityError(f"{path} is not a manifest: {problem}; build the dataset again")


def parse_json_object(text: str, path: Path | str) -> dict[str, Any]:
    """Return the object that a JSON text holds.

    Raises:
        IntegrityError: not JSON, or JSON of another type
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers of thousands of digits
        raise IntegrityError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise IntegrityError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a dataset folder.

    Raises:
        IntegrityError: no such folder, an unfinished build, or a damaged manifest
        VersionError: a newer format version
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IntegrityError(_why_no_manifest(folder)) from error
    except (UnicodeDecodeError, OSError) as error:
        raise IntegrityError(f"can't read {path}: {error}") from error
    return parse_manifest(text, path)


def _why_no_manifest(folder: Path) -> str:
    if not folder.is_dir():
        return f"no such dataset folder: {folder}; `lmdata tokenize` and `lmdata mask` make them"
    if (folder / BUILD_FOLDER).is_dir():
        return (
            f"{folder} is an unfinished build (no {MANIFEST_NAME}): type the command that "
            f"began it again to continue, or add --overwrite to start afresh"
        )
    return (
        f"{folder} is not a dataset: it has no {MANIFEST_NAME}; is this the right folder? "
        "`lmdata tokenize` makes a dataset of a corpus"
    )
