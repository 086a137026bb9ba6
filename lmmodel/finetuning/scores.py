"""How good predictions are, by the score of each task.

Shares lie in [0, 1], correlations in [-1, 1]. Correlations of a constant are 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lmmodel.batch import IGNORED
from lmmodel.finetuning.squad_scores import score_answers
from lmmodel.finetuning.tasks import TaskName

_Z95 = 1.959963984540054  # standard normal, 97.5 %


def score_task(task: TaskName, values: Any, references: Any) -> dict[str, float]:
    """Return the scores of predictions.

    Classes: accuracy with its 95 % interval (Wilson), macro F1, Matthews. Tags: the same over words
    that have a tag, without Matthews; a word without a prediction counts as wrong. Answers: F1 and
    exact match of SQuAD. Regression: Pearson, Spearman, mean squared error.

    Args:
        task: decides the scores
        values: `Predictions.values`
        references: what `references` returns

    Raises:
        ValueError: there is nothing to score, or the lengths differ
    """
    if len(values) != len(references):
        raise ValueError(f"{len(values)} predictions for {len(references)} references")
    if task == "question-answering":
        return score_answers(values, references)
    values, references = np.asarray(values), np.asarray(references)
    if task == "token-classification":
        has_tag = references != IGNORED
        values, references = values[has_tag], references[has_tag]
    if not len(values):
        raise ValueError("nothing to score: no row has a label")
    if task == "regression":
        return _score_numbers(values, references)
    return _score_classes(values, references, has_matthews=task != "token-classification")


def _score_classes(
    values: npt.NDArray[np.int64], references: npt.NDArray[np.int64], *, has_matthews: bool
) -> dict[str, float]:
    from sklearn.metrics import f1_score, matthews_corrcoef

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
        scores["matthews"] = (
            float(matthews_corrcoef(references, values)) if len(classes) > 1 else 0.0
        )
    return scores


def _score_numbers(
    values: npt.NDArray[np.float64], references: npt.NDArray[np.float64]
) -> dict[str, float]:
    from scipy import stats

    is_constant = np.ptp(values) == 0 or np.ptp(references) == 0
    pearson = spearman = 0.0
    if not is_constant:
        pearson = float(stats.pearsonr(values, references).statistic)
        spearman = float(stats.spearmanr(values, references).statistic)
    mse = float(np.mean((values - references) ** 2))
    return {"pearson": pearson, "spearman": spearman, "mse": mse}


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


def confusion(values: Any, references: Any, num_labels: int) -> npt.NDArray[np.int64]:
    """Return how often each right label (row) got each prediction (column): int64 (C, C).

    Words without a tag or a prediction are not in it.

    Args:
        values: int64 (N,), `Predictions.values`
        references: int64 (N,), what `references` returns
        num_labels: C

    Example:
        >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    is_there = (values != IGNORED) & (references != IGNORED)
    cells = references[is_there] * num_labels + values[is_there]
    return np.bincount(cells, minlength=num_labels**2).reshape(num_labels, num_labels)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds, and the sample standard deviation (0 for one seed).

    Example:
        >>> mean_and_spread([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
