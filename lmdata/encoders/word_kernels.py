"""The compiled passes behind `lmdata.encoders.words`: cut, hash, look up.

Words are cut and hashed a batch ahead of their look-up, with their slots prefetched, which hides
the memory behind a table that is larger than the cache.

The table is open addressing with linear probing. A slot is four uint64, half a cache line: the
first and the last 8 bytes of the word, which are all of it up to 16, length << 32 | number + 1 (0
if the slot is empty), and where it lies among the bytes of all words.
"""

from __future__ import annotations

import numba
import numpy as np

from lmdata.encoders.cut_kernels import BLANK, I32, I64, U8, U64, Int
from lmdata.encoders.window_kernels import (
    BATCH,
    DOCUMENT,
    POSITION,
    WINDOW,
    cut_spaced_words,
    cut_words,
)
from lmdata.intrinsics import borrowed, int64, load8, prefetch

# Places in the state of a scan, and why it stopped.
FOUND, PLACE, NUM_WORDS, NUM_BYTES = range(2, 6)
DONE, TABLE_FULL, BYTES_FULL = range(3)

SLOT = 4
"""Integers of a slot."""

_MIX = np.uint64(0x9E3779B97F4A7C15)
_OTHER_MIX = np.uint64(0xD6E8FEB86659FD93)
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
def word_halves(text: U8, start: Int, stop: Int) -> tuple[Int, Int]:
    """Return the first 8 bytes of a word, and its last 8 if it is longer than that, else 0.

    With its length they are the word, up to 16 bytes.

    Args:
        text: uint8 (N,)
        start: of the word, byte
        stop: behind it, above `start`
    """
    length = stop - start
    if start + 8 > len(text):
        return bytes_at_end(text, start, stop), np.uint64(0)
    shortened = np.uint64(64 - 8 * min(length, 8))
    tail = load8(text, max(stop - 8, 0)) * np.uint64(length > 8)
    return load8(text, start) & (_ALL >> shortened), tail


@numba.njit(cache=True, nogil=True)
def bytes_at_end(text: U8, start: Int, stop: Int) -> Int:
    """Return fewer than 8 bytes of a text as one number; loops are dear in a small function."""
    found = np.uint64(0)
    for position in range(start, stop):
        found |= np.uint64(text[position]) << np.uint64(8 * (position - start))
    return found


@numba.njit(cache=True, nogil=True, inline="always")
def slot_hash(text: U8, start: Int, length: Int, first: np.uint64, last: np.uint64) -> Int:
    """Return the hash whose low bits choose the slot of a word.

    Args: as `find_word` takes them
    """
    mixed = (first ^ (last * _OTHER_MIX) ^ np.uint64(length)) * _MIX
    if length > 16:
        mixed = mix_middle(text, start, length, mixed)
    return mixed ^ (mixed >> np.uint64(32))


@numba.njit(cache=True, nogil=True, inline="always")
def mix_middle(text: U8, start: Int, length: Int, mixed: np.uint64) -> Int:
    """Return a hash into which what lies between the halves of a word is mixed too."""
    done = int64(8)
    while done + 8 < length:
        mixed = (mixed ^ (mixed >> np.uint64(29)) ^ load8(text, start + done)) * _MIX
        done += 8
    return mixed


