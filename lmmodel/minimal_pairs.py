"""Minimal pairs: does a model find the acceptable sentence likelier than the unacceptable one?

The files are those of BLiMP (Warstadt et al., TACL 2020) or of its form: a row has `sentence_good`,
`sentence_bad` and perhaps `UID`, the name of its paradigm; where there is none it is the file's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmmodel.errors import TaskError
from lmmodel.finetuning.scores import wilson_interval
from lmmodel.finetuning.tables import Table, detect_format, read_table
from lmmodel.inference import Precision
from lmmodel.likelihood import log_likelihoods
from lmmodel.trained import Run

TIE_NATS = 1e-4
"""Two sentences whose scores differ by no more are a tie: it is what rounding can do."""

COLUMNS = ("sentence_good", "sentence_bad")
NAME_COLUMN = "UID"


@dataclass(frozen=True)
class Pairs:
    """N pairs of sentences and the paradigm of each."""

    good: tuple[str, ...]
    bad: tuple[str, ...]
    paradigm: np.ndarray  # int64 (N,), into `names`
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ParadigmScore:
    """How often the acceptable sentence was the likelier one."""

    name: str
    num_pairs: int
    num_right: int
    num_ties: int  # counted as wrong
    accuracy: float  # in [0, 1]
    accuracy_low: float  # 95 % interval (Wilson)
    accuracy_high: float


@dataclass(frozen=True, kw_only=True)
class MinimalPairScores:
    """Of all paradigms, of each, and of each pair."""

    score: str  # "log-likelihood" or "pseudo-log-likelihood"
    total: ParadigmScore
    paradigms: tuple[ParadigmScore, ...]
    num_windowed: int  # sentences longer than the model takes
    good: np.ndarray  # float64 (N,), nats, of the acceptable sentences
    bad: np.ndarray  # float64 (N,)


def read_pairs(path: Path) -> Pairs:
    """Return the pairs of a file or of every file in a folder whose name tells a known format.

    Raises:
        TaskError: there is none, a column is missing, or a sentence is empty
    """
    if not path.exists():
        raise TaskError(f"{path} does not exist: give a file of minimal pairs, or a folder of them")
    tables = [read_table(file, detect_format(file)) for file in _pair_files(path)]
    parts = [[_sentences(table, name) for table in tables] for name in COLUMNS]
    good, bad = (tuple(text for part in own for text in part) for own in parts)
    labels = [name for table in tables for name in _paradigms(table)]
    names, paradigm = np.unique(labels, return_inverse=True)
    return Pairs(good, bad, paradigm, tuple(map(str, names)))


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


def _sentences(table: Table, name: str) -> list[str]:
    values = table.column(name)
    for line, value in zip(table.lines.tolist(), values, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise TaskError(f"{table.path}, line {line}: {name} is {value!r}, a sentence is wanted")
    return values


def _paradigms(table: Table) -> list[str]:
    if NAME_COLUMN in table.columns:
        return [str(value) for value in table.column(NAME_COLUMN)]
    return [Path(table.path).name.split(".")[0]] * len(table.lines)


def score_pairs(
    run: Run,
    pairs: Pairs,
    *,
    start_token: str | None = None,
    precision: Precision = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> MinimalPairScores:
    """Return how often a model finds the acceptable sentence of a pair likelier.

    A sentence that occurs in several pairs is scored once.

    Args:
        run: masked (pseudo-log-likelihood) or causal (log-likelihood)
        pairs: at least one
        start_token: see `log_likelihoods`
        precision: see `log_likelihoods`
        progress: called with tokens scored and their number

    Raises:
        FitError: a sentence has no token in it
    """
    texts = {text: index for index, text in enumerate(dict.fromkeys([*pairs.good, *pairs.bad]))}
    found = log_likelihoods(
        run, list(texts), start_token=start_token, precision=precision, progress=progress
    )
    good, bad = (found.total[[texts[text] for text in own]] for own in (pairs.good, pairs.bad))
    return MinimalPairScores(
        score="log-likelihood" if run.is_causal else "pseudo-log-likelihood",
        total=judge("all", good - bad),
        paradigms=tuple(
            judge(name, (good - bad)[pairs.paradigm == index])
            for index, name in enumerate(pairs.names)
        ),
        num_windowed=found.num_windowed,
        good=good,
        bad=bad,
    )


def judge(name: str, margins: np.ndarray) -> ParadigmScore:
    """Return how many pairs are right.

    Args:
        name: of the paradigm
        margins: float64 (N,), nats by which the acceptable sentence is likelier, at least one

    Example:
        >>> score = judge("agreement", np.array([2.5, -0.1, 0.0, 7.0]))
        >>> score.num_right, score.num_ties, score.accuracy, round(score.accuracy_low, 3)
        (2, 1, 0.5, 0.15)
    """
    num_right = int((margins > TIE_NATS).sum())
    low, high = wilson_interval(num_right, len(margins))
    return ParadigmScore(
        name=name,
        num_pairs=len(margins),
        num_right=num_right,
        num_ties=int((np.abs(margins) <= TIE_NATS).sum()),
        accuracy=num_right / len(margins),
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
    }
