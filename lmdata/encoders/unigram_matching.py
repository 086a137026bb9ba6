"""Unigram's best segmentation for words whose normalization is known.

`tokenizers` encodes some 0.3 MB/s of T5's text, most of it spent on normalizing and on look-ups in
maps of maps. A word of characters that the normalizer leaves alone
needs neither, and then what is left is the path of highest probability through the pieces that it
is made of (Kudo 2018, section 3.2; Viterbi 1967). Sums are formed in the order of `tokenizers`
(models/unigram, `encode_optimized`), so that ties and rounding are its own. All other words are
left to `tokenizers`.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import tokenizers

from lmdata.encoders.cut_kernels import I64, NUM_CLASSES, U8, UNKNOWN, Int, character_at
from lmdata.encoders.cuts import CutRule, added_spellings, composing_characters
from lmdata.intrinsics import int64
from lmdata.ragged import frozen, offsets_of
from lmdata.tokenizer_classes import steps_of

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

SPACE_MARK = "\u2581"
LEADS = ("", " ", "\n", "  ", " \n", "\n ", "\n\n")
"""White space at the beginning of a word that may come out as one mark for a space."""
UNKNOWN_PENALTY = 10.0  # below the lowest score: models/unigram of `tokenizers`
_MIX = np.int64(0x1E3779B97F4A7C15)


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
    """Encodes words of characters that stay as they are.

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
        self._plain = np.zeros(NUM_CLASSES, np.uint8)
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
        order only where these do not fall.
        """
        for code in codes.tolist():
            character = chr(code)
            if character in composing_characters() or unicodedata.category(character)[0] in "CZ":
                continue
            spelled = f"x{character}x"
            if character not in self._spared and self._rule.pre_tokens(spelled) == [
                SPACE_MARK + spelled
            ]:
                self._plain[code] = 1 + unicodedata.combining(character)

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
            frozen(words), frozen(starts), self._plain, self._leads, *self._trie,
            self._scores, self._unknown, lowest, begin,
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
        found[:, place] = [inside[0][0] - 1 if inside else 0, first[0][0] if first else 0]
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


@numba.njit(cache=True, nogil=True)
def lead_of(words: U8, start: Int, stop: Int) -> tuple[Int, Int]:
    """Return which of LEADS a word begins with, -1 for other white space, and its length.

    Args:
        words: uint8 (N,)
        start: of the word, byte
        stop: behind it
    """
    end = start
    number = 0
    while end < stop and (words[end] == 32 or words[end] == 10):
        number = 2 * number + (1 if words[end] == 32 else 2)
        end += 1
        if end - start > 2:
            return -1, 0
    # " " is 1, "\n" 2; two of them 3 ("  "), 4 (" \n"), 5 ("\n "), 6 ("\n\n")
    return number, end - start


@numba.njit(cache=True, nogil=True)
def spell(words: U8, start: Int, stop: Int, plain: U8, buffer: U8) -> Int:
    """Write a word without its white space behind a mark for it; return its end, 0 if it can't.

    Args:
        words: uint8 (N,)
        start: first byte behind the white space
        stop: end of the word
        plain: uint8 (NUM_CLASSES,), of ASCII what becomes of it, of others as `learn` says
        buffer: uint8, filled
    """
    buffer[0], buffer[1], buffer[2] = 0xE2, 0x96, 0x81
    used, position, highest = 3, start, np.uint8(0)
    while position < stop:
        code, length = character_at(words, position, stop)
        kind: Int = plain[code] if code < NUM_CLASSES else np.uint8(0)
        if kind == 0:
            return 0
        if code < 0x80:
            buffer[used] = kind
            highest = np.uint8(0)
        else:
            if 1 < kind < highest:
                return 0
            highest = kind if kind > 1 else np.uint8(0)
            for place in range(length):
                buffer[used + place] = words[position + place]
        used += length
        position += length
    return used


@numba.njit(cache=True, nogil=True)
def find_path(
    text: U8, size: Int, keys: I64, children: I32, numbers: I32, scores: F64, unknown: Int,
    lowest: float, best: F64, came_from: I32, took: I32,
) -> None:  # fmt: skip
    """Fill the best way to every place of a text.

    Args:
        text: uint8, the text and more
        size: bytes of the text
        keys: int64, with `children` and `numbers` the pieces, as `build_trie` returns them
        children: int32
        numbers: int32
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
        node, place = int64(0), start
        while place < size:
            slot = edge_slot(keys, node, text[place])
            if keys[slot] == -1:
                break
            node = children[slot]
            place += 1
            piece = numbers[node]
            if piece >= 0:
                score = scores[piece] + here
                if came_from[place] < 0 or score > best[place]:
                    best[place], came_from[place], took[place] = score, start, piece
                has_piece = has_piece or place - start == length
        if not has_piece:
            place = start + length
            score = lowest + here
            if came_from[place] < 0 or score > best[place]:
                best[place], came_from[place], took[place] = score, start, unknown
        start += length


@numba.njit(cache=True, nogil=True)
def match_unigrams(
    words: U8, starts: I64, plain: U8, leads: npt.NDArray[np.bool_], keys: I64, children: I32,
    numbers: I32, scores: F64, unknown: Int, lowest: float, begin: Int,
) -> tuple[I32, I32, I64]:  # fmt: skip
    """Return ids, where each token begins in its word if that is asked for, and lengths.

    Args:
        words: uint8 (N,), the bytes of all words
        starts: int64 (W + 1,), where each word begins
        plain: uint8 (NUM_CLASSES,), as `spell` takes it
        leads: bool (7,), which of LEADS are a mark for a space
        keys: int64, with `children` and `numbers` the pieces, as `build_trie` returns them
        children: int32
        numbers: int32
        scores: float64 (V,)
        unknown: number of the piece for what is unknown; neighbours become one token
        lowest: score of a character without a piece
        begin: where the mark for a space begins in the word; -1 for not to say where tokens begin
    """
    with_begins = begin >= 0
    num_words = len(starts) - 1
    room = 4
    for index in range(num_words):
        room = max(room, starts[index + 1] - starts[index] + 4)
    buffer, best = np.empty(room, np.uint8), np.empty(room, np.float64)
    came_from, took = np.empty(room, np.int32), np.empty(room, np.int32)
    total = starts[-1] - starts[0] + 3 * num_words
    ids, begins = np.empty(total, np.int32), np.empty(total if with_begins else 0, np.int32)
    lengths = np.full(num_words, -1, np.int64)
    used = 0
    for index in range(num_words):
        start, stop = starts[index], starts[index + 1]
        lead, skipped = lead_of(words, start, stop)
        if lead < 0 or not leads[lead] or start + skipped == stop:
            continue
        size = spell(words, start + skipped, stop, plain, buffer)
        if size == 0:
            continue
        find_path(buffer, size, keys, children, numbers, scores, unknown, lowest,
                  best, came_from, took)  # fmt: skip
        first, place = used, size
        while place > 0:
            piece, origin = took[place], came_from[place]
            if not (piece == unknown and used > first and ids[used - 1] == unknown):
                ids[used] = piece
                used += 1
            if with_begins:
                begins[used - 1] = origin - 3 + skipped if origin > 0 else begin
            place = origin
        ids[first:used] = ids[first:used][::-1].copy()
        if with_begins:
            begins[first:used] = begins[first:used][::-1].copy()
        lengths[index] = used - first
    return ids[:used], begins[: used if with_begins else 0], lengths
