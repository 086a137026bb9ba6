"""Questions about passages, from SQuAD v1.1 JSON or from columns.

Format: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lmmodel.errors import TaskError
from lmmodel.finetuning.rows import Answer, QuestionRows
from lmmodel.finetuning.tables import Table


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

    def finish(self, path: str, lines: Sequence[int] | None, *, has_labels: bool) -> QuestionRows:
        """Return them as rows."""
        if not self.questions:
            raise TaskError(f"{path} holds no questions")
        return QuestionRows(
            path=path,
            task="question-answering",
            lines=np.array(range(1, len(self.questions) + 1) if lines is None else lines, np.int64),
            questions=self.questions,
            passages=list(self.passages),
            passage_of=np.array(self.passage_of, np.int64),
            answers=self.answers if has_labels else None,
            ids=self.ids,
        )


def read_squad(path: Path, squad: dict[str, Any], *, has_labels: bool) -> QuestionRows:
    """Return the questions of a parsed SQuAD file, in its order.

    Raises:
        TaskError: a part is missing or of another kind
    """
    read = _Questions()
    for index, article in enumerate(_part(path, squad, "data", list, "the file")):
        where = f"article {index + 1}"
        for number, paragraph in enumerate(_part(path, article, "paragraphs", list, where), 1):
            place = f"{where}, paragraph {number}"
            passage = _part(path, paragraph, "context", str, place)
            for query in _part(path, paragraph, "qas", list, place):
                _add_question(path, query, passage, place, read, has_labels=has_labels)
    return read.finish(str(path), None, has_labels=has_labels)


def _add_question(
    path: Path, query: Any, passage: str, place: str, read: _Questions, *, has_labels: bool
) -> None:
    question = _part(path, query, "question", str, place)
    identity = str(query.get("id", len(read.ids)))
    answers = _part(path, query, "answers", list, f"question {identity!r}") if has_labels else []
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
        raise TaskError(f"{path}: {where} has no {wanted} {name!r}: it is not SQuAD v1.1")
    return found


def make_questions(table: Table, names: Sequence[str], label: str | None) -> QuestionRows:
    """Return the questions of a table.

    Answers are as in the `datasets` library, {"text": [...], "answer_start": [...]}, or a list of
    {"text", "answer_start"}, or one text, which begins where the column `answer_start` says, or
    where the passage first has it.

    Raises:
        TaskError: a column is missing or a value is of another kind
    """
    questions, passages = (table.column(name) for name in names)
    answers = [None] * len(questions) if label is None else table.column(label)
    starts = table.column("answer_start") if "answer_start" in table.columns else None
    ids = table.column("id") if "id" in table.columns else range(len(questions))
    read = _Questions()
    lines = table.lines.tolist()
    for row, line in enumerate(lines):
        where = f"{table.path}, line {line}"
        for name, value in zip(names, (questions[row], passages[row]), strict=True):
            if not isinstance(value, str):
                raise TaskError(f"{where}: {name!r} is {value!r}, a text is wanted")
        start = None if starts is None else starts[row]
        own = [] if label is None else _parse_answers(where, answers[row], start, passages[row])
        read.add(questions[row], passages[row], own, str(ids[row]))
    return read.finish(table.path, lines, has_labels=label is not None)


def _parse_answers(where: str, value: Any, start: Any, passage: str) -> list[Answer]:
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
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise TaskError(f"{where}: answer_start is {value!r}, a whole number is wanted") from error
