"""Texts, or pairs of them, to numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodel.batch import Batch
from lmmodel.errors import TaskError
from lmmodel.tasks.classification import Classification, ClassificationTask
from lmmodel.tasks.columns import PAIRS, TEXTS, Usual
from lmmodel.tasks.examples import Encoding, Floats, Labels, Predictions, TaskExamples, unlabelled
from lmmodel.tasks.files import describe
from lmmodel.tasks.heads import TaskHead
from lmmodel.tasks.scores import score_numbers
from lmmodel.tasks.task import Scores, Task
from lmmodel.tasks.task_files import TaskFile
from lmmodel.tasks.text_rows import (
    TextRows,
    check_pairs,
    encode_text_rows,
    read_text_rows,
    take_text_rows,
)
from lmmodel.texts import Integers

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


class RegressionTask(Task[TextRows]):
    """A number for each text, or for each pair of texts."""

    name = "regression"
    verb = "classify"
    stopping_scores = ("pearson", "spearman")
    is_over_sequences = True
    stock = dataclasses.replace(ClassificationTask.stock, problem_type="regression")
    usual = Usual(texts=(*TEXTS, *PAIRS), labels=NUMBERS, num_texts=(1, 2))

    def read(self, file: TaskFile) -> TextRows:
        """Return texts or pairs with their numbers."""
        rows = read_text_rows(file, self.usual, parse_number)
        if rows.labels is None:
            return rows
        return dataclasses.replace(rows, labels=np.array(rows.labels, np.float64))

    def check_validation(self, train: TextRows, validation: TextRows) -> None:
        """Check that both files have pairs, or neither."""
        check_pairs(train, validation)

    def has_pairs(self, rows: TextRows) -> bool:
        """Whether texts come in pairs."""
        return rows.pairs is not None

    def encode(self, rows: TextRows, how: Encoding) -> TaskExamples:
        """Return a text or two a row; labels are numbers, float32 (E,)."""
        labels = None if rows.labels is None else np.asarray(rows.labels, np.float32)
        return encode_text_rows(rows, how, labels, np.ones(len(rows), np.bool_))

    def take_rows(self, rows: TextRows, which: Integers) -> TextRows:
        """Return some rows."""
        return take_text_rows(rows, which)

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
