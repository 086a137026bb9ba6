"""Bytes of a source -> blocks of whole lines in UTF-8, in bounded memory."""

from __future__ import annotations

import codecs
import re
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from lmdata.errors import CorpusError
from lmdata.reading.records import Reading, Records, no_records
from lmdata.reading.sources import Source
from lmdata.settings import CorpusConfig
from lmdata.stored import (
    DEFAULT_WINDOW_BYTES,
    CompressionError,
    Decompressed,
    WindowError,
)
from lmdata.text_marks import marked_encoding, name_utf16

CHUNK_BYTES = 4 << 20
# A copy on disk may take so many times what is stored; text takes up to some 30 times as much.
_MAX_EXPANSION, _MIN_COPY_BYTES = 200, 1 << 30
_WINDOW_DOCUMENTS = 3  # the memory of a reader, in documents of the largest size
# What is decompressed at once, and so lost in front of a damage: small; it costs no speed.
_STEP_BYTES = 256 << 10
_SURROGATES = re.compile("[\ud800-\udfff]")


class DamagedError(CorpusError):
    """Stored data that can't be read on from here; `reason` is what the ledger calls it."""

    def __init__(self, message: str, reason: str = "damaged") -> None:
        super().__init__(message)
        self.reason = reason


class ByteStream:
    """The decompressed bytes that a reading is of, and how much of the file they took.

    A context manager that closes the file; standard input stays open.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading, self.source = reading, reading.source
        self._damage: DamagedError | None = None
        self._left = None if reading.stop is None else reading.stop - reading.start
        self._file = _open(reading.source)
        self._reader = self._file
        if reading.source.compression:
            # What decompressing refers back to may take as much memory as a reader has anyway.
            window_bytes = max(
                DEFAULT_WINDOW_BYTES, _WINDOW_DOCUMENTS * reading.config.max_document_bytes
            )
            self._reader = Decompressed(self._file, reading.source.compression, window_bytes)
        if reading.start:
            self._file.seek(reading.start)

    def read(self, num_bytes: int) -> bytes:
        """Return exactly `num_bytes` bytes, fewer only at the end.

        Raises:
            DamagedError: the compressed data is truncated or broken, and all before was returned
        """
        if self._left is not None:
            num_bytes = min(num_bytes, self._left)
        parts: list[bytes] = []
        wanted = num_bytes
        while wanted > 0 and not self._damage:
            part = self._read_some(wanted)
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
        if self._damage and not parts:
            raise self._damage
        if self._left is not None:
            self._left -= num_bytes - wanted
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def tell_stored(self) -> int:
        """Return how many bytes of the file, as stored, have been read; 0 for a pipe."""
        return int(self._file.tell()) if self.source.path else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.source.path:
            self._file.close()

    def _read_some(self, num_bytes: int) -> bytes:
        """Return some bytes; none at the end or, noting it in `_damage`, where data is damaged."""
        try:
            data = bytes(
                self._reader.read(
                    min(num_bytes, _STEP_BYTES) if self.source.compression else num_bytes
                )
            )
        except OSError as error:
            raise CorpusError(f"can't read {self.source}: {error.strerror or error}") from error
        except WindowError as error:
            wanted = -(-error.num_bytes // _WINDOW_DOCUMENTS)
            self._damage = DamagedError(
                f"{self.source} can't be decompressed in the memory of a reader: {error}; raise "
                f"it by --set corpus.max_document_bytes={wanted}, and the memory for it, or "
                f"compress the file with a smaller window",
                "too-large",
            )
        except CompressionError as error:
            self._damage = DamagedError(
                f"{self.source} is truncated or not valid .{self.source.compression}: {error}; "
                f"get it again"
            )
        else:
            if not data and isinstance(self._reader, Decompressed):
                self._count_ignored(self._reader)
            return data
        return b""

    def _count_ignored(self, reader: Decompressed) -> None:
        """Count what the format's own program ignores behind the last stream, as one record."""
        if reader.num_ignored_bytes:
            self.reading.rejections.add("trailing-garbage", 1, reader.num_ignored_bytes)
            reader.num_ignored_bytes = 0