@numba.njit(cache=True, nogil=True)
def find_words(
    text: U8, num_words: Int, bounds: I64, keys: U64, slots: U64, arena: U8, numbers: I64
) -> None:
    """Look a batch of words up, once all are hashed and their slots prefetched.

    Args:
        text: uint8 (N,)
        num_words: of the batch
        bounds: int64 (2 * num_words or more,), start and end of each word
        keys: uint64 (3 * num_words or more,), filled with the halves and the hash of each word
        slots: as `find_or_add` takes it, and so `arena`
        arena: see `slots`
        numbers: int64 (num_words or more,), filled; negative for words that are not there
    """
    text, slots, arena = borrowed(text), borrowed(slots), borrowed(arena)
    mask = np.uint64(len(slots) // SLOT - 1)
    for index in range(num_words):
        start, length = bounds[2 * index], bounds[2 * index + 1] - bounds[2 * index]
        first, last = word_halves(text, start, start + length)
        mixed = slot_hash(text, start, length, first, last)
        prefetch(slots, np.int64(np.uint64(SLOT) * (mixed & mask)))
        keys[3 * index], keys[3 * index + 1], keys[3 * index + 2] = first, last, mixed
    for index in range(num_words):
        start, length = bounds[2 * index], bounds[2 * index + 1] - bounds[2 * index]
        numbers[index] = find_word(
            text, start, length, keys[3 * index], keys[3 * index + 1], keys[3 * index + 2],
            slots, arena,
        )  # fmt: skip


@numba.njit(cache=True, nogil=True, inline="always")
def find_word(
    text: U8, start: Int, length: Int, first: np.uint64, last: np.uint64, mixed: np.uint64,
    slots: U64, arena: U8,
) -> Int:  # fmt: skip
    """Return the number of a word, or ~slot of the empty slot where it belongs.

    Args: as `find_or_add` takes them
    """
    mask = np.uint64(len(slots) // SLOT - 1)
    slot = mixed & mask
    while True:
        place = np.int64(np.uint64(SLOT) * slot)
        entry = slots[place + 2]
        if entry == np.uint64(0):
            return ~np.int64(slot)
        different = (slots[place] ^ first) | (slots[place + 1] ^ last)
        if different | ((entry >> np.uint64(32)) ^ np.uint64(length)) == np.uint64(0) and (
            length <= 16 or are_equal(text, start, arena, np.int64(slots[place + 3]), length)
        ):
            return np.int64(entry & _HALF) - 1
        slot = (slot + np.uint64(1)) & mask


@numba.njit(cache=True, nogil=True)
def find_or_add(
    text: U8, start: Int, length: Int, first: np.uint64, last: np.uint64, mixed: np.uint64,
    slots: U64, starts: I64, arena: U8, state: I64,
) -> Int:  # fmt: skip
    """Return the number of a word, the next one if it is new; -TABLE_FULL or -BYTES_FULL.

    Args:
        text: uint8 (N,)
        start: first byte of the word
        length: of the word, bytes
        first: from `word_halves`, and so `last`
        last: see `first`
        mixed: from `slot_hash`
        slots: uint64 (SLOT * a power of two,), the hash table
        starts: int64, where each word begins in `arena`, one more than there are words
        arena: uint8, the words
        state: int64 (6,), NUM_WORDS and NUM_BYTES are read and moved on
    """
    number = find_word(text, start, length, first, last, mixed, slots, arena)
    if number >= 0:
        return number
    slot = ~number
    number, used = state[NUM_WORDS], state[NUM_BYTES]
    if number + 1 >= len(starts) or 3 * number >= 2 * (len(slots) // SLOT):
        return -TABLE_FULL
    if used + length > len(arena):
        return -BYTES_FULL
    for index in range(length):
        arena[used + index] = text[start + index]
    starts[number + 1] = used + length
    state[NUM_WORDS], state[NUM_BYTES] = number + 1, used + length
    slots[SLOT * slot], slots[SLOT * slot + 1] = first, last
    slots[SLOT * slot + 2] = np.uint64(number + 1) | (np.uint64(length) << np.uint64(32))
    slots[SLOT * slot + 3] = np.uint64(used)
    return number


@numba.njit(cache=True, nogil=True)
def scan_words(
    text: U8, letters: U8, marks: U8, odd: U8, offsets: I64, places: I64, classes: U8, slots: U64,
    starts: I64, arena: U8, state: I64, words: I32, before: I64, cut: I64,
) -> Int:  # fmt: skip
    """Number the words of documents from where `state` says; return why it stopped.

    Args:
        text: uint8 (N,)
        letters: from `flag_signs`, and so `marks` and `odd`
        marks: see `letters`
        odd: see `letters`
        offsets: int64 (D + 1,)
        places: int64 (M,), sorted positions
        classes: uint8 (NUM_CLASSES,)
        slots: uint64 (SLOT * a power of two,), the hash table
        starts: int64, where each word begins in `arena`, one more than there are words
        arena: uint8, the words
        state: int64 (6,), where the scan is; moved on
        words: int32 (N,), filled with the number of each word
        before: int64 (M,), filled with how many words begin before each of `places`
        cut: int64 (M,), filled with the start of the word that has one of `places` inside it
    """
    text, letters, marks, odd = borrowed(text), borrowed(letters), borrowed(marks), borrowed(odd)
    slots, arena, classes = borrowed(slots), borrowed(arena), borrowed(classes)
    bounds = np.empty(2 * (BATCH + WINDOW), np.int64)
    keys = np.empty(3 * (BATCH + WINDOW), np.uint64)
    numbers = np.empty(BATCH + WINDOW, np.int64)
    found, place = state[FOUND], state[PLACE]
    last_place = np.int64(len(text))
    next_place = places[place] if place < len(places) else last_place
    num_cut = int64(1)
    while num_cut > 0:
        if classes[32] == BLANK:
            num_cut = cut_spaced_words(text, letters, marks, odd, offsets, classes, state, bounds)
        else:
            num_cut = cut_words(text, letters, marks, odd, offsets, classes, state, bounds)
        find_words(text, num_cut, bounds, keys, slots, arena, numbers)
        for index in range(num_cut):
            start, end, number = bounds[2 * index], bounds[2 * index + 1], numbers[index]
            if number < 0:
                number = find_or_add(
                    text, start, end - start, keys[3 * index], keys[3 * index + 1],
                    keys[3 * index + 2], slots, starts, arena, state,
                )  # fmt: skip
            if number < 0:
                state[DOCUMENT] = np.searchsorted(offsets, start, side="right") - 1
                state[POSITION], state[FOUND], state[PLACE] = start, found, place
                return -number
            while next_place < end:
                inside = next_place > start
                before[place] = found + inside
                if inside:
                    cut[place] = start
                place += 1
                next_place = places[place] if place < len(places) else last_place
            words[found] = number
            found += 1
    before[place:] = found
    state[FOUND] = found
    return DONE


@numba.njit(cache=True, nogil=True)
def move_slots(slots: U64, larger: U64, arena: U8) -> None:
    """Put every entry of a table into an empty larger one.

    Args:
        slots: uint64 (SLOT * a power of two,)
        larger: the same with more slots, all 0; filled
        arena: uint8, the words
    """
    mask = np.uint64(len(larger) // SLOT - 1)
    for old in range(0, len(slots), SLOT):
        entry = slots[old + 2]
        if entry != np.uint64(0):
            start, length = np.int64(slots[old + 3]), np.int64(entry >> np.uint64(32))
            slot = slot_hash(arena, start, length, slots[old], slots[old + 1]) & mask
            while larger[np.int64(np.uint64(SLOT) * slot) + 2] != np.uint64(0):
                slot = (slot + np.uint64(1)) & mask
            for part in range(SLOT):
                larger[np.int64(np.uint64(SLOT) * slot) + part] = slots[old + part]
