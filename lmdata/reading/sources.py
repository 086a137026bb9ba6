"""Which files a corpus consists of, in an order that does not depend on the file system."""

from __future__ import annotations

import codecs
import glob
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from lmdata.errors import CorpusError
from lmdata.reading.no_texts import find_no_texts
from lmdata.stored import DEFAULT_WINDOW_BYTES, CompressionError, Decompressed

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

# Codecs of Python that are no encoding of a file: escapes of source code, parts of host names.
_NOT_OF_FILES = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"})

# How standard input is told: by the first bytes of a compressed file or table, else by its text.
_COMPRESSED_MAGIC: dict[bytes, Compression] = {
    b"\x1f\x8b": "gz",
    b"\x28\xb5\x2f\xfd": "zst",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bz2",
}
_TABLE_MAGIC: dict[bytes, Format] = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "arrow",
}
_JSON_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*[\"}]")


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

    stdin_format: str = "auto"
    """What `-` reads: a file name extension such as "jsonl" or "jsonl.zst", or "auto": what the
    first bytes say (JSON lines, a table, compressed or not), else text."""

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
        if self.encoding != "auto" and not _is_text_encoding(self.encoding):
            raise ValueError(
                "encoding must be a Python codec of text such as utf-8, cp932 or latin-1, or auto, "
                f"got {self.encoding!r}"
            )
        if self.stdin_format != "auto":
            _parse_extensions(f"stdin.{self.stdin_format}")

    @property
    def max_window_bytes(self) -> int:
        """Memory that decompressing may take for what it refers back to: what a reader has."""
        return max(DEFAULT_WINDOW_BYTES, 3 * self.max_document_bytes)


def _is_text_encoding(name: str) -> bool:
    try:
        "".encode(name)
        return codecs.lookup(name).name not in _NOT_OF_FILES
    except (LookupError, ValueError):
        return False


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
    notes = [_describe_stdin(names[STDIN], config)] if STDIN in names else []
    return Survey([names[name] for name in sorted(names)], skipped, list(filter(None, notes)))


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
        raise CorpusError(f"no such file or folder: {argument}")


def _expand_glob(pattern: str, skipped: dict[str, list[str]]) -> Iterator[tuple[str, Path]]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - the pattern may be absolute
    if not matches:
        raise CorpusError(f"no file matches {pattern}")
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
            no_texts[match.parent] = find_no_texts(
                match.parent, [entry.name for entry in match.parent.iterdir()]
            )
        if reason := no_texts[match.parent].get(match.name):
            skipped.setdefault(reason, []).append(_printable(match))
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
        skipped.setdefault("link to a folder above", []).append(_printable(folder))
        return
    no_texts = find_no_texts(folder, [entry.name for entry in entries])
    for entry in entries:
        if entry.name.startswith("."):
            skipped.setdefault("hidden", []).append(_printable(entry))
        elif reason := no_texts.get(entry.name):
            skipped.setdefault(reason, []).append(_printable(entry))
        elif entry.is_dir():
            yield from _walk(entry, root, (*above, identity), skipped)
        else:
            yield entry.relative_to(root).as_posix(), entry


def _printable(path: Path) -> str:
    """Return a path as text that can be printed, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _make_source(
    name: str,
    path: Path | None,
    argument: str,
    config: CorpusConfig,
    skipped: dict[str, list[str]],
) -> Source | None:
    """Return the source at a path, or None where it is passed over (and noted in `skipped`)."""
    if path is None:
        if config.stdin_format == "auto":
            kind = detect_kind(_peek_stdin())
        else:
            kind = _parse_extensions(f"stdin.{config.stdin_format}")
        return Source(name=name, path=None, format=kind[0], compression=kind[1])
    kind_or_none = parse_extensions(path.name)
    if kind_or_none is None and str(path) == str(Path(argument)):
        raise CorpusError(
            f"{_printable(path)} has no known extension: rename it to {_known_extensions()}"
        )
    if kind_or_none is None:
        skipped.setdefault("unknown extension", []).append(_printable(path))
        return None
    if not path.is_file():
        skipped.setdefault("not a file", []).append(_printable(path))
        return None
    try:
        name.encode()
    except UnicodeEncodeError as error:
        message = f"the name of {os.fsencode(path)!r} is not UTF-8: rename the file"
        raise CorpusError(message) from error
    format_, compression = kind_or_none
    size_bytes = path.stat().st_size
    return Source(
        name=name, path=path, format=format_, compression=compression, size_bytes=size_bytes
    )


def detect_kind(head: bytes) -> tuple[Format, Compression | None]:
    """Return the format and compression that the first bytes of a file tell; text by default.

    Example:
        >>> detect_kind(b'{"text": "a"}'), detect_kind(b"Once upon")
        (('jsonl', None), ('txt', None))
    """
    for magic, compression in _COMPRESSED_MAGIC.items():
        if head.startswith(magic):
            return detect_kind(_decompress_head(head, compression))[0], compression
    for magic, format_ in _TABLE_MAGIC.items():
        if head.startswith(magic):
            return format_, None
    return ("jsonl" if _JSON_BEGINNING.match(head) else "txt"), None


def _decompress_head(head: bytes, compression: Compression) -> bytes:
    """Return the first bytes of what compressed data begins with, or none."""
    try:
        return Decompressed(io.BytesIO(head), compression).read(1 << 10)
    except CompressionError:
        return b""  # the reader will say what is wrong, or needs more than the head


def _peek_stdin() -> bytes:
    """Return the first bytes of standard input, which stay to be read."""
    stdin = sys.stdin.buffer
    if isinstance(stdin, io.BufferedReader):
        return stdin.peek(1)
    if not stdin.seekable():
        return b""
    start = stdin.tell()
    head = stdin.read(io.DEFAULT_BUFFER_SIZE)
    stdin.seek(start)
    return head


def _describe_stdin(source: Source, config: CorpusConfig) -> str:
    """Return what was decided about standard input, "" where the user or nobody would ask."""
    if config.stdin_format != "auto" or (source.format, source.compression) == ("txt", None):
        return ""
    kind = ".".join(filter(None, (source.format, source.compression)))
    return f"standard input is read as {kind}; --set corpus.stdin_format=txt reads it as text"


def _describe_nothing(arguments: Sequence[str], skipped: dict[str, list[str]]) -> str:
    if not arguments:
        return "no input: name a file, a folder, a glob pattern or -"
    passed = "; ".join(
        f"{len(paths)} passed over ({reason}, such as {Path(paths[0]).name})"
        for reason, paths in sorted(skipped.items())
    )
    where = f"no text in {' '.join(arguments)}: {passed or 'nothing there'}"
    return f"{where}; reads {_known_extensions()}"