def _open(source: Source) -> Any:
    """Return the stored file, open to read."""
    if source.path is None:
        return sys.stdin.buffer
    try:
        return source.path.open("rb", buffering=0)
    except OSError as error:
        raise CorpusError(f"can't open {source}: {error.strerror or error}") from error


def spool(reading: Reading) -> Generator[Records, None, pa.NativeFile]:
    """Return a file of the decompressed bytes: the source itself, or a mapped copy on disk.

    What was read of the source is yielded meanwhile.

    Raises:
        CorpusError: the source can't be opened, or there is no room for the copy
        DamagedError: the compressed data is truncated, broken or more than a copy may take
    """
    source = reading.source
    if source.compression is None:
        try:
            if isinstance(source.path, Path):
                return pa.memory_map(str(source.path))
            if source.path is not None and source.format == "parquet":  # of which parts are read
                return pa.PythonFile(source.path.open("rb"), mode="r")
        except OSError as error:
            raise CorpusError(f"can't open {source}: {error}") from error
    with ByteStream(reading) as stream, tempfile.NamedTemporaryFile() as copy:
        limit = max(_MIN_COPY_BYTES, _MAX_EXPANSION * source.size_bytes)
        num_stored = 0
        while chunk := stream.read(CHUNK_BYTES):
            if copy.tell() + len(chunk) > limit:
                raise DamagedError(
                    f"{source} holds more than {limit >> 20} MiB where {source.size_bytes} bytes "
                    "are stored: if that is right, decompress it yourself",
                    "too-large",
                )
            try:
                copy.write(chunk)
                copy.flush()
            except OSError as error:
                raise CorpusError(
                    f"can't keep {source}, decompressed, in {tempfile.gettempdir()}: "
                    f"{error.strerror}; decompress it yourself, or set TMPDIR to a larger disk"
                ) from error
            yield no_records(stream.tell_stored() - num_stored)
            num_stored = stream.tell_stored()
        return pa.memory_map(copy.name)


def read_utf8(stream: ByteStream, config: CorpusConfig) -> Iterator[bytes]:
    """Yield the text of a stream as UTF-8, in pieces that never cut a character.

    A byte-order mark at the beginning is removed. With `errors = "skip"`, what can't be decoded
    stays in the text as bytes that are not UTF-8, so that the document it is in can be found.

    Raises:
        CorpusError: the text can't be decoded and `errors` is "strict"
        DamagedError: the compressed data is truncated or broken
    """
    head = stream.read(CHUNK_BYTES)
    encoding = config.encoding
    if encoding == "auto":
        encoding = marked_encoding(head)
    is_utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")
    if is_utf8 and config.errors == "strict" and (found := name_utf16(head)):
        raise CorpusError(
            f"{stream.source} looks like UTF-16 without a byte-order mark, every second byte is "
            f"zero: name its --encoding {found}"
        )
    decode = (
        _make_utf8_checker(stream, config) if is_utf8 else _make_decoder(stream, config, encoding)
    )
    chunk = head
    is_first = True
    while True:
        text = decode(chunk)
        if is_first and text:
            text = text.removeprefix(codecs.BOM_UTF8)
            is_first = False
        if text:
            yield text
        if not chunk:
            return
        chunk = stream.read(CHUNK_BYTES)


