"""The manifests of tags, and how those of a kind are read: whole, unaltered, of that kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from lmdata.building.output import HasLedger
from lmdata.config import build_config
from lmdata.errors import ConfigError, IntegrityError
from lmdata.schema import (
    MANIFEST_NAME,
    Ledger,
    ShardRecord,
    SourceRecord,
    parse_json_object,
    to_json,
)
from lmdata.xxh3 import xxh3_128

T = TypeVar("T", bound=HasLedger)


@dataclass(frozen=True, kw_only=True)
class TagManifest:
    """All that tags know of themselves."""

    kind: Literal["tags"] = "tags"
    format_version: int
    created_with: str  # package and version
    configuration: dict[str, Any]
    rules: dict[str, str]  # column -> name and version of the rule
    words: str  # name and version of what cut the words
    starts: dict[str, tuple[tuple[int, int], ...]]  # source -> byte, position of ranges
    sources: tuple[SourceRecord, ...]
    splits: dict[str, tuple[ShardRecord, ...]]
    ledger: Ledger
    notes: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """The xxh3_128 of the canonical JSON, hexadecimal."""
        return str(xxh3_128(to_json(self).encode()).hexdigest())


def read_manifest_of(folder: Path, kind: type[T], name: str, command: str) -> T:
    """Return the manifest of a folder that holds one of a kind.

    Args:
        folder: with a manifest
        kind: its class
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
        manifest = build_config(kind, values)
    except ConfigError as error:
        raise IntegrityError(f"{path} is damaged: {error}; make it again") from error
    if promised != xxh3_128(to_json(manifest).encode()).hexdigest():
        raise IntegrityError(f"{path} was altered: restore it, or make it again")
    manifest.ledger.check()
    return manifest
