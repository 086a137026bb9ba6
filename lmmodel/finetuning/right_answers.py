"""Right answers of questions as tokens of their passages and of windows."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmmodel.finetuning.passages import Passages
from lmmodel.finetuning.rows import QuestionRows
from lmmodel.finetuning.spans import Integers
from lmmodel.finetuning.windows import Windows


@dataclass(frozen=True)
class RightAnswers:
    """Where the answers of R questions are."""

    spans: Integers  # (R, 2) first and last token, counted from the passage's first; 0 if not found
    is_found: npt.NDArray[np.bool_]  # (R,)
    reasons: Mapping[str, int]  # questions that can't be learned from, by why


def find_answers(rows: QuestionRows, passages: Passages) -> RightAnswers:
    """Return the tokens of each question's answer.

    The answer is the first of the alternatives that the passage has where they say.
    """
    spans = np.zeros((len(rows), 2), np.int64)
    is_found = np.zeros(len(rows), np.bool_)
    reasons: collections.Counter[str] = collections.Counter()
    for row, question in enumerate(rows.questions):
        span = _find_answer(rows, passages, row)
        if not question.strip():
            reasons["empty question"] += 1
        elif span is not None:
            spans[row], is_found[row] = span, True
        elif rows.answers is not None:
            reasons["answer not in its passage" if rows.answers[row] else "no answer given"] += 1
    return RightAnswers(spans, is_found, reasons)


def _find_answer(rows: QuestionRows, passages: Passages, row: int) -> tuple[int, int] | None:
    for answer in () if rows.answers is None else rows.answers[row]:
        if answer.text.strip() and answer.is_in(rows.passage(row)):
            span = passages.find(int(rows.passage_of[row]), answer)
            if span is not None:
                return span
    return None


def place_answers(
    answers: RightAnswers, row: Integers, windows: Windows, begins: Integers
) -> Integers:
    """Return where in each example its answer is: int64 (E, 2), (0, 0) where it is not inside.

    Args:
        answers: of the questions
        row: int64 (E,) the question of each example
        windows: E of them, of the passages
        begins: int64 (E,) where in the example the window begins
    """
    spans = answers.spans[row]
    first, last = spans[:, 0] - windows.starts, spans[:, 1] - windows.starts
    is_inside = answers.is_found[row] & (first >= 0) & (last < windows.lengths)
    return np.where(is_inside[:, None], np.stack([first, last], axis=1) + begins[:, None], 0)
