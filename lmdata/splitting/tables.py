"""What characters and words are to the sentence rules: a class a code point, flags a word.

The lists of words hold what dictionaries and style guides give as common abbreviations; none was
taken from an evaluation set. A word is written in lower case and without its last full stop.
"""

from __future__ import annotations

import unicodedata

import numba
import numpy as np
import numpy.typing as npt

from lmdata.intrinsics import load8, trailing_zeros

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


_ONES = np.uint64(0x0101010101010101)


def character_classes() -> np.ndarray:
    """Return the class of every code point below 65,536, uint8 (65536,).

    Letters and marks come from the Unicode database that Python carries.

    Example:
        >>> [int(character_classes()[ord(c)]) for c in "aA一5 ."]
        [1, 2, 3, 4, 5, 12]
    """
    by_category = {"Ll": LOWER, "Lu": UPPER, "Lt": UPPER, "Lo": UNCASED, "Lm": UNCASED}
    by_category |= {"Nd": DIGIT, "Mn": MARK, "Mc": MARK, "Cf": MARK}
    categories = list(map(unicodedata.category, map(chr, range(65536))))
    classes = np.array([by_category.get(category, OTHER) for category in categories], np.uint8)
    blank = [code for code, category in enumerate(categories) if category[0] in "ZC"]
    classes[[code for code in blank if chr(code).isspace()]] = SPACE
    classes[0x0E01:0x0E2F] = classes[0x0E30:0x0E46] = THAI
    classes[0x0E81:0x0EAF] = classes[0x0EB0:0x0EC6] = THAI
    for kind, characters in _EXPLICIT.items():
        classes[[ord(c) for c in characters]] = kind
    return classes


