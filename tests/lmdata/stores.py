"""A store in memory that fails on purpose, in the ways that real ones do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from lmdata.stores import BrieflyError, Facts
from tests.lmdata.builds import InlineWorkers

KINDS = (
    "lost acknowledgements", "doubled tasks", "late writes", "stale listings", "409", "412", "500",
    "short reads",
)  # fmt: skip
SHARE = 0.12  # of the requests that go wrong
SHARES = {"stale listings": 0.8, "short reads": 0.6}  # of those that are made rarely


class FaultyStore:
    """Objects in a dictionary; some requests fail, as one kind of faults and a seed say."""

    def __init__(self, kind: str = "", seed: int = 0) -> None:
        self.kind, self._draw = kind, random.Random(f"{kind} {seed}")
        self.objects: dict[str, bytes] = {}
        self.late: list[tuple[str, bytes]] = []  # writes that have not come yet
        self.num_faults = 0
        self._old_keys: list[str] = []

    def find(self, key: str) -> Facts | None:
        self._begin()
        data = self.objects.get(key)
        return None if data is None else Facts(len(data), str(hash(data)))

    def read(self, key: str, start: int, stop: int, version: str) -> bytes:
        self._begin()
        data = self.objects[key][start:stop]
        if self._fails("short reads"):
            return data[: self._draw.randrange(len(data) + 1)]
        return data

    def create(self, key: str, data: bytes) -> bool:
        self._begin()
        if self._fails("409"):
            raise BrieflyError("409 Conflict")
        if self._fails("late writes"):
            self.late.append((key, data))
            raise BrieflyError("timed out")
        if key in self.objects:
            return False
        if self._fails("500") and self._draw.random() < 0.5:
            raise BrieflyError("500 before it was written")
        self.objects[key] = data
        if self._fails("412"):  # its own retry found what its first try had written
            return False
        if self._fails("lost acknowledgements") or self._fails("500"):
            raise BrieflyError("the connection was closed")
        return True

    def write(self, key: str, data: bytes) -> None:
        self._begin()
        self.objects[key] = data

    def remove(self, key: str) -> None:
        self._begin()
        self.objects.pop(key, None)

    def keys(self, prefix: str) -> Iterator[str]:
        self._begin()
        now = [key for key in self.objects if key.startswith(prefix)]
        shown = self._old_keys if self._fails("stale listings") else now
        self._old_keys = now
        return iter(shown)

    def settle(self) -> None:
        """Let all come that is still under way."""
        while self.late:
            key, data = self.late.pop()
            self.objects.setdefault(key, data)  # it was to be created only if there is none

    def _begin(self) -> None:
        if self.late and self._draw.random() < 0.3:
            key, data = self.late.pop()
            self.objects.setdefault(key, data)
        if self._fails("500"):
            raise BrieflyError("500 Internal Server Error")

    def _fails(self, kind: str) -> bool:
        is_so = kind == self.kind and self._draw.random() < SHARES.get(kind, SHARE)
        self.num_faults += is_so
        return is_so


class DoubledWorkers(InlineWorkers):
    """Workers in this process that do some units twice, as an engine does that has lost a node."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._draw = random.Random(seed)
        self.num_doubled = 0

    def submit(self, worker: int, task: Any) -> None:
        if self._draw.random() < 0.5:
            self.num_doubled += 1
            assert self._work is not None
            self._work(task, lambda value: None)
        super().submit(worker, task)
