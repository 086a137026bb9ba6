"""Texts, or pairs of them, to classes: one each, or any number.

R rows of the file; C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodel.batch import IGNORED, Batch
from lmmodel.errors import TaskError
from lmmodel.tasks.columns import CLASSES, PAIRS, TEXTS, Usual
from lmmodel.tasks.examples import (
    Encoding,
    Floats,
    Labels,
    Predictions,
    TaskExamples,
    enough_labels,
    most_frequent,
    softmax,
    unknown_label,
    unlabelled,
)
from lmmodel.tasks.scores import confusion, score_classes, score_truths
from lmmodel.tasks.task import Scores, StockClass, Task
from lmmodel.tasks.task_files import TaskFile
from lmmodel.tasks.text_rows import (
    ABSENT,
    TextRows,
    check_pairs,
    encode_text_rows,
    label_key,
    parse_classes,
    read_text_rows,
    take_text_rows,
)
from lmmodel.texts import Integers


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What a text, or a pair of them, is."""

    text: str
    pair: str | None
    label: str | None  # None of numbers
    value: float | None  # of regression
    probabilities: dict[str, float]  # of every label, likeliest first; empty of regression
    labels: tuple[str, ...] | None = None  # those likelier than not, where there may be several


# Names of classes.


def label_numbers(labels: Sequence[str], unlabelled: Sequence[str]) -> dict[str, int]:
    """Return the id of each class by the key of its name, IGNORED for those that stand for none."""
    ids = {label_key(name): number for number, name in enumerate(labels)}
    return {ABSENT: IGNORED, **{label_key(name): IGNORED for name in unlabelled}, **ids}


