"""The encoder for every tokenizer: `tokenizers` itself, with offsets to find the sentences."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from lmdata.encoders.encoded import I64, U8, EncodedDocuments, assemble, check_sentence_starts
from lmdata.tokenizer import Tokenizer

GROUP_BYTES = 1 << 20
"""Text that `tokenizers` is given at a time; its encodings take about a hundred times as much."""


@contextlib.contextmanager
def rust_threads(num_threads: int) -> Iterator[None]:
    """Keep `tokenizers` on the calling thread inside the block if one thread is all there is."""
    if num_threads > 1:
        yield
        return
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def without_post_processor(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """Return a copy of a backend whose offsets are not trimmed, with the same ids."""
    definition = json.dumps({**tokenizer.definition, "post_processor": None})
    backend = tokenizers.Tokenizer.from_str(definition)
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend


def first_bytes(text: str, encoding: Any) -> I64:
    """Return int64 (T,), where each token of a text begins in its UTF-8, never falling."""
    characters = np.array([start for start, _ in encoding.offsets], np.int64)
    raw = np.frombuffer(text.encode("utf-8"), np.uint8)
    starts = np.append(np.flatnonzero((raw & 0xC0) != 0x80), len(raw))
    return np.maximum.accumulate(starts[characters]) if len(characters) else characters


class PlainEncoder:
    """Encodes any tokenizer's text by `tokenizers`."""

    kind = "plain"

    def __init__(self, tokenizer: Tokenizer, *, reason: str = "", num_threads: int = 1) -> None:
        self.reason = reason
        self._backend = without_post_processor(tokenizer)
        self._id_dtype = tokenizer.id_dtype
        self._num_threads = num_threads

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        """Return the ids of documents, as `lmdata.encoding.Encoder` says."""
        check_sentence_starts(offsets, sentence_starts)
        ids: list[npt.NDArray[Any]] = [np.zeros(0, self._id_dtype)]
        begins: list[I64] = [np.zeros(0, np.int64)]
        for first, last in _groups(offsets):
            documents = [
                text[offsets[row] : offsets[row + 1]].tobytes().decode("utf-8")
                for row in range(first, last)
            ]
            with rust_threads(self._num_threads):
                encodings = self._backend.encode_batch(documents, add_special_tokens=False)
            for row, document, encoding in zip(
                range(first, last), documents, encodings, strict=True
            ):
                ids.append(np.array(encoding.ids, self._id_dtype))
                begins.append(first_bytes(document, encoding) + offsets[row])
        before = np.searchsorted(np.concatenate(begins), sentence_starts)
        return assemble(np.concatenate(ids), before.astype(np.int64), offsets, sentence_starts)


def _groups(offsets: I64) -> Iterator[tuple[int, int]]:
    """Yield ranges of documents of about GROUP_BYTES, one document at least.

    Example:
        >>> list(_groups(np.array([0, 5, 7, 2_000_000, 2_000_001])))
        [(0, 3), (3, 4)]
    """
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + GROUP_BYTES))
        last = min(max(last, first + 1), len(offsets) - 1)
        yield first, last
        first = last
