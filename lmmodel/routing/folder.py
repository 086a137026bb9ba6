"""The folder of experts: who there is, and how a text finds its own.

config.json         the experts, their parent, the domains, the router, what it was learned on
domains/NAME/       the n-gram model of each domain, where the router asks them
router.safetensors  the mean vector of each domain, where it asks these
table.png           bits per byte of each expert on each domain, and how often texts find theirs

The runs stay where they are and are named with their hashes; one that is gone leaves its domain to
the parent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmdata.config import build_config, config_to_dict, json_text
from lmdata.errors import ConfigError
from lmdata.files import Kind, write_atomically
from lmdata.tokenizer import TOKENIZER_FILES
from lmmodel.errors import RunError
from lmmodel.record import RECORD_NAME
from lmmodel.routing.router import RouterKind

FORMAT_VERSION = 1
KIND = "experts"
MEANS_NAME = "router.safetensors"
TABLE_NAME = "table.png"
DOMAINS_NAME = "domains"


@dataclass(frozen=True, kw_only=True)
class ExpertRecord:
    """A run, what it is called, and which domains are its own."""

    name: str
    run: str
    weights_xxh3: str
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RouterRecord:
    """How the domain of a text is told."""

    kind: RouterKind
    prefix_tokens: int  # of a text that are looked at
    prior: tuple[float, ...]  # of each domain
    temperature: float
    top_k: int  # experts that answer a text together


@dataclass(frozen=True, kw_only=True)
class ExpertsRecord:
    """What config.json holds."""

    experts: tuple[ExpertRecord, ...]
    parent: ExpertRecord
    domains: tuple[str, ...]
    router: RouterRecord
    tokenizer_hash: str
    validation: tuple[dict[str, Any], ...]
    figures: dict[str, Any]

    @property
    def everyone(self) -> tuple[ExpertRecord, ...]:
        """The experts, then the parent."""
        return (*self.experts, self.parent)

    def expert_of(self, domain: str) -> int:
        """Return the number of a domain's expert in `everyone`: the parent's, where it has none."""
        own = (i for i, one in enumerate(self.experts) if domain in one.domains)
        return next(own, len(self.experts))


def is_experts(path: Path | str) -> bool:
    """Whether a folder says that it holds experts."""
    try:
        values = json.loads((Path(path) / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("kind") == KIND


EXPERTS = Kind(
    "a folder of experts", is_experts,
    TOKENIZER_FILES | {RECORD_NAME, MEANS_NAME, TABLE_NAME, DOMAINS_NAME},
)  # fmt: skip


def write_experts_record(folder: Path, record: ExpertsRecord) -> None:
    """Write config.json."""
    values = {"format_version": FORMAT_VERSION, "kind": KIND, **config_to_dict(record)}
    write_atomically(folder / RECORD_NAME, json_text(values, indent=1, ensure_ascii=False) + "\n")


def read_experts_record(folder: Path) -> ExpertsRecord:
    """Return what a folder of experts says of itself.

    Raises:
        RunError: no experts there, or written by another version
    """
    path = folder / RECORD_NAME
    if not is_experts(folder):
        raise RunError(f"{folder} holds no experts: `lmmodel experts` makes them of runs")
    values = json.loads(path.read_text(encoding="utf-8"))
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise RunError(f"{path} has format {version}, this version reads {FORMAT_VERSION}")
    del values["kind"]
    try:
        return build_config(ExpertsRecord, values)
    except ConfigError as error:
        raise RunError(f"{path} is not the record of experts of this version: {error}") from error
