"""One text or two in a row, with classes or a number: which columns hold them, and what is read.

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

from lmmodel.batch import IGNORED
from lmmodel.errors import TaskError
from lmmodel.tasks.examples import (
    Encoding,
    Labels,
    TaskExamples,
    enough_labels,
    make_examples,
    unknown_label,
)
from lmmodel.tasks.tables import Table, describe, parse_text
from lmmodel.tasks.task_files import TaskFile
from lmmodel.texts import Integers, encode_texts, find_frame, fit_pairs, put_into_frame

Choice = tuple[str, ...]  # names of columns that belong together
Classes = tuple[str, ...]  # of one row: one, or several where a row may have them
NO_LABEL = "without a label"
_TRUTHS = {"true": "1", "false": "0"}
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
ABSENT = ""
"""The class of a row whose label is null or empty."""

_NUM_LOOKED_AT = 200  # rows whose values tell texts from labels
_MAX_CLASSES = 20

# As in GLUE, SuperGLUE, SQuAD and the usual collections.
TEXTS: tuple[Choice, ...] = (("sentence",), ("text",), ("review",), ("content",))
PAIRS: tuple[Choice, ...] = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("question", "sentence"), ("question", "passage"), ("text1", "text2"), ("text_a", "text_b"),
    ("#1 String", "#2 String"),
)  # fmt: skip
CLASSES: tuple[str, ...] = (
    "label", "gold_label", "class", "category", "is_duplicate", "Quality", "sentiment",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Usual:
    """What the columns of a task are usually called, and how many texts it reads."""

    texts: tuple[Choice, ...]
    labels: tuple[str, ...]
    num_texts: tuple[int, ...]  # that the task can read, the first by default
    guesses_by_value: bool = True  # whether columns of other names are guessed by what they hold
    reads_words: bool = False  # whether a text may be a list of its words
    called: tuple[str, str, str] = ("the text", "the second text", "the label")  # in errors


def find_columns(file: TaskFile, usual: Usual) -> tuple[Choice, str | None]:
    """Return the columns of the texts and of the label, as they are named or guessed.

    What is guessed by values alone is told in the file's notes.

    Returns:
        The names of the texts; and that of the label, None where no labels are read.

    Raises:
        TaskError: none fits, or two do; all that is missing is named at once
    """
    table, given = file.table, file.columns
    table.check(*[name for name in (given.text, given.pair, given.label) if name is not None])
    problems: list[str] = []
    missing: list[str] = []
    texts = _find_texts(file, usual, problems, missing)
    label = given.label
    if given.has_labels and label is None:
        label = _find_label(file, usual, texts, problems, missing)
    if missing:
        problems.append(_missing(missing, usual, is_header_sure=not table.has_names))
    if problems:
        raise TaskError(f"{table.path}: {' '.join(problems)} The columns are {table.listing()}")
    return texts, label if given.has_labels else None


def _find_texts(file: TaskFile, usual: Usual, problems: list[str], missing: list[str]) -> Choice:
    """Return the columns of the texts; adds to `problems` or `missing` where there are none."""
    given, wanted = file.columns, usual.num_texts
    if given.text is not None and (given.pair is not None or 1 in wanted):
        return (given.text,) if given.pair is None else (given.text, given.pair)
    choices = [
        choice
        for choice in usual.texts
        if len(choice) in wanted
        and given.text in (None, choice[0])
        and (given.pair is None or given.pair == choice[-1])
    ]
    options = "text and pair" if 1 not in wanted else "text"
    found = _matching(file.table, choices)
    if len(found) == 1:
        return found[0]
    if found:
        problems.append(_ambiguous(options, found))
        return ()
    guessed = _guess_texts(file, usual)
    if not guessed:
        missing += options.split(" and ")
    return guessed


def _guess_texts(file: TaskFile, usual: Usual) -> Choice:
    """Return the columns that hold running text, where there are as many as are wanted."""
    given, table = file.columns, file.table
    if not usual.guesses_by_value or given.text is not None or given.pair is not None:
        return ()
    names = [name for name in table.columns if name != given.label and _is_running(table, name)]
    if len(names) not in usual.num_texts:
        return ()
    file.note(f"{_listed(names)} taken as the text ({_options(('text', 'pair')[: len(names)])})")
    return tuple(names)


def _find_label(
    file: TaskFile, usual: Usual, texts: Choice, problems: list[str], missing: list[str]
) -> str | None:
    """Return the column of the label; adds to `problems` or `missing` where there is none."""
    table = file.table
    known = _matching(table, [(name,) for name in usual.labels])
    found = [one for one in known if one[0] not in texts]
    if len(found) == 1:
        return found[0][0]
    if found:
        problems.append(_ambiguous("label", found))
        return None
    names = [name for name in table.columns if name not in texts and _repeats(table, name)]
    if len(names) == 1 and texts and usual.guesses_by_value:
        file.note(f"{_listed(names)} taken as the label (--label-field)")
        return names[0]
    missing.append("label")
    return None


def _matching(table: Table, choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices whose columns are all there, named as they are in the file."""
    actual = {name.strip().casefold(): name for name in table.columns}
    return [
        tuple(actual[name.casefold()] for name in choice)
        for choice in choices
        if all(name.casefold() in actual for name in choice)
    ]


