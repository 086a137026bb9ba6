"""Two selections side by side: what only one reads, why, and documents of it to read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.batch import to_array
from lmdata.chosen import Chosen, ReadSelection, read_selection
from lmdata.errors import IntegrityError
from lmdata.tag_report import DocumentSample
from lmdata.tagging.expressions import find_first_failed
from lmdata.tagging.manifests import read_tag_manifest, read_tags

NUM_SAMPLES = 5
Places = dict[str, npt.NDArray[np.uint64]]  # source -> positions


@dataclass(frozen=True, kw_only=True)
class Only:
    """What one selection reads and the other does not."""

    path: str
    documents: int
    by_source: dict[str, int]
    reasons: dict[str, int]  # conditions of the other that do not hold; empty without its tags
    samples: tuple[DocumentSample, ...]  # empty without the tags


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two selections of one corpus, or of one that has grown."""

    paths: tuple[str, str]
    where: tuple[str, str]
    both: int  # documents
    other_repeats: int  # of these, read another number of times
    other_components: int  # of these, with another key of their split
    moved: dict[str, list[int]]  # source -> positions of those, which may be in another split now
    only: tuple[Only, Only]


def compare_selections(one: Path, other: Path) -> Comparison:
    """Return what two selections have in common and what not, documents told by source and place.

    Raises:
        IntegrityError: one of them is not whole
    """
    found = read_selection(one), read_selection(other)
    both = other_repeats = 0
    moved: dict[str, list[int]] = {}
    only: tuple[Places, Places] = ({}, {})
    for name in sorted({*found[0].sources, *found[1].sources}):
        a, b = (selection.sources.get(name, _nothing()) for selection in found)
        places, is_there = b.find(a.positions)
        both += int(is_there.sum())
        repeats = a.repeats.sum(axis=0), b.repeats.sum(axis=0)
        places = places[is_there]
        other_repeats += int((repeats[0][is_there] != repeats[1][places]).sum())
        if is_moved := a.positions[is_there][
            a.split_keys[is_there] != b.split_keys[places]
        ].tolist():
            moved[name] = is_moved
        only[0][name] = a.positions[~is_there]
        only[1][name] = b.positions[~a.find(b.positions)[1]]
    return Comparison(
        paths=(str(one), str(other)),
        where=(found[0].manifest.where, found[1].manifest.where),
        both=both,
        other_repeats=other_repeats,
        other_components=sum(map(len, moved.values())),
        moved=moved,
        only=(
            _describe(one, only[0], found[0], found[1]),
            _describe(other, only[1], found[1], found[0]),
        ),
    )


def _nothing() -> Chosen:
    none = np.zeros(0, np.uint64)
    return Chosen(none, np.zeros((1, 0), np.int64), none)


def _describe(path: Path, only: Places, own: ReadSelection, other: ReadSelection) -> Only:
    counts = {name: len(positions) for name, positions in only.items() if len(positions)}
    samples: tuple[DocumentSample, ...] = ()
    reasons: Counter[str] = Counter()
    table = _read_tags(path, own)
    if table is not None:
        rows = _rows_of(table, only)
        failed, conditions = find_first_failed(table, other.manifest.where)
        said = [*conditions, "the mixture, or tags that are others now"]
        reasons.update(said[number] for number in failed[rows].tolist())
        chosen = rows[np.argsort(to_array(table.column("hash_low").combine_chunks())[rows])]
        samples = tuple(
            DocumentSample(
                source=str(row["source"]), position=row["position"], bytes=row["num_bytes"],
                beginning=row["beginning"], said=said[int(failed[number])],
            )
            for number in chosen[:NUM_SAMPLES].tolist()
            for row in table.slice(number, 1).to_pylist()
        )  # fmt: skip
    return Only(
        path=str(path), documents=sum(counts.values()), by_source=counts,
        reasons=dict(reasons.most_common()), samples=samples,
    )  # fmt: skip


def _read_tags(path: Path, selection: ReadSelection) -> pa.Table | None:
    """Return the tags that a selection was made of, None where they are not there any more."""
    folder = path / selection.manifest.tags_path
    try:
        manifest = read_tag_manifest(folder)
        return read_tags(folder, manifest) if manifest.hash == selection.manifest.tags else None
    except IntegrityError:  # a selection is whole without its tags
        return None


def _rows_of(table: pa.Table, only: Places) -> npt.NDArray[np.int64]:
    """Return the rows of tags that are of some documents, ascending."""
    names = np.array(table.column("source").cast(pa.string()).to_pylist(), object)
    positions = to_array(table.column("position").combine_chunks())
    is_meant = np.zeros(len(names), bool)
    for name, own in only.items():
        rows = np.flatnonzero(names == name)
        is_meant[rows] = np.isin(positions[rows], own)
    return np.flatnonzero(is_meant)
