"""The encoder for byte-level BPE: gigatoken, where it accepts the tokenizer.

A piece of byte-level BPE stands for a fixed number of bytes, so that the sum of these numbers says
in which sentence a token lies. That holds as long as the text stays as it is: documents that the
normalizer would change, or that spell a token which was added to the vocabulary, are encoded by
another encoder.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import unicodedata
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lmdata.encoders.cut_kernels import NUM_CLASSES, character_at
from lmdata.encoders.cuts import added_spellings, battery, composing_characters
from lmdata.encoders.plain_encoding import (
    I64,
    U8,
    DifferentIdsError,
    EncodedDocuments,
    Encodes,
    Ids,
    assemble,
    check_sentence_starts,
    put_in_order,
    take_documents,
)
from lmdata.ragged import frozen
from lmdata.tokenizer import Tokenizer
from lmdata.tokenizer_classes import GPT4_RULE, QWEN2_RULE, steps_of
from lmdata.word_starts import byte_of_character

Bools = npt.NDArray[np.bool_]

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_PLAIN_BPE = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
}


_UTF8 = {*range(0xC0), *range(0xC2, 0xF5)}
"""The bytes that occur in UTF-8."""
_SPLIT_RULES = frozenset({
    QWEN2_RULE, GPT4_RULE,
    GPT4_RULE.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)"),
})  # fmt: skip
"""Of Qwen2, and of Llama-3 and GPT-4."""


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
    normalizer = definition.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        return f"the normalizer is {normalizer['type']}, not NFC"
    if not _has_known_rules(definition.get("pre_tokenizer")):
        return "the pre-tokenizer is not that of GPT-2, GPT-4, Llama-3 or Qwen2"
    for name, value in _PLAIN_BPE.items():
        if (model.get(name) or None) != (value or None):
            return f"the model sets {name}"
    table = byte_of_character().items()
    missing = [char for char, byte in table if byte in _UTF8 and char not in model["vocab"]]
    return f"{len(missing)} bytes have no piece" if missing else None


def _has_known_rules(pre_tokenizer: dict[str, Any] | None) -> bool:
    steps = [dict(step) for step in steps_of(pre_tokenizer, "pretokenizers")]
    for step in steps:
        step.pop("trim_offsets", None)
    if steps == [_BYTE_LEVEL]:
        return True
    return (
        len(steps) == 2
        and steps[1] == {**_BYTE_LEVEL, "use_regex": False}
        and steps[0].get("pattern", {}).get("Regex") in _SPLIT_RULES
        and (steps[0].get("behavior"), steps[0].get("invert")) == ("Isolated", False)
    )


class GigatokenEncoder:
    """Encodes byte-level BPE by gigatoken.

    Args:
        tokenizer: one for which `find_bpe_obstacle` finds none
        other: encodes the documents that gigatoken can't
    """

    kind = "gigatoken"

    def __init__(self, tokenizer: Tokenizer, other: Encodes) -> None:
        import gigatoken

        self._tokenizer, self._other = tokenizer, other
        self._is_normalized = tokenizer.definition.get("normalizer") is None
        self.reason = "byte-level BPE" + ("" if self._is_normalized else " of text in NFC")
        definition = {
            **tokenizer.definition, "added_tokens": [], "normalizer": None, "post_processor": None,
        }  # fmt: skip
        self._gigatoken = gigatoken.Tokenizer.from_json(json.dumps(definition))
        self._id_dtype = tokenizer.id_dtype
        self._piece_bytes = _piece_bytes(tokenizer)
        added = added_spellings(tokenizer.backend, tokenizer.definition)
        self._added = _shortest({spelling for spelling, _ in added})
        self._marks = np.zeros(256, np.bool_)
        self._marks[[_rarest_byte(spelling) for spelling in self._added]] = True
        unusual_characters()  # found before workers fork

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        """Return the ids of documents, as `lmdata.encoding.Encoder` says."""
        check_sentence_starts(offsets, sentence_starts)
        raw = text.tobytes()
        unusual = find_unusual(
            frozen(text), frozen(offsets), unusual_characters(), self._marks
        ).tolist()
        can_take = np.array([
            self._can_take(raw[start:stop], flags)
            for (start, stop), flags in zip(
                itertools.pairwise(offsets.tolist()), unusual, strict=True
            )
        ], np.bool_)  # fmt: skip
        if can_take.all():
            return self._encode_taken(text, offsets, sentence_starts)
        rows = [np.flatnonzero(can_take), np.flatnonzero(~can_take)]
        taken, left = (take_documents(text, offsets, sentence_starts, some) for some in rows)
        return put_in_order(
            [self._encode_taken(*taken), self._other.encode(*left)],
            np.argsort(np.concatenate(rows)),
        )

    def _encode_taken(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        """Return the ids of documents that gigatoken can take."""
        raw = text.tobytes()
        parts: list[Ids] = [np.zeros(0, self._id_dtype)]
        for start, stop in itertools.pairwise(offsets.tolist()):
            if stop > start:
                parts.append(self._gigatoken.encode(raw[start:stop]).astype(self._id_dtype))
        ids = np.concatenate(parts)
        lengths = self._piece_bytes[ids]
        begins = np.cumsum(lengths) - lengths + offsets[0]
        if len(ids) and begins[-1] + lengths[-1] != offsets[-1]:
            reason = "gigatoken's pieces do not add up to the text that they were made from"
            raise DifferentIdsError(0, reason)
        before = np.searchsorted(begins, sentence_starts).astype(np.int64)
        return assemble(ids, before, offsets, sentence_starts)

    def _can_take(self, document: bytes, unusual: int) -> bool:
        """Whether all that becomes of a document are pieces of gigatoken's."""
        if unusual & NEW:
            return False
        if unusual & MARKED and any(spelling in document for spelling in self._added):
            return False
        is_settled = self._is_normalized or not unusual & UNSETTLED
        return is_settled or unicodedata.is_normalized("NFC", document.decode("utf-8"))

    def memory_for(self, document: U8) -> int:
        """Return about how many bytes encoding one document takes; measured: 7.3 for a byte."""
        return 8 * len(document)

    def keep_within(self, num_bytes: int) -> None:
        """Pass it on; what gigatoken keeps is bounded by itself."""
        self._other.keep_within(num_bytes)

    def agrees(self) -> bool:
        """Whether the pieces, and characters of every kind, have the ids of `tokenizers`.

        They need not, where a vocabulary has pieces that its merges do not reach.
        """
        table = byte_of_character()
        known, as_latin = frozenset(table), {ord(key): chr(byte) for key, byte in table.items()}
        spelled = (
            piece.translate(as_latin).encode("latin-1")
            for piece in self._tokenizer.pieces
            if piece and known.issuperset(piece)
        )
        added = re.compile(b"|".join(map(re.escape, self._added)) or b"(?!)")
        kept = (piece for piece in spelled if not added.search(piece))
        text = b"\n".join(kept).decode("utf-8", "ignore")
        texts = [unicodedata.normalize("NFC", text), *battery()]
        texts = [text for text in texts if self._can_take(text.encode(), UNSETTLED | MARKED)]
        expected = self._tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)
        return all(
            self._gigatoken.encode(text.encode()).tolist() == encoding.ids
            for text, encoding in zip(texts, expected, strict=True)
        )


