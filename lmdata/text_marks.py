"""What the first bytes of a text say of its encoding."""

from __future__ import annotations

import codecs

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LEAST_UTF16_BYTES = 8


def marked_encoding(head: bytes) -> str:
    r"""Return the encoding that a byte-order mark says, UTF-8 where there is none.

    Example:
        >>> marked_encoding(b"\xff\xfea\0"), marked_encoding(b"a")
        ('utf-16', 'utf-8')
    """
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")


def name_utf16(head: bytes) -> str | None:
    r"""Return the encoding of text that is UTF-16 without a byte-order mark, None of any other.

    Every second byte of it is zero, of Latin letters.

    Example:
        >>> name_utf16("text,label".encode("utf-16-le")), name_utf16("text".encode("utf-16-be"))
        ('utf-16-le', 'utf-16-be')
        >>> name_utf16(b"text"), name_utf16(bytes(8))
        (None, None)
    """
    head = head[: min(1024, len(head) & ~1)]
    zeros = head[::2].count(0), head[1::2].count(0)
    if len(head) < _LEAST_UTF16_BYTES or min(zeros) or max(zeros) < 0.45 * len(head):
        return None
    return "utf-16-le" if zeros[1] else "utf-16-be"
