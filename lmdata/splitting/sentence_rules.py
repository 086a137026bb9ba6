"""Whether a sentence ends here: the rules, as Numba kernels over the bytes of one document.

All positions are byte positions in `text`. `rules` is a `Rules` of lookup tables, passed and not
global, because Numba freezes globals into its cached machine code.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lmdata.intrinsics import int64
from lmdata.splitting.tables import (
    BEFORE_NUMBER,
    CLOSER,
    DIGIT,
    EXCLAMATION,
    FULL_STOP,
    LOWER,
    MARK,
    NEVER,
    NEWLINE,
    OPENER,
    ORDINAL_NOUN,
    OTHER,
    PARAGRAPH,
    PERIOD,
    QUOTE,
    SPACE,
    STARTER,
    THAI,
    UNCASED,
    UNLESS_STARTER,
    UPPER,
    character_classes,
    class_at,
    previous,
    word_table,
)

LONGEST_ABBREVIATION = 12  # bytes; a longer word before a full stop needs no look-up


class Rules(NamedTuple):
    """The tables that the kernels read."""

    classes: npt.NDArray[np.uint8]  # (65536,) class of a code point
    words: npt.NDArray[np.uint64]  # (2048,) hash table of lmdata.splitting.tables


def make_rules() -> Rules:
    """Return the tables, built anew."""
    return Rules(character_classes(), word_table())


@numba.njit(nogil=True, cache=True)
def skip_space(text: np.ndarray, position: int, stop: int, rules: Rules) -> tuple[int, int]:
    """Return the end of the white space at `position` and how many lines it ends."""
    num_newlines = 0
    while position < stop:
        kind, length = class_at(text, position, stop, rules.classes)
        if kind == NEWLINE:
            num_newlines += 1
        elif kind == PARAGRAPH:
            num_newlines += 2
        elif kind != SPACE:
            break
        position += length
    return position, num_newlines


@numba.njit(nogil=True, cache=True)
def trim_space(text: np.ndarray, position: int, start: int, rules: Rules) -> int:
    """Return the end of the last visible character before `position`, or `start`."""
    while position > start:
        before = previous(text, position, start)
        kind, _ = class_at(text, before, position, rules.classes)
        if kind != SPACE and kind != NEWLINE and kind != PARAGRAPH:
            break
        position = before
    return position


@numba.njit(nogil=True, cache=True)
def terminator_end(
    text: np.ndarray, position: int, stop: int, rules: Rules
) -> tuple[int, int, int]:
    """Return the end of a run of terminators, its strongest class, and how many there are."""
    strongest, count = 0, 0
    while position < stop:
        kind, length = class_at(text, position, stop, rules.classes)
        if kind < PERIOD or kind > FULL_STOP:
            break
        strongest = max(strongest, kind)
        count += 1 if length == 1 else 3
        position += length
    return position, strongest, count


@numba.njit(nogil=True, cache=True)
def closers_end(text: np.ndarray, position: int, stop: int, rules: Rules) -> int:
    """Return the end of the closing quotes, brackets, [12] and :) after a terminator."""
    while position < stop:
        kind, length = class_at(text, position, stop, rules.classes)
        if kind in (CLOSER, QUOTE, MARK):
            position += length
        elif text[position] == 0x5B and reference_end(text, position, stop) > position:
            position = reference_end(text, position, stop)
        else:
            break
    return emoticon_end(text, position, stop)


@numba.njit(nogil=True, cache=True)
def emoticon_end(text: np.ndarray, position: int, stop: int) -> int:
    """Return the end of an emoticon such as :) one space after `position`, else `position`."""
    eyes = position + 1
    if eyes + 1 >= stop or text[position] != 0x20 or text[eyes] not in (0x3A, 0x3B, 0x3D):
        return position
    mouth = eyes + 2 if text[eyes + 1] == 0x2D else eyes + 1
    if mouth >= stop or text[mouth] not in (0x29, 0x28, 0x44, 0x50, 0x2F):
        return position
    is_whole = mouth + 1 == stop or text[mouth + 1] in (0x20, 0x0A, 0x0D)
    return mouth + 1 if is_whole else position


@numba.njit(nogil=True, cache=True)
def reference_end(text: np.ndarray, position: int, stop: int) -> int:
    """Return the end of a footnote mark such as [12] at `position`, or `position`."""
    index = position + 1
    while index < stop and 0x30 <= text[index] <= 0x39:
        index += 1
    is_mark = index > position + 1 and index < stop and text[index] == 0x5D
    return index + 1 if is_mark else position


@numba.njit(nogil=True, cache=True)
def word_flags_at(text: np.ndarray, start: int, stop: int, rules: Rules) -> int:
    """Return the flags of the word text[start:stop] in lower case, 0 if it is not listed."""
    value = np.uint64(0xCBF29CE484222325)
    for index in range(start, stop):
        byte = np.uint64(text[index])
        if np.uint64(0x41) <= byte <= np.uint64(0x5A):
            byte |= np.uint64(0x20)
        value = (value ^ byte) * np.uint64(0x100000001B3)
    slot = np.int64(value >> np.uint64(8)) & (rules.words.size - 1)
    while rules.words[slot] != np.uint64(0):
        if (rules.words[slot] ^ value) < np.uint64(256):
            return int(np.int64(rules.words[slot] & np.uint64(255)))
        slot = (slot + 1) & (rules.words.size - 1)
    return 0


@numba.njit(nogil=True, cache=True)
def skip_quotes(text: np.ndarray, position: int, stop: int, rules: Rules) -> tuple[int, int]:
    """Return the class of the first letter, digit or symbol after quotes, and where it is."""
    kind, length = OTHER, 0
    while position < stop:
        kind, length = class_at(text, position, stop, rules.classes)
        if kind != QUOTE and kind != OPENER and kind != MARK:
            break
        position += length
    return kind, position


@numba.njit(nogil=True, cache=True)
def next_word(text: np.ndarray, position: int, stop: int, rules: Rules) -> tuple[int, int, int]:
    """Return the class of the first letter, digit or symbol after quotes, and its word's bounds."""
    kind, position = skip_quotes(text, position, stop, rules)
    end = position
    while end < stop:
        inner, length = class_at(text, end, stop, rules.classes)
        is_letter = inner in (LOWER, UPPER, MARK)
        if not is_letter and not (text[end] == 0x27 and end > position):
            break
        end += length
    return kind, position, end


