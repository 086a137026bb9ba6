"""Which files a corpus consists of, in an order that does not depend on the file system."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmdata.errors import CorpusError
from lmdata.reading.no_texts import find_no_texts
from lmdata.reading.stdin import describe_stdin, find_stdin_kind
from lmdata.remote import RemoteFile, copy, find_files, read_small
from lmdata.settings import (
    WEB_FORMATS,
    Compression,
    CorpusConfig,
    Format,
    known_extensions,
    parse_extensions,
)
from lmdata.stores import StoreError, is_uri

STDIN = "-"


def printable(path: Path | RemoteFile | str | None) -> str:
    r"""Return a path as text that can be printed, whatever bytes its name has.

    Example:
        >>> printable("caf\udce9.txt")
        'caf\\xe9.txt'
    """
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a corpus; `name` is its identity and its place in the order."""

    name: str
    """POSIX path relative to the folder that was given; the file's own name for a file."""

    path: Path | RemoteFile | None
    """Where it lies, on this machine or in a store; None is standard input."""

    format: Format
    compression: Compression | None = None
    size_bytes: int = 0
    """Size as stored (compressed); 0 for standard input."""

    version: int | str = ""
    """What is another one when the file has changed: its time of change, or the store's tag; of
    standard input, the hash of the copy that was taken; "" where not known."""

    copy_of: str = ""
    """Of a copy on this machine: where in a store it is from."""

    @property
    def stamp(self) -> list[int | str]:
        """What the plan of a build keeps, to tell a changed source."""
        return [self.size_bytes, self.version]

    def refuse_changed(self) -> None:
        """Raise a CorpusError if the file is not what it was when the source was found."""
        if isinstance(self.path, Path) and isinstance(self.version, int):  # a store tells itself
            status = self.path.stat()
            if (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.version):
                raise CorpusError(
                    f"{self} has changed since this command began: let what writes it end, then "
                    "begin afresh with --overwrite"
                )

    def __str__(self) -> str:
        if self.name == STDIN or self.path is None:  # maybe a copy of it
            return "standard input"
        return self.copy_of or printable(self.path)

    @contextlib.contextmanager
    def at_hand(self) -> Iterator[Source]:
        """Yield the source with a copy on this machine, where all of one in a store is read.

        Raises:
            CorpusError: it can't be read, or has changed
        """
        if not isinstance(self.path, RemoteFile):
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="lmdata-") as folder:
            path = Path(folder) / "source"
            try:
                copy(self.path, path)
            except StoreError as error:
                raise CorpusError(f"can't read {self}: {error}") from error
            yield dataclasses.replace(self, path=path, version="", copy_of=str(self.path))


