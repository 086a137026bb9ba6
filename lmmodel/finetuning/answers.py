"""Logits of examples -> what the model says about each row of the file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmmodel.batch import IGNORED
from lmmodel.finetuning.examples import TaskExamples
from lmmodel.finetuning.rows import QuestionRows, TaskRows, WordRows
from lmmodel.finetuning.spans import Integers
from lmmodel.finetuning.tasks import TaskName

MAX_ANSWER_TOKENS = 30

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """One prediction a row (R), or a word of the file (W) for token classification.

    `values` are class ids int64 (R,); numbers float64 (R,) of regression; tag ids int64 (W,),
    IGNORED for a word that has no piece; or the texts of the answers, a list (R,).
    """

    task: TaskName
    values: npt.NDArray[np.int64] | npt.NDArray[np.float64] | list[str]
    probabilities: Floats | None
    """(R, C) or (W, C) of classes and tags; (R,) of the chosen answers; None for regression."""
    spans: Integers | None = None
    """(R, 2) of answers: first character and one past the last, in the passage."""


def make_predictions(
    examples: TaskExamples,
    logits: Floats,
    rows: TaskRows,
    *,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
) -> Predictions:
    """Return what logits say about the rows of the file.

    Args:
        examples: encoded with `is_training=False`, so that every row has one
        logits: float32 (E, C) for tasks over sequences, (T, C) for tags, (T, 2) for answers, in the
            order of `examples`
        rows: of which `examples` were made
        max_answer_tokens: longest answer to a question, at least 1

    Raises:
        ValueError: the logits are not those of the examples, or rows were left out
    """
    is_by_token = examples.is_scored is not None
    expected = len(examples.input_ids) if is_by_token else len(examples)
    if len(logits) != expected:
        raise ValueError(f"logits of {len(logits)} rows for {expected} of the examples")
    if len(np.unique(examples.row)) != len(rows):
        raise ValueError("rows were left out: encode them with is_training=False")
    if isinstance(rows, QuestionRows):
        return _answers(examples, logits, rows, max_answer_tokens)
    if isinstance(rows, WordRows):
        return _tags(examples, logits, len(rows.words))
    if rows.task == "regression":
        values = logits.reshape(len(rows)).astype(np.float64)
        return Predictions(task=rows.task, values=values, probabilities=None)
    return Predictions(
        task=rows.task, values=logits.argmax(1).astype(np.int64), probabilities=softmax(logits)
    )


def softmax(logits: Floats) -> Floats:
    """Return probabilities: float32 (N, C).

    Example:
        >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]], np.float32)).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    raised = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Floats = (raised / raised.sum(1, keepdims=True)).astype(np.float32)
    return probabilities


def _tags(examples: TaskExamples, logits: Floats, num_words: int) -> Predictions:
    assert examples.is_scored is not None
    assert examples.word is not None
    words = examples.word[examples.is_scored]
    scored = logits[examples.is_scored]
    values = np.full(num_words, IGNORED, np.int64)
    values[words] = scored.argmax(1)
    probabilities = np.zeros((num_words, logits.shape[1]), np.float32)
    probabilities[words] = softmax(scored)
    return Predictions(task=examples.task, values=values, probabilities=probabilities)


def _answers(
    examples: TaskExamples, logits: Floats, rows: QuestionRows, max_answer_tokens: int
) -> Predictions:
    assert examples.token_starts is not None
    assert examples.token_ends is not None
    first, last, probabilities = best_spans(examples, logits, max_answer_tokens)
    has_answer = first <= last
    starts = np.where(has_answer, examples.token_starts[first], 0)
    ends = np.where(has_answer, examples.token_ends[last], 0)
    spans = zip(range(len(rows)), starts.tolist(), ends.tolist(), strict=True)
    return Predictions(
        task="question-answering",
        values=[rows.passage(row)[start:end] for row, start, end in spans],
        probabilities=probabilities,
        spans=np.stack([starts, ends], axis=1),
    )


def best_spans(
    examples: TaskExamples, logits: Floats, max_answer_tokens: int
) -> tuple[Integers, Integers, Floats]:
    """Return the answer of each of R questions: the span with the highest sum of two logits.

    Spans lie inside one window and the passage, and the best of all windows wins (Devlin et al.,
    2019, section 4.2). Among equals the first, then the shortest.

    Args:
        examples: of every question
        logits: float32 (T, 2) of beginning and ending an answer at each token
        max_answer_tokens: longest answer, at least 1

    Returns:
        First and last token, int64 (R,) places in T, last before first where the passage has no
        text; and the probability, float32 (R,), of the first times that of the last, over all
        tokens of all the question's windows.
    """
    assert examples.is_scored is not None
    begins, ends = np.where(examples.is_scored[:, None], logits, -np.inf).T.astype(np.float64)
    window = np.repeat(np.arange(len(examples)), examples.lengths)
    best, last = begins + ends, np.arange(len(window))
    for length in range(1, min(max_answer_tokens, len(window))):
        score = begins[:-length] + ends[length:]
        score[window[:-length] != window[length:]] = -np.inf
        is_better = score > best[:-length]
        best[:-length][is_better] = score[is_better]
        last[:-length][is_better] = np.flatnonzero(is_better) + length
    bounds = np.append(examples.offsets[:-1][_is_new(examples.row)], len(window))
    spans = list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    first = np.array([b + best[b:e].argmax() for b, e in spans], np.int64)
    is_absent = np.isneginf(best[first])
    probabilities = [
        _probability(begins[b:e], best_start - b) * _probability(ends[b:e], best_end - b)
        for (b, e), best_start, best_end in zip(spans, first, last[first], strict=True)
    ]
    return first, np.where(is_absent, first - 1, last[first]), np.array(probabilities, np.float32)


def _is_new(row: Integers) -> npt.NDArray[np.bool_]:
    """Return whether each of E rows, which ascend, differs from the one before."""
    return np.append(True, row[1:] != row[:-1])[: len(row)]


def _probability(logits: npt.NDArray[np.float64], place: int) -> float:
    """Return the softmax of one place; 0 where all are impossible."""
    if np.isneginf(logits[place]):
        return 0.0
    return float(1.0 / np.exp(logits - logits[place]).sum())
