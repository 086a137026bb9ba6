"""How good predictions are.

Shares lie in [0, 1], correlations in [-1, 1]. Correlations of a constant are 0. Answers are scored
as SQuAD defines it (Rajpurkar et al., 2016, section 6.1; 2018, section 4.3): lower case, no
punctuation, no articles, words split at white space; F1 over the bags of words, the best of the
right answers; a question without an answer is right where nothing is answered. For English the
scores equal those of the official scripts. In a text with Chinese characters or kana each of these
is a word, and all punctuation of Unicode goes, not only ASCII's (as in MLQA, Lewis et al., 2020,
appendix A): otherwise a Chinese answer would be one long word, and F1 nothing but exact match.
"""

from __future__ import annotations

import collections
import math
import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lmmodel.batch import IGNORED

_Z95 = 1.959963984540054  # standard normal, 97.5 %
_ENTITY_TAG = re.compile(r"O|[BIES]-.+")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Hiragana, katakana; CJK ideographs, extension A, compatibility, extensions B to H.
_CJK = re.compile(
    "([\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af])"
)

Entity = tuple[str, int, int]  # type, first word, last word


# Classes and tags.


def score_classes(values: Any, references: Any, *, has_matthews: bool) -> dict[str, float]:
    """Return accuracy with its 95 % interval (Wilson), macro F1 and perhaps Matthews.

    What has no reference is left out; what has no prediction is wrong.

    Args:
        values: int64 (N,) ids, IGNORED where there is no prediction
        references: int64 (N,) ids, IGNORED where there is no label
        has_matthews: whether Matthews' correlation is one of them

    Raises:
        ValueError: there is nothing to score, or the lengths differ
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    _check_lengths(values, references)
    has_label = np.asarray(references) != IGNORED
    values, references = np.asarray(values)[has_label], np.asarray(references)[has_label]
    if not len(values):
        raise ValueError("nothing to score: no row has a label")
    hits = int((values == references).sum())
    low, high = wilson_interval(hits, len(values))
    classes = np.unique(np.concatenate([values, references]))
    classes = classes[classes != IGNORED]
    f1 = f1_score(references, values, labels=classes, average="macro", zero_division=0)
    scores = {
        "accuracy": hits / len(values),
        "accuracy_low": low,
        "accuracy_high": high,
        "f1_macro": float(f1),
    }
    if has_matthews:
        has_two = len(classes) > 1
        scores["matthews"] = float(matthews_corrcoef(references, values)) if has_two else 0.0
    return scores


def score_truths(values: Any, references: Any) -> dict[str, float]:
    """Return micro and macro F1 of classes of which rows have any number, and exact matches.

    Args:
        values: bool (R, C)
        references: bool (R, C)

    Raises:
        ValueError: there is nothing to score, or the lengths differ

    Example:
        >>> score_truths(np.array([[True, False]]), np.array([[True, True]]))["f1_micro"]
        0.6666666666666666
    """
    _check_lengths(values, references)
    if not len(values):
        raise ValueError("nothing to score: there are no rows")
    hits, found, right = ((values & references).sum(0), values.sum(0), references.sum(0))
    each = np.where(found + right > 0, 2 * hits / np.maximum(found + right, 1), 0.0)
    total = int((found + right).sum())
    return {
        "f1_micro": float(2 * hits.sum() / total) if total else 1.0,
        "f1_macro": float(each[(found + right) > 0].mean()) if total else 1.0,
        "exact_match": float((values == references).all(1).mean()),
    }


def are_entity_tags(labels: Sequence[str]) -> bool:
    """Whether tags mark entities: O, and B-, I-, E- or S- before a type.

    Example:
        >>> are_entity_tags(["B-LOC", "O"]), are_entity_tags(["NOUN", "O"]), are_entity_tags(["O"])
        (True, False, False)
    """
    return len(labels) > 1 and all(map(_ENTITY_TAG.fullmatch, labels))


def find_entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a sentence, in BIO, IOB1 or BIOES, whichever it is.

    As the script of CoNLL-2000 (conlleval) and seqeval tell them: an entity begins at B, S or where
    the type changes, and ends at E, S or before one that begins or an O.

    Example:
        >>> find_entities(["B-LOC", "I-LOC", "O", "I-PER", "B-PER"])
        [('LOC', 0, 1), ('PER', 3, 3), ('PER', 4, 4)]
    """
    found: list[Entity] = []
    start, before, kind_before = 0, "O", ""
    for place, tag in enumerate([*tags, "O"]):
        mark, kind = tag[0], tag[2:]
        is_new = mark in "BS" or before in "OES" or kind != kind_before
        if before != "O" and (mark == "O" or is_new):
            found.append((kind_before, start, place - 1))
        if mark != "O" and is_new:
            start = place
        before, kind_before = mark, kind
    return found


