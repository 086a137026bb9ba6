"""Reading times: how much more of them is explained once it is known how surprising a word is.

The form of BabyLM's evaluation (2025; de Varda et al., "Cloze probability, predictability ratings,
and computational estimates for 205 English sentences", 2023): a row a word, with what came before
it (`item`), its frequency, length and place, and what readers' eyes, hands or heads did there. Each
measure is told by linear regression from frequency, length, place and their products two by two;
then also from the surprisal, -log p(word | what came before). The score is the share of the
variance left by the former that the latter explains. Where a reader presses a key for each word,
what the word before did spills over: its length and surprisal are then told from as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lmmodel.errors import FitError, TaskError
from lmmodel.predicting.likelihood import log_likelihoods
from lmmodel.tasks.tables import Table
from lmmodel.tasks.task_files import TaskFile, TaskFormat
from lmmodel.trained import Run

WORD_COLUMNS = ("item", "word", "Subtlex_log10", "length", "context_length")
BEFORE_COLUMNS = ("prev_item", "prev_word", "prev_length")
EYE_PREFIX = "RT"  # first fixation, first pass, go past, right bound
SELF_PACED = "self_paced_reading_time"
BRAIN = ("ELAN", "LAN", "N400", "P600", "EPNP", "PNP")
NOTHING_BEFORE = "None"  # what BabyLM puts before a first word

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """How well one measure is told."""

    measure: str
    num_words: int
    r2_without: float  # in [0, 1], without surprisal
    r2: float  # with it
    score: float  # of what is left without it, the share explained with it


@dataclass(frozen=True, kw_only=True)
class ReadingScores:
    """Of all measures of a file."""

    measures: tuple[Explained, ...]
    eye_tracking: float | None  # mean score of the measures of eyes; None: there are none
    self_paced: float | None


def reads_times(path: Path) -> bool:
    """Whether a file holds reading times, by its columns."""
    if not path.is_file():
        return False
    try:
        return {"item", "word"} <= TaskFile(path, TaskFormat()).table.columns.keys()
    except TaskError:
        return False


def score_reading(run: Run, path: Path) -> ReadingScores:
    """Return how much of each measure of a file a model's surprisal explains.

    Raises:
        FitError: the model is masked: it does not say what comes next
        TaskError: a column is missing, or holds no numbers
    """
    if not run.can_generate:
        raise FitError(
            f"{run.path} was trained on masked tokens: reading times are told from what comes "
            "next; take a model of --objective clm or hybrid"
        )
    table = TaskFile(path, TaskFormat()).table
    table.check(*WORD_COLUMNS)
    frequency, length, place = (_numbers(table, name) for name in WORD_COLUMNS[2:])
    own = surprisals(run, table.column("item"), table.column("word"))
    told = [explain(name, _numbers(table, name), [frequency, length, place], own)
            for name in table.columns if name.startswith(EYE_PREFIX) or name in BRAIN]  # fmt: skip
    eyes = [found.score for found in told if found.measure.startswith(EYE_PREFIX)]
    paced = None
    if SELF_PACED in table.columns:
        table.check(*BEFORE_COLUMNS)
        before = surprisals(run, table.column("prev_item"), table.column("prev_word"))
        known = [frequency, length, place, _numbers(table, "prev_length"), before]
        told.append(explain(SELF_PACED, _numbers(table, SELF_PACED), known, own))
        paced = told[-1].score
    if not told:
        raise TaskError(f"{path} has no measure of reading: {EYE_PREFIX}... or {SELF_PACED}")
    return ReadingScores(
        measures=tuple(told), eye_tracking=float(np.mean(eyes)) if eyes else None, self_paced=paced
    )


def surprisals(run: Run, before: Sequence[str | None], words: Sequence[str | None]) -> Floats:
    """Return -log p(word | what came before) in nats, float64 (N,); NaN where there is no word."""
    is_there = np.array([bool(word) for word in words])
    heads = [text or NOTHING_BEFORE for text, own in zip(before, is_there, strict=True) if own]
    wholes = [f"{head} {word}" for head, word in zip(heads, filter(None, words), strict=True)]
    texts = {text: index for index, text in enumerate(dict.fromkeys([*heads, *wholes]))}
    total = log_likelihoods(run, list(texts)).total
    found = np.full(len(words), np.nan)
    found[is_there] = [
        total[texts[head]] - total[texts[whole]] for head, whole in zip(heads, wholes, strict=True)
    ]
    return found


def explain(measure: str, values: Floats, known: Sequence[Floats], surprisal: Floats) -> Explained:
    """Return how well a measure is told without and with surprisal, where all are known.

    Args:
        measure: its name
        values: float64 (N,), NaN where it was not taken
        known: of each word, float64 (N,); their products two by two are told from too
        surprisal: float64 (N,)

    Raises:
        TaskError: there are too few words for so many predictors

    Example:
        >>> known, surprisal = [np.array([1.0, 2.0, 4.0, 8.0])], np.array([1.0, -1.0, 0.0, 3.0])
        >>> found = explain("RT", 2 * known[0] + surprisal, known, surprisal)
        >>> round(found.r2, 6), round(found.score, 6)
        (1.0, 1.0)
    """
    products = [one * other for one, other in combinations(known, 2)]
    columns = np.stack([*known, *products, surprisal], axis=1)
    is_whole = np.isfinite(columns).all(axis=1) & np.isfinite(values)
    columns, values = columns[is_whole], values[is_whole]
    if len(values) <= columns.shape[1] + 1 or not np.ptp(values):
        raise TaskError(f"{measure} is known of {len(values)} words: too few to tell it from")
    without, r2 = r_squared(columns[:, :-1], values), r_squared(columns, values)
    score = (r2 - without) / (1 - without) if without < 1 else 0.0
    return Explained(measure=measure, num_words=len(values), r2_without=without, r2=r2, score=score)


def r_squared(columns: Floats, values: Floats) -> float:
    """Return the share of the variance that a linear regression with a constant explains.

    Args:
        columns: float64 (N, K)
        values: float64 (N,)

    Example:
        >>> r_squared(np.array([[0.0], [1.0], [2.0]]), np.array([5.0, 7.0, 9.0]))
        1.0
    """
    scaled = (columns - columns.mean(axis=0)) / np.maximum(columns.std(axis=0), 1e-12)
    centred = values - values.mean()
    found, *_ = np.linalg.lstsq(scaled, centred, rcond=None)
    left = centred - scaled @ found
    return float(1 - left @ left / (centred @ centred))


def _numbers(table: Table, name: str) -> Floats:
    """Return a column as numbers, NaN where there is nothing.

    Raises:
        TaskError: something else is there
    """
    try:
        values = [float(value) if value not in (None, "") else np.nan
                  for value in table.column(name)]  # fmt: skip
    except (TypeError, ValueError) as error:
        raise TaskError(f"{table.path}: {name} holds something else than numbers") from error
    return np.array(values, np.float64)
