"""Stop words of a corpus or of a file, and how many different ones of a list documents hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lmdata.corpus import Source, read_documents
from lmdata.encoders.word_kernels import hash_of, word_key
from lmdata.errors import ConfigError, CorpusError
from lmdata.intrinsics import borrowed
from lmdata.settings import CorpusConfig, OwnWords
from lmdata.tagging.characters import HAS_LETTER
from lmdata.tagging.gram_tables import find_slot, table_size
from lmdata.tagging.numbers import is_unspaced
from lmdata.tagging.word_kernels import PADDING
from lmdata.tagging.words import Words

_SAMPLE_BYTES, _LEAST_BYTES = 16 << 20, 1 << 18  # of a corpus, of a source
_COMMON, _FEWEST, _MOST = 0.008, 8, 32  # share of all words from which on one is a stop word
_MUCH_UNSPACED = 0.3
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


def derive_words(sources: Sequence[Source], config: CorpusConfig) -> OwnWords:
    """Return the stop words of a corpus, and how long its words are, the same each time.

    Stop words make 0.8 % of all words or more each; the most frequent eight at least. The beginning
    of each source is read, by its size, 16 MiB in all or somewhat more.

    Raises:
        CorpusError: a source is broken, or there is no text
        ConfigError: the text is written without spaces between words
    """
    total = sum(source.size_bytes for source in sources)
    counts, num_unspaced, num_chars = Counter[str](), 0, 0
    for source in sources:
        asked = max(_LEAST_BYTES, _SAMPLE_BYTES * source.size_bytes // max(1, total))
        for text in _beginning(source, config, asked):
            counts.update(_WORD.findall(text))
            num_unspaced += sum(map(is_unspaced, map(ord, text[: 1 << 16])))
            num_chars += len(text[: 1 << 16])
    if not counts:
        raise CorpusError("no word was found: is this the right corpus, or field?")
    if num_unspaced > _MUCH_UNSPACED * num_chars:
        raise ConfigError(
            "stop words can't be derived: the text is written without spaces between words; leave "
            "--stop-words out"
        )
    return choose_words(counts)


def own_words(choice: str, sources: Sequence[Source], config: CorpusConfig) -> OwnWords:
    """Return the words that a user asks for: those of a corpus, or of a file.

    Args:
        choice: "derive", or the path of a file of words with white space between them
        sources: of the corpus
        config: how they are read

    Raises:
        ConfigError: the file can't be read, or has too few or too many words
        CorpusError: a source is broken, or there is no text
    """
    derived = derive_words(sources, config)
    if choice == "derive":
        return derived
    try:
        words = tuple(dict.fromkeys(Path(choice).read_text(encoding="utf-8").split()))
        return replace(derived, stop_words=words)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"stop words can't be read from {choice}: {error}; give a text file of words, or derive"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{choice}: {error}") from error


def choose_words(counts: Counter[str]) -> OwnWords:
    """Return stop words by how often words occur; of equals the first by its letters.

    Example:
        >>> choose_words(Counter({"la": 3, "maison": 1}))
        OwnWords(stop_words=('la', 'maison'), length=3.0)
    """
    total = counts.total()
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:_MOST]
    chosen = [w for i, w in enumerate(ranked) if i < _FEWEST or counts[w] >= _COMMON * total]
    length = sum(len(word) * count for word, count in counts.items()) / total
    return OwnWords(stop_words=tuple(chosen), length=round(length, 2))


def _beginning(source: Source, config: CorpusConfig, num_bytes: int) -> Iterable[str]:
    """Yield the documents of a source until they make so many bytes."""
    with source.at_hand() as own:
        for documents in read_documents(own, config, batch_bytes=1 << 20):
            yield documents.text.tobytes().decode("utf-8", errors="ignore")
            num_bytes -= len(documents.text)
            if num_bytes <= 0:
                return


class StopWords:
    """Counts the different stop words of several lists in documents."""

    def __init__(self, lists: Sequence[Sequence[str]]) -> None:
        parts = [[word.encode() for word in own] for own in lists]
        words = sorted({word for own in parts for word in own})
        self._keys = np.zeros(table_size(len(words)), np.uint64)
        self._bits = np.zeros((len(self._keys), len(lists)), np.uint64)
        for word in words:
            text = np.frombuffer(word + bytes(PADDING), np.uint8)
            key = np.uint64(hash_word(text, 0, len(word)))
            slot = find_slot(self._keys, len(self._keys) - 1, key)
            self._keys[slot] = key
            for number, own in enumerate(parts):
                if word in own:
                    self._bits[slot, number] = np.uint64(1 << own.index(word))

    def count(self, words: Words) -> npt.NDArray[np.int64]:
        """Return how many of each list documents hold, int64 (D, L)."""
        counts = np.zeros((len(words.rows) - 1, self._bits.shape[1]), np.int64)
        _count_listed(words.stream, words.starts, words.flags, words.rows, self._keys, self._bits,
                      counts)  # fmt: skip
        return counts


@numba.njit(cache=True, nogil=True)
def hash_word(stream: np.ndarray, start: int, stop: int) -> Any:
    """Return a hash of a word that is not 0: uint64."""
    return hash_of(word_key(stream, start, stop), stop - start) | np.uint64(1)


@numba.njit(cache=True, nogil=True)
def _count_listed(
    stream: np.ndarray, starts: np.ndarray, flags: np.ndarray, rows: np.ndarray,
    keys: np.ndarray, bits: np.ndarray, counts: np.ndarray,
) -> None:  # fmt: skip
    mask, num_lists = len(keys) - 1, bits.shape[1]
    seen = np.empty(num_lists, np.uint64)
    for document in range(len(rows) - 1):
        seen[:] = 0
        for word in range(rows[document], rows[document + 1]):
            if flags[word] & HAS_LETTER:
                key = hash_word(borrowed(stream), starts[word], starts[word + 1])
                slot = find_slot(borrowed(keys), mask, key)
                if keys[slot] == key:
                    for number in range(num_lists):
                        seen[number] |= bits[slot, number]
        for number in range(num_lists):
            while seen[number]:
                seen[number] &= seen[number] - np.uint64(1)
                counts[document, number] += 1
