"""A fine-tuned model about new texts: classes and numbers, tags of words, answers to questions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from lmmodel.batch import IGNORED
from lmmodel.errors import FitError
from lmmodel.fine_tuned import FineTuned
from lmmodel.finetuning.answers import Predictions, make_predictions
from lmmodel.finetuning.batches import predict_logits
from lmmodel.finetuning.examples import encode_task
from lmmodel.finetuning.rows import (
    TaskRows,
    make_question_rows,
    make_text_rows,
    make_word_rows,
)
from lmmodel.finetuning.tasks import TaskName

T = TypeVar("T")

# The verb for each task, for errors.
VERBS: dict[TaskName, str] = {
    "sequence-classification": "classify", "sentence-pair": "classify", "regression": "classify",
    "token-classification": "tag", "question-answering": "answer",
}  # fmt: skip

# Words and punctuation marks of a text whose combining marks are all the same one.
_MARK = "\u0301"
_JOINERS = "\u200c\u200d"  # they stand inside words, as in Persian, and between parts of an emoji
_PART = rf"(?:\w{_MARK}*)+"
_WORD = re.compile(rf"{_PART}(?:(?:['’]|(?<=\d)[.,](?=\d)){_PART})*|[^\w\s]{_MARK}*")


@dataclass(frozen=True)
class Answered(Generic[T]):
    """An answer for each text, in order, and what was cut or read in windows."""

    answers: list[T]
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What a text, or a pair of them, is."""

    text: str
    pair: str | None
    label: str | None  # None of regression
    value: float | None  # of regression
    probabilities: dict[str, float]  # of every label, likeliest first; empty of regression


@dataclass(frozen=True, kw_only=True)
class Tagging:
    """The words of a text and a tag for each."""

    text: str
    words: list[str]
    tags: list[str | None]  # None: nothing in the word is a token
    probabilities: list[float]  # of each tag, in [0, 1]


@dataclass(frozen=True, kw_only=True)
class SpanAnswer:
    """Where a passage answers a question."""

    question: str
    passage: str
    answer: str
    start: int  # in characters of the passage
    end: int  # one past the last
    probability: float  # in [0, 1]


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
    task, reads_pairs = model.record.task, model.record.has_pairs
    _check_task(model, "classify")
    if reads_pairs and pairs is None:
        raise FitError(f"{model.path} was fine-tuned on pairs: give a second text for each")
    if not reads_pairs and pairs is not None:
        raise FitError(f"{model.path} was fine-tuned on single texts: it takes no second ones")
    if pairs is not None and len(pairs) != len(texts):
        raise FitError(f"{len(texts)} texts and {len(pairs)} second texts: one each is needed")
    _check_texts("text", texts)
    _check_texts("second text", pairs or ())
    if not texts:
        return Answered([], {})
    found, counts = _predict(model, make_text_rows(task, texts, pairs))
    answers = [
        _classification(model, found, index, text, pairs[index] if pairs else None)
        for index, text in enumerate(texts)
    ]
    return Answered(answers, counts)


def _classification(
    model: FineTuned, found: Predictions, index: int, text: str, pair: str | None
) -> Classification:
    if found.probabilities is None:
        value = float(np.asarray(found.values)[index])
        return Classification(text=text, pair=pair, label=None, value=value, probabilities={})
    row = found.probabilities[index]
    ranked = {model.record.labels[place]: float(row[place]) for place in np.argsort(-row)}
    label = next(iter(ranked))
    return Classification(text=text, pair=pair, label=label, value=None, probabilities=ranked)


def split_words(text: str) -> tuple[list[str], list[bool]]:
    """Return words and punctuation marks, and whether white space stands before each.

    A word is letters and digits, with apostrophes between them. A combining mark or joiner (of
    Hindi, Arabic, Persian, "é" written as two) belongs to what it follows, a point or comma between
    two digits to the number. Every other sign stands alone, so that "U.S." is four.

    Example:
        >>> split_words("Don't pay 3.50, now.")
        (["Don't", 'pay', '3.50', ',', 'now', '.'], [False, True, True, False, True, False])
    """
    found = [match.span() for match in _WORD.finditer(_with_one_mark(text))]
    words = [text[start:stop] for start, stop in found]
    return words, [text[start - 1 : start].isspace() for start, _ in found]


