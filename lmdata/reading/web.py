"""Web archives and pages -> records: the text that a reader of a page sees.

Records of a WARC file are read by fastwarc. A page's text is what Resiliparse takes for its main
content, without menus and descriptions of pictures; the text of a WET file, which others have made
of pages, is taken as it is.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Any

from lmdata.errors import ConfigError
from lmdata.reading.records import Reading, Records, make_records
from lmdata.reading.streams import ByteStream, DamagedError
from lmdata.settings import WEB_FORMATS, Format

_PAGES = ("text/html", "application/xhtml+xml")


def describe_web(formats: set[Format]) -> dict[str, str]:
    """Return what makes text of pages, by name, where there are any.

    Raises:
        ConfigError: it is not installed
    """
    if not formats & WEB_FORMATS:
        return {}
    try:
        version = importlib.metadata.version("resiliparse")
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing("resiliparse") from error
    return {"html": f"resiliparse {version}, main content"}


def _missing(name: str) -> ConfigError:
    return ConfigError(
        f".warc, .wet and .html need {name}: pip install 'lmdata-lmmodel[web]', or leave them out"
    )


def read_html(reading: Reading) -> Iterator[Records]:
    """Yield the main text of a page as one record."""
    with ByteStream(reading) as stream:
        parts: list[bytes] = []
        num_bytes = 0
        try:
            while chunk := stream.read(1 << 20):
                num_bytes += len(chunk)
                if num_bytes > reading.config.max_document_bytes:
                    message = reading.too_large(str(reading.source), num_bytes)
                    reading.rejections.reject("too-large", num_bytes, message)
                    reading.num_seen = 1
                    return
                parts.append(chunk)
        except DamagedError as error:
            reading.rejections.reject(error.reason, num_bytes, str(error))
            return
        reading.num_seen = 1 if num_bytes else 0
        reading.count_if_empty()
        if num_bytes:
            text = page_text(b"".join(parts), None)
            yield make_records([text], [0], 1, stream.tell_stored())


def read_warc(reading: Reading) -> Iterator[Records]:
    """Yield the main text of pages, and texts that others have made of them, of a web archive.

    Positions count its responses and conversions; requests and metadata are no documents.
    """
    try:
        from fastwarc.warc import ArchiveIterator, WarcRecordType
    except ImportError as error:
        raise _missing("fastwarc") from error
    kinds = WarcRecordType.response | WarcRecordType.conversion
    with ByteStream(reading) as stream:
        tape: Any = _Tape(stream)
        archive = ArchiveIterator(tape, record_types=kinds, parse_http=True)
        texts: list[bytes] = []
        positions: list[int] = []
        num_bytes, first, stored = 0, 0, 0
        for record in _records(reading, archive, tape):
            text = _text_of(reading, record)
            if text is not None:
                texts.append(text)
                positions.append(reading.num_seen)
                num_bytes += len(text)
            reading.num_seen += 1
            if num_bytes >= reading.batch_bytes or len(texts) >= reading.max_records:
                now = stream.tell_stored()
                yield make_records(texts, positions, reading.num_seen - first, now - stored)
                texts, positions, num_bytes = [], [], 0
                first, stored = reading.num_seen, now
        reading.count_if_empty()
        now = stream.tell_stored()
        yield make_records(texts, positions, reading.num_seen - first, now - stored)


class _Tape:
    """A stream as fastwarc reads it, which takes no error: a damage ends it, and is kept."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream, self._position = stream, 0
        self.damage: DamagedError | None = None

    def read(self, num_bytes: int) -> bytes:
        """Return some bytes, none at the end or where the data is damaged."""
        try:
            data = self._stream.read(num_bytes)
        except DamagedError as error:
            self.damage = error
            return b""
        self._position += len(data)
        return data

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self._position


def _records(reading: Reading, archive: Any, tape: _Tape) -> Iterator[Any]:
    """Yield the records up to the end, or to where the archive is damaged."""
    try:
        for record in archive:
            if tape.damage is not None:  # which may have cut this one
                break
            yield record
    except (OSError, ValueError) as error:
        if tape.damage is None:
            message = f"{reading.source} is damaged after record {reading.num_seen}: {error}"
            reading.rejections.reject("damaged", 0, message)
    if tape.damage is not None:
        reading.rejections.reject(tape.damage.reason, 0, str(tape.damage))


def _text_of(reading: Reading, record: Any) -> bytes | None:
    """Return the text of a record; None where it is left out, and counted."""
    size = int(record.content_length)
    if size > reading.config.max_document_bytes:
        where = f"{reading.source} record {reading.num_seen + 1}"
        reading.rejections.reject("too-large", size, reading.too_large(where, size))
        return None
    body = record.reader.read()
    if not record.is_http:
        if str(record.record_type) == "conversion":
            return bytes(body)
        _cut(reading, len(body))
        return None
    if record.http_content_type not in _PAGES or record.http_headers.status_code != 200:
        reading.rejections.add("no-page", 1, len(body))
        return None
    return page_text(body, record.http_charset)


def _cut(reading: Reading, num_bytes: int) -> None:
    message = f"{reading.source} record {reading.num_seen + 1} has no answer of a server in it"
    reading.rejections.reject("damaged", num_bytes, message)


def page_text(page: bytes, charset: str | None) -> bytes:
    """Return the main text of an HTML page as UTF-8.

    Args:
        page: its bytes
        charset: what its server says; None: what its bytes say

    Raises:
        ConfigError: Resiliparse is not installed
    """
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    except ImportError as error:
        raise _missing("resiliparse") from error
    html = bytes_to_str(page, charset or detect_encoding(page) or "utf-8")
    text: str = extract_plain_text(html, main_content=True, alt_texts=False)
    return text.encode("utf-8", "replace")
