"""F1 and exact match of answers, as SQuAD v1.1 defines them, and for Chinese and Japanese.

Rajpurkar et al., 2016, section 6.1: lower case, no punctuation, no articles, words split at white
space; F1 over the bags of words, the best of the right answers. For English the scores equal those
of the official script. In a text with Chinese characters or kana each of these is a word, and all
punctuation of Unicode goes, not only ASCII's (as in MLQA, Lewis et al., 2020, appendix A):
otherwise a Chinese answer would be one long word, and F1 nothing but exact match.
"""

from __future__ import annotations

import collections
import re
import string
import unicodedata
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Hiragana, katakana; CJK ideographs, extension A, compatibility, extensions B to H.
_CJK = re.compile(
    "([\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af])"
)


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

    A question without a right answer counts as wrong.

    Raises:
        ValueError: there are no questions

    Example:
        >>> score_answers(["the cat", "a"], [["cat"], ["dog", "old dog"]])
        {'f1': 0.5, 'exact_match': 0.5}
    """
    if not predictions:
        raise ValueError("nothing to score: there are no questions")
    f1, exact = [], []
    for prediction, answers in zip(predictions, references, strict=True):
        normal = normalize_answer(prediction)
        f1.append(max((answer_f1(prediction, right) for right in answers), default=0.0))
        exact.append(any(normal == normalize_answer(right) for right in answers))
    return {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact))}
