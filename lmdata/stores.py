"""Stores of objects by URI: what may be asked of each, one request at a time.

S3, Google Cloud Storage and Azure are spoken to by obstore, which can create an object only if
there is none; all others, as Hugging Face's hub and the web, are read by fsspec. A client lives in
the process that uses it, since none survives a fork: it is opened when it is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from lmdata.errors import ConfigError

# Scheme -> what is installed for it, and which variables say who asks.
_BY_OBSTORE = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_REGION; AWS_ENDPOINT_URL of another "
    "store than Amazon's, with AWS_ALLOW_HTTP=true for http)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (the path of a key file)",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_BY_FSSPEC = {"hf": "HF_TOKEN", "http": "", "https": "", "memory": ""}
SCHEMES = (*_BY_OBSTORE, *_BY_FSSPEC)
LISTED = {"s3", "gs", "az", "hf", "memory"}  # where one can ask what there is
_RETRY = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


class StoreError(Exception):
    """A request failed; the text says why."""


class BrieflyError(StoreError):
    """A request failed in a way that may be over at the next try; it may have been done or not."""


class ChangedError(StoreError):
    """An object is not the one that was asked for any more."""


@dataclass(frozen=True)
class Facts:
    """What is known of an object before it is read."""

    size_bytes: int
    version: str  # another one when the object has changed; "" where the store does not say


class Store(Protocol):
    """Objects by key. Each call is one request: it does all or nothing, or raises a StoreError."""

    def find(self, key: str) -> Facts | None:
        """Return what is known of an object; None where there is none."""

    def read(self, key: str, start: int, stop: int, version: str) -> bytes:
        """Return the bytes [start, stop) of an object of this version, or, by mistake, fewer."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether it was written."""

    def write(self, key: str, data: bytes) -> None:
        """Write an object, in the place of one that is there."""

    def remove(self, key: str) -> None:
        """Remove an object, if there is one."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with a prefix; the list may be out of date."""


# ---- URIs


def is_uri(text: str | Path) -> bool:
    """Whether a text names something in a store and not a path.

    Example:
        >>> is_uri("s3://bucket/corpus"), is_uri("corpus/a:b"), is_uri(Path("corpus"))
        (True, False, False)
    """
    scheme, colon, _ = str(text).partition("://")
    return isinstance(text, str) and bool(colon) and scheme.isalnum()


def is_hub(path: Path | str) -> bool:
    """Whether an output is a folder on the hub.

    Example:
        >>> is_hub("hf://datasets/me/tokens"), is_hub("s3://bucket/tokens"), is_hub("tokens")
        (True, False, False)
    """
    return isinstance(path, str) and is_uri(path) and path.startswith("hf://")


def check_is_local(path: str | Path) -> None:
    """Check that a name is not a URI where only a folder of this machine is written.

    Raises:
        ConfigError: it is
    """
    if is_uri(path):
        raise ConfigError(
            f"{path} is in a store, and this is written on this machine only: give a folder, then "
            "copy it there"
        )


def split_uri(uri: str) -> tuple[str, str]:
    """Return what is opened, a scheme with its bucket or host, and the key in it.

    Raises:
        ConfigError: no such scheme

    Example:
        >>> split_uri("s3://bucket/corpus/a.txt"), split_uri("hf://datasets/me/mine/a.txt")
        (('s3://bucket', 'corpus/a.txt'), ('hf://', 'datasets/me/mine/a.txt'))
    """
    scheme, _, rest = uri.partition("://")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"{uri}: {scheme}:// is not known here, only {known} and paths")
    if scheme in ("hf", "memory"):
        return f"{scheme}://", rest.strip("/")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise ConfigError(f"{uri} names no bucket or host: it is {scheme}://NAME/...")
    return f"{scheme}://{bucket}", key


def open_store(root: str) -> Store:
    """Return the store of a root that `split_uri` gave, opened once by each process.

    Raises:
        ConfigError: what it needs is not installed
    """
    return _open_store(root, os.getpid())


@functools.lru_cache(maxsize=32)
def _open_store(root: str, process_id: int) -> Store:
    scheme = root.partition("://")[0]
    try:
        if scheme in _BY_OBSTORE:
            return ObjectStore(root)
        return FsspecStore(scheme)
    except ImportError as error:
        raise ConfigError(
            f"{scheme}:// needs {error.name or error}: pip install 'lmdata-lmmodel[remote]'"
        ) from error


# ---- Two kinds of stores


