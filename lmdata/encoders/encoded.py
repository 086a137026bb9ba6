"""The ids of documents and how they divide into sentences: what every encoder returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmdata.errors import TokenizerError

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Ids = npt.NDArray[Any]


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
