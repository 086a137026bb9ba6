"""Which pieces of a sequence go on with a word, and which begin one.

A word is what the tokenizer's own pre-tokenizer makes of a text: a pre-token. WordPiece says so in
the piece (`##ing`), others mark the end of a word (`</w>`) or the space before it. In byte-level
BPE the pieces around decide too: `15` goes on after `20`, and begins a word after `(`; a line end
before another belongs to it, before a letter it does not; the first bytes of a Hindi letter and of
a vowel sign are one piece. So a word is found by two automata: one reads pieces from the right and
says what follows each, the other from the left, what of a word is before it (a bimachine:
Schutzenberger 1961). Their transitions are the pre-tokenizer's own answers: where it cuts what has
been read of a word, with the next piece and what follows behind it.

Where no pre-tokenizer cuts at spaces (Llama 2, Gemma), a piece with the mark of a space begins a
word, if no piece has the mark behind something else; else the pieces do not tell.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lmdata.errors import TokenizerError
from lmdata.pre_tokens import METASPACE, Alphabet, spell
from lmdata.ragged import frozen
from lmdata.tokenizer_classes import steps_of

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

_NO_WORD = 0  # the class of special pieces and of ids without a piece
_UNKNOWN = 0  # the state in which nothing is known of what is before, or behind


class WordRule(NamedTuple):
    """A bimachine that reads pieces and says which ones go on with a word.

    Attributes:
        classes: int64 (V,), the class of each piece, 0 for special pieces, which are no words; of a
            piece that ends inside a character, its row in `closed`
        joins: bool (S, C * A), before which a word is in a state: does a piece of a class, with
            what is ahead of it, go on with the word? In state 0, where nothing is known of what
            was before, may it? The columns are class * A + ahead
        next_state: int64 (S, C * A), the state after it; it begins with 0
        ahead: int64 (A, C), what is ahead of the piece before a piece of a class
        closed: int64 (O, K), the class of a piece by the kind of the character that it begins
        kinds: uint8 (0x110000,), the kind of each character; empty where `closed` is
        cuts: int32 (V,), of the character that a piece begins, its bits so far and, in the lowest
            two bits, how many bytes are missing; 0 for none
        heads: int32 (V,), of the character that a piece ends, its bits, then whether it is all of
            the piece, then in two bits how many bytes it has

    Example:
        >>> rule = fixed_rule(np.array([False, True, False]), np.array([False, False, True]))
        >>> rule.continues(np.array([0, 1, 1, 2, 1])).tolist()
        [False, True, True, False, True]
    """

    classes: I64
    joins: Bools
    next_state: I64
    ahead: I64
    closed: I64
    kinds: U8
    cuts: I32
    heads: I32

    @property
    def tells(self) -> bool:
        """Whether some piece goes on with a word: else each is a word."""
        by_class = self.joins.reshape(len(self.joins), -1, len(self.ahead))
        return bool(self.cuts.any() or by_class[:, np.unique(self.classes)].any())

    def continues(self, ids: npt.NDArray[Any], offsets: I64 | None = None) -> Bools:
        """Return bool (T,): does each piece go on with the word of the piece before it?

        Args:
            ids: integers (T,), in the order of the text; a special piece begins anew
            offsets: int64 (R + 1,), where rows begin in `ids`, each anew; None for one row
        """
        found = np.zeros(len(ids), np.bool_)
        rows = np.array([0, len(ids)]) if offsets is None else offsets.astype(np.int64)
        _compiled_follow()(frozen(ids), rows, self, found)
        return found


def follow(ids: npt.NDArray[Any], offsets: I64, rule: WordRule, found: Bools) -> None:
    """Write which pieces go on with a word; for Numba to compile.

    Args:
        ids: integers (T,), below the length of the rule's tables
        offsets: int64 (R + 1,), where rows begin, each anew
        rule: to follow
        found: bool (T,), written
    """
    num_ahead, longest = len(rule.ahead), 0
    head: Any
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    codes = np.empty(longest, np.int32)
    for row in range(len(offsets) - 1):
        start, ahead, head, state = offsets[row], 0, 0, 0
        for index in range(offsets[row + 1] - start - 1, -1, -1):
            piece = ids[start + index]
            kind, cut, own = rule.classes[piece], rule.cuts[piece], np.int64(rule.heads[piece])
            if cut:
                missing, held = cut & 3, head & 3
                character = 0xFFFD
                if held >= missing:
                    character = (cut >> 2 << 6 * missing) | (head >> 3 >> 6 * (held - missing))
                kind = rule.closed[kind, rule.kinds[min(character, 0x10FFFF)]]
            codes[index] = kind * num_ahead + ahead
            ahead = rule.ahead[ahead, kind]
            if own & 4:  # the whole piece is the inside of a character
                held = min(head & 3, 3 - (own & 3))
                behind = head >> 3 >> 6 * ((head & 3) - held)
                own = ((own >> 3 << 6 * held | behind) << 3) | ((own & 3) + held)
            head = own
        for index in range(offsets[row + 1] - start):
            found[start + index] = rule.joins[state, codes[index]]
            state = rule.next_state[state, codes[index]]


@functools.cache
def _compiled_follow() -> Callable[..., None]:
    import numba  # not at the top: who only encodes has no use for it

    compiled: Callable[..., None] = numba.njit(cache=True, nogil=True)(follow)
    return compiled


def find_word_rule(
    definition: dict[str, Any], pieces: Sequence[str | None], is_special: Bools
) -> WordRule:
    """Return how words are found among the pieces of a tokenizer.

    Args:
        definition: parsed `tokenizer.json`
        pieces: spelling of each id, None where an id has no piece
        is_special: bool (V,)

    Raises:
        TokenizerError: the pieces of this kind of tokenizer do not tell
    """
    model = definition["model"]
    prefix, suffix = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    kinds = set(_pre_tokenizer_kinds(definition.get("pre_tokenizer")))
    mark = _space_mark(definition)
    if prefix:
        return fixed_rule(_each(pieces, lambda piece: piece.startswith(prefix)), is_special)
    is_unknown = _each(pieces, lambda piece: piece == _unknown_piece(model))
    if suffix:
        ends = _each(pieces, lambda piece: piece.endswith(suffix))
        return _suffix_rule(ends, is_special, is_unknown)
    if model["type"] == "WordLevel":
        return fixed_rule(np.zeros(len(pieces), np.bool_), is_special)
    if "ByteLevel" in kinds:
        return _asked_rule(definition, [_bytes_of(piece) for piece in pieces], is_special)
    if mark and kinds <= {"Metaspace", "WhitespaceSplit", "Split:space"}:
        if "Metaspace" in kinds or not any(mark in (piece or "").lstrip(mark) for piece in pieces):
            goes_on = _each(pieces, lambda piece: not piece.startswith(mark))
            return fixed_rule(goes_on, is_special & ~(is_unknown & (mark in pieces)))
    elif mark:
        texts = [(piece or "").encode("utf-8", "replace") for piece in pieces]
        return _asked_rule(definition, texts, is_special)
    raise TokenizerError(
        "can't tell which pieces begin a word: known are WordPiece, byte-level BPE and pieces "
        f"with a mark for a space before them, this is {model['type']} with "
        f"{' and '.join(sorted(kinds)) or 'no pre-tokenizer'}; choose a corruption without whole "
        "words"
    )


def _unknown_piece(model: dict[str, Any]) -> str | None:
    if model["type"] != "Unigram":
        return model.get("unk_token")
    index = model.get("unk_id")
    return None if index is None else str(model["vocab"][index][0])


def _each(pieces: Sequence[str | None], test: Callable[[str], bool]) -> Bools:
    return np.fromiter((bool(piece) and test(piece or "") for piece in pieces), bool, len(pieces))


def fixed_rule(goes_on: Bools, is_special: Bools) -> WordRule:
    """Return the rule of pieces that say themselves whether they go on: bool (V,) each."""
    classes = np.where(is_special, _NO_WORD, 1 + goes_on.astype(np.int64))
    return _rule_of(classes, np.array([[False, False, True]]), np.zeros((1, 3), np.int64))


def _rule_of(classes: I64, joins: Bools, next_state: I64) -> WordRule:
    """Return the rule of whole characters for which what is ahead does not matter."""
    ahead, nothing = np.zeros((1, joins.shape[1]), np.int64), np.zeros(len(classes), np.int32)
    none = np.zeros((0, 0), np.int64)
    return WordRule(
        classes, joins, next_state, ahead, none, np.zeros(0, np.uint8), nothing, nothing
    )


NO_WORDS = fixed_rule(np.zeros(0, np.bool_), np.zeros(0, np.bool_))
"""For whoever does not ask for words."""


def _suffix_rule(ends: Bools, is_special: Bools, is_unknown: Bools) -> WordRule:
    """Return the rule of pieces that say whether they end a word: bool (V,) each.

    The unknown piece does not say: as most likely, it goes on like others, and other pieces after
    it begin a word.
    """
    classes = np.where(is_unknown, 3, np.where(is_special, _NO_WORD, 1 + ends.astype(np.int64)))
    joins = np.array([[0, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1]], np.bool_)
    return _rule_of(classes, joins, np.tile([0, 2, 1, 3], (4, 1)))  # 1: a word ended, 2: it goes on


def _pre_tokenizer_kinds(pre_tokenizer: dict[str, Any] | None) -> list[str]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        parts = pre_tokenizer["pretokenizers"]
        return [kind for part in parts for kind in _pre_tokenizer_kinds(part)]
    is_space = pre_tokenizer.get("pattern") == {"String": " "}
    return ["Split:space" if is_space else pre_tokenizer["type"]]


def _space_mark(definition: dict[str, Any]) -> str | None:
    """Return what stands for a space in pieces that keep it, None if nothing does."""
    for step in steps_of(definition.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Metaspace":
            return str(step["replacement"])
    for step in steps_of(definition.get("normalizer"), "normalizers"):
        if step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"]:
            return str(step["content"])
    return METASPACE if definition["model"]["type"] == "Unigram" else None


@functools.cache
def byte_of_character() -> dict[str, int]:
    """Return the byte that each character of a byte-level piece stands for.

    Printable Latin-1 characters stand for themselves, the other bytes for U+0100 and on, in order
    (Radford et al. 2019, `bytes_to_unicode` of the GPT-2 release).

    Example:
        >>> byte_of_character()["\u0120"], len(byte_of_character())
        (32, 256)
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + rank): byte for rank, byte in enumerate(others)
    }


