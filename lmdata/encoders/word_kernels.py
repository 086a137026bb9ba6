"""The compiled passes behind `lmdata.encoders.words`: cut, hash, look up.

Words are cut and hashed a batch ahead of their look-up, with their slots prefetched, which hides
the memory behind a table that is larger than the cache.

The table is open addressing with linear probing. A slot is two uint64: a key (the word itself if
it has at most 8 bytes, else a 64-bit hash) and length << 32 | number + 1, 0 if empty.
"""

from __future__ import annotations

import numba
import numpy as np

from lmdata.encoders.cut_kernels import (
    BLANK,
    I32,
    I64,
    NUM_CLASSES,
    OTHER,
    PUNCT,
    SPACE,
    U8,
    U64,
    WORD,
    Int,
    character_at,
    is_solid,
    run_end,
    spaced_word_end,
    word_end,
)
from lmdata.intrinsics import load8, prefetch

BATCH = 128
"""Words cut ahead of their look-up: enough to hide a cache miss, few enough to stay in L1."""

# Places in the state of a scan, and why it stopped.
DOCUMENT, POSITION, FOUND, MARK, NUM_WORDS, NUM_BYTES = range(6)
DONE, TABLE_FULL, BYTES_FULL = range(3)

_MIX = np.uint64(0x9E3779B97F4A7C15)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_HALF = np.uint64(0xFFFFFFFF)


@numba.njit(cache=True, nogil=True)
def word_key(text: U8, start: Int, stop: Int) -> Int:
    """Return the word itself if it has at most 8 bytes, else a hash of it.

    Args:
        text: uint8 (N,)
        start: of the word, byte
        stop: behind it, above `start`
    """
    length = stop - start
    if length <= 8:
        if start + 8 <= len(text):
            return load8(text, start) & (_ALL >> np.uint64(64 - 8 * length))
        key = np.uint64(0)
        for index in range(length):
            key |= np.uint64(text[start + index]) << np.uint64(8 * index)
        return key
    key = np.uint64(length)
    while start + 8 < stop:
        key = (key ^ load8(text, start)) * _MIX
        key ^= key >> np.uint64(29)
        start += 8
    key = (key ^ load8(text, stop - 8)) * _MIX
    return key ^ (key >> np.uint64(29))


@numba.njit(cache=True, nogil=True)
def are_equal(text: U8, start: Int, arena: U8, other: Int, length: Int) -> bool:
    """Return whether two stretches of the same length, more than 8 bytes, are the same.

    Args:
        text: uint8 (N,)
        start: of the one, byte of `text`
        arena: uint8 (M,)
        other: where the other begins in it
        length: of both, bytes
    """
    done = 0
    while done + 8 < length:
        if load8(text, start + done) != load8(arena, other + done):
            return False
        done += 8
    same: bool = load8(text, start + length - 8) == load8(arena, other + length - 8)
    return same


@numba.njit(cache=True, nogil=True)
def hash_of(key: np.uint64, length: Int) -> Int:
    """Return the hash whose low bits choose a slot."""
    mixed = (key ^ np.uint64(length)) * _MIX
    return mixed ^ (mixed >> np.uint64(32))