def is_utf8(
    text: bytes | np.ndarray[Any, Any], offsets: np.ndarray[Any, Any] | None = None
) -> bool:
    r"""Return whether every document of a text is valid UTF-8.

    Example:
        >>> is_utf8(b"a\xc3\xa9"), is_utf8(b"\xc3"), is_utf8(b"\xed\xa0\x80")
        (True, False, False)
    """
    if offsets is None:
        offsets = np.array([0, len(text)], np.int64)
    strings = pa.LargeStringArray.from_buffers(
        len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(text)
    )
    try:
        strings.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _make_utf8_checker(stream: ByteStream, config: CorpusConfig) -> Callable[[bytes], bytes]:
    """Return a function that maps chunks (b"" at the end) to checked UTF-8."""
    carry = b""
    num_done = 0

    def check(chunk: bytes) -> bytes:
        nonlocal carry, num_done
        whole = carry + chunk if carry else chunk
        cut = len(whole) - (_incomplete_length(whole) if chunk else 0)
        text, carry = whole[:cut], whole[cut:]
        if config.errors != "skip" and not is_utf8(text):
            if config.errors == "strict":
                _refuse(stream, text, num_done)
            text = text.decode("utf-8", "replace").encode()
        num_done += cut
        return text

    return check


def _refuse(stream: ByteStream, text: bytes, num_before: int) -> None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        bom = "utf-8" if num_before else marked_encoding(text)
        advice = (
            f"its byte-order mark says --encoding {bom}"
            if bom != "utf-8"
            else ("name its --encoding (such as cp1252, cp932, utf-16)")
        )
        raise CorpusError(
            f"{stream.source} is not UTF-8 at byte {num_before + error.start} "
            f"(0x{text[error.start]:02x}): {advice}, or take --errors replace or skip"
        ) from error


def _incomplete_length(chunk: bytes) -> int:
    r"""Return how many bytes at the end begin a character that is not complete.

    Example:
        >>> _incomplete_length(b"ab\xe3\x81"), _incomplete_length("é".encode())
        (2, 0)
    """
    for length in range(1, min(4, len(chunk) + 1)):
        byte = chunk[-length]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return length if length < needed else 0
        if byte < 0x80:
            return 0
    return 0


def _mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    """Replace undecodable bytes by a lone surrogate, which is not UTF-8 when encoded."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udfff", error.end


codecs.register_error("lmdata.mark", _mark_undecodable)


def _make_decoder(
    stream: ByteStream, config: CorpusConfig, encoding: str
) -> Callable[[bytes], bytes]:
    """Return a function that maps chunks (b"" at the end) in any encoding to UTF-8."""
    handler = "lmdata.mark" if config.errors == "skip" else config.errors
    decoder = codecs.getincrementaldecoder(encoding)(handler)
    num_fed = 0

    def decode(chunk: bytes) -> bytes:
        nonlocal num_fed
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            at = num_fed + len(chunk) - len(error.object) + error.start
            raise CorpusError(
                f"{stream.source} is not {encoding} at byte {at} ({error.reason}): "
                f"name another --encoding, or take --errors replace or skip"
            ) from error
        except UnicodeError as error:  # of UTF-16 and UTF-32
            raise DamagedError(
                f"{stream.source} is not {encoding}: it begins with no byte-order mark; name the "
                f"order of its bytes, as in --encoding {encoding}-le",
                "not-utf-8",
            ) from error
        num_fed += len(chunk)
        return _encode_whole(text, stream.source, config, encoding)

    return decode


def _encode_whole(text: str, source: Source, config: CorpusConfig, encoding: str) -> bytes:
    """Return a decoded text as UTF-8; half a character (of UTF-7) is what `errors` says."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        if config.errors == "strict":
            unit = f"U+{ord(text[error.start]):04X}"
            raise CorpusError(
                f"{source} is {encoding} of half a character, {unit}: name another --encoding, "
                f"or take --errors replace or skip"
            ) from error
    if config.errors == "replace":
        return _SURROGATES.sub("\ufffd", text).encode()
    return text.encode("utf-8", "surrogatepass")


def unify_newlines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    r"""Yield the pieces with CRLF and lone CR as LF.

    Example:
        >>> b"".join(unify_newlines(iter([b"a\r", b"\nb\rc\n"])))
        b'a\nb\nc\n'
    """
    pending = b""
    for piece in pieces:
        piece = pending + piece if pending else piece
        pending = b"\r" if piece.endswith(b"\r") else b""
        if b"\r" in piece:
            piece = piece[: len(piece) - len(pending)]
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if piece:
            yield piece
    if pending:
        yield b"\n"
