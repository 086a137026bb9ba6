"""Opening what was built: memory-mapped, verified, refused in one clear line if it is not whole.

Arrays are views on the memory map: opening a store of any size takes milliseconds and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmdata.batch import (
    SEGMENT_LENGTHS,
    ExampleBatch,
    concatenate,
    no_examples,
    split_segments,
)
from lmdata.columns import from_record_batch, to_array
from lmdata.errors import IntegrityError, MismatchError
from lmdata.recipes import Recipe
from lmdata.schema import (
    SPLITS,
    Kind,
    Manifest,
    read_manifest,
    read_settings,
    smallest_id_dtype,
)
from lmdata.shards import Verify, read_batches
from lmdata.tokenizer import TOKENIZER_FOLDER, Tokenizer, load_tokenizer


@dataclass(frozen=True)
class StoreBlock:
    """One record batch of a token store: d documents, t tokens, s sentences; views, not copies."""

    first_row: int  # row, within the split, of the first document
    ids: np.ndarray  # uint16 | uint32 (t,)
    id_offsets: np.ndarray  # int64 (d+1,)  into ids
    sentence_lengths: np.ndarray  # uint32 (s,)
    sentence_offsets: np.ndarray  # int32 (d+1,)  into sentence_lengths
    positions: np.ndarray  # uint64 (d,)  line or record in the source
    source_codes: np.ndarray  # int32 (d,)  into source_names
    source_names: pa.Array  # string

    @property
    def num_documents(self) -> int:
        """The documents of this block."""
        return len(self.positions)


class TokenStore:
    """Every document of one split, once, as ids and sentence lengths; made by `open_store`."""

    def __repr__(self) -> str:
        """Say how much there is."""
        return (
            f"<TokenStore {self.split}: {self.num_documents:,} documents, "
            f"{self.num_sentences:,} sentences, {self.num_tokens:,} tokens>"
        )

    def __init__(
        self, manifest: Manifest, tokenizer: Tokenizer, split: str, blocks: tuple[StoreBlock, ...]
    ) -> None:
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.split = split
        self.blocks = blocks
        self.num_documents = sum(block.num_documents for block in blocks)
        self.num_tokens = sum(len(block.ids) for block in blocks)
        self.num_sentences = sum(len(block.sentence_lengths) for block in blocks)
        self._first_rows = np.array([block.first_row for block in blocks], np.int64)

    def __len__(self) -> int:
        return self.num_documents

    def document(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids (t,) and sentence lengths (s,) of a document.

        Raises:
            IndexError: no such row in this split
        """
        block, index = self._locate(row)
        first, last = block.id_offsets[index : index + 2]
        begin, end = block.sentence_offsets[index : index + 2]
        return block.ids[first:last], block.sentence_lengths[begin:end]

    def provenance(self, row: int) -> tuple[str, int]:
        """Return the source file of a document and its line or record there, from 0.

        Raises:
            IndexError: no such row in this split
        """
        block, index = self._locate(row)
        name = block.source_names[int(block.source_codes[index])].as_py()
        return name, int(block.positions[index])

    def _locate(self, row: int) -> tuple[StoreBlock, int]:
        if not 0 <= row < self.num_documents:
            raise IndexError(f"row {row} of split {self.split}: it has {self.num_documents} rows")
        block = self.blocks[int(np.searchsorted(self._first_rows, row, side="right")) - 1]
        return block, row - block.first_row


class ExampleSet:
    """Frozen examples of one split, read by row number; made by `open_examples`."""

    def __repr__(self) -> str:
        """Say how many there are."""
        return f"<ExampleSet {self.split}: {self.num_examples:,} examples>"

    def __init__(
        self, manifest: Manifest, tokenizer: Tokenizer, split: str,
        batches: list[tuple[int, pa.RecordBatch]],
    ) -> None:  # fmt: skip
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.split = split
        self.num_examples = manifest.num_rows(split)
        settings = read_settings(manifest)
        self._stored = tuple(column for column in settings.all_columns if column.is_stored)
        self._id_dtype = smallest_id_dtype(manifest.tokenizer.vocab_size)
        self._segment_end = segment_end(settings.recipe, tokenizer)
        self._records = [record for _, record in batches]
        self._blocks: dict[int, ExampleBatch] = {}
        self._first_rows = np.array([row for row, _ in batches], np.int64)

    def __len__(self) -> int:
        return self.num_examples

    def rows(self, indices: np.ndarray) -> ExampleBatch:
        """Return the examples at the rows `indices` (B,), in that order, repeats allowed.

        Raises:
            IndexError: a row that is not in this split
            IntegrityError: a block that holds some of them is damaged
        """
        rows = np.asarray(indices, np.int64)
        outside = rows[(rows < 0) | (rows >= self.num_examples)]
        if len(outside):
            raise IndexError(
                f"row {outside[0]} of split {self.split}: it has {self.num_examples} examples"
            )
        places = np.searchsorted(self._first_rows, rows, side="right") - 1  # (B,) block of each
        order = np.argsort(places, kind="stable")
        found = [
            self._block(place).take(rows[places == place] - self._first_rows[place])
            for place in np.unique(places).tolist()
        ]
        batch = concatenate(found or [no_examples(self._stored, self._id_dtype)])
        if bool((order[1:] < order[:-1]).any()):
            batch = batch.take(np.argsort(order))
        return self._with_segments(batch)

    def _block(self, place: int) -> ExampleBatch:
        """Return a record batch as examples, checked when it is used for the first time."""
        if place not in self._blocks:
            try:
                self._blocks[place] = from_record_batch(self._records[place], self._stored)
            except ValueError as error:
                raise IntegrityError(
                    f"the block of examples from row {self._first_rows[place]} of split "
                    f"{self.split} is damaged ({error}): restore it, or build it again"
                ) from error
        return self._blocks[place]

    def _with_segments(self, batch: ExampleBatch) -> ExampleBatch:
        """Return the examples with their segments, unless the shards hold them."""
        if SEGMENT_LENGTHS.name in batch.arrays():
            return batch
        lengths, offsets = np.diff(batch.offsets).astype(np.int32), np.arange(len(batch) + 1)
        if self._segment_end is not None:
            lengths, offsets = split_segments(batch.input_ids, batch.offsets, self._segment_end)
        columns = (*self._stored, SEGMENT_LENGTHS)
        return ExampleBatch(
            columns, **batch.arrays(), segment_lengths=lengths, segment_offsets=offsets
        )


