"""Where sentences begin, by rules over the UTF-8 bytes of many documents.

A boundary lies right after the terminator and its closing quotes and brackets, before the white
space, so that white space leads the sentence that follows. Each document is split by itself.
`rules` means, in this order:

- A blank line ends a sentence. So does a line end, unless `line_wrapping` finds the document
  broken to fit a page.
- A full stop of a script that has its own (CJK, Devanagari, Urdu, Armenian, Ethiopic, ...) ends
  a sentence, with or without white space after it.
- `.`, `!`, `?`, their runs and ellipses end one before white space, unless a lower-case letter
  follows; a sentence that itself began in lower case may be followed by another of the kind.
- A single full stop is weighed with the word before it (abbreviations, initials, acronyms,
  numbers that open an item) and the word after it (`lmdata.splitting.tables`).
- A space that was forgotten ("was late.The bus") is a boundary between two plain words only.
- Thai and Lao have no terminator, and a full stop only in abbreviations: a space between two of
  their letters ends a sentence that is at least 48 letters long; shorter stretches are phrases.
"""

from __future__ import annotations

import functools
from typing import Literal, get_args

import numba
import numpy as np
import numpy.typing as npt

from lmdata.intrinsics import borrowed, int64
from lmdata.ragged import frozen
from lmdata.splitting import SPLITTER_VERSION as SPLITTER_VERSION
from lmdata.splitting.line_wrapping import is_deliberate_break, page_width
from lmdata.splitting.sentence_rules import (
    LONGEST_ABBREVIATION,
    Rules,
    begins_in_lower_case,
    closers_end,
    make_rules,
    next_word_is,
    skip_space,
    terminator_end,
    terminators_end_sentence,
    trim_space,
    word_flags_at,
)
from lmdata.splitting.tables import (
    FULL_STOP,
    NEVER,
    NEWLINE,
    PARAGRAPH,
    PERIOD,
    STARTER,
    THAI,
    UNLESS_STARTER,
    class_at,
    next_candidate,
    trigger_bytes,
)

Mode = Literal["rules", "lines", "none"]
MIN_THAI_LETTERS = 48
BYTES_PER_SENTENCE = 32
"""Text whose sentences are shorter is gone through again, with room for one at every trigger."""

_rules = functools.cache(make_rules)