@numba.njit(nogil=True, cache=True)
def last_word(text: np.ndarray, position: int, start: int, rules: Rules) -> int:
    """Return where the word before `position` begins: letters, digits, hyphens, inner stops.

    Of a word longer than any abbreviation, only so much is looked at that it is seen to be longer:
    a text without spaces is one word, and is asked for it at every full stop.
    """
    end = position
    while position > start and end - position <= LONGEST_ABBREVIATION:
        before = previous(text, position, start)
        if not is_of_word(text, before, position, rules):
            break
        position = before
    return position


@numba.njit(nogil=True, cache=True)
def is_of_word(text: np.ndarray, position: int, stop: int, rules: Rules) -> bool:
    """Return whether the character at `position` can be part of a word."""
    if text[position] in (0x20, 0x2D, 0x2E):
        return bool(text[position] != 0x20)
    kind, _ = class_at(text, position, stop, rules.classes)
    return bool(LOWER <= kind <= DIGIT or kind in (MARK, THAI))


@numba.njit(nogil=True, cache=True)
def word_shape(text: np.ndarray, start: int, stop: int, rules: Rules) -> tuple[int, int, bool]:
    """Return how many letters and digits a word has and whether stops part single letters.

    Of scripts without case, several letters may stand for one: Hindi spells out Latin ones.
    """
    letters, digits, run, has_stop, single = 0, 0, 0, False, True
    index = start
    while index < stop:
        kind, length = class_at(text, index, stop, rules.classes)
        if text[index] == 0x2E:
            has_stop, run = True, 0
        elif kind == DIGIT:
            digits += 1
            run = 2
        elif kind != MARK:
            letters += 1
            run += kind != UNCASED
        single = single and run < 2
        index += length
    return letters, digits, has_stop and single


@numba.njit(nogil=True, cache=True)
def period_ends(
    text: np.ndarray, start: int, period: int, following: int, stop: int, rules: Rules
) -> bool:
    """Return whether one full stop before white space ends the sentence, by the words around it.

    Args:
        text: uint8 (N,)
        start: where the sentence began
        period: where the full stop is
        following: the first visible character after the white space
        stop: end of the document
        rules: tables
    """
    word = last_word(text, period, start, rules)
    if word == period:
        return True
    last = first_class(text, previous(text, period, start), period, rules)
    if last == THAI or period - word > LONGEST_ABBREVIATION:
        return last != THAI
    letters, digits, is_acronym = word_shape(text, word, period, rules)
    if letters == 0 and digits > 0:
        is_item = digits <= 3 and begins_item(text, word, start, rules)
        is_short, flag = digits <= 2, int64(ORDINAL_NOUN)
        return not is_item and not (is_short and next_word_is(flag, text, following, stop, rules))
    flags = word_flags_at(text, word, period, rules)
    kind = first_class(text, following, stop, rules)
    if flags & NEVER or (flags & BEFORE_NUMBER and kind == DIGIT):
        return False
    first = first_class(text, word, period, rules)
    is_initial = letters == 1 and digits == 0 and (first in (UPPER, UNCASED))
    if is_initial or is_acronym or flags & UNLESS_STARTER:
        return next_word_is(int64(STARTER), text, following, stop, rules)
    return True


