"""What a format is: rows in, files out; and the files of one export, written together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from lmdata.dataset import StoreBlock
from lmdata.files import AtomicFile, make_folder, output_errors
from lmdata.ragged import Ragged


@dataclass(frozen=True)
class ExportFacts:
    """What a writer needs to know before the first row."""

    id_dtype: np.dtype[Any]  # uint16 or uint32
    vocab_size: int
    row_length: int | None  # tokens of each row; None: rows are documents
    fingerprint: str  # 16 hexadecimal digits that tell another export from this one


@dataclass(frozen=True)
class ExportRows:
    """Some rows of a split: ids, and the block of the store whose documents they are, unaltered."""

    ids: Ragged
    block: StoreBlock | None


@dataclass(frozen=True)
class ExportedFile:
    """A file of an export, by its path in the folder."""

    file: str
    bytes: int
    xxh3: str  # xxh3_128, hexadecimal


NUM_WRITERS = 2  # threads: files that do not depend on each other are written together


class Files:
    """The files of one export: opened by name, hashed while they are written.

    A context manager: leaving it ends the threads that write.
    """

    def __init__(self, folder: Path) -> None:
        """Write into a folder that exists."""
        self.folder = folder
        self.finished: list[ExportedFile] = []
        self._writers = ThreadPoolExecutor(NUM_WRITERS, "export")
        self._begun: deque[Future[ExportedFile]] = deque()

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._writers.shutdown(cancel_futures=True)

    def open(self, name: str, stack: ExitStack | None = None) -> AtomicFile:
        """Return a new file, whose folder is made; `stack` removes it unless it was finished."""
        path = self.folder / name
        with output_errors(path):
            make_folder(path.parent)
            file = AtomicFile(path)
        if stack is not None:
            stack.callback(file.close)
        return file

    def finish(self, file: AtomicFile) -> None:
        """Put a file under its name, and take note of it."""
        self.settle()
        self.finished.append(self._commit(file))

    def write(self, name: str, data: bytes | str) -> None:
        """Write a whole file, text as UTF-8, behind those that were begun."""
        self.settle()
        content = data.encode() if isinstance(data, str) else data
        self.finished.append(self._write(name, lambda file: file.write(content)))

    def begin(self, name: str, fill: Callable[[AtomicFile], object]) -> None:
        """Have a file written by another thread; what goes wrong is raised by a later call.

        Args:
            name: of the file
            fill: writes all of it
        """
        if len(self._begun) >= NUM_WRITERS:
            self.finished.append(self._begun.popleft().result())
        self._begun.append(self._writers.submit(self._write, name, fill))

    def settle(self) -> None:
        """Wait for the files that were begun."""
        while self._begun:
            self.finished.append(self._begun.popleft().result())

    def _write(self, name: str, fill: Callable[[AtomicFile], object]) -> ExportedFile:
        with ExitStack() as stack:
            file = self.open(name, stack)
            with output_errors(file.path):
                fill(file)
            return self._commit(file)

    def _commit(self, file: AtomicFile) -> ExportedFile:
        with output_errors(file.path):
            file.commit()
        name = file.path.relative_to(self.folder).as_posix()
        return ExportedFile(name, file.size_bytes, file.xxh3)


class Format(Protocol):
    """A format: a class whose objects write one split each."""

    name: ClassVar[str]
    summary: ClassVar[str]  # one line: what it is, and who reads it
    keeps_rows: ClassVar[bool]  # whether a reader sees where rows begin

    def __init__(self, files: Files, facts: ExportFacts, split: str, stack: ExitStack) -> None:
        """Begin a split; `stack` ends what is open when it goes wrong."""

    @staticmethod
    def check(facts: ExportFacts) -> None:
        """Raise a ConfigError for a vocabulary or rows that it can't hold."""

    @staticmethod
    def end(files: Files, splits: list[str]) -> None:
        """Write what stands over the splits, when all are written."""

    def write(self, rows: ExportRows) -> None:
        """Append rows."""

    def finish(self) -> None:
        """Write what comes last."""
