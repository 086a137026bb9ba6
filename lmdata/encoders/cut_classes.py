"""Where a WordPiece tokenizer's own rules make it safe to cut a text.

BERT's normalizer changes a text character by character, but for one thing: decomposition sorts
runs of combining marks. BERT's pre-tokenizer then drops white space and isolates punctuation. So a
text may be cut on both sides of every character that comes out of the normalizer as white space or
as one punctuation mark (neither is a combining mark), and of every Chinese character where the
normalizer puts spaces around those. Which characters these are is not taken from a table of ours:
the tokenizer itself is asked.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

import numpy as np
import tokenizers

from lmdata.encoders.word_kernels import ISOLATED, SPACE, U8, WORD
from lmdata.encoders.words import ascii_classes

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


def find_obstacle(definition: dict[str, Any]) -> str | None:
    """Return why words can't be encoded one by one, None if they can.

    Args:
        definition: parsed `tokenizer.json`

    Example:
        >>> find_obstacle({"model": {"type": "Unigram"}})
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
        backend: a tokenizer for which `find_obstacle` found none
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
