"""How near the vectors of two texts are, against how similar people find them.

STS-B (Cer et al., "SemEval-2017 task 1", 2017) as its authors hand it out has no header; its form
is known here. Other files name their columns as those of a regression over two texts do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmmodel.errors import TaskError
from lmmodel.objectives.contrastive import alignment, uniformity
from lmmodel.predicting.likelihood import embed
from lmmodel.tasks.classification import NUMBERS, parse_number
from lmmodel.tasks.scores import score_numbers
from lmmodel.tasks.task_files import TaskFile, TaskFormat
from lmmodel.tasks.text_rows import PAIRS, Usual, read_text_rows
from lmmodel.trained import Run

RATED = Usual(texts=PAIRS, labels=NUMBERS, num_texts=(2,))
"""What the columns of two texts and a number are usually called."""

STS_B = TaskFormat(text="5", pair="6", label="4", has_header=False)
SIMILAR_SHARE = 0.8  # of the highest rating: pairs above it belong together


@dataclass(frozen=True)
class RatedPairs:
    """N pairs of texts and how similar people find them."""

    texts: Sequence[str]
    others: Sequence[str]
    ratings: np.ndarray  # float64 (N,)


@dataclass(frozen=True, kw_only=True)
class SimilarityScores:
    """How well cosines agree with ratings."""

    num_pairs: int
    spearman: float
    """Rank correlation of cosines and ratings, in [-1, 1]."""
    pearson: float
    alignment: float | None
    """Mean squared distance of pairs rated above four fifths of the highest rating."""
    uniformity: float
    """Logarithm of the mean of exp(-2 d²) over all distinct texts; low: they are spread out."""
    num_cut: int
    """Texts longer than the model takes, read in windows."""


def read_rated_pairs(path: Path | str, columns: TaskFormat | None = None) -> RatedPairs:
    """Return the pairs of a file.

    Args:
        path: of STS-B, or any table
        columns: None: what the file looks like

    Raises:
        TaskError: the file is unreadable, lacks a column, or has an empty text
    """
    columns = columns or TaskFormat()
    if columns == TaskFormat() and _is_sts_b(Path(path)):
        columns = STS_B
    rows = read_text_rows(TaskFile(path, columns), RATED, parse_number)
    assert rows.pairs is not None
    for line, text, other in zip(rows.lines, rows.texts, rows.pairs, strict=True):
        if not (text and other):
            raise TaskError(f"{path}, line {line}: a text is empty; leave the row out")
    return RatedPairs(rows.texts, rows.pairs, np.array(rows.labels, np.float64))


def _is_sts_b(path: Path) -> bool:
    """Whether the first line has seven fields, of which the fifth is a number."""
    if path.suffix != ".tsv" or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        fields = file.readline().rstrip("\n").split("\t")
    return len(fields) >= 7 and fields[4].replace(".", "", 1).isdecimal()


def score_similarity(
    run: Run, pairs: RatedPairs, progress: Callable[[int, int], None] | None = None
) -> SimilarityScores:
    """Return how well a run's vectors agree with people.

    Raises:
        TaskError: there are fewer than two pairs
    """
    if len(pairs.texts) < 2:
        raise TaskError(f"{len(pairs.texts)} pair has no order to compare: give two or more")
    texts = list(dict.fromkeys([*pairs.texts, *pairs.others]))
    found = embed(run, texts, progress=progress)
    place = {text: index for index, text in enumerate(texts)}
    one, other = (
        found.vectors[[place[text] for text in own]].astype(np.float64)
        for own in (pairs.texts, pairs.others)
    )
    scores = score_numbers((one * other).sum(1), pairs.ratings)
    is_near = pairs.ratings > SIMILAR_SHARE * pairs.ratings.max()
    return SimilarityScores(
        num_pairs=len(pairs.texts), spearman=scores["spearman"], pearson=scores["pearson"],
        alignment=alignment(one[is_near], other[is_near]) if is_near.any() else None,
        uniformity=uniformity(found.vectors), num_cut=found.num_windowed,
    )  # fmt: skip
