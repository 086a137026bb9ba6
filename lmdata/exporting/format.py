"""What a format is: rows in, files out; and what all of them share."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from lmdata.dataset import StoreBlock
from lmdata.files import AtomicFile, make_folder, output_errors
from lmdata.ragged import Ragged


@dataclass(frozen=True)
class Facts:
    """What a writer needs to know before the first row."""

    id_dtype: np.dtype[Any]  # uint16 or uint32
    vocab_size: int
    row_length: int | None  # tokens of each row; None: rows are documents
    fingerprint: str  # 16 hexadecimal digits that tell another export from this one


@dataclass(frozen=True)
class Rows:
    """Some rows of a split: ids, and the block of the store whose documents they are, unaltered."""

    ids: Ragged
    block: StoreBlock | None


@dataclass(frozen=True)
class ExportedFile:
    """A file of an export, by its path in the folder."""

    file: str
    bytes: int
    xxh3: str  # xxh3_128, hexadecimal


class Files:
    """The files of one export: opened by name, hashed while they are written."""

    def __init__(self, folder: Path) -> None:
        """Write into a folder that exists."""
        self.folder = folder
        self.finished: list[ExportedFile] = []

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
        with output_errors(file.path):
            file.commit()
        name = file.path.relative_to(self.folder).as_posix()
        self.finished.append(ExportedFile(name, file.size_bytes, file.xxh3))

    def write(self, name: str, data: bytes | str) -> None:
        """Write a whole file, text as UTF-8."""
        with ExitStack() as stack:
            file = self.open(name, stack)
            with output_errors(file.path):
                file.write(data.encode() if isinstance(data, str) else data)
            self.finish(file)


class Format(Protocol):
    """A format: a class whose objects write one split each."""

    name: ClassVar[str]
    summary: ClassVar[str]  # one line: what it is, and who reads it
    keeps_rows: ClassVar[bool]  # whether a reader sees where rows begin

    def __init__(self, files: Files, facts: Facts, split: str, stack: ExitStack) -> None:
        """Begin a split; `stack` ends what is open when it goes wrong."""

    @staticmethod
    def check(facts: Facts) -> None:
        """Raise a ConfigError for a vocabulary or rows that it can't hold."""

    @staticmethod
    def end(files: Files, splits: list[str]) -> None:
        """Write what stands over the splits, when all are written."""

    def write(self, rows: Rows) -> None:
        """Append rows."""

    def finish(self) -> None:
        """Write what comes last."""
