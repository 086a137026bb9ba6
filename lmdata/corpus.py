"""Files of any supported kind -> documents, in batches of bounded size.

What a reader promises, whatever the format (the conservation law that the ledger sums):

    documents found = documents out + sum of `dropped`
    bytes found     = bytes out     + sum of `dropped_bytes`

The unit is a byte of document text, in UTF-8, after decoding, without byte-order mark, with LF for
CRLF and CR in .txt, .csv and .tsv. A document is a file, a line without its line feed, the lines
between blank lines without the last line feed, a JSON field after unescaping, or a table cell. A
record that yields no text (broken JSON, a missing field, a wrong type) counts with the bytes of
its line; a null counts with 0. An empty file is one document of 0 bytes, dropped as `empty`. Text
that is rewritten counts as it is then, and with its bytes before where nothing of it is left.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lmdata.errors import CorpusError
from lmdata.ragged import Ragged, frozen, offsets_of
from lmdata.reading.blank_lines import align_offset, find_blank_documents
from lmdata.reading.readers import read_records
from lmdata.reading.records import Reading, Records, Rejections, no_records
from lmdata.reading.rewrites import rewrite_documents
from lmdata.reading.sources import (
    Source,
    Survey,
    find_sources,
    is_splittable,
    split_source,
    survey_sources,
)
from lmdata.reading.streams import is_utf8
from lmdata.settings import CorpusConfig, Rewrite
from lmdata.stored import is_lfs_pointer

__all__ = [
    "CorpusConfig",
    "Documents",
    "Source",
    "Survey",
    "find_sources",
    "read_documents",
    "split_source",
    "survey_sources",
]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Documents:
    """One batch of documents of one source."""

    text: npt.NDArray[np.uint8]
    """uint8 array (N,): UTF-8 of all documents, concatenated without separators."""

    offsets: npt.NDArray[np.int64]
    """int64 array (D + 1,): where each document lies in `text`."""

    positions: npt.NDArray[np.uint64]
    """uint64 array (D,): 0-based line or record of the range at which each one begins."""

    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> documents left out since the last batch."""

    dropped_bytes: dict[str, int] = field(default_factory=dict)
    """Reason -> bytes of these documents."""

    num_records: int = 0
    """Lines or records consumed since the last batch."""

    num_source_bytes: int = 0
    """Bytes of the file, as stored, read since the last batch: their sum is the size of the range
    (of whole lines), so this is what progress counts. A batch may hold only this and `dropped`."""

    replaced: dict[str, int] = field(default_factory=dict)
    """Kind -> stretches of these documents that were replaced; rewrite -> documents or lines."""

    split_keys: npt.NDArray[np.uint64] | None = None
    """uint64 array (D,): what the split of each is drawn by; None: its content."""


def read_documents(
    source: Source,
    config: CorpusConfig,
    *,
    start: int = 0,
    stop: int | None = None,
    batch_bytes: int = 8 << 20,
) -> Iterator[Documents]:
    """Yield the documents that begin in the bytes [start, stop) of a source, in batches.

    Batches hold about `batch_bytes`, more where one document is longer. Peak memory is about three
    times the larger of `batch_bytes` and the longest document. With `errors = "skip"`, a damaged
    compressed file gives the whole documents before the damage; the cut one is dropped.

    Raises:
        CorpusError: the source can't be read, decoded or parsed; the text names file and place
        ValueError: a range of a source that can't be split
    """
    if not is_splittable(source, config):
        if start or stop not in (None, source.size_bytes):
            raise ValueError(f"{source} can't be read in ranges, got [{start}, {stop})")
        stop = None
    elif source.format != "parquet":
        start = align_offset(source, config, start)
        stop = source.size_bytes if stop is None else align_offset(source, config, stop)
    reading = Reading(source, config, start, stop, batch_bytes, Rejections(config.errors == "skip"))
    num_left = (source.size_bytes if stop is None else stop) - start
    for records in _read_if_there(reading):
        num_left -= records.num_source_bytes
        yield _rewrite(_clean(reading, records), config.rewrites)
    if reading.rejections.dropped or num_left > 0:
        yield _clean(reading, no_records(max(num_left, 0)))


