"""Whether the lines of a document are paragraphs or were broken to fit a page.

A document is hard-wrapped when its lines are as full as a typesetter's greedy filling makes them:
the first word of the next line would not have fitted. Looked at are the first 2,000 line breaks
that have text directly above and below. The page's width is the 95th percentile of the lengths of
the lines above them, in characters. A document is hard-wrapped if that width lies in 30 to 120,
at most a quarter of these lines are longer than 120, at most half of them end with a terminator
(paragraphs do, fragments seldom), and half of them are full. One or two breaks say too little for
that: then each line must be 40 to 120 characters long and the line below it begin in lower case.
"""

from __future__ import annotations

import numba
import numpy as np

from lmdata.splitting.tables import (
    CLOSER,
    FULL_STOP,
    LOWER,
    NEWLINE,
    PARAGRAPH,
    PERIOD,
    QUOTE,
    SPACE,
    THAI,
    UNCASED,
    class_at,
    next_newline,
    previous,
)

MAX_BREAKS = 2000
MAX_WIDTH, MIN_WIDTH, MIN_LOWER_WIDTH = 120, 30, 40


@numba.njit(nogil=True, cache=True)
def page_width(text: np.ndarray, start: int, stop: int, classes: np.ndarray) -> int:
    """Return the width in characters to which a document was wrapped, 0 if it was not.

    Args:
        text: uint8 (N,), UTF-8
        start: where the document begins
        stop: where it ends
        classes: from `character_classes`
    """
    widths = np.empty(MAX_BREAKS, np.int64)
    fillers = np.empty(MAX_BREAKS, np.int64)
    num_breaks, num_long, num_lower, num_ended, line = 0, 0, 0, 0, start
    position = next_newline(text, start, stop)
    while position < stop:
        width = line_width(text, line, position)
        is_ended = ends_with_terminator(text, line, position, classes)
        filler, is_lower = first_word(text, position + 1, stop, classes)
        line = position + 1
        position = next_newline(text, line, stop)
        if width == 0 or filler == 0:
            continue
        widths[num_breaks], fillers[num_breaks] = width, filler
        num_breaks += 1
        num_ended += is_ended
        num_long += width > MAX_WIDTH
        num_lower += is_lower and MIN_LOWER_WIDTH <= width <= MAX_WIDTH
        if num_breaks == MAX_BREAKS or num_long > 4 + num_breaks // 4:
            break
    if num_breaks == 0 or num_long > num_breaks // 4 or 2 * num_ended > num_breaks:
        return 0
    if num_breaks < 3:
        return int(np.max(widths[:num_breaks])) if num_lower == num_breaks else 0
    return filled_width(widths[:num_breaks], fillers[:num_breaks])


@numba.njit(nogil=True, cache=True)
def filled_width(widths: np.ndarray, fillers: np.ndarray) -> int:
    """Return the page's width if at least half of the lines are full, else 0.

    Args:
        widths: int64 (n,), characters of each line
        fillers: int64 (n,), characters of the first word of the line below

    Example:
        >>> filled_width(np.array([38, 36, 40]), np.array([4, 7, 2]))
        40
        >>> filled_width(np.array([38, 12, 5]), np.array([4, 7, 2]))
        0
    """
    counts = np.zeros(MAX_WIDTH + 1, np.int64)
    for width in widths:
        counts[min(width, MAX_WIDTH)] += 1
    page, seen = 0, counts[0]
    while seen * 20 < widths.size * 19:
        page += 1
        seen += counts[page]
    num_full = np.sum(widths + 1 + fillers > page)
    return page if page >= MIN_WIDTH and 2 * num_full >= widths.size else 0


@numba.njit(nogil=True, cache=True)
def line_width(text: np.ndarray, start: int, stop: int) -> int:
    """Return the characters of a line without the white space at its ends.

    A line of more than 4 x 120 bytes is only said to be longer than 120.
    """
    while stop > start and text[stop - 1] <= 0x20:
        stop -= 1
    while start < stop and text[start] <= 0x20:
        start += 1
    if stop - start > 4 * MAX_WIDTH:
        return MAX_WIDTH + 1
    width = 0
    for byte in text[start:stop]:
        width += (byte & 0xC0) != 0x80
    return width


@numba.njit(nogil=True, cache=True)
def ends_with_terminator(text: np.ndarray, start: int, stop: int, classes: np.ndarray) -> bool:
    """Return whether a line's last visible character, closing marks apart, is a terminator."""
    while stop > start:
        before = previous(text, stop, start)
        kind, _ = class_at(text, before, stop, classes)
        if kind != SPACE and kind != CLOSER and kind != QUOTE:
            return PERIOD <= kind <= FULL_STOP
        stop = before
    return False


@numba.njit(nogil=True, cache=True)
def first_word(text: np.ndarray, position: int, stop: int, classes: np.ndarray) -> tuple[int, bool]:
    """Return the length of a line's first word and whether it begins in lower case.

    0 for an empty line. A Thai, Lao or East Asian letter counts as a word, since a line may end
    before it without a space.
    """
    width, is_lower = 0, False
    while position < stop:
        kind, length = class_at(text, position, stop, classes)
        if kind in (NEWLINE, PARAGRAPH) or (kind == SPACE and width > 0):
            break
        if kind != SPACE:
            is_lower = is_lower or (width == 0 and kind == LOWER)
            width += 1
            if kind == THAI or (kind == UNCASED and text[position] >= 0xE3):
                break
        position += length
    return width, is_lower


@numba.njit(nogil=True, cache=True)
def is_deliberate_break(
    text: np.ndarray, start: int, end: int, following: int, page: int, classes: np.ndarray
) -> bool:
    """Return whether a single line end is a boundary by itself.

    Always where lines are paragraphs; in a hard-wrapped document after a line shorter than half
    the page (a heading, a verse, an address), unless the next line goes on in lower case.

    Args:
        text: uint8 (N,)
        start: where the document begins
        end: end of the line's visible text
        following: the first visible character below
        page: from `page_width`
        classes: from `character_classes`
    """
    if page == 0:
        return True
    kind, _ = class_at(text, following, text.size, classes)
    if kind == LOWER:
        return False
    width, position = 0, end
    while position > start and 2 * width < page:
        position = previous(text, position, start)
        if text[position] == 0x0A:
            break
        width += 1
    return 2 * width < page
