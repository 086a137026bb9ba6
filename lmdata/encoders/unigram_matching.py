"""Unigram's best segmentation for words whose normalization is known.

`tokenizers` encodes some 0.3 MB/s of T5's text, most of it spent on normalizing and on look-ups in
maps of maps. A word of characters that the normalizer leaves alone, or makes the same others
of wherever they stand, needs neither, and then what is left is the path of highest probability by
the pieces that it is made of (Kudo 2018, section 3.2; Viterbi 1967). Sums are formed in the order
of `tokenizers` (models/unigram, `encode_optimized`), so that ties and rounding are its own. All
other words are left to `tokenizers`.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

import numpy as np
import tokenizers

from lmdata.encoders.cut_kernels import I64, NUM_CLASSES, U8, UNKNOWN
from lmdata.encoders.cuts import LETTER, CutRule, added_spellings, composing_characters
from lmdata.encoders.unigram_kernels import (
    I32,
    MOST_GROWTH,
    OTHERS,
    fill_trie,
    find_pairs,
    lead_of,
    match_unigrams,
)
from lmdata.ragged import frozen, offsets_of
from lmdata.tokenizer_classes import steps_of

SPACE_MARK = "\u2581"
BLANKS = (" ", "\n", "\u3000", "\u00a0")
LEADS = ("", *BLANKS, *(first + second for first in BLANKS for second in BLANKS))
"""White space at the beginning of a word that may come out as one mark for a space."""
UNKNOWN_PENALTY = 10.0  # below the lowest score: models/unigram of `tokenizers`


def find_unigram_obstacle(definition: dict[str, Any]) -> str | None:
    """Return why words can't be matched with the pieces here, None if they can.

    Args:
        definition: parsed `tokenizer.json`

    Example:
        >>> find_unigram_obstacle({"model": {"type": "BPE"}})
        'the model is BPE, not Unigram'
    """
    model = definition["model"]
    if model["type"] != "Unigram":
        return f"the model is {model['type']}, not Unigram"
    if model.get("byte_fallback"):
        return "unknown characters become bytes"
    pieces = [piece for piece, _ in model["vocab"]]
    if model.get("unk_id") is None or "" in pieces or len(set(pieces)) < len(pieces):
        return "a piece is empty or there twice, or none is for what is unknown"
    return None


class UnigramMatcher:
    """Encodes words of characters that stay as they are, or become the same others anywhere.

    Args:
        backend: its normalizer says how added tokens are spelled
        definition: its parsed `tokenizer.json`, for which `find_unigram_obstacle` finds none
        rule: what is asked of the tokenizer
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, definition: dict[str, Any], rule: CutRule
    ) -> None:
        vocabulary = definition["model"]["vocab"]
        self._rule = rule
        self._scores = np.array([score for _, score in vocabulary], np.float64)
        self._unknown = int(definition["model"]["unk_id"])
        self._trie = build_trie([piece.encode("utf-8", "replace") for piece, _ in vocabulary])
        self._pairs = find_pairs(*self._trie[:2])
        self._plain = np.zeros(NUM_CLASSES, np.uint8)
        self._places = np.zeros(NUM_CLASSES, np.int32)
        self._others = bytearray()
        self._leads = np.array([_is_mark(rule, lead) for lead in LEADS], np.bool_)
        self._begins = _find_begins(backend)
        self._learn_ascii(backend, definition)
        self.learn(0x80 + np.flatnonzero(rule.classes[0x80:] != UNKNOWN))

    def _learn_ascii(self, backend: tokenizers.Tokenizer, definition: dict[str, Any]) -> None:
        """Find what becomes of each ASCII character, whatever is beside it."""
        spared = {"\x7f"}
        for step in steps_of(definition.get("normalizer"), "normalizers"):
            spared |= set(step["pattern"].get("String", "")) if step["type"] == "Replace" else set()
        for spelling, _ in added_spellings(backend, definition):
            first = spelling.lstrip()[:1]
            spared |= {first, first.lower(), first.upper()}
            if spelling[:1].isspace():
                self._leads[1 if spelling.isspace() and len(spelling) == 1 else 2 :] = False
        for code in range(33, 127):
            if chr(code) not in spared:
                self._plain[code] = self._becomes(chr(code))
        self._spared = spared

    def _becomes(self, character: str) -> int:
        """Return the ASCII character that one becomes between letters, 0 if it is not one."""
        found = self._rule.pre_tokens(f"x{character}x")
        is_one = len(found) == 1 and len(found[0]) == 4 and found[0].startswith(f"{SPACE_MARK}x")
        return ord(found[0][2]) if is_one and found[0][3] == "x" and found[0][2] < "\x80" else 0

    def learn(self, codes: I64) -> None:
        """Find which characters of a text stay as they are; int64 (C,), none of them ASCII.

        What is kept for each is 0, or 1 + its canonical combining class: marks stay in their
        order only where these do not fall. Or that it becomes others, which `_others` holds.
        """
        is_kept = self._rule.pre_tokens(f"x{LETTER}x") == [f"{SPACE_MARK}x{LETTER}x"]
        for code in codes.tolist():
            character = chr(code)
            if is_kept and character in self._rule.alike and self._is_settled(character):
                self._plain[code] = 1  # a letter, which has no combining class
                continue
            if not self._is_settled(character) or unicodedata.category(character)[0] in "CZ":
                continue
            found = self._rule.pre_tokens(f"x{character}x")
            begin = f"{SPACE_MARK}x"
            if len(found) != 1 or not found[0].startswith(begin) or found[0][-1] != "x":
                continue
            others = found[0][len(begin) : -1]
            if others == character:
                self._plain[code] = 1 + unicodedata.combining(character)
            elif self._are_settled(others) and not unicodedata.combining(character):
                self._keep(code, others.encode("utf-8"))

    def _keep(self, code: int, others: bytes) -> None:
        """Note what a character becomes, unless it is much longer."""
        if len(others) <= MOST_GROWTH * len(chr(code).encode("utf-8")):
            self._plain[code], self._places[code] = OTHERS, len(self._others)
            self._others += bytes([len(others)]) + others

    def _is_settled(self, character: str) -> bool:
        """Whether no character before it, and no rule about several, changes a character."""
        return character not in self._spared and character not in composing_characters()

    def _are_settled(self, others: str) -> bool:
        """Whether what a character becomes stays so, whatever is beside it."""
        return bool(others) and all(
            self._is_settled(other) and not unicodedata.combining(other)
            and (self._plain[ord(other)] == ord(other) if other < "\x80" else not other.isspace())
            for other in others
        )  # fmt: skip

    def match(self, words: U8, starts: I64) -> tuple[I32, I64]:
        """Return the ids of words.

        Args:
            words: uint8 (N,), the bytes of all words
            starts: int64 (W + 1,), where each begins

        Returns:
            ids: int32 (T,), of the words that were encoded
            lengths: int64 (W,), how many ids each word has, -1 for a word that was left out
        """
        ids, _, lengths = self._segment(words, starts, -1)
        return ids, lengths

    def begins(self, word: bytes, is_first: bool) -> I32 | None:
        """Return int32 (T,), where each token of a word begins; None for one that is left out.

        Args:
            word: its bytes, with the white space before it
            is_first: whether a text begins with it
        """
        raw = np.frombuffer(word, np.uint8)
        lead, _ = lead_of(raw, 0, len(raw))
        begin = int(self._begins[int(is_first), lead])
        _, begins, lengths = self._segment(raw, np.array([0, len(raw)]), begin)
        return begins if lengths[0] >= 0 else None

    def _segment(self, words: U8, starts: I64, begin: int) -> tuple[I32, I32, I64]:
        lowest = float(self._scores.min()) - UNKNOWN_PENALTY
        return match_unigrams(
            frozen(words), frozen(starts), self._plain, self._places,
            frozen(np.frombuffer(bytes(self._others) or b"\0", np.uint8)), self._leads, *self._trie,
            self._pairs, self._scores, self._unknown, lowest, begin,
        )  # fmt: skip


