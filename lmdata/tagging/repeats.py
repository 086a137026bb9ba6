"""What a whole corpus repeats: documents to the byte, by their words or nearly, and lines.

The parts of all units are read in turn and let go of. What is held takes a number of bytes for each
document, about 150, whatever its length; bands of signatures, shingles of documents that share a
band, lines and paragraphs lie in files meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.batch import to_array, to_column
from lmdata.errors import CorpusError
from lmdata.tagging.common_lines import FIELDS as LINE_FIELDS
from lmdata.tagging.common_lines import CommonLines, Scattered, stretches_in
from lmdata.tagging.near import (
    MOST_COMPARED,
    Groups,
    Neighbours,
    find_groups,
    find_neighbours,
    find_originals,
    rank_documents,
)
from lmdata.tagging.numbers import I64, U64
from lmdata.tagging.signatures import NUM_BANDS
from lmdata.tagging.spool import Spool

Parts = Callable[[], Iterator[pa.RecordBatch]]
"""The parts of all units in the order of the corpus, read anew at each call."""

FIELDS = (
    pa.field("duplicate", pa.bool_(), nullable=False),
    pa.field("duplicate_of", pa.uint64()),
    pa.field("same_words", pa.bool_(), nullable=False),
    pa.field("same_words_of", pa.uint64()),
    pa.field("near_duplicate", pa.bool_(), nullable=False),
    pa.field("near_of", pa.uint64()),
    pa.field("near_jaccard", pa.float64(), nullable=False),
    pa.field("near_containment", pa.float64(), nullable=False),
    pa.field("component", pa.uint64(), nullable=False),
    *LINE_FIELDS,
)


@dataclass(frozen=True)
class Repeats:
    """Which of D documents were there before, and what of them stands in others.

    Attributes:
        originals: int64 (D,), the first document of the same bytes
        first_words: int64 (D,), the first document of the same words, whatever their case and marks
        near: what they overlap with
        lines: those that others of the same source have
    """

    originals: I64
    first_words: I64
    near: Neighbours
    lines: CommonLines

    def notes(self) -> tuple[str, ...]:
        """Say how many there are."""
        is_same = self.first_words != np.arange(len(self.first_words))
        num_again = int((self.originals != np.arange(len(self.originals))).sum())
        notes = [
            f"documents that repeat an earlier one to the byte: {num_again:,}",
            f"documents that have the words of an earlier one: {int(is_same.sum()):,}",
            f"near duplicates of a document that stays: {int(self.near.is_near.sum()):,}",
        ]
        if self.near.num_passed_over:
            notes.append(
                f"documents that stay in a group of more than {MOST_COMPARED} alike, which later "
                f"ones were not compared with: {self.near.num_passed_over:,}"
            )
        return tuple(notes)

    def columns(self, part: pa.RecordBatch, row: int) -> list[pa.Array]:
        """Return the columns `FIELDS` of a part of a unit, whose first document has this row."""
        stop = row + part.num_rows
        rows, near = slice(row, stop), self.near
        originals, nearest = self.originals[rows], near.nearest[rows]
        is_again = originals != np.arange(row, stop)
        first_words = self.first_words[rows]
        is_same = first_words != np.arange(row, stop)
        return [
            pa.array(is_again),
            to_column(originals.astype(np.uint64), is_again),
            pa.array(is_same),
            to_column(first_words.astype(np.uint64), is_same),
            pa.array(near.is_near[rows]),
            to_column(nearest.astype(np.uint64), nearest >= 0),
            to_column(near.jaccard[rows]),
            to_column(near.containment[rows]),
            to_column(near.component[rows].astype(np.uint64)),
            *self.lines.columns(part, row),
        ]


def find_repeats(parts: Parts, folder: Path, jaccard: float) -> Repeats:
    """Return what documents of a corpus repeat of each other.

    Args:
        parts: of all units
        folder: on whose disk may lie what is too much for memory
        jaccard: from which on a document is a near duplicate

    Raises:
        CorpusError: there is no document at all
        OutputError: the disk is full
    """
    with ExitStack() as held:
        bands = [held.enter_context(closing(Spool(folder, np.uint64))) for _ in range(NUM_BANDS)]
        lines = held.enter_context(closing(Scattered(folder)))
        num_chars, high, low, of_words = _gather(parts(), bands, lines)
        originals, order = find_originals(high, low), rank_documents(num_chars, high, low)
        own = np.where(of_words == 0, np.arange(len(of_words)), 0).astype(np.uint64)  # no words
        first_words = find_originals(of_words, own)
        del num_chars, high, low, own
        is_first = originals == np.arange(len(originals))
        groups = find_groups((band.read() for band in bands), is_first & (of_words != 0))
        shingles = held.enter_context(closing(Spool(folder, np.uint64)))
        ends = _gather_shingles(parts(), groups, shingles)

        def shingles_of(place: int) -> U64:
            return shingles.read(int(ends[place]), int(ends[place + 1]))

        near = find_neighbours(groups, order, originals, shingles_of, jaccard)
        return Repeats(originals, first_words, near, lines.find_common(near.component))


def _gather(
    parts: Iterable[pa.RecordBatch], bands: list[Spool], lines: Scattered
) -> list[npt.NDArray[np.uint64]]:
    """Return what is held of each document; the rest goes to files.

    Returns:
        (D,) each: characters (int64), upper and lower half of the hash of its bytes, that of its
        words.

    Raises:
        CorpusError: there is no document at all
    """
    names = ("num_chars", "hash_high", "hash_low", "words_hash")
    columns: list[list[np.ndarray]] = [[] for _ in names]
    row = 0
    for part in parts:
        for name, column in zip(names, columns, strict=True):
            column.append(to_array(part.column(name)).copy())
        keys = to_array(part.column("bands").flatten()).reshape(-1, NUM_BANDS)
        for band, own in zip(bands, keys.T, strict=True):
            band.append(own)
        lines.add(*stretches_in(part), row)
        row += part.num_rows
    if not row:
        raise CorpusError("no text was found: is this the right corpus, or field?")
    return [np.concatenate(column) for column in columns]


def _gather_shingles(parts: Iterable[pa.RecordBatch], groups: Groups, shingles: Spool) -> I64:
    """Write the shingles of documents that share a band, and return where each begins: (C + 1,)."""
    ends, row = [0], 0
    for part in parts if len(groups.documents) else ():
        column, stop = part.column("shingles"), row + part.num_rows
        offsets, values = to_array(column.offsets), to_array(column.values)
        first, last = np.searchsorted(groups.documents, [row, stop])
        for document in (groups.documents[first:last] - row).tolist():
            own = np.unique(values[offsets[document] : offsets[document + 1]])
            shingles.append(own)
            ends.append(ends[-1] + len(own))
        row = stop
    return np.array(ends, np.int64)