def trigger_bytes(classes: np.ndarray) -> np.ndarray:
    """Return which first bytes of a character may end a sentence, bool (256,).

    The scan looks closer only at these bytes; `next_candidate` finds all that may be some.

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
def next_candidate(text: np.ndarray, position: int, stop: int) -> int:
    """Return the next byte that `trigger_bytes` may name: a control, `.`, `!`, `?`, not ASCII.

    Eight are looked at together: in a difference with borrow, the lowest byte that is marked is
    one that is meant. A byte that is not ASCII is followed by others.

    Args:
        text: uint8 (N,), UTF-8
        position: where to begin
        stop: where to end
    """
    while position + 8 <= stop:
        chunk = load8(text, position)
        marked = chunk | ((chunk - _ONES * np.uint64(0x20)) & ~chunk)
        for code in (0x2E, 0x21, 0x3F):
            other = chunk ^ (_ONES * np.uint64(code))
            marked |= (other - _ONES) & ~other
        marked &= _ONES << np.uint64(7)
        if marked != np.uint64(0):
            return int(position + (np.int64(trailing_zeros(marked)) >> 3))
        position += 8
    return position


@numba.njit(nogil=True, cache=True)
def next_newline(text: np.ndarray, position: int, stop: int) -> int:
    """Return the next line feed, `stop` if there is none.

    Args: as `next_candidate` takes them
    """
    while position + 8 <= stop:
        other = load8(text, position) ^ (_ONES * np.uint64(0x0A))
        marked = (other - _ONES) & ~other & (_ONES << np.uint64(7))
        if marked != np.uint64(0):
            return int(position + (np.int64(trailing_zeros(marked)) >> 3))
        position += 8
    while position < stop and text[position] != 0x0A:
        position += 1
    return position


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


# ---- Words that decide whether a full stop ends a sentence

NEVER, UNLESS_STARTER, BEFORE_NUMBER, STARTER, ORDINAL_NOUN = 1, 2, 4, 8, 16

# A name or an explanation always follows: "Mr. Smith", "e.g. Python".
ALWAYS_CONTINUED = """
mr mrs ms messrs mme mlle dr drs prof rev revd fr sr sra srta hon gen lt col cpl sgt maj capt cmdr
comdr adm brig pvt gov sen rep reps sens pres amb supt insp det asst assoc dep dir
e.g i.e eg ie cf viz vs v approx ca esp incl resp
hr fr frl bzw vgl z.b d.h u.a i.d.r sog ggf evtl insb bspw st mt ft
wm chas thos geo jas jos benj edw p.ex dña ing dott sig sigg dhr mevr
т.е т.к т.н напр см тов гр ул проф акад им
"""

# It often closes a sentence: only a word that usually begins one makes the stop a boundary.
OFTEN_LAST = """
inc ltd co corp cos bros llc plc pty jr esq etc ph.d m.d b.a m.a b.sc m.sc ll.b ll.m d.c u.s u.k u.n
u.s.a u.s.s.r e.u a.m p.m b.c a.d b.c.e c.e n.y l.a d.d.s r.n n.b p.s a.k.a et.al al ave blvd rd
hwy bldg dept univ assn intl natl govt gmbh usw u.s.w str allg т.д т.п др г гг в вв н.э
"""

# It abbreviates only before a number: "No. 5", "c. 1369", "Jan. 3"; "no." alone is a word.
BEFORE_NUMBERS = """
no nos nr vol vols p pp pg ch chap sec sect art arts fig figs eq eqs ex op para par pt pts ed ser
app cl ct supp cir stat tab c b d r fl jan feb mar apr jun jul aug sep sept oct nov dec
ver ss bd kap abs abb abschn tel ext
стр рис табл гл
"""

# Capitalised, these usually open a sentence and are seldom a part of a name.
STARTERS = """
the this that these those there here it its he she they we you his her their our my your i'm i've
it's he's she's that's there's they're we're you're i'd i'll don't
a an and but or so yet nor if when while although though because since unless until after before
as at by during for from in on to with without within under over between among through however
therefore moreover furthermore meanwhile nevertheless also then thus hence both each every some
many most several few all another other such one two three what which who why how where whether
is are was were has have had do does did can could will would should may not no yes please thanks
der die das ein eine er sie es wir ich ihr dieser diese dieses dies als auch aber und nach bei
le la les un une il elle ils elles ce cette ces el los las una lo il gli
"""

# A number with a full stop is an ordinal before these: "am 3. Oktober", "im 19. Jahrhundert".
AFTER_ORDINALS = """
januar jänner februar märz april mai juni juli august september oktober november dezember
jahrhundert jahrhunderts jh auflage klasse band kapitel platz mal tag
januara leden januari februari maart
"""


def hash_word(word: bytes) -> int:
    """Return the 64-bit FNV-1a hash of a word's bytes (Fowler, Noll, Vo).

    Example:
        >>> hex(hash_word(b"a"))
        '0xaf63dc4c8601ec8c'
    """
    value = 0xCBF29CE484222325
    for byte in word:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def word_flags() -> dict[str, int]:
    """Return every listed word with its flags, `NEVER | STARTER` and so on."""
    flags: dict[str, int] = {}
    for words, flag in (
        (ALWAYS_CONTINUED, NEVER),
        (OFTEN_LAST, UNLESS_STARTER),
        (BEFORE_NUMBERS, BEFORE_NUMBER),
        (STARTERS, STARTER),
        (AFTER_ORDINALS, ORDINAL_NOUN),
    ):
        for word in words.split():
            flags[word] = flags.get(word, 0) | flag
    return flags


def word_table() -> npt.NDArray[np.uint64]:
    """Return an open-addressing hash table of `word_flags`.

    Returns:
        uint64 (2048,), 0 where a slot is free, else the word's hash with the flags in place of
        its lowest byte. A word lies at or after slot `(hash >> 8) % 2048`, before a free one.

    Example:
        >>> table, key = word_table(), hash_word(b"mr")
        >>> int(table[(key >> 8) % 2048]) == key & ~255 | NEVER
        True
    """
    table = np.zeros(2048, np.uint64)
    for word, flags in sorted(word_flags().items()):
        key = hash_word(word.encode())
        slot = (key >> 8) % table.size
        while table[slot]:
            assert int(table[slot]) >> 8 != key >> 8, f"{word!r} has the hash of another word"
            slot = (slot + 1) % table.size
        table[slot] = key & ~255 | flags
    return table
