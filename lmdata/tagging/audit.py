"""Rows of tags, looked at again as they were written: none lost, doubled or said to be another.

The ledger of a build counts what it meant to write; this counts what lies there. Verdicts are
compared with the figures beside them, so that a row can't say one thing and mean the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.batch import to_array
from lmdata.errors import IntegrityError
from lmdata.schema import Flow, SourceRecord
from lmdata.tagging.rules import ABSTAINS, RULES, figures_of, judge, rules_told

_NAMED = np.dtype([("hash_high", "<u8"), ("hash_low", "<u8"), ("original", "<i8"),
                   ("nearest", "<i8")])  # fmt: skip


def check_rows(
    batches: Iterable[pa.RecordBatch], sources: Sequence[SourceRecord], flows: Mapping[str, Flow],
    jaccard: float,
) -> None:  # fmt: skip
    """Check that tags are of every document once, and say of each what their figures say.

    Args:
        batches: of tags, in order; one is held at a time
        sources: with the documents that were read of each
        flows: of documents and bytes
        jaccard: from which on a document is a near duplicate

    Raises:
        IntegrityError: they are not, which is a bug of ours
    """
    places, named, totals = _Places(sources), list[np.ndarray](), {"documents": 0, "bytes": 0}
    for batch in batches:
        places.check(batch)
        for rule in rules_told(batch.schema.names):
            _check_verdicts(batch, rule, totals["documents"])
        named.append(_what_is_named(batch, totals["documents"], jaccard))
        totals["documents"] += batch.num_rows
        totals["bytes"] += int(_column(batch, "num_bytes").sum())
    places.close()
    for quantity, found in totals.items():
        expected = flows[quantity].read - flows[quantity].total_dropped
        if found != expected:
            raise _wrong(f"they hold {found} {quantity} instead of {expected}")
    _check_repeats(np.concatenate(named))


def _wrong(problem: str) -> IntegrityError:
    return IntegrityError(f"the tags are not of what was read: {problem}; please report this")


def _column(batch: pa.RecordBatch, name: str) -> np.ndarray:
    return to_array(batch.column(name))


def _truths(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.bool_]:
    return np.asarray(batch.column(name).to_numpy(zero_copy_only=False), bool)


def _texts(batch: pa.RecordBatch, name: str) -> np.ndarray:
    found: np.ndarray = batch.column(name).cast(pa.string()).to_numpy(zero_copy_only=False)
    return found


class _Places:
    """Whether the documents of each source lie together, in order, and as many as were read."""

    def __init__(self, sources: Sequence[SourceRecord]) -> None:
        self._sources = sources
        self._ends = np.cumsum([source.documents or 0 for source in sources])
        self._row, self._last = 0, (-1, 0)  # source and position of the row before

    def check(self, batch: pa.RecordBatch) -> None:
        """Check the next rows."""
        rows = np.arange(self._row, self._row + batch.num_rows)
        numbers = np.searchsorted(self._ends, rows, side="right")
        if rows[-1] >= self._ends[-1]:
            raise _wrong(f"row {self._ends[-1]} is of no source")
        names = np.array([source.name for source in self._sources], object)[numbers]
        is_other = names != _texts(batch, "source")
        if is_other.any():
            place = int(is_other.argmax())
            raise _wrong(f"row {rows[place]} is not of {names[place]}")
        positions = np.append(np.uint64(self._last[1]), _column(batch, "position"))
        numbers = np.append(self._last[0], numbers)
        is_behind = (positions[1:] <= positions[:-1]) & (numbers[1:] == numbers[:-1])
        if is_behind.any():
            place = int(is_behind.argmax())
            raise _wrong(f"{names[place]}: row {rows[place]} is out of order")
        self._row, self._last = int(rows[-1]) + 1, (int(numbers[-1]), int(positions[-1]))

    def close(self) -> None:
        """Check that none is missing."""
        if len(self._ends) and self._row != self._ends[-1]:
            raise _wrong(f"they hold {self._row} documents instead of {self._ends[-1]}")


def _check_verdicts(batch: pa.RecordBatch, rule: str, first: int) -> None:
    figures = {name: _column(batch, name) for name in (*figures_of([rule]), "unspaced_ratio")}
    expected = judge(figures, rule)
    said = -_truths(batch, rule).astype(np.int8)  # kept: -1
    said[batch.column(rule).is_null().to_numpy(zero_copy_only=False)] = ABSTAINS
    texts = np.array([*(limit.reason for limit in RULES[rule]), None, None], object)
    reasons = _texts(batch, f"{rule}_reason")
    is_wrong = (said != np.minimum(expected, 0)) | (reasons != texts[expected])
    if is_wrong.any():
        raise _wrong(f"row {first + int(is_wrong.argmax())}: {rule} is not what its figures say")


def _what_is_named(batch: pa.RecordBatch, first: int, jaccard: float) -> np.ndarray:
    """Return what documents repeat, as `_NAMED`, where each names one if and only if it repeats."""
    rows = np.arange(first, first + batch.num_rows)
    found = np.empty(batch.num_rows, _NAMED)
    for name in ("hash_high", "hash_low"):
        found[name] = _column(batch, name)
    is_copy, is_near = _truths(batch, "duplicate"), _truths(batch, "near_duplicate")
    of_copy, of_near = batch.column("duplicate_of"), batch.column("near_of")
    found["original"] = np.where(is_copy, _numbers(of_copy), rows)
    found["nearest"] = np.where(is_near, _numbers(of_near), rows)
    is_wrong = (
        (is_near & ((found["nearest"] == rows) | (_column(batch, "near_jaccard") < jaccard)))
        | (is_copy != of_copy.is_valid().to_numpy(zero_copy_only=False))
        | (is_near & of_near.is_null().to_numpy(zero_copy_only=False))
    )
    if is_wrong.any():
        raise _wrong_name(first + int(is_wrong.argmax()))
    return found


def _numbers(column: pa.Array) -> npt.NDArray[np.int64]:
    return to_array(column.fill_null(0)).astype(np.int64)


def _check_repeats(named: np.ndarray) -> None:
    """Check that what repeats an earlier document names one that has its bytes, or stays."""
    rows, original, nearest = np.arange(len(named)), named["original"], named["nearest"]
    order = np.lexsort((named["hash_low"], named["hash_high"]))
    high, low = named["hash_high"][order], named["hash_low"][order]
    is_new = np.append(True, (high[1:] != high[:-1]) | (low[1:] != low[:-1]))[: len(rows)]
    first = np.empty(len(rows), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(is_new, rows, 0))]
    is_wrong = (first != original) | (nearest >= len(rows))
    is_wrong |= (nearest != rows) & (nearest[np.minimum(nearest, len(rows) - 1)] != nearest)
    if is_wrong.any():
        raise _wrong_name(int(is_wrong.argmax()))


def _wrong_name(row: int) -> IntegrityError:
    return _wrong(f"row {row} names another document than it repeats")
