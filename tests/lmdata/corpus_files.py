"""What the tests of reading share: little files of every kind, and reading them back."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from hypothesis import strategies as st

from lmdata.corpus import CorpusConfig, Documents, find_sources, read_documents

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
    ".bz2": lambda data: bz2.compress(data, 1),
}
pieces = st.sampled_from(
    ["a", "word", "\n", "\n\n", "\r", "\r\n", " ", "\t", "\u3000", "é", "日本", "\x85", "\0"]
)


def write(path: Path, data: bytes | str = "text\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def texts_of(batches: list[Documents]) -> list[str]:
    return [
        batch.text[start:stop].tobytes().decode()
        for batch in batches
        for start, stop in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
    ]


def totals_of(batches: list[Documents], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for batch in batches:
        total.update(getattr(batch, name))
    return total


def read_all(path: Path, config: CorpusConfig, **options: Any) -> list[Documents]:
    (source,) = find_sources([str(path)], config)
    batches = list(read_documents(source, config, **options))
    for batch in batches:
        assert batch.text.dtype == np.uint8
        assert batch.offsets.dtype == np.int64
        assert batch.positions.dtype == np.uint64
        assert len(batch.offsets) == len(batch.positions) + 1
        assert batch.offsets[0] == 0
        assert batch.offsets[-1] == len(batch.text)
    return batches


def read(path: Path, batch_bytes: int = 8 << 20, **settings: Any) -> list[str]:
    return read_with_losses(path, batch_bytes, **settings)[0]


def read_with_losses(
    path: Path, batch_bytes: int = 8 << 20, **settings: Any
) -> tuple[list[str], dict[str, tuple[int, int]], list[int]]:
    """Return the texts, reason -> (documents, bytes) left out, and the positions."""
    config = CorpusConfig(**settings)
    (source,) = find_sources([str(path)], config)
    texts: list[str] = []
    positions: list[int] = []
    dropped: Counter[str] = Counter()
    dropped_bytes: Counter[str] = Counter()
    for batch in read_documents(source, config, batch_bytes=batch_bytes):
        texts += [batch.text[a:b].tobytes().decode() for a, b in itertools.pairwise(batch.offsets)]
        positions += batch.positions.tolist()
        dropped.update(batch.dropped)
        dropped_bytes.update(batch.dropped_bytes)
    return texts, {reason: (n, dropped_bytes[reason]) for reason, n in dropped.items()}, positions


def encode(texts: list[str | None], suffix: str, column: str = "text") -> bytes:
    """Return a file of the given kind with one text a record."""
    sink = io.BytesIO()
    table = pa.table({"id": range(len(texts)), column: pa.array(texts, pa.string())})
    if suffix == ".jsonl":
        return "".join(json.dumps({"id": 1, column: t}) + "\n" for t in texts).encode()
    if suffix == ".parquet":
        pq.write_table(table, sink, row_group_size=2)
    elif suffix in (".arrow", ".stream"):
        opener = pa.ipc.new_file if suffix == ".arrow" else pa.ipc.new_stream
        with opener(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    else:
        rows = io.StringIO(newline="")
        csv.writer(rows).writerows([["id", column], *([1, t] for t in texts)])
        return rows.getvalue().encode()
    return sink.getvalue()
