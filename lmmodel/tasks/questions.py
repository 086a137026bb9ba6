"""Questions about passages, from SQuAD's JSON (1.1 and 2.0) or columns; passages as tokens.

Format: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016;
"Know What You Don't Know: Unanswerable Questions for SQuAD", 2018.

R rows of the file.
"""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from lmdata.ragged import offsets_of
from lmmodel.errors import TaskError
from lmmodel.tasks.tables import describe, parse_text
from lmmodel.tasks.task_files import TaskFile
from lmmodel.tasks.text_rows import Usual, find_columns
from lmmodel.texts import Integers, TextIds

USUAL = Usual(
    texts=(("question", "context"), ("question", "passage")),
    labels=("answers", "answer"),
    num_texts=(2,),
    guesses_by_value=False,
    called=("the question", "its passage", "the answers"),
)


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
    lines: Integers  # (R,) number of the question where lines mean nothing
    questions: Sequence[str]  # (R,)
    passages: Sequence[str]  # distinct
    passage_of: Integers  # (R,) index into `passages`
    answers: Sequence[Sequence[Answer]] | None
    """(R,) several to a question are alternatives; none: the passage does not answer it."""
    ids: Sequence[str]  # (R,) of the questions
    counts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.questions)

    def passage(self, row: int) -> str:
        """Return the passage that a question is about."""
        return self.passages[int(self.passage_of[row])]

    def take(self, which: Integers) -> QuestionRows:
        """Return some rows, int64 (N,), in their order; all passages stay."""
        return dataclasses.replace(
            self,
            lines=self.lines[which],
            questions=[self.questions[row] for row in which],
            passage_of=self.passage_of[which],
            answers=None if self.answers is None else [self.answers[row] for row in which],
            ids=[self.ids[row] for row in which],
        )


def make_question_rows(questions: Sequence[str], passages: Sequence[str]) -> QuestionRows:
    """Return questions, stripped as in task files, each with its passage, to be answered."""
    number = {passage: index for index, passage in enumerate(dict.fromkeys(passages))}
    return QuestionRows(
        path="the input",
        lines=np.arange(1, len(questions) + 1),
        questions=[question.strip() for question in questions],
        passages=list(number),
        passage_of=np.array([number[passage] for passage in passages], np.int64),
        answers=None,
        ids=[str(index) for index in range(len(questions))],
    )