@dataclass(frozen=True)
class Survey:
    """What was found: the sources in order, and what was passed over, by reason."""

    sources: list[Source]
    skipped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What was decided for the user, a sentence each."""


def find_sources(arguments: Sequence[str], config: CorpusConfig) -> list[Source]:
    """Return the files that the arguments name, sorted by name. See `survey_sources`."""
    return survey_sources(arguments, config).sources


def survey_sources(arguments: Sequence[str], config: CorpusConfig) -> Survey:
    """Return the files that the arguments name, sorted by name, and those passed over.

    An argument is a file, a folder (searched to the bottom, through links, each loop entered
    once), a glob pattern or `-`. In folders and globs, hidden files, unknown extensions, our own
    outputs, the files of tokenizers and models and the metadata of `datasets` are passed over; a
    file named outright is read, and must have a known extension. One path that is reached twice
    under one name is taken once, as is the same path below two arguments: the first name stays.

    Raises:
        CorpusError: no such path, nothing found, an unreadable folder, an unknown extension, or
            two different files with one name
    """
    found: dict[str, Source] = {}
    names: dict[str, Source] = {}
    skipped: dict[str, list[str]] = {}
    for argument in arguments:
        for name, path in _expand(argument, skipped):
            if isinstance(path, RemoteFile):
                key, source = path.uri, _make_remote_source(name, path, argument, skipped)
            else:
                source = _make_source(name, path, argument, config, skipped)
                key = os.path.abspath(path) if path else STDIN  # noqa: PTH100 - links stay as they are
            if source is None or key in found:
                continue
            if name in names:
                raise CorpusError(
                    f"{names[name]} and {source} would both be named {name}: give the folder "
                    f"above them, or rename one"
                )
            found[key] = names[name] = source
    if not names:
        raise CorpusError(_describe_nothing(arguments, skipped))
    notes = []
    if STDIN in names and config.stdin_format == "auto":
        notes.append(describe_stdin(names[STDIN].format, names[STDIN].compression, config))
    return Survey([names[name] for name in sorted(names)], skipped, notes)


def _expand(
    argument: str, skipped: dict[str, list[str]]
) -> Iterator[tuple[str, Path | RemoteFile | None]]:
    """Yield the name and path of every file below one argument."""
    if is_uri(argument):
        yield from _expand_uri(argument, skipped)
        return
    path = Path(argument)
    if not argument.strip():
        raise CorpusError(
            f"{argument!r} names no file: is a variable of your command empty? The folder you are "
            "in is ."
        )
    if argument == STDIN:
        yield STDIN, None
    elif path.is_dir():
        yield from _walk(path, path, (), skipped)
    elif path.exists():
        yield path.name, path
    elif glob.has_magic(argument):
        yield from _expand_glob(argument, skipped)
    else:
        raise CorpusError(f"no such file or folder: {printable(argument)}")


def _expand_uri(uri: str, skipped: dict[str, list[str]]) -> Iterator[tuple[str, RemoteFile]]:
    """Yield what a URI names: a file, those of a folder, or those of a pattern."""
    found = find_files(uri)
    folders: dict[str, dict[str, RemoteFile]] = {}
    for name, file in found.items():
        folder, _, own = name.rpartition("/")
        folders.setdefault(folder, {})[own] = file
    for folder, files in folders.items():

        def read(name: str, files: dict[str, RemoteFile] = files) -> bytes | None:
            return read_small(files[name]) if name in files else None

        is_alone = len(found) == 1 and not folder
        no_texts = {} if is_alone else find_no_texts(files, read)
        for own, file in files.items():
            name = f"{folder}/{own}" if folder else own
            is_hidden = any(part.startswith(".") for part in name.split("/"))
            if reason := "hidden" if is_hidden else no_texts.get(own):
                skipped.setdefault(reason, []).append(str(file))
            else:
                yield name, file


def _why_passed_over(kind: tuple[Format, Compression | None] | None, argument: str) -> str:
    """Return why a file of a folder or pattern is no text; "" where it is one.

    Pages are taken where the argument itself is called so, as pages/*.html: among other texts they
    are documentation as a rule.
    """
    if kind is None:
        return "unknown extension"
    named = parse_extensions(Path(argument).name)
    if kind[0] in WEB_FORMATS and (named is None or named[0] != kind[0]):
        return "page of the web, which a pattern such as 'pages/*.html' must name"
    return ""


def _make_remote_source(
    name: str, file: RemoteFile, argument: str, skipped: dict[str, list[str]]
) -> Source | None:
    """Return the source of a file in a store, or None where it is passed over."""
    kind = parse_extensions(file.name)
    if kind is None and file.uri == argument:
        raise CorpusError(f"{file} has no known extension: rename it to {known_extensions()}")
    if reason := _why_passed_over(kind, argument):
        skipped.setdefault(reason, []).append(str(file))
        return None
    assert kind is not None
    return Source(
        name=name, path=file, format=kind[0], compression=kind[1], size_bytes=file.size_bytes,
        version=file.version,
    )  # fmt: skip


def _expand_glob(pattern: str, skipped: dict[str, list[str]]) -> Iterator[tuple[str, Path]]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - the pattern may be absolute
    if not matches:
        raise CorpusError(f"no file matches {printable(pattern)}")
    fixed = list(Path(pattern).parts)
    while any(glob.has_magic(part) for part in fixed):
        fixed.pop()
    root = Path(*fixed)
    no_texts: dict[Path, dict[str, str]] = {}  # folder -> what `find_no_texts` says of it
    for match in map(Path, matches):
        if match.is_dir():
            yield from _walk(match, root, (), skipped)
            continue
        if match.parent not in no_texts:
            names = [entry.name for entry in match.parent.iterdir()]
            no_texts[match.parent] = find_no_texts(names, functools.partial(_read, match.parent))
        if reason := no_texts[match.parent].get(match.name):
            skipped.setdefault(reason, []).append(printable(match))
        else:
            yield match.relative_to(root).as_posix(), match


def _walk(
    folder: Path, root: Path, above: tuple[tuple[int, int], ...], skipped: dict[str, list[str]]
) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder; `above` are the (device, inode) of the folders around it."""
    try:
        status = folder.stat()
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CorpusError(f"can't read folder {printable(folder)}: {error.strerror}") from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        skipped.setdefault("link to a folder above", []).append(printable(folder))
        return
    names = [entry.name for entry in entries]
    no_texts = find_no_texts(names, functools.partial(_read, folder))
    for entry in entries:
        if entry.name.startswith("."):
            skipped.setdefault("hidden", []).append(printable(entry))
        elif reason := no_texts.get(entry.name):
            skipped.setdefault(reason, []).append(printable(entry))
        elif entry.is_dir():
            yield from _walk(entry, root, (*above, identity), skipped)
        else:
            yield entry.relative_to(root).as_posix(), entry


def _read(folder: Path, name: str) -> bytes | None:
    with contextlib.suppress(OSError):
        return (folder / name).read_bytes()
    return None


def _make_source(
    name: str, path: Path | None, argument: str, config: CorpusConfig,
    skipped: dict[str, list[str]],
) -> Source | None:  # fmt: skip
    """Return the source at a path, or None where it is passed over (and noted in `skipped`)."""
    if path is None:
        kind = find_stdin_kind(config)
        return Source(name=name, path=None, format=kind[0], compression=kind[1])
    kind_or_none = parse_extensions(path.name)
    if kind_or_none is None and str(path) == str(Path(argument)):
        raise CorpusError(
            f"{printable(path)} has no known extension: rename it to {known_extensions()}"
        )
    if reason := _why_passed_over(kind_or_none, argument):
        skipped.setdefault(reason, []).append(printable(path))
        return None
    if not path.is_file():
        skipped.setdefault("not a file", []).append(printable(path))
        return None
    try:
        name.encode()
    except UnicodeEncodeError as error:
        if config.errors == "skip":
            skipped.setdefault("name that is not UTF-8", []).append(printable(path))
            return None
        raise CorpusError(
            f"the name of {printable(path)} is not UTF-8: rename the file, or pass over it by "
            "--errors skip"
        ) from error
    assert kind_or_none is not None
    format_, compression = kind_or_none
    status = path.stat()
    return Source(
        name=name, path=path, format=format_, compression=compression, size_bytes=status.st_size,
        version=status.st_mtime_ns,
    )  # fmt: skip


def _describe_nothing(arguments: Sequence[str], skipped: dict[str, list[str]]) -> str:
    if not arguments:
        return "no input: name a file, a folder, a glob pattern or -"
    passed = "; ".join(
        f"{len(paths)} passed over ({reason}, such as {Path(paths[0]).name})"
        for reason, paths in sorted(skipped.items())
    )
    where = f"no text in {printable(' '.join(arguments))}: {passed or 'nothing there'}"
    return f"{where}; reads {known_extensions()}"


def split_source(source: Source, config: CorpusConfig, target_bytes: int) -> list[tuple[int, int]]:
    """Return byte ranges of about `target_bytes` that cover a source and can be read alone.

    A document belongs to the range in which its first byte lies, so any other cut gives the same
    documents. What can't be split (compressed, .csv, .arrow, one document a file, an encoding
    other than UTF-8) is one range.
    """
    size = source.size_bytes
    if not is_splittable(source, config) or size <= target_bytes:
        return [(0, size)]
    count = -(-size // target_bytes)
    cuts = [size * index // count for index in range(count + 1)]
    return list(itertools.pairwise(cuts))


def is_splittable(source: Source, config: CorpusConfig) -> bool:
    """Return whether a source can be read in byte ranges."""
    if source.path is None or source.compression is not None:
        return False
    if source.format == "parquet":
        return True
    is_text = source.format == "txt" and config.documents != "file"
    encoding = config.encoding.lower().replace("_", "-")
    return (source.format == "jsonl" or is_text) and encoding in ("utf-8", "utf8", "utf-8-sig")
