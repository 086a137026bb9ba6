"""Token stores of real text to train on: paragraphs, and rows of one length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import DATA
from lmdata.corpus import CorpusConfig, Documents, find_sources, read_documents
from lmdata.encoding import make_encoder
from lmdata.tokenizer import Tokenizer
from lmdata.tokenizer_training import TokenizerConfig, train_tokenizer
from references.made_up import write_store

SHORTEST_PARAGRAPH = 16  # tokens; what is shorter is mostly headings
MAX_TRAINING_BYTES = 20_000_000


def wikipedia_is_there() -> bool:
    """Whether the raw Wikipedia files lie beside the project."""
    return any((DATA / "wikipedia-en").glob("*.jsonl.zst"))


def write_wikipedia_stores(folder: Path, *, num_files: int, vocab_size: int) -> None:
    """Write `rows` (126 tokens a document) and `paragraphs` (up to 510) of the same text.

    With [CLS] and [SEP] these are examples of 128 and of up to 512 tokens.
    """
    files = sorted((DATA / "wikipedia-en").glob("*.jsonl.zst"))[:num_files]
    config = TokenizerConfig(vocab_size=vocab_size, max_training_bytes=MAX_TRAINING_BYTES)
    tokenizer = train_tokenizer(_read(files), config, num_threads=2)
    ids, lengths = encode_lines(tokenizer, _read(files))
    ends = np.cumsum(lengths)
    kept = [ids[end - n : end][:510] for end, n in zip(ends, lengths, strict=True)]
    kept = [part for part in kept if len(part) >= SHORTEST_PARAGRAPH]
    flat = np.concatenate(kept)
    paragraphs = np.array([len(part) for part in kept])
    write_store(folder / "paragraphs", tokenizer, flat, paragraphs, paragraphs)
    rows = np.full(len(flat) // 126, 126)
    write_store(folder / "rows", tokenizer, flat[: rows.sum()], rows, rows)


def encode_lines(
    tokenizer: Tokenizer, batches: Iterator[Documents]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of all lines, uint16 or uint32 (T,), and the tokens of each, int64 (L,)."""
    encoder = make_encoder(tokenizer, num_threads=2)
    ids, lengths = [], []
    for batch in batches:
        breaks = np.flatnonzero(batch.text == ord("\n")) + 1
        offsets = np.unique(np.concatenate([batch.offsets, breaks])).astype(np.int64)
        encoded = encoder.encode(batch.text, offsets, offsets[:-1])
        ids.append(encoded.ids)
        lengths.append(np.diff(encoded.document_offsets))
    return np.concatenate(ids), np.concatenate(lengths)


def _read(files: list[Path]) -> Iterator[Documents]:
    corpus = CorpusConfig()
    for source in find_sources([str(file) for file in files], corpus):
        yield from read_documents(source, corpus)
