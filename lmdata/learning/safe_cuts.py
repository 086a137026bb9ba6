"""Where text may be cut before the rule of GPT-2 cuts it, with the same pieces in the end."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

# Kinds of bytes: up to 0x20, so perhaps white space; ASCII letters and digits; and so on.
SPACE, LETTER, PUNCTUATION, APOSTROPHE, OTHER = range(5)

KEEP, CUT, LOOK = range(3)

# First bytes of the UTF-8 of white space outside of ASCII (U+0085, U+00A0, U+1680, U+2000, ...).
_LEADS_OF_SPACES = (0xC2, 0xE1, 0xE2, 0xE3)


def cut_chunks(text: U8, offsets: I64) -> I64:
    """Return where chunks begin, and the end: documents' offsets and every safe cut in between.

    For the rule of GPT-2 (Radford et al. 2019, `encoder.py`). A cut is safe where a match begins
    whatever comes before, and where what follows does not change the matches before:

    - before a space, if white space does not go on after it, or did not lead up to it: a space
      before a character that is not white space always begins a match;
    - between an ASCII letter or digit and ASCII punctuation: runs of one kind end there;
    - between ASCII punctuation other than an apostrophe and an ASCII letter or digit. (After an
      apostrophe the rule looks at letters and punctuation together.)

    Args:
        text: uint8 (N,), UTF-8 of all documents
        offsets: int64 (D + 1,), where documents begin

    Returns:
        int64 (C + 1,), ascending

    Example:
        >>> text = np.frombuffer(b"to be, it's to", np.uint8)
        >>> cut_chunks(text, np.array([0, 14])).tolist()  # to| be|,| it|'s| to
        [0, 2, 5, 6, 9, 11, 14]
    """
    cuts = np.empty(len(text) + len(offsets), np.int64)
    return cuts[: _cut(text, offsets.astype(np.int64), byte_kinds(), cut_rules(), cuts)]


def byte_kinds() -> U8:
    r"""Return the kind of each byte, uint8 (256,).

    Example:
        >>> [int(byte_kinds()[byte]) for byte in b" a7,'\xc3"]
        [0, 1, 1, 2, 3, 4]
    """
    kinds = np.full(256, OTHER, np.uint8)
    kinds[:0x21] = SPACE
    kinds[0x21:0x7F] = PUNCTUATION
    for first, last in ("09", "AZ", "az"):
        kinds[ord(first) : ord(last) + 1] = LETTER
    kinds[ord("'")] = APOSTROPHE
    return kinds


def cut_rules() -> U8:
    r"""Return what to do between two bytes, uint8 (256, 256): KEEP, CUT or LOOK at the next one.

    Example:
        >>> rules = cut_rules()
        >>> [int(rules[ord(left), ord(right)]) for left, right in ("ab", "a,", ",a", "'s", "a ")]
        [0, 1, 1, 0, 2]
    """
    before, here = byte_kinds()[:, None], byte_kinds()[None, :]
    rules = np.where((before == PUNCTUATION) & (here == LETTER), CUT, KEEP).astype(np.uint8)
    rules[(before == LETTER) & ((here == PUNCTUATION) | (here == APOSTROPHE))] = CUT
    rules[:, 0x20] = LOOK
    return rules


@numba.njit(cache=True, nogil=True)
def _cut(text: U8, offsets: I64, kinds: U8, rules: U8, cuts: I64) -> int:
    """Write the cuts; return how many there are."""
    size = 0
    for document in range(len(offsets) - 1):
        start, stop = offsets[document], offsets[document + 1]
        cuts[size] = start
        size += 1
        for position in range(start + 1, stop):
            rule = rules[text[position - 1], text[position]]
            if rule == CUT or (rule == LOOK and _begins_match(text, position, stop, kinds)):
                cuts[size] = position
                size += 1
    cuts[size] = offsets[-1]
    return size + 1


@numba.njit(cache=True, nogil=True)
def _begins_match(text: U8, position: Any, stop: Any, kinds: U8) -> Any:
    """Return whether the space at a position begins a match, cut there or not."""
    if position + 1 >= stop or kinds[text[position + 1]] == SPACE:
        return False
    if kinds[text[position + 1]] != OTHER or kinds[text[position - 1]] not in (SPACE, OTHER):
        return True
    return text[position + 1] not in _LEADS_OF_SPACES
