"""Documents as one stream of words, and what the rules count of them (kernels).

The stream is the text without white space, so that words joined to one string are a stretch of it.
"""

from __future__ import annotations

import numba
import numpy as np

from lmdata.encoders.cut_kernels import Int
from lmdata.encoders.word_kernels import hash_of, word_key
from lmdata.intrinsics import borrowed, int64, load8
from lmdata.splitting.tables import decode
from lmdata.tagging.characters import (
    ENDS_SENTENCE,
    HAS_LETTER,
    IS_PUNCTUATION,
    IS_SYMBOL,
    SPACE,
    WORD,
)
from lmdata.tagging.gram_tables import (
    MIX,
    choose_longer,
    choose_pairs,
    count_places,
    find_slot,
    table_size,
)

NUM_COUNTS = 14
LONGEST_TOP, LONGEST = 4, 10  # n-grams of 2 to 4 words, of 5 to 10
BEGINS_CHUNK, IS_ALPHANUMERIC = SPACE, WORD  # of a word: white space before it, its first character
FIRST_STOP_BIT = 8  # what flags of a word hold from here on: which stop word it is
PADDING = 40  # bytes behind a stream, so that it can be read in whole pieces


@numba.njit(cache=True, nogil=True)
def word_end(text: np.ndarray, first: int, stop: int, bits: np.ndarray) -> tuple[int, int, int]:
    """Return where the word at `first` ends, its characters, and its flags but for stop words.

    Runs of letters and digits with the apostrophes inside; all else by the character.
    """
    code, size = decode(text, first, stop)
    kind = int(bits[code])
    begin = kind & IS_ALPHANUMERIC if code != 0x5F else 0
    here, num_chars, any_kind, all_kinds = first + size, 1, kind, kind
    if not kind & WORD:
        return here, 1, kind & (HAS_LETTER | IS_SYMBOL | ENDS_SENTENCE | IS_PUNCTUATION)
    while here < stop:
        code, size = decode(text, here, stop)
        kind = int(bits[code])
        if not kind & WORD:
            if (code != 0x27 and code != 0x2019) or here + size >= stop:
                break
            code, next_size = decode(text, here + size, stop)
            if not bits[code] & WORD:
                break
            all_kinds &= kind
            num_chars += 1
            here, size, kind = here + size, next_size, int(bits[code])
        any_kind |= kind
        all_kinds &= kind
        num_chars += 1
        here += size
    flags = begin | any_kind & HAS_LETTER | all_kinds & (IS_SYMBOL | IS_PUNCTUATION)
    return here, num_chars, flags | (all_kinds & ENDS_SENTENCE if num_chars == 1 else 0)


