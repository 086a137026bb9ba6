"""One text or two in a row, with classes or a number: read from columns, and cut to fit.

R rows of the file; E examples.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lmmodel.errors import TaskError
from lmmodel.tasks.columns import Usual, find_columns
from lmmodel.tasks.examples import Encoding, Labels, TaskExamples, make_examples
from lmmodel.tasks.files import describe, parse_text
from lmmodel.tasks.task_files import TaskFile
from lmmodel.texts import Integers, encode_texts, find_frame, fit_pairs, put_into_frame

Classes = tuple[str, ...]  # of one row: one, or several where a row may have them
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
ABSENT = ""
"""The class of a row whose label is null or empty."""
_TRUTHS = {"true": "1", "false": "0"}
NO_LABEL = "without a label"


@dataclass(frozen=True, kw_only=True)
class TextRows:
    """One text or two, with classes or a number each."""

    path: str  # of the file, for errors
    lines: Integers  # (R,) 1-based line or record of each row
    texts: Sequence[str]  # (R,)
    pairs: Sequence[str] | None  # (R,) second texts
    labels: Sequence[Classes] | npt.NDArray[np.float64] | None  # (R,)
    has_lists: bool = False  # whether the file has lists of classes
    unlabelled: tuple[str, ...] = ()  # classes that stand for none
    counts: Mapping[str, int] = field(default_factory=dict)  # of what was mended in reading

    def __len__(self) -> int:
        return len(self.texts)


def make_text_rows(texts: Sequence[str], pairs: Sequence[str] | None = None) -> TextRows:
    """Return texts, or pairs of them, to be classified, as task files have them: stripped."""
    return TextRows(
        path="the input",
        lines=np.arange(1, len(texts) + 1),
        texts=[text.strip() for text in texts],
        pairs=None if pairs is None else [text.strip() for text in pairs],
        labels=None,
    )


def take_text_rows(rows: TextRows, which: Integers) -> TextRows:
    """Return some rows, int64 (N,), in their order."""
    labels: Any = rows.labels
    if isinstance(labels, np.ndarray):
        labels = labels[which]
    elif labels is not None:
        labels = [labels[row] for row in which]
    return dataclasses.replace(
        rows,
        lines=rows.lines[which],
        texts=[rows.texts[row] for row in which],
        pairs=None if rows.pairs is None else [rows.pairs[row] for row in which],
        labels=labels,
    )


def read_text_rows(file: TaskFile, usual: Usual, parse_label: Any) -> TextRows:
    """Return texts, or pairs of them, with what `parse_label` makes of a label.

    Args:
        file: with columns
        usual: what they are called
        parse_label: takes the place for errors, the column and its value

    Raises:
        TaskError: a column is missing or ambiguous, or a value is of another kind
    """
    names, label = find_columns(file, usual)

    def parse(where: str, *cells: Any) -> tuple[list[str], Any]:
        texts = [parse_text(where, *pair) for pair in zip(names, cells, strict=False)]
        return texts, None if label is None else parse_label(where, label, cells[-1])

    lines, parsed = file.table.parse([*names, *([] if label is None else [label])], parse)
    columns = list(zip(*(texts for texts, _ in parsed), strict=True))
    return TextRows(
        path=str(file.path),
        lines=lines,
        texts=columns[0],
        pairs=columns[1] if len(columns) > 1 else None,
        labels=None if label is None else [found for _, found in parsed],
        unlabelled=file.columns.unlabelled,
        counts={what: count for what, count in file.table.counts.items() if count},
    )


def encode_text_rows(
    rows: TextRows, how: Encoding, labels: Labels | None, is_labelled: npt.NDArray[np.bool_]
) -> TaskExamples:
    """Return a text or two a row, cut where they are too long.

    Args:
        rows: R of them
        how: rows become examples
        labels: (R, ...)
        is_labelled: bool (R,): the row has a label to learn by
    """
    columns = [rows.texts] if rows.pairs is None else [rows.texts, rows.pairs]
    frame = find_frame(how.tokenizer, len(columns))
    room = frame.room(how.max_seq_length)
    has_text = np.array([all(texts) for texts in zip(*columns, strict=True)], np.bool_)
    kept = how.choose(has_text & is_labelled)
    encoded = [encode_texts(how.tokenizer.backend, texts) for texts in columns]
    full = [texts.lengths[kept] for texts in encoded]
    lengths = fit_pairs(full[0], full[-1] if len(full) > 1 else full[0] * 0, room)
    spans = [texts.span(kept, 0, own) for texts, own in zip(encoded, lengths, strict=False)]
    is_cut = np.sum(full, axis=0) > np.sum(lengths, axis=0)
    return make_examples(
        rows,
        put_into_frame(frame, spans),
        kept,
        labels=None if labels is None else labels[kept],
        counts={
            how.name("empty text"): int((~has_text).sum()),
            f"left out: {NO_LABEL}": int((~is_labelled & has_text).sum()),
            "truncated": int(is_cut.sum()),
        },
    )


# Names of classes.


def label_key(name: str) -> str:
    """Return by what two spellings of a class are told to be the same.

    Numbers and truth values are spelled otherwise by each format: 1, 1.0, true and True are one.

    Example:
        >>> [label_key(name) for name in ("1.0", "True", "-0", "good", "0.5")]
        ['1', '1', '-0', 'good', '0.5']
    """
    match = _WHOLE.fullmatch(name)
    return match[1] if match else _TRUTHS.get(name.lower(), name)


def parse_class(where: str, name: str, value: Any) -> str:
    """Return the name of a class: text, a whole number or a truth value.

    Raises:
        TaskError: it is something else
    """
    if isinstance(value, bool):
        return str(value).lower()
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if is_whole and abs(value) < 10**15:
        return str(int(value))
    if isinstance(value, str) and value.strip():
        match = _WHOLE.fullmatch(value.strip())
        return match[1] if match else value.strip()
    raise TaskError(
        f"{where}: the label {name!r} is {describe(value)}, a name or a whole number is wanted"
    )


def parse_classes(where: str, name: str, value: Any) -> Classes:
    """Return the classes of a row: one, those in a list, or that there is none.

    Raises:
        TaskError: they are something else
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return (ABSENT,)
    if isinstance(value, list):
        return tuple(dict.fromkeys(parse_class(where, name, item) for item in value))
    return (parse_class(where, name, value),)


# Both files of a task.


def check_pairs(train: TextRows, validation: TextRows) -> None:
    """Check that both files have pairs, or neither.

    Raises:
        TaskError: one has pairs, the other single texts
    """
    if (train.pairs is None) != (validation.pairs is None):
        one, other = (train, validation) if train.pairs is not None else (validation, train)
        raise TaskError(
            f"{one.path} has pairs, {other.path} single texts: name the columns of both by --text "
            "and --pair, or of single texts by --text"
        )
