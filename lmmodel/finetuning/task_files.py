"""Task files -> rows: TSV, CSV, JSONL, JSON, Parquet, CoNLL-U and SQuAD JSON, also compressed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmmodel.errors import TaskError
from lmmodel.finetuning.columns import find_labels_column, find_texts
from lmmodel.finetuning.conllu import read_conllu
from lmmodel.finetuning.questions import make_questions, read_squad
from lmmodel.finetuning.rows import TaskRows, TextRows, WordRows
from lmmodel.finetuning.tables import (
    Table,
    detect_format,
    parse_json,
    read_table,
    read_text,
)
from lmmodel.finetuning.tasks import TASKS, FileFormat, TaskFormat, TaskName

MAX_NUMBER = 1e15  # of regression: squares of larger ones leave float32


def read_task_file(path: Path | str, task: TaskName, columns: TaskFormat) -> TaskRows:
    """Return the rows of a task file.

    Classified texts and questions lose the white space around them; passages and words stay as
    they are.

    Args:
        path: its extension says the format, unless `columns` does; .gz, .zst, .xz, .bz2 after it
        task: what the rows are for
        columns: which columns hold what

    Raises:
        TaskError: the file is unreadable, a column is missing or ambiguous, a value is of another
            kind, or tags do not match their words
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    path = Path(path)
    file_format = columns.file_format or detect_format(path)
    if file_format == "conllu":
        _check_conllu(path, task, columns)
        return read_conllu(path, columns)
    if columns.tags != "upos":
        raise TaskError(f"{path} is no CoNLL-U: name the column of its tags, not {columns.tags}")
    if file_format == "json" and (squad := _parse_squad(path)) is not None:
        if task != "question-answering":
            raise TaskError(f"{path} holds questions: its task is question-answering, not {task}")
        _check_no_columns(path, columns)
        return read_squad(path, squad, has_labels=columns.has_labels)
    return _read_columns(path, task, columns, file_format)


def _parse_squad(path: Path) -> dict[str, Any] | None:
    """Return what a SQuAD file holds; None for other JSON."""
    text = read_text(path)
    if not text.lstrip().startswith("{") or '"paragraphs"' not in text:
        return None
    parsed = parse_json(path, text, 1)
    return parsed if isinstance(parsed, dict) and "data" in parsed else None


def _check_conllu(path: Path, task: TaskName, columns: TaskFormat) -> None:
    if task != "token-classification":
        raise TaskError(f"{path} holds tagged words: its task is token-classification, not {task}")
    _check_no_columns(path, columns)


def _check_no_columns(path: Path, columns: TaskFormat) -> None:
    """Raise where columns are described for a format whose columns are fixed."""
    if not columns.has_header:
        raise TaskError(f"{path} has no header to leave out: --no-header is for TSV and CSV")
    named = next(filter(None, (columns.text, columns.pair, columns.label)), None)
    if named is not None:
        raise TaskError(f"{path} has no columns to choose from: {named!r} would have no effect")


def _read_columns(
    path: Path, task: TaskName, columns: TaskFormat, file_format: FileFormat
) -> TaskRows:
    has_lines = file_format in ("tsv", "csv")
    if not has_lines and not columns.has_header:
        raise TaskError(f"{path} always names its columns: --no-header is for TSV and CSV")
    table = read_table(path, file_format, has_header=columns.has_header)
    names = find_texts(table, task, columns)
    label = find_labels_column(table, task, columns) if columns.has_labels else None
    if task == "question-answering":
        return make_questions(table, names, label)
    if task == "token-classification":
        return _make_words(table, names[0], label)
    texts = [_texts(table, name) for name in names]
    return TextRows(
        path=table.path,
        task=task,
        lines=table.lines,
        texts=texts[0],
        pairs=texts[1] if len(texts) > 1 else None,
        labels=None if label is None else _labels(table, task, label),
    )


def _texts(table: Table, name: str) -> list[str]:
    """Return a column of texts without the white space around them."""
    values = table.column(name)
    for line, value in zip(table.lines, values, strict=True):
        if not isinstance(value, str):
            raise TaskError(
                f"{table.path}, line {line}: {name!r} is {_describe(value)}, a text is wanted"
            )
    return [value.strip() for value in values]


def _labels(table: Table, task: TaskName, name: str) -> list[str] | npt.NDArray[np.float64]:
    values = table.column(name)
    lines = table.lines.tolist()
    if task != "regression":
        return [_class(table, line, name, v) for line, v in zip(lines, values, strict=True)]
    numbers = [_number(table, line, name, v) for line, v in zip(lines, values, strict=True)]
    return np.array(numbers, np.float64)


def _class(table: Table, line: int, name: str, value: Any) -> str:
    """Return the name of a class: text, a whole number or a truth value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise TaskError(
        f"{table.path}, line {line}: the label {name!r} is {_describe(value)}, a name or a whole "
        "number is wanted"
    )


def _number(table: Table, line: int, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise TaskError(
            f"{table.path}, line {line}: {name!r} is {_describe(value)}, a number is wanted"
        )
    if abs(number) > MAX_NUMBER:
        raise TaskError(
            f"{table.path}, line {line}: {name!r} is {number:g}, at most {MAX_NUMBER:g} is: choose "
            "another unit"
        )
    return number


def _describe(value: Any) -> str:
    if value is None:
        return "missing"
    return "empty" if value == "" else f"{str(value)[:40]!r}"


def _make_words(table: Table, name: str, label: str | None) -> WordRows:
    """Return rows of words; where a cell is one text, white space separates them."""
    lines = table.lines.tolist()
    rows = [_split(table, line, name, v) for line, v in zip(lines, table.column(name), strict=True)]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    has_space = np.ones(int(offsets[-1]), np.bool_)
    has_space[offsets[:-1][np.diff(offsets) > 0]] = False
    tags = None
    if label is not None:
        tags = _match_tags(table, rows, label)
    return WordRows(
        path=table.path,
        task="token-classification",
        lines=table.lines,
        words=[word for row in rows for word in row],
        has_space=has_space,
        offsets=offsets,
        tags=tags,
    )


def _match_tags(table: Table, rows: Sequence[Sequence[str]], name: str) -> list[str]:
    """Return the tags of all words.

    Raises:
        TaskError: a row has more or fewer tags than words
    """
    tags: list[str] = []
    for line, words, value in zip(table.lines.tolist(), rows, table.column(name), strict=True):
        own = _split(table, line, name, value)
        if len(own) != len(words):
            raise TaskError(
                f"{table.path}, line {line}: tags that do not match their words: {len(words)} "
                f"words, {len(own)} tags"
            )
        tags += own
    return tags


def _split(table: Table, line: int, name: str, value: Any) -> list[str]:
    """Return the words or tags of one row: a list of them, or one text with white space."""
    if isinstance(value, str):
        return value.split()
    is_list = isinstance(value, list) and all(
        isinstance(item, str | int) and not isinstance(item, bool) for item in value
    )
    if not is_list:
        raise TaskError(
            f"{table.path}, line {line}: {name!r} is {_describe(value)}, a list of words or a text "
            "with white space between them is wanted"
        )
    return [str(item) for item in value]
