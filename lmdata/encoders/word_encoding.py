"""The encoder for WordPiece: each distinct word is encoded once, the rest is gathering.

A block of text is cut into numbered words (`words`). New words of ASCII letters and digits are
matched with the pieces (`wordpiece_matching`); all other new words go to `tokenizers`, many in one
string with a separator between them whose id no word contains. Then the ids of all words are
copied in order.

Where it is safe to cut, the tokenizer itself is asked. BERT's normalizer changes a text character
by character, but for one thing: decomposition sorts runs of combining marks. BERT's pre-tokenizer
then drops white space and isolates punctuation. So a text may be cut on both sides of every
character that comes out of the normalizer as white space or as one punctuation mark (neither is a
combining mark), and of every Chinese character where the normalizer puts spaces around those.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

import numpy as np
import tokenizers

from lmdata.encoders.encoded import I64, U8, EncodedDocuments, assemble, check_sentence_starts
from lmdata.encoders.plain_encoding import first_bytes, rust_threads, without_post_processor
from lmdata.encoders.word_ids import WordIds
from lmdata.encoders.wordpiece_matching import WordPieceMatcher
from lmdata.encoders.words import ISOLATED, SPACE, WORD, Occurrences, WordTable, ascii_classes
from lmdata.tokenizer import Tokenizer

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
        tokenizer: one for which `find_obstacle` finds none
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
        self._warm_up()

    def _warm_up(self) -> None:
        """Encode the spellings of the pieces: processes forked from this one share the result."""
        pieces = "\n".join(self._tokenizer.definition["model"]["vocab"]).encode("utf-8")
        text = np.frombuffer(pieces, np.uint8)
        self.encode(text, np.array([0, len(text)]), np.zeros(1, np.int64))

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
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

    def memory_for(self, document: U8) -> int:
        """Return about how many bytes encoding one document takes; measured: 4.8 for a byte."""
        return 6 * len(document)

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


def find_separator(tokenizer: Tokenizer) -> tuple[str | None, int]:
    """Return a punctuation mark that is one piece of its own, and its id; None, -1 if none is."""
    unknown = tokenizer.definition["model"]["unk_token"]
    for mark in _SEPARATORS:
        encoding = tokenizer.backend.encode(mark, add_special_tokens=False)
        if len(encoding.ids) == 1 and encoding.tokens[0] != unknown:
            return mark, encoding.ids[0]
    return None, -1


CHINESE_RANGES = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
"""What `handle_chinese_chars` of BertNormalizer sets apart."""

_NORMALIZER_KEYS = {"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}


def find_obstacle(definition: dict[str, Any]) -> str | None:
    """Return why words can't be encoded one by one, None if they can.

    Args:
        definition: parsed `tokenizer.json`

    Example:
        >>> find_obstacle({"model": {"type": "Unigram"}})
        'the model is Unigram, not WordPiece'
    """
    model, normalizer = definition["model"], definition.get("normalizer") or {}
    if model["type"] != "WordPiece":
        return f"the model is {model['type']}, not WordPiece"
    if normalizer.get("type") != "BertNormalizer" or set(normalizer) != _NORMALIZER_KEYS:
        return f"the normalizer is {normalizer.get('type')}, not BertNormalizer"
    if definition.get("pre_tokenizer") != {"type": "BertPreTokenizer"}:
        return "the pre-tokenizer is not BertPreTokenizer"
    if model["unk_token"] not in model["vocab"]:
        return f"its unknown token {model['unk_token']!r} is not a piece"
    plain = [token["content"] for token in definition["added_tokens"] if not token["special"]]
    return f"the added token {plain[0]!r} is not special" if plain else None


def cut_classes(backend: tokenizers.Tokenizer, definition: dict[str, Any]) -> U8:
    """Return uint8 (NUM_CLASSES,), WORD, SPACE or ISOLATED for each code point, for `WordTable`.

    Args:
        backend: a tokenizer for which `find_obstacle` found none
        definition: its parsed `tokenizer.json`
    """
    classes = ascii_classes()
    candidates = _candidates()
    classes[candidates] = ask_classes(backend, candidates)
    if definition["normalizer"]["handle_chinese_chars"]:
        for first, last in CHINESE_RANGES:
            sample = [*range(first, last, 499), last]
            if np.all(ask_classes(backend, sample) == ISOLATED):
                classes[first : last + 1] = ISOLATED
    return classes


@functools.cache
def _candidates() -> list[int]:
    """Return the code points beyond ASCII that may be white space or punctuation."""
    return [code for code in range(0x80, 0xFFFF) if unicodedata.category(chr(code))[0] in "PZ"]


def ask_classes(backend: tokenizers.Tokenizer, codes: list[int]) -> U8:
    """Return the class of each code point, by what a tokenizer makes of it between two letters.

    Args:
        backend: with a BertNormalizer and a BertPreTokenizer
        codes: code points, none of them ASCII
    """
    text = " 0 ".join(f"a{chr(code)}a" for code in codes)
    normalized = backend.normalizer.normalize_str(text)
    answers: list[list[str]] = [[]]
    for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normalized):
        if piece == "0":
            answers.append([])
        else:
            answers[-1].append(piece)
    assert len(answers) == len(codes), "a character between two letters came out as a digit"
    return np.array([_class_of(answer) for answer in answers], np.uint8)


def _class_of(pieces: list[str]) -> int:
    if pieces == ["a", "a"]:
        return SPACE
    is_isolated = len(pieces) == 3 and pieces[0] == pieces[2] == "a"
    return ISOLATED if is_isolated else WORD
