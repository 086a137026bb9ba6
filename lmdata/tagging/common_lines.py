"""Lines and paragraphs that stand in several documents of one source, counted in bounded memory.

Menus, notices and headers repeat within a site and nowhere else, so that a line is compared with
those of its own source. Copies of a document are told elsewhere: a line is common when it stands in
documents of different components, and a document whose only likeness is its own copy has none.

Hashes of 64 bits are scattered over `_NUM_SPOOLS` files by their upper bits, so that equal ones are
in one file, and each file is sorted by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.batch import to_array, to_column
from lmdata.encoders.word_kernels import hash_of, word_key
from lmdata.intrinsics import borrowed
from lmdata.ragged import frozen
from lmdata.tagging.characters import character_bits
from lmdata.tagging.line_kernels import find_feed, skip_space, trim_space
from lmdata.tagging.numbers import I64, U64, mixed
from lmdata.tagging.spool import Spool

VERSION = "common-lines-1"
NAMES = ("common_line_ratio", "common_line_byte_ratio", "common_paragraph_ratio",
         "common_paragraph_byte_ratio")  # fmt: skip
FIELDS = tuple(pa.field(name, pa.float64(), nullable=False) for name in NAMES)
STRETCH = pa.list_(pa.field("item", pa.uint64(), nullable=False), 2)
"""A line or paragraph: its hash, and its bytes, with `_PARAGRAPH` added where it is one."""

_NUM_SPOOLS = 64  # files that are open at a time
_PARAGRAPH = np.uint64(1 << 63)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SCATTERED = np.dtype([("key", "<u8"), ("size", "<u8"), ("row", "<u4")])


def list_stretches(text: npt.NDArray[np.uint8], offsets: I64, source: int) -> tuple[U64, I64]:
    r"""Return the lines and paragraphs of documents that hold more than white space.

    Args:
        text: uint8 (N,), UTF-8
        offsets: int64 (D + 1,), where documents begin
        source: that they are of; another gives other hashes

    Returns:
        uint64 (S, 2), as `STRETCH` has them, and int64 (D + 1,), where documents begin among them.

    Example:
        >>> text = np.frombuffer(b"a \nb\n\na", np.uint8)
        >>> found, rows = list_stretches(text, np.array([0, len(text)]), 0)
        >>> found[:, 1] >= _PARAGRAPH, bool(found[0, 0] == found[3, 0]), rows.tolist()
        (array([False, False,  True, False,  True]), True, [0, 5])
    """
    num_lines = int((text == 10).sum()) + len(offsets)
    found, rows = np.empty((2 * num_lines, 2), np.uint64), np.empty(len(offsets), np.int64)
    _list(frozen(text), offsets, character_bits(), source, found, rows)
    return found[: rows[-1]], rows


@numba.njit(cache=True, nogil=True)
def _list(
    text: np.ndarray, offsets: np.ndarray, bits: np.ndarray, source: int, found: np.ndarray,
    rows: np.ndarray,
) -> None:  # fmt: skip
    num, salt = np.int64(0), mixed(np.uint64(source + 1))
    for document in range(len(offsets) - 1):
        rows[document] = num
        begin, stop = offsets[document], offsets[document + 1]
        key, size = salt, np.int64(0)
        while begin < stop:
            end = find_feed(borrowed(text), begin, stop)
            first = skip_space(borrowed(text), begin, end, borrowed(bits))
            last = trim_space(borrowed(text), first, end, borrowed(bits))
            if last > first:
                own = hash_of(word_key(borrowed(text), first, last), last - first)
                found[num, 0], found[num, 1] = mixed(own ^ salt), np.uint64(last - first)
                key = mixed(key * _MULTIPLIER + own)
                size += last - first
                num += 1
            if size and (last == first or end == stop):
                found[num, 0], found[num, 1] = key, np.uint64(size) | _PARAGRAPH
                key, size = salt, np.int64(0)
                num += 1
            begin = end + 1
        if size:  # the last line ends in a line feed
            found[num, 0], found[num, 1] = key, np.uint64(size) | _PARAGRAPH
            num += 1
    rows[len(offsets) - 1] = num


@dataclass(frozen=True)
class CommonLines:
    """What of each of D documents stands in others of its source.

    Attributes:
        counts: int64 (D, 2), lines and paragraphs
        sizes: int64 (D, 2), bytes of these
    """

    counts: I64
    sizes: I64

    def columns(self, part: pa.RecordBatch, row: int) -> list[pa.Array]:
        """Return the columns `FIELDS` of a part of a unit, whose first document has this row."""
        found, ends = stretches_in(part)
        rows = np.repeat(np.arange(part.num_rows), np.diff(ends))
        is_paragraph, sizes = found[:, 1] >= _PARAGRAPH, found[:, 1] & ~_PARAGRAPH
        columns, own = [], slice(row, row + part.num_rows)
        for kind, is_meant in enumerate((~is_paragraph, is_paragraph)):
            for common, values in ((self.counts, is_meant), (self.sizes, sizes * is_meant)):
                total = np.bincount(rows, values, part.num_rows)
                columns.append(to_column(common[own, kind] / np.maximum(total, 1)))
        return columns


class Scattered:
    """The lines and paragraphs of a corpus, by the upper bits of their hashes."""

    def __init__(self, folder: Path) -> None:
        """Begin with none, on the disk of a folder."""
        self._spools = [Spool(folder, _SCATTERED) for _ in range(_NUM_SPOOLS)]

    def add(self, found: U64, ends: I64, row: int) -> None:
        """Take those of documents from a row on, as `list_stretches` returns them."""
        rows = np.empty(len(found), _SCATTERED)
        rows["key"], rows["size"] = found.T
        rows["row"] = row + np.repeat(np.arange(len(ends) - 1), np.diff(ends))
        places = (found[:, 0] // np.uint64(2**64 // _NUM_SPOOLS)).astype(np.int16)
        order = np.argsort(places, kind="stable")
        bounds = np.searchsorted(places[order], np.arange(_NUM_SPOOLS + 1))
        for place in np.unique(places).tolist():
            self._spools[place].append(rows[order[bounds[place] : bounds[place + 1]]])

    def close(self) -> None:
        """Give their place on the disk back."""
        for spool in self._spools:
            spool.close()

    def find_common(self, component: I64) -> CommonLines:
        """Return what stands in documents of different components, int64 (D,)."""
        counts, sizes = (np.zeros((len(component), 2), np.int64) for _ in range(2))
        for spool in self._spools:
            own = spool.read()
            own = own[np.argsort(own["key"], kind="stable")]
            rows, is_common = own["row"], _is_shared(own["key"], component[own["row"]])
            kind = (own["size"] >= _PARAGRAPH).astype(np.int64)
            places = rows[is_common], kind[is_common]
            np.add.at(counts, places, 1)
            np.add.at(sizes, places, (own["size"] & ~_PARAGRAPH)[is_common].astype(np.int64))
        return CommonLines(counts, sizes)


def _is_shared(keys: U64, component: I64) -> npt.NDArray[np.bool_]:
    """Return which of ascending keys have several components, bool (S,).

    Example:
        >>> _is_shared(np.array([3, 3, 5, 5], np.uint64), np.array([1, 1, 1, 2])).tolist()
        [False, False, True, True]
    """
    if not len(keys):
        return np.zeros(0, bool)
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    counts = np.diff(np.append(starts, len(keys)))
    is_other = component != np.repeat(component[starts], counts)
    return np.repeat(np.logical_or.reduceat(is_other, starts), counts)


def stretches_in(part: pa.RecordBatch) -> tuple[U64, I64]:
    """Return the lines and paragraphs of a part, as `list_stretches` does."""
    column = part.column("stretches")
    ends = to_array(column.offsets)
    return to_array(column.flatten().flatten()).reshape(-1, 2), ends - ends[0]
