"""Compiled loops of `unigram_matching`: a tree of pieces, words spelled, the best path."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from lmdata.encoders.cut_kernels import I64, NUM_CLASSES, U8, Int, character_at
from lmdata.intrinsics import int64

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

OTHERS = np.uint8(255)
"""Of a character that becomes others; no combining class is as high."""
MOST_GROWTH = 2
"""Times the bytes that a character has, what it becomes may have."""
_MIX = np.int64(0x1E3779B97F4A7C15)


@numba.njit(cache=True, nogil=True)
def edge_slot(keys: I64, node: Int, byte: Int) -> Int:
    """Return where the edge from a node by a byte is, or would be.

    Args:
        keys: int64 (a power of two,), node << 8 | byte of each edge, -1 where there is none
        node: of the tree
        byte: in [0, 256)
    """
    key = (np.int64(node) << 8) | np.int64(byte)
    mixed = key * _MIX
    slot = (mixed ^ (mixed >> np.int64(29))) & (len(keys) - 1)
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & (len(keys) - 1)
    return slot


@numba.njit(cache=True, nogil=True)
def fill_trie(pieces: U8, starts: I64, keys: I64, children: I32, numbers: I32) -> Int:
    """Put pieces into an empty tree and return how many nodes it has, 0 where it is too small.

    Args:
        pieces: uint8 (N,), the bytes of all pieces
        starts: int64 (P + 1,), where each begins
        keys: int64, filled as `build_trie` says
        children: int32, filled
        numbers: int32 (half as many,), filled
    """
    num_nodes = 1
    for piece in range(len(starts) - 1):
        node = int64(0)
        for place in range(starts[piece], starts[piece + 1]):
            slot = edge_slot(keys, node, pieces[place])
            if keys[slot] == -1:
                if num_nodes == len(numbers):
                    return 0
                keys[slot] = (np.int64(node) << 8) | np.int64(pieces[place])
                children[slot] = num_nodes
                num_nodes += 1
            node = children[slot]
        numbers[node] = piece
    return num_nodes


def find_pairs(keys: I64, children: I32) -> I32:
    """Return int32 (256, 257), the node behind every two bytes, and behind one; 0 for none.

    Half of the edges that a word is looked up by are the first or the second of a piece.

    Args:
        keys: int64, a tree of pieces, as `build_trie` returns it
        children: int32

    Example:
        >>> keys = np.array([97, (1 << 8) | 98, -1, -1])
        >>> pairs = find_pairs(keys, np.array([1, 2, 0, 0], np.int32))
        >>> int(pairs[97, 256]), int(pairs[97, 98]), int(pairs[98, 97])
        (1, 2, 0)
    """
    pairs = np.zeros((256, 257), np.int32)
    is_first = (keys >= 0) & (keys < 256)
    pairs[keys[is_first], 256] = children[is_first]
    byte_of = np.full(int(children.max(initial=0)) + 1, -1)  # of nodes behind the root
    byte_of[children[is_first]] = keys[is_first]
    is_second = keys >= 256
    is_second[is_second] = byte_of[keys[is_second] >> 8] >= 0
    edges = keys[is_second]
    pairs[byte_of[edges >> 8], edges & 255] = children[is_second]
    return pairs


@numba.njit(cache=True, nogil=True)
def lead_of(words: U8, start: Int, stop: Int) -> tuple[Int, Int]:
    """Return which of LEADS a word begins with, -1 for other white space, and its length.

    Args:
        words: uint8 (N,)
        start: of the word, byte
        stop: behind it
    """
    end: Int = start
    number: Int = 0
    for _ in range(3):
        kind: Int = 0
        if end < stop and words[end] == 32:
            kind = 1
        elif end < stop and words[end] == 10:
            kind = 2
        elif end + 2 < stop and words[end] == 0xE3 and words[end + 1] == words[end + 2] == 0x80:
            kind = 3
        elif end + 1 < stop and words[end] == 0xC2 and words[end + 1] == 0xA0:
            kind = 4
        if kind == 0:
            return number, end - start
        number = 4 * number + kind  # as LEADS are numbered
        end += 3 if kind == 3 else 2 if kind == 4 else 1
    return -1, 0


@numba.njit(cache=True, nogil=True)
def spell(
    words: U8, start: Int, stop: Int, plain: U8, places: I32, others: U8, buffer: U8, origins: I32
) -> Int:
    """Write a word without its white space behind a mark for it; return its end, 0 if it can't.

    Args:
        words: uint8 (N,)
        start: first byte behind the white space
        stop: end of the word
        plain: uint8 (NUM_CLASSES,), of ASCII what becomes of it, of others as `learn` says
        places: int32 (NUM_CLASSES,), where in `others` it is said what a character becomes
        others: uint8, lengths and bytes of what characters become
        buffer: uint8, filled
        origins: int32, filled with how far behind `start` the character of each byte begins
    """
    buffer[0], buffer[1], buffer[2] = 0xE2, 0x96, 0x81
    used: Int = 3
    position: Int = start
    highest = np.uint8(0)
    while position < stop:
        code, length = character_at(words, position, stop)
        kind: Int = plain[code] if code < NUM_CLASSES else np.uint8(0)
        if kind == 0:
            return 0
        size: Int = length
        if code < 0x80:
            buffer[used] = kind
            highest = np.uint8(0)
        elif kind == OTHERS:
            first: Int = np.int64(places[code])
            size = np.int64(others[first])
            for place in range(size):
                buffer[used + place] = others[first + 1 + place]
            highest = np.uint8(0)
        else:
            if 1 < kind < highest:
                return 0
            highest = kind if kind > 1 else np.uint8(0)
            for place in range(length):
                buffer[used + place] = words[position + place]
        origins[used : used + size] = position - start
        used += size
        position += length
    return used


@numba.njit(cache=True, nogil=True)
def find_path(
    text: U8, size: Int, keys: I64, children: I32, numbers: I32, pairs: I32, scores: F64,
    unknown: Int, lowest: float, best: F64, came_from: I32, took: I32,
) -> None:  # fmt: skip
    """Fill the best way to every place of a text.

    Args:
        text: uint8, the text and more
        size: bytes of the text
        keys: int64, with `children` and `numbers` the pieces, as `build_trie` returns them
        children: int32
        numbers: int32
        pairs: int32 (256, 257), from `find_pairs`
        scores: float64 (V,), logarithm of the probability of each piece
        unknown: number of the piece for what is unknown
        lowest: score of a character without a piece
        best: float64 (size + 1,), filled with the score of the best way to each place
        came_from: int32 (size + 1,), filled with where its last piece begins, -1 for no way
        took: int32 (size + 1,), filled with that piece
    """
    best[0] = 0.0
    came_from[: size + 1] = -1
    start = 0
    while start < size:
        here = best[start]
        first = text[start]
        length = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        has_piece = False
        node, place = int64(pairs[first, 256]), start + 1
        while node > 0:
            piece = numbers[node]
            if piece >= 0:
                score = scores[piece] + here
                if came_from[place] < 0 or score > best[place]:
                    best[place], came_from[place], took[place] = score, start, piece
                has_piece = has_piece or place - start == length
            if place == size:
                break
            if place == start + 1:
                node = int64(pairs[first, text[place]])
            else:
                slot = edge_slot(keys, node, text[place])
                node = int64(children[slot]) if keys[slot] != -1 else int64(0)
            place += 1
        if not has_piece:
            place = start + length
            score = lowest + here
            if came_from[place] < 0 or score > best[place]:
                best[place], came_from[place], took[place] = score, start, unknown
        start += length


@numba.njit(cache=True, nogil=True)
def match_unigrams(
    words: U8, starts: I64, plain: U8, places: I32, others: U8, leads: npt.NDArray[np.bool_],
    keys: I64, children: I32, numbers: I32, pairs: I32, scores: F64, unknown: Int, lowest: float,
    begin: Int,
) -> tuple[I32, I32, I64]:  # fmt: skip
    """Return ids, where each token begins in its word if that is asked for, and lengths.

    Args:
        words: uint8 (N,), the bytes of all words
        starts: int64 (W + 1,), where each word begins
        plain: uint8 (NUM_CLASSES,), as `spell` takes it
        places: int32 (NUM_CLASSES,), as `spell` takes it
        others: uint8, as `spell` takes it
        leads: bool (21,), which of LEADS are a mark for a space
        keys: int64, with `children` and `numbers` the pieces, as `build_trie` returns them
        children: int32
        numbers: int32
        pairs: int32 (256, 257), from `find_pairs`
        scores: float64 (V,)
        unknown: number of the piece for what is unknown; neighbours become one token
        lowest: score of a character without a piece
        begin: where the mark for a space begins in the word; -1 for not to say where tokens begin
    """
    with_begins = begin >= 0
    num_words = len(starts) - 1
    room = 4
    for index in range(num_words):
        room = max(room, MOST_GROWTH * (starts[index + 1] - starts[index]) + 4)
    origins = np.empty(room, np.int32)
    buffer, best = np.empty(room, np.uint8), np.empty(room, np.float64)
    came_from, took = np.empty(room, np.int32), np.empty(room, np.int32)
    total = MOST_GROWTH * (starts[-1] - starts[0]) + 3 * num_words
    ids, begins = np.empty(total, np.int32), np.empty(total if with_begins else 0, np.int32)
    lengths = np.full(num_words, -1, np.int64)
    used = 0
    for index in range(num_words):
        start, stop = starts[index], starts[index + 1]
        lead, skipped = lead_of(words, start, stop)
        if lead < 0 or not leads[lead] or start + skipped == stop:
            continue
        if lead > 0 and lead % 4 == 0 and words[start + skipped] >= 0x80:
            continue  # what a no-break space and a mark become together is not known
        size = spell(words, start + skipped, stop, plain, places, others, buffer, origins)
        if size == 0:
            continue
        find_path(buffer, size, keys, children, numbers, pairs, scores, unknown, lowest,
                  best, came_from, took)  # fmt: skip
        first, place = used, size
        while place > 0:
            piece, origin = took[place], came_from[place]
            if not (piece == unknown and used > first and ids[used - 1] == unknown):
                ids[used] = piece
                used += 1
            if with_begins:
                begins[used - 1] = origins[origin] + skipped if origin > 0 else begin
            place = origin
        ids[first:used] = ids[first:used][::-1].copy()
        if with_begins:
            begins[first:used] = begins[first:used][::-1].copy()
        lengths[index] = used - first
    return ids[:used], begins[: used if with_begins else 0], lengths
