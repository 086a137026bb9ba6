"""Texts that a user gives: as arguments, in a file, or on standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

STANDARD_INPUT = "-"
BLANK_LINES = "blank lines left out"


class Text(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A text that can be written as UTF-8: what the terminal gave as other bytes is refused."""

    name = "text"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the text as it is."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} is not UTF-8: convert it, or give it in a file by --file.")
        return str(value)


TEXT = Text()


@dataclass(frozen=True)
class Given:
    """The texts, in order, and what was left out of the file."""

    texts: list[str]
    counts: dict[str, int]


def text_options(function: F) -> F:
    """Texts as arguments, or one a line in `--file`, or on standard input: see `read_texts`."""
    file = click.option(
        "--file", metavar="FILE", help="One text a line, .gz .zst .xz too; - is standard input."
    )
    texts = click.argument("texts", nargs=-1, type=TEXT)
    return texts(file(function))


def read_texts(texts: Sequence[str], file: str | None) -> Given:
    """Return the texts given; for `-` alone, or none and a pipe, those on standard input.

    Blank lines are left out and counted.

    Raises:
        click.UsageError: there is none, or an argument is the name of a file
        TaskError: the file is missing, damaged or not UTF-8
    """
    if file is None and (tuple(texts) == (STANDARD_INPUT,) or not (texts or _is_at_terminal())):
        texts, file = (), STANDARD_INPUT
    for text in texts:
        check_is_text(
            text, f"--file {text} reads the texts in it; a text that is called as a file is, goes "
            "to standard input",
        )  # fmt: skip
    lines = [] if file is None else _read_lines(file)
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


def _read_lines(file: str) -> list[str]:
    from lmmodel.errors import TaskError
    from lmmodel.tasks.files import read_text

    if file != STANDARD_INPUT:
        return read_text(Path(file)).removesuffix("\n").split("\n")
    if sys.stdin is None:
        raise click.UsageError("standard input is closed: give a text, or --file with one a line")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskError(f"standard input is not UTF-8 at byte {error.start}: convert it") from error
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
