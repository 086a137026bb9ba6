"""Documents to distinct words with counts: what every tokenizer trainer begins with.

Raw words are counted as bytes in one fast pass; then each distinct one goes through the
tokenizer's own normalizer and pre-tokenizer once. The result does not depend on the order of the
documents, on how they are batched, or on the number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import compress, pairwise
from queue import SimpleQueue
from typing import Protocol

import numba
import numpy as np
import numpy.typing as npt
import tokenizers
import xxhash

from lmdata.encoders.words import WordTable
from lmdata.errors import TokenizerError
from lmdata.ragged import Ragged

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

NUM_LEVELS = 16
_MOST_SAMPLED = 1 << 16  # distinct raw words; with their counts they stand for the text
_BLOCK = 4096  # words that are normalised in one call


class DocumentBatch(Protocol):
    """What is counted: `lmdata.corpus.Documents` is one."""

    @property
    def text(self) -> U8:
        """uint8 (N,): UTF-8 of all documents, concatenated."""

    @property
    def offsets(self) -> I64:
        """int64 (D + 1,): where each document begins."""


@dataclass(frozen=True, kw_only=True)
class CountingRule:
    """How the raw words of one kind of tokenizer are found and taken apart.

    Attributes:
        classes: uint8 (NUM_CLASSES,), the `WordTable` classes that cut where the pre-tokenizer
            allows it
        cut: text and offsets of documents -> offsets of parts that can be cut from each other
        plain: true of raw words that may be joined into one text without changing each other
        joiner: what they are joined with
        first: the character with which the first pre-token of each of them begins, or "" if each
            of them, normalised, is one pre-token
        whole: true of normalised words that are surely one pre-token; the other raw words are
            then normalised together too, a line each. None: they are taken one by one
    """

    classes: U8
    cut: Callable[[U8, I64], I64]
    plain: Callable[[bytes], object]
    joiner: bytes
    first: str
    whole: Callable[[str], object] | None = None


def count_words(
    batches: Iterable[DocumentBatch],
    backend: tokenizers.Tokenizer,
    rule: CountingRule,
    *,
    max_bytes: int,
    num_threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> WordCounts:
    """Return how often each pre-token occurs in the documents.

    Args:
        batches: the documents
        backend: its normalizer and pre-tokenizer are used
        rule: how to cut
        max_bytes: take a sample of documents of at most this size (see `SampleLevels`)
        num_threads: threads that count while the caller's thread reads the next batch
        progress: called with the number of bytes read so far

    Raises:
        TokenizerError: there is no text, or each document is larger than the sample may be
    """
    levels = SampleLevels(max_bytes)
    counters = [WordCounter(rule) for _ in range(num_threads)]
    idle: SimpleQueue[WordCounter] = SimpleQueue()
    for counter in counters:
        idle.put(counter)

    def count(batch: DocumentBatch, batch_levels: U8, lowest: int) -> None:
        counter = idle.get()
        counter.add(batch, batch_levels, lowest)
        idle.put(counter)

    with ThreadPoolExecutor(num_threads) as pool:
        jobs: deque[Future[None]] = deque()
        for batch in batches:
            batch_levels = levels.of(batch)
            jobs.append(pool.submit(count, batch, batch_levels, levels.lowest))
            if len(jobs) > num_threads:  # so that few batches are held at a time
                jobs.popleft().result()
            if progress is not None:
                progress(levels.num_bytes)
        for job in jobs:
            job.result()
    levels.check()
    raw = counters[0].counts(levels.lowest)
    for counter in counters[1:]:
        for word, number in counter.counts(levels.lowest).items():
            raw[word] = raw.get(word, 0) + number
    sample = _sample_words(raw)
    return WordCounts(_pre_tokenize(raw, backend, rule), sample)


@dataclass(frozen=True)
class Tally:
    """What one counter has found, before it is known which documents make the sample.

    Attributes:
        bytes_at: int64 (NUM_LEVELS,), the bytes of all its documents on each level
        words: the raw words
        counts: int64 (W, NUM_LEVELS), how often each occurs in the documents of each level
    """

    bytes_at: I64
    words: list[bytes]
    counts: I64


def tally_words(batches: Iterable[DocumentBatch], rule: CountingRule, max_bytes: int) -> Tally:
    """Return the words of some of the documents, for `sum_up` to put together with others."""
    levels, counter = SampleLevels(max_bytes), WordCounter(rule)
    for batch in batches:
        counter.add(batch, levels.of(batch), levels.lowest)
    return counter.tally(levels)


def sum_up(
    tallies: Iterable[Tally], backend: tokenizers.Tokenizer, rule: CountingRule, *, max_bytes: int
) -> WordCounts:
    """Return what several counters have found of documents that no two share, as `count_words`.

    Raises:
        TokenizerError: there is no text, or each document is larger than the sample may be
    """
    levels, found = SampleLevels(max_bytes), dict[bytes, I64]()
    for tally in tallies:
        levels.add(tally.bytes_at)
        for word, counts in zip(tally.words, tally.counts, strict=True):
            found[word] = found[word] + counts if word in found else counts
    levels.check()
    totals = np.array(list(found.values()))[:, levels.lowest :].sum(axis=1).tolist()
    raw = {word: total for word, total in zip(found, totals, strict=True) if total}
    sample = _sample_words(raw)
    return WordCounts(_pre_tokenize(raw, backend, rule), sample)


@dataclass(frozen=True)
class WordCounts:
    """What was counted.

    Attributes:
        pre_tokens: how often each pre-token occurs
        raw_words: how often raw words occur, before any normalizer; of many, a sample
    """

    pre_tokens: dict[str, int]
    raw_words: dict[str, int]


def _sample_words(raw: dict[bytes, int]) -> dict[str, int]:
    """Return all words where they are few, else the frequent ones and some that stand for the rest.

    Which ones depends on the words alone, by their hashes.
    """
    if len(raw) <= _MOST_SAMPLED:
        return {word.decode(): number for word, number in raw.items()}
    counts = np.fromiter(raw.values(), np.int64, len(raw))
    frequent = int(np.sort(counts)[-_MOST_SAMPLED // 2])
    step = 2 * len(raw) // _MOST_SAMPLED
    digest = xxhash.xxh3_64_intdigest
    return {
        word.decode(): number if number > frequent else step * number
        for word, number in raw.items()
        if number > frequent or digest(word) % step == 0
    }


class SampleLevels:
    """Decides which documents belong to the sample, by their content only.

    A document's level is the number of zero bits at the end of its hash, so half of all documents
    are on level 0, a quarter on level 1, and so on. The sample is every document from the lowest
    level on that keeps it within `max_bytes`: at least about half of what is allowed, and the
    same documents in whatever order they come.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.lowest = 0
        self._bytes_at = np.zeros(NUM_LEVELS, np.int64)

    @property
    def bytes_at(self) -> I64:
        """Bytes of all documents seen on each level, int64 (NUM_LEVELS,)."""
        return self._bytes_at.copy()

    @property
    def num_bytes(self) -> int:
        """Bytes of all documents seen."""
        return int(self._bytes_at.sum())

    def of(self, batch: DocumentBatch) -> U8:
        """Return the level of each document of a batch, uint8 (D,), and count its bytes."""
        text = memoryview(batch.text.tobytes())
        starts = batch.offsets.tolist()
        digest = xxhash.xxh3_64_intdigest
        hashes = [digest(text[start:stop]) for start, stop in pairwise(starts)]
        bits = np.uint64(1) << np.arange(NUM_LEVELS - 1, dtype=np.uint64)
        is_zero = (np.array(hashes, np.uint64)[:, None] & bits) == 0
        levels: U8 = np.cumprod(is_zero, axis=1, dtype=np.uint8).sum(axis=1, dtype=np.uint8)
        self.add(np.bincount(levels, np.diff(batch.offsets), NUM_LEVELS).astype(np.int64))
        return levels

    def add(self, bytes_at: I64) -> None:
        """Count the bytes of more documents on each level."""
        self._bytes_at += bytes_at
        while self.lowest < NUM_LEVELS and self._bytes_at[self.lowest :].sum() > self.max_bytes:
            self.lowest += 1

    def check(self) -> None:
        """Raise a TokenizerError if the sample is empty."""
        if self.num_bytes == 0:
            raise TokenizerError("there is no text to train on: every document is empty")
        if self._bytes_at[self.lowest :].sum() == 0:
            highest = int(self._bytes_at[np.flatnonzero(self._bytes_at)[-1]])
            raise TokenizerError(
                f"no sample of whole documents fits into max_training_bytes {self.max_bytes}: "
                f"the smallest has {highest} bytes; set max_training_bytes to at least that"
            )


