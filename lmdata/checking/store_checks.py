"""What a token store must hold beyond whole files: counted from the documents themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lmdata.checking.verdicts import Row, exact, none_of
from lmdata.dataset import StoreBlock, TokenStore, open_store
from lmdata.schema import Manifest
from lmdata.tokenizer import Tokenizer


def check_store(folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> Iterator[Row]:
    """Yield the checks on the contents of a token store."""
    stores = {split: open_store(folder, split) for split in manifest.splits}
    for split, store in stores.items():
        yield from _check_split(split, store, tokenizer)
    yield from _check_ledger(manifest, stores)
    yield from _check_sources(manifest, stores)


def _check_split(split: str, store: TokenStore, tokenizer: Tokenizer) -> Iterator[Row]:
    unknown_ids, special, unequal, empty_sentences = 0, 0, 0, 0
    is_special = _special_pieces(tokenizer)
    for block in store.blocks:
        outside = block.unchecked_ids >= len(is_special)
        unknown_ids += int(outside.sum())
        special += int(is_special[block.unchecked_ids[~outside]].sum())
        unequal += _num_unequal(block)
        empty_sentences += int((block.unchecked_lengths == 0).sum())
    yield none_of(f"{split}: ids outside the vocabulary", unknown_ids, store.num_tokens)
    yield none_of(f"{split}: special tokens that no text spells", special, store.num_tokens)
    yield none_of(
        f"{split}: documents whose sentence lengths don't sum to their tokens",
        unequal, store.num_documents,
    )  # fmt: skip
    yield none_of(f"{split}: sentences without a token", empty_sentences, store.num_sentences)


def spelled_specials(tokenizer: Tokenizer) -> np.ndarray:
    """Return the special pieces that a text may yield by spelling them, bool (V,).

    `</s>` is HTML, and a Unigram model that has it as a piece reads it as one.
    """
    is_spelled = np.zeros(tokenizer.vocab_size, bool)
    for index in np.flatnonzero(tokenizer.is_special & tokenizer.is_piece).tolist():
        spelling = tokenizer.piece(index)
        for text in (spelling, f"a{spelling}a"):
            found = tokenizer.backend.encode(text, add_special_tokens=False).ids
            is_spelled[index] |= index in found
    return is_spelled


def _special_pieces(tokenizer: Tokenizer) -> np.ndarray:
    """Return the special pieces that no text yields, bool (V,); the unknown one any may."""
    is_special: np.ndarray = tokenizer.is_special & ~spelled_specials(tokenizer)
    unknown = tokenizer.special_ids.get("unk")
    if unknown is not None:
        is_special[unknown] = False
    return is_special


def _num_unequal(block: StoreBlock) -> int:
    totals = np.concatenate(([0], np.cumsum(block.unchecked_lengths, dtype=np.int64)))
    by_sentences = np.diff(totals[block.sentence_offsets - block.sentence_offsets[0]])
    return int((by_sentences != np.diff(block.id_offsets)).sum())


def _check_ledger(manifest: Manifest, stores: dict[str, TokenStore]) -> Iterator[Row]:
    """Yield whether what the ledger says was written is what lies in the files."""
    found = {
        "documents": {split: store.num_documents for split, store in stores.items()},
        "tokens": {split: store.num_tokens for split, store in stores.items()},
    }
    for quantity, counts in found.items():
        flow = manifest.ledger.flows.get(quantity)
        promised = flow.written if flow is not None else None
        yield exact(f"ledger: {quantity} written, counted again", promised, counts)


def _check_sources(manifest: Manifest, stores: dict[str, TokenStore]) -> Iterator[Row]:
    """Yield whether each source gave what the manifest says, and each document is there once."""
    documents, tokens = Counter[str](), Counter[str]()
    places: dict[str, list[np.ndarray]] = {}
    for store in stores.values():
        for block in store.blocks:
            names = block.source_names.to_pylist()
            sizes = np.diff(block.id_offsets)
            for code in np.unique(block.source_codes).tolist():
                is_own = block.source_codes == code
                documents[names[code]] += int(is_own.sum())
                tokens[names[code]] += int(sizes[is_own].sum())
                places.setdefault(names[code], []).append(block.positions[is_own])
    repeated = sum(_num_repeated(np.concatenate(arrays)) for arrays in places.values())
    yield none_of("documents that are there twice, by source and position",
                  repeated, documents.total())  # fmt: skip
    wrong = [
        record.name
        for record in manifest.sources
        if (record.documents, record.tokens) != (documents[record.name], tokens[record.name])
        and record.documents is not None
    ]
    row = none_of(
        "sources whose documents and tokens are not those of the manifest",
        len(wrong), len(manifest.sources),
    )  # fmt: skip
    yield row


def _num_repeated(values: np.ndarray) -> int:
    return len(values) - len(np.unique(values))
