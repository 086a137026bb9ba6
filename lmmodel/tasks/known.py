"""The tasks there are, by name. Adding one is adding an object to `TASKS`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmmodel.errors import TaskError
from lmmodel.tasks.answering import AnsweringTask
from lmmodel.tasks.classification import MULTI_LABEL, ClassificationTask, RegressionTask
from lmmodel.tasks.sequence_to_sequence import SequenceTask
from lmmodel.tasks.tagging import TaggingTask
from lmmodel.tasks.task import AnyTask
from lmmodel.tasks.task_files import TaskFile, TaskFormat

TASKS: dict[str, AnyTask] = {
    task.name: task
    for task in (
        ClassificationTask("sequence-classification", reads_pairs=False),
        ClassificationTask("sentence-pair", reads_pairs=True),
        MULTI_LABEL,
        TaggingTask(),
        AnsweringTask(),
        RegressionTask(),
        SequenceTask(),
    )
}


def find_task(name: str) -> AnyTask:
    """Return the task of a name.

    Raises:
        ValueError: there is none

    Example:
        >>> find_task("regression").stopping_scores
        ('pearson', 'spearman')
    """
    if name not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def read_task_file(path: Path | str | TaskFile, task: AnyTask | str, columns: TaskFormat) -> Any:
    """Return the rows of a task file: TSV, CSV, JSON lines, JSON, Parquet, CoNLL or SQuAD's JSON.

    Classified texts and questions lose the white space around them; passages and words stay as
    they are.

    Args:
        path: its extension says the format, unless `columns` does; .gz, .zst, .xz, .bz2 after it
        task: what the rows are for, or its name
        columns: which columns hold what

    Raises:
        TaskError: the file is unreadable, a column is missing or ambiguous, a value is of another
            kind, or tags do not match their words
    """
    task = find_task(task) if isinstance(task, str) else task
    file = path if isinstance(path, TaskFile) else TaskFile(path, columns)
    for other in TASKS.values():
        if other is not task and not task.owns(file) and other.owns(file):
            raise TaskError(
                f"{file.path} is of another kind: its task is {other.name}, not {task.name}"
            )
    return task.read(file)
