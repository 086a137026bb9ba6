"""The encoder for every tokenizer: `tokenizers` itself, with offsets to find the sentences.

What every encoder returns is here too: the ids of documents and how they divide into sentences.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tokenizers

from lmdata.errors import TokenizerError
from lmdata.ragged import Ragged, concatenate
from lmdata.tokenizer import Tokenizer, twin
from lmdata.tokenizer_classes import ask_tokenizers

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Ids = npt.NDArray[Any]

GROUP_BYTES = 1 << 20
"""Text that `tokenizers` is given at a time; longer ones are cut where that changes nothing."""
MEMORY_PER_BYTE = 140
"""Measured on one text of 16 MiB with the rules of Llama-3: what a byte of a group takes."""
WINDOW = 1 << 16
AROUND = 1 << 9
"""Bytes in which a place to cut is looked for, and bytes on both sides that are encoded again."""


class EncodingError(TokenizerError):
    """A document can't be encoded, or comes out differently than `tokenizers` encodes it.

    Attributes:
        row: of the document among those that were encoded together
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row


class DifferentIdsError(EncodingError):
    """An encoder of ours gives other ids than `tokenizers`, which then encodes instead."""


@dataclass(frozen=True)
class EncodedDocuments:
    """The ids of documents and how they divide into sentences.

    A token belongs to the sentence in which its first byte lies; sentences without a token vanish.

    Attributes:
        ids: uint16 or uint32 (T,), of all documents
        document_offsets: int64 (D + 1,), where documents begin in `ids`
        sentence_lengths: uint32 (S,), tokens in each sentence, none of them 0
        sentence_offsets: int64 (D + 1,), where documents begin in `sentence_lengths`
    """

    ids: Ids
    document_offsets: I64
    sentence_lengths: npt.NDArray[np.uint32]
    sentence_offsets: I64


def check_sentence_starts(offsets: I64, sentence_starts: I64) -> None:
    """Check that every document with text begins a sentence.

    Raises:
        ValueError: one does not
    """
    begins = offsets[:-1][np.diff(offsets) > 0]
    place = np.searchsorted(sentence_starts, begins)
    found = place < len(sentence_starts)
    if not np.all(found) or np.any(sentence_starts[place] != begins):
        raise ValueError("sentence_starts must hold the start of every document that has text")