@numba.njit(cache=True, nogil=True)
def cut_batch(
    text: U8, flags: U8, offsets: I64, classes: U8, slots: U64, state: I64, bounds: I64, keys: U64
) -> Int:
    """Cut the next words, BATCH at most, and return how many.

    Args:
        text: uint8 (N,)
        flags: from `flag_alphanumeric`
        offsets: int64 (D + 1,), where documents begin
        classes: uint8 (NUM_CLASSES,)
        slots: only prefetched
        state: DOCUMENT and POSITION are read and moved on
        bounds: int64 (2 * BATCH,), filled with start and end of each word
        keys: uint64 (2 * BATCH,), filled with key and hash of each word
    """
    document, position = state[DOCUMENT], state[POSITION]
    stop = offsets[document + 1]
    mask = np.uint64(len(slots) // 2 - 1)
    found = 0
    while found < BATCH:
        if position >= stop:
            document += 1
            if document + 1 >= len(offsets):
                document -= 1
                break
            position, stop = offsets[document], offsets[document + 1]
            continue
        end = run_end(flags, position, stop)
        if end == position or (end < stop and (text[end] >= 0x80 or classes[text[end]] == WORD)):
            code, length = character_at(text, position, stop)
            kind = classes[code] if code < NUM_CLASSES else np.uint8(WORD)
            end = position + length
            if kind == SPACE:
                position = end
                continue
            if kind == WORD:
                end = word_end(text, flags, end, stop, classes)
        end = min(end, stop)
        key = word_key(text, position, end)
        mixed = hash_of(key, end - position)
        prefetch(slots, np.int64(np.uint64(2) * (mixed & mask)))
        bounds[2 * found], bounds[2 * found + 1] = position, end
        keys[2 * found], keys[2 * found + 1] = key, mixed
        found += 1
        position = end + (end < stop and text[end] == 32)
    state[DOCUMENT], state[POSITION] = document, position
    return found


@numba.njit(cache=True, nogil=True)
def cut_spaced_words(
    text: U8, flags: U8, offsets: I64, classes: U8, slots: U64, state: I64, bounds: I64, keys: U64
) -> Int:
    """Cut the next words as `spaced_word_end` says, so that no byte is left out.

    Args: as `cut_batch` takes them
    """
    document, position = state[DOCUMENT], state[POSITION]
    stop = offsets[document + 1]
    mask = np.uint64(len(slots) // 2 - 1)
    beginning, inside = np.int64(OTHER), np.int64(WORD)
    found = 0
    while found < BATCH:
        if position >= stop:
            document += 1
            if document + 1 >= len(offsets):
                document -= 1
                break
            position, stop = offsets[document], offsets[document + 1]
            continue
        begin = position + (text[position] == 32)
        end = run_end(flags, begin, stop)
        if end < stop:
            after = classes[text[end]] if text[end] < 0x80 else np.uint8(OTHER)
            if end == begin:
                end, _ = spaced_word_end(text, flags, position, stop, classes, beginning)
            elif after == BLANK:
                following = text[end + 1] if end + 1 < stop else np.uint8(0x80)
                if following >= 0x80 or not is_solid(classes[following]):
                    end, _ = spaced_word_end(text, flags, end, stop, classes, inside)
            elif after != PUNCT:
                end, _ = spaced_word_end(text, flags, end, stop, classes, inside)
        end = min(end, stop)
        key = word_key(text, position, end)
        mixed = hash_of(key, end - position)
        prefetch(slots, np.int64(np.uint64(2) * (mixed & mask)))
        bounds[2 * found], bounds[2 * found + 1] = position, end
        keys[2 * found], keys[2 * found + 1] = key, mixed
        found += 1
        position = end
    state[DOCUMENT], state[POSITION] = document, position
    return found


@numba.njit(cache=True, nogil=True)
def find_candidate(key: np.uint64, mixed: np.uint64, length: Int, slots: U64) -> Int:
    """Return the first word with this key and length, which a long word need not be; -1 if none.

    Args: as `find_or_add` takes them
    """
    mask = np.uint64(len(slots) // 2 - 1)
    slot = mixed & mask
    while True:
        entry = slots[np.uint64(2) * slot + np.uint64(1)]
        if entry == np.uint64(0):
            return -1
        same_length = np.int64(entry >> np.uint64(32)) == length
        if same_length and slots[np.uint64(2) * slot] == key:
            return np.int64(entry & _HALF) - 1
        slot = (slot + np.uint64(1)) & mask


@numba.njit(cache=True, nogil=True)
def find_candidates(
    num_words: Int, bounds: I64, keys: U64, slots: U64, starts: I64, arena: U8, numbers: I64
) -> None:
    """Fill `numbers` for a batch of words and prefetch what is needed to verify the long ones.

    Args:
        num_words: of the batch
        bounds: int64 (2 * BATCH,), from `cut_batch`
        keys: uint64 (2 * BATCH,), from `cut_batch`
        slots: as `find_or_add` takes it, and so `starts` and `arena`
        starts: see `slots`
        arena: see `slots`
        numbers: int64 (BATCH,), filled: of each word that of a candidate, -1 for none
    """
    for index in range(num_words):
        length = bounds[2 * index + 1] - bounds[2 * index]
        number = find_candidate(keys[2 * index], keys[2 * index + 1], length, slots)
        numbers[index] = number
        if length > 8 and number >= 0:
            prefetch(starts, number)
    for index in range(num_words):
        if bounds[2 * index + 1] - bounds[2 * index] > 8 and numbers[index] >= 0:
            prefetch(arena, starts[numbers[index]])


@numba.njit(cache=True, nogil=True)
def find_word(
    text: U8, start: Int, length: Int, key: np.uint64, mixed: np.uint64, slots: U64, starts: I64,
    arena: U8,
) -> Int:  # fmt: skip
    """Return the number of a word, or ~slot of the empty slot where it belongs.

    Args: as `find_or_add` takes them
    """
    mask = np.uint64(len(slots) // 2 - 1)
    slot = mixed & mask
    while True:
        entry = slots[np.uint64(2) * slot + np.uint64(1)]
        if entry == np.uint64(0):
            return ~np.int64(slot)
        same_length = np.int64(entry >> np.uint64(32)) == length
        if same_length and slots[np.uint64(2) * slot] == key:
            number = np.int64(entry & _HALF) - 1
            if length <= 8 or are_equal(text, start, arena, starts[number], length):
                return number
        slot = (slot + np.uint64(1)) & mask


@numba.njit(cache=True, nogil=True)
def find_or_add(
    text: U8, start: Int, length: Int, key: np.uint64, mixed: np.uint64, slots: U64, starts: I64,
    arena: U8, state: I64,
) -> Int:  # fmt: skip
    """Return the number of a word, the next one if it is new; -TABLE_FULL or -BYTES_FULL.

    Args:
        text: uint8 (N,)
        start: first byte of the word
        length: of the word, bytes
        key: from `word_key`
        mixed: from `hash_of`
        slots: uint64 (2 * a power of two,), the hash table
        starts: int64, where each word begins in `arena`, one more than there are words
        arena: uint8, the words
        state: int64 (6,), NUM_WORDS and NUM_BYTES are read and moved on
    """
    number = find_word(text, start, length, key, mixed, slots, starts, arena)
    if number >= 0:
        return number
    slot = ~number
    number, used = state[NUM_WORDS], state[NUM_BYTES]
    if number + 1 >= len(starts) or 3 * number >= len(slots):
        return -TABLE_FULL
    if used + length > len(arena):
        return -BYTES_FULL
    for index in range(length):
        arena[used + index] = text[start + index]
    starts[number + 1] = used + length
    state[NUM_WORDS], state[NUM_BYTES] = number + 1, used + length
    slots[2 * slot] = key
    slots[2 * slot + 1] = np.uint64(number + 1) | (np.uint64(length) << np.uint64(32))
    return number


@numba.njit(cache=True, nogil=True)
def scan_words(
    text: U8, flags: U8, offsets: I64, marks: I64, classes: U8, slots: U64, starts: I64, arena: U8,
    state: I64, words: I32, before: I64, cut: I64,
) -> Int:  # fmt: skip
    """Number the words of documents from where `state` says; return why it stopped.

    Args:
        text: uint8 (N,)
        flags: from `flag_alphanumeric`
        offsets: int64 (D + 1,)
        marks: int64 (M,), sorted
        classes: uint8 (NUM_CLASSES,)
        slots: uint64 (2 * a power of two,), the hash table
        starts: int64, where each word begins in `arena`, one more than there are words
        arena: uint8, the words
        state: int64 (6,), where the scan is; moved on
        words: int32 (N,), filled with the number of each word
        before: int64 (M,), filled with how many words begin before each mark
        cut: int64 (M,), filled with the start of the word that has a mark inside it
    """
    bounds, keys = np.empty(2 * BATCH, np.int64), np.empty(2 * BATCH, np.uint64)
    numbers = np.empty(BATCH, np.int64)
    found, mark = state[FOUND], state[MARK]
    last = np.int64(len(text))
    next_mark = marks[mark] if mark < len(marks) else last
    num_cut = 1
    while num_cut > 0:
        if classes[32] == BLANK:
            num_cut = cut_spaced_words(text, flags, offsets, classes, slots, state, bounds, keys)
        else:
            num_cut = cut_batch(text, flags, offsets, classes, slots, state, bounds, keys)
        find_candidates(num_cut, bounds, keys, slots, starts, arena, numbers)
        for index in range(num_cut):
            start, end = bounds[2 * index], bounds[2 * index + 1]
            number, length = numbers[index], end - start
            if number < 0 or (
                length > 8 and not are_equal(text, start, arena, starts[number], length)
            ):
                number = find_or_add(
                    text, start, length, keys[2 * index], keys[2 * index + 1],
                    slots, starts, arena, state,
                )  # fmt: skip
            if number < 0:
                state[DOCUMENT] = np.searchsorted(offsets, start, side="right") - 1
                state[POSITION], state[FOUND], state[MARK] = start, found, mark
                return -number
            while next_mark < end:
                inside = next_mark > start
                before[mark] = found + inside
                if inside:
                    cut[mark] = start
                mark += 1
                next_mark = marks[mark] if mark < len(marks) else last
            words[found] = number
            found += 1
    before[mark:] = found
    state[FOUND] = found
    return DONE


@numba.njit(cache=True, nogil=True)
def move_slots(slots: U64, larger: U64) -> None:
    """Put every entry of a table into an empty larger one.

    Args:
        slots: uint64 (2 * a power of two,)
        larger: the same with more slots, all 0; filled
    """
    mask = np.uint64(len(larger) // 2 - 1)
    for old in range(0, len(slots), 2):
        entry = slots[old + 1]
        if entry != np.uint64(0):
            slot = hash_of(slots[old], np.int64(entry >> np.uint64(32))) & mask
            while larger[np.uint64(2) * slot + np.uint64(1)] != np.uint64(0):
                slot = (slot + np.uint64(1)) & mask
            larger[np.uint64(2) * slot] = slots[old]
            larger[np.uint64(2) * slot + np.uint64(1)] = entry
