"""The prose that every Python installation carries, as a corpus: no download, no licence question.

One module of the standard library or of an installed package is one document: the paragraphs of
its docstrings, in order. Nothing is imported; the files are only read. Docstrings are found by
their quotes, not by a parser: `ast` takes a minute for what this scan takes seconds for.

Docstrings are prose mixed with signatures, parameter lists, doctests, tables and the markup of
reStructuredText, numpydoc, Google style and Markdown. Prose is what is left after three steps:
`cut_blocks` (by blank lines, sections and indentation), `unwrap_markup` and `is_prose`.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lmdata.files import Kind, output_errors, writing_folder

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
    output: Path | str,
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
    output = Path(output)
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


# Sections whose body is a list of names, types or references, not prose.
_LIST_SECTIONS = frozenset(
    re.findall(
        r"\w[\w ]*",
        """parameters|parameter|args|arguments|arg|params|kwargs|other parameters|keyword arguments|
        keyword args|optional args|returns|return|yields|yield|raises|raise|receives|except|
        exceptions|attributes|attribute|methods|members|see also|references|reference|inputs|input|
        outputs|output|shape|shapes|side effects|usage|functions|classes|constants|author|authors|
        copyright|license|todo|options|fields|environment variables|version|history|changelog|
        warns|properties|keywords|type parameters""",
    )
)
_PROSE_DIRECTIVES = frozenset(
    ("note", "warning", "tip", "important", "caution", "attention", "danger", "hint", "topic")
)
_SECTION = re.compile(r"[*_]{0,2}([A-Za-z][A-Za-z ]{1,30})[*_]{0,2}:{1,2}[*_]{0,2}(?:\s|$)")
_DIRECTIVE = re.compile(r"\.\. ?([A-Za-z_-]+)::\s*(.*)$")
_UNDERLINE = re.compile(r"([-=~^\"'*+#`.:_])\1{2,}$")
_BULLET = re.compile(r"(?:[-*+•o]|\(?(?:[0-9]{1,2}|[a-zA-Z])[.)])\s+")
_NOT_PROSE = re.compile(r":[a-zA-Z][^:]*:(?!`)|@[a-z]+\b|\.\. |>>>|\.\.\.|In \[|Out\[|\$ |%|#|\|")

_MARKUP = (
    (re.compile(r"\[([^\]\[]+)\]\((?:https?:|#|[./\w])[^)\s]*\)"), r"\1"),  # [text](link)
    (re.compile(r":[a-zA-Z:+-]+:`([^`<]+?)\s*<[^`>]*>`"), r"\1"),  # :role:`text <target>`
    (re.compile(r":[a-zA-Z:+-]+:`[~!]?(?:[\w.]*\.)?([^`]+)`"), r"\1"),  # :role:`~package.name`
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # `text <link>`_
    (re.compile(r"(?<![^\s(\[])``([^`']+)''"), r'"\1"'),  # quotes as TeX has them
    (re.compile(r"``([^`]+)``"), r"\1"),
    (re.compile(r"`([^`]+)`_{0,2}"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])"), r"\1"),
    # Footnotes, where they are no part of the sentence ("as shown in [1]_").
    (re.compile(r"(?<! of)(?<! in)(?<! by)(?<!see)(?<!from)(?<! the)\s+\[#?[\w*-]{1,9}\]_"), ""),
    (re.compile(r"\b(\w+)_(?=[\s.,;:)])"), r"\1"),  # link_
    (re.compile(r"\|(\w+)\|"), r"\1"),
    (re.compile(r"::$"), ":"),
    (re.compile(r",\."), "."),
)
_ANY_MARKUP = re.compile(r"[`*_|\]]|::$")
_SPACE_BEFORE = re.compile(r" +([,.;:!?)])(?=\s|$)")
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
_CODE = re.compile(
    r"[=<>{}\[\]\\|@~^$#_]|\w\(|\w\.\w|\w/\w|https?:|--\w|\b[a-z]+[A-Z]\w*|\d{3,}|::|\(\)|%\w|&|\*"
)
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """the a an of to in is are be been was were will would can could may might
        must should shall and or but not no nor if then than that this these those
        it its they them their there which who whose what when where while for from
        with without by as at on into onto over under between through about after
        before during until because so such also only both each every any some all
        most more less other another same own you your we our he his her i do does
        did has have had how why one two first however instead since unless whether
        via per""",
    )
)
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*$")


def extract_paragraphs(docstring: str) -> list[str]:
    r"""Return the paragraphs of English prose in a docstring, one string each, unwrapped.

    Example:
        >>> extract_paragraphs("Sum(x)\n\nThis adds all of the\n``numbers`` in a list.\n\n>>> 3")
        ['This adds all of the numbers in a list.']
    """
    blocks = (block for block in cut_blocks(docstring) if _may_be_prose(block))
    candidates = (unwrap_markup(block) for block in blocks)
    return [paragraph for paragraph in candidates if is_prose(paragraph)]


def cut_blocks(docstring: str) -> Iterator[str]:
    """Yield what may be prose, one string a paragraph, unwrapped.

    Left out: literal blocks (indented below a line that ends in `::` or below a code directive),
    sections that are lists, field lists, doctests, tables and headings.
    """
    block: list[str] = []
    block_indent = hidden_below = -1
    in_list_section = in_fence = False
    lines = inspect.cleandoc(docstring).split("\n")
    for line, line_after in zip(lines, [*lines[1:], ""], strict=True):
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if text.startswith(("```", "~~~")):
            in_fence = not in_fence
        if hidden_below >= 0 and text and indent <= hidden_below:
            hidden_below = -1
        is_heading = bool(_UNDERLINE.match(line_after.strip())) and text != ""
        if is_heading:
            in_list_section = text.lower().rstrip(":") in _LIST_SECTIONS
        is_hidden = hidden_below >= 0 or in_list_section or in_fence or is_heading
        bullet = _BULLET.match(text)
        kept, hides = ("", False) if is_hidden else _read_line(text)
        if block and (not kept or bullet or hides or indent < block_indent):
            yield " ".join(block)
            block = []
        if kept:
            starts = not block
            block_indent = indent + (bullet.end() if bullet else 0) if starts else block_indent
            block.append(kept)
        if hides:
            hidden_below = indent
    if block:
        yield " ".join(block)


def _read_line(text: str) -> tuple[str, bool]:
    """Return the part of a line that may be prose, and whether what is indented below is hidden."""
    directive = _DIRECTIVE.match(text)
    if directive:
        is_prose_below = directive[1].lower() in _PROSE_DIRECTIVES
        return (directive[2], False) if is_prose_below else ("", True)
    section = _SECTION.match(text)
    if section and section[1].lower() in _LIST_SECTIONS:
        return "", True
    if section and section.end() == len(text):
        return "", False
    if _NOT_PROSE.match(text) or _UNDERLINE.match(text) or text.startswith(("```", "~~~")):
        return "", text.startswith((":", "@", ".. "))
    bullet = _BULLET.match(text)
    text = text[bullet.end() :] if bullet else text
    return (text[:-1], True) if text.endswith("::") else (text, False)


def unwrap_markup(text: str) -> str:
    """Return a text without the markup of reStructuredText and Markdown.

    Example:
        >>> unwrap_markup("See :class:`~a.b.Linear` or  ``c``, the `Guide <http://x>`_.")
        'See Linear or c, the Guide.'
    """
    if _ANY_MARKUP.search(text):
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
    return _SPACE_BEFORE.sub(r"\1", " ".join(text.split()))


def _may_be_prose(block: str) -> bool:
    """Return False where `is_prose` certainly will, whatever markup is unwrapped."""
    return block.count(" ") >= 5 and block[-1] in "\"'.!?”’)]`*_:"


def is_prose(text: str) -> bool:
    """Return whether a paragraph is whole sentences of English.

    Example:
        >>> is_prose("This is the sum of all the numbers in the list.")
        True
        >>> is_prose("x : int, optional"), is_prose("Die Summe aller Zahlen in der Liste.")
        (False, False)
    """
    words = _WORD.findall(text)
    if len(words) < 6 or not text[0].isupper() or not _SENTENCE_END.search(text):
        return False
    num_letters = sum(map(len, words))
    num_function_words = sum(map(_FUNCTION_WORDS.__contains__, map(str.lower, words)))
    num_shouted = sum(map(len, filter(str.isupper, words)))
    return (
        num_letters > 0.74 * len(text)
        and num_function_words >= 0.25 * len(words)
        and num_shouted <= 0.15 * num_letters
        and len(_CODE.findall(text)) <= 0.06 * len(words)
    )
