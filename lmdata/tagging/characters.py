"""What each character is to the rules, as bits of a table over all of Unicode."""

from __future__ import annotations

import functools
import re
import unicodedata

import numpy as np
import numpy.typing as npt

# The first four are also said of words, where all characters are so (a letter: any).
HAS_LETTER, IS_SYMBOL, ENDS_SENTENCE, IS_PUNCTUATION = 1, 2, 4, 8
SPACE, WORD, DIGIT, ENDS_LINE = 16, 32, 64, 128
NUM_CODES = 0x110000


def _characters(ranges: str) -> frozenset[str]:
    """Return the characters of ranges in hexadecimal.

    Example:
        >>> sorted(_characters("41-43 61"))
        ['A', 'B', 'C', 'a']
    """
    bounds = [[int(bound, 16) for bound in part.split("-")] for part in ranges.split()]
    return frozenset(chr(code) for pair in bounds for code in range(pair[0], pair[-1] + 1))


# Characters that end a sentence in any script, as datatrove 0.10 has them.
TERMINALS = _characters(
    "21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 "
    "166e 1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f "
    "1b7d-1b7e 1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff "
    "a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 "
    "fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 "
    "110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9 "
    "1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 11a42-11a43 "
    "11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 "
    "16e98 1bc9f 1da88 "
)
# Characters of which words are symbols: the same, other punctuation and control characters.
SYMBOLS = TERMINALS | _characters(
    "0-8 b-1f 22-2d 2f 3a-3e 40 5b-60 7b-9f ab b4 bb 2013-2014 2019 201c-201e 2026 2236 2501 "
    "25ba 3001 3008-300d 3010-3011 ff05 ff08-ff09 ff0c ff11 ff1a-ff1b ff5e "
)
LINE_ENDS = _characters("a-d 1c-1e 85 2028-2029")  # as str.splitlines has them


@functools.cache
def character_bits() -> npt.NDArray[np.uint8]:
    """Return what each code point is, uint8 (NUM_CODES,), by the Unicode database of this Python.

    Example:
        >>> bits = character_bits()
        >>> [int(bits[ord(character)]) for character in "a5 ."]
        [33, 96, 16, 14]
    """
    bits = np.zeros(NUM_CODES, np.uint8)
    codes = (code if not 0xD800 <= code < 0xE000 else 0 for code in range(1 << 17))
    text = "".join(map(chr, codes))
    for kind, pattern in ((WORD, r"\w+"), (SPACE, r"\s+")):
        for match in re.finditer(pattern, text):
            bits[match.start() : match.end()] = kind
    words = np.flatnonzero(bits & WORD).tolist()
    bits[[code for code in words if text[code].isalpha()]] |= HAS_LETTER
    bits[[match.start() for match in re.finditer(r"\d", text)]] |= DIGIT
    others = np.flatnonzero(bits[: len(text)] == 0).tolist()
    marks = [code for code in others if unicodedata.category(text[code])[0] == "P"]
    bits[[*marks, ord("_")]] |= IS_PUNCTUATION
    for kind, characters in (
        (ENDS_SENTENCE, TERMINALS), (IS_SYMBOL, SYMBOLS), (ENDS_LINE, LINE_ENDS)
    ):  # fmt: skip
        bits[[ord(character) for character in characters]] |= kind
    for code in range(1 << 17, 1 << 18):  # ideographs; what lies behind is in no word
        if unicodedata.category(chr(code)) == "Lo":
            bits[code] = WORD | HAS_LETTER
    return bits
