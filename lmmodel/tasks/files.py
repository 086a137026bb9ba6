"""Task files as bytes, text and JSON, in bounded memory, and what single values must be."""

from __future__ import annotations

import codecs
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmdata.reading.sources import COMPRESSIONS
from lmdata.stored import CompressionError, read_decompressed
from lmmodel.errors import TaskError

AUTO = "auto"
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# What a task file may unfold to. A table of Python values takes some ten times as much memory.
MAX_BYTES = 512 << 20
# Texts come to a third of their size and less, never to a thousandth: small files stay small.
LEAST_LIMIT = 64 << 20
MAX_UNFOLDING = 200
MAX_TEXT = 2_000_000  # characters of one text


def _limit(path: Path) -> int:
    """Return how many bytes a file may unfold to."""
    if path.suffix.lower() not in COMPRESSIONS or not path.is_file():
        return MAX_BYTES
    return min(MAX_BYTES, max(LEAST_LIMIT, MAX_UNFOLDING * path.stat().st_size))


def read_bytes(path: Path) -> bytes:
    """Return what a file holds, decompressed where its name says so.

    Raises:
        TaskError: it is missing, unreadable, damaged, or unfolds to more than is read
    """
    try:
        return read_decompressed(path, _limit(path))
    except OSError as error:
        raise TaskError(f"can't read {path}: {error.strerror or error}") from error
    except CompressionError as error:
        suffix = path.suffix if path.suffix.lower() in COMPRESSIONS else "task file"
        raise TaskError(
            f"{path} is truncated or not valid {suffix}, or too large: {error}; get it again, or "
            "take a part of it"
        ) from error


def read_text(path: Path, encoding: str = AUTO, *, keeps_line_ends: bool = False) -> str:
    """Return the text of a file, without a byte-order mark, lines ended by a line feed.

    Args:
        path: of the file, compressed or not
        encoding: a Python codec; auto: what the mark says, else UTF-8
        keeps_line_ends: leave those of Windows as they are

    Raises:
        TaskError: it is missing, damaged, too large or of another encoding
    """
    text = decode(str(path), read_bytes(path), encoding)
    return text if keeps_line_ends else text.replace("\r\n", "\n")


def decode(name: str, data: bytes, encoding: str = AUTO) -> str:
    r"""Return the text of bytes, without a byte-order mark.

    Args:
        name: of the file, for errors
        data: of it
        encoding: a Python codec; auto: what the mark says, else UTF-8

    Raises:
        TaskError: they are of another encoding

    Example:
        >>> decode("a.txt", b"\xff\xfea\x00"), decode("a.txt", b"\xe4", "cp1252")
        ('a', 'ä')
    """
    chosen = encoding
    if encoding == AUTO:
        chosen = next((codec for mark, codec in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(chosen).removeprefix("\ufeff")
    except UnicodeError as error:
        place = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        shown = "UTF-8" if chosen == "utf-8" else chosen
        raise TaskError(
            f"{name} is not {shown}{place}: name its --encoding (such as cp1252, cp932, utf-16)"
        ) from error


def parse_json(path: Path, text: str, line: int) -> Any:
    """Return the value of a JSON text that begins at a line.

    Raises:
        TaskError: it is not valid, nested too deeply, or holds a number of thousands of digits
    """
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        number = line + error.lineno - 1
        raise TaskError(f"{path}, line {number} is not JSON: {error.msg}") from error
    except UnicodeEncodeError as error:
        raise TaskError(
            f"{path}, line {line} holds half a character, \\u{ord(error.object[error.start]):x}: "
            "mend the escape"
        ) from error
    except RecursionError as error:
        raise TaskError(f"{path}, line {line} is nested too deeply") from error
    except ValueError as error:  # Python's limit
        raise TaskError(
            f"{path}, line {line} holds a number of more than {sys.get_int_max_str_digits()} "
            "digits: mend it"
        ) from error


def suggest(name: str, known: Sequence[str]) -> str:
    """Return a clause that names the near match, or nothing.

    Example:
        >>> suggest("entailmnt", ["entailment", "neutral"])
        "; did you mean 'entailment'?"
    """
    close = difflib.get_close_matches(name[:100], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def describe(value: Any) -> str:
    """Return a value for an error, however long it is.

    Example:
        >>> describe(None), describe(""), describe(0.5)
        ('missing', 'empty', "'0.5'")
    """
    if value is None:
        return "missing"
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    return "empty" if value == "" else f"{str(value)[:40]!r}"


def parse_text(where: str, name: str, value: Any) -> str:
    """Return a text without the white space around it; where there is none, an empty one.

    Raises:
        TaskError: it is no text, or too long
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TaskError(f"{where}: {name!r} is {describe(value)}, a text is wanted")
    if len(value) > MAX_TEXT:
        raise TaskError(
            f"{where}: {name!r} has {len(value):,} characters, at most {MAX_TEXT:,} are read: cut "
            "it into several"
        )
    return value.strip()
