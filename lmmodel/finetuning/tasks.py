"""What a task is called, how its file is laid out, and what its labels are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lmmodel.errors import TaskError

TaskName = Literal[
    "sequence-classification", "sentence-pair", "token-classification", "question-answering",
    "regression",
]  # fmt: skip
FileFormat = Literal["tsv", "csv", "jsonl", "json", "parquet", "conllu"]
TagColumn = Literal["upos", "xpos"]

TASKS: tuple[TaskName, ...] = get_args(TaskName)
FILE_FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)

STOPPING_SCORES: dict[TaskName, tuple[str, ...]] = {
    "sequence-classification": ("accuracy", "f1_macro", "matthews"),
    "sentence-pair": ("accuracy", "f1_macro", "matthews"),
    "token-classification": ("accuracy", "f1_macro"),
    "question-answering": ("f1", "exact_match"),
    "regression": ("pearson", "spearman"),
}
"""Scores that may decide when to stop, higher is better; the first of each task is the default."""

MAX_LISTED = 10  # labels in an error
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")

BEST_SCORE: dict[TaskName, str] = {task: scores[0] for task, scores in STOPPING_SCORES.items()}
"""The score that decides when to stop where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class TaskFormat:
    """Which columns of a task file hold what.

    Columns are names, or 0-based numbers where there is no header. None: guessed from the usual
    names, an error where two fit.
    """

    text: str | None = None
    """Column of the text, of the first of two, of the words, or of the question."""

    pair: str | None = None
    """Column of the second text, or of the passage that the question is about."""

    label: str | None = None
    """Column of the class, number, tags or answers."""

    has_header: bool = True
    """Whether the first line of TSV and CSV names the columns."""

    tags: TagColumn = "upos"
    """Which tags of CoNLL-U are the labels."""

    has_labels: bool = True
    """False: only texts are read, as for predictions."""

    file_format: FileFormat | None = None
    """None: what the file's extension says."""

    def __post_init__(self) -> None:
        if self.tags not in get_args(TagColumn):
            raise ValueError(f"tags must be upos or xpos, got {self.tags!r}")
        if self.label is not None and not self.has_labels:
            raise ValueError(f"no labels are read: the column {self.label!r} has no effect")


def sort_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Return distinct labels in the order of their ids: by number where all are, else by name.

    Example:
        >>> sort_labels(["10", "9", "9"]), sort_labels(["no", "maybe"])
        (('9', '10'), ('maybe', 'no'))
    """
    distinct = sorted(set(names))
    if all(_WHOLE_NUMBER.fullmatch(name) for name in distinct):
        distinct.sort(key=int)
    return tuple(distinct)


def suggest(name: str, known: Sequence[str]) -> str:
    """Return a clause that names the near match, or nothing.

    Example:
        >>> suggest("entailmnt", ["entailment", "neutral"])
        "; did you mean 'entailment'?"
    """
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_label(where: str, name: str, known: Sequence[str]) -> TaskError:
    """Return the error of a label that training has not seen."""
    more = len(known) - MAX_LISTED
    listed = ", ".join(map(repr, known[:MAX_LISTED])) + (f" and {more} more" if more > 0 else "")
    return TaskError(
        f"{where}: unknown label {name!r}; training has {listed}{suggest(name, known)}: mend it, "
        "or add examples of it to the training file"
    )