class WordCounter:
    """Counts the raw words of documents, separately for each level of the sample."""

    def __init__(self, rule: CountingRule) -> None:
        self._table = WordTable(rule.classes)
        self._cut = rule.cut
        self._counts: I64 = np.zeros((NUM_LEVELS, 1 << 12), np.int64)

    def add(self, batch: DocumentBatch, levels: U8, lowest: int) -> None:
        """Count the words of the documents that are on a level or above."""
        text, offsets, levels = _from_level(batch, levels, lowest)
        found = self._table.scan(text, self._cut(text, offsets), offsets)
        room = self._counts.shape[1]
        if self._table.num_words > room:
            wider = np.zeros((NUM_LEVELS, 2 * self._table.num_words), np.int64)
            wider[:, :room] = self._counts
            self._counts = wider
        _add_counts(found.words, found.before_mark, levels, self._counts)

    def counts(self, lowest: int) -> dict[bytes, int]:
        """Return the words of documents from a level on, with their counts."""
        arena = self._table.bytes.tobytes()
        starts = self._table.starts[: self._table.num_words + 1].tolist()
        totals = self._counts[lowest:, : self._table.num_words].sum(axis=0).tolist()
        words = (arena[start:stop] for start, stop in pairwise(starts))
        return {word: total for word, total in zip(words, totals, strict=True) if total}

    def tally(self, levels: SampleLevels) -> Tally:
        """Return all words with their counts on each level that the sample may yet reach."""
        counts = self._counts[:, : self._table.num_words].T.copy()
        counts[:, : levels.lowest] = 0
        arena = self._table.bytes.tobytes()
        starts = self._table.starts[: self._table.num_words + 1].tolist()
        words = [arena[start:stop] for start, stop in pairwise(starts)]
        kept = np.flatnonzero(counts.any(axis=1))
        return Tally(levels.bytes_at, [words[row] for row in kept.tolist()], counts[kept])


