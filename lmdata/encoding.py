"""Documents to ids, exactly as `tokenizers` gives them and much faster where its rules allow.

Three encoders stand behind one interface: a cache of words for WordPiece, gigatoken for byte-level
BPE, and `tokenizers` itself for everything else. `check_encoding` re-encodes documents with
`tokenizers` and compares; whoever builds a dataset calls it on a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lmdata.encoders.encoded import I64, U8, EncodedDocuments, Ids
from lmdata.errors import TokenizerError
from lmdata.tokenizer import Tokenizer


class Encoder(Protocol):
    """What `make_encoder` returns: one for each worker, it may keep what it has seen."""

    kind: str
    """`word-cache`, `gigatoken` or `plain`."""
    reason: str
    """Why it is of this kind."""

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        """Return the ids of documents.

        Args:
            text: uint8 (N,), valid UTF-8 of all documents, without separators
            offsets: int64 (D + 1,), where documents begin in `text`
            sentence_starts: int64 (S,), sorted, with the start of every document that has text
        """
        ...


def make_encoder(tokenizer: Tokenizer, *, num_threads: int = 1) -> Encoder:
    """Return the fastest encoder whose ids are known to be those of a tokenizer.

    Args:
        tokenizer: its rules decide
        num_threads: 1 in a worker process, so that workers do not compete; more lets gigatoken and
            `tokenizers` use the threads that they choose themselves
    """
    from lmdata.encoders.plain_encoding import PlainEncoder
    from lmdata.encoders.word_encoding import WordEncoder, find_obstacle

    obstacle = find_obstacle(tokenizer.definition)
    if obstacle is None:
        return WordEncoder(tokenizer, num_threads=num_threads)
    from lmdata.encoders.bpe_encoding import GigatokenEncoder, find_bpe_obstacle

    bpe_obstacle = find_bpe_obstacle(tokenizer.definition)
    if bpe_obstacle is None:
        return GigatokenEncoder(tokenizer, num_threads=num_threads)
    reason = f"no word cache: {obstacle}; no gigatoken: {bpe_obstacle}"
    return PlainEncoder(tokenizer, reason=reason, num_threads=num_threads)


def check_encoding(
    tokenizer: Tokenizer,
    text: U8,
    offsets: I64,
    encoded: EncodedDocuments,
    rows: Sequence[int] | I64,
) -> None:
    """Encode some documents again with `tokenizers` and compare.

    Args:
        tokenizer: the reference
        text: uint8 (N,), as it was encoded
        offsets: int64 (D + 1,)
        encoded: what an encoder made of it
        rows: the documents to compare

    Raises:
        TokenizerError: ids differ; names the row and the first difference
    """
    for row in map(int, rows):
        start, stop = encoded.document_offsets[row : row + 2]
        document = text[offsets[row] : offsets[row + 1]].tobytes().decode("utf-8")
        expected = tokenizer.backend.encode(document, add_special_tokens=False).ids
        difference = first_difference(encoded.ids[start:stop], np.array(expected, np.int64))
        if difference is not None:
            raise TokenizerError(
                f"row {row}: token {difference} differs from what `tokenizers` gives: "
                f"{_show(tokenizer, encoded.ids[start:stop], difference)}, expected "
                f"{_show(tokenizer, np.array(expected, np.int64), difference)}; "
                "please report this tokenizer and text"
            )


def first_difference(left: Ids, right: Ids) -> int | None:
    """Return the first index at which two arrays differ, None if they are the same.

    Example:
        >>> first_difference(np.array([1, 2, 3]), np.array([1, 5])), first_difference(
        ...     np.array([1]), np.array([1, 5])
        ... )
        (1, 1)
    """
    shared = min(len(left), len(right))
    different = np.flatnonzero(left[:shared] != right[:shared])
    if len(different):
        return int(different[0])
    return None if len(left) == len(right) else shared


def _show(tokenizer: Tokenizer, ids: Ids, index: int) -> str:
    around = ids[max(index - 2, 0) : index + 3].tolist()
    return " ".join(repr(tokenizer.piece(item)) for item in around) or "the end"
