"""Where an output lies: one object, whether that is a folder of this machine or one in a store.

Files are written in `folder`, on this machine; `keep` makes one last where the place is. What is
agreed on by several writers, a plan, receipts, a manifest, is created only if it is not there, so
that the first one wins and the others can read what it said.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lmdata.errors import IntegrityError
from lmdata.files import AtomicFile, output_errors, remove, sync
from lmdata.xxh3 import hash_file


def new_attempt() -> str:
    """Return eight hexadecimal digits that tell what one writer writes from another's."""
    return os.urandom(4).hex()


class Place(Protocol):
    """A folder of files, by their names in it, as `.build/plan.json`."""

    @property
    def folder(self) -> Path:
        """Where its files are written, on this machine."""

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small file; None where there is none."""

    def create(self, name: str, data: bytes, *, is_durable: bool = True) -> bool:
        """Write a small file whole, unless there is one; return whether this call wrote it.

        Args:
            name: of the file
            data: its bytes
            is_durable: must outlive a power cut

        Raises:
            OutputError: it can't be written
        """

    def keep(self, name: str) -> None:
        """Make a file that was written in `folder` last.

        Raises:
            OutputError: it can't be written
            IntegrityError: another file of that name is there already
        """

    def bring(self, name: str) -> Path:
        """Return where a file can be read on this machine.

        Raises:
            IntegrityError: it is not there
        """

    def holds(self, name: str, size_bytes: int, xxh3: str) -> bool:
        """Whether a file is there, as far as that can be told without reading from afar."""

    def size(self, name: str) -> int:
        """Return the bytes of a file, 0 where it has just gone."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def names(self) -> Iterator[str]:
        """Yield the names of all files, also in folders. A store's list may be out of date."""


@dataclass(frozen=True)
class LocalPlace:
    """A folder of this machine, or of a disk that several machines see."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file; None where there is none."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes, *, is_durable: bool = True) -> bool:
        """Write a file whole, unless there is one; return whether this call wrote it."""
        path = self.folder / name
        own = path.with_name(f"{path.name}.{new_attempt()}")
        with output_errors(path):
            with AtomicFile(own, is_durable=is_durable) as file:
                file.write(data)
            try:
                os.link(file.path, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without links, where one machine writes at a time
                own.replace(path)
            finally:
                own.unlink(missing_ok=True)
            if is_durable:
                sync(path.parent)
        return True

    def keep(self, name: str) -> None:
        """Files are written where they stay."""

    def bring(self, name: str) -> Path:
        """Return where a file is."""
        path = self.folder / name
        if not path.is_file():
            raise IntegrityError(f"{path} is missing: restore it, or build {self} again")
        return path

    def holds(self, name: str, size_bytes: int, xxh3: str) -> bool:
        """Whether a file is there and unaltered."""
        path = self.folder / name
        return path.is_file() and path.stat().st_size == size_bytes and hash_file(path) == xxh3

    def size(self, name: str) -> int:
        """Return the bytes of a file, 0 where it has just gone."""
        try:
            return (self.folder / name).lstat().st_size
        except FileNotFoundError:
            return 0

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        remove(self.folder / name)

    def names(self) -> Iterator[str]:
        """Yield the names of all files, also in folders."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() or path.is_symlink():
                yield path.relative_to(self.folder).as_posix()
