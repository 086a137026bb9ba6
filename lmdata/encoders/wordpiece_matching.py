"""WordPiece with BERT's rules: where it may be cut, and the longest match of plain words.

BERT's normalizer changes a text character by character, but for one thing: decomposition sorts runs
of combining marks. BERT's pre-tokenizer then drops white space and isolates punctuation. So a text
may be cut on both sides of every character that comes out of the normalizer as white space or as
one punctuation mark (neither is a combining mark), and of every Chinese character where the
normalizer puts spaces around those. Which these are, the tokenizer itself is asked.

`tokenizers` needs 3 us for a new word, most of it for normalizing and for its own bookkeeping. A
word of ASCII letters and digits needs no normalizing but lower-casing, and then what is left of
WordPiece is a few look-ups: the longest piece that the rest of the word begins with, again and
again, and the unknown piece for the whole word if that fails or the word is too long (Wu et al.
2016, section 4.1; `tokenizers`, models/wordpiece). All other words are left to `tokenizers`.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

import numba
import numpy as np
import tokenizers

from lmdata.encoders.cut_kernels import (
    I64,
    ISOLATED,
    SPACE,
    U8,
    U64,
    WORD,
    Int,
    flag_alphanumeric,
    run_end,
)
from lmdata.encoders.word_kernels import find_word, hash_of, word_key
from lmdata.encoders.words import WordTable, ascii_classes, frozen

MAX_MATCHED_BYTES = 1 << 10
"""Longer words, where a tokenizer allows them at all, are left to `tokenizers`."""


CHINESE_RANGES = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
"""What `handle_chinese_chars` of BertNormalizer sets apart."""

_NORMALIZER_KEYS = {"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}


def find_wordpiece_obstacle(definition: dict[str, Any]) -> str | None:
    """Return why words can't be encoded one by one, None if they can.

    Args:
        definition: parsed `tokenizer.json`

    Example:
        >>> find_wordpiece_obstacle({"model": {"type": "Unigram"}})
        'the model is Unigram, not WordPiece'
    """
    model, normalizer = definition["model"], definition.get("normalizer") or {}
    if model["type"] != "WordPiece":
        return f"the model is {model['type']}, not WordPiece"
    if normalizer.get("type") != "BertNormalizer" or set(normalizer) != _NORMALIZER_KEYS:
        return f"the normalizer is {normalizer.get('type')}, not BertNormalizer"
    if definition.get("pre_tokenizer") != {"type": "BertPreTokenizer"}:
        return "the pre-tokenizer is not BertPreTokenizer"
    if model["unk_token"] not in model["vocab"]:
        return f"its unknown token {model['unk_token']!r} is not a piece"
    plain = [token["content"] for token in definition["added_tokens"] if not token["special"]]
    return f"the added token {plain[0]!r} is not special" if plain else None


def cut_classes(backend: tokenizers.Tokenizer, definition: dict[str, Any]) -> U8:
    """Return uint8 (NUM_CLASSES,), WORD, SPACE or ISOLATED for each code point, for `WordTable`.

    Args:
        backend: a tokenizer for which `find_wordpiece_obstacle` found none
        definition: its parsed `tokenizer.json`
    """
    classes = ascii_classes()
    candidates = _candidates()
    classes[candidates] = ask_classes(backend, candidates)
    if definition["normalizer"]["handle_chinese_chars"]:
        for first, last in CHINESE_RANGES:
            sample = [*range(first, last, 499), last]
            if np.all(ask_classes(backend, sample) == ISOLATED):
                classes[first : last + 1] = ISOLATED
    return classes


@functools.cache
def _candidates() -> list[int]:
    """Return the code points beyond ASCII that may be white space or punctuation."""
    return [code for code in range(0x80, 0xFFFF) if unicodedata.category(chr(code))[0] in "PZ"]


def ask_classes(backend: tokenizers.Tokenizer, codes: list[int]) -> U8:
    """Return the class of each code point, by what a tokenizer makes of it between two letters.

    Args:
        backend: with a BertNormalizer and a BertPreTokenizer
        codes: code points, none of them ASCII
    """
    text = " 0 ".join(f"a{chr(code)}a" for code in codes)
    normalized = backend.normalizer.normalize_str(text)
    answers: list[list[str]] = [[]]
    for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normalized):
        if piece == "0":
            answers.append([])
        else:
            answers[-1].append(piece)
    assert len(answers) == len(codes), "a character between two letters came out as a digit"
    return np.array([_class_of(answer) for answer in answers], np.uint8)


def _class_of(pieces: list[str]) -> int:
    if pieces == ["a", "a"]:
        return SPACE
    is_isolated = len(pieces) == 3 and pieces[0] == pieces[2] == "a"
    return ISOLATED if is_isolated else WORD


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

    def begins(self, word: bytes, is_first: bool) -> I64 | None:
        """Return None: where pieces begin, `tokenizers` is asked."""
        return None


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
    """Return number and end of the longest piece that [start, stop) begins with, -1 if none.

    Args:
        word: uint8 (N,)
        start: first byte
        stop: behind the last
        slots: as `match_words` takes it, and so what follows
        starts: see `slots`
        arena: see `slots`
        longest: see `slots`
    """
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
    """Write the ids of one word at `used`; return how many, 0 if a part of it has no piece.

    Args:
        word: uint8 (N,)
        length: of the word, which begins at 0
        ids: int64, written from `used` on, at most one id a byte
        used: where to write
        slots: as `match_words` takes it, and so all that follow
        starts: see `slots`
        arena: see `slots`
        piece_ids: see `slots`
        longest: see `slots`
        next_slots: see `slots`
        next_starts: see `slots`
        next_arena: see `slots`
        next_ids: see `slots`
        next_longest: see `slots`
    """
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
