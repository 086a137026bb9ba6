"""What a stored file holds: decompressed as the format's own program does it, in bounded memory.

What `gzip`, `bzip2`, `xz` or `zstd` decompresses, at most with a warning, is read whole; what it
refuses is damage here too, also a file of no bytes. So a file may hold several members, streams or
frames, empty ones among them, and in between and behind them what the format allows:

| format | between and behind streams |
| --- | --- |
| gz | zero bytes (gzip itself reads no member behind them), then as bz2, if no member is in it |
| bz2 | whatever begins no stream: it is ignored with all that follows, and counted |
| xz | zero bytes, four or a multiple of four of them |
| zst | skippable frames |

A decoder gives out at most what it was asked for, and takes no more memory than it was allowed.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import zstandard

_PIECE_BYTES = 64 << 10
_MAX_ZSTD_HEADER_BYTES = 18
_MAX_ZSTD_WINDOW_BYTES = 2 << 30  # of `zstd -d --long=31`, which takes no larger one
_MOST_HEADER_BYTES = 64  # of a stream, as far as it says what the stream is
_MAX_ZSTD_BLOCK_BYTES = 128 << 10
_SKIPPABLE = tuple(bytes([low, 0x2A, 0x4D, 0x18]) for low in range(0x50, 0x60))

_GZIP_MAGIC = b"\x1f\x8b\x08"
_GZIP_MEMBER = re.compile(re.escape(_GZIP_MAGIC) + rb"[\0-\x1f]")  # with its flags

_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
_MAX_LFS_POINTER_BYTES = 1024

DEFAULT_WINDOW_BYTES = 128 << 20
"""Memory that a decoder may take for what it refers back to: what `zstd -d` allows."""


class CompressionError(Exception):
    """Compressed data that is truncated or broken; the text says how."""


class WindowError(CompressionError):
    """Compressed data that takes more memory to decompress than is allowed.

    Args:
        num_bytes: that its window takes
        num_allowed: what it may take
    """

    def __init__(self, num_bytes: int, num_allowed: int) -> None:
        super().__init__(
            f"it takes a window of {-(-num_bytes >> 20)} MiB to decompress, "
            f"{num_allowed >> 20} MiB are allowed"
        )
        self.num_bytes = num_bytes


class _Decoder(Protocol):
    """One stream on its way, as `bz2.BZ2Decompressor` and `lzma.LZMADecompressor` are."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Decompressed:
    """The decompressed bytes of a file, in order, as a file to read.

    Args:
        file: the stored bytes: `read(n)` gives at most n, none at the end
        compression: gz, bz2, xz or zst
        max_window_bytes: memory that the format's window or dictionary may take
    """

    def __init__(
        self, file: Any, compression: str, max_window_bytes: int = DEFAULT_WINDOW_BYTES
    ) -> None:
        self._file, self._format = file, _FORMATS[compression]
        self._max_window_bytes = max_window_bytes
        self._decoder: _Decoder | None = None
        self._stored = b""  # read from the file, not yet given to a decoder
        self._head = b""  # of the stream in hand
        self._has_begun = self._is_over = False
        self.num_ignored_bytes = 0
        """Stored bytes behind the last stream that are no stream, so far."""

    def read(self, num_bytes: int) -> bytes:
        """Return at least one byte and at most `num_bytes`, none at the end.

        Raises:
            CompressionError: the data is truncated or broken, and all before was returned
            WindowError: it takes more memory than allowed
            OSError: the file can't be read
        """
        while not self._is_over:
            if self._decoder is None:
                self._begin_stream()
            elif data := self._decode(self._decoder, num_bytes):
                return data
        return b""

    def _decode(self, decoder: _Decoder, num_bytes: int) -> bytes:
        """Return what one call of the decoder gives, maybe nothing."""
        stored = b""
        if decoder.needs_input:
            stored, self._stored = self._stored or self._file.read(_PIECE_BYTES), b""
        is_last = decoder.needs_input and not stored
        try:
            data = decoder.decompress(stored, num_bytes)
        except self._format.errors as error:
            raise _explain(error, self._head, self._max_window_bytes) from error
        if decoder.eof:
            self._stored, self._decoder = decoder.unused_data, None
        elif is_last and not data:
            raise CompressionError("it ends in the middle of a stream")
        return data

    def _begin_stream(self) -> None:
        """Make a decoder for the next stream, or note that none follows."""
        num_zeros = self._skip_zeros() if self._has_begun and self._format.padding else 0
        head = self._peek(_MOST_HEADER_BYTES)
        if num_zeros % max(self._format.padding, 1):
            raise CompressionError(
                f"{num_zeros} zero bytes lie behind a stream, not a multiple of "
                f"{self._format.padding}"
            )
        if not head and not self._has_begun:
            raise CompressionError(f"it is empty, it has no .{self._format.suffix} header")
        if not head:
            self._is_over = True
        elif self._has_begun and not self._format.may_begin(head):
            self._ignore_rest()
        else:
            self._has_begun, self._head = True, head
            self._decoder = self._format.make_decoder(self._max_window_bytes)

    def _peek(self, num_bytes: int) -> bytes:
        """Return the next stored bytes without taking them, fewer at the end."""
        while len(self._stored) < num_bytes and (piece := self._file.read(_PIECE_BYTES)):
            self._stored += piece
        return self._stored[:num_bytes]

    def _skip_zeros(self) -> int:
        count = 0
        while self._peek(1) == b"\0":
            rest = self._stored.lstrip(b"\0")
            count += len(self._stored) - len(rest)
            self._stored = rest
        return count

    def _ignore_rest(self) -> None:
        """Pass over what is no stream, unless one begins in it, which would be lost."""
        last, lost = b"", self._format.lost
        while self._stored:
            if lost is not None and lost.search(last + self._stored):
                raise CompressionError("between two streams are bytes of none")
            self.num_ignored_bytes += len(self._stored)
            last = self._stored[-3:]
            self._stored = self._file.read(_PIECE_BYTES)
        self._is_over = True


