"""Receipts of all units, summed: the conservation ledger and what became of each source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lmdata.building.units import UnitReceipt
from lmdata.corpus import Source
from lmdata.schema import Flow, Ledger, ShardRecord, SourceRecord

Splits = Mapping[str, Sequence[ShardRecord]]


def combine_receipts(receipts: Sequence[UnitReceipt], splits: Splits) -> Ledger:
    """Return the ledger of a build: what the readers counted against what lies in the shards."""
    read: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    dropped_bytes: Counter[str] = Counter()
    written_bytes: Counter[str] = Counter(dict.fromkeys(splits, 0))
    for receipt in receipts:
        read.update(receipt.read)
        dropped.update(receipt.dropped)
        dropped_bytes.update(receipt.dropped_bytes)
        written_bytes.update(receipt.written_bytes)
    rows = {split: sum(shard.rows for shard in shards) for split, shards in splits.items()}
    tokens = {split: sum(shard.tokens for shard in shards) for split, shards in splits.items()}
    return Ledger(
        flows={
            "documents": Flow(read=read["documents"], written=rows, dropped=dict(dropped)),
            "bytes": Flow(
                read=read["bytes"], written=dict(written_bytes), dropped=dict(dropped_bytes)
            ),
            "tokens": Flow(read=read["tokens"], written=tokens, dropped={}),
        }
    )


def describe_sources(
    sources: Sequence[Source], receipts: Sequence[UnitReceipt]
) -> tuple[SourceRecord, ...]:
    """Return what the manifest keeps of each source."""
    documents: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    hashes: dict[str, str] = {}
    for receipt in receipts:
        documents.update(receipt.documents)
        tokens.update(receipt.tokens)
        hashes.update(receipt.hashes)
    return tuple(
        SourceRecord(
            name=source.name, bytes=source.size_bytes, xxh3=hashes[str(index)],
            documents=documents[str(index)], tokens=tokens[str(index)],
        )
        for index, source in enumerate(sources)
    )  # fmt: skip


def describe_nothing(receipts: Sequence[UnitReceipt]) -> str:
    """Say why there is nothing to write."""
    dropped: Counter[str] = Counter()
    for receipt in receipts:
        dropped.update(receipt.dropped)
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
    return f"no text was found: {reasons or 'no documents'}; is this the right corpus or field?"