def _with_one_mark(text: str) -> str:
    """Return a text of the same length, each combining mark and joiner replaced by one mark."""
    if text.isascii():
        return text
    return "".join(
        _MARK if unicodedata.category(sign)[0] == "M" or sign in _JOINERS else sign for sign in text
    )


def tag(model: FineTuned, texts: Sequence[str] | Sequence[Sequence[str]]) -> Answered[Tagging]:
    """Return a tag for each word of each text.

    Long texts are read in windows that overlap, and counted.

    Args:
        model: of token-classification
        texts: each split by `split_words`, or a list of its words already

    Raises:
        FitError: another task, or a text without a word
    """
    _check_task(model, "tag")
    split = [
        split_words(text) if isinstance(text, str) else (list(text), [True] * len(text))
        for text in texts
    ]
    for index, (words, _) in enumerate(split):
        if not words or not all(word.strip() for word in words):
            raise FitError(f"text {index + 1} has no word, or an empty one: {texts[index]!r}")
    if not texts:
        return Answered([], {})
    sentences, spaces = [words for words, _ in split], [space for _, space in split]
    rows = make_word_rows(sentences, spaces)
    found, counts = _predict(model, rows)
    assert found.probabilities is not None
    tags = [
        None if value == IGNORED else model.record.labels[value]
        for value in np.asarray(found.values).tolist()
    ]
    best = found.probabilities.max(axis=1).tolist()
    bounds = zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True)
    answers = [
        Tagging(
            text=rows.text(index), words=words, tags=tags[start:stop],
            probabilities=best[start:stop],
        )
        for index, (words, (start, stop)) in enumerate(zip(sentences, bounds, strict=True))
    ]  # fmt: skip
    return Answered(answers, counts)


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
    _check_task(model, "answer")
    if len(passages) == 1:
        passages = [*passages] * len(questions)
    if len(passages) != len(questions):
        raise FitError(
            f"{len(questions)} questions and {len(passages)} passages: one each is needed, or one "
            "for all"
        )
    _check_texts("question", questions)
    _check_texts("passage", passages)
    if not questions:
        return Answered([], {})
    found, counts = _predict(model, make_question_rows(questions, passages))
    assert found.spans is not None
    assert found.probabilities is not None
    columns = zip(
        questions, passages, map(str, found.values), found.spans.tolist(),
        found.probabilities.tolist(), strict=True,
    )  # fmt: skip
    answers = [
        SpanAnswer(
            question=question, passage=passage, answer=text, start=start, end=end,
            probability=probability,
        )
        for question, passage, text, (start, end), probability in columns
    ]  # fmt: skip
    return Answered(answers, counts)


def _check_task(model: FineTuned, verb: str) -> None:
    task = model.record.task
    if VERBS[task] != verb:
        raise FitError(
            f"{model.path} was fine-tuned for {task}, which is no use to {verb}: use {VERBS[task]}"
        )


def _check_texts(name: str, texts: Sequence[str]) -> None:
    for index, text in enumerate(texts):
        if not text.strip():
            place = f" {index + 1} of {len(texts)}" if len(texts) > 1 else ""
            advice = "give one, or leave the row out" if place else "give one"
            raise FitError(f"{name}{place} is blank: {text!r}; {advice}")


def _predict(model: FineTuned, rows: TaskRows) -> tuple[Predictions, dict[str, int]]:
    record = model.record
    examples = encode_task(
        rows, model.tokenizer, record.labels, record.max_seq_length, is_training=False
    )
    logits = predict_logits(model.model, examples)
    counts = {reason: count for reason, count in examples.counts.items() if count}
    return make_predictions(examples, logits, rows), counts
