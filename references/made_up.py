"""Data that a machine without any can train on: words drawn by Zipf's law.

Token stores, or frozen examples where Numba is not installed, which views of a store need.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmdata.batch import NO_LABEL, ExampleBatch, to_record_batch
from lmdata.building.output import claim_folder
from lmdata.config import config_to_dict
from lmdata.recipes import Recipe
from lmdata.schema import (
    FORMAT_VERSION,
    DatasetKind,
    Flow,
    Ledger,
    Manifest,
    TokenizerIdentity,
    example_schema,
    read_manifest,
    smallest_id_dtype,
    token_schema,
)
from lmdata.tokenizer import TOKENIZER_FOLDER, Tokenizer, save_tokenizer, wordpiece_backend
from lmdata.writer import ShardWriter

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CLS, _SEP, _MASK = 2, 3, 4
SENTENCE_TOKENS = 24  # of a made-up sentence
SHORTEST_SEGMENT = 3  # tokens of a packed row: [CLS], one, [SEP]


def write_made_up_data(
    folder: Path, *, num_tokens: int, vocab_size: int, max_seq_length: int
) -> None:
    """Write what this machine can train on: a token store, or frozen examples without Numba."""
    if importlib.util.find_spec("numba") is not None:
        write_made_up_store(folder, num_tokens=num_tokens, vocab_size=vocab_size)
    else:
        write_made_up_examples(
            folder, num_rows=num_tokens // max_seq_length, vocab_size=vocab_size,
            max_seq_length=max_seq_length,
        )  # fmt: skip


def is_frozen(folder: Path) -> bool:
    """Whether a folder holds frozen examples, which no recipe can change."""
    return read_manifest(folder).kind == "examples"


def write_made_up_store(folder: Path, *, num_tokens: int, vocab_size: int, seed: int = 0) -> None:
    """Write a store of made-up documents, so that a machine without data can be measured."""
    tokenizer = _made_up_tokenizer(vocab_size)
    ids, lengths = zipf_documents(num_tokens, vocab_size, seed=seed)
    sentences = np.concatenate([_cut(length) for length in lengths])
    write_store(folder, tokenizer, ids, lengths, sentences)


def write_made_up_examples(
    folder: Path, *, num_rows: int, vocab_size: int, max_seq_length: int, seed: int = 0
) -> None:
    """Write masked rows of made-up documents, packed to the last token, as frozen examples."""
    recipe = Recipe(view="packed", max_seq_length=max_seq_length, count="bernoulli")
    tokenizer = _made_up_tokenizer(vocab_size)
    batch = packed_examples(num_rows, tokenizer.vocab_size, recipe, seed=seed)
    schema = example_schema(smallest_id_dtype(tokenizer.vocab_size))
    configuration = {"recipe": config_to_dict(recipe), "seed": seed, "epoch": 0}
    write_dataset(folder, "examples", tokenizer, to_record_batch(batch, schema), configuration)


def packed_examples(num_rows: int, vocab_size: int, recipe: Recipe, *, seed: int) -> ExampleBatch:
    """Return packed rows of made-up documents, each token masked by chance as a recipe says.

    Example:
        >>> recipe = Recipe(view="packed", max_seq_length=16, count="bernoulli")
        >>> batch = packed_examples(3, 50, recipe, seed=0)
        >>> np.diff(batch.offsets).tolist(), int(batch.segment_lengths.sum())
        ([16, 16, 16], 48)
    """
    generator = np.random.default_rng(seed)
    length, num_tokens = recipe.max_seq_length, num_rows * recipe.max_seq_length
    ids, _ = zipf_documents(num_tokens, vocab_size, seed=seed)
    ends = segment_ends(num_rows, length, generator)
    starts = np.concatenate([[0], ends[:-1]])
    ids[starts], ids[ends - 1] = _CLS, _SEP
    masked = np.flatnonzero(
        (generator.random(num_tokens) < recipe.mlm_probability) & (ids >= len(SPECIALS))
    )
    labels, draws = ids[masked], generator.random(len(masked))
    others = generator.integers(len(SPECIALS), vocab_size, len(masked))
    is_mask = draws < recipe.mask_proportion
    is_other = draws < recipe.mask_proportion + recipe.random_proportion
    ids[masked] = np.select([is_mask, is_other], [_MASK, others], labels)
    offsets, dtype = np.arange(num_rows + 1) * length, smallest_id_dtype(vocab_size)
    return ExampleBatch(
        input_ids=ids.astype(dtype), offsets=offsets,
        token_type_ids=np.zeros(num_tokens, np.uint8),
        masked_positions=(masked % length).astype(np.uint16),
        mask_offsets=np.searchsorted(masked, offsets), masked_labels=labels.astype(dtype),
        next_sentence_label=np.full(num_rows, NO_LABEL, np.int8),
        document_a=np.arange(num_rows, dtype=np.uint64),
        document_b=np.arange(num_rows, dtype=np.uint64),
        duplicate=np.zeros(num_rows, np.uint16),
        segment_lengths=np.diff(ends, prepend=0).astype(np.int32),
        segment_offsets=np.searchsorted(ends, offsets, side="right"),
    )  # fmt: skip


def segment_ends(num_rows: int, length: int, generator: np.random.Generator) -> np.ndarray:
    """Return where the segments of full rows end, int64 (S,): lognormal, the last one cut.

    Example:
        >>> segment_ends(2, 10, np.random.default_rng(0))[-1]
        np.int64(20)
    """
    drawn = _document_lengths(num_rows * (length // 8 + 1), generator)  # of 8 tokens at least
    ends = drawn.reshape(num_rows, -1).cumsum(axis=1)
    inside = ends <= length - SHORTEST_SEGMENT
    rows = np.arange(num_rows)
    return np.sort(np.concatenate([(ends + rows[:, None] * length)[inside], (rows + 1) * length]))


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
    drawn = _document_lengths(num_tokens // 8 + 1, generator)
    ends = np.cumsum(drawn)
    whole = drawn[: np.searchsorted(ends, num_tokens)]
    return ids, np.append(whole, num_tokens - whole.sum())


def _document_lengths(count: int, generator: np.random.Generator) -> np.ndarray:
    return np.clip(generator.lognormal(5, 1, count), 8, 4096).astype(np.int64)


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
    write_dataset(folder, "tokens", tokenizer, pa.RecordBatch.from_arrays(columns, schema=schema))


def write_dataset(
    folder: Path, kind: DatasetKind, tokenizer: Tokenizer, batch: pa.RecordBatch,
    configuration: dict[str, Any] | None = None, **sizes: int,
) -> Path:  # fmt: skip
    """Write one record batch as the train split of a dataset; validation is empty.

    Args:
        folder: to make
        kind: "tokens" or "examples"
        tokenizer: of the ids
        batch: of the kind's schema
        configuration: of the manifest; by default a recipe of defaults
        sizes: `shard_bytes` and `batch_bytes` of `ShardWriter`
    """
    with claim_folder(folder) as output:
        writer = ShardWriter(folder, "train", batch.schema, **sizes)
        writer.write(batch)
        shards = tuple(writer.finish())
        save_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)
        flow = Flow(read=batch.num_rows, written={"train": batch.num_rows}, dropped={})
        identity = TokenizerIdentity(
            hash=tokenizer.hash, vocab_size=tokenizer.vocab_size, kind="WordPiece"
        )
        manifest = Manifest(
            kind=kind, format_version=FORMAT_VERSION, created_with="benchmarks",
            configuration=configuration or {"recipe": {}, "seed": 0},
            tokenizer=identity, sources=(),
            splits={"train": shards, "validation": ()}, ledger=Ledger(flows={"documents": flow}),
        )  # fmt: skip
        output.finish(manifest)
    return folder


def _made_up_tokenizer(vocab_size: int) -> Tokenizer:
    words = [f"w{index}" for index in range(vocab_size - len(SPECIALS))]
    vocabulary = {piece: index for index, piece in enumerate([*SPECIALS, *words])}
    return Tokenizer(wordpiece_backend(vocabulary, lower_case=True))


def _cut(length: int) -> np.ndarray:
    """Return the lengths of a document's sentences: all but the last alike."""
    whole, rest = divmod(int(length), SENTENCE_TOKENS)
    return np.array([SENTENCE_TOKENS] * whole + [rest] * (rest > 0))
