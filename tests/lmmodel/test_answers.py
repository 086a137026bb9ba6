"""Logits become the characters of the passage, the tags of words and the classes of texts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmdata.tokenizer import load_tokenizer
from lmmodel.batch import IGNORED
from lmmodel.tasks import answering
from lmmodel.tasks import task as tasks
from lmmodel.tasks.answering import best_spans
from lmmodel.tasks.examples import Predictions, TaskExamples
from lmmodel.tasks.known import TASKS, read_task_file
from lmmodel.tasks.questions import Answer, QuestionRows, encode_passages, make_question_rows
from lmmodel.tasks.task_files import TaskFormat
from lmmodel.tasks.text_rows import TextRows, make_text_rows
from lmmodel.tasks.words import WordRows, make_word_rows
from tests.lmmodel.tiny_tokenizers import TINY

KINDS = sorted(TINY)
# No lone surrogates: no file can hold them.
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


USUAL = {
    TextRows: "sequence-classification", WordRows: "token-classification",
    QuestionRows: "question-answering",
}  # fmt: skip


def encode_task(
    rows: Any, *arguments: Any, task: str | None = None, **options: Any
) -> TaskExamples:
    """Return the examples of rows, by the task that reads such rows."""
    return tasks.encode_task(TASKS[task or USUAL[type(rows)]], rows, *arguments, **options)


def make_predictions(
    examples: TaskExamples,
    logits: np.ndarray,
    rows: Any,
    *,
    task: str | None = None,
    labels: tuple[str, ...] = (),
    max_answer_tokens: int = 30,
) -> Predictions:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "MAX_ANSWER_TOKENS", max_answer_tokens)
        name = task or USUAL[type(rows)]
        return tasks.make_predictions(TASKS[name], examples, logits, rows, labels)


def answered(passage: str, *answers: Answer, question: str = "cat?") -> QuestionRows:
    rows = make_question_rows([question], [passage])
    changed: Any = {**vars(rows), "answers": [answers]}
    return QuestionRows(**changed)


def certain(examples: TaskExamples) -> np.ndarray:
    """Logits that are sure of the right answer wherever a window holds it: float32 (T, 2)."""
    logits = np.zeros((len(examples.input_ids), 2), np.float32)
    assert examples.labels is not None
    held = examples.labels.any(1)
    places = (examples.offsets[:-1, None] + examples.labels)[held]
    logits[places[:, 0], 0] = logits[places[:, 1], 1] = 9
    return logits


# Passages.


@pytest.mark.parametrize("kind", KINDS)
@given(passage=UNICODE)
def test_tokens_cover_characters_in_order_and_hold_no_white_space_at_their_ends(
    kind: str, passage: str
) -> None:
    passages = encode_passages(TINY[kind].backend, [passage])
    spans = list(zip(passages.starts.tolist(), passages.ends.tolist(), strict=True))
    for (start, end), has_text in zip(spans, passages.has_text, strict=True):
        text = passage[start:end]
        assert text == text.strip()
        assert bool(text) == has_text
    held = [span for span, has_text in zip(spans, passages.has_text, strict=True) if has_text]
    for before, after in itertools.pairwise(held):
        assert before[0] <= after[0]
        assert before[1] <= after[1]
        assert before == after or before[1] <= after[0]


@pytest.mark.parametrize("kind", KINDS)
@given(passage=UNICODE, data=st.data())
def test_answers_made_of_tokens_come_back_to_the_character(
    kind: str, passage: str, data: st.DataObject
) -> None:
    passages = encode_passages(TINY[kind].backend, [passage])
    places = np.flatnonzero(passages.has_text)
    if not len(places):
        return
    bounds = st.integers(0, len(places) - 1)
    first, last = sorted((data.draw(bounds), data.draw(bounds)))
    start, end = int(passages.starts[places[first]]), int(passages.ends[places[last]])
    answer = Answer(passage[start:end], start)
    rows = answered(passage, answer)
    examples = encode_task(rows, TINY[kind], (), 512, is_training=False)
    predictions = make_predictions(examples, certain(examples), rows, max_answer_tokens=512)
    assert predictions.values == [answer.text]
    assert predictions.spans is not None
    assert predictions.spans.tolist() == [[start, end]]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(passage=UNICODE, data=st.data())
def test_any_answer_comes_back_inside_the_tokens_that_it_touches(
    kind: str, passage: str, data: st.DataObject
) -> None:
    if not passage:
        return
    start = data.draw(st.integers(0, len(passage) - 1))
    end = data.draw(st.integers(start + 1, len(passage)))
    passages = encode_passages(TINY[kind].backend, [passage])
    found = passages.find(0, Answer(passage[start:end], start))
    touched = [
        token
        for token, (begin, stop) in enumerate(zip(passages.starts, passages.ends, strict=True))
        if begin < stop and begin < end and stop > start
    ]
    text = passage[start:end]
    if not text.strip() or not touched:
        assert found is None
    elif text == text.strip():
        assert found == (touched[0], touched[-1])


def test_accents_capitals_and_spaces_come_back() -> None:
    passage = "Der  A\u0308ltere,  CAT\u00a0 (e\u0301te\u0301)."
    for kind in KINDS:
        start = passage.index("A")
        answer = Answer(passage[start:-2], start)
        rows = answered(passage, answer)
        examples = encode_task(rows, TINY[kind], (), 64, is_training=True)
        predictions = make_predictions(examples, certain(examples), rows)
        assert isinstance(predictions.values, list)
        if kind in ("wordpiece", "gpt2", "modern"):
            assert predictions.values == [answer.text]


def test_bytes_of_one_character_stand_for_all_of_it() -> None:
    passages = encode_passages(TINY["gpt2"].backend, ["a 😀"])
    assert passages.starts.tolist() == [0, 2, 2, 2, 2, 2][: len(passages.starts)]
    assert passages.find(0, Answer("😀", 2)) is not None
    blank = encode_passages(TINY["gpt2"].backend, ["a \n b"])
    assert not blank.has_text.all()


# The best span.


def slow_best_span(examples: TaskExamples, logits: np.ndarray, row: int, longest: int) -> Any:
    """Every span of every window, one by one."""
    best: tuple[float, int, int] | None = None
    for example in np.flatnonzero(examples.row == row):
        tokens = range(examples.offsets[example], examples.offsets[example + 1])
        allowed = [token for token in tokens if examples.of_tokens["is_scored"][token]]
        for first, last in itertools.product(allowed, allowed):
            score = float(logits[first, 0]) + float(logits[last, 1])
            if first <= last < first + longest and (best is None or score > best[0]):
                best = (score, first, last)
    return best


@settings(max_examples=30)
@given(st.lists(st.integers(0, 14), min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 99))
def test_the_best_span_is_that_of_trying_them_all(
    lengths: list[int], longest: int, seed: int
) -> None:
    passages = [" ".join(["cat"] * length) for length in lengths]
    rows = make_question_rows(["the"] * len(passages), passages)
    examples = encode_task(rows, TINY["wordpiece"], (), 11, is_training=False, window_overlap=2)
    generator = np.random.default_rng(seed)
    logits = generator.integers(-3, 4, (len(examples.input_ids), 2)).astype(np.float32)
    best = best_spans(examples, logits, longest)
    first, last, probabilities = best.first, best.last, best.probabilities
    for row in range(len(rows)):
        expected = slow_best_span(examples, logits, row, longest)
        if expected is None:
            assert last[row] < first[row]
            assert probabilities[row] == 0
        else:
            assert (first[row], last[row]) == expected[1:]
            assert 0 < probabilities[row] <= 1
    answers = make_predictions(examples, logits, rows, max_answer_tokens=longest).values
    assert [bool(answer) for answer in answers] == [length > 0 for length in lengths]


def test_the_best_window_wins_and_probabilities_are_over_all_of_them() -> None:
    passage = " ".join(["cat"] * 12 + ["old"] + ["the"] * 12)
    rows = answered(passage, Answer("old", 48))
    examples = encode_task(rows, TINY["wordpiece"], (), 16, is_training=False, window_overlap=4)
    assert len(examples) > 1
    logits = np.zeros((len(examples.input_ids), 2), np.float32)
    assert examples.labels is not None
    window = int(np.flatnonzero(examples.labels.any(1))[0])
    logits[examples.offsets[window] + examples.labels[window, 0]] = np.log(3)
    predictions = make_predictions(examples, logits, rows)
    assert predictions.values == ["old"]
    share = 3 / (examples.of_tokens["is_scored"].sum() + 2)
    assert predictions.probabilities is not None
    assert predictions.probabilities[0] == pytest.approx(share**2, rel=1e-5)


def test_there_is_no_answer_where_the_first_token_scores_more_than_the_best_stretch() -> None:
    rows = answered("the old cat", Answer("old", 4))
    examples = encode_task(rows, TINY["wordpiece"], (), 32, is_training=False)
    logits = np.zeros((len(examples.input_ids), 2), np.float32)
    logits[0] = 1.5
    place = np.flatnonzero(examples.of_tokens["starts"] == 4)[0]
    for height, text in ((1.4, ""), (1.6, "old")):
        logits[place] = height
        found = make_predictions(examples, logits, rows, labels=("unanswerable",))
        assert found.values == [text]
        assert found.spans is not None
        assert found.spans.tolist() == [[0, 0] if text == "" else [4, 7]]
        assert found.probabilities is not None
        assert 0 < found.probabilities[0] <= 1
        assert make_predictions(examples, logits, rows).values == ["old"]  # always answers


def test_the_window_that_doubts_least_that_there_is_an_answer_decides() -> None:
    rows = answered(" ".join(["cat"] * 40))
    examples = encode_task(rows, TINY["wordpiece"], (), 16, is_training=False)
    logits = np.zeros((len(examples.input_ids), 2), np.float32)
    firsts = examples.offsets[:-1]
    logits[firsts, 0] = np.arange(len(firsts)) - 2.0
    assert answering.null_scores(examples, logits).tolist() == [-2.0]


# Tags and classes.


def test_tags_come_back_to_their_words() -> None:
    rows = make_word_rows([["cat", "cannot"], ["\u200b", "the"]])
    examples = encode_task(rows, TINY["wordpiece"], ("x", "y"), 16, is_training=False)
    logits = np.zeros((len(examples.input_ids), 2), np.float32)
    logits[np.flatnonzero(examples.of_tokens["is_scored"]), [1, 0, 1]] = 5
    predictions = make_predictions(examples, logits, rows)
    assert np.asarray(predictions.values).tolist() == [1, 0, IGNORED, 1]
    assert predictions.probabilities is not None
    assert predictions.probabilities.sum(1).round(5).tolist() == [1, 1, 0, 1]


def test_classes_and_numbers() -> None:
    rows = make_text_rows(["cat", "the"])
    examples = encode_task(rows, TINY["modern"], ("x", "y", "z"), 16, is_training=False)
    logits = np.array([[0, 9, 0], [9, 0, 0]], np.float32)
    predictions = make_predictions(examples, logits, rows)
    assert np.asarray(predictions.values).tolist() == [1, 0]
    with pytest.raises(ValueError, match="logits of 3 rows for 2"):
        make_predictions(examples, np.zeros((3, 3), np.float32), rows)
    numbers = make_text_rows(["cat", "the"], ["a", "b"])
    examples = encode_task(numbers, TINY["modern"], (), 16, is_training=False, task="regression")
    predictions = make_predictions(
        examples, np.array([[0.5], [2]], np.float32), numbers, task="regression"
    )
    assert np.asarray(predictions.values).tolist() == [0.5, 2.0]
    assert predictions.probabilities is None


def test_examples_for_training_can_not_be_scored() -> None:
    rows = make_text_rows(["cat", ""])
    examples = encode_task(rows, TINY["modern"], ("x", "y"), 16, is_training=True)
    with pytest.raises(ValueError, match="rows were left out"):
        make_predictions(examples, np.zeros((1, 2), np.float32), rows)


# Real data.


@pytest.mark.parametrize(
    ("language", "name", "least"),
    [("en", "bert-base-uncased", 0.999), ("en", "gpt2", 0.98), ("zh", "bert-base-chinese", 0.98)],
)
def test_right_answers_of_xquad_come_back(
    shared_data: Path, language: str, name: str, least: float
) -> None:
    path = shared_data / f"tasks/xquad/xquad.{language}.json"
    rows = read_task_file(path, "question-answering", TaskFormat())
    task = TASKS["question-answering"]
    assert task.find_labels(rows) == ()
    tokenizer = load_tokenizer(shared_data / "vocab" / name)
    examples = encode_task(rows, tokenizer, (), 384, is_training=False, window_overlap=128)
    predictions = make_predictions(examples, certain(examples), rows, max_answer_tokens=64)
    same = [
        found == right[0]
        for found, right in zip(predictions.values, task.references(rows, ()), strict=True)
    ]
    assert np.mean(same) >= least
