"""What a command prints at its end: one screen for people, the same facts for machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmdata.schema import Flow, Manifest
    from lmdata.tokenizer import Tokenizer


def size(num_bytes: float) -> str:
    """Return a number of bytes in the unit that reads best.

    Example:
        >>> size(999), size(1_500_000)
        ('999 B', '1.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def tokenizer_lines(tokenizer: Tokenizer, output: Path) -> list[str]:
    """Return the summary of a trained tokenizer."""
    return [
        f"{output}/  {tokenizer.vocab_size:,} pieces, hash {tokenizer.hash}",
        f"next: lmdata tokenize CORPUS --tokenizer {output}",
    ]


def manifest_summary(manifest: Manifest, output: Path, elapsed_s: float) -> dict[str, Any]:
    """Return the facts about a dataset that was just written."""
    return {
        "output": str(output),
        "seconds": round(elapsed_s, 3),
        "hash": manifest.hash,
        "rows": {split: manifest.num_rows(split) for split in manifest.splits},
        "shards": {split: len(shards) for split, shards in manifest.splits.items()},
        "bytes": sum(shard.bytes for shards in manifest.splits.values() for shard in shards),
        "ledger": {
            name: {"read": flow.read, "written": flow.written, "dropped": flow.dropped}
            for name, flow in manifest.ledger.flows.items()
        },
        "notes": list(manifest.notes),
    }


def manifest_lines(manifest: Manifest, output: Path, elapsed_s: float, rows: str) -> list[str]:
    """Return the one-screen summary of a dataset; `rows` is what a row is called."""
    facts = manifest_summary(manifest, output, elapsed_s)
    lines = [f"{output}/  {size(facts['bytes'])} in {elapsed_s:.1f} s"]
    for split, count in facts["rows"].items():
        tokens = sum(shard.tokens for shard in manifest.splits[split])
        lines.append(
            f"  {split:<10} {count:>12,} {rows} {tokens:>15,} tokens "
            f"{facts['shards'][split]:>4} shard{'s' if facts['shards'][split] != 1 else ''}"
        )
    lines += [_flow_line(name, flow) for name, flow in manifest.ledger.flows.items()]
    return lines + [f"  note       {note}" for note in manifest.notes]


def _flow_line(name: str, flow: Flow) -> str:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in flow.dropped.items() if count)
    return (
        f"  {name:<10} {flow.read:>12,} in = {flow.total_written:,} out + "
        f"{flow.total_dropped:,} dropped{f' ({dropped})' if dropped else ''}"
    )