def assemble(ids: Ids, before: I64, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
    """Return ids divided into documents and sentences.

    Args:
        ids: uint16 or uint32 (T,)
        before: int64 (S,), how many tokens have their first byte before each sentence start
        offsets: int64 (D + 1,), where documents begin in the text
        sentence_starts: int64 (S,), where sentences begin in the text

    Example:
        >>> two = assemble(np.arange(5), np.array([0, 2, 2]), np.array([0, 9, 9, 12]),
        ...                np.array([0, 4, 9]))
        >>> two.document_offsets.tolist(), two.sentence_lengths.tolist()
        ([0, 2, 2, 5], [2, 3])
    """
    ends = np.append(before, len(ids))
    lengths = np.diff(ends)
    first_sentence = np.searchsorted(sentence_starts, offsets)
    first_sentence[-1] = len(sentence_starts)
    num_before = np.append(0, np.cumsum(lengths > 0))
    return EncodedDocuments(
        ids=ids,
        document_offsets=ends[first_sentence].astype(np.int64),
        sentence_lengths=lengths[lengths > 0].astype(np.uint32),
        sentence_offsets=num_before[first_sentence].astype(np.int64),
    )


class Encodes(Protocol):
    """What encodes documents; see `lmdata.encoding.Encoder`."""

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        """Return the ids of documents."""
        ...

    def keep_within(self, num_bytes: int) -> None:
        """Bound what is kept of earlier text."""
        ...


def take_documents(text: U8, offsets: I64, sentence_starts: I64, rows: I64) -> tuple[U8, I64, I64]:
    """Return text, offsets and sentence starts of some documents.

    Args:
        text: uint8 (N,)
        offsets: int64 (D + 1,), where documents begin
        sentence_starts: int64 (S,), sorted
        rows: int64 (R,), which documents

    Example:
        >>> text = np.frombuffer(b"One. Two.Three.", np.uint8)
        >>> some = take_documents(text, np.array([0, 9, 15]), np.array([0, 4, 9]), np.array([1]))
        >>> some[0].tobytes(), some[1].tolist(), some[2].tolist()
        (b'Three.', [0, 6], [0])
    """
    documents = Ragged(text, offsets).take(rows)
    own = np.searchsorted(offsets, sentence_starts, side="right") - 1
    inside = Ragged(sentence_starts - offsets[own], np.searchsorted(sentence_starts, offsets))
    taken = inside.take(rows)
    starts = taken.values + np.repeat(documents.offsets[:-1], np.diff(taken.offsets))
    return (
        np.asarray(documents.values, np.uint8), np.asarray(documents.offsets, np.int64),
        np.asarray(starts, np.int64),
    )  # fmt: skip


def put_in_order(parts: list[EncodedDocuments], order: I64) -> EncodedDocuments:
    """Return documents that were encoded in parts, in another order: int64 (D,) rows of all."""
    ids = concatenate([Ragged(part.ids, part.document_offsets) for part in parts]).take(order)
    lengths = concatenate(
        [Ragged(part.sentence_lengths, part.sentence_offsets) for part in parts]
    ).take(order)
    return EncodedDocuments(
        ids=ids.values,
        document_offsets=np.asarray(ids.offsets, np.int64),
        sentence_lengths=np.asarray(lengths.values, np.uint32),
        sentence_offsets=np.asarray(lengths.offsets, np.int64),
    )


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
    """Return a backend whose offsets are not trimmed, with the same ids."""
    backend = twin(tokenizer.backend)
    backend.encode_special_tokens = True
    return backend


def first_bytes(text: str, encoding: Any) -> I64:
    """Return int64 (T,), where each token of a text begins in its UTF-8, never falling."""
    characters = np.array([start for start, _ in encoding.offsets], np.int64)
    raw = np.frombuffer(text.encode("utf-8"), np.uint8)
    starts = np.append(np.flatnonzero((raw & 0xC0) != 0x80), len(raw))
    return np.maximum.accumulate(starts[characters]) if len(characters) else characters


class Encodings:
    """What `tokenizers` makes of texts, on as many threads as are allowed and without its noise.

    Args:
        tokenizer: encodes
        num_threads: 1 keeps `tokenizers` on the calling thread
    """

    def __init__(self, tokenizer: Tokenizer, num_threads: int = 1) -> None:
        self._tokenizer, self._num_threads = tokenizer, num_threads

    @functools.cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        return without_post_processor(self._tokenizer)

    def ids(self, texts: list[str]) -> list[I64]:
        """Return int64 (T,) for each text.

        Raises:
            EncodingError: `tokenizers` fails or panics, which is no `Exception`
        """
        encode = self._tokenizer.backend.encode_batch_fast
        return [np.array(encoding.ids, np.int64) for encoding in self._ask(encode, texts)]

    def with_offsets(self, texts: list[str]) -> list[tokenizers.Encoding]:
        """Return ids and offsets of each text; raises as `ids` does."""
        return self._ask(self._backend.encode_batch, texts)

    def _ask(self, encode: Callable[..., Any], texts: list[str]) -> list[tokenizers.Encoding]:
        with rust_threads(self._num_threads):
            try:
                encodings: list[tokenizers.Encoding] = ask_tokenizers(
                    "`tokenizers` can't encode this text",
                    lambda: list(encode(texts, add_special_tokens=False)),
                )
            except TokenizerError as error:
                advice = _STUCK if "regex" in str(error).lower() else ""
                raise EncodingError(self._find_bad(encode, texts), f"{error}{advice}") from error
        return encodings

    def _find_bad(self, encode: Callable[..., Any], texts: list[str]) -> int:
        """Return the first of some texts that can't be encoded alone, 0 if each can."""
        if len(texts) > 1:
            for row, text in enumerate(texts):
                try:
                    self._ask(encode, [text])
                except EncodingError:
                    return row
        return 0


_STUCK = (
    "; the regular expression in tokenizer.json by which it cuts text has too many ways to match "
    "this one: leave the document out, break its long lines, or take another tokenizer"
)


class PlainEncoder:
    """Encodes any tokenizer's text by `tokenizers`."""

    kind = "plain"

    def __init__(self, tokenizer: Tokenizer, *, reason: str = "", num_threads: int = 1) -> None:
        self.reason = reason
        self._encodings = Encodings(tokenizer, num_threads)
        self._can_be_cut = tokenizer.definition.get("pre_tokenizer") is not None
        self._id_dtype = tokenizer.id_dtype

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
            try:
                encodings = self._encodings.with_offsets(parts)
            except EncodingError as error:
                error.row = int(rows[first + error.row])
                raise
            for start, part, encoding in zip(bounds[first:last], parts, encodings, strict=True):
                ids.append(np.array(encoding.ids, self._id_dtype))
                begins.append(first_bytes(part, encoding) + start)
        before = np.searchsorted(np.concatenate(begins), sentence_starts)
        return assemble(np.concatenate(ids), before.astype(np.int64), offsets, sentence_starts)

    def memory_for(self, document: U8) -> int:
        """Return about how many bytes encoding one document takes: most for its longest part."""
        bounds, _ = self._cut_documents(document, np.array([0, len(document)]))
        return 8 * len(document) + MEMORY_PER_BYTE * int(np.diff(bounds).max(initial=0))

    def keep_within(self, num_bytes: int) -> None:
        """Nothing is kept."""

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
        whole, *parts = self._encodings.ids([left + right, left, right])
        return np.array_equal(whole, np.concatenate(parts))


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
