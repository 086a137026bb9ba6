"""Which files a corpus consists of, in an order that does not depend on the file system."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from lmdata.errors import CorpusError

Format = Literal["txt", "jsonl", "parquet", "arrow", "csv", "tsv"]
Compression = Literal["gz", "zst", "xz", "bz2"]

FORMATS: dict[str, Format] = {
    ".txt": "txt",
    ".text": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".tsv": "tsv",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".xz": "xz", ".bz2": "bz2"}
STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """How files become documents."""

    text_field: str = "text"
    """Name of the JSON field or table column that holds the text."""

    documents: Literal["file", "blank-line", "line"] = "file"
    """What one document is in a .txt file: the file, the lines between blank lines, or a line."""

    encoding: str = "utf-8"
    """A Python codec name, or "auto": what the byte-order mark says, else UTF-8."""

    errors: Literal["strict", "replace", "skip"] = "strict"
    """Undecodable bytes stop the run, become U+FFFD, or (like every broken record) drop the
    document, which the ledger then counts by reason."""

    stdin_format: str = "txt"
    """What `-` reads: a file name extension such as "jsonl" or "jsonl.zst"."""

    max_document_bytes: int = 64 << 20
    """Longest document (or JSON or table record) to accept, in bytes. A reader takes about three
    times the larger of `batch_bytes` and the longest document, in each worker: the default fits
    two workers into 1 GiB. Raise it together with the memory budget."""

    def __post_init__(self) -> None:
        if self.max_document_bytes < 1:
            raise ValueError(
                f"max_document_bytes must be at least 1, got {self.max_document_bytes}"
            )
        if not self.text_field:
            raise ValueError("text_field must not be empty")
        if self.encoding != "auto":
            try:
                "".encode(self.encoding)
            except LookupError as error:
                raise ValueError(
                    f"encoding must be a Python codec such as utf-8, cp932 or latin-1, or auto, "
                    f"got {self.encoding!r}"
                ) from error
        _parse_extensions(f"stdin.{self.stdin_format}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a corpus; `name` is its identity and its place in the order."""

    name: str
    """POSIX path relative to the folder that was given; the file's own name for a file."""

    path: Path | None
    """Where it lies; None is standard input."""

    format: Format
    compression: Compression | None = None
    size_bytes: int = 0
    """Size as stored (compressed); 0 for standard input."""

    def __str__(self) -> str:
        return str(self.path) if self.path else "standard input"


@dataclass(frozen=True)
class Survey:
    """What was found: the sources in order, and what was passed over, by reason."""

    sources: list[Source]
    skipped: dict[str, list[str]] = field(default_factory=dict)


def find_sources(arguments: Sequence[str], config: CorpusConfig) -> list[Source]:
    """Return the files that the arguments name, sorted by name. See `survey_sources`."""
    return survey_sources(arguments, config).sources


def survey_sources(arguments: Sequence[str], config: CorpusConfig) -> Survey:
    """Return the files that the arguments name, sorted by name, and those passed over.

    An argument is a file, a folder (searched to the bottom, through links, each loop entered
    once), a glob pattern or `-`. In folders and globs, hidden files and unknown extensions are
    passed over; a file named outright must have a known extension. One path that is reached twice
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
            source = _make_source(name, path, argument, config, skipped)
            key = os.path.abspath(path) if path else STDIN  # noqa: PTH100 - links stay unresolved
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
    return Survey([names[name] for name in sorted(names)], skipped)


def parse_extensions(name: str) -> tuple[Format, Compression | None] | None:
    """Return the format and compression that a file name tells, or None.

    Example:
        >>> parse_extensions("wiki.JSONL.zst"), parse_extensions("notes.txt")
        (('jsonl', 'zst'), ('txt', None))
    """
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    compression = (
        COMPRESSIONS.get(suffixes.pop())
        if suffixes[-1:] and (suffixes[-1] in COMPRESSIONS)
        else None
    )
    format_ = FORMATS.get(suffixes[-1]) if suffixes else None
    return (format_, compression) if format_ else None


def _parse_extensions(name: str) -> tuple[Format, Compression | None]:
    kind = parse_extensions(name)
    if kind is None:
        raise ValueError(f"stdin_format must be one of {_known_extensions()}, got {name[6:]!r}")
    return kind


def _known_extensions() -> str:
    return f"{' '.join(FORMATS)}, each also with {' '.join(COMPRESSIONS)}"


def _expand(argument: str, skipped: dict[str, list[str]]) -> Iterator[tuple[str, Path | None]]:
    """Yield the name and path of every file below one argument."""
    path = Path(argument)
    if argument == STDIN:
        yield STDIN, None
    elif path.is_dir():
        yield from _walk(path, path, (), skipped)
    elif path.exists():
        yield path.name, path
    elif glob.has_magic(argument):
        yield from _expand_glob(argument, skipped)
    else:
        raise CorpusError(f"no such file or folder: {argument}")


def _expand_glob(pattern: str, skipped: dict[str, list[str]]) -> Iterator[tuple[str, Path]]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - the pattern may be absolute
    if not matches:
        raise CorpusError(f"no file matches {pattern}")
    fixed = list(Path(pattern).parts)
    while any(glob.has_magic(part) for part in fixed):
        fixed.pop()
    root = Path(*fixed)
    for match in map(Path, matches):
        if match.is_dir():
            yield from _walk(match, root, (), skipped)
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
        raise CorpusError(f"can't read folder {folder}: {error.strerror}") from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        skipped.setdefault("link to a folder above", []).append(str(folder))
        return
    for entry in entries:
        if entry.name.startswith("."):
            skipped.setdefault("hidden", []).append(str(entry))
        elif entry.is_dir():
            yield from _walk(entry, root, (*above, identity), skipped)
        else:
            yield entry.relative_to(root).as_posix(), entry


def _make_source(
    name: str,
    path: Path | None,
    argument: str,
    config: CorpusConfig,
    skipped: dict[str, list[str]],
) -> Source | None:
    """Return the source at a path, or None where it is passed over (and noted in `skipped`)."""
    if path is None:
        format_, compression = _parse_extensions(f"stdin.{config.stdin_format}")
        return Source(name=name, path=None, format=format_, compression=compression)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        message = f"the name of {os.fsencode(path)!r} is not UTF-8: rename the file"
        raise CorpusError(message) from error
    kind = parse_extensions(path.name)
    if kind is None and str(path) == str(Path(argument)):
        raise CorpusError(f"{path} has no known extension: rename it to {_known_extensions()}")
    if kind is None:
        skipped.setdefault("unknown extension", []).append(str(path))
        return None
    if not path.is_file():
        skipped.setdefault("not a file", []).append(str(path))
        return None
    return Source(
        name=name, path=path, format=kind[0], compression=kind[1], size_bytes=path.stat().st_size
    )


def _describe_nothing(arguments: Sequence[str], skipped: dict[str, list[str]]) -> str:
    if not arguments:
        return "no input: name a file, a folder, a glob pattern or -"
    passed = "; ".join(
        f"{len(paths)} passed over ({reason}, such as {Path(paths[0]).name})"
        for reason, paths in sorted(skipped.items())
    )
    where = f"no text in {' '.join(arguments)}: {passed or 'nothing there'}"
    return f"{where}; reads {_known_extensions()}"
