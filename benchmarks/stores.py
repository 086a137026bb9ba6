"""Token stores to train on: real paragraphs, rows of one length, or words drawn by Zipf's law."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.measure import DATA
from lmdata.building.output import OutputFolder
from lmdata.corpus import CorpusConfig, Documents, find_sources, read_documents
from lmdata.encoding import make_encoder
from lmdata.schema import (
    FORMAT_VERSION,
    TOKENIZER_FOLDER,
    Flow,
    Ledger,
    Manifest,
    TokenizerIdentity,
    smallest_id_dtype,
    token_schema,
)
from lmdata.tokenizer import Tokenizer, save_tokenizer, wordpiece_backend
from lmdata.training import TokenizerConfig, train_tokenizer
from lmdata.writer import ShardWriter

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTENCE_TOKENS = 24  # of a made-up sentence
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


def write_synthetic_store(folder: Path, *, num_tokens: int, vocab_size: int, seed: int = 0) -> None:
    """Write a store of made-up documents, so that a machine without data can be measured."""
    words = [f"w{index}" for index in range(vocab_size - len(SPECIALS))]
    vocabulary = {piece: index for index, piece in enumerate([*SPECIALS, *words])}
    tokenizer = Tokenizer(wordpiece_backend(vocabulary, lower_case=True))
    ids, lengths = zipf_documents(num_tokens, vocab_size, seed=seed)
    sentences = np.concatenate([_cut(length) for length in lengths])
    write_store(folder, tokenizer, ids, lengths, sentences)


def zipf_documents(num_tokens: int, vocab_size: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids by Zipf's law, int64 (num_tokens,), and documents' lengths, lognormal, int64 (D,).

    Example:
        >>> ids, lengths = zipf_documents(1000, 50, seed=0)
        >>> int(lengths.sum()), int(ids.min()) >= len(SPECIALS), int(ids.max()) < 50
        (1000, True, True)
    """
    generator = np.random.default_rng(seed)
    ranks = np.arange(1, vocab_size - len(SPECIALS) + 1)
    shares = np.cumsum(1 / ranks)
    ids = np.searchsorted(shares, generator.random(num_tokens) * shares[-1]) + len(SPECIALS)
    drawn = np.clip(generator.lognormal(5, 1, num_tokens // 8 + 1), 8, 4096).astype(np.int64)
    ends = np.cumsum(drawn)
    whole = drawn[: np.searchsorted(ends, num_tokens)]
    return ids, np.append(whole, num_tokens - whole.sum())


def write_store(
    folder: Path,
    tokenizer: Tokenizer,
    ids: np.ndarray,
    document_lengths: np.ndarray,
    sentence_lengths: np.ndarray,
) -> None:
    """Write a token store of one split from flat arrays.

    Args:
        folder: to make
        tokenizer: of the ids
        ids: integers (T,)
        document_lengths: int64 (D,) that sum to T
        sentence_lengths: int64 (S,) that sum to T, none of them across documents
    """
    id_dtype = smallest_id_dtype(tokenizer.vocab_size)
    schema = token_schema(id_dtype)
    ends = np.cumsum(sentence_lengths)
    offsets = np.concatenate([[0], np.searchsorted(ends, np.cumsum(document_lengths)) + 1])
    columns = [
        pa.DictionaryArray.from_arrays(
            pa.array(np.zeros(len(document_lengths), np.int32)), pa.array(["benchmark"])
        ),
        pa.array(np.arange(len(document_lengths), dtype=np.uint64)),
        pa.LargeListArray.from_arrays(
            np.concatenate([[0], np.cumsum(document_lengths)]), pa.array(ids.astype(id_dtype))
        ).cast(schema.field("input_ids").type),
        pa.ListArray.from_arrays(
            offsets.astype(np.int32), pa.array(sentence_lengths.astype(np.uint32))
        ).cast(schema.field("sentence_lengths").type),
    ]
    _finish_store(folder, tokenizer, pa.RecordBatch.from_arrays(columns, schema=schema))


def _finish_store(folder: Path, tokenizer: Tokenizer, batch: pa.RecordBatch) -> None:
    with OutputFolder(folder) as output:
        writer = ShardWriter(folder, "train", batch.schema)
        writer.write(batch)
        shards = tuple(writer.finish())
        save_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)
        flow = Flow(read=batch.num_rows, written={"train": batch.num_rows}, dropped={})
        identity = TokenizerIdentity(
            hash=tokenizer.hash, vocab_size=tokenizer.vocab_size, kind="WordPiece"
        )
        manifest = Manifest(
            kind="tokens", format_version=FORMAT_VERSION, created_with="benchmarks",
            configuration={}, tokenizer=identity, sources=(), splits={"train": shards},
            ledger=Ledger(flows={"documents": flow}),
        )  # fmt: skip
        output.finish(manifest)


def _cut(length: int) -> np.ndarray:
    """Return the lengths of a document's sentences: all but the last alike."""
    whole, rest = divmod(int(length), SENTENCE_TOKENS)
    return np.array([SENTENCE_TOKENS] * whole + [rest] * (rest > 0))


def _read(files: list[Path]) -> Iterator[Documents]:
    corpus = CorpusConfig()
    for source in find_sources([str(file) for file in files], corpus):
        yield from read_documents(source, corpus)
