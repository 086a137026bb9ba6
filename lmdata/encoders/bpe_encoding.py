"""The encoder for byte-level BPE: gigatoken, where it accepts the tokenizer.

A piece of byte-level BPE stands for a fixed number of bytes, so that the sum of these numbers says
in which sentence a token lies.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np

from lmdata.encoders.encoded import I64, U8, EncodedDocuments, Ids, assemble, check_sentence_starts
from lmdata.errors import TokenizerError
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

        definition = {**tokenizer.definition, "added_tokens": [], "post_processor": None}
        self._gigatoken = gigatoken.Tokenizer.from_json(json.dumps(definition))
        self._id_dtype = tokenizer.id_dtype
        self._piece_bytes = _piece_bytes(tokenizer)
        self._num_threads = num_threads

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        """Return the ids of documents, as `lmdata.encoding.Encoder` says."""
        check_sentence_starts(offsets, sentence_starts)
        raw = text.tobytes()
        bounds = offsets.tolist()
        parts: list[Ids] = [np.zeros(0, self._id_dtype)]
        for start, stop in itertools.pairwise(bounds):
            if stop > start:
                found = self._gigatoken.encode(raw[start:stop])
                parts.append(found.astype(self._id_dtype))
        ids = np.concatenate(parts)
        lengths = self._piece_bytes[ids]
        begins = np.cumsum(lengths) - lengths + offsets[0]
        if len(ids) and begins[-1] + lengths[-1] != offsets[-1]:
            raise TokenizerError(
                "gigatoken's pieces do not add up to the text that they were made from; "
                "please report this tokenizer and text"
            )
        before = np.searchsorted(begins, sentence_starts).astype(np.int64)
        return assemble(ids, before, offsets, sentence_starts)


def _piece_bytes(tokenizer: Tokenizer) -> I64:
    """Return int64 (V,), how many bytes of text each piece stands for."""
    return np.array([len(piece or "") for piece in tokenizer.pieces], np.int64)