def _from_level(batch: DocumentBatch, levels: U8, lowest: int) -> tuple[U8, I64, U8]:
    """Return text, offsets and levels of the documents that are on a level or above."""
    is_kept = levels >= lowest
    if is_kept.all():
        return batch.text, batch.offsets, levels
    kept = Ragged(batch.text, batch.offsets).take(np.flatnonzero(is_kept))
    text, offsets = np.asarray(kept.values, np.uint8), np.asarray(kept.offsets, np.int64)
    return text, offsets, levels[is_kept]


@numba.njit(cache=True, nogil=True)
def _add_counts(words: I32, first_words: I64, levels: U8, counts: I64) -> None:
    for document in range(len(levels)):
        for index in range(first_words[document], first_words[document + 1]):
            counts[levels[document], words[index]] += 1


def _pre_tokenize(
    raw: dict[bytes, int], backend: tokenizers.Tokenizer, rule: CountingRule
) -> dict[str, int]:
    """Return the counts of the pre-tokens of raw words."""
    is_plain = [bool(found) for found in map(rule.plain, raw)]
    is_other = [not plain for plain in is_plain]
    totals: dict[str, int] = {}
    for kind, split in ((is_plain, _split_block), (is_other, _split_others)):
        words, counts = list(compress(raw, kind)), list(compress(raw.values(), kind))
        for start in range(0, len(words), _BLOCK):
            end = start + _BLOCK
            for pre_token, number in split(words[start:end], counts[start:end], backend, rule):
                totals[pre_token] = totals.get(pre_token, 0) + number
    return totals


def _split_block(
    words: Sequence[bytes], counts: Sequence[int], backend: tokenizers.Tokenizer, rule: CountingRule
) -> Iterable[tuple[str, int]]:
    """Return the pre-tokens of plain words, each with the count of the word that it came from."""
    text = rule.joiner.join(words).decode()
    if not rule.first:
        return zip(normalize(backend, text).split(rule.joiner.decode()), counts, strict=True)
    pre_tokens = split_text(backend, text)
    word_of = np.cumsum([token.startswith(rule.first) for token in pre_tokens]) - 1
    assert word_of[-1] == len(words) - 1, "each plain word begins with a marked pre-token"
    return zip(pre_tokens, [counts[number] for number in word_of.tolist()], strict=True)


def _split_others(
    words: Sequence[bytes], counts: Sequence[int], backend: tokenizers.Tokenizer, rule: CountingRule
) -> Iterable[tuple[str, int]]:
    """Return the pre-tokens of words that are not plain, each with the count of its word."""
    texts = [word.decode() for word in words]
    if rule.whole is None:
        cut = (split_text(backend, text) for text in texts)
    else:
        lines = normalize(backend, "\n".join(texts)).split("\n")
        cut = ([line] if rule.whole(line) else pre_tokens_of(backend, line) for line in lines)
    return ((token, n) for tokens, n in zip(cut, counts, strict=True) for token in tokens)


def split_text(backend: tokenizers.Tokenizer, text: str) -> list[str]:
    """Return the pre-tokens of a text, by the tokenizer's own normalizer and pre-tokenizer."""
    return pre_tokens_of(backend, normalize(backend, text))


def pre_tokens_of(backend: tokenizers.Tokenizer, text: str) -> list[str]:
    """Return the pre-tokens of a text that is normalised."""
    return [token for token, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def normalize(backend: tokenizers.Tokenizer, text: str) -> str:
    """Return a text as the tokenizer's own normalizer makes it."""
    return text if backend.normalizer is None else backend.normalizer.normalize_str(text)
