"""The encoder for byte-level BPE: gigatoken, where it accepts the tokenizer.

A piece of byte-level BPE stands for a fixed number of bytes, so that the sum of these numbers says
in which sentence a token lies.
"""

from __future__ import annotations

import functools
import itertools
import json
import unicodedata
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lmdata.encoders.encoded import (
    I64,
    U8,
    DifferentIdsError,
    EncodedDocuments,
    Ids,
    assemble,
    check_sentence_starts,
)
from lmdata.encoders.plain_encoding import PlainEncoder
from lmdata.encoders.word_kernels import character_at
from lmdata.tokenizer import Tokenizer
from lmdata.word_starts import byte_of_character

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_PLAIN_BPE = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


def find_bpe_obstacle(definition: dict[str, Any]) -> str | None:
    """Return why gigatoken can't encode for a tokenizer, None if it can.

    Args:
        definition: parsed `tokenizer.json`

    Example:
        >>> find_bpe_obstacle({"model": {"type": "Unigram"}})
        'the model is Unigram, not BPE'
    """
    model = definition["model"]
    if model["type"] != "BPE":
        return f"the model is {model['type']}, not BPE"
    if definition.get("normalizer") is not None:
        return "it has a normalizer"
    rules = dict(definition.get("pre_tokenizer") or {})
    rules.pop("trim_offsets", None)
    if rules != _BYTE_LEVEL:
        return "the pre-tokenizer is not GPT-2's"
    for name, value in _PLAIN_BPE.items():
        if (model.get(name) or None) != (value or None):
            return f"the model sets {name}"
    missing = [char for char in byte_of_character() if char not in model["vocab"]]
    if missing:
        return f"{len(missing)} bytes have no piece"
    plain = [token["content"] for token in definition["added_tokens"] if not token["special"]]
    return f"the added token {plain[0]!r} is not special" if plain else None


class GigatokenEncoder:
    """Encodes byte-level BPE by gigatoken."""

    kind = "gigatoken"
    reason = "byte-level BPE with the rules of GPT-2"

    def __init__(self, tokenizer: Tokenizer, *, num_threads: int = 1) -> None:
        import gigatoken

        self._tokenizer = tokenizer
        self._plain = PlainEncoder(tokenizer, num_threads=num_threads)

        definition = {**tokenizer.definition, "added_tokens": [], "post_processor": None}
        self._gigatoken = gigatoken.Tokenizer.from_json(json.dumps(definition))
        self._id_dtype = tokenizer.id_dtype
        self._piece_bytes = _piece_bytes(tokenizer)
        self._num_threads = num_threads
        new_characters()  # found before workers fork

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        """Return the ids of documents, as `lmdata.encoding.Encoder` says."""
        check_sentence_starts(offsets, sentence_starts)
        raw = text.tobytes()
        is_new = has_new_characters(text, offsets, new_characters()).tolist()
        parts: list[Ids] = [np.zeros(0, self._id_dtype)]
        spans = itertools.pairwise(offsets.tolist())
        for (start, stop), is_plain in zip(spans, is_new, strict=True):
            if is_plain:
                parts.append(self._encode_plainly(text[start:stop]))
            elif stop > start:
                parts.append(self._gigatoken.encode(raw[start:stop]).astype(self._id_dtype))
        ids = np.concatenate(parts)
        lengths = self._piece_bytes[ids]
        begins = np.cumsum(lengths) - lengths + offsets[0]
        if len(ids) and begins[-1] + lengths[-1] != offsets[-1]:
            reason = "gigatoken's pieces do not add up to the text that they were made from"
            raise DifferentIdsError(0, reason)
        before = np.searchsorted(begins, sentence_starts).astype(np.int64)
        return assemble(ids, before, offsets, sentence_starts)

    def _encode_plainly(self, document: U8) -> Ids:
        whole = np.array([0, len(document)])
        return self._plain.encode(document, whole, whole[:1]).ids

    def memory_for(self, document: U8) -> int:
        """Return about how many bytes encoding one document takes; measured: 7.3 for a byte."""
        return 8 * len(document)

    def agrees(self) -> bool:
        """Whether the spellings of all pieces have the ids that `tokenizers` gives them.

        They need not, where a vocabulary has pieces that its merges do not reach.
        """
        table = byte_of_character()
        known = (piece for piece in self._tokenizer.pieces if piece and set(piece) <= set(table))
        spelled = b"\n".join(bytes(table[character] for character in piece) for piece in known)
        text = spelled.decode("utf-8", "ignore")
        expected = self._tokenizer.backend.encode(text, add_special_tokens=False).ids
        found: list[int] = self._gigatoken.encode(text.encode()).tolist()
        return found == expected


@functools.cache
def new_characters() -> U8:
    """Return uint8 (0x110000,): is a code point unknown to this Python's Unicode?

    Libraries of different ages take the youngest characters for letters, or not: gigatoken knows
    those of Unicode 17, `tokenizers` does not.
    """
    categories = (unicodedata.category(chr(code)) for code in range(0x110000))
    return np.fromiter((category == "Cn" for category in categories), np.uint8, 0x110000)


@numba.njit(cache=True, nogil=True)
def has_new_characters(text: U8, offsets: I64, is_new: U8) -> npt.NDArray[np.bool_]:
    """Return bool (D,): does a document have a character of a table?

    Args:
        text: uint8 (N,), valid UTF-8 of all documents
        offsets: int64 (D + 1,), where documents begin
        is_new: uint8 (0x110000,), whether each code point is asked for
    """
    found = np.zeros(len(offsets) - 1, np.bool_)
    for document in range(len(offsets) - 1):
        stop = offsets[document + 1]
        for index in range(offsets[document], stop):
            if text[index] >= 0xC0 and is_new[character_at(text, index, stop)[0]]:
                found[document] = True
                break
    return found


def _piece_bytes(tokenizer: Tokenizer) -> I64:
    """Return int64 (V,), how many bytes of text each piece stands for."""
    return np.array([len(piece or "") for piece in tokenizer.pieces], np.int64)
