"""The folder that a build writes: claimed for one process, continued, finished or cleared away."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmdata.building.names import ALL_DOCUMENTS as ALL_DOCUMENTS
from lmdata.building.names import PLAN_NAME as PLAN_NAME
from lmdata.building.names import REPLACED_NAME, SHARD, TRACE, files_of, keep_shard
from lmdata.building.names import HasLedger as HasLedger
from lmdata.building.remote_output import RemoteFolder
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
from lmdata.hub import HubFolder
from lmdata.places import LocalPlace, Place, new_attempt
from lmdata.remote import RemotePlace
from lmdata.schema import (
    BUILD_FOLDER,
    MANIFEST_NAME,
    ShardRecord,
    manifest_json,
    parse_json_object,
)
from lmdata.stores import is_hub, is_uri
from lmdata.tokenizer import TOKENIZER_FILES, TOKENIZER_FOLDER, Tokenizer, save_tokenizer


def check_apart(path: Path, output: Path | str) -> None:
    """Check that what is read does not lie where a build writes, which would remove it first.

    Raises:
        OutputError: it does
    """
    if isinstance(output, Path) and path.resolve().is_relative_to(output.resolve()):
        raise OutputError(
            f"{path} is read and lies in the output {output}, which would be replaced: choose "
            "another --output, or copy it elsewhere first"
        )


def check_free(path: Path | str, *, overwrite: bool) -> None:
    """Check that a build may go on in a folder, or begin, before anything else is done for it.

    Raises:
        OutputError: it holds a dataset or other files
    """
    _folder_at(path).refuse_existing(overwrite=overwrite)


def _folder_at(path: Path | str) -> AnyFolder:
    """Return the folder of an output, here or in a store, that nobody has claimed yet."""
    if is_hub(path):
        hub = HubFolder(str(path).rstrip("/"), MANIFEST_NAME, _owned)
        return OutputFolder(hub.folder, hub.folder / BUILD_FOLDER, is_new=True, hub=hub)
    if isinstance(path, str) and is_uri(path):
        return RemoteFolder(RemotePlace(path.rstrip("/"), new_attempt(), os.uname().nodename))
    return OutputFolder(Path(path), Path(path) / BUILD_FOLDER, is_new=not Path(path).exists())


def _owned(data: bytes) -> set[str]:
    """Return the files of a dataset, as its manifest says."""
    manifest = parse_json_object(data.decode("utf-8", "replace"), MANIFEST_NAME)
    tokenizer = {f"{TOKENIZER_FOLDER}/{name}" for name in TOKENIZER_FILES}
    return {MANIFEST_NAME, *tokenizer, *files_of(manifest)}


def place_of(path: Path | str) -> Place:
    """Return the place of an output that several commands write, here or in a store.

    Raises:
        OutputError: it is on the hub
    """
    _refuse_hub(path)
    return _folder_at(path).place


def _refuse_hub(path: Path | str) -> None:
    if is_hub(path):
        raise OutputError(
            f"{path} takes one commit when all is done, so that no parts of a build and no "
            "leftovers are there: parts need a disk or a store, as --output s3://BUCKET/tokens"
        )


def check_unfinished(path: Path | str) -> None:
    """Check that a folder is no finished dataset.

    Raises:
        OutputError: it is
    """
    if _folder_at(path).is_finished:
        raise OutputError(f"{path} is finished already: `lmdata verify {path}` checks it")


@contextmanager
def claim_folder(
    path: Path | str, *, overwrite: bool = False, is_shared: bool = False
) -> Iterator[AnyFolder]:
    """Yield a folder for a dataset that this process alone may write while the block lasts.

    Args:
        path: of the folder, or its URI in a store; it is made where there is none
        overwrite: remove the dataset or the build that is in it; nothing else is ever removed
        is_shared: others may do units of the same build meanwhile, but nobody may end it

    Raises:
        OutputError: it holds a dataset or other files, can't be written, or is in use
    """
    folder = _folder_at(path)
    if is_shared:
        _refuse_hub(path)
    folder.refuse_existing(overwrite=overwrite)
    with lease(folder.path, is_shared=is_shared) as held:
        folder.refuse_existing(overwrite=overwrite)
        held.refuse_if_finished(folder.is_finished)
        make_folder(folder.build)
        with output_errors(folder.path):
            folder.begin(overwrite=overwrite)
        folder.lock = held.descriptor
        try:
            yield folder
        finally:
            folder.leave()


@contextmanager
def claim_leftovers(path: Path | str) -> Iterator[Place]:
    """Yield the place of an output that nobody writes while the block lasts.

    Raises:
        OutputError: another command writes there, or it is on the hub
    """
    _refuse_hub(path)
    folder = _folder_at(path)
    with lease(folder.path):
        yield folder.place


@dataclass
class OutputFolder:
    """A dataset folder under construction; everything but finished shards lies in `.build`.

    Made by `claim_folder`. One that is for the hub lies on this machine until it is published.
    """

    path: Path
    build: Path
    is_new: bool  # the build makes the folder
    lock: int = -1  # descriptor of the lease, for processes that work on the build
    hub: HubFolder | None = None  # where the finished dataset goes
    is_replacing: bool = False  # the dataset that is published there

    @property
    def place(self) -> Place:
        """Where the files of the build last."""
        return LocalPlace(self.path)

    def leave(self) -> None:
        """What was made stays where it is."""

    def begin(self, *, overwrite: bool) -> None:
        """Remove what is to be replaced, or what a killed removal has left."""
        self.is_replacing = overwrite
        if overwrite or (self.build / REPLACED_NAME).exists():
            self.remove_contents()

    @property
    def is_finished(self) -> bool:
        """Whether there is a whole dataset."""
        return self._is_whole if self.hub is None else self.hub.is_there

    @property
    def _is_whole(self) -> bool:
        return (self.path / MANIFEST_NAME).exists()

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Raise an OutputError unless a build may go on here, or begin."""
        if self.is_finished and not overwrite:
            raise OutputError(
                f"{self.hub or self.path} exists and is complete: add --overwrite to replace it, "
                "or choose another --output"
            )
        names = self._names()
        if names and not self.build.is_dir() and not overwrite:
            raise OutputError(
                f"{self.path} holds other files (such as {names[0]}): choose an empty or new "
                f"folder as --output"
            )
        own = self._own_names(names)
        for name in names:
            is_in_the_way = SHARD.fullmatch(name) or name in {MANIFEST_NAME, TOKENIZER_FOLDER}
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
        shards = {name for name in names if SHARD.fullmatch(name)}
        if any(_is_ours(self.build / name) for name in (PLAN_NAME, REPLACED_NAME)):
            return shards | {MANIFEST_NAME, TOKENIZER_FOLDER}
        manifest = _read_ours(self.path / MANIFEST_NAME)
        if manifest is None:
            return set()
        return (shards & files_of(manifest)) | {MANIFEST_NAME, TOKENIZER_FOLDER}

    def save_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Keep the tokenizer beside the shards.

        Raises:
            OutputError: the disk is full or the folder can't be written
        """
        path = self.path / TOKENIZER_FOLDER
        make_folder(path)
        with output_errors(path, "what was finished is kept"):
            save_tokenizer(tokenizer, path)

    def keep_shard(self, shard: ShardRecord, receipt: str) -> None:
        """Make a finished shard last, and write its receipt, in the place of one that was lost."""
        keep_shard(self.place, shard, receipt)

    def remove_partial_files(self) -> None:
        """Remove what a killed process left half-written."""
        for folder, own in ((self.path, SHARD), (self.build, TRACE)):
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
        data = manifest_json(manifest)
        write_atomically(self.path / MANIFEST_NAME, data)
        if self.hub is not None:
            names = _owned(data.encode())
            here = sorted(name for name in names if (self.path / name).is_file())
            self.hub.publish(here, overwrite=self.is_replacing)
            return self.discard()
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
        replaced = self.build / REPLACED_NAME
        if MANIFEST_NAME in own and self._is_whole:
            (self.path / MANIFEST_NAME).replace(replaced)
            sync(self.path)
        if TOKENIZER_FOLDER in own:
            _remove_named(self.path / TOKENIZER_FOLDER, TOKENIZER_FILES)
        for name in own:
            if SHARD.fullmatch(name):
                remove(self.path / name)
        self.remove_partial_files()
        self._remove_traces()
        replaced.unlink(missing_ok=True)

    def _remove_traces(self) -> None:
        """Remove receipts, parts and, as the last, the plan that says what they are receipts of."""
        paths = [path for path in self.build.iterdir() if TRACE.fullmatch(path.name)]
        for path in sorted(paths, key=lambda path: path.name == PLAN_NAME):
            remove(path)

    def _remove_build(self) -> None:
        self._remove_traces()
        with contextlib.suppress(OSError):  # where somebody keeps something in it
            self.build.rmdir()


AnyFolder = OutputFolder | RemoteFolder


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
