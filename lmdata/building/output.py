"""The folder that a build writes: claimed for one process, continued, finished or cleared away."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from pathlib import Path

from lmdata.errors import OutputError
from lmdata.schema import (
    BUILD_FOLDER,
    MANIFEST_NAME,
    SPLITS,
    Manifest,
    to_json,
)
from lmdata.tokenizer import TOKENIZER_FOLDER
from lmdata.writer import TEMPORARY_SUFFIX, output_errors, sync_folder, write_atomically

_OURS = re.compile(rf"({'|'.join(SPLITS)})-\d{{5,}}\.arrow({re.escape(TEMPORARY_SUFFIX)})?")
PLAN_NAME = "plan.json"  # in `.build`
_LOCK_WAIT_S = 5.0  # killed processes may take a moment to go


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


class OutputFolder:
    """A dataset folder under construction; everything but finished shards lies in `.build`.

    A context manager. Inside, this process alone may write; the lock goes with the process.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        """Claim the folder; with `overwrite`, remove the dataset or the build that is in it.

        Raises:
            OutputError: it holds a dataset or other files, can't be written, or is in use
        """
        self.path = path
        self.build = path / BUILD_FOLDER
        if not overwrite:
            self._refuse_existing()
        self._made = not path.exists()
        with output_errors(self.build):
            self.build.mkdir(parents=True, exist_ok=True)
            self.lock = os.open(self.build / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock()
            if overwrite:
                with output_errors(path):
                    self._remove_contents(keep=("lock",))
        except BaseException:
            os.close(self.lock)
            raise

    def _refuse_existing(self) -> None:
        if (self.path / MANIFEST_NAME).exists():
            raise OutputError(
                f"{self.path} exists and is complete: add --overwrite to replace it, or choose "
                f"another --output"
            )
        if self.path.is_dir() and not (self.path / BUILD_FOLDER).is_dir():
            strangers = sorted(entry.name for entry in self.path.iterdir())
            if strangers:
                raise OutputError(
                    f"{self.path} holds other files (such as {strangers[0]}): choose an empty or "
                    f"new folder as --output"
                )

    def _lock(self) -> None:
        patience_ends_at = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > patience_ends_at:
                    raise OutputError(
                        f"{self.path} is being written by another process: wait for it, or choose "
                        f"another --output"
                    ) from error
            time.sleep(0.02)

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.lock)

    def remove_temporary_files(self) -> None:
        """Remove what a killed process left half-written."""
        for folder in (self.path, self.build):
            for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
                if folder == self.build or _OURS.fullmatch(path.name):
                    path.unlink()

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, which makes the folder a dataset, and remove the build's traces.

        Raises:
            IntegrityError: the ledger does not balance
            OutputError: the disk is full or the folder can't be written
        """
        manifest.ledger.check()
        write_atomically(self.path / MANIFEST_NAME, to_json(manifest).encode())
        shutil.rmtree(self.build, ignore_errors=True)

    def discard(self) -> None:
        """Remove everything that the build wrote, and the folder too if the build made it."""
        self._remove_contents()
        if self._made:
            self.path.rmdir()

    def _remove_contents(self, keep: tuple[str, ...] = ()) -> None:
        """Remove a dataset's own files, manifest first; files of others stay.

        The plan goes last: as long as receipts are there, it says what they are receipts for.
        """
        (self.path / MANIFEST_NAME).unlink(missing_ok=True)
        sync_folder(self.path)
        shutil.rmtree(self.path / TOKENIZER_FOLDER, ignore_errors=True)
        for path in self.path.iterdir():
            if _OURS.fullmatch(path.name):
                path.unlink()
        for path in sorted(self.build.iterdir(), key=lambda path: path.name == PLAN_NAME):
            if path.name not in keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not keep:
            self.build.rmdir()
