"""The encoder for WordPiece: each distinct word is encoded once, the rest is gathering.

A block of text is cut into numbered words (`lmdata.words`). New words of ASCII letters and digits
are matched with the pieces (`lmdata.wordpiece_matching`); all other new words go to `tokenizers`,
many in one string with a separator between them whose id no word contains. Then the ids of all
words are copied in order.
"""

from __future__ import annotations

import numba
import numpy as np

from lmdata.cut_classes import cut_classes
from lmdata.encoding import I64, U8, Encoded, Ids, assemble, check_sentence_starts
from lmdata.plain_encoding import first_bytes, rust_threads, without_post_processor
from lmdata.tokenizer import Tokenizer
from lmdata.word_kernels import I32
from lmdata.wordpiece_matching import WordPieceMatcher
from lmdata.words import Occurrences, WordTable

MAX_WORDS = 1 << 20
MAX_WORD_BYTES = 64 << 20
"""The cache starts anew when it holds more words, or words of more bytes, than this."""

WORDS_PER_STRING = 256
"""Measured: 3 times as fast as one by one; longer strings gain nothing."""
STRINGS_PER_CALL = 64

_SEPARATORS = "|~^_@#$%&*+-/:!?.,'\"()[]{}\\"
"""ASCII punctuation that no other character is decomposed to."""


class WordEncoder:
    """Encodes WordPiece by a cache of words.

    Args:
        tokenizer: one for which `lmdata.cut_classes.find_obstacle` finds none
        num_threads: 1 keeps `tokenizers` on the calling thread
        classes: where to cut, uint8 (NUM_CLASSES,); by default where it is safe
    """

    kind = "word-cache"
    reason = "WordPiece with BERT's normalizer and pre-tokenizer"

    def __init__(
        self, tokenizer: Tokenizer, *, num_threads: int = 1, classes: U8 | None = None
    ) -> None:
        if classes is None:
            classes = cut_classes(tokenizer.backend, tokenizer.definition)
        self._backend = tokenizer.backend
        self._tokenizer = tokenizer
        self._num_threads = num_threads
        self._separator, self._separator_id = find_separator(tokenizer)
        self._matcher = WordPieceMatcher(tokenizer.definition)
        self._table = WordTable(classes)
        self._word_ids = WordIds(tokenizer.id_dtype)

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> Encoded:
        """Return the ids of documents, as `lmdata.encoding.Encoder` says."""
        check_sentence_starts(offsets, sentence_starts)
        if self._table.num_words > MAX_WORDS or self._table.num_bytes > MAX_WORD_BYTES:
            self._table.clear()
            self._word_ids = WordIds(self._tokenizer.id_dtype)
        found = self._table.scan(text, offsets, sentence_starts)
        self._encode_new_words()
        ids, before = self._word_ids.gather(found.words, found.before_mark)
        self._place_cut_marks(found, sentence_starts, before)
        return assemble(ids, before, offsets, sentence_starts)

    def _place_cut_marks(self, found: Occurrences, marks: I64, before: I64) -> None:
        """Correct, in place, how many tokens are before the marks that lie inside a word."""
        cut = np.flatnonzero(found.cut_words >= 0)
        backend = without_post_processor(self._tokenizer) if len(cut) else None
        for index in cut:
            word = self._table.word(found.words[found.before_mark[index] - 1]).decode("utf-8")
            assert backend is not None
            begins = first_bytes(word, backend.encode(word, add_special_tokens=False))
            inside = marks[index] - found.cut_words[index]
            before[index] -= np.count_nonzero(begins >= inside)

    def _encode_new_words(self) -> None:
        """Add the ids of the words that have none yet."""
        first, last = self._word_ids.num_words, self._table.num_words
        if first == last:
            return
        starts = self._table.starts[first : last + 1]
        ids, lengths = self._matcher.match(self._table.bytes, starts)
        self._word_ids.extend(ids, lengths)
        left = first + np.flatnonzero(lengths < 0)
        step = WORDS_PER_STRING * STRINGS_PER_CALL
        for numbers in (left[i : i + step] for i in range(0, len(left), step)):
            words = [self._table.word(number) for number in numbers]
            self._word_ids.replace(numbers, *self._encode_words(words))

    def _encode_words(self, words: list[bytes]) -> tuple[I64, I64]:
        """Return the ids of words, one after the other, and how many each has."""
        if self._separator is None:
            return self._encode_separately(words)
        groups = [words[i : i + WORDS_PER_STRING] for i in range(0, len(words), WORDS_PER_STRING)]
        mark = f" {self._separator} ".encode()
        strings = [mark.join([*group, b""]).decode("utf-8") for group in groups]
        with rust_threads(self._num_threads):
            encodings = self._backend.encode_batch_fast(strings, add_special_tokens=False)
        parts = [
            self._split(group, np.array(encoding.ids, np.int64))
            for group, encoding in zip(groups, encodings, strict=True)
        ]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([n for _, n in parts])

    def _split(self, words: list[bytes], ids: I64) -> tuple[I64, I64]:
        """Return the ids of joined words without their separators, and how many each has."""
        is_end = ids == self._separator_id
        if np.count_nonzero(is_end) != len(words):  # the separator is among the words
            return self._encode_separately(words)
        return ids[~is_end], np.diff(np.flatnonzero(is_end), prepend=-1) - 1

    def _encode_separately(self, words: list[bytes]) -> tuple[I64, I64]:
        texts = [word.decode("utf-8") for word in words]
        with rust_threads(self._num_threads):
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        each = [np.array(encoding.ids, np.int64) for encoding in encodings]
        return np.concatenate(each), np.array([len(ids) for ids in each], np.int64)


