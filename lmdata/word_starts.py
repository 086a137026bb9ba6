"""Which pieces of a vocabulary go on with a word, and which begin one.

WordPiece says so in the piece (`##ing`). Byte-level BPE and Metaspace mark the space before a word
instead; there, a piece without the mark goes on with the word. Byte-level BPE also cuts at changes
between letters, digits and the rest, so a piece that begins with punctuation or a symbol begins a
word, as does one that begins with a Chinese character.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lmdata.errors import TokenizerError


def continues_word(
    definition: dict[str, Any], pieces: Sequence[str | None]
) -> npt.NDArray[np.bool_]:
    """Return bool (V,): does each piece go on with the word of the piece before it?

    Args:
        definition: parsed `tokenizer.json`
        pieces: spelling of each id, None where an id has no piece

    Raises:
        TokenizerError: the pieces of this kind of tokenizer do not tell

    Example:
        >>> wordpiece = {"model": {"type": "WordPiece", "continuing_subword_prefix": "##"}}
        >>> continues_word(wordpiece, ["play", "##ing"]).tolist()
        [False, True]
    """
    prefix = definition["model"].get("continuing_subword_prefix")
    kinds = _pre_tokenizer_kinds(definition.get("pre_tokenizer"))
    if prefix:
        continues = (piece is not None and piece.startswith(prefix) for piece in pieces)
    elif "ByteLevel" in kinds:
        continues = (piece is not None and _continues_bytes(piece) for piece in pieces)
    elif "Metaspace" in kinds or definition["model"]["type"] == "Unigram":
        mark = _metaspace_mark(definition.get("pre_tokenizer"))
        continues = (piece is not None and not piece.startswith(mark) for piece in pieces)
    else:
        raise TokenizerError(
            "can't tell which pieces begin a word: known are WordPiece, byte-level BPE and "
            f"Metaspace, this is {definition['model']['type']} with "
            f"{' and '.join(kinds) or 'no pre-tokenizer'}; choose a corruption without whole words"
        )
    return np.fromiter(continues, np.bool_, len(pieces))


def _pre_tokenizer_kinds(pre_tokenizer: dict[str, Any] | None) -> list[str]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        parts = pre_tokenizer["pretokenizers"]
        return [kind for part in parts for kind in _pre_tokenizer_kinds(part)]
    return [pre_tokenizer["type"]]


def _metaspace_mark(pre_tokenizer: dict[str, Any] | None) -> str:
    parts = [] if pre_tokenizer is None else pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    marks = [part["replacement"] for part in parts if part["type"] == "Metaspace"]
    return str(marks[0]) if marks else "\u2581"


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


def _continues_bytes(piece: str) -> bool:
    """Return whether a byte-level piece begins with a letter, digit or mark, or inside a character.

    Example:
        >>> [_continues_bytes(piece) for piece in ("\u0120the", "ing", ",", "15", "\u010a", "")]
        [False, True, False, True, False, False]
    """
    table = byte_of_character()
    if not all(character in table for character in piece):
        return False
    first = bytes(table[character] for character in piece).decode("utf-8", "replace")[:1]
    if first == "\N{REPLACEMENT CHARACTER}":
        return True
    is_chinese = unicodedata.name(first, "").startswith("CJK UNIFIED") if first else False
    return bool(first) and unicodedata.category(first)[0] in "LNM" and not is_chinese
