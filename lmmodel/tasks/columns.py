"""Which columns of a table hold texts and labels, where the user does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lmmodel.errors import TaskError
from lmmodel.tasks.tables import Table
from lmmodel.tasks.task_files import TaskFile

Choice = tuple[str, ...]  # names of columns that belong together

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
        problems.append(_missing(missing, is_header_sure=not table.has_names))
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


def _missing(names: Sequence[str], *, is_header_sure: bool) -> str:
    """Return which columns are not there, all at once, and how to say where they are."""
    what = "which column holds" if len(names) == 1 else "which columns hold"
    header = "" if is_header_sure else "; if the first line is data, say --no-header and numbers"
    return f"{what} {' and '.join(names)}? Say so by {_options(names)}{header}."
