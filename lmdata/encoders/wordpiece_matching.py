"""WordPiece's longest match for words of ASCII letters and digits.

`tokenizers` needs 3 us for a new word, most of it for normalizing and for its own bookkeeping. A
word of ASCII letters and digits needs no normalizing but lower-casing, and then what is left of
WordPiece is a few look-ups: the longest piece that the rest of the word begins with, again and
again, and the unknown piece for the whole word if that fails or the word is too long (Wu et al.
2016, section 4.1; `tokenizers`, models/wordpiece). All other words are left to `tokenizers`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from lmdata.encoders.word_kernels import (
    I64,
    U8,
    U64,
    Int,
    find_word,
    flag_alphanumeric,
    hash_of,
    run_end,
    word_key,
)
from lmdata.encoders.words import WordTable, ascii_classes, frozen

MAX_MATCHED_BYTES = 1 << 10
"""Longer words, where a tokenizer allows them at all, are left to `tokenizers`."""


class WordPieceMatcher:
    """Encodes words of ASCII letters and digits.

    Args:
        definition: parsed `tokenizer.json` of a WordPiece tokenizer with a BertNormalizer

    Example:
        >>> model = {"vocab": {"[UNK]": 0, "play": 1, "##ing": 2}, "unk_token": "[UNK]",
        ...          "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
        >>> matcher = WordPieceMatcher({"model": model, "normalizer": {"lowercase": True}})
        >>> words = np.frombuffer(b"Playingplay?", np.uint8)
        >>> ids, lengths = matcher.match(words, np.array([0, 7, 11, 12]))
        >>> ids.tolist(), lengths.tolist()
        ([1, 2, 1], [2, 1, -1])
    """

    def __init__(self, definition: dict[str, Any]) -> None:
        model = definition["model"]
        prefix, vocabulary = model["continuing_subword_prefix"], model["vocab"]
        continuing = {
            piece.removeprefix(prefix): index
            for piece, index in vocabulary.items()
            if piece.startswith(prefix)
        }
        self._first, self._next = PieceTable(vocabulary), PieceTable(continuing)
        self._lower_case = bool(definition["normalizer"]["lowercase"])
        self._max_bytes = int(model["max_input_chars_per_word"])
        self._unknown_id = int(vocabulary[model["unk_token"]])

    def match(self, words: U8, starts: I64) -> tuple[I64, I64]:
        """Return the ids of words.

        Args:
            words: uint8 (N,), the bytes of all words
            starts: int64 (W + 1,), where each begins

        Returns:
            ids: int64 (T,), of the words that were encoded
            lengths: int64 (W,), how many ids each word has, -1 for a word that was left out
        """
        words, starts = frozen(words), frozen(starts)
        return match_words(
            words, flag_alphanumeric(words), starts, self._lower_case, self._max_bytes,
            self._unknown_id, *self._first.arrays, *self._next.arrays,
        )  # fmt: skip


class PieceTable:
    """The pieces of ASCII letters and digits, to be looked up by their bytes."""

    def __init__(self, pieces: dict[str, int]) -> None:
        plain = {piece: index for piece, index in pieces.items() if _is_plain(piece)}
        table = WordTable(ascii_classes())
        text = np.frombuffer(" ".join(plain).encode("ascii"), np.uint8)
        table.scan(text, np.array([0, len(text)]), np.zeros(0, np.int64))
        ids = np.fromiter(plain.values(), np.int64, len(plain))
        longest = max(map(len, plain), default=0)
        self.arrays = (*table.arrays, ids, longest)


def _is_plain(piece: str) -> bool:
    return piece.isascii() and piece.isalnum()


@numba.njit(cache=True, nogil=True)
def longest_piece(
    word: U8, start: Int, stop: Int,
    slots: U64, starts: I64, arena: U8, longest: Int,
) -> tuple[Int, Int]:  # fmt: skip
    """Return number and end of the longest piece that [start, stop) begins with, -1 if none."""
    for end in range(min(stop, start + longest), start, -1):
        key = word_key(word, start, end)
        mixed = hash_of(key, end - start)
        number = find_word(word, start, end - start, key, mixed, slots, starts, arena)
        if number >= 0:
            return number, end
    return -1, start


@numba.njit(cache=True, nogil=True)
def match_word(
    word: U8, length: Int, ids: I64, used: Int,
    slots: U64, starts: I64, arena: U8, piece_ids: I64, longest: Int,
    next_slots: U64, next_starts: I64, next_arena: U8, next_ids: I64, next_longest: Int,
) -> Int:  # fmt: skip
    """Write the ids of one word at `used`; return how many, 0 if a part of it has no piece."""
    number, end = longest_piece(word, 0, length, slots, starts, arena, longest)
    if number < 0:
        return 0
    ids[used] = piece_ids[number]
    count = 1
    while end < length:
        number, end = longest_piece(
            word, end, length, next_slots, next_starts, next_arena, next_longest
        )
        if number < 0:
            return 0
        ids[used + count] = next_ids[number]
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def match_words(
    words: U8, flags: U8, word_starts: I64, lower_case: bool, max_bytes: Int, unknown_id: Int,
    slots: U64, starts: I64, arena: U8, piece_ids: I64, longest: Int,
    next_slots: U64, next_starts: I64, next_arena: U8, next_ids: I64, next_longest: Int,
) -> tuple[I64, I64]:  # fmt: skip
    """Return ids and lengths, as `WordPieceMatcher.match` says.

    Args:
        words: uint8 (N,), the bytes of all words
        flags: from `flag_alphanumeric`
        word_starts: int64 (W + 1,), where each word begins
        lower_case: letters are made small first
        max_bytes: longer words are unknown
        unknown_id: of the unknown piece
        slots: with `starts` and `arena` the pieces that begin a word, as `find_word` takes them
        starts: see `slots`
        arena: see `slots`
        piece_ids: int64, the id of each of them
        longest: bytes of the longest of them
        next_slots: the same five for the pieces inside a word
        next_starts: see `starts`
        next_arena: see `arena`
        next_ids: see `piece_ids`
        next_longest: see `longest`
    """
    num_words = len(word_starts) - 1
    ids = np.empty(word_starts[-1] - word_starts[0], np.int64)
    lengths = np.full(num_words, -1, np.int64)
    room = min(max_bytes, MAX_MATCHED_BYTES)
    buffer = np.zeros(room + 8, np.uint8)
    used = 0
    for index in range(num_words):
        start, length = word_starts[index], word_starts[index + 1] - word_starts[index]
        stop = start + length
        if run_end(flags, start, stop) < stop or room < length <= max_bytes:
            continue
        count = 0
        if length <= room:
            for place in range(length):
                byte = words[start + place]
                buffer[place] = byte | 32 if lower_case and byte >= 65 else byte
            count = match_word(
                buffer, length, ids, used, slots, starts, arena, piece_ids, longest,
                next_slots, next_starts, next_arena, next_ids, next_longest,
            )  # fmt: skip
        if count == 0:
            ids[used] = unknown_id
            count = 1
        lengths[index] = count
        used += count
    return ids[:used], lengths