class ObjectStore:
    """S3, Google Cloud Storage or Azure, by obstore."""

    def __init__(self, root: str) -> None:
        import obstore
        import obstore.store

        self._obstore, self._root = obstore, root
        self._store = obstore.store.from_url(root.replace("az://", "azure://"), retry_config=_RETRY)  # type: ignore[call-overload,unused-ignore]

    def find(self, key: str) -> Facts | None:
        """Return what is known of an object; None where there is none."""
        with self._errors(key):
            try:
                found = self._obstore.head(self._store, key)
            except FileNotFoundError:
                return None
        return Facts(int(found["size"]), str(found.get("e_tag") or ""))

    def read(self, key: str, start: int, stop: int, version: str) -> bytes:
        """Return the bytes [start, stop) of an object of this version."""
        options: Any = {"range": (start, stop)}
        if version:
            options["if_match"] = version
        with self._errors(key):
            return bytes(self._obstore.get(self._store, key, options=options).bytes())

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether it was written."""
        with self._errors(key):
            try:
                self._obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except self._obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def write(self, key: str, data: bytes) -> None:
        """Write an object, in the place of one that is there."""
        with self._errors(key):
            self._obstore.put(self._store, key, data)

    def remove(self, key: str) -> None:
        """Remove an object, if there is one."""
        with self._errors(key), contextlib.suppress(FileNotFoundError):
            self._obstore.delete(self._store, key)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with a prefix."""
        with self._errors(prefix):
            for page in self._obstore.list(self._store, prefix.rstrip("/") or None):
                yield from (str(item["path"]) for item in page)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn what obstore raises into what a `Store` does, in one line."""
        exceptions = self._obstore.exceptions
        try:
            yield
        except exceptions.PreconditionError as error:
            raise ChangedError(f"{self._root}/{key} is not what it was") from error
        except FileNotFoundError as error:
            raise StoreError(f"{self._root}/{key} is not there") from error
        except exceptions.BaseError as error:
            raise _explain(self._root, key, str(error)) from error


def _explain(root: str, key: str, text: str) -> StoreError:
    """Return the error for what a store said: for a moment, or what a person must mend."""
    line = " ".join(text.split("\n\nDebug source")[0].split())
    scheme = root.partition("://")[0]
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return StoreError(f"{root} is not there: no such bucket")
    signs = ("InvalidAccessKeyId", "AccessDenied", "403", "401", "169.254.169.254", "metadata",
             "SignatureDoesNotMatch", "MissingCredentials", "AuthenticationFailed")  # fmt: skip
    if any(sign in text for sign in signs):
        variables = {**_BY_OBSTORE, **_BY_FSSPEC}[scheme]
        return StoreError(
            f"{root} does not let this process in: set {variables}; it said: {line[:200]}"
        )
    return BrieflyError(f"{root}/{key}: {line[:300]}")


class FsspecStore:
    """Whatever fsspec can read; written where that is the memory of this process."""

    def __init__(self, scheme: str) -> None:
        import fsspec

        self._scheme = scheme
        self._files = fsspec.filesystem(scheme, use_listings_cache=False)
        self._more = {"expand_info": True} if scheme == "hf" else {}  # else it keeps its hashes

    def find(self, key: str) -> Facts | None:
        """Return what is known of an object; None where there is none."""
        with self._errors(key):
            try:
                found = self._files.info(self._full(key), **self._more)
            except FileNotFoundError:
                return None
        if found.get("type") == "directory":
            return None
        version = found.get("ETag") or found.get("blob_id") or found.get("created") or ""
        return Facts(int(found["size"] or 0), str(version))

    def read(self, key: str, start: int, stop: int, version: str) -> bytes:
        """Return the bytes [start, stop) of an object."""
        with self._errors(key):
            return bytes(self._files.cat_file(self._full(key), start=start, end=stop))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether it was written."""
        self._refuse_writing()
        try:
            self._files.pipe_file(self._full(key), data, mode="create")
        except FileExistsError:
            return False
        return True

    def write(self, key: str, data: bytes) -> None:
        """Write an object, in the place of one that is there."""
        self._refuse_writing()
        self._files.pipe_file(self._full(key), data)

    def _refuse_writing(self) -> None:
        if self._scheme != "memory":
            only = "takes finished datasets and exports" if self._scheme == "hf" else "is only read"
            raise StoreError(f"{self._scheme}:// {only}: choose another place to write to")

    def remove(self, key: str) -> None:
        """Remove an object, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._full(key))

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with a prefix."""
        with self._errors(prefix), contextlib.suppress(FileNotFoundError):
            for path in self._files.find(self._full(prefix)):
                yield str(path).lstrip("/")

    def _full(self, key: str) -> str:
        if self._scheme.startswith("http"):
            return f"{self._scheme}://{key}"
        return key if self._scheme == "hf" else f"/{key}"

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # of whatever library fsspec takes for a scheme
            told = _explain(f"{self._scheme}:/", key, f"{type(error).__name__}: {error}")
            if self._scheme == "hf":  # its client has tried often enough
                raise StoreError(str(told)) from error
            raise told from error
