"""The memory budget of a build, divided among its processes by what its tokenizer is found to hold.

A tokenizer may hold 5 MiB or 200, and no property of its files says which: so the process that
prepares the work measures it, before the workers fork, and gives them what is left.
"""

from __future__ import annotations

import ctypes
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from lmdata.errors import ConfigError

_BASE_BYTES = 64 << 20  # an interpreter with what a build imports
_WORKER_BYTES = 40 << 20  # a worker before its first document, beyond what it shares
_BATCH_SHARE = 24  # of a worker's memory: half of it holds what becomes of one batch of text
_CACHE_SHARE = 3
_MIN_BATCH_BYTES, _MAX_BATCH_BYTES = 1 << 20, 8 << 20


@dataclass(frozen=True)
class WorkerMemory:
    """What one worker may hold beyond what it shares with the others.

    Attributes:
        document_bytes: for all that becomes of a single document
        batch_bytes: of text that is worked on at once
        cache_bytes: of words that are kept with their ids
    """

    document_bytes: int
    batch_bytes: int
    cache_bytes: int


@dataclass(frozen=True)
class MemoryBudget:
    """What all processes of a build may hold together.

    Attributes:
        num_bytes: in all
        num_workers: that share it
    """

    num_bytes: int
    num_workers: int

    def divide(self, tokenizer_bytes: int = 0) -> WorkerMemory:
        """Return the share of a worker.

        Args:
            tokenizer_bytes: what tokenizer and encoder hold, which the workers share; of what is
                shared a worker comes to write to about half, and the process that assembles holds
                about as much. 0: not known yet

        Raises:
            ConfigError: the budget is too small

        Example:
            >>> MemoryBudget(1 << 30, 2).divide(200 << 20)
            WorkerMemory(document_bytes=75497472, batch_bytes=4718592, cache_bytes=37748736)
        """
        shared_bytes = 2 * (_BASE_BYTES + tokenizer_bytes)
        own_bytes = _WORKER_BYTES + tokenizer_bytes // 2
        worker_bytes = (self.num_bytes - shared_bytes) // self.num_workers - own_bytes
        batch_bytes = min(worker_bytes // _BATCH_SHARE, _MAX_BATCH_BYTES)
        if batch_bytes < _MIN_BATCH_BYTES:
            least = own_bytes + _BATCH_SHARE * _MIN_BATCH_BYTES
            needed = shared_bytes + self.num_workers * least
            what = f"{self.num_workers} worker" + ("s" if self.num_workers > 1 else "")
            what += " and this tokenizer" if tokenizer_bytes else ""
            raise ConfigError(
                f"{self.num_bytes >> 20} MiB of memory is too little for {what}: give "
                f"--memory at least {-(-needed >> 20)}MiB, or lower --num-workers"
            )
        cache_bytes = worker_bytes // _CACHE_SHARE
        return WorkerMemory(worker_bytes - cache_bytes, batch_bytes, cache_bytes)


def held_memory() -> int:
    """Give back what is free; return the bytes that this process holds beside mapped files.

    Of Qwen2's tokenizer 160 MiB are given back, which every worker that is forked would hold.
    """
    give_back_memory()
    statm = Path("/proc/self/statm")
    if statm.exists():
        _, resident, of_files, *_ = map(int, statm.read_text().split())
        return (resident - of_files) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes, the most so far


def give_back_memory() -> None:
    """Have the C library give what is free back to the system, where it can be asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # of glibc, which keeps the pages of each thread's small arrays
        trim(0)