@numba.njit(nogil=True, cache=True)
def next_word_is(flag: int, text: np.ndarray, position: int, stop: int, rules: Rules) -> bool:
    """Return whether the word at `position`, after quotes, is capitalised and has the flag.

    A word with a full stop is an initial or an abbreviation and has none: "G. A. Jones".
    """
    kind, start, end = next_word(text, position, stop, rules)
    if end < stop and text[end] == 0x2E:
        return False
    return kind == UPPER and word_flags_at(text, start, end, rules) & flag != 0


@numba.njit(nogil=True, cache=True)
def begins_item(text: np.ndarray, word: int, start: int, rules: Rules) -> bool:
    """Return whether a number stands where an enumeration has it: first, or after a mark."""
    before = trim_space(text, word, start, rules)
    if before == start:
        return True
    kind = first_class(text, previous(text, before, start), before, rules)
    return kind in (OTHER, QUOTE, OPENER)


@numba.njit(nogil=True, cache=True)
def first_class(text: np.ndarray, position: int, stop: int, rules: Rules) -> int:
    """Return the class of the character at `position`."""
    kind, _ = class_at(text, position, stop, rules.classes)
    return kind


@numba.njit(nogil=True, cache=True)
def misses_space(
    text: np.ndarray, start: int, position: int, end: int, stop: int, rules: Rules
) -> bool:
    """Return whether a space was forgotten: a lower-case word, a terminator, a capital.

    "was late.The bus" is two sentences; "Node.js", "Mary.Jones@example.org" and "U.S.A" are not.
    """
    word, letters = position, 0
    while word > start:
        before = previous(text, word, start)
        if not is_of_word(text, before, word, rules):
            break
        if first_class(text, before, word, rules) != LOWER:
            return False
        letters += 1
        word = before
    if letters < 2 or first_class(text, end, stop, rules) != UPPER:
        return False
    is_address = word > start and text[word - 1] in (0x2F, 0x40, 0x3A, 0x5F, 0x5C)
    _, first, last = next_word(text, end, stop, rules)
    is_word = last - first > 1 or (last < stop and text[last] == 0x20)
    return is_word and not is_address and not (last < stop and text[last] in (0x2E, 0x40, 0x28))


@numba.njit(nogil=True, cache=True)
def terminators_end_sentence(
    text: np.ndarray,
    start: int,
    in_lower: bool,
    position: int,
    closed: int,
    stop: int,
    rules: Rules,
) -> bool:
    """Return whether the terminators at `position`, with closers up to `closed`, end a sentence.

    Args:
        text: uint8 (N,)
        start: where the sentence began
        in_lower: from `begins_in_lower_case` of that sentence
        position: the first terminator
        closed: after the terminators and the closing marks
        stop: end of the document
        rules: tables
    """
    end, strongest, count = terminator_end(text, position, stop, rules)
    following, _ = skip_space(text, closed, stop, rules)
    if strongest == FULL_STOP:
        return not (end < closed and quotation_goes_on(text, closed, stop))
    if following == closed:
        return closed == end and misses_space(text, start, position, end, stop, rules)
    next_kind = first_class(text, following, stop, rules)
    if next_kind in (PERIOD, EXCLAMATION):
        return False
    kind, _ = skip_quotes(text, following, stop, rules)
    if kind == LOWER and not (closed == end and in_lower):
        return False
    if strongest == PERIOD and count == 1:
        return period_ends(text, start, position, following, stop, rules)
    return True


@numba.njit(nogil=True, cache=True)
def begins_in_lower_case(text: np.ndarray, start: int, stop: int, rules: Rules) -> bool:
    """Return whether the sentence at `start` begins in lower case, as its writer may do again."""
    if start + 1 < stop and text[start] == 0x20 and 0x41 <= text[start + 1] <= 0x5A:
        return False
    visible, _ = skip_space(text, start, stop, rules)
    kind, _ = skip_quotes(text, visible, stop, rules)
    return kind == LOWER


@numba.njit(nogil=True, cache=True)
def quotation_goes_on(text: np.ndarray, position: int, stop: int) -> bool:
    """Return whether the Japanese particle to or tte follows, which makes a quotation a clause."""
    if position + 2 >= stop or text[position] != 0xE3 or text[position + 1] != 0x81:
        return False
    return text[position + 2] in (0xA8, 0xA3)