@dataclass
class _Questions:
    """What has been read so far."""

    questions: list[str] = field(default_factory=list)
    passages: dict[str, int] = field(default_factory=dict)  # to its number
    passage_of: list[int] = field(default_factory=list)
    answers: list[list[Answer]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def add(self, question: str, passage: str, answers: list[Answer], identity: str) -> None:
        """Add one question, without the white space around it."""
        self.questions.append(question.strip())
        self.passage_of.append(self.passages.setdefault(passage, len(self.passages)))
        self.answers.append(answers)
        self.ids.append(identity)

    def finish(
        self, path: Path, lines: Integers | None, counts: Mapping[str, int], *, has_labels: bool
    ) -> QuestionRows:
        """Return them as rows."""
        if not self.questions:
            raise TaskError(f"{path} holds no questions")
        return QuestionRows(
            path=str(path),
            lines=np.arange(1, len(self.questions) + 1) if lines is None else lines,
            questions=self.questions,
            passages=list(self.passages),
            passage_of=np.array(self.passage_of, np.int64),
            answers=self.answers if has_labels else None,
            ids=self.ids,
            counts={what: count for what, count in counts.items() if count},
        )


# SQuAD's JSON.


def is_squad(file: TaskFile) -> bool:
    """Whether a file is JSON in SQuAD's form."""
    if file.format != "json" or '"paragraphs"' not in file.text:
        return False
    return isinstance(file.json, dict) and "data" in file.json


def read_squad(file: TaskFile) -> QuestionRows:
    """Return the questions of a SQuAD file, in its order.

    Raises:
        TaskError: columns are described, or a part is missing or of another kind
    """
    file.check_no_columns()
    path, has_labels, read = file.path, file.columns.has_labels, _Questions()
    for index, article in enumerate(_part(path, file.json, "data", list, "the file")):
        where = f"article {index + 1}"
        for number, paragraph in enumerate(_part(path, article, "paragraphs", list, where), 1):
            place = f"{where}, paragraph {number}"
            passage = _text(path, paragraph, "context", place)
            for query in _part(path, paragraph, "qas", list, place):
                _add_question(path, query, passage, place, read, has_labels=has_labels)
    return read.finish(path, None, {}, has_labels=has_labels)


def _text(path: Path, value: Any, name: str, where: str) -> str:
    """Return a named text of a JSON object as it is.

    Raises:
        TaskError: it is missing or too long
    """
    text: str = _part(path, value, name, str, where)
    parse_text(f"{path}, {where}", name, text)
    return text


def _add_question(
    path: Path, query: Any, passage: str, place: str, read: _Questions, *, has_labels: bool
) -> None:
    question = _text(path, query, "question", place)
    identity = str(query.get("id", len(read.ids)))[:200]
    answers = _part(path, query, "answers", list, f"question {identity!r}") if has_labels else []
    if query.get("is_impossible") is True:
        answers = []
    read.add(
        question,
        passage,
        [
            Answer(
                _part(path, answer, "text", str, f"an answer to {identity!r}"),
                _part(path, answer, "answer_start", int, f"an answer to {identity!r}"),
            )
            for answer in answers
        ],
        identity,
    )


def _part(path: Path, value: Any, name: str, kind: type, where: str) -> Any:
    """Return a named part of a JSON object."""
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        wanted = {list: "list", str: "text", int: "number"}[kind]
        raise TaskError(f"{path}: {where} has no {wanted} {name!r}: it is not in SQuAD's form")
    return found


# Columns.


def read_questions(file: TaskFile) -> QuestionRows:
    """Return the questions of a table.

    Answers are as in the `datasets` library, {"text": [...], "answer_start": [...]}, or a list of
    {"text", "answer_start"}, or one text, which begins where the column `answer_start` says, or
    where the passage first has it. Null, an empty text or an empty list: there is no answer.

    Raises:
        TaskError: a column is missing or a value is of another kind
    """
    names, label = find_columns(file, USUAL)
    table = file.table
    extra = [name for name in ("answer_start", "id") if name in table.columns]
    used = [*names, *([] if label is None else [label]), *extra]

    def parse(where: str, *cells: Any) -> tuple[str, str, list[Answer], Any]:
        row = dict(zip(used, cells, strict=True))
        question = parse_text(where, names[0], row[names[0]])
        parse_text(where, names[1], row[names[1]])
        passage: str = row[names[1]] or ""
        answers = []
        if label is not None:
            answers = _parse_answers(where, row[label], row.get("answer_start"), passage)
        return question, passage, answers, row.get("id")

    lines, parsed = table.parse(used, parse)
    read = _Questions()
    for number, (question, passage, answers, identity) in enumerate(parsed):
        read.add(question, passage, answers, str(number if identity is None else identity)[:200])
    return read.finish(file.path, lines, table.counts, has_labels=label is not None)


def _parse_answers(where: str, value: Any, start: Any, passage: str) -> list[Answer]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [Answer(value, passage.find(value) if start is None else _whole(where, start))]
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            value = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
    if not isinstance(value, list) or not all(
        isinstance(item, dict) and isinstance(item.get("text"), str) for item in value
    ):
        raise TaskError(
            f"{where}: the answers are {str(value)[:60]!r}, wanted is a text or "
            '{"text": [...], "answer_start": [...]}'
        )
    return [Answer(item["text"], _whole(where, item.get("answer_start"))) for item in value]


def _whole(where: str, value: Any) -> int:
    """Return a place in a passage.

    Raises:
        TaskError: it is no whole number
    """
    try:
        number = int(value)
        is_whole = not isinstance(value, float) or (math.isfinite(value) and value == number)
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise TaskError(f"{where}: answer_start is {describe(value)}, a whole number is wanted")
    return number


# Passages as tokens that know their characters, so that answers are mapped both ways exactly.
#
# A token's characters are those that the tokenizer names, without white space at their ends, with
# the combining marks behind them that its normalisation removed. So the text from one token to
# another is the passage's own, accents, spaces and capitals included. Tokens that share a
# character, such as the bytes of one, stand for the same characters.


_SLICE = 256  # passages encoded at once


@dataclass(frozen=True)
class Passages:
    """N tokens of some passages, with their characters."""

    tokens: TextIds
    starts: Integers  # (N,) first character in its passage
    ends: Integers  # (N,) one past the last
    has_text: npt.NDArray[np.bool_]  # (N,) more than white space

    def find(self, passage: int, answer: Answer) -> tuple[int, int] | None:
        """Return the first and last token of an answer, counted from the passage's first token.

        None where no token has a character of it.
        """
        begin = answer.start + len(answer.text) - len(answer.text.lstrip())
        end = answer.start + len(answer.text.rstrip())
        span = slice(self.tokens.offsets[passage], self.tokens.offsets[passage + 1])
        places = np.flatnonzero(self.has_text[span])
        first = int(np.searchsorted(self.ends[span][places], begin, side="right"))
        last = int(np.searchsorted(self.starts[span][places], end, side="left")) - 1
        return (int(places[first]), int(places[last])) if first <= last else None


def encode_passages(backend: tokenizers.Tokenizer, passages: Sequence[str]) -> Passages:
    """Return passages as tokens."""
    ids, spans, lengths = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int64)], []
    for begin in range(0, len(passages), _SLICE):
        texts = list(passages[begin : begin + _SLICE])
        for text, encoding in zip(
            texts, backend.encode_batch(texts, add_special_tokens=False), strict=True
        ):
            ids.append(np.array(encoding.ids, np.int32))
            named = np.array(encoding.offsets, np.int64).reshape(-1, 2)
            spans.append(np.stack(settle_spans(text, named[:, 0], named[:, 1]), axis=1))
            lengths.append(len(encoding.ids))
    starts, ends = np.concatenate(spans).T
    tokens = TextIds(np.concatenate(ids), offsets_of(np.array(lengths, np.int64)))
    return Passages(tokens, starts, ends, starts < ends)


