"""Rows of a task file as flat arrays without padding, and what is said about them.

R rows of a file; E examples of T tokens in all, made of them; C outputs of the head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lmdata.ragged import Ragged
from lmdata.tokenizer import Tokenizer
from lmmodel.errors import TaskError
from lmmodel.tasks.tables import suggest
from lmmodel.texts import Framed, Integers, Windows

Labels = npt.NDArray[np.int64] | npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]

MAX_LISTED = 10  # labels in an error
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


class Rows(Protocol):
    """What a task file holds, whatever its format."""

    @property
    def path(self) -> str:
        """The file, for errors."""

    @property
    def counts(self) -> Mapping[str, int]:
        """What was mended or left out in reading, by why."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class TaskExamples:
    """E examples of T tokens in all; a long row is several examples (windows), neighbours here."""

    num_rows: int  # R of the file, those left out included
    input_ids: npt.NDArray[np.int32]  # (T,)
    token_type_ids: npt.NDArray[np.uint8]  # (T,)
    offsets: Integers  # (E + 1,)
    row: Integers  # (E,) row of the file, ascending
    labels: Labels | None
    """(E, ...), or (T,) where `labels_are_by_token`; the task says of what kind. None: there are
    none."""
    labels_are_by_token: bool = False
    targets: Ragged | None = None
    """Ids of what is to be written about each example, int32 (E,): [start, ..., end]; None: nothing
    is written."""
    of_tokens: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """(T,) each: what the task keeps of tokens, to understand its logits."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows, questions or words by what happened to them: truncated, windowed, left out and why."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def lengths(self) -> Integers:
        """Tokens of each example: int64 (E,), each at least 1."""
        return np.diff(self.offsets)

    @property
    def sizes(self) -> Integers:
        """Tokens of each example and of what is to be written about it: int64 (E,)."""
        return self.lengths if self.targets is None else self.lengths + self.targets.lengths


def make_examples(
    rows: Rows,
    framed: Framed,
    row: Integers,
    *,
    labels: Labels | None,
    counts: Mapping[str, int],
    labels_are_by_token: bool = False,
    of_tokens: Mapping[str, npt.NDArray[Any]] | None = None,
) -> TaskExamples:
    """Return examples of rows; what happened in reading is counted with what happened here."""
    return TaskExamples(
        num_rows=len(rows),
        input_ids=framed.input_ids,
        token_type_ids=framed.token_type_ids,
        offsets=framed.offsets,
        row=row,
        labels=labels,
        labels_are_by_token=labels_are_by_token,
        of_tokens=of_tokens or {},
        counts={what: count for what, count in {**rows.counts, **counts}.items() if count},
    )


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How rows become examples."""

    tokenizer: Tokenizer
    labels: Sequence[str]  # in the order of their ids; empty where a task has none
    max_seq_length: int  # tokens of an example at most, special ones included
    is_training: bool
    """Rows that can teach nothing (an empty text, an answer that is not in the passage) are left
    out; otherwise every row has an example."""
    overlap: int | None = None  # tokens that windows of a long row share; None: see `cut_windows`

    def __post_init__(self) -> None:
        if self.overlap is not None and self.overlap < 0:
            raise ValueError(f"overlap must be at least 0, got {self.overlap}")

    def choose(self, can_teach: npt.NDArray[np.bool_]) -> Integers:
        """Return the rows that become examples: int64."""
        return np.flatnonzero(can_teach) if self.is_training else np.arange(len(can_teach))

    def name(self, reason: str) -> str:
        """Return under what to count rows that can teach nothing."""
        return f"left out: {reason}" if self.is_training else reason


def count_windows(windows: Windows) -> dict[str, int]:
    """Return how many rows are read in windows, and in how many."""
    return {"in windows": windows.num_cut, "windows": int((~windows.is_whole).sum())}


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model says about each row (R), or each word of the file."""

    values: Any
    """As the task's `references` are: ids int64, numbers float64, truths bool (R, C), or texts."""
    probabilities: Floats | None = None
    """(R, C) or (words, C) of classes and tags; (R,) of answers; None of numbers."""
    spans: Integers | None = None
    """(R, 2) of answers: first character and one past the last, in the passage."""


# Labels.


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


def enough_labels(path: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the labels of a classifier in the order of their ids.

    Raises:
        TaskError: there are fewer than two
    """
    labels = sort_labels(names)
    if len(labels) < 2:
        found = f"only the label {labels[0]!r}" if labels else "no labels"
        raise TaskError(f"{path} has {found}: a classifier needs at least two")
    return labels


def unknown_label(where: str, name: str, known: Sequence[str]) -> TaskError:
    """Return the error of a label that training has not seen."""
    more = len(known) - MAX_LISTED
    listed = ", ".join(map(repr, known[:MAX_LISTED])) + (f" and {more} more" if more > 0 else "")
    return TaskError(
        f"{where}: unknown label {name!r}; training has {listed}{suggest(name, known)}: mend it, "
        "or add examples of it to the training file"
    )


def softmax(logits: Floats) -> Floats:
    """Return probabilities: float32 (N, C).

    Args:
        logits: float32 (N, C)

    Example:
        >>> softmax(np.array([[0.0, 0.0], [1000.0, 0.0]], np.float32)).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    raised = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Floats = (raised / raised.sum(1, keepdims=True)).astype(np.float32)
    return probabilities


def most_frequent(learned: Labels | None, references: Any) -> Any:
    """Return the id that is most frequent among learned ones, once for each reference: int64 (N,).

    Args:
        learned: int64 of any shape, negative where there is no label
        references: N of them

    Example:
        >>> most_frequent(np.array([1, 1, 0, -100]), [0, 0]).tolist()
        [1, 1]
    """
    ids = np.asarray(learned)
    return np.full(len(references), int(np.bincount(ids[ids >= 0]).argmax()))


def unlabelled(path: str) -> TaskError:
    """Return the error of rows that were read without labels."""
    return TaskError(f"{path} was read without labels: it can't be scored")