@numba.njit(cache=True, nogil=True)
def cut_words(
    text: np.ndarray, offsets: np.ndarray, bits: np.ndarray, stops: np.ndarray,
    stream: np.ndarray, starts: np.ndarray, lengths: np.ndarray, flags: np.ndarray,
    rows: np.ndarray,
) -> int:  # fmt: skip
    """Cut documents into words and return how many there are.

    Args:
        text: uint8 (N,), UTF-8
        offsets: int64 (D + 1,), where documents begin
        bits: uint8, from `character_bits`
        stops: uint64 (S,), stop words of at most 4 bytes, as little-endian numbers
        stream: uint8 (N + PADDING,), written: the words one after the other
        starts: int64 (N + 1,), written: where each word begins in it, and the last ends
        lengths: int32 (N,), written: characters of each word
        flags: uint16 (N,), written: what it is
        rows: int64 (D + 1,), written: where documents begin among the words
    """
    num_words, at = 0, 0
    ascii_bits = np.zeros(256, np.uint8)
    ascii_bits[:128] = bits[:128]
    for document in range(len(offsets) - 1):
        rows[document] = num_words
        here, stop = offsets[document], offsets[document + 1]
        before = BEGINS_CHUNK
        while here < stop:
            end, kind, any_kind, all_kinds = here, ascii_bits[text[here]], 0, 255
            starts[num_words] = at
            while kind & WORD:
                stream[at + end - here] = text[end]
                any_kind |= kind
                all_kinds &= kind
                end += 1
                kind = ascii_bits[text[end]] if end < stop else SPACE
            if end > here and kind & (SPACE | IS_PUNCTUATION) and (end == stop or text[end] != 39):
                lengths[num_words] = end - here
                flags[num_words] = (
                    any_kind & HAS_LETTER | all_kinds & (IS_SYMBOL | IS_PUNCTUATION)
                    | IS_ALPHANUMERIC * (text[here] != 95)
                )  # fmt: skip
            else:
                code, size = decode(text, here, stop)
                if bits[code] & SPACE:
                    here += size
                    before = BEGINS_CHUNK
                    continue
                end, num_chars, own = word_end(borrowed(text), here, stop, borrowed(bits))
                for index in range(here, end):
                    stream[at + index - here] = text[index]
                lengths[num_words] = num_chars
                flags[num_words] = own
            at += end - here
            if end - here <= 4 and flags[num_words] & HAS_LETTER:
                key = word_key(borrowed(text), here, end)
                for number in range(len(stops)):
                    if stops[number] == key:
                        flags[num_words] |= 1 << (FIRST_STOP_BIT + number)
            flags[num_words] |= before
            num_words += 1
            is_spaced = end < stop and text[end] == 32
            before = BEGINS_CHUNK * is_spaced
            here = end + is_spaced
    rows[len(offsets) - 1] = num_words
    starts[num_words] = at
    stream[at : at + PADDING] = 0
    return num_words


