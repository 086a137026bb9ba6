"""Scores by hand, against plain loops, and against the definitions they are named after."""

from __future__ import annotations

import collections
import re
import string
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmmodel.batch import IGNORED
from lmmodel.tasks.examples import Predictions
from lmmodel.tasks.known import TASKS
from lmmodel.tasks.scores import (
    answer_f1,
    are_entity_tags,
    confusion,
    mean_and_spread,
    normalize_answer,
    score_answers,
    score_entities,
    wilson_interval,
)
from lmmodel.tasks.tagging import WordTags


def score_task(task: str, values: Any, references: Any, labels: Sequence[str] = ()) -> Any:
    if task == "token-classification":
        references = WordTags(references, np.array([0, len(references)]))
    return TASKS[task].score(Predictions(values=values), references, labels)


def test_classes_by_hand() -> None:
    right = np.array([0, 0, 0, 1, 1, 2])
    guess = np.array([0, 0, 1, 1, 1, 1])
    scores = score_task("sequence-classification", guess, right)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    # F1 of 0: 2·2/(2·2+0+1), of 1: 2·2/(2·2+2+0), of 2: 0
    assert scores["f1_macro"] == pytest.approx((4 / 5 + 4 / 6 + 0) / 3)
    assert scores["accuracy_low"] < scores["accuracy"] < scores["accuracy_high"]


def test_matthews_of_two_classes_by_hand() -> None:
    right, guess = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 1])
    tp, tn, fp, fn = 2, 1, 1, 1
    expected = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert score_task("sentence-pair", guess, right)["matthews"] == pytest.approx(expected)
    assert score_task("sentence-pair", np.zeros(5, int), right)["matthews"] == 0
    assert score_task("sentence-pair", np.zeros(5, int), np.zeros(5, int))["matthews"] == 0


def test_words_without_a_tag_do_not_count_and_those_without_a_prediction_are_wrong() -> None:
    right = np.array([0, 1, IGNORED, 1])
    guess = np.array([0, 1, 0, IGNORED])
    scores = score_task("token-classification", guess, right)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["f1_macro"] == pytest.approx((1 + 2 / 3) / 2)
    assert "matthews" not in scores
    assert confusion(guess, right, 2).tolist() == [[1, 0], [0, 1]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_classes_agree_with_a_plain_loop(pairs: list[tuple[int, int]]) -> None:
    right, guess = np.array([r for r, _ in pairs]), np.array([g for _, g in pairs])
    scores = score_task("sequence-classification", guess, right)
    f1 = []
    for label in {*right.tolist(), *guess.tolist()}:
        hits = sum(r == g == label for r, g in pairs)
        total = sum(r == label for r, _ in pairs) + sum(g == label for _, g in pairs)
        f1.append(2 * hits / total)
    assert scores["f1_macro"] == pytest.approx(np.mean(f1))
    assert scores["accuracy"] == pytest.approx(np.mean([r == g for r, g in pairs]))
    assert 0 <= scores["accuracy_low"] <= scores["accuracy"] <= scores["accuracy_high"] + 1e-12
    cells = confusion(guess, right, 4)
    assert cells.sum() == len(pairs)
    assert np.trace(cells) == sum(r == g for r, g in pairs)
    assert -1 <= scores["matthews"] <= 1


def test_numbers_by_hand() -> None:
    right, guess = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])
    assert score_task("regression", guess, right) == pytest.approx(
        {"pearson": 1.0, "spearman": 1.0, "mse": (1 + 4 + 9) / 3}
    )
    constant = score_task("regression", np.ones(3), right)
    assert (constant["pearson"], constant["spearman"]) == (0.0, 0.0)
    curved = score_task("regression", np.array([1.0, 10.0, 1000.0]), right)
    assert curved["spearman"] == pytest.approx(1.0)
    assert curved["pearson"] < 1


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to score: no row has a label"):
        score_task("token-classification", np.array([0]), np.array([IGNORED]))
    with pytest.raises(ValueError, match="2 predictions for 1 references"):
        score_task("regression", np.zeros(2), np.zeros(1))
    with pytest.raises(ValueError, match="there are no questions"):
        score_task("question-answering", [], [])


@pytest.mark.parametrize("name", TASKS)
def test_the_scores_that_may_decide_are_given(name: str) -> None:
    right: Any = np.array([0, 1])
    if name == "question-answering":
        scores = score_task(name, ["a b", "c"], [["a b"], ["d"]])
    elif name == "sequence-to-sequence":
        pytest.importorskip("sacrebleu")
        pytest.importorskip("rouge_score")
        scores = score_task(name, ["a b", "c"], [["a b"], ["d"]])
    elif name == "multi-label-classification":
        scores = score_task(name, np.eye(2, dtype=bool), np.eye(2, dtype=bool))
    else:
        right = right.astype(float) if name == "regression" else right
        scores = score_task(name, right, right, ["B-X", "O"])
    assert set(TASKS[name].stopping_scores) <= set(scores)
    assert all(isinstance(value, float) for value in scores.values())


