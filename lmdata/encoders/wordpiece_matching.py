"""WordPiece with BERT's rules: where it may be cut, and the longest match of plain words.

BERT's normalizer changes a text character by character, but for one thing: decomposition sorts runs
of combining marks. BERT's pre-tokenizer then drops white space and isolates punctuation. So a text
may be cut on both sides of every character that comes out of the normalizer as white space or as
one punctuation mark (neither is a combining mark), and of every Chinese character where the
normalizer puts spaces around those. Which these are, the tokenizer itself is asked.

`tokenizers` needs 3 us for a new word, most of it for normalizing and for its own bookkeeping. Of
most characters but combining marks, the normalizer makes one other, or leaves them; which, it is
asked when they first occur. Then what is left of WordPiece is a few look-ups: the longest piece
that the rest of the word begins with, again and again, and the unknown piece for the whole word if
that fails or the word is too long (Wu et al. 2016, section 4.1). Other words go to `tokenizers`.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

import numba
import numpy as np
import tokenizers

from lmdata.encoders.cut_kernels import (
    I32,
    I64,
    ISOLATED,
    NUM_CLASSES,
    SPACE,
    U8,
    U64,
    UNKNOWN,
    WORD,
    Int,
    character_at,
    find_unknown,
)  # fmt: skip
from lmdata.encoders.word_kernels import find_word, hash_of, word_key
from lmdata.encoders.words import WordTable, ascii_classes
from lmdata.intrinsics import int64
from lmdata.ragged import frozen

MAX_MATCHED_BYTES = 1 << 10
"""Longer words, where a tokenizer allows them at all, are left to `tokenizers`."""

_WHOLE = re.compile(r"[^\x00-/:-@\[-`{-\x7f]+|[!-~]")
CHINESE_RANGES = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip
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
    return np.array([_class_of(answer) for answer in ask_between_letters(backend, codes)], np.uint8)


def ask_between_letters(backend: tokenizers.Tokenizer, codes: list[int]) -> list[list[str]]:
    """Return the pre-tokens of each code point between two letters `a`.

    Args:
        backend: with a BertNormalizer and a BertPreTokenizer
        codes: code points
    """
    text = " 0 ".join(f"a{chr(code)}a" for code in codes)
    normalized = backend.normalizer.normalize_str(text)
    answers: list[list[str]] = [[]]
    for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normalized):
        if piece == "0":
            answers.append([])
        else:
            answers[-1].append(piece)
    assert len(answers) == max(1, len(codes)), "a character between two letters came out as a digit"
    return answers


def _class_of(pieces: list[str]) -> int:
    if pieces == ["a", "a"]:
        return SPACE
    is_isolated = len(pieces) == 3 and pieces[0] == pieces[2] == "a"
    return ISOLATED if is_isolated else WORD


def _successor_of(pieces: list[str]) -> int:
    """Return the code point that a character between two `a` has become; negated if set apart.

    Example:
        >>> [_successor_of(pieces) for pieces in (["aea"], ["a", "=", "a"], ["aa"])]
        [101, -61, 0]
    """
    if len(pieces) == 1 and len(pieces[0]) == 3 and pieces[0][0] == pieces[0][2] == "a":
        return ord(pieces[0][1])
    is_isolated = len(pieces) == 3 and pieces[0] == pieces[2] == "a" and len(pieces[1]) == 1
    return -ord(pieces[1]) if is_isolated else 0


class WordPieceMatcher:
    r"""Encodes words of characters that become one character each.

    Args:
        backend: its normalizer and pre-tokenizer are asked
        definition: its parsed `tokenizer.json`, for which `find_wordpiece_obstacle` finds none

    Example:
        >>> from lmdata.tokenizer import Tokenizer, wordpiece_backend
        >>> pieces = {"[UNK]": 0, "play": 1, "##ing": 2}
        >>> tokenizer = Tokenizer(wordpiece_backend(pieces, lower_case=True))
        >>> matcher = WordPieceMatcher(tokenizer.backend, tokenizer.definition)
        >>> words = np.frombuffer("Plàyingplay\N{COMBINING GRAVE ACCENT}".encode(), np.uint8)
        >>> ids, lengths = matcher.match(words, np.array([0, 8, 12, 14]))
        >>> ids.tolist(), lengths.tolist()
        ([1, 2, 1], [2, 1, -1])
    """

    def __init__(self, backend: tokenizers.Tokenizer, definition: dict[str, Any]) -> None:
        model = definition["model"]
        prefix, vocabulary = model["continuing_subword_prefix"], model["vocab"]
        continuing = {
            piece.removeprefix(prefix): index
            for piece, index in vocabulary.items()
            if piece.startswith(prefix)
        }
        self._backend = backend
        self._first, self._next = PieceTable(vocabulary), PieceTable(continuing)
        self._max_characters = int(model["max_input_chars_per_word"])
        self._unknown_id = int(vocabulary[model["unk_token"]])
        self._known = np.full(NUM_CLASSES, UNKNOWN, np.uint8)
        self._becomes = np.zeros(NUM_CLASSES, np.int32)
        self._learn(np.arange(33, 127))

    def _learn(self, codes: I64) -> None:
        """Ask what becomes of code points: int64 (C,)."""
        self._known[codes] = WORD
        asked = [code for code in codes.tolist() if unicodedata.category(chr(code))[0] not in "CMZ"]
        if asked:
            answers = map(_successor_of, ask_between_letters(self._backend, asked))
            self._becomes[asked] = list(answers)

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
        self._learn(np.flatnonzero(find_unknown(words[starts[0] : starts[-1]], self._known)))
        return match_words(
            words, starts, self._becomes, self._max_characters, self._unknown_id,
            *self._first.arrays, *self._next.arrays,
        )  # fmt: skip

    def begins(self, word: bytes, is_first: bool) -> I64 | None:
        """Return None: where pieces begin, `tokenizers` is asked."""
        return None


class PieceTable:
    """The pieces that a word may hold, to be looked up by their bytes."""

    def __init__(self, pieces: dict[str, int]) -> None:
        whole = {piece: index for piece, index in pieces.items() if _is_whole(piece)}
        table = WordTable(ascii_classes())
        text = np.frombuffer(" ".join(whole).encode("utf-8"), np.uint8)
        table.scan(text, np.array([0, len(text)]), np.zeros(0, np.int64))
        ids = np.fromiter(whole.values(), np.int64, len(whole))
        longest = int(np.diff(table.starts[: table.num_words + 1]).max(initial=0))
        self.arrays = (*table.arrays, ids, longest)


def _is_whole(piece: str) -> bool:
    """Whether a piece is one word where ASCII white space and punctuation are cut at."""
    return piece.isalnum() or _WHOLE.fullmatch(piece) is not None


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
    number, end = longest_piece(word, int64(0), length, slots, starts, arena, longest)
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
def match_words(
    words: U8, word_starts: I64, becomes: I32, max_characters: Int, unknown_id: Int,
    slots: U64, starts: I64, arena: U8, piece_ids: I64, longest: Int,
    next_slots: U64, next_starts: I64, next_arena: U8, next_ids: I64, next_longest: Int,
) -> tuple[I64, I64]:  # fmt: skip
    """Return ids and lengths, as `WordPieceMatcher.match` says.

    Args:
        words: uint8 (N,), the bytes of all words
        word_starts: int64 (W + 1,), where each word begins
        becomes: int32 (NUM_CLASSES,), the code point that each becomes; negative where it is then
            set apart, 0 where it becomes no single one
        max_characters: longer words are unknown
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
            count = match_word(
                buffer, size, ids, used, slots, starts, arena, piece_ids, longest,
                next_slots, next_starts, next_arena, next_ids, next_longest,
            )  # fmt: skip
        if count == 0:
            ids[used] = unknown_id
            count = 1
        lengths[index] = count
        used += count
    return ids[:used], lengths