def _find_begins(backend: tokenizers.Tokenizer) -> I64:
    """Return int64 (2, leads), where the mark for each of LEADS begins: behind a word, and first.

    It may stand for the white space or, where that is dropped, begin with the word.
    """
    encode = functools.partial(backend.encode, add_special_tokens=False)
    before = len(encode("x").ids)
    found = np.zeros((2, len(LEADS)), np.int64)
    for place, lead in enumerate(LEADS):
        inside, first = encode(f"x{lead}x").offsets[before:], encode(f"{lead}x").offsets
        characters = (inside[0][0] - 1 if inside else 0, first[0][0] if first else 0)
        found[:, place] = [len(lead[:count].encode("utf-8")) for count in characters]
    return found


def _is_mark(rule: CutRule, lead: str) -> bool:
    """Whether white space at the beginning of a word comes out as one mark for a space."""
    return all(
        rule.pre_tokens(lead + word) == [SPACE_MARK + word] for word in ("x", "7", ".", "\u4e2d")
    )


def build_trie(pieces: list[bytes]) -> tuple[I64, I32, I32]:
    """Return the pieces as a tree of bytes.

    Returns:
        keys: int64 (a power of two,), node << 8 | byte of each edge, -1 where there is none
        children: int32, where that edge leads
        numbers: int32 (nodes,), the piece that ends at each node, -1 for none; node 0 is the root

    Example:
        >>> keys, children, numbers = build_trie([b"a", b"ab"])
        >>> numbers.tolist()
        [-1, 0, 1]
    """
    raw = np.frombuffer(b"".join(pieces), np.uint8)
    starts = offsets_of(np.array([len(piece) for piece in pieces], np.int64))
    size, num_nodes = 1 << int(2 * len(pieces)).bit_length(), 0
    while not num_nodes:
        size *= 2
        keys, children = np.full(size, -1, np.int64), np.zeros(size, np.int32)
        numbers = np.full(size // 2, -1, np.int32)
        num_nodes = fill_trie(frozen(raw), starts, keys, children, numbers)
    return keys, children, numbers[:num_nodes]
