"""What a task file holds, whatever its format: texts, tagged words or questions.

R rows of the file; W words of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lmmodel.batch import IGNORED
from lmmodel.errors import TaskError
from lmmodel.finetuning.tasks import TaskName, sort_labels, unknown_label


@dataclass(frozen=True, kw_only=True)
class TextRows:
    """One text or two, with a class or a number each."""

    path: str  # of the file, for errors
    task: TaskName
    lines: npt.NDArray[np.int64]  # (R,) 1-based line or record of each row
    texts: Sequence[str]  # (R,)
    pairs: Sequence[str] | None  # (R,) second texts
    labels: Sequence[str] | npt.NDArray[np.float64] | None  # (R,) names, or numbers of regression
    counts: Mapping[str, int] = field(default_factory=dict)  # of what was mended in reading

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, kw_only=True)
class WordRows:
    """Words in sentences, with a tag each."""

    path: str
    task: TaskName
    lines: npt.NDArray[np.int64]  # (R,)
    words: Sequence[str]  # (W,)
    has_space: npt.NDArray[np.bool_]  # (W,) white space stands before the word; False at the first
    offsets: npt.NDArray[np.int64]  # (R + 1,) where the words of each row begin
    tags: Sequence[str | None] | None  # (W,) None: a word without a tag
    counts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, row: int) -> str:
        """Return the running text of a row."""
        span = range(self.offsets[row], self.offsets[row + 1])
        return "".join(" " * bool(self.has_space[w]) + self.words[w] for w in span)


@dataclass(frozen=True)
class Answer:
    """A stretch of a passage as the file has it: not always where it says."""

    text: str
    start: int  # in characters of the passage

    def is_in(self, passage: str) -> bool:
        """Whether the passage has the text where the answer says.

        Example:
            >>> Answer("cat", 4).is_in("The cat"), Answer("cat", 3).is_in("The cat")
            (True, False)
        """
        return self.start >= 0 and passage.startswith(self.text, self.start)


@dataclass(frozen=True, kw_only=True)
class QuestionRows:
    """Questions about passages; many share one passage."""

    path: str
    task: TaskName
    lines: npt.NDArray[np.int64]  # (R,) number of the question where lines mean nothing
    questions: Sequence[str]  # (R,)
    passages: Sequence[str]  # distinct
    passage_of: npt.NDArray[np.int64]  # (R,) index into `passages`
    answers: Sequence[Sequence[Answer]] | None  # (R,) several to a question are alternatives
    ids: Sequence[str]  # (R,) of the questions
    counts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.questions)

    def passage(self, row: int) -> str:
        """Return the passage that a question is about."""
        return self.passages[int(self.passage_of[row])]


TaskRows = TextRows | WordRows | QuestionRows
References = npt.NDArray[np.int64] | npt.NDArray[np.float64] | list[list[str]]


def has_pairs(rows: TaskRows) -> bool:
    """Whether texts to classify come in pairs."""
    return isinstance(rows, TextRows) and rows.pairs is not None


def make_text_rows(
    task: TaskName, texts: Sequence[str], pairs: Sequence[str] | None = None
) -> TextRows:
    """Return texts, or pairs of them, to be classified, as task files have them: stripped."""
    return TextRows(
        path="the input",
        task=task,
        lines=np.arange(1, len(texts) + 1),
        texts=[text.strip() for text in texts],
        pairs=None if pairs is None else [text.strip() for text in pairs],
        labels=None,
    )


def make_word_rows(
    sentences: Sequence[Sequence[str]], has_space: Sequence[Sequence[bool]] | None = None
) -> WordRows:
    """Return sentences to be tagged.

    Args:
        sentences: the words of each
        has_space: of each word, whether white space stands before it; None: always
    """
    offsets = np.concatenate([[0], np.cumsum([len(words) for words in sentences])]).astype(np.int64)
    spaces = np.ones(int(offsets[-1]), np.bool_)
    if has_space is not None:
        spaces[:] = [space for sentence in has_space for space in sentence]
    spaces[offsets[:-1][np.diff(offsets) > 0]] = False
    return WordRows(
        path="the input",
        task="token-classification",
        lines=np.arange(1, len(sentences) + 1),
        words=[word for words in sentences for word in words],
        has_space=spaces,
        offsets=offsets,
        tags=None,
    )


def make_question_rows(questions: Sequence[str], passages: Sequence[str]) -> QuestionRows:
    """Return questions, stripped as in task files, each with its passage, to be answered."""
    number = {passage: index for index, passage in enumerate(dict.fromkeys(passages))}
    return QuestionRows(
        path="the input",
        task="question-answering",
        lines=np.arange(1, len(questions) + 1),
        questions=[question.strip() for question in questions],
        passages=list(number),
        passage_of=np.array([number[passage] for passage in passages], np.int64),
        answers=None,
        ids=[str(index) for index in range(len(questions))],
    )


def find_labels(rows: TaskRows) -> tuple[str, ...]:
    """Return the labels of a training file in the order of their ids; none where it has none.

    Raises:
        TaskError: classes are wanted and there are fewer than two
    """
    if isinstance(rows, QuestionRows) or rows.task == "regression":
        return ()
    labels = sort_labels(str(name) for name in _names(rows) if name is not None)
    if len(labels) < 2:
        found = f"only the label {labels[0]!r}" if labels else "no labels"
        raise TaskError(f"{rows.path} has {found}: a classifier needs at least two")
    return labels


def label_ids(rows: TextRows | WordRows, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the id of every class, int64 (R,), or tag, int64 (W,), IGNORED where there is none.

    Raises:
        TaskError: a label is not among `labels`
    """
    ids: dict[object, int] = {name: number for number, name in enumerate(labels)}
    ids[None] = IGNORED
    names = _names(rows)
    try:
        return np.fromiter((ids[name] for name in names), np.int64, len(names))
    except KeyError as error:
        position = next(place for place, name in enumerate(names) if name not in ids)
        name = str(names[position])
        raise unknown_label(_place(rows, position), name, labels) from error


def _names(rows: TextRows | WordRows) -> Sequence[object]:
    """Return the labels as the file has them, none where they were not read."""
    names = rows.tags if isinstance(rows, WordRows) else rows.labels
    return () if names is None else list(names)


def _place(rows: TextRows | WordRows, position: int) -> str:
    """Return the file and line of a label."""
    if isinstance(rows, TextRows):
        return f"{rows.path}, line {rows.lines[position]}"
    row = int(np.searchsorted(rows.offsets, position, side="right")) - 1
    word = position - int(rows.offsets[row])
    return f"{rows.path}, line {rows.lines[row]}, word {word + 1} ({rows.words[position]!r})"


def references(rows: TaskRows, labels: Sequence[str]) -> References:
    """Return what predictions are scored against.

    Returns:
        Class ids int64 (R,); numbers float64 (R,); tag ids int64 (W,), IGNORED where a word has no
        tag; or the texts of the right answers, a list for each question.

    Raises:
        TaskError: a label is not among `labels`, or the rows were read without labels
    """
    unlabelled = TaskError(f"{rows.path} was read without labels: it can't be scored")
    if isinstance(rows, QuestionRows):
        if rows.answers is None:
            raise unlabelled
        return [[answer.text for answer in row] for row in rows.answers]
    if (rows.tags if isinstance(rows, WordRows) else rows.labels) is None:
        raise unlabelled
    if isinstance(rows, TextRows) and isinstance(rows.labels, np.ndarray):
        return rows.labels
    return label_ids(rows, labels)
