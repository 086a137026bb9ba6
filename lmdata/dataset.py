"""Opening what was built: memory-mapped, verified, refused in one clear line if it is not whole.

Arrays are views on the memory map: opening a store of any size takes milliseconds and no memory.
A block is compared with its hashes before it is used for the first time.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmdata.batch import (
    NO_LABEL,
    SEGMENT_LENGTHS,
    TARGET_IDS,
    TARGET_LENGTHS,
    ExampleBatch,
    concatenate,
    from_record_batch,
    no_examples,
    split_segments,
    to_array,
)
from lmdata.copies import at_hand
from lmdata.errors import IntegrityError, MismatchError
from lmdata.ragged import Ragged, offsets_of
from lmdata.recipes import Recipe
from lmdata.schema import (
    SPLITS,
    DatasetKind,
    Manifest,
    read_manifest,
    read_settings,
    smallest_id_dtype,
)
from lmdata.shards import OFFSETS, Block, Verify, read_blocks
from lmdata.tokenizer import TOKENIZER_FOLDER, Tokenizer, load_tokenizer


class StoreBlock:
    """One record batch of a token store: d documents, t tokens, s sentences; views, not copies.

    A column is compared with its hash, and looked at for what a kernel may not meet, when it is
    asked for.
    """

    def __init__(self, block: Block, vocab_size: int) -> None:
        self.first_row = block.first_row  # row, within the split, of the first document
        self.num_documents: int = block.batch.num_rows
        self._block, self._vocab_size = block, vocab_size
        ids, lengths = (block.batch.column(name) for name in ("input_ids", "sentence_lengths"))
        self.unchecked_ids, self.unchecked_lengths = to_array(ids.values), to_array(lengths.values)
        self.num_tokens, self.num_sentences = len(ids.values), len(lengths.values)

    @cached_property
    def ids(self) -> np.ndarray:
        """Ids of all documents, uint16 | uint32 (t,), each below the size of the vocabulary."""
        self._block.check("input_ids")
        largest = int(self.unchecked_ids.max(initial=0))
        if largest >= self._vocab_size:
            problem = f"id {largest} is not below the vocabulary's {self._vocab_size}"
            raise self._block.damage("input_ids", problem)
        return self.unchecked_ids

    @cached_property
    def id_offsets(self) -> np.ndarray:
        """Where documents begin in `ids`, int64 (d+1,)."""
        return self._offsets("input_ids")

    @cached_property
    def sentence_lengths(self) -> np.ndarray:
        """Tokens of each sentence, uint32 (s,), at least 1; they sum to those of the documents."""
        for name in ("source", "position", "sentence_lengths"):  # all that is small, at once
            self._block.check(name)
        lengths = self.unchecked_lengths
        totals = offsets_of(lengths)
        starts = self.sentence_offsets
        if not np.array_equal(np.diff(totals[starts]), np.diff(self.id_offsets)):
            raise self._block.damage(name, "they do not sum to the tokens of each document")
        if not lengths[int(starts[0]) : int(starts[-1])].all():
            raise self._block.damage(name, "there is a sentence without a token")
        return lengths

    @cached_property
    def sentence_offsets(self) -> np.ndarray:
        """Where documents begin in `sentence_lengths`, int32 (d+1,)."""
        return self._offsets("sentence_lengths")

    @cached_property
    def positions(self) -> np.ndarray:
        """Line or record of each document in its source, uint64 (d,)."""
        self._block.check("position")
        return to_array(self._block.batch.column("position"))

    @cached_property
    def source_codes(self) -> np.ndarray:
        """Source of each document, int32 (d,), into `source_names`."""
        self._block.check("source")
        codes = to_array(self._block.batch.column("source").indices)
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(self.source_names):
            raise self._block.damage("source", f"it names none of {len(self.source_names)} sources")
        return codes

    @property
    def source_names(self) -> pa.Array:
        """Names of sources, string."""
        return self._block.batch.column("source").dictionary

    def _offsets(self, name: str) -> np.ndarray:
        self._block.check(name + OFFSETS)
        column = self._block.batch.column(name)
        rows = Ragged(to_array(column.values), to_array(column.offsets))
        try:
            rows.check()
        except ValueError as error:
            raise self._block.damage(name, str(error)) from error
        return rows.offsets


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
        self.num_tokens = sum(block.num_tokens for block in blocks)
        self.num_sentences = sum(block.num_sentences for block in blocks)
        self._first_rows = np.array([block.first_row for block in blocks], np.int64)

    def __len__(self) -> int:
        return self.num_documents

    def document(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids (t,) and sentence lengths (s,) of a document.

        Raises:
            IndexError: no such row in this split
            IntegrityError: the block that holds it is damaged
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
        blocks: list[Block],
    ) -> None:  # fmt: skip
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.split = split
        self.num_examples = manifest.num_rows(split)
        settings = read_settings(manifest)
        self._stored = tuple(column for column in settings.all_columns if column.is_stored)
        self._id_dtype = smallest_id_dtype(manifest.tokenizer.vocab_size)
        self.recipe = settings.recipe
        self._segment_end = segment_end(settings.recipe, tokenizer)
        self._blocks = blocks
        self._opened: dict[int, ExampleBatch] = {}
        self._first_rows = np.array([block.first_row for block in blocks], np.int64)

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

    def original(self, batch: ExampleBatch) -> Ragged:
        """Return the ids of some of the examples before the corruption, with special tokens."""
        noise = self.recipe.noise
        if noise is not None:
            return noise.restore(batch, self.tokenizer)
        return Ragged(batch.original_ids(), batch.offsets)

    def _block(self, place: int) -> ExampleBatch:
        """Return a record batch as examples, checked when it is used for the first time."""
        if place not in self._opened:
            block = self._blocks[place]
            try:
                batch = from_record_batch(block.read(), self._stored)
                _check_values(batch, self.manifest.tokenizer.vocab_size)
            except ValueError as error:
                raise block.damage("", str(error)) from error
            self._opened[place] = batch
        return self._opened[place]

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
        path: the folder that `lmdata tokenize` wrote, or its URI in a store
        split: "train", "validation" or "test"
        tokenizer: refuse the store unless this one made it
        verify: "hashes" reads every byte of the split; "sizes" only looks at the files' sizes

    Raises:
        IntegrityError: unfinished, or a file is missing, truncated, swapped or altered
        VersionError: written by a newer format version
        MismatchError: made with another tokenizer, another kind of dataset, or no such split
    """
    folder = at_hand(path)
    manifest, own_tokenizer = _open_dataset(folder, "tokens", split, tokenizer)
    return _open_split(folder, manifest, own_tokenizer, split, verify)


