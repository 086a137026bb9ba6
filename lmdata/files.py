"""The one way files get onto the disk: whole or not at all, one process at a time, nothing lost.

What is written lies under `.NAME.partial` beside its place until it is complete. While a command
writes an output it holds the lease on it, a lock that goes with the process. What is replaced is
of the same kind and named by it; a link is removed or replaced, what it leads to never is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmdata.errors import OutputError
from lmdata.xxh3 import xxh3_128

LEASE_WAIT_S = 5.0  # killed processes may take a moment to go
_LOCK_INSIDE = ".lock"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def output_errors(path: Path, kept: str = "") -> Iterator[None]:
    """Turn an OSError while writing `path` into an OutputError of one line, with what is `kept`."""
    try:
        yield
    except OSError as error:
        raise OutputError(_explain(error, path, kept and f"{kept}; ")) from error


def _explain(error: OSError, path: Path, kept: str) -> str:
    if error.errno in _FULL:
        return f"the disk is full: can't write {path}; {kept}free some space and run again"
    reason = "a file is in the way" if error.errno in _IN_THE_WAY else error.strerror or str(error)
    return f"can't write {path}: {reason}; {kept}choose another place"


def partial_path(path: Path) -> Path:
    """Return where a file or folder lies until it is complete.

    Example:
        >>> partial_path(Path("runs/model")).as_posix()
        'runs/.model.partial'
    """
    return path.with_name(f".{path.name}.partial")


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, safe against a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a folder with all that is in it, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder inside an output, unless it is there.

    Raises:
        OutputError: a link is in its place, or it can't be made
    """
    with output_errors(path):
        if path.is_symlink():
            raise OutputError(
                f"{path} is a link to {path.readlink()}, where nothing is written: remove the "
                "link, or choose another place"
            )
        path.mkdir(parents=True, exist_ok=True)