def _shortest(spellings: set[str]) -> list[bytes]:
    """Return those of some spellings that no other one is part of.

    Example:
        >>> _shortest({"  ", "   ", "<a>"})
        [b'  ', b'<a>']
    """
    return [
        spelling.encode()
        for spelling in sorted(spellings)
        if not any(other in spelling for other in spellings - {spelling})
    ]


def _rarest_byte(spelling: bytes) -> int:
    """Return a byte of a spelling by which texts are told that can't hold it.

    Example:
        >>> chr(_rarest_byte(b"tool<call>"))
        '<'
    """
    return min(spelling, key=lambda byte: chr(byte).isalnum() or chr(byte) in " .,")


NEW, UNSETTLED, MARKED = 1, 2, 4
"""A character that this Python's Unicode does not know; one that NFC may change or move; a byte
that the spelling of an added token has."""


@functools.cache
def unusual_characters() -> U8:
    """Return uint8 (0x110000,), NEW and UNSETTLED for each code point.

    Libraries of different ages take the youngest characters for letters, or not: gigatoken knows
    those of Unicode 17, `tokenizers` does not.
    """
    categories = map(unicodedata.category, map(chr, range(0x110000)))
    found = np.fromiter(map("Cn".__eq__, categories), np.uint8, 0x110000)
    for about in (unicodedata.combining, unicodedata.decomposition):
        has = np.fromiter(map(bool, map(about, map(chr, range(NUM_CLASSES)))), np.bool_)
        has[:0x300] = False
        found[:NUM_CLASSES][has] |= UNSETTLED
    found[[ord(character) for character in composing_characters()]] |= UNSETTLED
    return found


@numba.njit(cache=True, nogil=True)
def find_unusual(text: U8, offsets: I64, table: U8, marks: Bools) -> U8:
    """Return uint8 (D,), what a table says of the characters of each document, in one.

    Args:
        text: uint8 (N,), valid UTF-8 of all documents
        offsets: int64 (D + 1,), where documents begin
        table: uint8 (0x110000,), flags of each code point; none of ASCII
        marks: bool (256,), bytes that make a document MARKED
    """
    found = np.zeros(len(offsets) - 1, np.uint8)
    for document in range(len(offsets) - 1):
        stop = offsets[document + 1]
        for index in range(offsets[document], stop):
            if text[index] >= 0xC0:
                found[document] |= table[character_at(text, index, stop)[0]]
            if marks[text[index]]:
                found[document] |= MARKED
    return found


def _piece_bytes(tokenizer: Tokenizer) -> I64:
    """Return int64 (V,), how many bytes of text each piece stands for."""
    return np.array([len(piece or "") for piece in tokenizer.pieces], np.int64)