def segment_end(recipe: Recipe, tokenizer: Tokenizer) -> int | None:
    """Return the special token that ends each segment of a packed row, None for other views."""
    return recipe.frame(tokenizer.special_ids)[1] if recipe.view_traits.is_packed else None


def open_store(
    path: Path | str, split: str = "train", *,
    tokenizer: Tokenizer | None = None, verify: Verify = "sizes",
) -> TokenStore:  # fmt: skip
    """Return a split of a token store, checked and memory-mapped.

    Args:
        path: the folder that `lmdata tokenize` wrote
        split: "train", "validation" or "test"
        tokenizer: refuse the store unless this one made it
        verify: "hashes" reads every byte of the split; "sizes" only looks at the files' sizes

    Raises:
        IntegrityError: unfinished, or a file is missing, truncated, swapped or altered
        VersionError: written by a newer format version
        MismatchError: made with another tokenizer, another kind of dataset, or no such split
    """
    folder = Path(path)
    manifest, own_tokenizer = _open_dataset(folder, "tokens", split, tokenizer)
    batches = read_batches(folder, manifest, split, verify=verify)
    blocks = tuple(_store_block(row, batch) for row, batch in batches)
    return TokenStore(manifest, own_tokenizer, split, blocks)


def open_stores(path: Path | str) -> dict[str, TokenStore]:
    """Return the splits of a token store by name, train first; errors as of `open_store`."""
    manifest = read_manifest(Path(path))
    return {split: open_store(path, split) for split in SPLITS if split in manifest.splits}


def open_examples(
    path: Path | str, split: str = "train", *,
    tokenizer: Tokenizer | None = None, verify: Verify = "sizes",
) -> ExampleSet:  # fmt: skip
    """Return a split of example shards, checked and memory-mapped; arguments as `open_store`.

    Raises:
        IntegrityError: unfinished, or a file is missing, truncated, swapped or altered
        VersionError: written by a newer format version
        MismatchError: made with another tokenizer, another kind of dataset, or no such split
    """
    folder = Path(path)
    manifest, own_tokenizer = _open_dataset(folder, "examples", split, tokenizer)
    batches = list(read_batches(folder, manifest, split, verify=verify))
    return ExampleSet(manifest, own_tokenizer, split, batches)


def _open_dataset(
    folder: Path, kind: Kind, split: str, tokenizer: Tokenizer | None
) -> tuple[Manifest, Tokenizer]:
    manifest = read_manifest(folder)
    if manifest.kind != kind:
        maker = {"tokens": "lmdata tokenize", "examples": "lmdata mask"}
        raise MismatchError(
            f"{folder} holds {manifest.kind}, not {kind}: give a folder made by `{maker[kind]}`"
        )
    if split not in manifest.splits:
        raise MismatchError(
            f"{folder} has no split {split!r}, it has {', '.join(sorted(manifest.splits))}"
        )
    if tokenizer is not None and tokenizer.hash != manifest.tokenizer.hash:
        raise MismatchError(
            f"{folder} was made with tokenizer {manifest.tokenizer.hash}, the one given is "
            f"{tokenizer.hash}: use {folder / TOKENIZER_FOLDER}, or build {folder} again"
        )
    return manifest, _own_tokenizer(folder, manifest)


def _own_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer:
    path = folder / TOKENIZER_FOLDER
    if not path.is_dir():
        raise IntegrityError(f"{path} is missing: restore it, or build {folder} again")
    tokenizer = load_tokenizer(path)
    if tokenizer.hash != manifest.tokenizer.hash:
        raise MismatchError(
            f"{path} has hash {tokenizer.hash}, but {folder} was made with "
            f"{manifest.tokenizer.hash}: restore that tokenizer, or build {folder} again"
        )
    return tokenizer


def _store_block(first_row: int, batch: pa.RecordBatch) -> StoreBlock:
    ids, lengths = batch.column("input_ids"), batch.column("sentence_lengths")
    sources = batch.column("source")
    return StoreBlock(
        first_row=first_row,
        ids=to_array(ids.values),
        id_offsets=to_array(ids.offsets),
        sentence_lengths=to_array(lengths.values),
        sentence_offsets=to_array(lengths.offsets),
        positions=to_array(batch.column("position")),
        source_codes=to_array(sources.indices),
        source_names=sources.dictionary,
    )
