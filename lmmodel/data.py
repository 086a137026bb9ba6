"""A token store or example shards, opened for training: rows by epoch, and what they promise."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from lmdata.batch import Column, ExampleBatch
from lmdata.chosen import ReadSelection, read_selection
from lmdata.copies import at_hand
from lmdata.dataset import ExampleSet, TokenStore, open_examples, open_store
from lmdata.errors import DatasetError, IntegrityError
from lmdata.order import permute
from lmdata.recipes import Recipe
from lmdata.schema import Manifest, read_manifest, read_settings
from lmdata.stores import is_uri
from lmdata.tokenizer import Tokenizer
from lmmodel.errors import FitError

# Training epochs count from 0, so the evaluation's view is never one that was trained on.
EVALUATION_EPOCH = 2**32 - 1
EVALUATION_SEED = 0

# Token counts of a sample this large are exact enough for a unigram distribution.
MAX_COUNTED_EXAMPLES = 200_000

_ONE_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a piece of a tokenizer that falls back to bytes


# Where an example comes from: what is sampled for it later is addressed by these.
ADDRESS = (Column("epoch", "int64", is_stored=False), Column("row", "int64", is_stored=False))


def addressed(examples: ExampleBatch, epoch: int, rows: np.ndarray) -> ExampleBatch:
    """Return the examples at int64 (B,) rows of an epoch with both in columns of their own."""
    arrays = {"epoch": np.full(len(rows), epoch, np.int64), "row": rows.astype(np.int64)}
    return ExampleBatch((*examples.columns, *ADDRESS), **examples.arrays(), **arrays)


class Rows(Protocol):
    """Examples in an order that is fresh in each epoch."""

    num_rows: int  # of an epoch

    def take(self, epoch: int, rows: np.ndarray, progress: float = 0.0) -> ExampleBatch:
        """Return the examples at int64 (B,) row numbers of an epoch, in this order.

        `progress` of the training, in [0, 1], moves a mask rate that changes.
        """


class StoreRows:
    """Views of a token store: other pairs, lengths and masks in each epoch."""

    def __init__(self, store: TokenStore, recipe: Recipe, seed: int, first_epoch: int = 0) -> None:
        from lmdata.views import view  # it brings Numba, which frozen shards can do without

        self._view = view(store, recipe, seed=seed, epoch=first_epoch)
        self.num_rows = len(self._view)

    def take(self, epoch: int, rows: np.ndarray, progress: float = 0.0) -> ExampleBatch:
        """As in `Rows`. The views of two epochs differ a little in length: rows wrap around."""
        view = self._view  # once: another thread may be in another epoch
        if view.epoch != epoch:
            view = self._view = view.at_epoch(epoch)
        return addressed(view.examples(rows % len(view), progress=progress), epoch, rows)


class Examples(Protocol):
    """Frozen examples."""

    @property
    def num_examples(self) -> int:
        """How many there are."""

    def rows(self, indices: np.ndarray) -> ExampleBatch:
        """Return some of them, int64 (B,)."""


class ShardRows:
    """Frozen examples, in another order in each epoch."""

    def __init__(self, examples: Examples, seed: int) -> None:
        self._examples = examples
        self._seed = seed
        self.num_rows = examples.num_examples

    def take(self, epoch: int, rows: np.ndarray, progress: float = 0.0) -> ExampleBatch:
        """As in `Rows`; the masks are fixed, whatever the progress."""
        order = permute(rows, self.num_rows, seed=self._seed, epoch=epoch)
        return addressed(self._examples.rows(order), epoch, rows)


@dataclass(frozen=True)
class TrainingData(ABC):
    """Data and what to know of it before reading rows."""

    path: Path
    tokenizer: Tokenizer
    origin: str = field(default="", kw_only=True)  # of a copy here: where in a store it is from

    @property
    def name(self) -> str:
        """What the dataset is found by again: its place in a store, or its path from the root."""
        return self.origin or str(self.path.resolve())

    @property
    @abstractmethod
    def hash(self) -> str:
        """What tells this data from other."""

    @property
    @abstractmethod
    def is_frozen(self) -> bool:
        """Whether examples are fixed, masks and all; else any recipe can be asked for."""

    @property
    @abstractmethod
    def frozen_recipe(self) -> Recipe | None:
        """What frozen examples were made by; None: of a store any recipe can be asked."""

    @property
    @abstractmethod
    def token_counts(self) -> np.ndarray:
        """How often each id occurs in the training split, before corruption: int64 (V,)."""

    @property
    def phase_shares(self) -> tuple[float, ...]:
        """The share of the training that each phase has."""
        return (1.0,)

    @abstractmethod
    def rows(
        self, split: str, recipe: Recipe, *, seed: int, first_epoch: int = 0, phase: int = 0
    ) -> Rows:
        """Return the rows of a split, of the training split those of a phase.

        Raises:
            FitError: the split is empty or absent, or too little for the recipe
        """

    def held_out(
        self, recipe: Recipe, num_examples: int, split: str = "validation"
    ) -> ExampleBatch:
        """Return the first examples of a held-out split, the same at every step and in every run.

        Raises:
            FitError: the split is empty or absent
        """
        if (split, recipe) not in self._held_out_rows:
            rows = self.rows(split, recipe, seed=EVALUATION_SEED, first_epoch=EVALUATION_EPOCH)
            self._held_out_rows[split, recipe] = rows
        rows = self._held_out_rows[split, recipe]
        return rows.take(EVALUATION_EPOCH, np.arange(min(num_examples, rows.num_rows)))

    @cached_property
    def _held_out_rows(self) -> dict[tuple[str, Recipe], Rows]:
        """The views of held-out splits that were asked for, by split and recipe."""
        return {}


@dataclass(frozen=True)
class DatasetFolder(TrainingData):
    """A token store or example shards."""

    manifest: Manifest
    selection: ReadSelection | None = None  # of the training split; None: all of it

    @property
    def hash(self) -> str:
        """That of the manifest, and of the selection's."""
        own = self.manifest.hash
        return own if self.selection is None else f"{own}-{self.selection.manifest.hash}"

    @property
    def phase_shares(self) -> tuple[float, ...]:
        """As in `TrainingData`: those of the selection."""
        return (1.0,) if self.selection is None else self.selection.manifest.phase_shares

    @property
    def is_frozen(self) -> bool:
        """Whether the folder holds example shards, whose masks are fixed, not a token store."""
        return self.manifest.kind == "examples"

    @property
    def frozen_recipe(self) -> Recipe | None:
        """As in `TrainingData`."""
        return read_settings(self.manifest).recipe if self.is_frozen else None

    def rows(
        self, split: str, recipe: Recipe, *, seed: int, first_epoch: int = 0, phase: int = 0
    ) -> Rows:
        """As in `TrainingData`, of a phase of the selection."""
        if not self.manifest.num_rows(split):
            raise FitError(self._why_empty(split))
        rows: Rows
        if self.is_frozen:
            rows = ShardRows(open_examples(self.path, split), seed)
        else:
            rows = self._store_rows(split, recipe, seed, first_epoch, phase)
        if not rows.num_rows:
            raise FitError(
                f"split {split} of {self.path} gives no example of {recipe.view}: "
                "its documents are too short for this recipe, or too few"
            )
        return rows

    def _store_rows(
        self, split: str, recipe: Recipe, seed: int, first_epoch: int, phase: int
    ) -> StoreRows:
        try:
            store = self._store(split, phase)
            return StoreRows(store, recipe, seed, first_epoch)
        except DatasetError as error:
            raise FitError(f"split {split} of {self.path} gives no example: {error}") from error

    def _store(self, split: str, phase: int = 0) -> TokenStore:
        """Return a split of the store; what is held out is the same for every selection."""
        store = open_store(self.path, split)
        if self.selection is None or split != "train":
            return store
        return self.selection.choose(store, phase)

    @cached_property
    def token_counts(self) -> np.ndarray:
        """How often each id occurs in the training split, before corruption: int64 (V,)."""
        size = self.tokenizer.vocab_size
        if not self.is_frozen:
            parts = ((block.ids, block.id_offsets) for block in self._store("train").blocks)
            counts = [np.bincount(ids[at[0] : at[-1]], minlength=size) for ids, at in parts]
            return np.asarray(np.sum(counts, axis=0, dtype=np.int64))
        examples = open_examples(self.path, "train")
        total = min(examples.num_examples, MAX_COUNTED_EXAMPLES)
        batches = (
            examples.rows(np.arange(start, min(start + 4096, total)))
            for start in range(0, total, 4096)
        )
        counts = [np.bincount(examples.original(b).values, minlength=size) for b in batches]
        return np.asarray(np.sum(counts, axis=0, dtype=np.int64))

    def _why_empty(self, split: str) -> str:
        advice = {
            "validation": "tokenize with a larger --set validation_ratio=0.1, or train with "
            "--set evaluation.num_examples=0"
        }
        there = ", ".join(sorted(name for name in self.manifest.splits)) or "none"
        return (
            f"split {split} of {self.path} is empty (splits there: {there}): "
            f"{advice.get(split, 'build it from more text')}"
        )


