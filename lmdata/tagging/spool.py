"""Numbers of a whole corpus that are too many for memory: rows on disk, added at the end."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmdata.errors import OutputError
from lmdata.files import output_errors


class Spool:
    """Rows of one type in a file without a name, which is gone when the process is."""

    def __init__(self, folder: Path, dtype: npt.DTypeLike) -> None:
        """Begin an empty one on the disk of a folder."""
        self._folder, self._dtype = folder, np.dtype(dtype)
        with output_errors(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed by `close`
        self.num_rows = 0

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows (n,).

        Raises:
            OutputError: the disk is full
        """
        with output_errors(self._folder):
            self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self.num_rows += len(rows)

    def read(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Return a copy of the rows [start, stop), all by default.

        Raises:
            OutputError: they can't be read back
        """
        count = (self.num_rows if stop is None else stop) - start
        with output_errors(self._folder):
            self._file.flush()
            size, at = self._dtype.itemsize, start * self._dtype.itemsize
            data = bytearray(count * size)
            view = memoryview(data)
            while view:
                done = os.preadv(self._file.fileno(), [view], at)
                if not done:
                    raise OutputError(f"{self._folder}: a file of this build became shorter")
                view, at = view[done:], at + done
        return np.frombuffer(data, self._dtype)

    def close(self) -> None:
        """Give its place on the disk back."""
        self._file.close()
