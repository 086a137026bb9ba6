"""Texts that a user gives, as arguments, in a file or on standard input; answers in a file."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lmdata.errors import counted

from .options import FILE, NAME, echo_result, overwrite_option, say

if TYPE_CHECKING:
    from lmmodel.finetuning.folder import FineTunedRecord
    from lmmodel.tasks.text_rows import Usual

F = TypeVar("F", bound=Callable[..., Any])

STANDARD_INPUT = "-"
BLANK_LINES = "blank lines left out"
WINDOWED = "texts longer than the model takes, read in windows"


class TextParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A text that can be written as UTF-8: what the terminal gave as other bytes is refused."""

    name = "text"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the text as it is."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} is not UTF-8: convert it, or give it in a file by --file.")
        return str(value)


TEXT = TextParam()


@dataclass(frozen=True)
class Given:
    """The texts, in order, and what was left out of the file."""

    texts: list[Any]  # texts; words where a table has lists of them
    counts: dict[str, int]
    seconds: list[str] | None = None  # second texts or passages, of a table that has them
    rows: list[dict[str, Any]] | None = None  # of a table: all columns of each text's row


def text_options(function: F) -> F:
    """Texts as arguments, in `--file`, or on standard input, and where answers go."""
    options = [
        click.argument("texts", nargs=-1, type=TEXT),
        click.option(
            "--file", type=NAME, metavar="FILE",
            help="One text a line; or a table: TSV, CSV, JSON lines, JSON, Parquet. .gz .zst .xz "
            ".bz2 too; - is standard input.",
        ),
        click.option("--text-field", "text", help="Column of a table with the text."),
        click.option(
            "--no-header", "has_header", is_flag=True, flag_value=False, default=None,
            help="The first line of TSV and CSV is data: columns are numbers from 0.",
        ),
        layout_options(),
        click.option(
            "--output", type=FILE,
            help="File to write: .csv, .jsonl or .parquet, with all columns of a table.",
        ),
        overwrite_option,
    ]  # fmt: skip
    return functools.reduce(lambda inner, option: option(inner), reversed(options), function)


def layout_options(prefix: str = "") -> Callable[[F], F]:
    """How the lines of a table are read, for every command that reads one.

    Args:
        prefix: of the names that the command gets
    """
    options = [
        click.option(
            "--delimiter", f"{prefix}delimiter", help="Between fields of TSV and CSV: ';', tab, ..."
        ),
        click.option(
            "--encoding", f"{prefix}encoding",
            help="Of text files.  [default: by the byte-order mark, else UTF-8]",
        ),
        click.option(
            "--errors", f"{prefix}errors", type=click.Choice(["strict", "skip"]),
            help="What to do with lines that do not fit: skip counts them.  [default: strict]",
        ),
    ]  # fmt: skip
    return lambda function: functools.reduce(
        lambda inner, option: option(inner), reversed(options), function
    )


def read_given(
    texts: Sequence[str],
    file: str | None,
    usual: Usual,
    record: FineTunedRecord | None = None,
    **layout: Any,
) -> Given:
    """Return the texts given; those of a table with all its columns.

    Args:
        texts: arguments
        file: name of a file, lines or a table; `-` is standard input
        usual: what the columns of a table are called, and how many texts are wanted
        record: of a fine-tuned model, whose own columns are taken where a table has them and
            nothing else is asked for
        layout: how a table is read, None where an option was not given

    Raises:
        click.UsageError: there is no text, an option has no effect, or an argument is a file's name
        TaskError: the file is missing, damaged, of another encoding, or lacks a column
    """
    from lmmodel.predicting.given import open_table
    from lmmodel.predicting.given import read_given as read_table
    from lmmodel.tasks.known import find_task

    wanted = {name: value for name, value in layout.items() if value is not None}
    if file is None or not is_given_table(file):
        for name in wanted.keys() - {"encoding"}:
            raise click.UsageError(f"--{_OPTIONS.get(name, name)} is for a --file that is a table")
        return read_texts(texts, file, encoding=layout.get("encoding"))
    if texts:
        raise click.UsageError(f"give texts or the table {file}, not both")
    table = open_table(Path(file), usual, record, wanted)
    task = None if record is None else find_task(record.task)
    given = read_table(table, usual, task)
    for note in table.notes:
        say(note)
    counts = {} if task is not None and task.owns(table) else dict(table.table.counts)
    return Given(given.texts, {w: n for w, n in counts.items() if n}, given.seconds, given.rows)


def is_given_table(file: str | None) -> bool:
    """Whether the texts are in a table, by the name of the file."""
    from lmmodel.predicting.given import is_table

    return file is not None and file != STANDARD_INPUT and is_table(Path(file))


_OPTIONS = {"text": "text-field", "pair": "pair-field", "has_header": "no-header"}


@contextlib.contextmanager
def writing_answers(
    output: Path | None, *, overwrite: bool, suffixes: Sequence[str] | None = None
) -> Iterator[Path | None]:
    """Yield where answers are to be written; None: they are only printed.

    Raises:
        click.UsageError: --overwrite has no effect
        LmmodelError, LmdataError: they can't be written there
    """
    from lmmodel.predicting.given import TABLE_SUFFIXES, answer_file

    if output is None:
        if overwrite:
            raise click.UsageError("--overwrite has no effect without --output")
        yield None
        return
    with answer_file(output, suffixes or TABLE_SUFFIXES, overwrite=overwrite) as partial:
        yield partial


