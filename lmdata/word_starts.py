"""Which pieces of a sequence go on with a word, and which begin one.

A word is what the tokenizer's own pre-tokenizer makes of a text: a pre-token. WordPiece says so in
the piece (`##ing`), others mark the end of a word (`</w>`) or the space before it. In byte-level
BPE the pieces before decide too: `15` goes on after `20`, and begins a word after `(`. So a word is
found by an automaton that reads pieces. Its transitions are the pre-tokenizer's own answers: where
it cuts what has been read of a word, with the next piece behind it.

Two things are taken as most likely, as ids do not tell: what becomes of white space before more
white space, and of a character whose last bytes are another piece.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from lmdata.errors import TokenizerError
from lmdata.tokenizer_classes import steps_of

I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

METASPACE = "\u2581"
_RUN = 3  # a longer run of characters of one kind is like one of three: numbers are cut in threes
_KEPT = 4  # kinds at either end of a piece, and at the end of a word, that can matter
_NO_WORD = 0  # the class of special pieces and of ids without a piece
_UNKNOWN = 0  # the state in which nothing is known of what was before


@dataclass(frozen=True)
class WordRule:
    """An automaton that reads pieces and says which ones go on with a word.

    Attributes:
        classes: int64 (V,), the class of each piece; 0 for special pieces, which are no words
        joins: bool (S, C), in a state, does a piece of a class go on with the word before it? In
            state 0, where nothing is known of what was before, may it?
        next_state: int64 (S, C), the state after it; it begins with 0

    Example:
        >>> rule = fixed_rule(np.array([False, True, False]), np.array([False, False, True]))
        >>> rule.continues(np.array([0, 1, 1, 2, 1])).tolist()
        [False, True, True, False, True]
    """

    classes: I64
    joins: Bools
    next_state: I64

    @property
    def tells(self) -> bool:
        """Whether some piece goes on with a word: else each is a word."""
        return bool(self.joins[:, np.unique(self.classes)].any())

    def continues(self, ids: npt.NDArray[Any], offsets: I64 | None = None) -> Bools:
        """Return bool (T,): does each piece go on with the word of the piece before it?

        Args:
            ids: integers (T,), in the order of the text; a special piece begins anew
            offsets: int64 (R + 1,), where rows begin in `ids`, each anew; None for one row
        """
        found = np.zeros(len(ids), np.bool_)
        rows = np.array([0, len(ids)]) if offsets is None else offsets.astype(np.int64)
        _compiled_follow()(ids, rows, self.classes, self.joins, self.next_state, found)
        return found


def _follow(
    ids: npt.NDArray[Any], offsets: I64, classes: I64, joins: Bools, next_state: I64, found: Bools
) -> None:
    for row in range(len(offsets) - 1):
        state = 0
        for index in range(offsets[row], offsets[row + 1]):
            kind = classes[ids[index]]
            found[index] = joins[state, kind]
            state = next_state[state, kind]


@functools.cache
def _compiled_follow() -> Callable[..., None]:
    import numba  # not at the top: who only encodes has no use for it

    compiled: Callable[..., None] = numba.njit(cache=True)(_follow)
    return compiled


def find_word_rule(
    backend: tokenizers.Tokenizer,
    definition: dict[str, Any],
    pieces: Sequence[str | None],
    is_special: Bools,
) -> WordRule:
    """Return how words are found among the pieces of a tokenizer.

    Args:
        backend: its pre-tokenizer is asked
        definition: parsed `tokenizer.json`
        pieces: spelling of each id, None where an id has no piece
        is_special: bool (V,)

    Raises:
        TokenizerError: the pieces of this kind of tokenizer do not tell
    """
    model = definition["model"]
    prefix, suffix = model.get("continuing_subword_prefix"), model.get("end_of_word_suffix")
    kinds = _pre_tokenizer_kinds(definition.get("pre_tokenizer"))
    mark = _space_mark(definition)
    if prefix:
        return fixed_rule(_each(pieces, lambda piece: piece.startswith(prefix)), is_special)
    if suffix:
        return _suffix_rule(_each(pieces, lambda piece: piece.endswith(suffix)), is_special)
    if model["type"] == "WordLevel":
        return fixed_rule(np.zeros(len(pieces), np.bool_), is_special)
    if "ByteLevel" in kinds:
        return _asked_rule(backend, [_bytes_of(piece) for piece in pieces], is_special)
    if mark and set(kinds) <= {"Metaspace", "WhitespaceSplit", "Split:space"}:
        return fixed_rule(_each(pieces, lambda piece: not piece.startswith(mark)), is_special)
    if mark:
        texts = [(piece or "").encode("utf-8", "replace") for piece in pieces]
        return _asked_rule(backend, texts, is_special)
    raise TokenizerError(
        "can't tell which pieces begin a word: known are WordPiece, byte-level BPE and pieces "
        f"with a mark for a space, this is {model['type']} with "
        f"{' and '.join(kinds) or 'no pre-tokenizer'}; choose a corruption without whole words"
    )


def _each(pieces: Sequence[str | None], test: Callable[[str], bool]) -> Bools:
    return np.fromiter((bool(piece) and test(piece or "") for piece in pieces), bool, len(pieces))


def fixed_rule(goes_on: Bools, is_special: Bools) -> WordRule:
    """Return the rule of pieces that say themselves whether they go on: bool (V,) each."""
    classes = np.where(is_special, _NO_WORD, 1 + goes_on.astype(np.int64))
    return WordRule(classes, np.array([[False, False, True]]), np.zeros((1, 3), np.int64))


NO_WORDS = fixed_rule(np.zeros(0, np.bool_), np.zeros(0, np.bool_))
"""For whoever does not ask for words."""


def _suffix_rule(ends: Bools, is_special: Bools) -> WordRule:
    """Return the rule of pieces that say whether they end a word: bool (V,) each."""
    classes = np.where(is_special, _NO_WORD, 1 + ends.astype(np.int64))
    joins = np.array([[False, True, True], [False, False, False], [False, True, True]])
    return WordRule(classes, joins, np.tile([0, 2, 1], (3, 1)))  # 1: a word ended, 2: it goes on


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


def _asked_rule(
    backend: tokenizers.Tokenizer, texts: Sequence[bytes], is_special: Bools
) -> WordRule:
    """Return the rule that a pre-tokenizer's answers make.

    Args:
        backend: its pre-tokenizer is asked
        texts: what each piece stands for, not always whole characters
        is_special: bool (V,)
    """
    alphabet = Alphabet(backend)
    shapes = [
        None if special or not text else alphabet.shape(text)
        for text, special in zip(texts, is_special.tolist(), strict=True)
    ]
    known = sorted({shape for shape in shapes if shape is not None})
    number = {shape: index + 1 for index, shape in enumerate(known)}
    classes = np.array([0 if shape is None else number[shape] for shape in shapes], np.int64)
    states, place, rows = [""], {"": _UNKNOWN}, []
    for state in states:  # grows as states are found
        row = [(False, "")] + [alphabet.read(state, shape) for shape in known]
        for _, after in row:
            if after not in place:
                place[after] = len(states)
                states.append(after)
        rows.append(row)
    joins = np.array([[goes_on for goes_on, _ in row] for row in rows])
    joins[_UNKNOWN] = joins.any(axis=0)
    next_state = np.array([[place[after] for _, after in row] for row in rows], np.int64)
    return WordRule(classes, joins, next_state)


class Alphabet:
    """Characters by kind, and what a pre-tokenizer makes of them: one stands for all of a kind.

    Two characters are of one kind if the pre-tokenizer cuts them alike beside any of some others.
    Letters of English contractions, which many rules name, stand for themselves. In the same way,
    one unfinished word stands for all that are cut alike, whatever follows.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._pre_tokenizer = backend.pre_tokenizer
        self._like: dict[tuple[object, ...], str] = {}
        self._of_group: dict[str, str] = {}
        self._alike: dict[tuple[object, ...], str] = {}
        self._words: dict[str, str] = {"": ""}

    def shape(self, text: bytes) -> tuple[bool, str]:
        """Return whether a piece begins inside a character, and the kinds of its characters."""
        inside = len(text) - len(text.lstrip(_CONTINUATION))
        rest = text[inside:]
        whole = rest.decode("utf-8", "ignore")
        cut = rest[len(whole.encode()) :]
        characters = whole + (_likely_character(cut) if cut else "")
        return inside > 0, self._kinds(characters)

    def _kinds(self, characters: str) -> str:
        """Return one character of each kind; what is long is shortened, contractions are kept."""
        lower = characters.lower()
        if lower.lstrip("'") in _CONTRACTED and len(characters) - len(lower.lstrip("'")) <= 1:
            return characters
        kinds = "".join(self._kind(character) for character in characters)
        kinds = "".join("".join(itertools.islice(run, _RUN)) for _, run in itertools.groupby(kinds))
        return kinds if len(kinds) <= 2 * _KEPT else kinds[:_KEPT] + kinds[-_KEPT:]

    def _kind(self, character: str) -> str:
        group = _group(character)
        if group not in self._of_group:
            signature = tuple(
                tuple(self._starts(text))
                for other in _WITNESSES
                for text in (other + character, character + other, other + character * 2 + other)
            )
            self._of_group[group] = self._like.setdefault(signature, character)
        return self._of_group[group]

    def _starts(self, text: str) -> list[int]:
        """Return where the pre-tokens of a text begin."""
        return [span[0] for _, span in self._pre_tokenizer.pre_tokenize_str(text)]

    def read(self, state: str, shape: tuple[bool, str]) -> tuple[bool, str]:
        """Return whether a piece goes on with a word, and what is then known of the word.

        Args:
            state: the kinds at the end of the word so far, "" if nothing is known
            shape: of the next piece
        """
        inside, kinds = shape
        goes_on = bool(state) and (inside or not self._is_cut(state, kinds))
        word = state + kinds if goes_on or inside else kinds
        return goes_on or (inside and not state), self._shorten(word)

    def _is_cut(self, state: str, kinds: str) -> bool:
        """Return whether the pre-tokenizer cuts between a word and a piece."""
        after = ("x", "") if kinds.isspace() else ("",)  # white space depends on what follows
        for following in after:
            starts = self._starts(state + kinds + following)
            if not any(len(state) < start < len(state) + len(kinds) for start in starts):
                break
        return len(state) in starts

    def _shorten(self, word: str) -> str:
        """Return the first word found that is cut as this one is, whatever follows."""
        runs = ("".join(itertools.islice(run, _RUN)) for _, run in itertools.groupby(word))
        short = "".join(runs)[-_KEPT:]
        if short not in self._words:
            kinds = dict.fromkeys(self._like.values())
            followers = [*(kind * _RUN for kind in kinds), *sorted(_CONTRACTED)]
            signature = tuple(
                tuple(start - len(short) for start in self._starts(short + text + "x")
                      if start >= len(short))
                for text in followers
            )  # fmt: skip
            self._words[short] = self._alike.setdefault(signature, short)
        return self._words[short]


