"""Which domain a document of a token store is of: its file, its folder, or a given name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from lmdata.dataset import TokenStore, open_store
from lmdata.ragged import offsets_of
from lmmodel.counting.keys import Lines, lines_of_store
from lmmodel.counting.sorting import num_usable_cores
from lmmodel.errors import FitError
from lmmodel.ngrams import count_lines
from lmmodel.routing.folder import DOMAINS_NAME
from lmmodel.texts import TextIds

NGRAM_ORDER = 3  # tokens of the longest n-grams that tell domains apart

DomainKind = Literal["source", "folder"]
"""What names a domain: the file of a document without its endings, or the folder it lies in."""


@dataclass(frozen=True)
class Labelled:
    """A token store whose documents are of known domains."""

    path: Path
    name: str | None = None  # of all its documents; None: `kind` says it
    kind: DomainKind = "source"

    def domains(self, split: str) -> np.ndarray:
        """Return the domain of each document of a split: str (D,)."""
        store = open_store(self.path, split)
        if self.name is not None:
            return np.full(store.num_documents, self.name)
        parts = [np.zeros(0, np.str_)]
        for block in store.blocks:
            names = np.array([domain_of(s.as_py(), self.kind) for s in block.source_names], np.str_)
            parts.append(names[block.source_codes])
        return np.concatenate(parts)

    def has(self, split: str) -> bool:
        """Whether a split has documents."""
        return bool(open_store(self.path, "train").manifest.num_rows(split))


def domain_of(source: str, kind: DomainKind) -> str:
    """Return the domain of a source.

    Example:
        >>> domain_of("law/2024.jsonl.gz", "source"), domain_of("law/2024.jsonl.gz", "folder")
        ('2024', 'law')
    """
    path = PurePath(source)
    return path.name.partition(".")[0] if kind == "source" else path.parent.name


def read_documents(store: TokenStore, rows: Iterable[int], most: int) -> TextIds:
    """Return the first `most` tokens of some documents."""
    parts = [store.document(int(row))[0][:most].astype(np.int32) for row in rows]
    lengths = np.array([len(part) for part in parts], np.int64)
    return TextIds(np.concatenate([np.zeros(0, np.int32), *parts]), offsets_of(lengths))


def lines_of_domain(stores: Sequence[Labelled], name: str) -> Lines:
    """Return the training documents of a domain, each a line.

    Raises:
        FitError: there is none
    """
    parts = []
    for labelled in stores:
        is_own = labelled.domains("train") == name
        if is_own.any():
            parts.append(lines_of_store(open_store(labelled.path, "train"), is_taken=is_own))
    if not parts:
        raise FitError(
            f"domain {name!r} has validation text and no training text to count: take a router "
            "that needs none (--router likelihood or embedding)"
        )
    return Lines(np.concatenate([part.ids for part in parts]), parts[0].num_pieces)


def write_ngrams(folder: Path, stores: Sequence[Labelled], domains: Sequence[str]) -> None:
    """Write the n-gram model of each domain's training text into domains/NAME.

    Raises:
        FitError: a domain has none
    """
    for name in domains:
        lines, own = lines_of_domain(stores, name), folder / DOMAINS_NAME / name
        own.mkdir(parents=True)
        first = stores[0].path
        count_lines(own, lines, open_store(first, "train"), first, NGRAM_ORDER, num_usable_cores())
