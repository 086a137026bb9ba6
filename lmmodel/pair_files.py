"""Pairs of texts that belong together, of a file: to train vectors on, read into memory.

A row holds a text and its answer, and perhaps a third that must be far from it: questions and
answers, paraphrases, a text and its back-translation (CERT, Fang et al., 2020), or premise,
entailment and contradiction. They are read by the tokenizer of the run that training begins with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmdata.batch import NO_LABEL, ExampleBatch
from lmdata.ragged import Ragged, offsets_of, ranges
from lmdata.recipes import RECIPES, Recipe
from lmdata.rng import draw, stream_key
from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmmodel.data import ShardRows, TrainingData, open_data
from lmmodel.errors import FitError, TaskError
from lmmodel.families import ModelConfig
from lmmodel.texts import encode_texts

if TYPE_CHECKING:  # files of tasks need more packages than training on shards
    from lmmodel.tasks.task_files import TaskFile
    from lmmodel.tasks.text_rows import Choice

TRIPLES: tuple[Choice, ...] = (
    ("anchor", "positive", "negative"), ("sent0", "sent1", "hard_neg"), ("anchor", "positive"),
    ("query", "positive", "negative"), ("query", "positive"), ("query", "document"),
)  # fmt: skip
HELD_OUT_SHARE = 0.02  # of the rows, drawn by their number


@dataclass(frozen=True)
class PairExamples:
    """R rows of a text and its answers, as training asks examples: by number."""

    ids: Ragged  # integers, each text between its special tokens, row after row
    num_texts: int  # of a row
    rows_there: np.ndarray  # int64 (R,), row of the file

    @property
    def num_examples(self) -> int:
        """R."""
        return len(self.rows_there)

    def rows(self, indices: np.ndarray) -> ExampleBatch:
        """Return some rows, int64 (B,), as examples of a segment a text."""
        num, chosen = len(indices), self.rows_there[indices]
        texts = ranges(chosen * self.num_texts, np.full(num, self.num_texts))
        taken = self.ids.take(texts)
        documents = chosen.astype(np.uint64)
        return ExampleBatch(
            input_ids=taken.values,
            offsets=taken.offsets[:: self.num_texts],
            token_type_ids=np.zeros(len(taken.values), np.uint8),
            masked_positions=np.empty(0, np.uint16),
            masked_labels=taken.values[:0],
            mask_offsets=np.zeros(num + 1, np.int64),
            next_sentence_label=np.full(num, NO_LABEL, np.int8),
            document_a=documents, document_b=documents, duplicate=np.zeros(num, np.uint16),
            segment_lengths=taken.lengths.astype(np.int32),
            segment_offsets=np.arange(num + 1, dtype=np.int64) * self.num_texts,
        )  # fmt: skip


@dataclass(frozen=True)
class PairData(TrainingData):
    """A file of pairs; one row in fifty is held out."""

    ids: Ragged
    num_texts: int
    file_hash: str
    max_seq_length: int

    @property
    def hash(self) -> str:
        """xxh3_128 of the file, in hex."""
        return self.file_hash

    @property
    def is_frozen(self) -> bool:
        """True: there is one view."""
        return True

    @property
    def frozen_recipe(self) -> Recipe:
        """Texts as they are."""
        return dataclasses.replace(RECIPES["simcse"], max_seq_length=max(8, self.max_seq_length))

    def rows(
        self, split: str, recipe: Recipe, *, seed: int, first_epoch: int = 0, phase: int = 0
    ) -> ShardRows:
        """Return the rows of a split.

        Raises:
            FitError: there is none
        """
        num = len(self.ids) // self.num_texts
        words = draw(stream_key(0, "split"), np.arange(num), np.zeros(num, np.int64))
        is_held_out = words < HELD_OUT_SHARE * 2**32
        own = np.flatnonzero(is_held_out == (split == "validation"))
        if not len(own) or split not in ("train", "validation"):
            raise FitError(
                f"split {split} of {self.path} is empty: of its {num:,} rows about one in fifty is "
                "for validation, the rest for training"
            )
        return ShardRows(PairExamples(self.ids, self.num_texts, own), seed)

    @cached_property
    def token_counts(self) -> np.ndarray:
        """How often each id occurs: int64 (V,)."""
        return np.bincount(self.ids.values, minlength=self.tokenizer.vocab_size)


def open_training_data(
    path: Path | str, tokenizer_path: Path | str | None, model: ModelConfig,
    selection_path: Path | str | None = None,
) -> TrainingData:  # fmt: skip
    """Return a token store, example shards, or the pairs of a file.

    Args:
        path: a folder, its URI in a store, or a file
        tokenizer_path: of a file: the run whose tokenizer reads it
        model: what is trained
        selection_path: of a token store: a folder that `lmdata select` wrote; None: all is read

    Raises:
        FitError: a file with a selection, which chooses documents
        FitError, DatasetError, TaskError: as `open_data` and `open_pairs`
    """
    if isinstance(path, str) or not path.is_file():
        return open_data(path, selection_path)
    if selection_path is not None:
        raise FitError(
            f"--select chooses documents of a token store, {path} is a file: leave it out"
        )
    return open_pairs(path, tokenizer_path, model.max_position_embeddings)


def open_pairs(path: Path, tokenizer_path: Path | str | None, max_seq_length: int) -> PairData:
    """Return the pairs of a file.

    Args:
        path: TSV, CSV, JSON lines or Parquet, whose columns are named as usual
        tokenizer_path: the run that training begins with
        max_seq_length: tokens that its model takes; what a text has beyond is left out

    Raises:
        FitError: there is no run to begin with
        TaskError: the file is unreadable, lacks a column, or has a row with an empty side
        TokenizerError: the tokenizer is missing, or lacks what stands around a text
    """
    from lmmodel.tasks.task_files import TaskFile, TaskFormat, hash_task_file

    if tokenizer_path is None:
        raise FitError(
            f"{path} holds texts, which are read by the tokenizer of a run: name the one to begin "
            "with by --init-from"
        )
    tokenizer = load_tokenizer(Path(tokenizer_path))
    columns = _read_columns(TaskFile(path, TaskFormat(has_labels=False)))
    texts = [text for row in zip(*columns, strict=True) for text in row]
    return PairData(
        path=path, tokenizer=tokenizer, ids=_framed(texts, tokenizer, max_seq_length, path),
        num_texts=len(columns), file_hash=hash_task_file(path, TaskFormat()),
        max_seq_length=max_seq_length,
    )  # fmt: skip


def _read_columns(file: TaskFile) -> list[Sequence[str]]:
    """Return the two or three columns of texts."""
    from lmmodel.tasks.tables import parse_text

    names = find_texts(list(file.table.columns))
    if names is None:
        raise TaskError(
            f"{file.path} has no columns of texts that belong together: call them anchor and "
            f"positive, and perhaps negative. The columns are {file.table.listing()}"
        )

    def parse(where: str, *cells: object) -> list[str]:
        texts = [parse_text(where, *cell) for cell in zip(names, cells, strict=True)]
        for name, text in zip(names, texts, strict=True):
            if not text:
                raise TaskError(f"{where}: {name!r} is empty: leave the row out, or fill it")
        return texts

    _, rows = file.table.parse(list(names), parse)
    return [list(column) for column in zip(*rows, strict=True)]


def find_texts(columns: Sequence[str]) -> Choice | None:
    """Return the columns that hold texts which belong together: the first choice that is there.

    Example:
        >>> find_texts(["id", "positive", "anchor"]), find_texts(["text", "label"])
        (('anchor', 'positive'), None)
    """
    from lmmodel.tasks.text_rows import PAIRS

    return next((own for own in (*TRIPLES, *PAIRS) if set(own) <= set(columns)), None)


def _framed(texts: Sequence[str], tokenizer: Tokenizer, most: int, path: Path) -> Ragged:
    """Return each text between its special tokens, cut to what a model takes."""
    first, last = (tokenizer.require_special(name) for name in ("cls", "sep"))
    encoded = encode_texts(tokenizer.backend, texts)
    for text in np.flatnonzero(encoded.lengths == 0)[:1]:
        raise TaskError(f"{path}: nothing in {texts[text]!r} is a token: leave the row out")
    lengths = np.minimum(encoded.lengths, most - 2)
    offsets = offsets_of(lengths + 2)
    ids = np.empty(offsets[-1], np.uint32)
    ids[offsets[:-1]], ids[offsets[1:] - 1] = first, last
    ids[ranges(offsets[:-1] + 1, lengths)] = encoded.ids[ranges(encoded.offsets[:-1], lengths)]
    return Ragged(ids, offsets)