def test_the_interval_of_a_share() -> None:
    from scipy.stats import binomtest

    for hits, total in [(0, 7), (3, 7), (7, 7), (812, 872)]:
        expected = binomtest(hits, total).proportion_ci(method="wilson")
        assert wilson_interval(hits, total) == pytest.approx((expected.low, expected.high))


def test_spread_over_seeds() -> None:
    assert mean_and_spread([0.5]) == (0.5, 0.0)
    assert mean_and_spread([1, 2, 3]) == (2.0, 1.0)


# Answers.


def plain_normal(text: str) -> str:
    """The four steps in the order in which SQuAD's paper and script have them."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


ENGLISH = st.text("aAn theTHE.,'-$é\u2019\u2013 12", max_size=25)


@given(ENGLISH, ENGLISH)
def test_english_is_scored_as_squad_scores_it(one: str, two: str) -> None:
    assert normalize_answer(one) == plain_normal(one)
    found, wanted = plain_normal(one).split(), plain_normal(two).split()
    same = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    f1 = 2 * same / (len(found) + len(wanted)) if same else 0.0
    assert answer_f1(one, two) == pytest.approx(f1)
    exact = score_answers([one], [[two]])["exact_match"]
    assert exact == (plain_normal(one) == plain_normal(two))


@pytest.mark.parametrize(
    ("prediction", "right", "f1", "exact"),
    [
        ("The Panthers.", ["panthers"], 1.0, 1.0),
        ("gold ribbon", ["a gold ribbon wrapped"], 0.8, 0.0),
        ("308", ["306", "308 points", "308"], 1.0, 1.0),
        ("", ["a"], 0.0, 1.0),  # both are nothing once articles are gone, as in the script
        ("x", [], 0.0, 0.0),
    ],
)
def test_answers_by_hand(prediction: str, right: list[str], f1: float, exact: float) -> None:
    scores = score_answers([prediction], [right])
    assert scores == pytest.approx({"f1": f1, "exact_match": exact})


def test_chinese_is_scored_by_the_character() -> None:
    assert normalize_answer("《罗马条约》，1957年") == "罗 马 条 约 1957 年"
    assert normalize_answer("ひらがなとカタカナ") == "ひ ら が な と カ タ カ ナ"
    assert answer_f1("罗马条约", "罗马的条约") == pytest.approx(2 * 4 / 9)
    assert score_answers(["“猫”。"], [["猫"]]) == {"f1": 1.0, "exact_match": 1.0}
    # Without a character of these scripts, quotation marks that are not ASCII stay, as in English.
    assert score_answers(["“cat”"], [["cat"]]) == {"f1": 0.0, "exact_match": 0.0}


@given(st.text("aAthe .,'-猫《》。é😀\u2019\u00a0ガ", max_size=30))
def test_an_answer_is_its_own_best_match(text: str) -> None:
    normal = normalize_answer(text)
    assert score_answers([text], [[text]])["exact_match"] == 1
    assert answer_f1(text, text) == (1.0 if normal else 0.0)


# Entities.

TAGS = st.sampled_from(["O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y"])
SENTENCES = st.lists(
    st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=9), min_size=1, max_size=4
)


@given(SENTENCES)
def test_entities_are_counted_as_seqeval_counts_them(sentences: Any) -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    found, right = ([[pair[side] for pair in own] for own in sentences] for side in (0, 1))
    scores = score_entities(found, right)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "entity_f1": metrics.f1_score(right, found, zero_division=0),
            "entity_precision": metrics.precision_score(right, found, zero_division=0),
            "entity_recall": metrics.recall_score(right, found, zero_division=0),
        }
    assert scores == pytest.approx(expected)


def test_accuracy_of_words_says_little_where_entities_are_rare() -> None:
    labels = ["B-LOC", "I-LOC", "O"]
    right = np.array([2] * 30 + [0, 1])
    scores = score_task("token-classification", np.full(32, 2), right, labels)
    assert scores["accuracy"] > 0.9
    assert (scores["entity_f1"], scores["entity_recall"]) == (0, 0)
    assert score_task("token-classification", right, right, labels)["entity_f1"] == 1
    assert "entity_f1" not in score_task("token-classification", right, right, ["A", "B", "O"])
    assert not are_entity_tags(["NOUN", "VERB"])


def test_a_question_without_an_answer_is_right_where_nothing_is_answered() -> None:
    scores = score_answers(["", "cat", "", "dog"], [[], [], ["cat"], ["dog"]])
    assert scores == {
        "f1": 0.5, "exact_match": 0.5, "answerable_f1": 0.5, "unanswerable_accuracy": 0.5,
    }  # fmt: skip


def test_several_classes_a_row_by_hand() -> None:
    found = np.array([[True, False, True], [False, True, False]])
    right = np.array([[True, True, False], [False, True, False]])
    scores = score_task("multi-label-classification", found, right)
    assert scores["f1_micro"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores["exact_match"] == 0.5
