"""Files and folders in a store: read as files are, written so that several writers agree.

Nothing is renamed, listed or written over: what an attempt writes has a name of its own, and what
counts is created only if it is not there. A request whose answer was lost is looked up. So whoever
comes late, twice or is believed dead changes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lmdata.errors import CorpusError, IntegrityError, OutputError
from lmdata.files import AtomicFile, output_errors, remove
from lmdata.stores import (
    LISTED,
    BrieflyError,
    Facts,
    Store,
    StoreError,
    open_store,
    split_uri,
)

T = TypeVar("T")

_FIRST_BYTES = 64 << 10  # of the first request
_READ_BYTES = 8 << 20  # of one request, when a file is read from its beginning to its end
_NUM_TRIES, _FIRST_WAIT_S = 7, 0.05  # of what fails for a moment; the wait doubles


def insist(call: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """Return what a request gives, tried again where it fails for a moment.

    Raises:
        StoreError: it fails for good, or still at the last try
    """
    for number in range(_NUM_TRIES - 1):
        try:
            return call()
        except BrieflyError:
            sleep(_FIRST_WAIT_S * 2**number)
    return call()


def read_whole(store: Store, key: str, start: int, stop: int, version: str) -> bytes:
    """Return exactly the bytes [start, stop) of an object, whatever comes short.

    Raises:
        StoreError: they can't be read, or have changed
    """

    def read() -> bytes:
        data = store.read(key, start, stop, version)
        if len(data) != stop - start:
            raise BrieflyError(f"{len(data)} bytes of {key} came, {stop - start} were asked for")
        return data

    return insist(read) if stop > start else b""


@dataclass(frozen=True)
class RemoteFile:
    """A file in a store, as it was when it was found: another version of it is refused."""

    uri: str
    size_bytes: int
    version: str

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.uri.rpartition("/")[2]

    def open(self, mode: str = "rb", buffering: int = 1 << 16) -> Any:
        """Return the file, open to read as a path opens; errors are OSErrors, as of any file."""
        assert mode == "rb"
        raw = _RemoteBytes(self)
        return io.BufferedReader(raw, buffering) if buffering else raw


class _RemoteBytes(io.RawIOBase):
    """A remote file as Python reads files.

    What is asked for grows while the file is read in order, and the next block comes meanwhile.
    """

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        root, self._key = split_uri(file.uri)
        self._file, self._store = file, open_store(root)
        self._position = self._start = 0
        self._block = b""  # the bytes from `_start` on that came last
        self._num_ahead = _FIRST_BYTES
        self._next: tuple[int, Future[bytes]] | None = None  # where it begins, and what comes
        self._thread: ThreadPoolExecutor | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    seekable = readable

    def tell(self) -> int:
        """Return where the next byte is read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte."""
        self._position = max(0, (0, self._position, self._file.size_bytes)[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read some bytes, none at the end."""
        view = memoryview(buffer).cast("B")
        start = self._position
        if not self._start <= start < self._start + len(self._block):
            self._take(start, len(view))
        data = self._block[start - self._start : start - self._start + len(view)]
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """End what is still coming."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None
        super().close()

    def _take(self, start: int, num_bytes: int) -> None:
        """Have the block at a byte in hand, and send for the one behind it."""
        is_in_order = start == self._start + len(self._block)
        self._num_ahead = min(4 * self._num_ahead, _READ_BYTES) if is_in_order else _FIRST_BYTES
        if self._next is not None and self._next[0] == start:
            self._block = self._next[1].result()
        else:
            self._block = self._read(start, max(num_bytes, self._num_ahead))
        self._start, self._next, stop = start, None, start + len(self._block)
        if is_in_order and self._block and stop < self._file.size_bytes:
            self._thread = self._thread or ThreadPoolExecutor(1, "read-ahead")
            self._next = stop, self._thread.submit(self._read, stop, self._num_ahead)

    def _read(self, start: int, num_bytes: int) -> bytes:
        stop = min(start + num_bytes, self._file.size_bytes)
        try:
            return read_whole(self._store, self._key, start, max(start, stop), self._file.version)
        except StoreError as error:
            raise OSError(None, str(error)) from error


def read_small(file: RemoteFile) -> bytes:
    """Return the bytes of a small file.

    Raises:
        CorpusError: it can't be read
    """
    root, key = split_uri(file.uri)
    try:
        return read_whole(open_store(root), key, 0, file.size_bytes, file.version)
    except StoreError as error:
        raise CorpusError(f"can't read {file}: {error}") from error


def find_files(uri: str) -> dict[str, RemoteFile]:
    """Return the files that a URI names: one, those of a folder, or those of a pattern.

    They are called as local ones are: by their path in the folder, or in what is fixed of the
    pattern.

    Raises:
        ConfigError: the scheme is not known, or what it needs is not installed
        CorpusError: there is none, or the store does not answer
    """
    root, key = split_uri(uri)
    store = open_store(root)
    has_pattern = any(mark in key for mark in "*?[")
    try:
        found = None if has_pattern else insist(lambda: store.find(key))
        if found is not None:
            file = RemoteFile(uri, found.size_bytes, found.version)
            return {file.name: file}
        if root.partition("://")[0] not in LISTED:
            raise CorpusError(f"{uri} is not there, and {root} can't be asked what is: name a file")
        files = dict(_list_files(store, root, key.rstrip("/"), has_pattern))
    except StoreError as error:
        raise CorpusError(str(error)) from error
    if not files:
        raise CorpusError(f"no file matches {uri}" if has_pattern else f"{uri} is not there")
    return files


def _list_files(
    store: Store, root: str, key: str, has_pattern: bool
) -> Iterator[tuple[str, RemoteFile]]:
    fixed = re.split(r"[*?\[]", key)[0].rpartition("/")[0] if has_pattern else key
    prefix = f"{fixed}/" if fixed else ""
    matches = re.compile(_pattern(key)).fullmatch if has_pattern else re.compile(".*").fullmatch
    for found in insist(lambda: sorted(store.keys(prefix))):
        if found.startswith(prefix) and matches(found):
            facts = insist(functools.partial(store.find, found))
            if facts is not None:
                uri = f"{root}{'' if root.endswith('/') else '/'}{found}"
                name = found.removeprefix(prefix)
                yield name, RemoteFile(uri, facts.size_bytes, facts.version)


def _pattern(key: str) -> str:
    r"""Return a glob pattern as a regular expression; only `**` goes through slashes.

    Example:
        >>> _pattern("a/*.txt"), _pattern("a/**/b?")
        ('a/[^/]*\\.txt', 'a/(?:.*/)?b[^/]')
    """
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", key)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        known.get(piece) or (piece if piece.startswith("[") else re.escape(piece))
        for piece in pieces
    )


# ---- What is written


@dataclass(frozen=True)
class RemotePlace:
    """A folder in a store; its files are written and read in a folder of this machine."""

    uri: str
    session: str = ""  # what tells one command that writes there from another
    home: str = ""  # the machine on which it runs

    def __str__(self) -> str:
        return self.uri

    @property
    def folder(self) -> Path:
        """Where a command writes its files, and has those that it brought, on this machine."""
        name = hashlib.sha256(f"{self.uri} {self.session}".encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"lmdata-{os.getuid()}" / name

    @property
    def _store(self) -> Store:
        return open_store(split_uri(self.uri)[0])

    def _key(self, name: str) -> str:
        return f"{split_uri(self.uri)[1].rstrip('/')}/{name}".lstrip("/")

    def check(self) -> None:
        """Check that the store can be written, and that it creates an object only once.

        Raises:
            OutputError: it can't be, or it does not
        """
        name = f".build/probe-{os.urandom(4).hex()}"
        with self._writing(name):
            first = self._create(name, b"first")
            second = self._create(name, b"second")
            data = self.read(name)
            insist(lambda: self._store.remove(self._key(name)))
        if not first or second or data != b"first":
            raise OutputError(
                f"can't write {self.uri}: this store writes over an object that is to be created "
                "only if there is none (If-None-Match), so that two writers would not notice each "
                "other: choose another store, or write to a disk and copy"
            )

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file; None where there is none."""
        facts = self._find(name)
        if facts is None:
            return None
        try:
            return read_whole(self._store, self._key(name), 0, facts.size_bytes, facts.version)
        except StoreError as error:
            raise IntegrityError(f"can't read {self.uri}/{name}: {error}") from error

    def create(self, name: str, data: bytes, *, is_durable: bool = True) -> bool:
        """Write a file whole, unless there is one; return whether it holds this now."""
        with self._writing(name):
            return self._create(name, data)

    def _create(self, name: str, data: bytes) -> bool:
        """Write an object, and look up what is there where the answer was lost."""
        key, store = self._key(name), self._store
        return insist(lambda: store.create(key, data)) or self.read(name) == data

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, in the place of one that is there."""
        with self._writing(name):
            insist(lambda: self._store.write(self._key(name), data))

    def keep(self, name: str) -> None:
        """Send a file that was written in `folder`."""
        path = self.folder / name
        with self._writing(name):
            if not self._create(name, path.read_bytes()):
                raise IntegrityError(
                    f"{self.uri}/{name} is there and holds other bytes than this build gives: "
                    "another build writes there; choose another output, or add --overwrite"
                )
        if not (name.startswith(".") and self.home == os.uname().nodename):
            path.unlink()  # but a part where it is put into a shard

    def bring(self, name: str) -> Path:
        """Return a copy of a file on this machine, made unless it is there."""
        path = self.folder / name
        if not path.is_file():
            self.fetch(name, path)
        return path

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file to a path, whole or not at all.

        Raises:
            IntegrityError: it is not there, or can't be read
            OutputError: the disk is full
        """
        facts = self._find(name)
        if facts is None:
            raise IntegrityError(f"{self.uri}/{name} is missing: build {self.uri} again")
        try:
            copy(RemoteFile(f"{self.uri}/{name}", facts.size_bytes, facts.version), path)
        except StoreError as error:
            raise IntegrityError(f"can't read {self.uri}/{name}: {error}") from error

    def holds(self, name: str, size_bytes: int, xxh3: str) -> bool:
        """Whether a file of this size is there; its bytes are compared when they are used."""
        facts = self._find(name)
        return facts is not None and facts.size_bytes == size_bytes

    def size(self, name: str) -> int:
        """Return the bytes of a file, 0 where it has just gone."""
        facts = self._find(name)
        return 0 if facts is None else facts.size_bytes

    def _find(self, name: str) -> Facts | None:
        key, store = self._key(name), self._store
        try:
            return insist(lambda: store.find(key))
        except StoreError as error:
            raise IntegrityError(f"can't read {self.uri}/{name}: {error}") from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there, and its copy."""
        with self._writing(name):
            insist(lambda: self._store.remove(self._key(name)))
        remove(self.folder / name)

    def names(self) -> Iterator[str]:
        """Yield the names of all files, as the store lists them."""
        prefix, store = self._key(""), self._store
        try:
            keys = insist(lambda: list(store.keys(prefix)))
        except StoreError as error:
            raise IntegrityError(f"can't list {self.uri}: {error}") from error
        yield from sorted(key.removeprefix(prefix) for key in keys)

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except StoreError as error:
            raise OutputError(f"can't write {self.uri}/{name}: {error}") from error


def copy(file: RemoteFile, path: Path) -> str:
    """Copy a remote file to this machine, whole or not at all, and return its xxh3_128.

    Raises:
        StoreError: it can't be read, or has changed
        OutputError: the disk is full
    """
    root, key = split_uri(file.uri)
    store = open_store(root)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
        with AtomicFile(own, is_durable=False) as written:
            for start in range(0, file.size_bytes, _READ_BYTES):
                stop = min(start + _READ_BYTES, file.size_bytes)
                written.write(read_whole(store, key, start, stop, file.version))
        own.replace(path)
    return written.xxh3