_CONTINUATION = bytes(range(0x80, 0xC0))
_CONTRACTED = {"s", "t", "m", "d", "r", "e", "v", "l", "re", "ve", "ll"}
_WITNESSES = ("x", "s", "X", "1", " ", "\n", "'", "!", "中", "か", "ب", METASPACE)


def _group(character: str) -> str:
    """Return what characters are surely of one kind with a character: itself for ASCII marks.

    Example:
        >>> _group("b"), _group("("), _group("é"), _group("語") == _group("中")
        ('Ll', '(', 'Ll', True)
    """
    category = unicodedata.category(character)
    if character <= "\x7f" and category[0] not in "LN":
        return character
    if category == "Lo":
        return f"Lo {unicodedata.name(character, '?').split()[0]}"
    return character if category[0] == "Z" or character == METASPACE else category


@functools.cache
def _likely_character(beginning: bytes) -> str:
    r"""Return a character of the most frequent kind among those that begin with some bytes.

    Example:
        >>> unicodedata.category(_likely_character(b"\xe2\x80"))
        'Po'
    """
    length = 2 if beginning[0] < 0xE0 else 3 if beginning[0] < 0xF0 else 4
    found = []
    for tail in itertools.product(range(0x80, 0xC0, 1 + 6 * (length - len(beginning) > 1)),
                                  repeat=length - len(beginning)):  # fmt: skip
        text = (beginning + bytes(tail)).decode("utf-8", "ignore")
        if text and unicodedata.category(text) != "Cn":
            found.append(text)
    if not found:
        return "\N{REPLACEMENT CHARACTER}"
    most = Counter(map(_group, found)).most_common(1)[0][0]
    return next(text for text in found if _group(text) == most)
