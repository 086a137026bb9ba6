"""The folder that a build writes in a store: nothing is locked, renamed or written over."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lmdata.building.names import PLAN_NAME, HasLedger, files_of, is_own_name, keep_shard
from lmdata.errors import OutputError
from lmdata.files import make_folder
from lmdata.remote import RemotePlace
from lmdata.schema import (
    BUILD_FOLDER,
    MANIFEST_NAME,
    ShardRecord,
    manifest_json,
    parse_json_object,
)
from lmdata.tokenizer import TOKENIZER_FILES, TOKENIZER_FOLDER, Tokenizer, save_tokenizer


@dataclass
class RemoteFolder:
    """A dataset folder under construction in a store; its files are made in one of this machine.

    Made by `claim_folder`. Nothing is locked there: who comes second finds what was created first.
    """

    place: RemotePlace
    lock: int = -1  # descriptor of the lease on the folder of this machine

    @property
    def path(self) -> Path:
        """Where files are made, on this machine."""
        return self.place.folder

    @property
    def build(self) -> Path:
        """Where files of the build are made, on this machine."""
        return self.path / BUILD_FOLDER

    @property
    def is_finished(self) -> bool:
        """Whether there is a whole dataset."""
        return self.place.read(MANIFEST_NAME) is not None

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Raise an OutputError unless a build may go on here, or begin."""
        if self.is_finished:
            if not overwrite:
                raise OutputError(
                    f"{self.place} exists and is complete: add --overwrite to replace it, or "
                    "choose another --output"
                )
        elif self.place.read(f"{BUILD_FOLDER}/{PLAN_NAME}") is None:
            names = [name for name in self.place.names() if "/probe-" not in name]
            if names:
                raise OutputError(
                    f"{self.place} holds other files (such as {names[0]}): choose an empty or new "
                    "folder as --output"
                )

    def begin(self, *, overwrite: bool) -> None:
        """Look whether the store can be trusted, and remove what is to be replaced."""
        self.place.check()
        if overwrite:
            self.remove_contents()

    def save_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Keep the tokenizer beside the shards."""
        path = self.path / TOKENIZER_FOLDER
        make_folder(path)
        save_tokenizer(tokenizer, path)
        for file in sorted(path.iterdir()):
            name = f"{TOKENIZER_FOLDER}/{file.name}"
            if not self.place.create(name, file.read_bytes()):
                self.place.remove(name)
                self.place.create(name, file.read_bytes())

    def keep_shard(self, shard: ShardRecord, receipt: str) -> None:
        """Send a finished shard, and its receipt."""
        keep_shard(self.place, shard, receipt)

    def remove_partial_files(self) -> None:
        """Nothing is half-written in a store."""

    def finish(self, manifest: HasLedger) -> None:
        """Create the manifest, which makes the folder a dataset, and remove the build's traces.

        Raises:
            IntegrityError: the ledger does not balance
            OutputError: another command has finished it meanwhile, with other bytes
        """
        manifest.ledger.check()
        if not self.place.create(MANIFEST_NAME, manifest_json(manifest).encode()):
            raise OutputError(
                f"{self.place} was finished by another command meanwhile, with other bytes: look "
                "at what it made, and choose another --output"
            )
        self._remove_traces()

    def discard(self) -> None:
        """Remove everything that the build wrote."""
        self.remove_contents()

    def remove_contents(self) -> None:
        """Remove a dataset or a build: its manifest first, the plan last."""
        data = self.place.read(MANIFEST_NAME)
        named = files_of(parse_json_object(data.decode(), str(self.place))) if data else set()
        self.place.remove(MANIFEST_NAME)
        tokenizer = {f"{TOKENIZER_FOLDER}/{name}" for name in TOKENIZER_FILES}
        for name in sorted(self.place.names()):
            if name in named | tokenizer or (is_own_name(name) and "/" not in name):
                self.place.remove(name)
        self._remove_traces()

    def _remove_traces(self) -> None:
        plan = f"{BUILD_FOLDER}/{PLAN_NAME}"
        names = [name for name in self.place.names() if name.startswith(f"{BUILD_FOLDER}/")]
        for name in sorted(names, key=lambda name: name == plan):
            if is_own_name(name):
                self.place.remove(name)

    def leave(self) -> None:
        """Remove what lies on this machine."""
        shutil.rmtree(self.path, ignore_errors=True)
