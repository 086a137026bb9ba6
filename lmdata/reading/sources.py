"""Which files a corpus consists of, in an order that does not depend on the file system."""

from __future__ import annotations

import glob
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmdata.errors import CorpusError
from lmdata.settings import (
    Compression,
    CorpusConfig,
    Format,
    known_extensions,
    parse_extensions,
    stdin_kind,
)
from lmdata.stored import CompressionError, Decompressed

STDIN = "-"

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
            kind = stdin_kind(config.stdin_format)
        return Source(name=name, path=None, format=kind[0], compression=kind[1])
    kind_or_none = parse_extensions(path.name)
    if kind_or_none is None and str(path) == str(Path(argument)):
        raise CorpusError(
            f"{_printable(path)} has no known extension: rename it to {known_extensions()}"
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
    is_lines = source.format == "jsonl" or (source.format == "txt" and config.documents != "file")
    return is_lines and config.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")


# Files that lie beside a text but are none: of tokenizers and models, known by one of the first;
# of data sets that `datasets` saved.
_MODEL_MARKS = frozenset(
    {
        "tokenizer.json", "tokenizer_config.json", "model.safetensors", "pytorch_model.bin",
        "model.safetensors.index.json", "pytorch_model.bin.index.json",
    }
)  # fmt: skip
_MODEL_FILES = _MODEL_MARKS | {
    "added_tokens.json", "chat_template.json", "config.json", "generation_config.json",
    "merges.txt", "metrics.jsonl", "preprocessor_config.json", "special_tokens_map.json",
    "trainer_state.json", "vocab.json", "vocab.txt",
}  # fmt: skip
_DATASET_INFO = "dataset_info.json"  # of `datasets`, beside the Arrow files
_DATASET_STATE = "state.json"  # of `Dataset.save_to_disk`: names its Arrow files
_METADATA_FILES = frozenset({_DATASET_INFO, "dataset_infos.json", "dataset_dict.json"})
_OUR_MANIFEST, _OUR_BUILD = "manifest.json", ".build"


def find_no_texts(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the entries of a folder that are no text of a corpus, whatever their extension says.

    Returns:
        name -> reason
    """
    present = frozenset(names)
    if _is_our_dataset(folder, present):
        return dict.fromkeys(present, "part of a dataset that lmdata wrote")
    found = dict.fromkeys(present & _METADATA_FILES, "metadata of datasets")
    if _MODEL_MARKS & present:
        found |= dict.fromkeys(present & _MODEL_FILES, "part of a tokenizer or model")
    if {_DATASET_INFO, _DATASET_STATE} <= present:
        found[_DATASET_STATE] = "metadata of datasets"
        tables = {name for name in present if name.endswith(".arrow")}
        strangers = tables - _saved_tables(folder / _DATASET_STATE, tables)
        found |= dict.fromkeys(strangers, "cache of datasets")
    return found


def _is_our_dataset(folder: Path, names: frozenset[str]) -> bool:
    """Return whether `lmdata` wrote a folder, or was about to."""
    if _OUR_MANIFEST in names:
        values = _read_json(folder / _OUR_MANIFEST)
        return isinstance(values, dict) and {"kind", "format_version", "ledger"} <= values.keys()
    return _OUR_BUILD in names and (folder / _OUR_BUILD / "plan.json").is_file()


def _saved_tables(state: Path, tables: set[str]) -> set[str]:
    """Return the Arrow files that a data set on disk consists of; all if it does not say."""
    values = _read_json(state)
    files = values.get("_data_files") if isinstance(values, dict) else None
    if not isinstance(files, list):
        return tables
    return {
        str(file["filename"]) for file in files if isinstance(file, dict) and "filename" in file
    }


def _read_json(path: Path) -> object:
    """Return what a JSON file holds, None where it is none that could be ours."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
