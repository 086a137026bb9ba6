"""What standard input is, by its first bytes."""

from __future__ import annotations

import contextlib
import io
import re
import sys

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
