"""Rows of tags, looked at again as they were written: none lost, doubled or said to be another.

The ledger of a build counts what it meant to write; this counts what lies there. Verdicts are
compared with the figures beside them, so that a row can't say one thing and mean the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from lmdata.batch import to_array
from lmdata.errors import IntegrityError
from lmdata.schema import Flow, SourceRecord
from lmdata.tagging.rules import ABSTAINS, RULES, figures_of, judge, rules_told


def check_rows(
    table: pa.Table, sources: Sequence[SourceRecord], flows: Mapping[str, Flow], jaccard: float
) -> None:
    """Check that tags are of every document once, and say of each what their figures say.

    Args:
        table: of tags
        sources: with the documents that were read of each
        flows: of documents and bytes
        jaccard: from which on a document is a near duplicate

    Raises:
        IntegrityError: they are not, which is a bug of ours
    """
    _check_places(table, sources)
    totals = {"documents": len(table), "bytes": int(_column(table, "num_bytes").sum())}
    for quantity, found in totals.items():
        expected = flows[quantity].read - flows[quantity].total_dropped
        if found != expected:
            raise _wrong(f"they hold {found} {quantity} instead of {expected}")
    for rule in rules_told(table.column_names):
        _check_verdicts(table, rule)
    _check_repeats(table, jaccard)


def _wrong(problem: str) -> IntegrityError:
    return IntegrityError(f"the tags are not of what was read: {problem}; please report this")


def _column(table: pa.Table, name: str) -> np.ndarray:
    return to_array(table.column(name).combine_chunks())


def _check_places(table: pa.Table, sources: Sequence[SourceRecord]) -> None:
    """Check that the documents of each source lie together, in order, and as many as were read."""
    names = table.column("source").cast(pa.string()).to_numpy(zero_copy_only=False)
    positions, row = _column(table, "position"), 0
    for source in sources:
        count = source.documents or 0
        own = slice(row, row + count)
        if not (names[own] == source.name).all() or len(names[own]) != count:
            raise _wrong(f"rows {row} to {row + count} are not those of {source.name}")
        is_behind = positions[own][1:] <= positions[own][:-1]
        if is_behind.any():
            raise _wrong(f"{source.name}: row {row + int(is_behind.argmax()) + 1} is out of order")
        row += count


def _check_verdicts(table: pa.Table, rule: str) -> None:
    figures = {name: _column(table, name) for name in (*figures_of([rule]), "unspaced_ratio")}
    expected = judge(figures, rule)
    verdicts = table.column(rule)
    said = -verdicts.fill_null(fill_value=False).to_numpy().astype(np.int8)  # kept: -1
    said[verdicts.is_null().to_numpy()] = ABSTAINS
    texts = np.array([*(limit.reason for limit in RULES[rule]), None, None], object)
    reasons = table.column(f"{rule}_reason").cast(pa.string()).to_numpy(zero_copy_only=False)
    is_wrong = (said != np.minimum(expected, 0)) | (reasons != texts[expected])
    if is_wrong.any():
        raise _wrong(f"row {int(is_wrong.argmax())}: {rule} is not what its figures say")


def _check_repeats(table: pa.Table, jaccard: float) -> None:
    """Check that what repeats an earlier document names one that has its bytes, or stays."""
    rows = np.arange(len(table))
    is_copy, is_near = (np.asarray(table.column(name).to_numpy(), bool)
                        for name in ("duplicate", "near_duplicate"))  # fmt: skip
    of_copy, of_near = (table.column(name) for name in ("duplicate_of", "near_of"))
    original = np.where(is_copy, of_copy.fill_null(0).to_numpy(), rows).astype(np.int64)
    nearest = np.where(is_near, of_near.fill_null(0).to_numpy(), rows).astype(np.int64)
    hashes = np.column_stack([_column(table, "hash_high"), _column(table, "hash_low")])
    _, first, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    is_wrong = (
        (first[inverse.reshape(-1)] != original)
        | (is_near[nearest] & is_near)
        | (is_near & ((nearest == rows) | (_column(table, "near_jaccard") < jaccard)))
        | (is_copy != ~of_copy.is_null().to_numpy())
        | (is_near & of_near.is_null().to_numpy())
    )
    if is_wrong.any():
        raise _wrong(f"row {int(is_wrong.argmax())} names another document than it repeats")