def score_entities(
    values: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return precision, recall and F1 of whole entities, over all sentences (as seqeval's micro).

    Args:
        values: tags of each sentence
        references: the right ones

    Example:
        >>> score_entities([["B-LOC", "O"]], [["B-LOC", "I-LOC"]])["entity_f1"]
        0.0
    """
    hits = num_found = num_right = 0
    for found, right in zip(values, references, strict=True):
        ours, theirs = set(find_entities(found)), set(find_entities(right))
        hits, num_found, num_right = (
            hits + len(ours & theirs), num_found + len(ours), num_right + len(theirs)
        )  # fmt: skip
    return {
        "entity_f1": 2 * hits / (num_found + num_right) if num_found + num_right else 0.0,
        "entity_precision": hits / num_found if num_found else 0.0,
        "entity_recall": hits / num_right if num_right else 0.0,
    }


def confusion(values: Any, references: Any, num_labels: int) -> npt.NDArray[np.int64]:
    """Return how often each right label (row) got each prediction (column): int64 (C, C).

    What has no label or no prediction is not in it.

    Args:
        values: int64 (N,) ids
        references: int64 (N,) ids
        num_labels: C

    Example:
        >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    is_there = (values != IGNORED) & (references != IGNORED)
    cells = references[is_there] * num_labels + values[is_there]
    return np.bincount(cells, minlength=num_labels**2).reshape(num_labels, num_labels)


# Numbers.


def score_numbers(values: Any, references: Any) -> dict[str, float]:
    """Return Pearson, Spearman and the mean squared error.

    Raises:
        ValueError: there is nothing to score, or the lengths differ
    """
    from scipy import stats

    _check_lengths(values, references)
    if not len(values):
        raise ValueError("nothing to score: no row has a label")
    values, references = np.asarray(values, np.float64), np.asarray(references, np.float64)
    is_constant = np.ptp(values) == 0 or np.ptp(references) == 0
    pearson = spearman = 0.0
    if not is_constant:
        pearson = float(stats.pearsonr(values, references).statistic)
        spearman = float(stats.spearmanr(values, references).statistic)
    mse = float(np.mean((values - references) ** 2))
    return {"pearson": pearson, "spearman": spearman, "mse": mse}


# Answers.


def normalize_answer(text: str) -> str:
    """Return what of an answer is compared: its words, with one space between them.

    Example:
        >>> normalize_answer("The  Cat's hat."), normalize_answer("《红楼梦》, 1791")
        ('cats hat', '红 楼 梦 1791')
    """
    text = text.lower()
    is_cjk = _CJK.search(text) is not None
    text = text.translate(_ASCII_PUNCTUATION)
    if is_cjk:
        text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
        text = _CJK.sub(r" \1 ", text)
    return " ".join(_ARTICLES.sub(" ", text).split())


def answer_f1(prediction: str, right: str) -> float:
    """Return the F1 of the words of two answers, in [0, 1].

    Example:
        >>> round(answer_f1("the old cat", "cat of old"), 3)
        0.8
    """
    found, wanted = normalize_answer(prediction).split(), normalize_answer(right).split()
    num_same = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(found), num_same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def score_answers(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Return the mean F1 and exact match, in [0, 1], each against the best right answer.

    Where questions without an answer are among others, also the F1 of those that have one, and the
    share of those without that were left unanswered.

    Raises:
        ValueError: there are no questions

    Example:
        >>> score_answers(["the cat", "a"], [["cat"], ["dog", "old dog"]])
        {'f1': 0.5, 'exact_match': 0.5}
        >>> score_answers(["the cat", ""], [["cat"], []])["unanswerable_accuracy"]
        1.0
    """
    if not predictions:
        raise ValueError("nothing to score: there are no questions")
    _check_lengths(predictions, references)
    f1, exact = [], []
    for prediction, answers in zip(predictions, references, strict=True):
        normal = normalize_answer(prediction)
        if answers:
            f1.append(max(answer_f1(prediction, right) for right in answers))
            exact.append(any(normal == normalize_answer(right) for right in answers))
        else:
            f1.append(float(not normal))
            exact.append(not normal)
    scores = {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact))}
    has_answer = np.array([bool(answers) for answers in references])
    if has_answer.any() and not has_answer.all():
        scores["answerable_f1"] = float(np.mean(np.array(f1)[has_answer]))
        scores["unanswerable_accuracy"] = float(np.mean(np.array(exact)[~has_answer]))
    return scores


# Intervals and spreads.


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share (Wilson, 1927).

    Example:
        >>> [round(bound, 4) for bound in wilson_interval(8, 10)]
        [0.4902, 0.9433]
    """
    share, weight = hits / total, _Z95**2 / total
    center = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return max(0.0, center - half), min(1.0, center + half)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds, and the sample standard deviation (0 for one seed).

    Example:
        >>> mean_and_spread([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _check_lengths(values: Any, references: Any) -> None:
    if len(values) != len(references):
        raise ValueError(f"{len(values)} predictions for {len(references)} references")
