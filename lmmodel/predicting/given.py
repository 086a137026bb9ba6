"""Texts in a table, with the columns beside them, and answers written as a table again."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lmdata.config import build_config, json_values
from lmdata.errors import OutputError
from lmdata.files import lease, writing_file
from lmmodel.errors import FitError, TaskError
from lmmodel.tasks.known import find_task
from lmmodel.tasks.tables import detect_format, parse_text
from lmmodel.tasks.task import AnyTask, GivenTexts
from lmmodel.tasks.task_files import TaskFile, TaskFormat
from lmmodel.tasks.text_rows import TEXTS, Usual, find_columns
from lmmodel.tasks.words import parse_words

if TYPE_CHECKING:
    from lmmodel.finetuning.folder import FineTunedRecord

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
BLANK_ROWS = "rows without a text left out"
PLAIN = Usual(texts=(*TEXTS, ("prompt",)), labels=(), num_texts=(1,))
"""What the only text of a table is usually called."""


def is_table(path: Path) -> bool:
    """Whether the name of a file tells a table, compressed or not.

    Example:
        >>> is_table(Path("a.CSV.gz")), is_table(Path("a.txt"))
        (True, False)
    """
    try:
        detect_format(path)
    except TaskError:
        return False
    return True


def read_given(file: TaskFile, usual: Usual, task: AnyTask | None = None) -> GivenTexts:
    """Return the texts of a table, with the columns beside them; rows without one are left out.

    Args:
        file: the table, read without labels; what is left out of it is counted there
        usual: what its columns are called, and how many texts are wanted
        task: of the model, which may read files of its own form

    Raises:
        TaskError: the file is unreadable, a column is missing or ambiguous, or no row has a text
    """
    if task is not None and task.owns(file):
        return task.given(task.read(file))
    names, _ = find_columns(file, usual)
    table, every = file.table, list(file.table.columns)

    def parse(where: str, *cells: Any) -> tuple[list[Any], dict[str, Any]]:
        row = dict(zip(every, cells, strict=True))
        texts = [row[name] for name in names]
        if usual.reads_words and isinstance(texts[0], list):
            texts = [parse_words(where, names[0], texts[0])]
        else:
            texts = [parse_text(where, name, text) for name, text in zip(names, texts, strict=True)]
        return texts, row

    _, parsed = table.parse(every, parse)
    kept = [(texts, row) for texts, row in parsed if all(texts)]
    if not kept:
        raise TaskError(f"{file.path} has no row with a text in {' and '.join(map(repr, names))}")
    table.counts[BLANK_ROWS] += len(parsed) - len(kept)
    return GivenTexts(
        texts=[texts[0] for texts, _ in kept],
        seconds=[texts[1] for texts, _ in kept] if len(names) > 1 else None,
        rows=[row for _, row in kept],
    )


@contextmanager
def answer_file(path: Path, suffixes: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Yield where answers are written that become the file `path` when the block ends well.

    What is wrong with the path is told at the beginning, before the work.

    Raises:
        FitError: its ending says no known format
        OutputError: it exists and may not be replaced, or can't be written
    """
    if path.suffix.lower() not in suffixes:
        wanted = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise FitError(f"{path} ends with {path.suffix!r}: answers go to {wanted}")
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path} exists: add --overwrite to replace it, or choose another --output"
        )
    with lease(path), writing_file(path) as partial:
        yield partial


def beside(
    rows: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return rows with the columns of their answers behind their own.

    A column that is there already stays; the answer's is called `predicted_` and its name.

    Example:
        >>> beside([{"id": 7, "label": "bad"}], [{"label": "good"}])
        [{'id': 7, 'label': 'bad', 'predicted_label': 'good'}]
    """
    taken = {name for row in rows[:1] for name in row}
    return [
        {**row, **{f"predicted_{n}" if n in taken else n: value for n, value in answer.items()}}
        for row, answer in zip(rows, answers, strict=True)
    ]


def write_rows(path: Path, suffix: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a table; lists and objects are JSON in CSV.

    Args:
        path: of the file
        suffix: .csv, .jsonl or .parquet: how
        rows: all with the columns of the first
    """
    if suffix.lower() == ".parquet":
        _write_parquet(path, rows)
    elif suffix.lower() == ".jsonl":
        lines = [_text(row) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        path.write_text(text.getvalue(), encoding="utf-8")


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow.parquet as pq

    arrays = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        if isinstance(values[0], np.ndarray):
            flat = pa.array(np.concatenate(values))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, len(values[0]))
        else:
            arrays[name] = _column(values)
    pq.write_table(pa.table(arrays), path)


def _column(values: Sequence[Any]) -> pa.Array:
    """Return values as an Arrow array; objects, and values of several kinds, as their JSON."""
    if not any(isinstance(value, dict) for value in values):
        with suppress(pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.array(values)
    return pa.array([value if isinstance(value, str | None) else _text(value) for value in values])


def _cell(value: Any) -> Any:
    """Return a value as one cell of CSV."""
    return _text(value) if isinstance(value, np.ndarray | list | tuple | dict) else value


def _text(value: Any) -> str:
    """Return a value as JSON; what JSON has no word for, such as a date, as text."""
    return json.dumps(json_values(value), ensure_ascii=False, default=str)


def open_table(
    path: Path,
    usual: Usual,
    record: FineTunedRecord | None,
    wanted: Mapping[str, Any],
    *,
    has_labels: bool = False,
) -> TaskFile:
    """Return a table to be read, with the model's own columns where it has them.

    Args:
        path: of the table
        usual: how many texts are wanted
        record: of a fine-tuned model
        wanted: how it is read, as options say
        has_labels: whether labels are read too

    Raises:
        ConfigError: an option is out of range
    """
    base = {} if record is None else {"tags": record.config.columns.tags}
    asked = build_config(TaskFormat, {**base, "has_labels": has_labels, **wanted})
    file = TaskFile(path, asked)
    if record is None or find_task(record.task).owns(file):
        return file
    columns = record.config.columns
    own = {"text": columns.text, "pair": columns.pair if max(usual.num_texts) > 1 else None}
    own |= {"label": columns.label} if has_labels else {}
    known = {n: v for n, v in own.items() if v is not None and v in file.table.columns}
    file.columns = build_config(TaskFormat, {**base, "has_labels": has_labels, **known, **wanted})
    return file


def usual_of(record: FineTunedRecord, num_texts: int | None = None) -> Usual:
    """Return what the columns of a table are called that a model is asked about.

    Args:
        record: of the model
        num_texts: texts of a row; None: what the model was fine-tuned on
    """
    usual = find_task(record.task).usual
    if num_texts is None:
        num_texts = max(usual.num_texts) if record.has_pairs else min(usual.num_texts)
    choices = [choice[:num_texts] for choice in usual.texts if len(choice) >= num_texts]
    choices += TEXTS if num_texts == 1 else []
    return dataclasses.replace(
        usual,
        texts=tuple(dict.fromkeys(choices)),
        num_texts=(num_texts,),
        guesses_by_value=True,
    )