def write_answers(
    partial: Path | None, output: Path | None, given: Given, answers: Sequence[Mapping[str, Any]]
) -> None:
    """Write answers behind the columns of their rows, or behind the texts."""
    from lmmodel.predicting.given import beside, write_rows

    if partial is not None and output is not None:
        rows = given.rows or [{"text": text} for text in given.texts]
        write_rows(partial, output.suffix, beside(rows, answers))


def read_texts(texts: Sequence[str], file: str | None, *, encoding: str | None = None) -> Given:
    """Return the texts given; for `-` alone, or none and a pipe, those on standard input.

    Blank lines are left out and counted.

    Raises:
        click.UsageError: there is none, or an argument is the name of a file
        TaskError: the file is missing, damaged or of another encoding
    """
    if file is None and (tuple(texts) == (STANDARD_INPUT,) or not (texts or _is_at_terminal())):
        texts, file = (), STANDARD_INPUT
    for text in texts:
        check_is_text(
            text, f"--file {text} reads the texts in it; if these letters are the text, give them "
            "on standard input",
        )  # fmt: skip
    lines = [] if file is None else _read_lines(file, encoding or "auto")
    kept = [line for line in lines if line.strip()]
    if lines and not kept and not texts:
        from lmmodel.errors import TaskError

        name = "standard input" if file == STANDARD_INPUT else file
        raise TaskError(f"{name} holds no text, only blank lines: {len(lines):,}")
    if not texts and not kept:
        raise click.UsageError("give a text, or --file with one a line (- is standard input)")
    num_blank = len(lines) - len(kept)
    return Given([*texts, *kept], {BLANK_LINES: num_blank} if num_blank else {})


def check_is_text(text: str, instead: str) -> None:
    """Check that a text is not the name of a file, which was most likely meant to be read.

    Raises:
        click.UsageError: it is; says what to do `instead`
    """
    if os.path.isfile(text):  # noqa: PTH113 - false too for what no file can be called
        raise click.UsageError(f"{text} is a file: {instead}")


def split_at_tab(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what stands before and after the tab of each line.

    Raises:
        click.UsageError: a line does not have one tab
    """
    for line in lines:
        if line.count("\t") != 1:
            raise click.UsageError(
                f"two texts with one tab between them are wanted in each line, got {line[:60]!r}"
            )
    first, second = zip(*(line.split("\t") for line in lines), strict=True)
    return list(first), list(second)


def _is_at_terminal() -> bool:
    """Whether standard input is a terminal, or closed: there is nothing to read in it."""
    return sys.stdin is None or sys.stdin.isatty()


def _read_lines(file: str, encoding: str) -> list[str]:
    from lmmodel.tasks.tables import decode, read_text

    if file != STANDARD_INPUT:
        return read_text(Path(file), encoding).removesuffix("\n").split("\n")
    if sys.stdin is None:
        raise click.UsageError("standard input is closed: give a text, or --file with one a line")
    text = decode("standard input", sys.stdin.buffer.read(), encoding)
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
    _note_table(lines)
    return lines


def _note_table(lines: Sequence[str]) -> None:
    """Say that standard input is read by lines where it begins as a table does."""
    from lmdata.reading.stdin import detect_kind, name_table

    head = lines[0].encode() if lines else b""
    kind = "jsonl" if detect_kind(head)[0] == "jsonl" else name_table(head, _USUAL_NAMES)
    if kind is not None:
        say(f"standard input is read as one text a line; a table is a file: --file NAME.{kind}")


_USUAL_NAMES = ("text", "sentence")


def echo_answers(
    given: Given,
    records: Sequence[Mapping[str, Any]],
    lines: list[str],
    counts: Mapping[str, int] | None = None,
    *,
    output: Path | None,
    as_json: bool,
    **facts: Any,
) -> None:
    """Print answers, or where they are, and what was left out or cut.

    Args:
        given: the texts, and what was left out of the file
        records: an answer each; those of a table get its other columns as `row`
        lines: the same for people
        counts: of what was cut or read in windows
        output: the file that the answers are in
        as_json: print JSON
        facts: more of the result
    """
    counts = {**given.counts, **(counts or {})}
    if given.rows is not None:
        records = [{**one, "row": row} for one, row in zip(records, given.rows, strict=True)]
    result: dict[str, Any] = {**facts, "texts": records, "counts": counts}
    if output is not None:
        result = {**facts, "output": str(output), "num_texts": len(records), "counts": counts}
        lines = [f"{output}  {counted(len(records), 'text')}"]
    lines = [*lines, *count_lines(counts)]
    echo_result(result, as_json=as_json, quiet=False, lines=lines)


def count_lines(counts: Mapping[str, int]) -> list[str]:
    """Return what was left out, cut or read in windows, a line each."""
    return [f"note: {what}: {count:,}" for what, count in counts.items() if count]