def _bytes_of(piece: str | None) -> bytes:
    r"""Return the text that a byte-level piece stands for; another piece stands for itself.

    Example:
        >>> _bytes_of("\u0120the"), _bytes_of("\u4e2d")
        (b' the', b'\xe4\xb8\xad')
    """
    table = byte_of_character()
    if piece is None or not all(character in table for character in piece):
        return (piece or "").encode("utf-8", "replace")
    return bytes(table[character] for character in piece)


def _asked_rule(definition: dict[str, Any], texts: Sequence[bytes], is_special: Bools) -> WordRule:
    """Return the rule that a pre-tokenizer's answers make.

    Args:
        definition: parsed `tokenizer.json`; its pre-tokenizer is asked
        texts: what each piece stands for, not always whole characters
        is_special: bool (V,)
    """
    asked, spelled = Alphabet(definition), [spell(text) for text in texts]
    has_cuts = any(piece.cut for piece in spelled)
    kinds = asked.kinds_of_characters() if has_cuts else np.zeros(0, np.uint8)
    shapes = _Numbers()  # of classes: whether a piece begins inside a character, and its kinds
    opened = _Numbers()  # the same of pieces that end inside a character, without that
    classes = np.zeros(len(texts), np.int64)
    for index, (piece, special) in enumerate(zip(spelled, is_special.tolist(), strict=True)):
        if not special and texts[index]:
            shape = (bool(piece.head), asked.kinds_of(piece.whole))
            classes[index] = opened[shape] if piece.cut else 1 + shapes[shape]
    closed = np.array(
        [
            [1 + shapes[inside, asked.shorten_piece(before + kind)] for kind in asked.kinds]
            for inside, before in opened.order
        ],
        np.int64,
    ).reshape(len(opened), -1)
    joins, next_state, ahead = _ask_all(asked, shapes.order)
    return WordRule(
        classes, joins, next_state, ahead, closed, kinds,
        np.where(is_special, 0, [piece.cut for piece in spelled]).astype(np.int32),
        np.where(is_special, 0, [piece.head for piece in spelled]).astype(np.int32),
    )  # fmt: skip


