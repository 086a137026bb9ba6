"""Progress on stderr: a live line on a terminal, nothing in a log or if quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

SHOW_AFTER_S = 2.0


class ProgressLine:
    """A progress bar that appears once a job has run for two seconds.

    Used as a context manager; `update(done, total, note)` is cheap and may be called often.
    """

    def __init__(self, title: str, *, unit: str = "bytes", quiet: bool = False) -> None:
        """Name the job; `unit` is "bytes" or what is counted ("steps", "examples")."""
        self._title = title
        self._unit = unit
        self._is_visible = not quiet and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._started_at = time.monotonic()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Show `done` of `total` units, and a short note such as a loss."""
        if not self._is_visible or time.monotonic() - self._started_at < SHOW_AFTER_S:
            return
        if self._progress is None:
            self._progress = _start_bar(self._unit)
            self._progress.add_task(self._title, total=total, note="")
        task = self._progress.tasks[0].id
        self._progress.update(task, completed=done, total=total, note=note)


def _start_bar(unit: str) -> Progress:
    """Return a bar on stderr; Rich is imported only here, `--help` does without it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counted: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()]
        if unit == "bytes"
        else [MofNCompleteColumn(), TextColumn(unit)]
    )
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(),
        *counted, TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )  # fmt: skip
    bar.start()
    return bar