def open_data(where: Path | str, selection_path: Path | str | None = None) -> DatasetFolder:
    """Return the dataset in a folder, or in a store, its training split checked by size.

    Args:
        where: the folder of a token store or of example shards, or its URI in a store
        selection_path: a folder that `lmdata select` wrote, of a token store; None: all is read

    Raises:
        DatasetError: no dataset, unfinished, damaged, of a newer version or of another tokenizer
        FitError: the training split is empty
    """
    path = at_hand(where)
    manifest = read_manifest(path)
    if not manifest.num_rows("train"):
        raise FitError(f"split train of {path} is empty: build it from more text")
    is_frozen = manifest.kind == "examples"
    opened: TokenStore | ExampleSet = open_examples(path) if is_frozen else open_store(path)
    if not len(opened):
        raise IntegrityError(f"{path} promises {manifest.num_rows('train')} rows and has none")
    origin = str(where) if is_uri(where) else ""
    if selection_path is None:
        return DatasetFolder(path, opened.tokenizer, manifest, origin=origin)
    if is_frozen:
        raise FitError(
            f"--select chooses documents of a token store, {path} holds frozen examples: train "
            "from the store that they were made from"
        )
    selection = read_selection(Path(selection_path))
    return DatasetFolder(path, opened.tokenizer, manifest, selection, origin=origin)


def piece_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """Return how many bytes of text each piece stands for: int64 (V,), 0 of special tokens.

    WordPiece pieces do not hold the spaces between words; the others do.
    """
    model = tokenizer.definition["model"]
    is_byte_level = "ByteLevel" in str(tokenizer.definition.get("decoder"))
    falls_back = bool(model.get("byte_fallback"))
    sizes = [
        1 if falls_back and _ONE_BYTE.fullmatch(piece or "")
        else _num_bytes(piece or "", model["type"], is_byte_level=is_byte_level)
        for piece in tokenizer.pieces
    ]  # fmt: skip
    return np.where(tokenizer.is_special, 0, np.array(sizes, np.int64))


def _num_bytes(piece: str, kind: str, *, is_byte_level: bool) -> int:
    if is_byte_level:
        return max(1, len(piece))
    text = piece.removeprefix("##") if kind == "WordPiece" else piece.replace("\u2581", " ")
    return max(1, len(text.encode()))
