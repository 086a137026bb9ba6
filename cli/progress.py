"""Progress on stderr: a live line on a terminal, nothing in a log or if quiet."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

SHOW_AFTER_S = 2.0


class ProgressLine:
    """A progress bar that appears once a job has run for two seconds.

    Used as a context manager; `update(done, total, note)` is cheap and may be called often. A job
    that never calls it, or has not yet, is shown with the time it has taken.
    """

    def __init__(self, title: str, *, unit: str | None = None, quiet: bool = False) -> None:
        """Name the job; `unit` is "bytes" or what is counted ("steps", "examples"), or None."""
        self._title = title
        self._unit = unit
        self._is_quiet = quiet
        self._is_visible = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._timer = threading.Timer(SHOW_AFTER_S, self._show)
        self._timer.daemon = True
        self._lock = threading.Lock()  # of the two that follow
        self._bar: Progress | None = None
        self._has_ended = False

    def __enter__(self) -> ProgressLine:
        if self._is_visible:
            self._timer.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._has_ended = True
            if self._bar is not None:
                self._bar.stop()

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Show `done` of `total` units, and a short note such as a loss."""
        if self._bar is not None:
            self._bar.update(self._bar.tasks[0].id, completed=done, total=total, note=note)

    def say(self, message: str) -> None:
        """Print a line above the bar, also where there is no bar, unless quiet."""
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False)
        elif not self._is_quiet:
            click.echo(message, err=True)

    def _show(self) -> None:
        bar = _make_bar(self._unit)
        bar.add_task(self._title, total=None, note="")
        with self._lock:
            if not self._has_ended:
                bar.start()
                self._bar = bar


def _make_bar(unit: str | None) -> Progress:
    """Return a bar on stderr; Rich is imported only here, `--help` does without it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=24)]
    if unit is None:
        columns.append(TimeElapsedColumn())
    elif unit == "bytes":
        columns += [TaskProgressColumn(), DownloadColumn(), TransferSpeedColumn()]
    else:
        columns += [TaskProgressColumn(), MofNCompleteColumn(), TextColumn(unit)]
    if unit is not None:
        columns.append(TimeRemainingColumn())
    columns.append(TextColumn("{task.fields[note]}"))
    return Progress(*columns, console=Console(stderr=True))
