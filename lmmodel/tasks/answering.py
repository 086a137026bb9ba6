"""Where a passage answers a question, or that it does not.

R questions; E examples of T tokens: a question with its passage, or with a window of it.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodel.batch import Batch
from lmmodel.errors import FitError
from lmmodel.tasks.examples import (
    Encoding,
    Floats,
    Predictions,
    TaskExamples,
    count_windows,
    make_examples,
    unlabelled,
)
from lmmodel.tasks.questions import (
    USUAL,
    Passages,
    QuestionRows,
    encode_passages,
    is_squad,
    read_questions,
    read_squad,
)
from lmmodel.tasks.scores import score_answers
from lmmodel.tasks.task import GivenTexts, Scores, StockClass, Task
from lmmodel.tasks.task_files import TaskFile
from lmmodel.texts import (
    Framed,
    Integers,
    Windows,
    cut_windows,
    encode_texts,
    find_frame,
    put_into_frame,
)

MAX_ANSWER_TOKENS = 30
UNANSWERABLE = "unanswerable"
"""The only label of a model that was shown questions which their passages do not answer."""
_WITHOUT_DROPOUT = frozenset({"bert", "gpt2", "roberta", "albert", "electra", "xlnet"})
"""Families whose class drops no features before its last layer."""


@dataclass(frozen=True, kw_only=True)
class SpanAnswer:
    """Where a passage answers a question."""

    question: str
    passage: str
    answer: str  # empty: the passage does not answer it
    start: int  # in characters of the passage
    end: int  # one past the last
    probability: float  # in [0, 1]


class AnsweringTask(Task[QuestionRows]):
    """The stretch of a passage that answers a question; (0, 0), the first token, for none.

    So BERT was fine-tuned for SQuAD 2.0 (Devlin et al., 2019, section 4.3).
    """

    name = "question-answering"
    verb = "answer"
    stopping_scores = ("f1", "exact_match")
    is_over_sequences = False
    usual = USUAL
    stock = StockClass(
        suffix="QuestionAnswering",
        pipeline_tag="question-answering",
        classifiers=dict.fromkeys((*_WITHOUT_DROPOUT, "distilbert"), "qa_outputs"),
        suffixes={"xlnet": "QuestionAnsweringSimple"},
        without_dropout=_WITHOUT_DROPOUT,
    )

    def owns(self, file: TaskFile) -> bool:
        """Whether a file is in SQuAD's form."""
        return is_squad(file)

    def read(self, file: TaskFile) -> QuestionRows:
        """Return questions with their passages and answers."""
        return read_squad(file) if self.owns(file) else read_questions(file)

    def find_labels(self, rows: QuestionRows) -> tuple[str, ...]:
        """Return whether there are questions without an answer among others."""
        has_answer = [bool(answers) for answers in rows.answers or ()]
        return (UNANSWERABLE,) if any(has_answer) and not all(has_answer) else ()

    def check_validation(self, train: QuestionRows, validation: QuestionRows) -> None:
        """Check that there are answers to score by."""
        texts = [answer.text for answers in validation.answers or () for answer in answers]
        if not any(map(str.strip, texts)):
            raise FitError(f"{validation.path} has no right answers to score by: add them")

    def output_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return nothing: the stock class names neither beginning nor end."""
        return ()

    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return 2: beginning and end of an answer."""
        return 2

    def encode(self, rows: QuestionRows, how: Encoding) -> TaskExamples:
        """Return questions, each with its passage or with windows of it.

        Labels: int64 (E, 2), position in the example of the answer's first and last token; (0, 0)
        where this window does not hold it. `of_tokens`: `is_scored`, bool: the token may begin or
        end an answer; `starts` and `ends`, int64: its first character in the passage and one past
        its last.
        """
        frame = find_frame(how.tokenizer, 2)
        room = frame.room(how.max_seq_length)
        questions = encode_texts(how.tokenizer.backend, rows.questions)
        passages = encode_passages(how.tokenizer.backend, rows.passages)
        answers = find_answers(rows, passages)
        kept = how.choose(answers.can_teach)
        asked = np.minimum(questions.lengths, room // 2)
        num_tokens = passages.tokens.lengths[rows.passage_of]
        windows = cut_windows(num_tokens[kept], room - asked[kept], how.overlap)
        row = kept[windows.sequence]
        passage = passages.tokens.span(rows.passage_of[row], windows.starts, windows.lengths)
        framed = put_into_frame(frame, [questions.span(row, 0, asked[row]), passage])
        begins = framed.offsets[1:] - len(frame.after) - windows.lengths - framed.offsets[:-1]
        columns = (passages.has_text, passages.starts, passages.ends)
        has_text, starts, ends = (_spread(framed, values[passage.source]) for values in columns)
        is_known = rows.answers is not None
        return make_examples(
            rows,
            framed,
            row,
            labels=place_answers(answers, row, windows, begins) if is_known else None,
            of_tokens={"is_scored": has_text.astype(np.bool_), "starts": starts, "ends": ends},
            counts={
                **{how.name(reason): count for reason, count in answers.reasons.items()},
                "questions without an answer": int((answers.can_teach & ~answers.is_found).sum()),
                "questions truncated": int((questions.lengths > asked)[kept].sum()),
                **count_windows(windows),
            },
        )

    def given(self, rows: QuestionRows) -> GivenTexts:
        """Return the questions with their passages."""
        passages = [rows.passage(row) for row in range(len(rows))]
        about = [
            {"id": identity, "question": question}
            for identity, question in zip(rows.ids, rows.questions, strict=True)
        ]
        return GivenTexts(texts=list(rows.questions), seconds=passages, rows=about)

    def take_rows(self, rows: QuestionRows, which: Integers) -> QuestionRows:
        """Return some rows."""
        return rows.take(which)

    def groups(self, rows: QuestionRows) -> Integers:
        """Return the passage of each question."""
        return rows.passage_of

    def sum_loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of first and last token; labels int64 (B, 2)."""
        return F.cross_entropy(spread(logits, batch), labels, reduction="sum")

    def count_labels(self, labels: Tensor) -> int:
        """Return 2 B: one for each end."""
        return labels.numel()

    def predict(
        self, examples: TaskExamples, logits: Floats, rows: QuestionRows, labels: Sequence[str]
    ) -> Predictions:
        """Return the best stretch of each passage, or an empty text where none is better.

        As SQuAD 2.0's and BERT's scripts decide: there is no answer where the first token of some
        window, taken for beginning and end, scores more than the best stretch of all windows.
        """
        best = best_spans(examples, logits, MAX_ANSWER_TOKENS)
        has_answer = best.first <= best.last
        probabilities = best.probabilities
        if UNANSWERABLE in labels:
            nothing = null_scores(examples, logits)
            is_better = nothing > best.scores
            has_answer &= ~is_better
            certainty = 1 / (1 + np.exp(np.clip(best.scores - nothing, -80, 80)))
            probabilities = np.where(is_better, certainty, probabilities).astype(np.float32)
        starts = np.where(has_answer, examples.of_tokens["starts"][best.first], 0)
        ends = np.where(has_answer, examples.of_tokens["ends"][best.last], 0)
        spans = zip(range(len(rows)), starts.tolist(), ends.tolist(), strict=True)
        return Predictions(
            values=[rows.passage(row)[start:end] for row, start, end in spans],
            probabilities=probabilities,
            spans=np.stack([starts, ends], axis=1),
        )

    def references(self, rows: QuestionRows, labels: Sequence[str]) -> list[list[str]]:
        """Return the texts of the right answers, a list for each question."""
        if rows.answers is None:
            raise unlabelled(rows.path)
        return [[answer.text for answer in row] for row in rows.answers]

    def score(self, found: Predictions, references: Any, labels: Sequence[str]) -> Scores:
        """Return F1 and exact match of SQuAD."""
        return score_answers(found.values, references)

    def answers(
        self, rows: QuestionRows, found: Predictions, labels: Sequence[str]
    ) -> list[SpanAnswer]:
        """Return where each passage answers its question."""
        assert found.spans is not None
        assert found.probabilities is not None
        columns = zip(
            rows.questions, found.values, found.spans.tolist(), found.probabilities.tolist(),
            strict=True,
        )  # fmt: skip
        return [
            SpanAnswer(
                question=question, passage=rows.passage(row), answer=text, start=start, end=end,
                probability=probability,
            )
            for row, (question, text, (start, end), probability) in enumerate(columns)
        ]  # fmt: skip


# Right answers.


@dataclass(frozen=True)
class RightAnswers:
    """Where the answers of R questions are."""

    spans: Integers  # (R, 2) first and last token, counted from the passage's first; 0 if not found
    is_found: npt.NDArray[np.bool_]  # (R,)
    can_teach: npt.NDArray[np.bool_]  # (R,) found, or known not to be there
    reasons: Mapping[str, int]  # questions that can't be learned from, by why


def find_answers(rows: QuestionRows, passages: Passages) -> RightAnswers:
    """Return the tokens of each question's answer.

    The answer is the first of the alternatives that the passage has where they say.

    Args:
        rows: R questions
        passages: their distinct passages, as tokens
    """
    spans = np.zeros((len(rows), 2), np.int64)
    is_found, can_teach = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    reasons: collections.Counter[str] = collections.Counter()
    for row, question in enumerate(rows.questions):
        span = _find_answer(rows, passages, row)
        has_none = rows.answers is not None and not rows.answers[row]
        if not question.strip():
            reasons["empty question"] += 1
        elif span is not None:
            spans[row], is_found[row], can_teach[row] = span, True, True
        elif has_none:
            can_teach[row] = True
        elif rows.answers is not None:
            reasons["answer not in its passage"] += 1
    return RightAnswers(spans, is_found, can_teach, reasons)


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


# Logits.


def _spread(framed: Framed, values: npt.NDArray[np.generic]) -> Integers:
    """Return values of the second text's tokens at their places: int64 (T,), 0 elsewhere."""
    spread = np.zeros(len(framed.input_ids), np.int64)
    spread[framed.places[1]] = values
    return spread


def spread(logits: Tensor, batch: Batch) -> Tensor:
    """Return logits (T, C) with a row a sequence: (B, max_seqlen, C), -inf beyond its end.

    Example:
        >>> from lmmodel.batch import make_batch
        >>> batch = make_batch(torch.tensor([5, 6, 7]), torch.tensor([1, 2]))
        >>> spread(torch.tensor([[1.0], [2.0], [3.0]]), batch)[:, :, 0].tolist()
        [[1.0, -inf], [2.0, 3.0]]
    """
    lengths = batch.cu_seqlens.diff().long()
    sequence = torch.arange(batch.num_sequences, device=logits.device).repeat_interleave(lengths)
    shape = (batch.num_sequences, batch.max_seqlen, logits.shape[-1])
    places = (sequence, batch.position_ids)
    return logits.new_full(shape, -torch.inf).index_put(places, logits)


@dataclass(frozen=True)
class BestSpans:
    """The best stretch of each of R passages."""

    first: Integers  # (R,) places among the tokens of all examples
    last: Integers  # (R,) before `first` where the passage has no text
    scores: npt.NDArray[np.float64]  # (R,) sum of the two logits
    probabilities: Floats  # (R,) of the first times that of the last, over the question's windows


def best_spans(examples: TaskExamples, logits: Floats, max_answer_tokens: int) -> BestSpans:
    """Return the answer of each of R questions: the span with the highest sum of two logits.

    Spans lie inside one window and the passage, and the best of all windows wins (Devlin et al.,
    2019, section 4.2). Among equals the first, then the shortest.

    Args:
        examples: of every question
        logits: float32 (T, 2) of beginning and ending an answer at each token
        max_answer_tokens: longest answer, at least 1
    """
    is_scored = examples.of_tokens["is_scored"]
    begins, ends = np.where(is_scored[:, None], logits, -np.inf).T.astype(np.float64)
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
    found = np.where(is_absent, first - 1, last[first])
    return BestSpans(first, found, best[first], np.array(probabilities, np.float32))


def null_scores(examples: TaskExamples, logits: Floats) -> npt.NDArray[np.float64]:
    """Return for each question how much speaks for no answer: float64 (R,).

    The least of its windows' sums of both logits at the first token.

    Args:
        examples: of every question
        logits: float32 (T, 2)
    """
    each = logits[examples.offsets[:-1]].astype(np.float64).sum(1)
    return np.minimum.reduceat(each, np.flatnonzero(_is_new(examples.row)))


def _is_new(row: Integers) -> npt.NDArray[np.bool_]:
    """Return whether each of E rows, which ascend, differs from the one before."""
    return np.append(True, row[1:] != row[:-1])[: len(row)]


def _probability(logits: npt.NDArray[np.float64], place: int) -> float:
    """Return the softmax of one place; 0 where all are impossible."""
    if np.isneginf(logits[place]):
        return 0.0
    return float(1.0 / np.exp(logits - logits[place]).sum())