def label_ids(rows: TextRows, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the id of every row's class: int64 (R,), IGNORED where it stands for none.

    Args:
        rows: with one class each
        labels: in the order of their ids

    Raises:
        TaskError: a class is not among `labels`
    """
    numbers = label_numbers(labels, rows.unlabelled)
    assert rows.labels is not None
    return np.array(
        [_number(rows, row, name, numbers, labels) for row, (name,) in enumerate(rows.labels)],
        np.int64,
    )


def _number(
    rows: TextRows, row: int, name: str, numbers: dict[str, int], labels: Sequence[str]
) -> int:
    """Return the id of a class of a row."""
    number = numbers.get(label_key(name))
    if number is None:
        raise unknown_label(f"{rows.path}, line {rows.lines[row]}", name, labels)
    return number


def find_classes(rows: TextRows) -> tuple[str, ...]:
    """Return the classes in the order of their ids, each as it is spelled first.

    Those that stand for none are no classes, as long as two others are there.

    Raises:
        TaskError: there are fewer than two
    """
    spelled: dict[str, str] = {}
    for names in rows.labels if rows.labels is not None else ():
        for name in names:
            spelled.setdefault(label_key(name), name)
    spelled.pop(ABSENT, None)
    without = {label_key(name) for name in rows.unlabelled}
    real = [name for key, name in spelled.items() if key not in without]
    return enough_labels(rows.path, real if len(real) > 1 else spelled.values())


def read_class_rows(file: TaskFile, usual: Usual) -> TextRows:
    """Return texts or pairs with the classes of each.

    Raises:
        TaskError: a column is missing or ambiguous, or a value is of another kind
    """
    rows = read_text_rows(file, usual, parse_classes)
    has_lists = rows.labels is not None and any(len(names) != 1 for names in rows.labels)
    return dataclasses.replace(rows, has_lists=has_lists)


_STOCK = StockClass(
    suffix="SequenceClassification",
    pipeline_tag="text-classification",
    problem_type="single_label_classification",
    classifiers={"gpt2": "score"},
    without_dropout=frozenset({"gpt2"}),
    without_bias=frozenset({"gpt2"}),
)


class ClassificationTask(Task[TextRows]):
    """One class for each text, or for each pair of texts."""

    verb = "classify"
    stopping_scores = ("accuracy", "f1_macro", "matthews")
    is_over_sequences = True
    stock = _STOCK

    def __init__(self, name: str, *, reads_pairs: bool) -> None:
        self.name = name
        self.reads_pairs = reads_pairs
        texts, num_texts = (PAIRS, (2,)) if reads_pairs else (TEXTS, (1,))
        self.usual = Usual(texts=texts, labels=CLASSES, num_texts=num_texts)

    def read(self, file: TaskFile) -> TextRows:
        """Return texts or pairs with their classes."""
        if file.columns.pair is not None and not self.reads_pairs:
            raise TaskError(
                f"{self.name} reads one text: for the second, {file.columns.pair!r}, take "
                "sentence-pair"
            )
        return read_class_rows(file, self.usual)

    def settle(self, rows: TextRows) -> Task[TextRows]:
        """Return the task of several classes a text where the file has lists of them."""
        return MULTI_LABEL if rows.has_lists else self

    def find_labels(self, rows: TextRows) -> tuple[str, ...]:
        """Return the classes of a training file."""
        return find_classes(rows)

    def check_validation(self, train: TextRows, validation: TextRows) -> None:
        """Check that both files have lists of classes, or neither."""
        if validation.has_lists and not train.has_lists:
            raise TaskError(f"{validation.path} has lists of classes, {train.path} has none")
        check_pairs(train, validation)

    def has_pairs(self, rows: TextRows) -> bool:
        """Whether texts come in pairs."""
        return rows.pairs is not None

    def encode(self, rows: TextRows, how: Encoding) -> TaskExamples:
        """Return a text or two a row; labels are class ids, int64 (E,)."""
        if rows.labels is None:
            return encode_text_rows(rows, how, None, np.ones(len(rows), np.bool_))
        ids = label_ids(rows, how.labels)
        return encode_text_rows(rows, how, ids, ids != IGNORED)

    def take_rows(self, rows: TextRows, which: Integers) -> TextRows:
        """Return some rows."""
        return take_text_rows(rows, which)

    def sum_loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Return the summed cross-entropy; labels int64 (B,)."""
        return F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)

    def predict(
        self, examples: TaskExamples, logits: Floats, rows: TextRows, labels: Sequence[str]
    ) -> Predictions:
        """Return the likeliest class of each row, int64 (R,)."""
        return Predictions(values=logits.argmax(1).astype(np.int64), probabilities=softmax(logits))

    def references(self, rows: TextRows, labels: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return class ids int64 (R,), IGNORED where a row has none."""
        if rows.labels is None:
            raise unlabelled(rows.path)
        return label_ids(rows, labels)

    def score(
        self, found: Predictions, references: npt.NDArray[np.int64], labels: Sequence[str]
    ) -> Scores:
        """Return accuracy with its interval, macro F1 and Matthews."""
        return score_classes(found.values, references, has_matthews=True)

    def guess(self, learned: Labels | None, num_outputs: int, references: Any) -> Any | None:
        """Return always the class most frequent in training."""
        return most_frequent(learned, references)

    def confusion(self, found: Predictions, references: Any, num_labels: int) -> Any | None:
        """Return which class is taken for which."""
        return confusion(found.values, references, num_labels)

    def answers(
        self, rows: TextRows, found: Predictions, labels: Sequence[str]
    ) -> list[Classification]:
        """Return the class of each text."""
        assert found.probabilities is not None
        return [
            Classification(
                text=text, pair=rows.pairs[row] if rows.pairs else None,
                label=labels[int(found.values[row])], value=None,
                probabilities=_ranked(found.probabilities[row], labels),
            )
            for row, text in enumerate(rows.texts)
        ]  # fmt: skip


def _ranked(probabilities: Floats, labels: Sequence[str]) -> dict[str, float]:
    """Return the probability of each label, likeliest first."""
    return {labels[place]: float(probabilities[place]) for place in np.argsort(-probabilities)}


class MultiLabelTask(Task[TextRows]):
    """Any number of classes for each text or pair of texts: C yes or no questions."""

    name = "multi-label-classification"
    verb = "classify"
    stopping_scores = ("f1_micro", "f1_macro", "exact_match")
    is_over_sequences = True
    stock = dataclasses.replace(_STOCK, problem_type="multi_label_classification")
    usual = Usual(texts=(*TEXTS, *PAIRS), labels=(*CLASSES, "labels"), num_texts=(1, 2))

    def read(self, file: TaskFile) -> TextRows:
        """Return texts or pairs with the classes of each."""
        return read_class_rows(file, self.usual)

    def find_labels(self, rows: TextRows) -> tuple[str, ...]:
        """Return the classes of a training file."""
        return find_classes(rows)

    def check_validation(self, train: TextRows, validation: TextRows) -> None:
        """Check that both files have pairs, or neither."""
        check_pairs(train, validation)

    def has_pairs(self, rows: TextRows) -> bool:
        """Whether texts come in pairs."""
        return rows.pairs is not None

    def take_rows(self, rows: TextRows, which: Integers) -> TextRows:
        """Return some rows."""
        return take_text_rows(rows, which)

    def encode(self, rows: TextRows, how: Encoding) -> TaskExamples:
        """Return a text or two a row; labels are 0 or 1 for each class, float32 (E, C)."""
        truths = None
        if rows.labels is not None:
            truths = self.references(rows, how.labels).astype(np.float32)
        return encode_text_rows(rows, how, truths, np.ones(len(rows), np.bool_))

    def sum_loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Return the summed binary cross-entropy; labels float32 (B, C)."""
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")

    def count_labels(self, labels: Tensor) -> int:
        """Return B times C."""
        return labels.numel()

    def predict(
        self, examples: TaskExamples, logits: Floats, rows: TextRows, labels: Sequence[str]
    ) -> Predictions:
        """Return which classes are likelier than not, bool (R, C)."""
        likely = torch.from_numpy(logits).sigmoid().numpy()
        return Predictions(values=logits > 0, probabilities=likely)

    def references(self, rows: TextRows, labels: Sequence[str]) -> Any:
        """Return which classes each row has: bool (R, C)."""
        if rows.labels is None:
            raise unlabelled(rows.path)
        numbers = label_numbers(labels, rows.unlabelled)
        truths = np.zeros((len(rows), len(labels)), np.bool_)
        for row, names in enumerate(rows.labels):
            for name in names:
                number = _number(rows, row, name, numbers, labels)
                truths[row, number] |= number != IGNORED
        return truths

    def score(self, found: Predictions, references: Any, labels: Sequence[str]) -> Scores:
        """Return micro and macro F1, and the share of rows that are right in all classes."""
        return score_truths(found.values, references)

    def guess(self, learned: Labels | None, num_outputs: int, references: Any) -> Any | None:
        """Return the classes that more than half of the training rows have."""
        return np.tile(np.asarray(learned).mean(0) > 0.5, (len(references), 1))

    def answers(
        self, rows: TextRows, found: Predictions, labels: Sequence[str]
    ) -> list[Classification]:
        """Return the classes of each text, and the likeliest of all."""
        assert found.probabilities is not None
        ranked = [_ranked(row, labels) for row in found.probabilities]
        return [
            Classification(
                text=text, pair=rows.pairs[row] if rows.pairs else None, label=next(iter(own)),
                value=None, probabilities=own,
                labels=tuple(name for name, likely in own.items() if likely > 0.5),
            )
            for row, (text, own) in enumerate(zip(rows.texts, ranked, strict=True))
        ]  # fmt: skip


MULTI_LABEL = MultiLabelTask()
