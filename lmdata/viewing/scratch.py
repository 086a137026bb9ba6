"""Arrays that grow with the corpus, and so must not stay in memory."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from lmdata.errors import OutputError

KEPT_BYTES = 16 << 20
"""Arrays up to this size are ordinary ones."""


def scratch_array(length: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array (length,) with no particular content, on disk if it is large.

    A large one is a map of a temporary file (in TMPDIR) that has no name any more: the system
    writes pages out and drops them as it needs, and the file goes with the last array that looks
    at it.

    Raises:
        OutputError: the disk that holds temporary files is full
    """
    dtype = np.dtype(dtype)
    num_bytes = length * dtype.itemsize
    if num_bytes <= KEPT_BYTES:
        return np.empty(length, dtype)
    with tempfile.TemporaryFile(prefix="lmdata-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            raise OutputError(
                f"no room for {num_bytes >> 20} MiB of working data in {tempfile.gettempdir()}: "
                f"{error.strerror}; make room, or set TMPDIR to a folder on a larger disk"
            ) from error
        return np.frombuffer(mmap.mmap(file.fileno(), num_bytes), dtype)