def _is_running(table: Table, name: str) -> bool:
    """Whether most values of a column are texts of several words."""
    values = table.head(name, _NUM_LOOKED_AT)
    texts = [str(value) for value in values if value is not None]
    return 2 * sum(" " in text.strip() for text in texts) > len(values)


def _repeats(table: Table, name: str) -> bool:
    """Whether a column has a few values, at least two, each again and again."""
    values = [str(value) for value in table.head(name, _NUM_LOOKED_AT)]
    distinct = len(set(values))
    return 2 <= distinct <= min(_MAX_CLASSES, max(2, len(values) // 2))


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names)) + (" are" if len(names) > 1 else " is")


def _options(names: Sequence[str]) -> str:
    return " and ".join(f"--{name}-field" for name in names)


def _ambiguous(what: str, found: Sequence[Choice]) -> str:
    fitting = " or ".join(" and ".join(map(repr, choice)) for choice in found)
    return f"{what} could be {fitting}: say which by {_options(what.split(' and '))}."


def _missing(names: Sequence[str], usual: Usual, *, is_header_sure: bool) -> str:
    """Return which columns are not there, all at once, and how to say where they are."""
    called = dict(zip(("text", "pair", "label"), usual.called, strict=True))
    what = "which column holds" if len(names) == 1 else "which columns hold"
    header = "" if is_header_sure else "; if the first line is data, say --no-header and numbers"
    wanted = " and ".join(called[name] for name in names)
    return f"{what} {wanted}? Say so by {_options(names)}{header}."


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

    def take(self, which: Integers) -> TextRows:
        """Return some rows, int64 (N,), in their order."""
        labels: Any = self.labels
        if labels is not None:
            is_array = isinstance(labels, np.ndarray)
            labels = labels[which] if is_array else [labels[row] for row in which]
        return dataclasses.replace(
            self,
            lines=self.lines[which],
            texts=[self.texts[row] for row in which],
            pairs=None if self.pairs is None else [self.pairs[row] for row in which],
            labels=labels,
        )


def make_text_rows(texts: Sequence[str], pairs: Sequence[str] | None = None) -> TextRows:
    """Return texts, or pairs of them, to be classified, as task files have them: stripped."""
    return TextRows(
        path="the input",
        lines=np.arange(1, len(texts) + 1),
        texts=[text.strip() for text in texts],
        pairs=None if pairs is None else [text.strip() for text in pairs],
        labels=None,
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
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return (ABSENT,)  # NaN, too, is not itself
    if isinstance(value, list):
        return tuple(dict.fromkeys(parse_class(where, name, item) for item in value))
    return (parse_class(where, name, value),)


def label_numbers(labels: Sequence[str], unlabelled: Sequence[str]) -> dict[str, int]:
    """Return the id of each class by the key of its name, IGNORED for those that stand for none."""
    ids = {label_key(name): number for number, name in enumerate(labels)}
    return {ABSENT: IGNORED, **{label_key(name): IGNORED for name in unlabelled}, **ids}


def label_ids(rows: TextRows, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the id of every row's class: int64 (R,), IGNORED where it stands for none.

    Args:
        rows: with one class each
        labels: in the order of their ids

    Raises:
        TaskError: a class is not among `labels`
    """
    numbers = label_numbers(labels, rows.unlabelled)
    assert rows.labels is not None
    ids = [class_number(rows, row, one, numbers, labels) for row, (one,) in enumerate(rows.labels)]
    return np.array(ids, np.int64)


def class_number(
    rows: TextRows, row: int, name: str, numbers: dict[str, int], labels: Sequence[str]
) -> int:
    """Return the id of a class of a row, by the keys of `label_numbers`.

    Raises:
        TaskError: it is not among `labels`
    """
    number = numbers.get(label_key(name))
    if number is None:
        raise unknown_label(f"{rows.path}, line {rows.lines[row]}", name, labels)
    return number


def find_classes(rows: TextRows) -> tuple[str, ...]:
    """Return the classes in the order of their ids, each as it is spelled first.

    Those that stand for none are no classes, as long as two others are there.

    Raises:
        TaskError: there are fewer than two
    """
    spelled: dict[str, str] = {}
    for names in rows.labels if rows.labels is not None else ():
        for name in names:
            spelled.setdefault(label_key(name), name)
    spelled.pop(ABSENT, None)
    without = {label_key(name) for name in rows.unlabelled}
    real = [name for key, name in spelled.items() if key not in without]
    return enough_labels(rows.path, real if len(real) > 1 else spelled.values())