def settle_spans(text: str, starts: Integers, ends: Integers) -> tuple[Integers, Integers]:
    r"""Return what each token stands for: int64 (N,) and (N,), equal where it is white space only.

    Args:
        text: of N tokens
        starts: int64 (N,) as the tokenizer names them
        ends: int64 (N,)

    Example:
        >>> starts, ends = settle_spans("a e\u0301", np.array([0, 1]), np.array([1, 3]))
        >>> starts.tolist(), ends.tolist()  # the space goes, the accent comes
        ([0, 2], [1, 4])
    """
    starts, ends = _join_overlapping(starts, ends)
    is_space = np.array([character.isspace() for character in text], np.bool_)
    is_mark = np.array([unicodedata.category(character)[0] == "M" for character in text], np.bool_)
    starts = np.minimum(_next(~is_space)[starts], ends)
    ends = np.maximum(_end_before(~is_space)[ends], starts)
    has_text = starts < ends
    reach = np.minimum(_next(~is_mark)[ends], np.append(starts[1:], len(text))[: len(starts)])
    return starts, np.where(has_text, np.maximum(ends, reach), ends)


def _join_overlapping(starts: Integers, ends: Integers) -> tuple[Integers, Integers]:
    """Return spans of which those that share a character are equal, as the bytes of one are.

    Example:
        >>> starts, ends = _join_overlapping(np.array([0, 0, 2]), np.array([1, 2, 3]))
        >>> starts.tolist(), ends.tolist()
        ([0, 0, 2], [2, 2, 3])
    """
    reach = np.append(0, np.maximum.accumulate(ends))[: len(ends)]
    is_new = starts >= reach
    is_new[:1] = True
    first = np.flatnonzero(is_new)
    group = np.cumsum(is_new) - 1
    return starts[first][group], np.maximum.reduceat(ends, first)[group]


def _next(wanted: npt.NDArray[np.bool_]) -> Integers:
    """Return the first wanted character from each place on: int64 (C + 1,), C where none is."""
    found = np.append(np.where(wanted, np.arange(len(wanted)), len(wanted)), len(wanted))
    return np.minimum.accumulate(found[::-1])[::-1]


def _end_before(wanted: npt.NDArray[np.bool_]) -> Integers:
    """Return one past the last wanted character before each place: int64 (C + 1,), 0 if none."""
    return np.maximum.accumulate(np.append(0, np.where(wanted, np.arange(len(wanted)) + 1, 0)))
