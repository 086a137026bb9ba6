"""The encoder for every tokenizer: `tokenizers` itself, with offsets to find the sentences."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from lmdata.encoders.encoded import (
    I64,
    U8,
    EncodedDocuments,
    EncodingError,
    assemble,
    check_sentence_starts,
)
from lmdata.tokenizer import Tokenizer

GROUP_BYTES = 1 << 20
"""Text that `tokenizers` is given at a time; longer ones are cut where that changes nothing."""
MEMORY_PER_BYTE = 140
"""Measured on one text of 16 MiB with the rules of Llama-3: what a byte of a group takes."""
WINDOW = 1 << 16
AROUND = 1 << 9
"""Bytes in which a place to cut is looked for, and bytes on both sides that are encoded again."""


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
        self._can_be_cut = tokenizer.definition.get("pre_tokenizer") is not None
        self._id_dtype = tokenizer.id_dtype
        self._num_threads = num_threads

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        """Return the ids of documents, as `lmdata.encoding.Encoder` says."""
        check_sentence_starts(offsets, sentence_starts)
        ids: list[npt.NDArray[Any]] = [np.zeros(0, self._id_dtype)]
        begins: list[I64] = [np.zeros(0, np.int64)]
        bounds, rows = self._cut_documents(text, offsets)
        for first, last in _groups(bounds):
            parts = [
                text[start:stop].tobytes().decode("utf-8")
                for start, stop in itertools.pairwise(bounds[first : last + 1].tolist())
            ]
            encodings = self._encode(parts, rows[first:last])
            for start, part, encoding in zip(bounds[first:last], parts, encodings, strict=True):
                ids.append(np.array(encoding.ids, self._id_dtype))
                begins.append(first_bytes(part, encoding) + start)
        before = np.searchsorted(np.concatenate(begins), sentence_starts)
        return assemble(np.concatenate(ids), before.astype(np.int64), offsets, sentence_starts)

    def memory_for(self, document: U8) -> int:
        """Return about how many bytes encoding one document takes: most for its longest part."""
        bounds, _ = self._cut_documents(document, np.array([0, len(document)]))
        return 8 * len(document) + MEMORY_PER_BYTE * int(np.diff(bounds).max(initial=0))

    def _encode(self, parts: list[str], rows: I64) -> list[tokenizers.Encoding]:
        """Encode parts of documents.

        Raises:
            EncodingError: `tokenizers` fails or panics, which is no `Exception`
        """
        with rust_threads(self._num_threads):
            try:
                return list(self._backend.encode_batch(parts, add_special_tokens=False))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
                    raise
                if len(parts) > 1:  # find out which one it is
                    for part, row in zip(parts, rows, strict=True):
                        self._encode([part], np.array([row]))
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise EncodingError(
                    int(rows[0]), f"`tokenizers` can't encode this text: {reason}"
                ) from error

    def _cut_documents(self, text: U8, offsets: I64) -> tuple[I64, I64]:
        """Return where parts of documents begin, and the end; and the document of each part."""
        bounds: list[int] = []
        rows: list[int] = []
        for row, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
            parts = [start]
            while self._can_be_cut and stop - parts[-1] > GROUP_BYTES:
                cut = self._find_cut(text, parts[-1] + GROUP_BYTES // 2, stop)
                if cut is None:
                    break
                parts.append(cut)
            bounds += parts
            rows += [row] * len(parts)
        return np.array([*bounds, offsets[-1]], np.int64), np.array(rows, np.int64)

    def _find_cut(self, text: U8, first: int, stop: int) -> int | None:
        """Return the first safe place to cut from a position on, None if there is none.

        It lies before a space, or behind the end of a line, where the pre-tokenizer cuts too: then
        what is before and what is behind, encoded apart, have the ids that they have together.
        """
        for start in range(first, stop - 1, WINDOW):
            here = text[start - 2 : min(start + WINDOW, stop - 1)]
            before, at, behind = here[1:-1], here[2:], text[start + 1 : start + 1 + len(here) - 2]
            is_space = (at == 32) & _is_letter(before) & _is_letter(behind)
            is_line = (before == 10) & (here[:-2] > 32) & (at > 32)
            for place in np.flatnonzero(is_space | is_line)[:4]:
                if self._is_safe(text, start + int(place), stop):
                    return start + int(place)
        return None

    def _is_safe(self, text: U8, cut: int, stop: int) -> bool:
        left = text[max(0, cut - AROUND) : cut].tobytes().decode("utf-8", "ignore")
        right = text[cut : min(stop, cut + AROUND)].tobytes().decode("utf-8", "ignore")
        whole, *parts = self._backend.encode_batch_fast(
            [left + right, left, right], add_special_tokens=False
        )
        return bool(whole.ids == parts[0].ids + parts[1].ids)


def _is_letter(text: U8) -> npt.NDArray[np.bool_]:
    """Return bool (N,): is each byte an ASCII letter?"""
    return ((text | 32) >= 97) & ((text | 32) <= 122)


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