class _Numbers(dict[Any, int]):
    """Numbers of things, in the order in which they are asked for first.

    Example:
        >>> numbers = _Numbers()
        >>> numbers["b"], numbers["a"], numbers["b"], numbers.order
        (0, 1, 0, ['b', 'a'])
    """

    def __init__(self, *first: Any) -> None:
        super().__init__(zip(first, range(len(first)), strict=True))
        self.order = list(first)

    def __missing__(self, key: Any) -> int:
        self[key] = len(self)
        self.order.append(key)
        return self[key]


def _ask_all(asked: Alphabet, shapes: Sequence[tuple[bool, str]]) -> tuple[Bools, I64, I64]:
    """Return `joins`, `next_state` and `ahead` of a `WordRule` whose class 1 is the first shape."""
    behind, states = _Numbers(""), _Numbers("")
    ahead = [
        [_UNKNOWN, *(behind[asked.shorten_behind(kinds + text)] for _, kinds in shapes)]
        for text in behind.order  # grows as what can be behind is found
    ]
    joins, following = [], []
    for state in states.order:
        row = [(False, "")] * len(behind)
        row += [asked.read(state, shape, text) for shape in shapes for text in behind.order]
        joins.append([goes_on for goes_on, _ in row])
        following.append([states[after] for _, after in row])
    found = np.array(joins)
    found[_UNKNOWN] = found.any(axis=0)
    return found, np.array(following, np.int64), np.array(ahead, np.int64)
