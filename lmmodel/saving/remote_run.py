"""A run in a store: it is trained in a folder of this machine, and sent after each checkpoint.

The files of a checkpoint are created before its index, which names them with their hashes: so a
checkpoint is there whole or is none. What is written again and again (weights, metrics, pictures)
follows it.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from lmdata.copies import copies_folder
from lmdata.errors import OutputError
from lmdata.files import make_folder
from lmdata.remote import RemotePlace
from lmdata.stores import is_hub
from lmmodel.errors import ResumeError
from lmmodel.record import CHECKPOINTS_NAME, RECORD_NAME, RUN_FILES
from lmmodel.saving.checkpoint import INDEX_NAME


@dataclass(frozen=True)
class RemoteRun:
    """A run by its URI, and the folder of this machine in which it is written."""

    uri: str

    @property
    def folder(self) -> Path:
        """Where it is written on this machine."""
        name = hashlib.sha256(self.uri.rstrip("/").encode()).hexdigest()[:16]
        return copies_folder() / "runs" / name

    @property
    def _place(self) -> RemotePlace:
        return RemotePlace(self.uri.rstrip("/"))

    def begin(self, *, overwrite: bool) -> None:
        """Make room for a new run, here and in the store.

        Raises:
            OutputError: there is a run already, or the store can't be written
        """
        if is_hub(self.uri):
            raise OutputError(
                f"{self.uri} takes one commit, and checkpoints would be a commit each: "
                "train into a folder or a store such as s3://, then `lmmodel export` what is to be "
                "published"
            )
        names = list(self._place.names())
        if names and not overwrite:
            kind = "a run: --resume goes on with it" if RECORD_NAME in names else "other files"
            raise OutputError(
                f"{self.uri} already holds {kind} (such as {names[0]}); add --overwrite to replace "
                "a run, or choose another place"
            )
        if strangers := [name for name in names if name.split("/")[0] not in RUN_FILES]:
            raise OutputError(
                f"{self.uri} holds more than a run (such as {strangers[0]}), which --overwrite "
                "would delete: move it away, or choose another place"
            )
        for name in sorted(names, key=lambda name: name == RECORD_NAME):  # until then it is a run
            self._place.remove(name)
        shutil.rmtree(self.folder, ignore_errors=True)
        make_folder(self.folder.parent)

    def bring(self) -> None:
        """Have the run as the store has it in the folder of this machine.

        Raises:
            ResumeError: there is none
            IntegrityError: it can't be read
        """
        names = list(self._place.names())
        if RECORD_NAME not in names:
            raise ResumeError(f"{self.uri} holds no run to go on with: begin one without --resume")
        whole = {name.rpartition("/")[0] for name in names if name.endswith(f"/{INDEX_NAME}")}
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in names:
            checkpoint = name.rpartition("/")[0]
            is_part = name.startswith(f"{CHECKPOINTS_NAME}/")
            if name.split("/")[0] in RUN_FILES and (not is_part or checkpoint in whole):
                self._place.fetch(name, self.folder / name)

    def send(self) -> None:
        """Have the store hold what the folder holds.

        Raises:
            OutputError: the store can't be written
        """
        here = {
            path.relative_to(self.folder).as_posix(): path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }
        there = set(self._place.names())
        steps = [name for name in here if name.startswith(f"{CHECKPOINTS_NAME}/")]
        for name in sorted(steps, key=lambda name: (name.endswith(INDEX_NAME), name)):
            if f"{name.rpartition('/')[0]}/{INDEX_NAME}" not in there:  # else it is there whole
                self._place.write(name, here[name].read_bytes())
        for name in here.keys() - set(steps):
            self._place.write(name, here[name].read_bytes())
        old = [name for name in there - here.keys() if name.startswith(f"{CHECKPOINTS_NAME}/")]
        for name in sorted(old, key=lambda name: not name.endswith(INDEX_NAME)):
            self._place.remove(name)