def read_decompressed(path: Path, max_bytes: int) -> bytes:
    """Return all bytes of a compressed file, by the ending of its name; of a plain one, as it is.

    Args:
        path: of the file; one that ends in .gz, .bz2, .xz or .zst is decompressed
        max_bytes: how many there may be

    Raises:
        CompressionError: it is truncated, broken or too large
        OSError: it can't be read
    """
    compression = path.suffix.lower().removeprefix(".")
    parts: list[bytes] = []
    with path.open("rb", buffering=0) as stored:
        file = Decompressed(stored, compression) if compression in _FORMATS else stored
        num_left = max_bytes
        while piece := file.read(min(num_left, 4 << 20) + 1):
            parts.append(piece)
            num_left -= len(piece)
            if num_left < 0:
                raise CompressionError(f"it holds more than the {max_bytes} bytes that are allowed")
    return b"".join(parts)


def is_lfs_pointer(path: Any) -> bool:
    """Return whether a file is only the pointer that Git LFS keeps in place of a large one.

    Raises:
        OSError: it can't be read
    """
    with path.open("rb") as file:
        head = file.read(_MAX_LFS_POINTER_BYTES)
    return len(head) < _MAX_LFS_POINTER_BYTES and head.startswith(_LFS_POINTER)


def _explain(error: Exception, head: bytes, max_window_bytes: int) -> CompressionError:
    """Return our error for one of a decoder of a stream that begins with `head`."""
    if isinstance(error, CompressionError):
        return error
    if isinstance(error, lzma.LZMAError) and "emory usage limit" in str(error):
        return WindowError(_xz_window_bytes(head), max_window_bytes)
    return CompressionError(str(error))


