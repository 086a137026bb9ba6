"""Minimal pairs: does a model find the acceptable sentence likelier than the unacceptable ones?

The files are those of BLiMP (Warstadt et al., TACL 2020) or of BabyLM's evaluation (Warstadt et
al., CoNLL 2023), told by their columns:
    sentence_good, sentence_bad     BLiMP and its supplements
    sentences, label                two or more, and which is right, from 0
    input_prefix, options           entity tracking: what goes on; the first is right, or `label`
and perhaps `UID`, the name of a row's paradigm; where there is none it is the file's. Reading
times are no pairs: `lmmodel.reading_times`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmmodel.device import resolve_precision
from lmmodel.errors import TaskError
from lmmodel.inference import Precision
from lmmodel.predicting.likelihood import Likelihoods, log_likelihoods
from lmmodel.tasks.scores import wilson_interval
from lmmodel.tasks.tables import Table, describe, detect_format
from lmmodel.tasks.task_files import TaskFile, TaskFormat
from lmmodel.trained import Run

PairPrecision = Literal["auto", "fp32", "bf16"]
Likely = Callable[[Sequence[str]], Likelihoods]

TIE_NATS = 1e-4
"""Two sentences whose scores differ by no more are a tie: it is what rounding can do."""

CLOSE_NATS = 0.15
"""Pairs that bf16 puts closer are scored again in float32, where precision is auto. Its margins are
off by 0.013 nats in the mean and 0.1 at most (2,000 pairs of BLiMP, a model of 4 x 256)."""

NUM_CHECKED = 50
"""The closest pairs, which are scored again in any case."""

COLUMNS = ("sentence_good", "sentence_bad")
NAME_COLUMN = "UID"


@dataclass(frozen=True)
class Pairs:
    """N choices of sentences, the acceptable one first, and the paradigm of each."""

    choices: tuple[tuple[str, ...], ...]  # two sentences each, or more
    paradigm: np.ndarray  # int64 (N,), into `names`
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.choices)


@dataclass(frozen=True, kw_only=True)
class ParadigmScore:
    """How often the acceptable sentence was the likelier one."""

    name: str
    num_pairs: int
    num_right: int
    num_ties: int
    accuracy: float  # in [0, 1], ties counted as wrong
    accuracy_with_ties: float  # ties counted as right
    accuracy_low: float  # 95 % interval (Wilson)
    accuracy_high: float


@dataclass(frozen=True, kw_only=True)
class MinimalPairScores:
    """Of all paradigms, of each, and of each pair."""

    score: str  # "log-likelihood" or "pseudo-log-likelihood"
    total: ParadigmScore
    paradigms: tuple[ParadigmScore, ...]
    num_windowed: int  # sentences longer than the model takes
    num_rescored: int  # pairs too close for bf16, scored again in float32
    good: np.ndarray  # float64 (N,), nats, of the acceptable sentences
    bad: np.ndarray  # float64 (N,), of the likeliest of the others


def read_pairs(path: Path) -> Pairs:
    """Return the pairs of a file or of every file in a folder whose name tells a known format.

    Raises:
        TaskError: there is none, a column is missing, or a sentence is empty
    """
    if not path.exists():
        raise TaskError(f"{path} does not exist: give a file of minimal pairs, or a folder of them")
    tables = [TaskFile(file, TaskFormat()).table for file in _pair_files(path)]
    choices = tuple(choice for table in tables for choice in _choices(table))
    labels = [name for table in tables for name in _paradigms(table)]
    names, paradigm = np.unique(labels, return_inverse=True)
    return Pairs(choices, paradigm, tuple(map(str, names)))


def _pair_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.is_file() and _is_table(file)]
    if not files:
        raise TaskError(f"{path} holds no file of minimal pairs: BLiMP's are called PARADIGM.jsonl")
    return files


def _is_table(path: Path) -> bool:
    try:
        return detect_format(path) in ("jsonl", "json", "tsv", "csv", "parquet")
    except TaskError:
        return False


def _choices(table: Table) -> list[tuple[str, ...]]:
    """Return the sentences of each row, the acceptable one first.

    Raises:
        TaskError: a column is missing, a sentence is empty, or no sentence is named as right
    """
    is_marked = "label" in table.columns
    if "sentences" in table.columns:
        return table.parse(["sentences", "label"], _marked)[1]
    if "options" in table.columns:
        used = ["input_prefix", "options", *(["label"] if is_marked else [])]
        return table.parse(used, _going_on)[1]
    return table.parse(COLUMNS, _good_and_bad)[1]


def _good_and_bad(where: str, good: Any, bad: Any) -> tuple[str, ...]:
    for name, value in zip(COLUMNS, (good, bad), strict=True):
        if not isinstance(value, str) or not value.strip():
            raise TaskError(f"{where}: {name} is {describe(value)}, a sentence is wanted")
    return good, bad


def _marked(where: str, sentences: Any, label: Any) -> tuple[str, ...]:
    """Return sentences, the one of a number first."""
    are_texts = isinstance(sentences, list) and all(
        isinstance(text, str) and text.strip() for text in sentences
    )
    if not are_texts or len(sentences) < 2:
        raise TaskError(f"{where}: sentences is {describe(sentences)}, a list of two is wanted")
    if isinstance(label, bool) or label not in range(len(sentences)):
        raise TaskError(
            f"{where}: label is {describe(label)}, the number of the right sentence is wanted: 0 "
            f"to {len(sentences) - 1}"
        )
    right = sentences[int(label)]
    return right, *(text for place, text in enumerate(sentences) if place != label)


def _going_on(where: str, prefix: Any, options: Any, label: Any = 0) -> tuple[str, ...]:
    """Return a beginning with each of its endings, the right one first."""
    if not isinstance(prefix, str) or not isinstance(options, list):
        raise TaskError(f"{where}: a text input_prefix and a list options are wanted")
    texts = [f"{prefix}{option}" if isinstance(option, str) else option for option in options]
    return _marked(where, texts, label)


def _paradigms(table: Table) -> list[str]:
    if NAME_COLUMN in table.columns:
        return [str(value) for value in table.column(NAME_COLUMN)]
    return [Path(table.path).name.split(".")[0]] * len(table.lines)


def score_pairs(
    run: Run,
    pairs: Pairs,
    *,
    start_token: str | None = None,
    precision: PairPrecision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> MinimalPairScores:
    """Return how often a model finds the acceptable sentence of a pair likelier.

    A sentence that occurs in several pairs is scored once in each precision.

    Args:
        run: masked (pseudo-log-likelihood) or causal (log-likelihood)
        pairs: at least one
        start_token: see `log_likelihoods`
        precision: see `log_likelihoods`; auto: bf16 where the hardware has it, then float32 for
            the pairs that are closer than twice what bf16 was off by, so that verdicts agree
        progress: called with tokens scored and their number

    Raises:
        FitError: a sentence has no token in it
    """

    def score(which: np.ndarray, number: Precision) -> tuple[np.ndarray, int]:
        likely = partial(
            log_likelihoods, run, start_token=start_token, precision=number, progress=progress
        )
        return _score_sentences(likely, [pairs.choices[int(pair)] for pair in which])

    number = resolve_precision(precision, run.device)
    scores, num_windowed = score(np.arange(len(pairs)), number)
    num_rescored = 0
    if precision == "auto" and number == "bf16":
        num_rescored = _settle_close_ones(scores, lambda which: score(which, "fp32")[0])
    kind = "log-likelihood" if run.is_causal else "pseudo-log-likelihood"
    if run.objective.token_scores is not None:
        kind = "log-originality"
    return _verdicts(pairs, scores, kind, num_windowed, num_rescored)


def score_pairs_by(likely: Likely, pairs: Pairs) -> MinimalPairScores:
    """Return the same of what scores texts by itself, as an n-gram model does.

    Args:
        likely: texts to their log-likelihoods
        pairs: at least one
    """
    scores, num_windowed = _score_sentences(likely, pairs.choices)
    return _verdicts(pairs, scores, "log-likelihood", num_windowed, 0)


def _verdicts(
    pairs: Pairs, scores: np.ndarray, kind: str, num_windowed: int, num_rescored: int
) -> MinimalPairScores:
    """Return how often the first of two scores, float64 (N, 2), is the higher one."""
    good, bad = scores.T
    return MinimalPairScores(
        score=kind,
        total=judge("all", good - bad),
        paradigms=tuple(
            judge(name, (good - bad)[pairs.paradigm == index])
            for index, name in enumerate(pairs.names)
        ),
        num_windowed=num_windowed,
        num_rescored=num_rescored,
        good=good,
        bad=bad,
    )


def _score_sentences(likely: Likely, choices: Sequence[tuple[str, ...]]) -> tuple[np.ndarray, int]:
    """Return the scores of the first and of the best other sentence of N choices.

    Returns:
        float64 (N, 2), and how many sentences were read in windows.
    """
    texts = {text: index for index, text in enumerate(dict.fromkeys(chain.from_iterable(choices)))}
    found = likely(list(texts))
    scores = [[float(found.total[texts[text]]) for text in choice] for choice in choices]
    return np.array([(right, max(others)) for right, *others in scores]), found.num_windowed


def _settle_close_ones(
    scores: np.ndarray, score_exactly: Callable[[np.ndarray], np.ndarray]
) -> int:
    """Replace the scores of pairs whose verdict rounding may have turned; return their number.

    The closest pairs are scored again in any case, and show what rounding does.

    Args:
        scores: float64 (N, 2), rounded; changed in place
        score_exactly: takes int64 (M,) pairs and gives float64 (M, 2)
    """
    margins = scores[:, 0] - scores[:, 1]
    is_exact = np.zeros(len(scores), bool)
    nearest = np.sort(np.abs(margins))[:NUM_CHECKED]
    limit = max(CLOSE_NATS, float(nearest[-1]) + TIE_NATS)
    while True:
        close = np.flatnonzero((np.abs(margins) < limit) & ~is_exact)
        if not len(close):
            return int(is_exact.sum())
        scores[close] = score_exactly(close)
        is_exact[close] = True
        off_by = np.abs(margins - (scores[:, 0] - scores[:, 1]))[is_exact].max()
        limit = max(limit, 2 * float(off_by))


def judge(name: str, margins: np.ndarray) -> ParadigmScore:
    """Return how many pairs are right.

    Args:
        name: of the paradigm
        margins: float64 (N,), nats by which the acceptable sentence is likelier than the likeliest
            of the others, at least one

    Example:
        >>> score = judge("agreement", np.array([2.5, -0.1, 0.0, 7.0]))
        >>> score.num_right, score.num_ties, score.accuracy, round(score.accuracy_low, 3)
        (2, 1, 0.5, 0.15)
    """
    num_right = int((margins > TIE_NATS).sum())
    num_ties = int((np.abs(margins) <= TIE_NATS).sum())
    low, high = wilson_interval(num_right, len(margins))
    return ParadigmScore(
        name=name,
        num_pairs=len(margins),
        num_right=num_right,
        num_ties=num_ties,
        accuracy=num_right / len(margins),
        accuracy_with_ties=(num_right + num_ties) / len(margins),
        accuracy_low=low,
        accuracy_high=high,
    )


def table_of(scores: MinimalPairScores) -> dict[str, Any]:
    """Return what is worth telling, without the scores of single pairs."""
    return {
        "score": scores.score,
        "total": vars(scores.total),
        "paradigms": [vars(paradigm) for paradigm in scores.paradigms],
        "num_windowed": scores.num_windowed,
        "num_rescored": scores.num_rescored,
    }
