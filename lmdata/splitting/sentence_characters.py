"""What a character is to the sentence rules: one class a code point."""

from __future__ import annotations

import unicodedata

import numba
import numpy as np

# OTHER is a symbol, a dash, or anything above U+FFFF. MARK belongs to what stands before it.
OTHER, LOWER, UPPER, UNCASED, DIGIT, SPACE, NEWLINE, PARAGRAPH, MARK = range(9)
# QUOTE may open or close; brackets do one. PERIOD depends on the words around it; EXCLAMATION
# much less; FULL_STOP ends a sentence even where no white space follows.
OPENER, CLOSER, QUOTE, PERIOD, EXCLAMATION, FULL_STOP, THAI = range(9, 16)

_EXPLICIT = {
    NEWLINE: "\n\u2028",
    PARAGRAPH: "\u2029",
    OPENER: "([{¿¡（［｛【《〈〔〖「『",
    CLOSER: ")]})］｝】》〉〕〗」』）",
    QUOTE: "\"'“”„‟‘’‚‛«»‹›＂＇*_",
    # ASCII, fullwidth, ellipsis, two-dot leader
    PERIOD: ".\uff0e\u2026\u2025",
    # Latin, doubled and mixed, interrobang, Arabic, Greek, fullwidth
    EXCLAMATION: "!?\u203c\u2047\u2048\u2049\u203d\u061f\u037e",
    # CJK, halfwidth, fullwidth ! and ?, Devanagari, Urdu, Armenian, Hebrew, Ethiopic, Myanmar,
    # Khmer, Mongolian, Tibetan
    FULL_STOP: "\u3002\uff61\uff01\uff1f\u0964\u0965\u06d4\u0589\u05c3\u1362\u1367\u1368"
    "\u104b\u17d4\u17d5\u1803\u1809\u0f0d\u0f0e",
}


def character_classes() -> np.ndarray:
    """Return the class of every code point below 65,536, uint8 (65536,).

    Letters and marks come from the Unicode database that Python carries.

    Example:
        >>> [int(character_classes()[ord(c)]) for c in "aA一5 ."]
        [1, 2, 3, 4, 5, 12]
    """
    by_category = {"Ll": LOWER, "Lu": UPPER, "Lt": UPPER, "Lo": UNCASED, "Lm": UNCASED}
    by_category |= {"Nd": DIGIT, "Mn": MARK, "Mc": MARK, "Cf": MARK}
    classes = np.zeros(65536, np.uint8)
    for code in range(65536):
        character = chr(code)
        classes[code] = by_category.get(unicodedata.category(character), OTHER)
        if character.isspace():
            classes[code] = SPACE
    classes[0x0E01:0x0E2F] = classes[0x0E30:0x0E46] = THAI
    classes[0x0E81:0x0EAF] = classes[0x0EB0:0x0EC6] = THAI
    for kind, characters in _EXPLICIT.items():
        classes[[ord(c) for c in characters]] = kind
    return classes


def trigger_bytes(classes: np.ndarray) -> np.ndarray:
    """Return which first bytes of a character may end a sentence, bool (256,).

    The scan looks closer only at these bytes; all others cost one table look-up each.

    Example:
        >>> triggers = trigger_bytes(character_classes())
        >>> [bool(triggers[byte]) for byte in b".!a "]
        [True, True, False, False]
    """
    ends = np.isin(classes, (NEWLINE, PARAGRAPH, PERIOD, EXCLAMATION, FULL_STOP, THAI))
    triggers = np.zeros(256, np.bool_)
    for code in np.flatnonzero(ends):
        triggers[chr(code).encode()[0]] = True
    return triggers


@numba.njit(nogil=True, cache=True)
def decode(text: np.ndarray, position: int, stop: int) -> tuple[int, int]:
    """Return the code point at a character's first byte and its length in bytes.

    A sequence cut by `stop` or a stray continuation byte is one byte of code point 0xFFFD.
    """
    first = int(text[position])
    if first < 0x80:
        return first, 1
    length = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if first < 0xC0 or position + length > stop:
        return 0xFFFD, 1
    code = first & (0x7F >> length)
    for index in range(position + 1, position + length):
        code = (code << 6) | int(text[index] & 0x3F)
    return code, length


@numba.njit(nogil=True, cache=True)
def class_at(text: np.ndarray, position: int, stop: int, classes: np.ndarray) -> tuple[int, int]:
    """Return the class of the character at `position` and its length in bytes."""
    code, length = decode(text, position, stop)
    return int(classes[code]) if code < 65536 else OTHER, length


@numba.njit(nogil=True, cache=True)
def previous(text: np.ndarray, position: int, start: int) -> int:
    """Return where the character before `position` begins, not before `start`."""
    position -= 1
    while position > start and (text[position] & 0xC0) == 0x80:
        position -= 1
    return position
