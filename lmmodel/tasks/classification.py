"""Texts, or pairs of them, to classes, one each or any number, or to numbers.

R rows of the file; C classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodel.batch import IGNORED, Batch
from lmmodel.errors import TaskError
from lmmodel.tasks.examples import (
    Encoding,
    Floats,
    Labels,
    Predictions,
    TaskExamples,
    most_frequent,
    softmax,
    unlabelled,
)
from lmmodel.tasks.scores import confusion, score_classes, score_numbers, score_truths
from lmmodel.tasks.tables import describe
from lmmodel.tasks.task import Scores, StockClass, Task, TaskHead
from lmmodel.tasks.task_files import TaskFile
from lmmodel.tasks.text_rows import (
    CLASSES,
    PAIRS,
    TEXTS,
    TextRows,
    Usual,
    class_number,
    encode_text_rows,
    find_classes,
    label_ids,
    label_numbers,
    parse_classes,
    read_text_rows,
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
    classifiers={
        "gpt2": "score",
        "roberta": "classifier.out_proj",
        "electra": "classifier.out_proj",
        "xlnet": "logits_proj",
    },
    without_dropout=frozenset({"gpt2"}),
    without_bias=frozenset({"gpt2"}),
)


class TextTask(Task[TextRows]):
    """What is said of a text, or of a pair of them."""

    verb = "classify"
    is_over_sequences = True

    def check_validation(self, train: TextRows, validation: TextRows) -> None:
        """Check that both files have pairs, or neither."""
        if (train.pairs is None) != (validation.pairs is None):
            one, other = (train, validation) if train.pairs is not None else (validation, train)
            raise TaskError(
                f"{one.path} has pairs, {other.path} single texts: name the columns of both by "
                "--text-field and --pair-field, or of single texts by --text-field"
            )

    def has_pairs(self, rows: TextRows) -> bool:
        """Whether texts come in pairs."""
        return rows.pairs is not None

    def take_rows(self, rows: TextRows, which: Integers) -> TextRows:
        """Return some rows."""
        return rows.take(which)


class ClassificationTask(TextTask):
    """One class for each text, or for each pair of texts."""

    stopping_scores = ("accuracy", "f1_macro", "matthews")
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
        super().check_validation(train, validation)

    def encode(self, rows: TextRows, how: Encoding) -> TaskExamples:
        """Return a text or two a row; labels are class ids, int64 (E,)."""
        if rows.labels is None:
            return encode_text_rows(rows, how, None, np.ones(len(rows), np.bool_))
        ids = label_ids(rows, how.labels)
        return encode_text_rows(rows, how, ids, ids != IGNORED)

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


class MultiLabelTask(TextTask):
    """Any number of classes for each text or pair of texts: C yes or no questions."""

    name = "multi-label-classification"
    stopping_scores = ("f1_micro", "f1_macro", "exact_match")
    stock = dataclasses.replace(_STOCK, problem_type="multi_label_classification")
    usual = Usual(texts=(*TEXTS, *PAIRS), labels=(*CLASSES, "labels"), num_texts=(1, 2))

    def read(self, file: TaskFile) -> TextRows:
        """Return texts or pairs with the classes of each."""
        return read_class_rows(file, self.usual)

    def find_labels(self, rows: TextRows) -> tuple[str, ...]:
        """Return the classes of a training file."""
        return find_classes(rows)

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
                number = class_number(rows, row, name, numbers, labels)
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


# Numbers.


MAX_NUMBER = 1e15  # squares of larger ones leave float32
NUMBERS = ("label", "score", "similarity", "value", "rating")


def parse_number(where: str, name: str, value: Any) -> float:
    """Return a number.

    Raises:
        TaskError: it is none, or too large
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    except OverflowError:
        number = math.inf
    if math.isnan(number) or (math.isinf(number) and not isinstance(value, int)):
        raise TaskError(f"{where}: {name!r} is {describe(value)}, a number is wanted")
    if abs(number) > MAX_NUMBER:
        shown = f"{number:g}" if math.isfinite(number) else describe(value)
        raise TaskError(
            f"{where}: {name!r} is {shown}, at most {MAX_NUMBER:g} is: choose another unit"
        )
    return number


class RegressionTask(TextTask):
    """A number for each text, or for each pair of texts."""

    name = "regression"
    stopping_scores = ("pearson", "spearman")
    stock = dataclasses.replace(ClassificationTask.stock, problem_type="regression")
    usual = Usual(texts=(*TEXTS, *PAIRS), labels=NUMBERS, num_texts=(1, 2))

    def read(self, file: TaskFile) -> TextRows:
        """Return texts or pairs with their numbers."""
        rows = read_text_rows(file, self.usual, parse_number)
        if rows.labels is None:
            return rows
        return dataclasses.replace(rows, labels=np.array(rows.labels, np.float64))

    def encode(self, rows: TextRows, how: Encoding) -> TaskExamples:
        """Return a text or two a row; labels are numbers, float32 (E,)."""
        labels = None if rows.labels is None else np.asarray(rows.labels, np.float32)
        return encode_text_rows(rows, how, labels, np.ones(len(rows), np.bool_))

    def output_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return what the only output is called."""
        return ("value",)

    def prepare_head(self, head: nn.Module, labels: Labels | None) -> None:
        """Have the head begin in the unit of the labels."""
        assert isinstance(head, TaskHead)
        assert labels is not None
        head.scale = float(np.std(labels)) or 1.0
        if head.classifier.bias is not None:  # it is where the offset will be kept
            head.offset = float(np.mean(labels))

    def saved_head(self, head: nn.Module) -> dict[str, Tensor]:
        """Return the weights with the unit of the labels in the classifier's."""
        assert isinstance(head, TaskHead)
        return head.plain_weights()

    def loss_unit(self, labels: Labels | None) -> float:
        """Return the variance of the labels."""
        return float(np.var(labels)) or 1.0 if labels is not None else 1.0

    def sum_loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Return the sum of squared differences; labels float32 (B,)."""
        return F.mse_loss(logits[:, 0], labels, reduction="sum")

    def predict(
        self, examples: TaskExamples, logits: Floats, rows: TextRows, labels: Sequence[str]
    ) -> Predictions:
        """Return the number of each row, float64 (R,)."""
        return Predictions(values=logits.reshape(len(rows)).astype(np.float64))

    def references(self, rows: TextRows, labels: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return numbers float64 (R,)."""
        if rows.labels is None:
            raise unlabelled(rows.path)
        return np.asarray(rows.labels, np.float64)

    def score(self, found: Predictions, references: Any, labels: Sequence[str]) -> Scores:
        """Return Pearson, Spearman and the mean squared error."""
        return score_numbers(found.values, references)

    def draws_numbers(self) -> bool:
        """Return True."""
        return True

    def answers(
        self, rows: TextRows, found: Predictions, labels: Sequence[str]
    ) -> list[Classification]:
        """Return the number of each text."""
        return [
            Classification(
                text=text, pair=rows.pairs[row] if rows.pairs else None, label=None,
                value=float(found.values[row]), probabilities={},
            )
            for row, text in enumerate(rows.texts)
        ]  # fmt: skip
