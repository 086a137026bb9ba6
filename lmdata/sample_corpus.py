"""The prose that every Python installation carries, as a corpus: no download, no licence question.

One module of the standard library or of an installed package is one document: the paragraphs of
its docstrings, in order. Nothing is imported; the files are only read. Docstrings are found by
their quotes, not by a parser: `ast` takes a minute for what this scan takes seconds for.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lmdata.files import Kind, output_errors, writing_folder
from lmdata.reading.docstring_prose import extract_paragraphs

_TRIPLE_QUOTE = re.compile(r'"""|' + "'''")
_BEFORE_DOCSTRING = re.compile(r"(?:^|[:,(]|\n)\s*[rRuU]?$")
_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "testing", "idle_test", "_vendor", "__pycache__", "site-packages", "lib2to3"}
)
_MIN_DOCUMENT_BYTES = 300
_RECORD_NAME = ".sample-corpus.json"  # hidden: readers of a corpus pass it over


@dataclass(frozen=True)
class SampleSummary:
    """What a sample corpus holds."""

    num_documents: int
    num_paragraphs: int
    num_bytes: int
    num_modules_read: int
    num_repeated_paragraphs: int


def write_sample_corpus(
    output: Path,
    *,
    max_bytes: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SampleSummary:
    """Write the prose of this Python installation as .txt files, one document a file.

    A paragraph is one line, paragraphs are separated by blank lines. A paragraph that came before
    in another module is left out. The same installation gives the same bytes. A hidden record of
    what was written lies beside them.

    Args:
        output: a folder that is empty or does not exist; it appears when it is complete
        max_bytes: stop after about so many bytes; modules come in a mixed, fixed order
        overwrite: replace a folder that this function wrote and nobody changed since
        progress: called with the bytes of source code read so far and in all

    Raises:
        OutputError: the folder is not empty, not ours to replace, or can't be written
    """
    with writing_folder(output, _SAMPLE, overwrite=overwrite) as folder, output_errors(output):
        summary = _write_documents(folder, max_bytes, progress)
        (folder / _RECORD_NAME).write_text(_describe_files(folder), encoding="utf-8")
    return summary


def _is_unchanged(folder: Path) -> bool:
    """Whether a folder is as this module wrote it, so that nothing is lost with it."""
    try:
        return _describe_files(folder) == (folder / _RECORD_NAME).read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _describe_files(folder: Path) -> str:
    """Return the CRC-32 of every entry of a folder by its name as JSON, 0 for what is no file."""
    checksums = {
        path.name: zlib.crc32(path.read_bytes()) if path.is_file() else 0
        for path in sorted(folder.iterdir())
        if path.name != _RECORD_NAME
    }
    return json.dumps(checksums, indent=0)


def _write_documents(
    folder: Path, max_bytes: int | None, progress: Callable[[int, int], None] | None
) -> SampleSummary:
    modules = find_modules()
    total = sum(module.size for module in modules)
    seen: set[str] = set()
    num_documents = num_paragraphs = num_bytes = num_read = num_repeated = done = 0
    for module in modules:
        if max_bytes is not None and num_bytes >= max_bytes:
            break
        paragraphs = list(read_prose(module.path))
        fresh = [text for text in dict.fromkeys(paragraphs) if text not in seen]
        num_repeated += len(paragraphs) - len(fresh)
        seen.update(fresh)
        document = ("\n\n".join(fresh) + "\n").encode()
        if len(document) >= _MIN_DOCUMENT_BYTES:
            (folder / f"{module.name}.txt").write_bytes(document)
            num_documents += 1
            num_paragraphs += len(fresh)
            num_bytes += len(document)
        num_read += 1
        done += module.size
        if progress:
            progress(done, total)
    return SampleSummary(num_documents, num_paragraphs, num_bytes, num_read, num_repeated)


_SAMPLE = Kind("a sample corpus as it was written", _is_unchanged, files=None)


@dataclass(frozen=True)
class Module:
    """A source file of the installation, by its dotted name."""

    name: str
    path: Path
    size: int


def find_modules() -> list[Module]:
    """Return the source files of the standard library and the installed packages.

    Their order is fixed by a checksum of their names, so that any first part of it is a mixture.
    """
    paths = sysconfig.get_paths()
    modules: dict[str, Module] = {}
    for root in dict.fromkeys(Path(paths[key]) for key in ("stdlib", "purelib", "platlib")):
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
            for file in files:
                if file.endswith(".py"):
                    path = Path(folder, file)
                    name = ".".join(path.relative_to(root).with_suffix("").parts)
                    modules.setdefault(name, Module(name, path, path.stat().st_size))
    return sorted(
        modules.values(), key=lambda module: (zlib.crc32(module.name.encode()), module.name)
    )


def read_prose(path: Path) -> Iterator[str]:
    """Yield the paragraphs of prose in the docstrings of a source file, in order."""
    source = path.read_text(encoding="utf-8", errors="replace")
    if path.parent.name == "pydoc_data":
        docstrings = _read_topics(source)
    else:
        docstrings = find_docstrings(source)
    for docstring in docstrings:
        yield from extract_paragraphs(docstring)


def find_docstrings(source: str) -> Iterator[str]:
    r"""Yield the triple-quoted strings that stand where a docstring or an argument stands.

    Example:
        >>> list(find_docstrings('def f():\n    \"\"\"Add.\"\"\"\n    x = \"\"\"no\"\"\"\n'))
        ['Add.']
    """
    at = 0
    while match := _TRIPLE_QUOTE.search(source, at):
        start = match.end()
        stop = _find_end(source, start, match.group())
        before = source[max(0, match.start() - 200) : match.start()]
        if _BEFORE_DOCSTRING.search(before):
            yield _unescape(source[start:stop], is_raw=before[-1:] in ("r", "R"))
        at = stop + 3


def _find_end(source: str, start: int, quote: str) -> int:
    """Return where the closing quotes are, or the end of the source."""
    stop = source.find(quote, start)
    while stop > 0 and source[stop - 1] == "\\" and source[stop - 2] != "\\":
        stop = source.find(quote, stop + 1)
    return stop if stop >= 0 else len(source)


def _unescape(text: str, is_raw: bool) -> str:
    if is_raw or "\\" not in text:
        return text
    return re.sub(r"\\(\n|[\\'\"nt])", _unescape_one, text)


def _unescape_one(match: re.Match[str]) -> str:
    return {"\n": "", "n": "\n", "t": "\t"}.get(match[1], match[1])


def _read_topics(source: str) -> Iterator[str]:
    """Yield the help topics of `pydoc_data/topics.py`, the values of one dictionary."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from ast.literal_eval(node.value).values()
