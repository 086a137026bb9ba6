"""How near written texts come to right ones: sacrebleu's scores, ROUGE, and how many are the same.

What each row brings is found out once: intervals ask for the scores of hundreds of choices of rows.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmmodel.errors import FitError
from lmmodel.tasks.examples import Floats
from lmmodel.tasks.task import Scores
from lmmodel.texts import Integers

INSTALL = "pip install 'lmmodel[translation]'"


def score_texts(found: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Return how near texts come to the right ones, whatever of it can be computed here.

    Raises:
        ValueError: there is nothing to score, or the lengths differ

    Example:
        >>> score_texts(["a b"], [["a b", "b"]])["exact_match"]
        1.0
    """
    if not len(found) or len(found) != len(references):
        raise ValueError(f"{len(found)} texts can't be scored by {len(references)} references")
    return RowScores(found, references).of(np.arange(len(found)))


class RowScores:
    """What each row brings to the scores of all, whichever rows these are."""

    def __init__(self, found: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Compare each text with its references."""
        self._metrics: list[Metric] = []
        self._means: dict[str, Floats] = {}
        if importlib.util.find_spec("sacrebleu") is not None:
            self._metrics = translation_metrics(found, references)
        if importlib.util.find_spec("rouge_score") is not None:
            self._means = rouge_scores(found, references)
        right = [text in own for text, own in zip(found, references, strict=True)]
        self._means["exact_match"] = np.array(right, float)

    def of(self, rows: Integers) -> Scores:
        """Return the scores of some rows, int64 (N,), some perhaps repeated."""
        scores = {one.name: one.of(rows) for one in self._metrics}
        return scores | {name: float(values[rows].mean()) for name, values in self._means.items()}


@dataclass(frozen=True)
class Metric:
    """A score of sacrebleu, how it is computed, and what each row brings to it."""

    name: str
    signature: str
    metric: Any
    statistics: Floats  # float64 (R, K): of a corpus, it is computed from their sums

    def of(self, rows: Integers) -> float:
        """Return the score of some rows, int64 (N,), in percent."""
        sums = self.statistics[rows].sum(axis=0).tolist()
        return float(self.metric._compute_score_from_stats(sums).score)


def translation_metrics(found: Sequence[str], references: Sequence[Sequence[str]]) -> list[Metric]:
    """Return BLEU, chrF and TER, as sacrebleu's own resampling takes them apart.

    Raises:
        FitError: sacrebleu is not installed
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
        from sacrebleu.metrics.ter import TER
    except ImportError as error:
        raise FitError(f"BLEU, chrF and TER need sacrebleu: {INSTALL}") from error
    most = max(map(len, references))
    streams: list[list[Any]] = [
        [own[i] if i < len(own) else None for own in references] for i in range(most)
    ]
    results = []
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF()), ("ter", TER())):
        statistics = np.array(metric._extract_corpus_statistics(list(found), streams), float)
        results.append(Metric(name, str(metric.get_signature()), metric, statistics))
    return results


def rouge_scores(found: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Floats]:
    """Return F1 of ROUGE-1, -2, -L and -Lsum, stemmed, by the best reference: float64 (R,) each.

    Lines are the sentences of -Lsum, as in the original.
    """
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=True)
    scores: dict[str, list[float]] = {name: [] for name in names}
    for text, own in zip(found, references, strict=True):
        best = [scorer.score(one, text) for one in own]
        for name in names:
            scores[name].append(max(one[name].fmeasure for one in best))
    return {name: np.array(values) for name, values in scores.items()}


def signatures(references: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return how scores by these references are computed here, by name.

    Example:
        >>> [signatures(own)["ter"][:9] for own in ([["a", "b"]], [["a"], ["a", "b"]])]
        ['nrefs:2|c', 'nrefs:var']
    """
    told = {}
    if importlib.util.find_spec("sacrebleu") is not None:
        counts = sorted({len(own) for own in references})
        found = translation_metrics(["a"] * len(counts), [["a"] * count for count in counts])
        told = {metric.name: metric.signature for metric in found}
    if importlib.util.find_spec("rouge_score") is not None:
        told["rouge"] = "rouge-score, stemmed, F1, sentences of Lsum by lines, best reference"
    return told