def _create(path: Path) -> int:
    remove(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


class AtomicFile:
    """A file that gets its name when it is complete; counts and hashes the bytes written.

    A context manager: leaving it normally commits, leaving it with an exception removes what was
    written. It is the sink that PyArrow writes to.
    """

    def __init__(self, path: Path, *, is_durable: bool = True) -> None:
        """Open the temporary file; `is_durable` asks for safety against a power cut too."""
        self.path = path
        self.partial_path = partial_path(path)
        self.size_bytes = 0
        self._is_durable = is_durable
        self._hash = xxh3_128()
        self._file = os.fdopen(_create(self.partial_path), "wb", buffering=0)

    def write(self, data: Any) -> int:
        """Append a buffer."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.size_bytes += len(view)
        position = 0
        while position < len(view):
            position += self._file.write(view[position:])
        return len(view)

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self.size_bytes

    def flush(self) -> None:
        """Nothing is buffered; PyArrow asks."""

    @property
    def closed(self) -> bool:
        """Whether the file has been committed or abandoned; PyArrow asks."""
        return self._file.closed

    @property
    def xxh3(self) -> str:
        """The xxh3_128 of the bytes written so far, hexadecimal."""
        return self._hash.hexdigest()

    def commit(self) -> None:
        """Put the file under its name."""
        if self._is_durable:
            os.fsync(self._file.fileno())
        self._file.close()
        self.partial_path.replace(self.path)
        if self._is_durable:
            sync(self.path.parent)

    def close(self) -> None:
        """Remove what was written, unless it has been committed."""
        if not self._file.closed:
            self._file.close()
            self.partial_path.unlink(missing_ok=True)

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.commit()
        self.close()


def write_atomically(path: Path, data: bytes | str, *, is_durable: bool = True) -> None:
    """Write a small file, text as UTF-8, whole or not at all.

    Raises:
        OutputError: the folder can't be written or the disk is full
    """
    with output_errors(path), AtomicFile(path, is_durable=is_durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """Yield the path of an empty file that takes the place of `path` when the block ends well.

    For what only writes to a path. The file may be read by whom any new file may be.

    Raises:
        OutputError: the folder can't be written or the disk is full
    """
    partial = partial_path(path)
    with output_errors(path):
        descriptor = _create(partial)
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        try:
            yield partial
            partial.chmod(mode)
            sync(partial)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class Lease:
    """The right to write an output, of one process and those it hands the descriptor on to."""

    output: Path  # as it was named
    path: Path  # where it really lies
    descriptor: int
    has_waited: bool  # another process had it first

    def refuse_if_finished(self, is_there: bool) -> None:
        """Raise an OutputError rather than replace what another made while this one waited."""
        if self.has_waited and is_there:
            raise OutputError(
                f"{self.output} was being written by another command until now: look at what it "
                "made, then type this command again if that is to be replaced"
            )


@contextmanager
def lease(output: Path, *, is_shared: bool = False) -> Iterator[Lease]:
    """Let this process alone write an output while the block lasts; makes missing parent folders.

    It is a lock on `.NAME.lock` beside the output, or on `.lock` in it where nothing can be made
    beside it. It ends with the process, or with the last one that inherited the descriptor. One
    that is shared keeps out those that are not.

    Raises:
        OutputError: another process has it, or nothing can be written there
    """
    with output_errors(output):
        try:
            path = output.resolve()
        except RuntimeError as error:  # links in a circle, before Python 3.13
            raise OSError(str(error)) from error
        missing = [parent for parent in path.parents if not parent.exists()]
    try:
        with output_errors(output):
            lock, descriptor, has_waited = _lock(output, path, is_shared)
        try:
            yield Lease(output, path, descriptor, has_waited)
        finally:
            with contextlib.suppress(OSError):  # an unlocked file is in nobody's way
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unless others share it
                lock.unlink()
            os.close(descriptor)
    finally:
        for parent in missing:  # that nothing was written to
            with contextlib.suppress(OSError):
                parent.rmdir()


def _lock(output: Path, path: Path, is_shared: bool) -> tuple[Path, int, bool]:
    """Return a locked file, its descriptor, and whether another process had it first."""
    patience_ends_at, has_waited = time.monotonic() + LEASE_WAIT_S, False
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    while True:
        lock, descriptor = _open_lock(path)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            if _is_open_as(lock, descriptor):
                return lock, descriptor, has_waited
        except BlockingIOError:
            has_waited = True
            time.sleep(0.02)
        os.close(descriptor)  # another has it, or has just removed it
        if time.monotonic() > patience_ends_at:
            raise OutputError(
                f"{output} is being written by another command: wait for it, or choose another "
                "place"
            )


def _open_lock(path: Path) -> tuple[Path, int]:
    beside, inside = path.with_name(f".{path.name}.lock"), path / _LOCK_INSIDE
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return beside, os.open(beside, flags, 0o666)
        except FileNotFoundError:  # removed by another that had made it, and failed
            time.sleep(0.01)
        except OSError as error:
            if error.errno not in _FORBIDDEN or not path.is_dir():
                raise
            return inside, os.open(inside, flags, 0o666)


def _is_open_as(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Kind:
    """A kind of folder that is an output."""

    name: str  # with its article
    is_here: Callable[[Path], bool]  # whether a folder is one
    files: frozenset[str] | None  # what one may hold; None: `is_here` has looked at all of it

    def may_hold(self, name: str) -> bool:
        """Whether a file or folder of this name is one of its own, also half-written."""
        is_partial = name.startswith(".") and name.endswith(".partial")
        own = name[1:].removesuffix(".partial") if is_partial else name
        return self.files is None or own in self.files


def check_replaceable(output: Path, kind: Kind, *, overwrite: bool, instead: str = "") -> None:
    """Check that something may be written here: nothing but its own kind is ever deleted.

    Args:
        output: where it is to lie
        kind: of what is to lie there
        overwrite: whether the one that is there may be replaced
        instead: what else can be done with that

    Raises:
        OutputError: something is there that may not be replaced
    """
    names = _names_in(output)
    if not names:
        return
    if not output.is_dir() or not kind.is_here(output):
        problem = f"exists and is not {kind.name}, so nothing replaces it: choose another place"
        raise OutputError(f"{output} {problem}")
    if not overwrite:
        raise OutputError(
            f"{output} already holds {kind.name}: {instead}add --overwrite to replace it, or "
            "choose another place"
        )
    if strangers := [name for name in names if not kind.may_hold(name)]:
        raise OutputError(
            f"{output} holds more than {kind.name} (such as {strangers[0]}), which --overwrite "
            "would delete: move it away, or choose another place"
        )


def _names_in(output: Path) -> list[str]:
    """Return what lies in a folder, or the name of a file; nothing where there is nothing."""
    with output_errors(output):
        found = output.iterdir() if output.is_dir() else filter(Path.exists, [output])
        return sorted(path.name for path in found if path.name != _LOCK_INSIDE)


def remove_contents(folder: Path, kind: Kind) -> None:
    """Remove what a kind of folder may hold; the folder, which may be a link, and all else stay."""
    for path in list(folder.iterdir()):
        if kind.may_hold(path.name):
            remove(path)


@contextmanager
def writing_folder(output: Path, kind: Kind, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder that takes the place of `output` when the block ends well.

    It is made before the block, which may take long, under the lease on the output. Where `output`
    is a link, the folder that it leads to is replaced, and the link stays.

    Raises:
        OutputError: something is there that may not be replaced, the folder can't be written, or
            another command is writing it
    """
    check_replaceable(output, kind, overwrite=overwrite)
    with lease(output) as held:
        folder = held.path
        _check_movable(output, folder)
        partial, old = partial_path(folder), folder.with_name(f".{folder.name}.old")
        try:
            with output_errors(output):
                if not folder.exists() and old.is_dir() and not old.is_symlink():
                    old.rename(folder)  # of one that was killed between two renamings
                check_replaceable(output, kind, overwrite=overwrite)
                held.refuse_if_finished(kind.is_here(folder))
                remove(partial)
                partial.mkdir()
            yield partial
            with output_errors(output):
                sync(partial)
                if folder.exists():
                    remove(old)
                    folder.rename(old)
                partial.rename(folder)
                sync(folder.parent)
                remove(old)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _check_movable(output: Path, path: Path) -> None:
    """Check that another folder can take the place of this one.

    Raises:
        OutputError: it is in use where it is
    """
    for is_so, problem in (
        (Path.cwd().is_relative_to(path), "the folder you are in"),
        (path.is_mount(), "where a disk is mounted"),
    ):
        if is_so:
            raise OutputError(
                f"{output} is {problem}, which can't be replaced: choose another, such as "
                f"{output / 'model'}"
            )
