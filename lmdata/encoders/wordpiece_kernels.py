"""Compiled loops of `wordpiece_matching`: words spelled, the longest piece again and again."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from lmdata.encoders.cut_kernels import I32, I64, NUM_CLASSES, U8, U64, Int, character_at
from lmdata.encoders.word_kernels import find_word, slot_hash, word_halves
from lmdata.intrinsics import borrowed, int64, load8

MAX_MATCHED_BYTES = 1 << 10
"""Longer words, where a tokenizer allows them at all, are left to `tokenizers`."""

_MIX = np.uint64(0x9E3779B97F4A7C15)
_SIZE_BITS = 14


class Pieces(NamedTuple):
    """The pieces that begin a word, or that go on with one, to be looked up by their bytes."""

    slots: U64  # with `arena` as `find_word` takes them
    arena: U8
    ids: I64  # of each piece
    sizes: U64  # from `find_sizes`
    longest: int  # bytes


@numba.njit(cache=True, nogil=True)
def size_slot(text: U8, start: Int) -> Int:
    """Return the place of the four bytes at a position, with four behind it, in `find_sizes`'s."""
    four = load8(text, start) & np.uint64(0xFFFFFFFF)
    return np.int64((four * _MIX) >> np.uint64(64 - _SIZE_BITS))


@numba.njit(cache=True, nogil=True)
def find_sizes(arena: U8, starts: I64) -> U64:
    """Return uint64 (1 << _SIZE_BITS,): a bit for each size of pieces, by their first four bytes.

    The highest bit says that there may be a piece of that size or a larger one. Most sizes that a
    word is looked up by need no look-up then.

    Args:
        arena: uint8 (N,), the bytes of all pieces and four more
        starts: int64 (P + 1,), where each begins
    """
    sizes = np.zeros(1 << _SIZE_BITS, np.uint64)
    for piece in range(len(starts) - 1):
        size = starts[piece + 1] - starts[piece]
        if size >= 4:
            sizes[size_slot(arena, starts[piece])] |= np.uint64(1) << np.uint64(min(size, 63))
    return sizes


@numba.njit(cache=True, nogil=True)
def longest_piece(word: U8, start: Int, stop: Int, pieces: Pieces) -> tuple[Int, Int]:
    """Return number and end of the longest piece that [start, stop) begins with, -1 if none.

    Args:
        word: uint8 (N,)
        start: first byte
        stop: behind the last
        pieces: to look for
    """
    sizes = pieces.sizes[size_slot(word, start)] if start + 4 <= stop else np.uint64(0)
    for end in range(min(stop, start + pieces.longest), start, -1):
        size = np.uint64(min(end - start, 63))
        if size >= np.uint64(4) and (sizes >> size) & np.uint64(1) == np.uint64(0):
            continue
        head, tail = word_halves(word, start, end)
        mixed = slot_hash(word, start, end - start, head, tail)
        number = find_word(word, start, end - start, head, tail, mixed, pieces.slots, pieces.arena)
        if number >= 0:
            return number, end
    return -1, start


@numba.njit(cache=True, nogil=True)
def match_word(word: U8, length: Int, ids: I64, used: Int, first: Pieces, following: Pieces) -> Int:
    """Write the ids of one word at `used`; return how many, 0 if a part of it has no piece.

    Args:
        word: uint8 (N,)
        length: of the word, which begins at 0
        ids: int64, written from `used` on, at most one id a byte
        used: where to write
        first: pieces that begin a word
        following: those that go on with one
    """
    number, end = longest_piece(word, int64(0), length, first)
    if number < 0:
        return 0
    ids[used] = first.ids[number]
    count = 1
    while end < length:
        number, end = longest_piece(word, end, length, following)
        if number < 0:
            return 0
        ids[used + count] = following.ids[number]
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def put_character(buffer: U8, place: Int, code: Int) -> Int:
    """Write a code point as UTF-8 at a place and return the place behind it.

    Args:
        buffer: uint8, written
        place: where to write; at least four bytes follow
        code: in [0, 0x110000)
    """
    if code < 0x80:
        buffer[place] = code
        return place + 1
    length = 2 if code < 0x800 else 3 if code < 0x10000 else 4
    for index in range(length - 1, 0, -1):
        buffer[place + index] = 0x80 | (code & 0x3F)
        code >>= 6
    buffer[place] = code | ((0xF00 >> length) & 0xF0)
    return place + length


@numba.njit(cache=True, nogil=True)
def spell_word(words: U8, start: Int, stop: Int, becomes: I32, buffer: U8) -> tuple[Int, Int]:
    """Write what becomes of a word; return its bytes and characters, -1 if one is not known.

    Of a word that is too long for the buffer, the end is not written.

    Args:
        words: uint8 (N,)
        start: of the word, byte
        stop: behind it
        becomes: int32 (NUM_CLASSES,), as `match_words` takes it
        buffer: uint8 (MAX_MATCHED_BYTES + 8,), written
    """
    position, size, num_characters = start, int64(0), 0
    while position < stop:
        code, length = character_at(words, position, stop)
        successor = np.int64(becomes[code]) if code < NUM_CLASSES else np.int64(0)
        if successor < 0 and position == start and position + length == stop:
            successor = -successor
        if successor <= 0:
            return -1, -1
        if size <= MAX_MATCHED_BYTES:
            size = put_character(buffer, size, successor)
        num_characters += 1
        position += length
    return size, num_characters


@numba.njit(cache=True, nogil=True)
def lend(pieces: Pieces) -> Pieces:
    """Return pieces whose arrays are `borrowed`."""
    return Pieces(
        borrowed(pieces.slots), borrowed(pieces.arena), borrowed(pieces.ids),
        borrowed(pieces.sizes), pieces.longest,
    )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def match_words(
    words: U8, word_starts: I64, becomes: I32, max_characters: Int, unknown_id: Int,
    first: Pieces, following: Pieces,
) -> tuple[I64, I64]:  # fmt: skip
    """Return ids and lengths, as `WordPieceMatcher.match` says.

    Args:
        words: uint8 (N,), the bytes of all words
        word_starts: int64 (W + 1,), where each word begins
        becomes: int32 (NUM_CLASSES,), the code point that each becomes; negative where it is then
            set apart, 0 where it becomes no single one
        max_characters: longer words are unknown
        unknown_id: of the unknown piece
        first: pieces that begin a word
        following: those that go on with one
    """
    words, becomes = borrowed(words), borrowed(becomes)
    first, following = lend(first), lend(following)
    num_words = len(word_starts) - 1
    ids = np.empty(word_starts[-1] - word_starts[0], np.int64)
    lengths = np.full(num_words, -1, np.int64)
    buffer = np.zeros(MAX_MATCHED_BYTES + 8, np.uint8)
    used = int64(0)
    for index in range(num_words):
        size, num_characters = spell_word(
            words, word_starts[index], word_starts[index + 1], becomes, buffer
        )
        is_known = num_characters <= max_characters
        if size < 0 or (is_known and size > MAX_MATCHED_BYTES):
            continue
        count = 0
        if is_known:
            count = match_word(buffer, size, ids, used, first, following)
        if count == 0:
            ids[used] = unknown_id
            count = 1
        lengths[index] = count
        used += count
    return ids[:used], lengths
