"""Texts, words and passages as ids, by the tokenizer itself, without special tokens.

Words are encoded each by itself, together with the white space that stands before it. So every word
has pieces of its own, also "do" and "n't" of "don't", and a piece never belongs to two. For
WordPiece the ids are those of `AutoTokenizer(words, is_split_into_words=True)`; for byte-level BPE
and Metaspace, which write a space into the piece, they are those of the running text, which the
model was pretrained on, wherever the tokenizer itself ends a word there; the stock call would put a
space before every word, also before a comma. In UD English EWT 0.5 % (bert-base-cased) and 0.8 %
(GPT-2) of the pieces differ from those of the running text: "don", which spans two words, and the
like.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from lmdata.tokenizer import Tokenizer
from lmmodel.finetuning.rows import WordRows
from lmmodel.finetuning.spans import Integers, Part, offsets_of, span_index

_SLICE = 1024  # texts encoded at once


@dataclass(frozen=True)
class Encoded:
    """Ids of texts that lie end to end."""

    ids: npt.NDArray[np.int32]  # (N,)
    offsets: Integers  # (texts + 1,)

    @property
    def lengths(self) -> Integers:
        """Tokens of each text: int64 (texts,)."""
        return np.diff(self.offsets)

    def part(self, texts: Integers, starts: Integers | int, lengths: Integers) -> Part:
        """Return a span of each of some texts."""
        return Part(self.ids, self.offsets[:-1][texts] + starts, lengths)


def encode_texts(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> Encoded:
    """Return the ids of texts."""
    slices, lengths = [np.zeros(0, np.int32)], []
    for begin in range(0, len(texts), _SLICE):
        part = backend.encode_batch_fast(
            list(texts[begin : begin + _SLICE]), add_special_tokens=False
        )
        ids = [encoding.ids for encoding in part]
        lengths += list(map(len, ids))
        slices.append(np.fromiter(itertools.chain.from_iterable(ids), np.int32))
    return Encoded(np.concatenate(slices), offsets_of(np.array(lengths, np.int64)))


@dataclass(frozen=True)
class EncodedWords:
    """Ids of rows of words, and which word each is a piece of."""

    rows: Encoded
    word: Integers  # (N,) among all W words
    is_first: npt.NDArray[np.bool_]  # (N,) first piece of its word


def encode_words(tokenizer: Tokenizer, rows: WordRows) -> EncodedWords:
    """Return the ids of words; each distinct word is encoded once."""
    backend, marks_start = word_backend(tokenizer)
    spaces = rows.has_space.copy()
    if marks_start:
        spaces[rows.offsets[:-1][np.diff(rows.offsets) > 0]] = True
    spelled = [" " * space + word for space, word in zip(spaces.tolist(), rows.words, strict=True)]
    number = {word: index for index, word in enumerate(dict.fromkeys(spelled))}
    distinct = encode_texts(backend, list(number))
    which = np.fromiter((number[word] for word in spelled), np.int64, len(spelled))
    lengths = distinct.lengths[which]
    starts = offsets_of(lengths)
    is_first = np.zeros(int(starts[-1]), np.bool_)
    is_first[starts[:-1][lengths > 0]] = True
    ids = distinct.ids[span_index(distinct.offsets[:-1][which], lengths)]
    word = np.repeat(np.arange(len(lengths)), lengths)
    return EncodedWords(Encoded(ids, starts[rows.offsets]), word, is_first)


def word_backend(tokenizer: Tokenizer) -> tuple[tokenizers.Tokenizer, bool]:
    """Return a tokenizer that adds no space before a text, and whether the original adds one."""
    definition = json.loads(tokenizer.backend.to_str())
    adding = [part for part in _parts(definition["pre_tokenizer"]) if _adds_space(part)]
    if not adding:
        return tokenizer.backend, False
    for part in adding:
        part.update({"prepend_scheme": "never"} if "prepend_scheme" in part else {})
        part.update({"add_prefix_space": False} if "add_prefix_space" in part else {})
    changed = tokenizers.Tokenizer.from_str(json.dumps(definition))
    changed.encode_special_tokens = True
    return changed, True


def _adds_space(part: dict[str, Any]) -> bool:
    if part.get("type") == "Metaspace":
        return bool(part["prepend_scheme"] != "never")
    return part.get("type") == "ByteLevel" and bool(part["add_prefix_space"])


def _parts(definition: Any) -> Iterator[dict[str, Any]]:
    """Yield a pre-tokenizer's definition and those inside it."""
    if isinstance(definition, dict):
        yield definition
        definition = list(definition.values())
    if isinstance(definition, list):
        for part in definition:
            yield from _parts(part)
