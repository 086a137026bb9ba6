"""Both files of a task as examples: what is learned from, and what is scored."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmdata.order import permute
from lmdata.tokenizer import Tokenizer
from lmdata.xxh3 import hash_file
from lmmodel.errors import FitError
from lmmodel.finetuning.settings import FinetuneConfig
from lmmodel.tasks.examples import Predictions, TaskExamples
from lmmodel.tasks.known import find_task, read_task_file
from lmmodel.tasks.task import AnyTask, Scores, encode_task, make_predictions
from lmmodel.tasks.task_files import TaskFile
from lmmodel.texts import Integers


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Both files of a task, ready for a model."""

    task: AnyTask
    labels: tuple[str, ...]
    train: TaskExamples
    rows: Any  # of the validation file
    validation: TaskExamples
    references: Any  # of the validation file, as the task scores by them
    notes: tuple[str, ...] = ()  # what was guessed, or is remarkable

    @property
    def num_outputs(self) -> int:
        """C: logits of a sequence or token."""
        return self.task.num_outputs(self.labels)

    def predict(self, logits: np.ndarray) -> Predictions:
        """Return what logits of the validation examples say about its rows."""
        return make_predictions(self.task, self.validation, logits, self.rows, self.labels)

    def score(self, logits: np.ndarray) -> Scores:
        """Return the scores of logits of the validation examples."""
        return self.task.score(self.predict(logits), self.references, self.labels)


def read_data(
    config: FinetuneConfig, tokenizer: Tokenizer, train: Path, validation: Path | None
) -> TaskData:
    """Return both files as examples, the labels taken from the training file.

    Args:
        config: resolved
        tokenizer: of the model
        train: task file
        validation: task file, or None: a share of the training file

    Raises:
        TaskError: a column is missing, a label of the validation file is unknown, ...
        FitError: no example is left to learn or to score
    """
    assert config.max_seq_length is not None
    task, train_file = find_task(config.task), TaskFile(train, config.columns)
    train_rows = read_task_file(train_file, task, config.columns)
    settled = task.settle(train_rows)
    labels, notes = settled.find_labels(train_rows), list(train_file.notes)
    if settled is not task:
        notes.append(f"{train}: learned as {settled.name}, which its labels are")
    if validation is None:
        train_rows, rows = split_rows(settled, train_rows, config)
        notes.append(f"{len(rows):,} of its rows validate, {len(train_rows):,} are learned from")
    else:
        file = TaskFile(validation, config.validation_columns)
        rows = read_task_file(file, settled, config.validation_columns)
        notes += [note for note in file.notes if note not in notes]
        notes += _remarks(train, validation)
    settled.check_validation(train_rows, rows)
    wanted = settled.references(rows, labels)
    encode = functools.partial(
        encode_task, settled, tokenizer=tokenizer, labels=labels,
        max_seq_length=config.max_seq_length,
    )  # fmt: skip
    learned, scored = encode(train_rows, is_training=True), encode(rows, is_training=False)
    for path, examples in ((train, learned), (validation or train, scored)):
        if not len(examples):
            why = ", ".join(f"{count} {reason}" for reason, count in examples.counts.items())
            raise FitError(f"{path} leaves no example ({why or 'it has no rows'})")
    return TaskData(
        task=settled, labels=labels, train=learned, rows=rows, validation=scored,
        references=wanted, notes=tuple(notes),
    )  # fmt: skip


def split_rows(task: AnyTask, rows: Any, config: FinetuneConfig) -> tuple[Any, Any]:
    """Return the rows to learn from and those to validate by, drawn by the seed.

    Rows that belong together, such as questions about one passage, stay together.

    Raises:
        FitError: there are too few
    """
    groups, number = np.unique(task.groups(rows), return_inverse=True)
    num_groups = len(groups)
    num_held = max(1, round(config.validation_ratio * num_groups))
    if num_groups < 2 or num_held >= num_groups:
        raise FitError(
            f"{rows.path} has too few rows to hold some back ({len(rows)}): give --validation"
        )
    held = permute(np.arange(num_groups), num_groups, seed=config.seed, epoch=0)[:num_held]
    is_held = np.isin(number, held)
    parts: tuple[Integers, Integers] = (np.flatnonzero(~is_held), np.flatnonzero(is_held))
    return task.take_rows(rows, parts[0]), task.take_rows(rows, parts[1])


def _remarks(train: Path, validation: Path) -> list[str]:
    """Return a remark where both files hold the same."""
    if not train.samefile(validation) and hash_file(train) != hash_file(validation):
        return []
    return [
        f"{validation} is the training file: its scores say how well it is known by heart, not "
        "how well new texts are told; leave --validation out to hold some rows back"
    ]


def best_score(config: FinetuneConfig, data: TaskData) -> str:
    """Return the score that decides: the one asked for, or the first of the task.

    Raises:
        FitError: there is nothing to score, or no such score for these labels
    """
    num_logits = (
        len(data.validation) if data.task.is_over_sequences else len(data.validation.input_ids)
    )
    try:
        known = data.score(np.zeros((num_logits, data.num_outputs), np.float32))
    except ValueError as error:
        raise FitError(f"{data.rows.path}: {error}") from error
    scores = [name for name in data.task.stopping_scores if name in known]
    wanted = config.score if config.score in data.task.stopping_scores else None
    if wanted is not None and wanted not in scores:
        raise FitError(f"there is no {wanted} for these labels: score may be {', '.join(scores)}")
    return wanted or scores[0]