class WordIds:
    """The ids of every distinct word, by its number.

    Example:
        >>> store = WordIds(np.uint16)
        >>> store.extend(np.array([7, 8, 9]), np.array([1, 2]))
        >>> store.gather(np.array([1, 0, 1], np.int32), np.array([0, 2]))[0].tolist()
        [8, 9, 7, 8, 9]
    """

    def __init__(self, id_dtype: type[np.uint16] | type[np.uint32]) -> None:
        self.num_words = 0
        self._num_ids = 0
        self._ids: Ids = np.zeros(1 << 13, id_dtype)
        self._spans: I64 = np.zeros(1 << 14, np.int64)

    def extend(self, ids: I64, lengths: I64) -> None:
        """Add words; a negative length adds one whose ids are still to be given."""
        first, self.num_words = self.num_words, self.num_words + len(lengths)
        if 2 * self.num_words > len(self._spans):
            self._spans = np.resize(self._spans, 4 * self.num_words)
        self.replace(np.arange(first, self.num_words), ids, np.maximum(lengths, 0))

    def replace(self, numbers: I64, ids: Ids, lengths: I64) -> None:
        """Give words their ids: int64 (W,) numbers, (T,) ids, int64 (W,) ids in each."""
        first, self._num_ids = self._num_ids, self._num_ids + len(ids)
        if self._num_ids > len(self._ids):
            self._ids = np.resize(self._ids, 2 * self._num_ids)
        self._ids[first : self._num_ids] = ids
        stops = first + np.cumsum(lengths)
        self._spans[2 * numbers] = stops - lengths
        self._spans[2 * numbers + 1] = stops

    def gather(self, words: I32, before_mark: I64) -> tuple[Ids, I64]:
        """Return the ids of words in order, and how many are before each mark."""
        return gather_ids(words, self._ids, self._spans, before_mark)


@numba.njit(cache=True, nogil=True)
def gather_ids(words: I32, ids: Ids, spans: I64, before_mark: I64) -> tuple[Ids, I64]:
    """Return the ids of words in order, and how many are before each mark.

    Args:
        words: int32 (W,), numbers of words
        ids: uint16 or uint32, the ids of all distinct words
        spans: int64 (2 * distinct words,), where those of each word begin and end in `ids`
        before_mark: int64 (M,), sorted, how many words are before each mark
    """
    total = 0
    for word in words:
        total += spans[2 * word + 1] - spans[2 * word]
    gathered = np.empty(total, ids.dtype)
    before = np.empty(len(before_mark), np.int64)
    mark, used = 0, 0
    for index in range(len(words)):
        while mark < len(before_mark) and before_mark[mark] == index:
            before[mark] = used
            mark += 1
        for source in range(spans[2 * words[index]], spans[2 * words[index] + 1]):
            gathered[used] = ids[source]
            used += 1
    before[mark:] = used
    return gathered, before


def find_separator(tokenizer: Tokenizer) -> tuple[str | None, int]:
    """Return a punctuation mark that is one piece of its own, and its id; None, -1 if none is."""
    unknown = tokenizer.definition["model"]["unk_token"]
    for mark in _SEPARATORS:
        encoding = tokenizer.backend.encode(mark, add_special_tokens=False)
        if len(encoding.ids) == 1 and encoding.tokens[0] != unknown:
            return mark, encoding.ids[0]
    return None, -1
