"""What a fine-tuned folder came to: its seeds, how sure it is, and what it takes for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lmdata.xxh3 import hash_file
from lmmodel.errors import LmmodelError
from lmmodel.finetuning.data import split_rows
from lmmodel.finetuning.folder import FineTuned, FineTunedRecord, load_fine_tuned, merge_rare
from lmmodel.reporting.history import MOST_EVALUATIONS, Points, sampled
from lmmodel.tasks.examples import Floats
from lmmodel.tasks.known import read_task_file
from lmmodel.tasks.model import predict_logits
from lmmodel.tasks.scores import wilson_interval
from lmmodel.tasks.task import encode_task, make_predictions
from lmmodel.tasks.task_files import TaskFile

NO_CURVES = {"seed", "step", "epoch", "train_s", "num_averaged"}
NUM_BINS, NUM_CONFUSIONS, NUM_EXAMPLES, MOST_LABELS = 10, 8, 3, 30


@dataclass(frozen=True, kw_only=True)
class SeedFigures:
    """One seed at its best evaluation."""

    seed: int
    best_epoch: float
    num_epochs: float
    scores: dict[str, float]
    num_averaged: int = 1  # evaluations whose weights the best are the mean of


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Answers of like confidence."""

    low: float  # confidence
    high: float
    count: int
    confidence: float  # mean
    accuracy: float
    accuracy_low: float  # 95 % interval (Wilson)
    accuracy_high: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether a classifier is right as often as it says."""

    error: float  # expected calibration error (Guo et al., 2017, section 2): mean gap by count
    confidence: float  # mean
    accuracy: float
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, kw_only=True)
class ConfusedText:
    """A text that was taken for another class."""

    text: str
    pair: str | None
    probability: float  # of the wrong answer
    right_probability: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """One class taken for another, with the texts that it was surest of."""

    right: str
    taken_for: str
    count: int
    examples: tuple[ConfusedText, ...]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the model answers on the file that it was validated on."""

    path: str
    num_rows: int
    calibration: Calibration | None = None  # of one class a row
    labels: tuple[str, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()  # (C, C), rows are the right labels
    confusions: tuple[Confusion, ...] = ()  # the most frequent


@dataclass(frozen=True, kw_only=True)
class TunedReport:
    """What a fine-tuned folder came to."""

    task: str
    labels: tuple[str, ...]
    best_score: str
    kept_seed: int | None
    seeds: tuple[SeedFigures, ...]
    mean: dict[str, float]
    spread: dict[str, float]
    guess: dict[str, float]  # of the most frequent answer
    curves: Mapping[str, Points]  # "seed 0: loss" ... against the step
    answers: Answers | None
    why_no_answers: str | None  # in words, where there are none


def report_tuned(
    path: Path, record: FineTunedRecord, entries: Sequence[Mapping[str, Any]], device: str
) -> TunedReport:
    """Return what a fine-tuned folder came to.

    Args:
        path: of the folder
        record: of the folder
        entries: of its metrics.jsonl
        device: to answer on
    """
    figures = record.figures
    answers: Answers | None = None
    problem = _why_not(record)
    if problem is None:
        try:
            answers = find_answers(load_fine_tuned(path, device))
        except LmmodelError as error:
            problem = str(error)
    return TunedReport(
        task=record.task,
        labels=record.labels,
        best_score=figures.get("best_score", ""),
        kept_seed=figures.get("kept_seed"),
        seeds=tuple(SeedFigures(**seed) for seed in figures.get("seeds", ())),
        mean=figures.get("mean", {}),
        spread=figures.get("spread", {}),
        guess=figures.get("guess", {}),
        curves=_curves(entries),
        answers=answers,
        why_no_answers=problem,
    )


def _curves(entries: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Return each figure of each seed against the step."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        for name, value in entry.items():
            if name not in NO_CURVES and isinstance(value, int | float):
                key = f"seed {entry.get('seed')}: {name}"
                curves.setdefault(key, []).append((entry["step"], value))
    return {name: sampled(points, MOST_EVALUATIONS) for name, points in curves.items()}


def _why_not(record: FineTunedRecord) -> str | None:
    """Return why the file that validated can't be answered again; None: it can."""
    if "validation" not in record.data:
        return "it was not fine-tuned on a file"
    file = record.data["validation"]
    path = Path(file["path"])
    if not path.is_file():
        return f"{path}, which it was validated on, is no longer there"
    if hash_file(path) != file["xxh3"]:
        return f"{path}, which it was validated on, has changed since"
    return None


def find_answers(tuned: FineTuned) -> Answers:
    """Return how sure a model is of its answers on the file it was validated on, and where it errs.

    Raises:
        LmmodelError: the file can't be read as it was
    """
    record, task = tuned.record, tuned.task
    origin = record.data["validation"]
    path, config = Path(origin["path"]), record.config
    file = TaskFile(path, config.validation_columns)
    rows = read_task_file(file, task, config.validation_columns)
    if len(rows) != origin["num_rows"]:  # a share of the training file
        rows = split_rows(task, rows, config)[1]
    examples = encode_task(
        task, rows, tuned.tokenizer, record.labels, record.max_seq_length, is_training=False
    )
    logits = predict_logits(tuned.model, examples)
    found = make_predictions(task, examples, logits, rows, record.labels)
    references = task.references(rows, record.labels)
    answers = Answers(path=str(path), num_rows=len(rows))
    counts = task.confusion(found, references, len(record.labels))
    if counts is None:
        return answers
    merged, names = merge_rare(counts, record.labels, MOST_LABELS)
    answers = replace(answers, labels=tuple(names), counts=tuple(map(tuple, merged.tolist())))
    if found.probabilities is None or not task.is_over_sequences:
        return answers
    has_label = np.asarray(references) >= 0
    return replace(
        answers,
        calibration=calibrate(found.probabilities[has_label], np.asarray(references)[has_label]),
        confusions=tuple(_confusions(counts, found.probabilities, references, rows, record.labels)),
    )


def calibrate(probabilities: Floats, references: Any) -> Calibration | None:
    """Return how often answers are right, by how likely the model calls them; None: no answers.

    Args:
        probabilities: float32 (N, C)
        references: int64 (N,) right classes

    Example:
        >>> sure = np.array([[0.9, 0.1]] * 10, np.float32)
        >>> found = calibrate(sure, np.array([0] * 9 + [1]))
        >>> round(found.error, 6), found.accuracy, [part.count for part in found.bins]
        (0.0, 0.9, [10])
    """
    if not len(references):
        return None
    confidence = probabilities.max(1).astype(np.float64)
    is_right = probabilities.argmax(1) == references
    number = np.minimum((confidence * NUM_BINS - 1e-6).astype(int), NUM_BINS - 1)
    bins = tuple(
        _bin(place, confidence[number == place], is_right[number == place])
        for place in np.unique(number).tolist()
    )
    gaps = sum(part.count * abs(part.accuracy - part.confidence) for part in bins)
    return Calibration(
        error=gaps / len(references),
        confidence=float(confidence.mean()),
        accuracy=float(is_right.mean()),
        bins=bins,
    )


def _bin(place: int, confidence: Any, is_right: Any) -> CalibrationBin:
    low, high = wilson_interval(int(is_right.sum()), len(is_right))
    return CalibrationBin(
        low=place / NUM_BINS, high=(place + 1) / NUM_BINS, count=len(is_right),
        confidence=float(confidence.mean()), accuracy=float(is_right.mean()),
        accuracy_low=low, accuracy_high=high,
    )  # fmt: skip


def _confusions(
    counts: Any, probabilities: Floats, references: Any, rows: Any, labels: Sequence[str]
) -> list[Confusion]:
    """Return the most frequent confusions, each with the texts that the model was surest of."""
    off = counts.copy()
    np.fill_diagonal(off, 0)
    cells = np.argsort(-off, axis=None, kind="stable")[:NUM_CONFUSIONS]
    answers = probabilities.argmax(1)
    found = []
    for right, taken in zip(*np.unravel_index(cells, off.shape), strict=True):
        if not off[right, taken]:
            break
        own = np.flatnonzero((references == right) & (answers == taken))
        surest = own[np.argsort(-probabilities[own, taken], kind="stable")][:NUM_EXAMPLES]
        found.append(Confusion(
            right=labels[right], taken_for=labels[taken], count=int(off[right, taken]),
            examples=tuple(
                ConfusedText(
                    text=rows.texts[row][:600], pair=rows.pairs[row][:600] if rows.pairs else None,
                    probability=float(probabilities[row, taken]),
                    right_probability=float(probabilities[row, right]),
                )
                for row in surest.tolist()
            ),
        ))  # fmt: skip
    return found
