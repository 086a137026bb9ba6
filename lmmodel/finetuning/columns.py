"""Which columns of a table hold texts and labels, where the user does not say."""

from __future__ import annotations

from collections.abc import Sequence

from lmmodel.errors import TaskError
from lmmodel.finetuning.tables import Table
from lmmodel.finetuning.tasks import TaskFormat, TaskName

# As in GLUE, SuperGLUE, SQuAD and the usual collections.
TEXTS = ("sentence", "text", "review", "content")
PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("question", "sentence"), ("question", "passage"), ("text1", "text2"), ("text_a", "text_b"),
    ("#1 String", "#2 String"),
)  # fmt: skip
QUESTIONS = (("question", "context"), ("question", "passage"))
WORDS = ("tokens", "words")
CLASSES = ("label", "gold_label", "class", "category", "is_duplicate", "Quality", "sentiment")
NUMBERS = ("label", "score", "similarity", "value", "rating")
TAGS = ("tags", "upos", "xpos", "pos_tags", "ner_tags", "labels")
ANSWERS = ("answers", "answer")

_Choice = tuple[str, ...]  # names of columns that belong together


def find_texts(table: Table, task: TaskName, columns: TaskFormat) -> _Choice:
    """Return the columns of the text, or of both, as they are named or guessed.

    Raises:
        TaskError: none fits, or two do
    """
    if task in ("sequence-classification", "token-classification"):
        if columns.pair is not None:
            raise TaskError(
                f"{task} reads one text: for the second, {columns.pair!r}, take sentence-pair"
            )
        names = TEXTS if task == "sequence-classification" else WORDS
        return (columns.text or _guess(table, [(name,) for name in names], "text")[0],)
    if columns.text is not None and columns.pair is not None:
        return columns.text, columns.pair
    if task == "regression":
        if columns.text is not None:
            return (columns.text,)
        return _guess(table, [*[(name,) for name in TEXTS], *PAIRS], "text")
    choices = [
        choice
        for choice in (QUESTIONS if task == "question-answering" else PAIRS)
        if columns.text in (None, choice[0]) and columns.pair in (None, choice[1])
    ]
    return _guess(table, choices, "text and pair")


def find_labels_column(table: Table, task: TaskName, columns: TaskFormat) -> str:
    """Return the column of the labels, as it is named or guessed.

    Raises:
        TaskError: none fits, or two do
    """
    if columns.label is not None:
        return columns.label
    known = {
        "regression": NUMBERS, "token-classification": TAGS, "question-answering": ANSWERS,
    }.get(task, CLASSES)  # fmt: skip
    return _guess(table, [(name,) for name in known], "label")[0]


def _guess(table: Table, choices: Sequence[_Choice], what: str) -> _Choice:
    """Return the only choice whose columns are all there, named as they are in the file."""
    actual = {name.strip().casefold(): name for name in table.columns}
    found = [
        tuple(actual[name.casefold()] for name in choice)
        for choice in choices
        if all(name.casefold() in actual for name in choice)
    ]
    if len(found) == 1:
        return found[0]
    options = " and ".join(f"--{option}" for option in what.split(" and "))
    if found:
        fitting = " or ".join(" and ".join(map(repr, choice)) for choice in found)
        raise TaskError(
            f"{table.path}: {what} could be {fitting}: say which by {options}; "
            f"the columns are {table.listing()}"
        )
    header = (
        "; if its first line is data, say --no-header and give numbers" if table.has_names else ""
    )
    raise TaskError(
        f"{table.path}: which column holds {what}? Say so by {options}; "
        f"the columns are {table.listing()}{header}"
    )
