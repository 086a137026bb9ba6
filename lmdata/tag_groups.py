"""Documents by the value of a tag, or of an expression over tags, wherever else they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lmdata.batch import to_array
from lmdata.errors import MismatchError
from lmdata.tagging.expressions import group_names
from lmdata.tagging.manifests import read_tag_manifest, read_tags


@dataclass(frozen=True)
class TagGroups:
    """The group of each document of a corpus, found by source and position.

    Attributes:
        path: of the tags
        sources: source -> positions, uint64 (K,), ascending, and the names of groups, str (K,)
    """

    path: Path
    sources: dict[str, tuple[npt.NDArray[np.uint64], npt.NDArray[np.str_]]]

    def find(
        self, sources: Sequence[str], positions: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.str_]:
        """Return the groups of documents, str (B,).

        Args:
            sources: B names
            positions: uint64 (B,), line or record of each in its source

        Raises:
            MismatchError: the tags are of another corpus
        """
        names, found = np.array(sources, np.str_), np.empty(len(sources), object)
        for source in set(sources):
            rows = np.flatnonzero(names == source)
            known, groups = self.sources.get(source, (np.empty(0, np.uint64), np.empty(0, "<U1")))
            places = np.searchsorted(known, positions[rows])
            is_there = places < len(known)
            is_there[is_there] = known[places[is_there]] == positions[rows[is_there]]
            if not is_there.all():
                row = int(rows[int((~is_there).argmax())])
                raise MismatchError(
                    f"{self.path} tells nothing of {source}, record {positions[row]}: these tags "
                    "are of another corpus, or of one read with other settings; tag what was "
                    "tokenized, with the same --documents"
                )
            found[rows] = groups[places]
        return found.astype(np.str_)


def open_groups(path: Path, by: str) -> TagGroups:
    """Return the documents of tags by the value of an expression.

    Args:
        path: of the tags
        by: a tag, or SQL over tags

    Raises:
        ConfigError: the expression names no tag
        IntegrityError: the tags are not whole
    """
    table = read_tags(path, read_tag_manifest(path))
    groups = group_names(table, by)
    names = np.array(table.column("source").cast("string").to_pylist(), np.str_)
    positions = to_array(table.column("position").combine_chunks())
    found = {}
    for source in np.unique(names).tolist():
        rows = np.flatnonzero(names == source)
        rows = rows[np.argsort(positions[rows], kind="stable")]
        found[source] = positions[rows], groups[rows]
    return TagGroups(path, found)