def _read_if_there(reading: Reading) -> Iterator[Records]:
    """Yield the records, or leave out a file of which there is only a Git LFS pointer."""
    path = reading.source.path
    try:
        is_pointer = path is not None and is_lfs_pointer(path)
    except OSError as error:
        raise CorpusError(f"can't open {reading.source}: {error.strerror}") from error
    if not is_pointer:
        yield from read_records(reading)
    elif reading.start == 0:
        message = f"{path} is not here, only its Git LFS pointer: git lfs pull fetches it"
        reading.rejections.reject("git-lfs-pointer", reading.source.size_bytes, message)


def _clean(reading: Reading, records: Records) -> Documents:
    """Return the records that are documents: valid UTF-8, not blank, not too large."""
    text, offsets = records.text, records.offsets
    if reading.config.errors == "skip" or reading.source.format in ("parquet", "arrow", "warc"):
        text, offsets, keep = _check_utf8(reading, text, offsets, records.positions)
    else:
        keep = np.ones(len(offsets) - 1, np.bool_)
    lengths = np.diff(offsets)
    for row in np.flatnonzero(keep & (lengths > reading.config.max_document_bytes)).tolist():
        where = f"{reading.source} record {records.positions[row] + 1}"
        message = reading.too_large(where, int(lengths[row]))
        reading.rejections.reject("too-large", int(lengths[row]), message)
        keep[row] = False
    blank = keep & find_blank_documents(frozen(text), offsets)
    if blank.any():
        reading.rejections.add("empty", int(blank.sum()), int(lengths[blank].sum()))
        keep &= ~blank
    if not keep.all():
        kept = Ragged(text, offsets).take(np.flatnonzero(keep))
        text, offsets = np.asarray(kept.values, np.uint8), np.asarray(kept.offsets, np.int64)
    return Documents(
        text,
        offsets,
        records.positions[keep].astype(np.uint64),
        *reading.rejections.take(),
        records.num_records,
        records.num_source_bytes,
    )


def _rewrite(documents: Documents, names: Sequence[Rewrite] | None) -> Documents:
    """Return documents as they are read on; those of which nothing is left are dropped as empty."""
    if not names or not len(documents.positions):
        return documents
    content, before = documents.text.tobytes(), documents.offsets.tolist()
    parts, counts = rewrite_documents((content[a:b] for a, b in itertools.pairwise(before)), names)
    text, offsets = np.frombuffer(b"".join(parts), np.uint8), offsets_of([*map(len, parts)])
    is_left = ~find_blank_documents(text, offsets)
    kept = Ragged(text, offsets).take(np.flatnonzero(is_left))
    dropped, dropped_bytes = Counter(documents.dropped), Counter(documents.dropped_bytes)
    if not is_left.all():
        dropped["empty"] += int((~is_left).sum())
        dropped_bytes["empty"] += int(np.diff(documents.offsets)[~is_left].sum())
    return replace(
        documents, text=np.asarray(kept.values, np.uint8),
        offsets=np.asarray(kept.offsets, np.int64), positions=documents.positions[is_left],
        dropped=dict(dropped), dropped_bytes=dict(dropped_bytes), replaced=dict(counts),
    )  # fmt: skip


def _check_utf8(
    reading: Reading,
    text: npt.NDArray[np.uint8],
    offsets: npt.NDArray[np.int64],
    positions: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], Bools]:
    """Return text, offsets and which documents are UTF-8, or raise, as `errors` says."""
    keep = np.ones(len(offsets) - 1, np.bool_)
    if is_utf8(text, offsets):
        return text, offsets, keep
    documents = [text[a:b].tobytes() for a, b in itertools.pairwise(offsets)]
    for row, document in enumerate(documents):
        if is_utf8(document):
            continue
        if reading.config.errors == "replace":
            documents[row] = document.decode("utf-8", "replace").encode()
            continue
        message = (
            f"{reading.source} record {positions[row] + 1} is not UTF-8; take --errors replace"
        )
        reading.rejections.reject("not-utf-8", len(document), message)
        keep[row] = False
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    joined = np.frombuffer(b"".join(documents), np.uint8)
    return joined, offsets_of(lengths), keep
