"""What tags know of themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

from lmdata.building.output import HasLedger
from lmdata.schema import (
    Ledger,
    ShardRecord,
    SourceRecord,
    to_json,
)
from lmdata.settings import LATE, TagConfig
from lmdata.xxh3 import xxh3_128

T = TypeVar("T", bound=HasLedger)


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