def _xz_window_bytes(head: bytes) -> int:
    r"""Return the size of the dictionary that the first block of an .xz stream names.

    It stands in the byte behind the number of the last filter, LZMA2, and the length 1 (the .xz
    file format, 3.1 and 5.3.1); the most there is, where none is found.

    Example:
        >>> _xz_window_bytes(bytes(12) + b"\x02\0\x21\x01\x1c") >> 20
        64
    """
    header = head[12 : 12 + 4 * (head[12] + 1)] if len(head) > 12 else b""
    at = header.rfind(b"\x21\x01") + 2
    size = header[at] if 2 <= at < len(header) else 40
    return (2 | size & 1) << (size // 2 + 11) if size < 40 else (4 << 30) - 1


class _GzipMember:
    """A decoder of one gzip member."""

    needs_input = True

    def __init__(self, max_window_bytes: int) -> None:
        self._inner = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        data = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = not self._inner.unconsumed_tail
        return data

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


class _ZstdFrame:
    """A decoder of one Zstandard frame, block by block: one gives 128 KiB at most (RFC 8878)."""

    def __init__(self, max_window_bytes: int) -> None:
        self._max_window_bytes = max_window_bytes
        self._inner: Any = None  # None before the header was read
        self._stored, self._at = b"", 0  # stored bytes in hand, and how far they were decoded
        self._ready = b""  # decoded, not given out yet
        self._num_left: int | None = None  # of a skippable frame: stored bytes to come
        self._num_after = 0  # bytes of the checksum
        self._num_decoded, self._content_size = 0, zstandard.CONTENTSIZE_UNKNOWN
        self._is_complete, self._is_stuck = False, True

    @property
    def eof(self) -> bool:
        return self._is_complete and not self._ready

    @property
    def needs_input(self) -> bool:
        return self._is_stuck and not self._ready

    @property
    def unused_data(self) -> bytes:
        return self._stored[self._at :]

    def decompress(self, data: bytes, max_length: int) -> bytes:
        is_last = self.needs_input and not data
        if self.needs_input:
            self._stored, self._at, self._is_stuck = self.unused_data + data, 0, False
        while not (self._ready or self._is_complete or self._is_stuck):
            self._is_stuck = not self._step(is_last)
        given, self._ready = self._ready[:max_length], self._ready[max_length:]
        return given

    def _step(self, is_last: bool) -> bool:
        """Decode the next whole part of the frame; return whether it was at hand."""
        if self._num_left is not None:
            return self._skip(self._num_left)
        if self._inner is None:
            return self._begin(is_last)
        header = int.from_bytes(self._stored[self._at : self._at + 3], "little")
        is_last_block, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == 3 or size > _MAX_ZSTD_BLOCK_BYTES or (kind == 2 and size == 0):
            raise CompressionError("a block of a frame is broken")
        stop = self._at + 3 + (1 if kind == 1 else size) + (self._num_after * is_last_block)
        if len(self._stored) < max(stop, self._at + 3):
            return False
        self._ready = self._inner.decompress(self._stored[self._at : stop])
        self._at = stop
        self._num_decoded += len(self._ready)
        self._is_complete = bool(is_last_block)
        if self._is_complete and self._content_size not in (
            self._num_decoded,
            zstandard.CONTENTSIZE_UNKNOWN,
        ):
            raise CompressionError("a frame is not of the size that its header says")
        return True

    def _begin(self, is_last: bool) -> bool:
        """Read the frame's header."""
        head = self._stored[self._at : self._at + _MAX_ZSTD_HEADER_BYTES]
        if len(head) < _MAX_ZSTD_HEADER_BYTES and not is_last:
            return False
        if head.startswith(_SKIPPABLE):
            self._num_left = 8 + int.from_bytes(head[4:8], "little")
            return len(head) >= 8
        header, size = zstandard.get_frame_parameters(head), zstandard.frame_header_size(head)
        if header.window_size > _MAX_ZSTD_WINDOW_BYTES:
            raise CompressionError(
                f"it takes a window of {header.window_size >> 20} MiB, which nothing decompresses"
            )
        if header.window_size > self._max_window_bytes:
            raise WindowError(header.window_size, self._max_window_bytes)
        self._num_after, self._content_size = 4 * header.has_checksum, header.content_size
        limit = min(max(self._max_window_bytes, 1 << 10), _MAX_ZSTD_WINDOW_BYTES)
        self._inner = zstandard.ZstdDecompressor(max_window_size=limit).decompressobj()
        self._inner.decompress(head[:size])
        self._at += size
        return True

    def _skip(self, num_left: int) -> bool:
        """Pass over stored bytes of a skippable frame."""
        num_bytes = min(num_left, len(self._stored) - self._at)
        self._at += num_bytes
        self._num_left = num_left - num_bytes
        self._is_complete = self._num_left == 0
        return self._is_complete


def _begins_gzip(head: bytes) -> bool:
    r"""Return whether a member of gzip begins, or one whose first bytes are damaged.

    Example:
        >>> [_begins_gzip(head) for head in (b"\x1f\x8b\x08", b"?\x8b\x08", b"\x8b\x08", b"Hi")]
        [True, True, True, False]
    """
    num_right = sum(byte == right for byte, right in zip(head, _GZIP_MAGIC, strict=False))
    return num_right >= 2 or head[:2] == _GZIP_MAGIC[1:] or len(head) < 2


def _begins_bzip2(head: bytes) -> bool:
    return b"BZh".startswith(head[:3]) and head[3:4] in (b"", *(b"%d" % n for n in range(1, 10)))


def _begins_any(head: bytes) -> bool:
    return True


@dataclass(frozen=True)
class _Format:
    """How a format is decoded, and what may lie between its streams."""

    suffix: str
    make_decoder: Callable[[int], _Decoder]
    errors: tuple[type[Exception], ...]
    padding: int = 0
    """Zero bytes come in multiples of so many; 0: none may."""

    may_begin: Callable[[bytes], bool] = _begins_any
    """Whether the next bytes are to be decoded, or else ignored with all that follows."""

    lost: re.Pattern[bytes] | None = None
    """What begins a stream, and is not to be ignored with what stands before it."""


_FORMATS = {
    "gz": _Format("gz", _GzipMember, (zlib.error,), 1, _begins_gzip, _GZIP_MEMBER),
    "bz2": _Format(
        "bz2", lambda max_window_bytes: bz2.BZ2Decompressor(), (OSError, EOFError), 0,
        _begins_bzip2,
    ),
    "xz": _Format(
        "xz", lambda max_window_bytes: lzma.LZMADecompressor(memlimit=max_window_bytes + (1 << 20)),
        (lzma.LZMAError, EOFError), 4,
    ),
    "zst": _Format("zst", _ZstdFrame, (zstandard.ZstdError, CompressionError)),
}  # fmt: skip
