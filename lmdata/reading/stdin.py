"""What standard input is, by its first bytes."""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import sys
from collections.abc import Collection

from lmdata.settings import Compression, CorpusConfig, Format, stdin_kind
from lmdata.stored import CompressionError, Decompressed

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


def find_stdin_kind(config: CorpusConfig) -> tuple[Format, Compression | None]:
    """Return the format and compression of standard input: what settings say, or its bytes."""
    if config.stdin_format == "auto":
        return detect_kind(_peek_stdin())
    return stdin_kind(config.stdin_format)


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


def describe_stdin(format_: Format, compression: Compression | None, config: CorpusConfig) -> str:
    """Return what standard input was taken for by its first bytes, and how to have it otherwise."""
    packed = f".{compression}" if compression else ""
    if format_ in ("parquet", "arrow"):
        return f"standard input is read as {format_}{packed}"
    if format_ != "txt":
        return (
            f"standard input is read as {format_}{packed}; --set "
            f"corpus.stdin_format=txt{packed} reads it as text"
        )
    head = _peek_stdin()
    head = _decompress_head(head, compression) if compression else head
    table = name_table(head, (config.text_field,))
    advice = (
        f"it begins as a table with a column {config.text_field!r} does: --set "
        f"corpus.stdin_format={table}{packed} reads that"
        if table
        else f"--set corpus.stdin_format=csv{packed} (or tsv, jsonl, ...) reads it as that"
    )
    return f"standard input is read as plain text, {_DOCUMENTS[config.documents]}; {advice}"


_DOCUMENTS = {
    "file": "one document",
    "blank-line": "a document between blank lines",
    "line": "a document a line",
}


def name_table(head: bytes, fields: Collection[str]) -> Format | None:
    """Return the kind of table whose header the first line is, if it names one of some fields.

    Example:
        >>> name_table(b"id,text", ["text"]), name_table(b"The text, and more", ["text"])
        ('csv', None)
    """
    line = head.removeprefix(codecs.BOM_UTF8).split(b"\n", 1)[0].decode("utf-8", "replace")
    kinds: dict[str, Format] = {",": "csv", "\t": "tsv"}
    for delimiter, kind in kinds.items():
        cells = [cell.strip().strip('"') for cell in line.split(delimiter)]
        if len(cells) > 1 and any(field in cells for field in fields):
            return kind
    return None


def _decompress_head(head: bytes, compression: Compression) -> bytes:
    """Return the first bytes of what compressed data begins with, or none."""
    with contextlib.suppress(CompressionError):  # the reader says what is wrong, or needs more
        return Decompressed(io.BytesIO(head), compression).read(1 << 10)
    return b""


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
