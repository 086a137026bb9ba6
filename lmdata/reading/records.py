"""What the readers of all formats share: the reading, the records, and what is left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lmdata.errors import CorpusError
from lmdata.ragged import offsets_of
from lmdata.reading.sources import Source
from lmdata.settings import CorpusConfig

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_MIN_RECORD_BYTES = 16  # a text shorter than this counts as if it were so long


@dataclass
class Rejections:
    """Records left out, by reason, in records and bytes; or, unless skipping, an error."""

    skip: bool
    dropped: dict[str, int] = field(default_factory=dict)
    dropped_bytes: dict[str, int] = field(default_factory=dict)

    def reject(
        self, reason: str, num_bytes: int, message: str, source: Source | None = None
    ) -> None:
        """Count one record, or raise a CorpusError unless skipping.

        Args:
            reason: what the ledger calls it
            num_bytes: of the record
            message: what is wrong with it
            source: named in front of the message, where that is left to be done
        """
        self.check(message, source)
        self.add(reason, 1, num_bytes)

    def check(self, message: str, source: Source | None = None) -> None:
        """Raise a CorpusError with the message unless skipping."""
        if not self.skip:
            where = f"{source} " if source else ""
            raise CorpusError(f"{where}{message}; --errors skip leaves it out and counts it")

    def add(self, reason: str, num_records: int, num_bytes: int) -> None:
        """Count records, whatever the setting."""
        self.dropped[reason] = self.dropped.get(reason, 0) + num_records
        self.dropped_bytes[reason] = self.dropped_bytes.get(reason, 0) + num_bytes

    def take(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return what was counted since the last call: records and bytes by reason."""
        taken = self.dropped, self.dropped_bytes
        self.dropped, self.dropped_bytes = {}, {}
        return taken


@dataclass(frozen=True)
class Records:
    """Consecutive records of a source, not yet judged by what is in them."""

    text: U8
    """uint8 array (N,): the records' bytes, concatenated; with `errors = "skip"` and in tables
    they may not be UTF-8."""

    offsets: I64
    """int64 array (R + 1,): where each one lies in `text`."""

    positions: I64
    """int64 array (R,): the 0-based line or record of the range at which each one begins."""

    num_records: int
    """Lines or records consumed, with those that were rejected."""

    num_source_bytes: int = 0
    """Bytes of the file, as stored, that were read for them."""


@dataclass
class Reading:
    """The reading of one range of one source: what to read, and how far it has come."""

    source: Source
    config: CorpusConfig
    start: int
    stop: int | None
    batch_bytes: int
    rejections: Rejections
    num_seen: int = 0
    """Lines or records before the block in hand."""

    @property
    def max_records(self) -> int:
        """How many records are in hand at once: each takes about 64 bytes beside its text."""
        return max(1, self.batch_bytes // _MIN_RECORD_BYTES)

    def count_if_empty(self) -> None:
        """Count the whole source as one empty document if nothing was in it."""
        is_whole = self.start == 0 and self.stop in (None, self.source.size_bytes)
        if is_whole and not self.num_seen and not self.rejections.dropped:
            self.rejections.add("empty", 1, 0)

    def too_large(self, what: str, num_bytes: int) -> str:
        """Return the error text for a document over the limit."""
        return (
            f"{what} takes {num_bytes} bytes or more, max_document_bytes is "
            f"{self.config.max_document_bytes}: raise it by --set "
            f"corpus.max_document_bytes={max(num_bytes, 2 * self.config.max_document_bytes)}, and "
            f"the memory for it"
        )

    def missing_field(self, where: str, known: Iterable[str]) -> str:
        """Return the error text for a text field that is not there."""
        fields = ", ".join(list(known)[:20]) or "none"
        return (
            f"{where} has no field {self.config.text_field!r}, its fields are: {fields}; "
            f"name one with --text-field"
        )


def make_records(
    texts: list[bytes], positions: list[int], num_records: int, num_source_bytes: int
) -> Records:
    """Return separate texts as records.

    Example:
        >>> records = make_records([b"ab", b"c"], [0, 2], 3, 9)
        >>> records.text.tobytes(), records.offsets.tolist()
        (b'abc', [0, 2, 3])
    """
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return Records(
        np.frombuffer(b"".join(texts), np.uint8),
        offsets_of(lengths),
        np.array(positions, np.int64),
        num_records,
        num_source_bytes,
    )


def no_records(num_source_bytes: int) -> Records:
    """Return that bytes of the file were read, and no record yet."""
    return make_records([], [], 0, num_source_bytes)
