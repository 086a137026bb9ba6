"""A folder of a repository on Hugging Face's hub, written by one commit.

Each change there is a commit, and writers that come together refuse each other: no place for
receipts. So an output lies in a folder of this machine until it is whole. Then its files are sent,
and one commit on top of the one that was looked at makes them all appear. A commit whose answer was
lost is looked up; one that came in between is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lmdata.copies import copies_folder
from lmdata.errors import ConfigError, IntegrityError, LmdataError, OutputError
from lmdata.remote import RemotePlace

_WAITS_S = (1.0, 2.0, 4.0, 8.0)  # between the tries of a commit
_CONFLICT = 412  # the branch is not where it was looked at
_NUM_ASKED = 500  # paths in one request
_KINDS = {"datasets": "dataset", "models": "model", "spaces": "space"}


@dataclass(frozen=True)
class Seen:
    """A folder as it is at one commit, which never changes."""

    commit: str  # 40 hexadecimal digits
    place: RemotePlace


@dataclass(frozen=True)
class HubFolder:
    """A folder of a repository: `hf://datasets/OWNER/NAME[@BRANCH][/FOLDER]`."""

    uri: str
    marker: str  # the file that is there when the others are, and names them with their hashes
    owned: Callable[[bytes], set[str]]  # which files are its own, as a marker says

    def __str__(self) -> str:
        return self.uri

    @property
    def folder(self) -> Path:
        """Where it is made on this machine."""
        name = hashlib.sha256(self.uri.encode()).hexdigest()[:16]
        return copies_folder() / "outputs" / name

    def look(self) -> Seen:
        """Return the folder as it is now.

        Raises:
            ConfigError: what the hub needs is not installed, or the URI names no repository
            OutputError: the repository is not there, or the hub does not answer
        """
        repository = parse_repository(self.uri)
        with self._errors():
            commit = str(_client().repo_info(
                repository.id, repo_type=repository.kind, revision=repository.revision
            ).sha)  # fmt: skip
        return Seen(commit, RemotePlace(repository.at(commit)))

    @property
    def is_there(self) -> bool:
        """Whether it is there, whole."""
        return self.look().place.read(self.marker) is not None

    def publish(self, names: list[str], *, overwrite: bool) -> None:
        """Have the repository hold files of `folder`, all of them or none, by one commit.

        What was published before and is not written again is removed by the same commit; other
        files of the repository stay.

        Args:
            names: of the files, in `folder`; one of them is the marker
            overwrite: replace what was published there before

        Raises:
            OutputError: another one is there, or came meanwhile; or the hub does not take it
            IntegrityError: the commit does not hold what was sent
        """
        data = (self.folder / self.marker).read_bytes()
        seen = self.look()
        before = seen.place.read(self.marker)
        commit = seen.commit
        if before != data:
            outdated = self._find_outdated(seen, before, set(names), overwrite=overwrite)
            commit = self._commit(seen.commit, names, outdated, data)
        with self._errors():
            self._check(names, commit)

    def _find_outdated(
        self, seen: Seen, before: bytes | None, names: set[str], *, overwrite: bool
    ) -> list[str]:
        """Return the files of what is replaced that are not written again.

        Raises:
            OutputError: what is there may not be replaced
        """
        if before is not None and not overwrite:
            raise OutputError(f"{self} holds another one: add --overwrite to replace it, or "
                              "choose another place")  # fmt: skip
        there = set(seen.place.names())
        own = self.owned(before) & there if before is not None else set()
        if strangers := sorted((there & names) - own):
            raise OutputError(
                f"{self} holds a file {strangers[0]} that no {self.marker} names: choose another "
                "folder of the repository"
            )
        return sorted(own - names)

    def _commit(self, parent: str, names: list[str], outdated: list[str], data: bytes) -> str:
        """Make the commit, once, and return its name; what failed is looked up before another try.

        Raises:
            OutputError: the hub does not take it
        """
        import huggingface_hub as hub

        repository = parse_repository(self.uri)
        operations = [
            *(hub.CommitOperationAdd(repository.path(name), str(self.folder / name))
              for name in names),
            *(hub.CommitOperationDelete(repository.path(name)) for name in outdated),
        ]  # fmt: skip
        for wait_s in (*_WAITS_S, None):
            try:
                made = _client().create_commit(
                    repository.id, operations, repo_type=repository.kind, parent_commit=parent,
                    revision=repository.revision, commit_message=f"{self.marker} and its files",
                )  # fmt: skip
            except Exception as error:  # of the client, its transport or a thread of either
                if (commit := self._find_commit(data)) is not None:
                    return commit  # it was made, and the answer was lost
                if wait_s is None or not _is_brief(error):
                    raise self._describe(error) from error
                time.sleep(wait_s)
            else:
                return str(made.oid)
        raise AssertionError

    def _find_commit(self, data: bytes) -> str | None:
        """Return the newest commit if its marker is this one; None too where nobody answers."""
        try:
            seen = self.look()
            return seen.commit if seen.place.read(self.marker) == data else None
        except (OutputError, IntegrityError):
            return None

    def _check(self, names: list[str], commit: str) -> None:
        """Look whether all files are there, as a `.gitignore` leaves some out silently.

        Raises:
            IntegrityError: they are not
        """
        repository = parse_repository(self.uri)
        sizes: dict[str, int] = {}
        for first in range(0, len(names), _NUM_ASKED):
            asked = [repository.path(name) for name in names[first : first + _NUM_ASKED]]
            found = _client().get_paths_info(
                repository.id, asked, revision=commit, repo_type=repository.kind
            )
            sizes |= {file.path: file.size for file in found}
        for name in names:
            if sizes.get(repository.path(name)) != (self.folder / name).stat().st_size:
                raise IntegrityError(
                    f"{self}/{name} is not what was sent: see whether a .gitignore of the "
                    "repository leaves it out, then type the command again with --overwrite"
                )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise ConfigError(
                f"hf:// needs {error.name or error}: pip install 'lmdata-lmmodel[remote]'"
            ) from error
        except LmdataError:
            raise
        except Exception as error:  # of the client or its transport
            raise self._describe(error) from error

    def _describe(self, error: Exception) -> OutputError:
        """Return the one line for what the hub or its client said."""
        status, cause = _status(error), f" ({error.__cause__})" if error.__cause__ else ""
        line = " ".join(f"{error}{cause}".split())[:200]
        if status == _CONFLICT:
            return OutputError(
                f"{self} was changed by another commit meanwhile, and nothing was published: what "
                "was made is kept, type the same command again"
            )
        if status in (401, 403, 404):
            return OutputError(
                f"{self} is not there, or this process may not write it: make the repository "
                f"first, and set HF_TOKEN to a token that may write; it said: {line[:80]}"
            )
        return OutputError(f"can't write {self}: {line}")


@dataclass(frozen=True)
class Repository:
    """What a URI names on the hub."""

    kind: str  # dataset, model or space
    id: str  # OWNER/NAME
    revision: str | None  # a branch; None: the main one
    folder: str  # "" for all of it

    def path(self, name: str) -> str:
        """Return where a file of the folder lies in the repository."""
        return f"{self.folder}/{name}" if self.folder else name

    def at(self, commit: str) -> str:
        """Return the URI of the folder as it is at a commit."""
        kind = "" if self.kind == "model" else f"{self.kind}s/"
        return f"hf://{kind}{self.id}@{commit}/{self.folder}".rstrip("/")


def parse_repository(uri: str) -> Repository:
    """Return what a URI names on the hub.

    Raises:
        ConfigError: no repository

    Example:
        >>> parse_repository("hf://datasets/me/mine@dev/tokens").path("manifest.json")
        'tokens/manifest.json'
        >>> parse_repository("hf://me/model").at("0123")
        'hf://me/model@0123'
    """
    first, *rest = uri.removeprefix("hf://").rstrip("/").split("/")
    owner, *names = rest if first in _KINDS and rest else [first, *rest]
    if not (owner and names and names[0].partition("@")[0]):
        raise ConfigError(f"{uri} names no repository: it is hf://datasets/OWNER/NAME")
    name, _, revision = names[0].partition("@")
    folder = names[1:]
    if revision == "refs":  # as refs/pr/7, which is one name
        revision, folder = "/".join([revision, *folder[:2]]), folder[2:]
    kind = _KINDS.get(first, "model")
    return Repository(kind, f"{owner}/{name}", unquote(revision) or None, "/".join(folder))


def _client() -> Any:
    """Return the client of the hub, which shows no progress of its own."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    return HfApi()


def _status(error: BaseException | None) -> int | None:
    """Return the status of the answer that an error, or what brought it about, came with."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return int(status)
        error = error.__cause__
    return None


def _is_brief(error: Exception) -> bool:
    """Whether it may be over at the next try: no answer at all, or one of a server in trouble."""
    status = _status(error)
    return status is None or status in (408, 409, 429) or status >= 500
