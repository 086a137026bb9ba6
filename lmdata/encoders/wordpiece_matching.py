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

import numpy as np
import tokenizers

from lmdata.encoders.cut_kernels import (
    I64,
    ISOLATED,
    NUM_CLASSES,
    SPACE,
    U8,
    UNKNOWN,
    WORD,
    find_unknown,
)
from lmdata.encoders.wordpiece_kernels import Pieces, find_sizes, match_words
from lmdata.encoders.words import WordTable, ascii_classes
from lmdata.ragged import frozen

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
    categories = map(unicodedata.category, map(chr, range(0x80, 0xFFFF)))
    return [code for code, category in enumerate(categories, 0x80) if category[0] in "PZ"]


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
        self._first, self._next = make_pieces(vocabulary), make_pieces(continuing)
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
            self._first, self._next,
        )  # fmt: skip

    def begins(self, word: bytes, is_first: bool) -> I64 | None:
        """Return None: where pieces begin, `tokenizers` is asked."""
        return None


def make_pieces(pieces: dict[str, int]) -> Pieces:
    """Return the pieces that a word may hold.

    Args:
        pieces: spelling -> id
    """
    whole = {piece: index for piece, index in pieces.items() if _is_whole(piece)}
    table = WordTable(ascii_classes())
    text = np.frombuffer(" ".join(whole).encode("utf-8"), np.uint8)
    table.scan(text, np.array([0, len(text)]), np.zeros(0, np.int64))
    ids = np.fromiter(whole.values(), np.int64, len(whole))
    starts = table.starts[: table.num_words + 1]
    longest = int(np.diff(starts).max(initial=0))
    sizes = find_sizes(np.append(table.bytes, np.zeros(8, np.uint8)), starts)
    slots, _, arena = table.arrays
    return Pieces(slots, arena, ids, sizes, longest)


def _is_whole(piece: str) -> bool:
    """Whether a piece is one word where ASCII white space and punctuation are cut at."""
    return piece.isalnum() or _WHOLE.fullmatch(piece) is not None
