"""The folder that a build writes: claimed for one process, continued, finished or cleared away."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lmdata.errors import OutputError
from lmdata.files import (
    lease,
    make_folder,
    output_errors,
    partial_path,
    remove,
    sync,
    write_atomically,
)
from lmdata.schema import (
    BUILD_FOLDER,
    MANIFEST_NAME,
    SPLITS,
    Ledger,
    manifest_json,
)
from lmdata.tokenizer import TOKENIZER_FILES, TOKENIZER_FOLDER, Tokenizer, save_tokenizer

ALL_DOCUMENTS = "documents"  # in the place of a split, where there are none
PLAN_NAME = "plan.json"  # in `.build`
_REPLACED_NAME = "replaced.json"  # in `.build`: the manifest of what is being removed
_SPLIT = "|".join((*SPLITS, ALL_DOCUMENTS))
_SHARD = re.compile(rf"({_SPLIT})-\d{{5,}}\.arrow")
_TRACE = re.compile(
    rf"({PLAN_NAME}|stdin|lock|unit-\d{{6,}}(-({_SPLIT})\.part|\.json)|{_SHARD.pattern}\.json)"
)


class HasLedger(Protocol):
    """A manifest of any kind: a dataclass with a ledger."""

    @property
    def ledger(self) -> Ledger:
        """What was read, written and dropped."""


def check_apart(path: Path, output: Path) -> None:
    """Check that what is read does not lie where a build writes, which would remove it first.

    Raises:
        OutputError: it does
    """
    if path.resolve().is_relative_to(output.resolve()):
        raise OutputError(
            f"{path} is read and lies in the output {output}, which would be replaced: choose "
            "another --output, or copy it elsewhere first"
        )


def check_free(path: Path, *, overwrite: bool) -> None:
    """Check that a build may go on in a folder, or begin, before anything else is done for it.

    Raises:
        OutputError: it holds a dataset or other files
    """
    OutputFolder(path, path / BUILD_FOLDER, is_new=False).refuse_existing(overwrite=overwrite)


@contextmanager
def claim_folder(path: Path, *, overwrite: bool = False) -> Iterator[OutputFolder]:
    """Yield a folder for a dataset that this process alone may write while the block lasts.

    Args:
        path: of the folder; it is made where there is none
        overwrite: remove the dataset or the build that is in it; nothing else is ever removed

    Raises:
        OutputError: it holds a dataset or other files, can't be written, or is in use
    """
    folder = OutputFolder(path, path / BUILD_FOLDER, is_new=not path.exists())
    folder.refuse_existing(overwrite=overwrite)
    with lease(path) as held:
        folder.refuse_existing(overwrite=overwrite)
        held.refuse_if_finished(folder.is_finished)
        make_folder(folder.build)
        with output_errors(path):
            if overwrite or (folder.build / _REPLACED_NAME).exists():
                folder.remove_contents()
        folder.lock = held.descriptor
        yield folder


@dataclass
class OutputFolder:
    """A dataset folder under construction; everything but finished shards lies in `.build`.

    Made by `claim_folder`.
    """

    path: Path
    build: Path
    is_new: bool  # the build makes the folder
    lock: int = -1  # descriptor of the lease, for processes that work on the build

    @property
    def is_finished(self) -> bool:
        """Whether there is a whole dataset."""
        return (self.path / MANIFEST_NAME).exists()

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Raise an OutputError unless a build may go on here, or begin."""
        if self.is_finished and not overwrite:
            raise OutputError(
                f"{self.path} exists and is complete: add --overwrite to replace it, or choose "
                f"another --output"
            )
        names = self._names()
        if names and not self.build.is_dir() and not overwrite:
            raise OutputError(
                f"{self.path} holds other files (such as {names[0]}): choose an empty or new "
                f"folder as --output"
            )
        own = self._own_names(names)
        for name in names:
            is_in_the_way = _SHARD.fullmatch(name) or name in {MANIFEST_NAME, TOKENIZER_FOLDER}
            if is_in_the_way and name not in own:
                raise OutputError(
                    f"{self.path / name} is not of a dataset or a build that says so, and nothing "
                    "replaces it: move it away, or choose another --output"
                )

    def _names(self) -> list[str]:
        with output_errors(self.path):
            return sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []

    def _own_names(self, names: list[str]) -> set[str]:
        """Return what a manifest or an unfinished build says is its own."""
        shards = {name for name in names if _SHARD.fullmatch(name)}
        if any(_is_ours(self.build / name) for name in (PLAN_NAME, _REPLACED_NAME)):
            return shards | {MANIFEST_NAME, TOKENIZER_FOLDER}
        manifest = _read_ours(self.path / MANIFEST_NAME)
        if manifest is None:
            return set()
        return (shards & _files_of(manifest)) | {MANIFEST_NAME, TOKENIZER_FOLDER}

    def save_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Keep the tokenizer beside the shards.

        Raises:
            OutputError: the disk is full or the folder can't be written
        """
        path = self.path / TOKENIZER_FOLDER
        make_folder(path)
        with output_errors(path, "what was finished is kept"):
            save_tokenizer(tokenizer, path)

    def remove_partial_files(self) -> None:
        """Remove what a killed process left half-written."""
        for folder, own in ((self.path, _SHARD), (self.build, _TRACE)):
            for path in folder.glob(partial_path(Path("*")).name):
                if own.fullmatch(path.name[1:].removesuffix(".partial")):
                    remove(path)

    def finish(self, manifest: HasLedger) -> None:
        """Write the manifest, which makes the folder a dataset, and remove the build's traces.

        Raises:
            IntegrityError: the ledger does not balance
            OutputError: the disk is full or the folder can't be written
        """
        manifest.ledger.check()
        write_atomically(self.path / MANIFEST_NAME, manifest_json(manifest))
        self._remove_build()

    def discard(self) -> None:
        """Remove everything that the build wrote, and the folder too if the build made it."""
        self.remove_contents()
        self._remove_build()
        if self.is_new:
            self.path.rmdir()

    def remove_contents(self) -> None:
        """Remove a dataset or a build; files of others stay.

        The manifest goes first, into `.build`, and what says whose files these are goes last, so
        that a killed removal is gone on with.
        """
        own = self._own_names(self._names())
        replaced = self.build / _REPLACED_NAME
        if MANIFEST_NAME in own and self.is_finished:
            (self.path / MANIFEST_NAME).replace(replaced)
            sync(self.path)
        if TOKENIZER_FOLDER in own:
            _remove_named(self.path / TOKENIZER_FOLDER, TOKENIZER_FILES)
        for name in own:
            if _SHARD.fullmatch(name):
                remove(self.path / name)
        self.remove_partial_files()
        self._remove_traces()
        replaced.unlink(missing_ok=True)

    def _remove_traces(self) -> None:
        """Remove receipts, parts and, as the last, the plan that says what they are receipts of."""
        paths = [path for path in self.build.iterdir() if _TRACE.fullmatch(path.name)]
        for path in sorted(paths, key=lambda path: path.name == PLAN_NAME):
            remove(path)

    def _remove_build(self) -> None:
        self._remove_traces()
        with contextlib.suppress(OSError):  # where somebody keeps something in it
            self.build.rmdir()


def _remove_named(folder: Path, names: frozenset[str]) -> None:
    """Remove some files of a folder, and the folder if it is then empty; of a link, the link."""
    if folder.is_symlink() or not folder.is_dir():
        remove(folder)
        return
    for name in names:
        remove(folder / name)
    if not any(folder.iterdir()):
        folder.rmdir()


def _is_ours(path: Path) -> bool:
    return _read_ours(path) is not None


def _read_ours(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file that some version of this package wrote, None for others."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    is_ours = isinstance(values, dict) and str(values.get("created_with")).startswith("lmdata ")
    return values if is_ours else None


def _files_of(manifest: dict[str, Any]) -> set[str]:
    """Return the shards that a manifest of any version names, however damaged it may be."""
    splits = manifest.get("splits")
    shards = splits.values() if isinstance(splits, dict) else []
    return {
        str(shard.get("file"))
        for listed in shards
        if isinstance(listed, list)
        for shard in listed
        if isinstance(shard, dict)
    }
