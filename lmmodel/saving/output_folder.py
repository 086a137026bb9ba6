"""A folder that is written whole or not at all, and takes the place of its own kind only."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from lmdata.errors import OutputError
from lmmodel.errors import RunError
from lmmodel.saving.checkpoint import sync


def check_replaceable(
    output: Path,
    kind: str,
    is_kind: Callable[[Path], bool],
    *,
    overwrite: bool,
    instead: str = "",
) -> None:
    """Check that something may be written here: nothing but its own kind is ever deleted.

    Args:
        output: where it is to lie
        kind: what is to lie there, in words with their article
        is_kind: whether a folder holds one
        overwrite: whether it may be replaced
        instead: what else can be done with the one that is there

    Raises:
        RunError: something is there that may not be replaced
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not is_kind(output):
        raise RunError(
            f"{output} exists and is not {kind}, so nothing replaces it: choose another folder"
        )
    if not overwrite:
        raise RunError(
            f"{output} already holds {kind}: {instead}--overwrite replaces it, or choose another "
            "folder"
        )


def check_can_write(output: Path) -> None:
    """Check that `writing` can make a folder here, by making one and removing it again.

    It is called before the work begins, so that none is lost.

    Raises:
        OutputError: the folder can't be written
    """
    with _errors_of(output):
        temporary = _beside(_real_folder(output), "partial")
        made = [path for path in (temporary, *temporary.parents) if not path.exists()]
        try:
            temporary.mkdir(parents=True, exist_ok=True)
        finally:
            for path in made:
                with contextlib.suppress(OSError):  # of what could not be made
                    path.rmdir()


@contextlib.contextmanager
def writing(output: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `output` when the block ends well.

    Where `output` is a link, the folder it leads to is replaced, and the link stays.

    Raises:
        OutputError: the folder can't be written
    """
    with _errors_of(output):
        folder = _real_folder(output)
        temporary, old = _beside(folder, "partial"), _beside(folder, "old")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            yield temporary
            sync(temporary)
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            temporary.rename(folder)
            sync(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


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


def _beside(folder: Path, end: str) -> Path:
    return folder.with_name(f".{folder.name}.{end}")


@contextlib.contextmanager
def _errors_of(output: Path) -> Iterator[None]:
    """Have what the system says about a folder end with what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"can't write {output}: {error}; choose another place") from error