@numba.njit(cache=True, nogil=True)
def count_words(
    stream: np.ndarray, starts: np.ndarray, lengths: np.ndarray, flags: np.ndarray,
    rows: np.ndarray, counts: np.ndarray,
) -> None:  # fmt: skip
    """Count what the rules ask of the words of each document.

    Args:
        stream: uint8 (N + PADDING,), as in `words.Words`, like the next four
        starts: int64 (W + 1,)
        lengths: int32 (W,)
        flags: uint16 (W,)
        rows: int64 (D + 1,)
        counts: int64 (D, NUM_COUNTS), written: words; words that are no symbols; their characters;
            words with a letter; distinct stop words; characters of the most frequent n-gram of 2,
            3, 4 words, all its places together; characters of repeated n-grams of 5 to 10 words
    """
    longest = int64(1)
    for document in range(len(rows) - 1):
        longest = max(longest, rows[document + 1] - rows[document])
    size = table_size(longest)
    keys, totals = np.empty(size, np.uint64), np.empty(size, np.int32)
    firsts, slots = np.empty(size, np.int64), np.empty(longest, np.int64)
    hashes, chosen = np.empty(longest, np.uint64), np.empty(longest, np.int64)
    seen = np.empty(8 * size, np.uint8)
    for document in range(len(rows) - 1):
        first, last = rows[document], rows[document + 1]
        row = counts[document]
        _count_kinds(borrowed(lengths), borrowed(flags), first, last, row)
        for index in range(last - first):
            begin, end = starts[first + index], starts[first + index + 1]
            hashes[index] = hash_of(word_key(borrowed(stream), begin, end), end - begin)
        _count_top(borrowed(lengths[first:last]), borrowed(hashes), last - first, borrowed(keys),
                   borrowed(totals), borrowed(firsts), borrowed(slots), borrowed(chosen),
                   borrowed(seen), row)  # fmt: skip
        num_chosen = max(0, last - first - LONGEST_TOP)
        for index in range(num_chosen):
            chosen[index] = first + index
        for n in range(LONGEST_TOP + 1, LONGEST + 1):
            if n % 2 == 1:
                num_chosen = _choose_repeatable(
                    borrowed(stream), borrowed(starts), last, n, borrowed(chosen), num_chosen,
                    borrowed(seen),
                )  # fmt: skip
            row[3 + n] = _repeated_characters(
                borrowed(stream), borrowed(starts), borrowed(lengths), last, n,
                borrowed(chosen), num_chosen, borrowed(keys),
            )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _count_kinds(
    lengths: np.ndarray, flags: np.ndarray, first: int, last: int, row: np.ndarray
) -> None:
    num_plain, num_characters, num_lettered, seen = 0, 0, 0, 0
    for word in range(first, last):
        kind = int(flags[word])
        if not kind & IS_SYMBOL:
            num_plain += 1
            num_characters += lengths[word]
        num_lettered += kind & HAS_LETTER
        seen |= kind >> FIRST_STOP_BIT
    num_stops = 0
    while seen:
        seen &= seen - 1
        num_stops += 1
    row[0], row[1], row[2], row[3], row[4] = (
        last - first, num_plain, num_characters, num_lettered, num_stops,
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _count_top(
    lengths: np.ndarray, hashes: np.ndarray, num_words: int, keys: np.ndarray,
    totals: np.ndarray, firsts: np.ndarray, slots: np.ndarray, chosen: np.ndarray,
    seen: np.ndarray, row: np.ndarray,
) -> None:  # fmt: skip
    """Write the characters of the n-gram that occurs most, of equals the first, in all its places.

    Words are joined by blanks. Where no n-gram occurs twice, it is the first. So only those are
    counted that may occur twice: pairs by a filter, more words where both parts do.
    """
    num_chosen = choose_pairs(hashes, num_words, chosen, seen)
    for n in range(2, LONGEST_TOP + 1):
        if num_words < n:
            break
        best_total, best_first = count_places(n, hashes, chosen, num_chosen, keys, totals, firsts,
                                              slots)  # fmt: skip
        size = n - 1
        for index in range(best_first, best_first + n):
            size += lengths[index]
        row[3 + n] = size * best_total
        num_chosen = choose_longer(n, num_words, chosen, num_chosen, totals, slots)


@numba.njit(cache=True, nogil=True)
def _choose_repeatable(
    stream: np.ndarray, starts: np.ndarray, last: int, n: int, chosen: np.ndarray,
    num_chosen: int, seen: np.ndarray,
) -> int:  # fmt: skip
    """Keep the places at which n joined words may be repeated ones, and return how many.

    Where the bytes that follow a place occur once, so does every n-gram that is not shorter.
    """
    size = 8 * (n // 2)  # 16 bytes for 5 words
    mask = 4 * table_size(num_chosen) - 1
    seen[: mask + 1] = 0
    end = starts[last]
    for position in range(num_chosen):
        start = starts[chosen[position]]
        if start + size <= end:
            slot = _prefix_slot(stream, start, size, mask)
            seen[slot] = seen[slot] * 2 + 1
    kept = 0
    for position in range(num_chosen):
        word = chosen[position]
        start = starts[word]
        if word + n > last:
            break
        chosen[kept] = word
        is_short = starts[word + n] - start < size
        kept += is_short or seen[_prefix_slot(stream, start, size, mask)] > 1
    return kept


@numba.njit(cache=True, nogil=True)
def _prefix_slot(stream: np.ndarray, start: int, size: int, mask: int) -> Int:
    key = np.uint64(0)
    for index in range(start, start + size, 8):
        key = (key ^ load8(stream, index)) * MIX
        key ^= key >> np.uint64(32)
    return np.int64(key) & mask


@numba.njit(cache=True, nogil=True)
def _repeated_characters(
    stream: np.ndarray, starts: np.ndarray, lengths: np.ndarray, last: int, n: int,
    chosen: np.ndarray, num_chosen: int, keys: np.ndarray,
) -> int:  # fmt: skip
    """Return the characters of n-grams that were there before, none counted twice.

    Words are joined without blanks; after a repeated n-gram, the search goes on behind it.
    """
    mask = table_size(num_chosen) - 1
    keys[: mask + 1] = 0
    total, allowed = 0, 0
    for position in range(num_chosen):
        word = chosen[position]
        if word < allowed:
            continue
        if word + n > last:
            break
        begin, end = starts[word], starts[word + n]
        key = hash_of(word_key(stream, begin, end), end - begin) | np.uint64(1)
        slot = find_slot(keys, mask, key)
        if keys[slot] == key:
            for index in range(word, word + n):
                total += lengths[index]
            allowed = word + n
        else:
            keys[slot] = key
    return total
