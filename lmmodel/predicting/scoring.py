"""How good a fine-tuned model is on a file with labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmdata.rng import draw, stream_key
from lmmodel.errors import FitError
from lmmodel.finetuning.folder import FineTuned
from lmmodel.tasks.examples import Predictions
from lmmodel.tasks.known import read_task_file
from lmmodel.tasks.model import predict_logits
from lmmodel.tasks.task import Scores, encode_task, make_predictions
from lmmodel.tasks.task_files import TaskFile

NUM_SAMPLES = 200
"""Of rows, drawn with replacement, whose scores give the intervals; fewer where rows are many."""

_MAX_SCORED = 100_000  # rows that are scored for the intervals, unless 50 samples have more
_LEAST_SAMPLES = 50


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """How well one label is told."""

    label: str
    num_right: int  # rows or words that have it
    precision: float  # in [0, 1]
    recall: float
    f1: float


@dataclass(frozen=True, kw_only=True)
class FileScores:
    """How good a model is on the rows of a file."""

    task: str
    num_rows: int
    scores: Scores
    intervals: dict[str, tuple[float, float]]  # 95 %, of each score
    labels: tuple[str, ...]
    confusion: npt.NDArray[np.int64] | None  # (C, C), rows are the right labels
    by_label: tuple[LabelScore, ...]
    counts: dict[str, int]  # rows by what happened to them
    notes: tuple[str, ...]  # what was guessed


def score_file(tuned: FineTuned, file: TaskFile) -> FileScores:
    """Return how good a model is on a task file with labels.

    Args:
        tuned: the model
        file: with labels, and which columns hold what

    Raises:
        TaskError: a column is missing, or a label is none of the model's
        FitError: there is nothing to score by, or pairs are missing
        DivergedError: the weights are damaged
    """
    task, record = tuned.task, tuned.record
    rows = read_task_file(file, task, file.columns)
    if task.has_pairs(rows) != record.has_pairs:
        kind = "pairs of texts" if record.has_pairs else "single texts"
        raise FitError(f"{tuned.path} was fine-tuned on {kind}: name such columns of {file.path}")
    references = task.references(rows, record.labels)
    examples = encode_task(
        task, rows, tuned.tokenizer, record.labels, record.max_seq_length, is_training=False
    )
    logits = predict_logits(tuned.model, examples)
    found = make_predictions(task, examples, logits, rows, record.labels)
    try:
        scores = task.score(found, references, record.labels)
    except ValueError as error:
        raise FitError(f"{file.path}: {error}") from error
    confusion = task.confusion(found, references, len(record.labels))
    return FileScores(
        task=task.name,
        num_rows=len(rows),
        scores={name: value for name, value in scores.items() if name not in _WILSON},
        intervals=_intervals(tuned, found, references, len(rows), scores),
        labels=record.labels,
        confusion=confusion,
        by_label=() if confusion is None else score_labels(confusion, record.labels),
        counts={reason: count for reason, count in examples.counts.items() if count},
        notes=tuple(file.notes),
    )


_WILSON = ("accuracy_low", "accuracy_high")


def _intervals(
    tuned: FineTuned, found: Predictions, references: Any, num_rows: int, scores: Scores
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of scores: accuracy's by Wilson, the others' by resampling rows."""
    task, labels = tuned.task, tuned.record.labels
    num_samples = max(_LEAST_SAMPLES, min(NUM_SAMPLES, _MAX_SCORED // num_rows))
    drawn: dict[str, list[float]] = {name: [] for name in scores if name not in _WILSON}
    rows = np.arange(num_rows)
    for sample in range(num_samples):
        words = draw(stream_key(0, "resample"), np.full(num_rows, sample), rows)
        chosen = (words.astype(np.uint64) * np.uint64(num_rows) >> np.uint64(32)).astype(np.int64)
        try:
            again = task.score(*task.resample(found, references, chosen), labels)
        except ValueError:  # by chance no row of the sample has a label
            continue
        for name, values in drawn.items():
            if name in again:
                values.append(again[name])
    intervals = {
        name: (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975)))
        for name, values in drawn.items()
        if values
    }
    if "accuracy" in scores:
        intervals["accuracy"] = (scores["accuracy_low"], scores["accuracy_high"])
    return intervals


def score_labels(
    confusion: npt.NDArray[np.int64], labels: tuple[str, ...]
) -> tuple[LabelScore, ...]:
    """Return precision, recall and F1 of each label; 0 where there is nothing to divide by.

    Args:
        confusion: int64 (C, C), rows are the right labels
        labels: C names

    Example:
        >>> score = score_labels(np.array([[3, 1], [1, 0]]), ("no", "yes"))[0]
        >>> score.num_right, score.precision, score.recall, score.f1
        (4, 0.75, 0.75, 0.75)
    """
    hits, found, right = np.diag(confusion), confusion.sum(0), confusion.sum(1)
    return tuple(
        LabelScore(
            label=label,
            num_right=int(right[place]),
            precision=float(hits[place] / max(found[place], 1)),
            recall=float(hits[place] / max(right[place], 1)),
            f1=float(2 * hits[place] / max(found[place] + right[place], 1)),
        )
        for place, label in enumerate(labels)
    )