def find_sentence_starts(
    text: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], mode: str = "rules"
) -> npt.NDArray[np.int64]:
    """Return where the sentences of every document begin.

    Args:
        text: uint8 (N,), UTF-8 of all documents, concatenated
        offsets: int64 (D+1,), where documents begin and end
        mode: "rules"; "lines", each line with visible text is a sentence (BERT's format);
            "none", each document is one

    Returns:
        int64 (S,) positions in `text`, ascending, each on a character boundary, with the offset
        of every document that is not empty among them. Every sentence holds visible text, save
        that of a document that holds none.

    Raises:
        ValueError: another mode, or offsets that do not divide the text

    Example:
        >>> text = np.frombuffer(b'"Hi, Dr. No!" He left. Why?', np.uint8)
        >>> find_sentence_starts(text, np.array([0, text.size])).tolist()
        [0, 13, 22]
    """
    if mode not in get_args(Mode):
        raise ValueError(f"sentence mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    offsets = np.ascontiguousarray(offsets, np.int64)
    if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != text.size:
        raise ValueError(f"offsets must run from 0 to the text's {text.size} bytes")
    if mode == "none":
        return offsets[:-1][np.diff(offsets) > 0]
    text = frozen(np.asarray(text, np.uint8))
    rules = _rules()
    triggers = trigger_bytes(rules.classes) if mode == "rules" else np.arange(256) == 0x0A
    room = text.size // BYTES_PER_SENTENCE + offsets.size
    starts = np.empty(room, np.int64)
    count = _split_documents(text, offsets, mode == "rules", triggers, rules, starts)
    if count < 0:
        starts = np.empty(_num_triggers(text, triggers) + offsets.size, np.int64)
        count = _split_documents(text, offsets, mode == "rules", triggers, rules, starts)
    return starts[:count].copy()


@numba.njit(nogil=True, cache=True)
def _num_triggers(text: np.ndarray, triggers: np.ndarray) -> int:
    """Return how many bytes could begin a boundary: room enough for all of them."""
    count = 0
    for byte in text:
        count += triggers[byte]
    return count


@numba.njit(nogil=True, cache=True)
def _split_documents(
    text: np.ndarray,
    offsets: np.ndarray,
    by_rules: bool,
    triggers: np.ndarray,
    rules: Rules,
    starts: np.ndarray,
) -> int:
    """Write the sentence starts of all documents and return how many; -1 if there is no room."""
    count, text = 0, borrowed(text)
    rules = Rules(borrowed(rules.classes), borrowed(rules.words))
    for document in range(offsets.size - 1):
        start, stop = offsets[document], offsets[document + 1]
        if start == stop:
            continue
        if count == starts.size:
            return -1
        starts[count] = start
        page = page_width(text, start, stop, rules.classes) if by_rules else 0
        found = _split(text, start, stop, page, by_rules, triggers, rules, starts[count + 1 :])
        if found < 0:
            return -1
        count += 1 + found
    return count


@numba.njit(nogil=True, cache=True)
def _split(
    text: np.ndarray,
    start: int,
    stop: int,
    page: int,
    by_rules: bool,
    triggers: np.ndarray,
    rules: Rules,
    starts: np.ndarray,
) -> int:
    """Write the boundaries inside one document and return how many; -1 if there is no room."""
    count, sentence, position = 0, start, start
    in_lower = by_rules and begins_in_lower_case(text, start, stop, rules)
    while position < stop:
        if not triggers[text[position]]:
            position = next_candidate(text, position + 1, stop)
            continue
        if by_rules:
            end, position = _by_rules(text, start, sentence, in_lower, position, stop, page, rules)
        else:
            end, position = _by_lines(text, sentence, position, stop, rules)
        if end >= 0:
            if count == starts.size:
                return -1
            starts[count] = sentence = end
            count += 1
            in_lower = by_rules and begins_in_lower_case(text, sentence, stop, rules)
    return count


@numba.njit(nogil=True, cache=True)
def _by_lines(
    text: np.ndarray, sentence: int, position: int, stop: int, rules: Rules
) -> tuple[int, int]:
    """Return the boundary at a line end, -1 if it is none, and where to go on."""
    end = trim_space(text, position, sentence, rules)
    following, _ = skip_space(text, position, stop, rules)
    return end if end > sentence and following < stop else -1, following


@numba.njit(nogil=True, cache=True)
def _by_rules(
    text: np.ndarray,
    start: int,
    sentence: int,
    in_lower: bool,
    position: int,
    stop: int,
    page: int,
    rules: Rules,
) -> tuple[int, int]:
    """Return the boundary at a trigger byte, -1 if it is none, and where to go on.

    Args:
        text: uint8 (N,)
        start: where the document begins
        sentence: where the sentence begins
        in_lower: from `begins_in_lower_case` of the sentence
        position: first byte of a character that may end a sentence
        stop: end of the document
        page: width to which the document was wrapped, 0 if it was not
        rules: tables
    """
    kind, length = class_at(text, position, stop, rules.classes)
    if PERIOD <= kind <= FULL_STOP:
        return _at_terminator(text, start, sentence, in_lower, position, stop, page, rules)
    if kind in (NEWLINE, PARAGRAPH):
        end = trim_space(text, position, sentence, rules)
        following, is_break = _line_break(text, start, end, stop, page, rules)
        return end if is_break and end > sentence else -1, following
    if kind == THAI and _is_thai_break(text, sentence, position + length, stop, rules):
        return position + length, position + length
    return -1, position + length


@numba.njit(nogil=True, cache=True)
def _plain_stop_ends(text: np.ndarray, start: int, period: int, stop: int, rules: Rules) -> int:
    """Return 1 if the full stop of "word. Word" ends a sentence, 0 if not, -1 for all else.

    What all the other rules say of a word of ASCII letters behind a space, or of a bracket, before
    a full stop, a space and a capital: most of the full stops in English prose.

    Args:
        text: uint8 (N,)
        start: where the sentence began
        period: where the terminator is
        stop: end of the document
        rules: tables
    """
    if text[period] != 0x2E or period + 2 >= stop or text[period + 1] != 0x20:
        return -1
    if period == start or not 0x41 <= text[period + 2] <= 0x5A:
        return -1
    if text[period - 1] == 0x29:
        return 1
    if not 0x61 <= text[period - 1] <= 0x7A:
        return -1
    word = period - 1
    while word > start and period - word <= LONGEST_ABBREVIATION:
        if not 0x61 <= text[word - 1] | 0x20 <= 0x7A:
            break
        word -= 1
    if period - word > LONGEST_ABBREVIATION:
        return 1
    if word > start and text[word - 1] != 0x20:
        return -1
    flags = word_flags_at(text, word, period, rules)
    if flags & UNLESS_STARTER and not flags & NEVER:
        return int(next_word_is(int64(STARTER), text, period + 2, stop, rules))
    return int(not flags & NEVER)


@numba.njit(nogil=True, cache=True)
def _at_terminator(
    text: np.ndarray,
    start: int,
    sentence: int,
    in_lower: bool,
    position: int,
    stop: int,
    page: int,
    rules: Rules,
) -> tuple[int, int]:
    """Return the boundary after the terminators at `position`, -1 if none, and where to go on."""
    verdict = _plain_stop_ends(text, sentence, position, stop, rules)
    if verdict >= 0:
        return (position + 1, position + 2) if verdict else (-1, position + 1)
    end = closed = position + 1
    if text[position] >= 0x80 or end == stop or text[end] != 0x0A:
        end, _, _ = terminator_end(text, position, stop, rules)
        closed = closers_end(text, end, stop, rules)
    following, is_break = _line_break(text, start, closed, stop, page, rules)
    if following == stop:
        return -1, stop
    if is_break or terminators_end_sentence(
        text, sentence, in_lower, position, closed, stop, rules
    ):
        return closed, following
    return -1, end


@numba.njit(nogil=True, cache=True)
def _line_break(
    text: np.ndarray, start: int, end: int, stop: int, page: int, rules: Rules
) -> tuple[int, bool]:
    """Return the end of the white space at `end`, and whether its line ends make a boundary."""
    following, num_newlines = skip_space(text, end, stop, rules)
    if num_newlines == 0 or following == stop:
        return following, False
    if num_newlines > 1:
        return following, True
    return following, is_deliberate_break(text, start, end, following, page, rules.classes)


@numba.njit(nogil=True, cache=True)
def _is_thai_break(text: np.ndarray, sentence: int, end: int, stop: int, rules: Rules) -> bool:
    """Return whether a space at `end` parts Thai or Lao letters and the sentence is long enough."""
    if end + 1 >= stop or text[end] != 0x20 or end - sentence < 3 * MIN_THAI_LETTERS:
        return False
    kind, _ = class_at(text, end + 1, stop, rules.classes)
    return kind == THAI
