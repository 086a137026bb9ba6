"""A folder that is written whole or not at all, and takes the place of its own kind only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lmdata.errors import OutputError
from lmmodel.errors import RunError
from lmmodel.saving.checkpoint import sync


@dataclass(frozen=True)
class Kind:
    """A kind of folder."""

    name: str  # with its article
    is_here: Callable[[Path], bool]  # whether a folder is one
    files: frozenset[str]  # what one may hold: all else is not ours

    def may_hold(self, name: str) -> bool:
        """Whether a file or folder of this name is one of its own, also half-written."""
        is_partial = name.startswith(".") and name.endswith(".partial")
        return (name[1:].removesuffix(".partial") if is_partial else name) in self.files


def check_replaceable(output: Path, kind: Kind, *, overwrite: bool, instead: str = "") -> None:
    """Check that something may be written here: nothing but its own kind is ever deleted.

    Args:
        output: where it is to lie
        kind: of what is to lie there
        overwrite: whether the one that is there may be replaced
        instead: what else can be done with that

    Raises:
        RunError: something is there that may not be replaced
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not kind.is_here(output):
        raise RunError(
            f"{output} exists and is not {kind.name}, so nothing replaces it: choose another folder"
        )
    if not overwrite:
        raise RunError(
            f"{output} already holds {kind.name}: {instead}--overwrite replaces it, or choose "
            "another folder"
        )
    strangers = sorted(path.name for path in output.iterdir() if not kind.may_hold(path.name))
    if strangers:
        raise RunError(
            f"{output} holds more than {kind.name} (such as {strangers[0]}), which --overwrite "
            "would delete: move it away, or choose another folder"
        )


@contextlib.contextmanager
def writing(output: Path, kind: Kind, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder that takes the place of `output` when the block ends well.

    It is made before the block, which may take long, and no other command may write there
    meanwhile. Where `output` is a link, the folder it leads to is replaced, and the link stays.

    Raises:
        RunError: something is there that may not be replaced
        OutputError: the folder can't be written, or another command is writing it
    """
    with output_errors(output):
        folder = _real_folder(output)
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "old"))
    try:
        with _claimed(folder, output):
            check_replaceable(output, kind, overwrite=overwrite)
            try:
                with output_errors(output):
                    shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed
                    temporary.mkdir()
                yield temporary
                with output_errors(output):
                    sync(temporary)
                    if folder.exists():
                        shutil.rmtree(old, ignore_errors=True)
                        folder.rename(old)
                    temporary.rename(folder)
                    sync(folder.parent)
                    shutil.rmtree(old, ignore_errors=True)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    finally:
        for path in missing:  # that nothing was written to
            with contextlib.suppress(OSError):
                path.rmdir()


def check_can_write(path: Path) -> None:
    """Check that a file can be made here, by making one beside it and removing it again.

    Raises:
        OutputError: it can't be written
    """
    with output_errors(path):
        missing = [parent for parent in path.parents if not parent.exists()]
        trial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            trial.touch()
            trial.unlink()
        finally:
            for parent in missing:
                with contextlib.suppress(OSError):  # of what could not be made
                    parent.rmdir()


@contextlib.contextmanager
def output_errors(output: Path) -> Iterator[None]:
    """Have what the system says about an output end with what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"can't write {output}: {error}; choose another place") from error


def _real_folder(output: Path) -> Path:
    """Return the folder that `output` leads to.

    Raises:
        OutputError: it has to stay where it is, so that no other can take its place
    """
    try:
        folder = output.resolve()
    except RuntimeError as error:  # links in a circle, before Python 3.13
        raise OSError(str(error)) from error
    if Path.cwd().is_relative_to(folder):
        raise OutputError(
            f"{output} is the folder you are in, which can't be replaced: choose another, such as "
            f"{output / 'model'}"
        )
    if folder.is_mount():
        raise OutputError(
            f"{output} is where a disk is mounted, which can't be replaced: choose a folder in it, "
            f"such as {output / 'model'}"
        )
    return folder


@contextlib.contextmanager
def _claimed(folder: Path, output: Path) -> Iterator[None]:
    """Let this process alone write a folder: by a lock beside it, which goes with the process.

    Raises:
        OutputError: another process has it, or it can't be written
    """
    path = folder.with_name(f".{folder.name}.lock")
    with output_errors(output):
        lock = _lock(path)
    if lock is None:
        raise OutputError(
            f"another command is writing {output}: wait for it, or choose another place"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


def _lock(path: Path) -> int | None:
    """Return the descriptor of a file that this process has locked, None where another has it."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(lock)):
                return lock
        os.close(lock)  # of a file that whoever had it has just removed