def open_stores(path: Path | str) -> dict[str, TokenStore]:
    """Return the splits of a token store by name, train first; errors as of `open_store`."""
    folder = at_hand(path)
    manifest, tokenizer = _open_dataset(folder, "tokens", None, None)
    return {
        split: _open_split(folder, manifest, tokenizer, split)
        for split in SPLITS
        if split in manifest.splits
    }


def _open_split(
    folder: Path, manifest: Manifest, tokenizer: Tokenizer, split: str, verify: Verify = "sizes"
) -> TokenStore:
    blocks = read_blocks(folder, manifest, split, verify=verify)
    vocab_size = manifest.tokenizer.vocab_size
    opened = tuple(StoreBlock(block, vocab_size) for block in blocks)
    return TokenStore(manifest, tokenizer, split, opened)


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
    folder = at_hand(path)
    manifest, own_tokenizer = _open_dataset(folder, "examples", split, tokenizer)
    blocks = read_blocks(folder, manifest, split, verify=verify)
    return ExampleSet(manifest, own_tokenizer, split, blocks)


def _open_dataset(
    folder: Path, kind: DatasetKind, split: str | None, tokenizer: Tokenizer | None
) -> tuple[Manifest, Tokenizer]:
    """Return the manifest and the tokenizer of a dataset of a kind, with a split if one is named.

    Args:
        folder: of the dataset
        kind: that it must be of
        split: that it must have
        tokenizer: that it must have been made with
    """
    manifest = read_manifest(folder)
    if manifest.kind != kind:
        maker = {"tokens": "lmdata tokenize", "examples": "lmdata mask"}
        raise MismatchError(
            f"{folder} holds {manifest.kind}, not {kind}: give a folder made by `{maker[kind]}`"
        )
    if split is not None and split not in manifest.splits:
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


def _check_values(batch: ExampleBatch, vocab_size: int) -> None:
    """Raise a ValueError for values of examples that a kernel may not meet."""
    for name in (column.name for column in batch.columns if column.dtype is None):
        largest = int(batch.arrays()[name].max(initial=0))
        if largest >= vocab_size:
            raise ValueError(f"column {name}: {largest} is not below the vocabulary's {vocab_size}")
    _check_segments(batch)
    lengths = np.repeat(np.diff(batch.offsets), np.diff(batch.mask_offsets))
    begin, end = int(batch.mask_offsets[0]), int(batch.mask_offsets[-1])
    if (batch.masked_positions[begin:end] >= lengths).any():
        raise ValueError("column masked_positions: a position lies behind the end of its example")
    labels = batch.next_sentence_label
    if len(labels) and not NO_LABEL <= int(labels.min()) <= int(labels.max()) <= 1:
        raise ValueError("column next_sentence_label: a label is neither 0 nor 1")


def _check_segments(batch: ExampleBatch) -> None:
    """Raise a ValueError where the lengths of stored segments do not sum to their rows."""
    offsets = {SEGMENT_LENGTHS.name: "offsets", TARGET_LENGTHS.name: TARGET_IDS.offsets}
    for name, of_rows in offsets.items():
        if name not in batch.arrays():
            continue
        lengths = batch.arrays()[name].astype(np.int64)
        ends = offsets_of(lengths)[batch.segment_offsets]
        if (lengths < 0).any() or (np.diff(ends) != np.diff(batch.arrays()[of_rows])).any():
            raise ValueError(f"column {name}: the lengths do not sum to the tokens of their rows")
