"""Receipts of all units, summed: the conservation ledger and what became of each source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lmdata.building.units import UnitReceipt
from lmdata.corpus import Source
from lmdata.encoding import RoundTrip
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
    sample = combine_round_trips(receipts)
    lost = sum(sample.lost.values())
    rows = {split: sum(shard.rows for shard in shards) for split, shards in splits.items()}
    tokens = {split: sum(shard.tokens for shard in shards) for split, shards in splits.items()}
    return Ledger(
        flows={
            "documents": Flow(read=read["documents"], written=rows, dropped=dict(dropped)),
            "bytes": Flow(
                read=read["bytes"], written=dict(written_bytes), dropped=dict(dropped_bytes)
            ),
            "tokens": Flow(read=read["tokens"], written=tokens, dropped={}),
            "characters": Flow(
                read=sample.characters, written={"come back": sample.characters - lost},
                dropped=sample.lost,
            ),
        }
    )  # fmt: skip


def combine_round_trips(receipts: Sequence[UnitReceipt]) -> RoundTrip:
    """Return what came back of the characters of all units' samples."""
    return sum((receipt.round_trip for receipt in receipts), RoundTrip())


def describe_encoding(receipts: Sequence[UnitReceipt]) -> tuple[str, ...]:
    """Return the notes of a store: how its text was encoded, and what does not come back."""
    encoders = sorted({f"encoder: {receipt.encoder}" for receipt in receipts})
    lost = combine_round_trips(receipts).sentence
    return (*encoders, *([lost] if lost else []))


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
