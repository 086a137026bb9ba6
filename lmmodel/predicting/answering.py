"""What a fine-tuned model says about new texts, and how good it is on a file with labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from lmdata.rng import draw, stream_key
from lmmodel.errors import FitError
from lmmodel.finetuning.folder import FineTuned
from lmmodel.tasks.answering import SpanAnswer
from lmmodel.tasks.classification import Classification
from lmmodel.tasks.examples import Floats, Predictions, TaskExamples
from lmmodel.tasks.known import read_task_file
from lmmodel.tasks.model import predict_logits
from lmmodel.tasks.questions import make_question_rows
from lmmodel.tasks.tagging import Tagging
from lmmodel.tasks.task import AnyTask, Scores, encode_task, make_predictions
from lmmodel.tasks.task_files import TaskFile
from lmmodel.tasks.text_rows import make_text_rows
from lmmodel.tasks.words import make_word_rows, split_words

T = TypeVar("T")


@dataclass(frozen=True)
class Answered(Generic[T]):
    """An answer for each text, in order, and what was cut or read in windows."""

    answers: list[T]
    counts: Mapping[str, int]


def classify(
    model: FineTuned, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> Answered[Classification]:
    """Return the class of each text, or the number where the task is regression.

    White space around texts is left out, as in training; texts longer than the model was
    fine-tuned with are cut, and counted.

    Args:
        model: of sequence-classification, sentence-pair or regression
        texts: each with something in it
        pairs: the second text of each, for a model of pairs

    Raises:
        FitError: another task, a text is blank, or pairs are missing, too many or without effect
    """
    found = answer_rows(model, rows_to_classify(model, texts, pairs))
    answers = [
        dataclasses.replace(one, text=text, pair=pairs[index] if pairs else None)
        for index, (one, text) in enumerate(zip(found.answers, texts, strict=True))
    ]
    return Answered(answers, found.counts)


def rows_to_classify(
    model: FineTuned, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> Any:
    """Return texts, or pairs of them, as the rows of a task.

    Raises:
        FitError: as `classify`
    """
    check_verb(model.path, model.task, "classify")
    reads_pairs = model.record.has_pairs
    if reads_pairs and pairs is None:
        raise FitError(f"{model.path} was fine-tuned on pairs: give a second text for each")
    if not reads_pairs and pairs is not None:
        raise FitError(f"{model.path} was fine-tuned on single texts: it takes no second ones")
    if pairs is not None and len(pairs) != len(texts):
        raise FitError(f"{len(texts)} texts and {len(pairs)} second texts: one each is needed")
    _check_texts("text", texts)
    _check_texts("second text", pairs or ())
    return make_text_rows(texts, pairs)


def tag(model: FineTuned, texts: Sequence[str] | Sequence[Sequence[str]]) -> Answered[Tagging]:
    """Return a tag for each word of each text.

    Long texts are read in windows that overlap, and counted.

    Args:
        model: of token-classification
        texts: each split by `split_words`, or a list of its words already

    Raises:
        FitError: another task, or a text without a word
    """
    return answer_rows(model, rows_to_tag(model, texts))


def rows_to_tag(model: FineTuned, texts: Sequence[str] | Sequence[Sequence[str]]) -> Any:
    """Return texts, or lists of words, as the rows of a task.

    Raises:
        FitError: as `tag`
    """
    check_verb(model.path, model.task, "tag")
    split = [
        split_words(text) if isinstance(text, str) else (list(text), [True] * len(text))
        for text in texts
    ]
    for index, (words, _) in enumerate(split):
        if not words or not all(word.strip() for word in words):
            raise FitError(f"text {index + 1} has no word, or an empty one: {texts[index]!r}")
    return make_word_rows([words for words, _ in split], [space for _, space in split])


def answer(
    model: FineTuned, questions: Sequence[str], passages: Sequence[str]
) -> Answered[SpanAnswer]:
    """Return where the passages answer the questions.

    Passages longer than the model takes are read in windows that overlap, and counted.

    Args:
        model: of question-answering
        questions: each with something in it
        passages: of each question; one for all of them serves as well

    Raises:
        FitError: another task, a question or passage is blank, or not one passage a question
    """
    found = answer_rows(model, rows_to_answer(model, questions, passages))
    answers = [
        dataclasses.replace(one, question=question)
        for one, question in zip(found.answers, questions, strict=True)
    ]
    return Answered(answers, found.counts)


def rows_to_answer(model: FineTuned, questions: Sequence[str], passages: Sequence[str]) -> Any:
    """Return questions and passages as the rows of a task.

    Raises:
        FitError: as `answer`
    """
    check_verb(model.path, model.task, "answer")
    if len(passages) == 1:
        passages = [*passages] * len(questions)
    if len(passages) != len(questions):
        raise FitError(
            f"{len(questions)} questions and {len(passages)} passages: one each is needed, or one "
            "for all"
        )
    _check_texts("question", questions)
    _check_texts("passage", passages)
    return make_question_rows(questions, passages)


def answer_rows(model: FineTuned, rows: Any) -> Answered[Any]:
    """Return what a model says about the rows of its task, and what was cut or read in windows.

    Args:
        model: of any task
        rows: as its task reads them

    Raises:
        DivergedError: the weights are damaged
    """
    if not len(rows):
        return Answered([], {})
    examples = encode_rows(model, rows)
    return tell_rows(model, rows, examples, predict_logits(model.prepared(), examples))


def encode_rows(model: FineTuned, rows: Any) -> TaskExamples:
    """Return the examples of rows that the model is asked about."""
    record = model.record
    return encode_task(
        model.task, rows, model.tokenizer, record.labels, record.max_seq_length, is_training=False
    )


def tell_rows(model: FineTuned, rows: Any, examples: TaskExamples, logits: Floats) -> Answered[Any]:
    """Return what logits say about rows.

    Args:
        model: of any task
        rows: as its task reads them
        examples: of these rows
        logits: float32 (E, C), or (T, C) where the task is not over sequences
    """
    labels = model.record.labels
    found = make_predictions(model.task, examples, logits, rows, labels)
    counts = {reason: count for reason, count in examples.counts.items() if count}
    return Answered(model.task.answers(rows, found, labels), counts)


def check_verb(path: Path, task: AnyTask, verb: str) -> None:
    """Check that a model in a folder can be asked something.

    Raises:
        FitError: it was fine-tuned for another task
    """
    if task.verb != verb:
        raise FitError(
            f"{path} was fine-tuned for {task.name}, which is no use to {verb}: use {task.verb}"
        )


def _check_texts(name: str, texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        if not text.strip():
            place = f" {index + 1} of {len(texts)}" if len(texts) > 1 else ""
            advice = "give one, or leave the row out" if place else "give one"
            raise FitError(f"{name}{place} is blank: {text!r}; {advice}")


# Scores.


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
    signatures: dict[str, str]  # how scores are computed, where a package of others says so
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
    examples = encode_rows(tuned, rows)
    logits = predict_logits(tuned.prepared(), examples)
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
        signatures=task.signatures(references),
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
    score = task.scorer(found, references, labels)
    for sample in range(num_samples):
        words = draw(stream_key(0, "resample"), np.full(num_rows, sample), rows)
        chosen = (words.astype(np.uint64) * np.uint64(num_rows) >> np.uint64(32)).astype(np.int64)
        try:
            again = score(chosen)
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
