"""The encoder that keeps words: each distinct word is encoded once, the rest is gathering.

A block of text is cut into numbered words (`words`), where the tokenizer's own rules make a cut
safe: with the white space before each (`cuts`) or, for BERT's rules, without any
(`wordpiece_matching`). New words are matched with the pieces where that is known to be exact; all
other new words go to `tokenizers`, many in one string with a word between them whose id no other
has. Then the ids of all words are copied in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from lmdata.encoders.cut_kernels import find_loose
from lmdata.encoders.cuts import CutRule
from lmdata.encoders.plain_encoding import (
    I64,
    U8,
    DifferentIdsError,
    EncodedDocuments,
    Encodings,
    Ids,
    assemble,
    check_sentence_starts,
    first_bytes,
)
from lmdata.encoders.unigram_matching import (
    SPACE_MARK,
    UnigramMatcher,
    find_unigram_obstacle,
)
from lmdata.encoders.wordpiece_matching import WordPieceMatcher, cut_classes
from lmdata.encoders.words import Occurrences, WordIds, WordTable
from lmdata.errors import TokenizerError
from lmdata.ragged import frozen
from lmdata.tokenizer import Tokenizer

CACHE_BYTES = 128 << 20
"""The cache of words starts anew when it is larger than this: it then holds about a million."""

WORDS_PER_STRING = 256
"""Measured: 3 times as fast as one by one; longer strings gain nothing."""
STRINGS_PER_CALL = 64

_SEPARATORS = "|~^_@#$%&*+-/:!?.,'\"()[]{}\\"
"""ASCII punctuation that no other character is decomposed to."""


class Matcher(Protocol):
    """What gives words their ids without `tokenizers`, as far as it is exact."""

    def match(self, words: U8, starts: I64) -> tuple[Ids, I64]:
        """Return ids and lengths of words, as `WordPieceMatcher.match` does."""
        ...

    def begins(self, word: bytes, is_first: bool) -> Ids | None:
        """Return integers (T,), where each token of a word begins; None where it is left out.

        Args:
            word: its bytes
            is_first: whether a text begins with it
        """
        ...


class WordEncoder:
    """Encodes by a cache of words.

    Args:
        tokenizer: one whose words can be encoded one by one
        rule: where it may be cut, white space kept; None for WordPiece with BERT's rules
        num_threads: 1 keeps `tokenizers` on the calling thread
    """

    kind = "word-cache"

    def __init__(
        self, tokenizer: Tokenizer, rule: CutRule | None = None, *, num_threads: int = 1
    ) -> None:
        self._tokenizer, self._rule = tokenizer, rule
        self._encodings = Encodings(tokenizer, num_threads)
        self._matcher: Matcher | None = None
        if rule is None:
            self.reason = "WordPiece with BERT's normalizer and pre-tokenizer"
            self._matcher = WordPieceMatcher(tokenizer.backend, tokenizer.definition)
            classes = cut_classes(tokenizer.backend, tokenizer.definition)
            self._separator = find_separator(tokenizer)
        else:
            self.reason = describe_rules(tokenizer, rule)
            if find_unigram_obstacle(tokenizer.definition) is None:
                self._matcher = UnigramMatcher(tokenizer.backend, tokenizer.definition, rule)
            classes = rule.classes
            self._separator = find_rare_word(tokenizer)
        self._table = WordTable(classes)
        self._word_ids = WordIds(tokenizer.id_dtype)
        self._cache_bytes = CACHE_BYTES
        self._warm_up()

    def _warm_up(self) -> None:
        """Encode the spellings of the pieces: processes forked from this one share the result."""
        if self._matcher is None:
            return
        pieces = [piece for piece in self._tokenizer.pieces if piece]
        spelled = "\n".join(pieces)
        if self._rule is not None:  # as they stand in a text: behind a space, not a mark of one
            first = (piece for piece in pieces if piece.startswith(SPACE_MARK))
            spelled = "x" + "".join(first).replace(SPACE_MARK, " ")
        text = np.frombuffer(spelled.encode("utf-8"), np.uint8)
        self.encode(text, np.array([0, len(text)]), np.zeros(1, np.int64))

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        """Return the ids of documents, as `lmdata.encoding.Encoder` says.

        Raises:
            DifferentIdsError: `tokenizers` fails on a word; it will say of which document
        """
        check_sentence_starts(offsets, sentence_starts)
        try:
            return self._encode(text, offsets, sentence_starts)
        except TokenizerError as error:
            raise DifferentIdsError(0, str(error)) from error

    def _encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        if self._table.size_bytes + self._word_ids.size_bytes > self._cache_bytes:
            self._table.clear()
            self._word_ids = WordIds(self._tokenizer.id_dtype)
        if self._rule is not None:
            codes = self._rule.learn(text)
            if isinstance(self._matcher, UnigramMatcher):
                self._matcher.learn(codes)
        found = self._table.scan(text, offsets, sentence_starts)
        self._encode_new_words()
        ids, before = self._word_ids.gather(found.words, found.before_mark)
        self._place_cut_marks(found, offsets, sentence_starts, before)
        return assemble(ids, before, offsets, sentence_starts)

    def memory_for(self, document: U8) -> int:
        """Return about how many bytes encoding one document takes; measured: 4.8 for a byte.

        The longest word takes more, where all the ways to spell it are compared.
        """
        spaces = np.flatnonzero(document <= 32)
        longest = int(np.diff(spaces, prepend=-1, append=len(document)).max())
        return 6 * len(document) + (0 if self._rule is None else 40 * longest)

    def keep_within(self, num_bytes: int) -> None:
        """Forget all words whenever they take more memory than this, `CACHE_BYTES` at most."""
        self._cache_bytes = min(num_bytes, CACHE_BYTES)

    def _place_cut_marks(self, found: Occurrences, offsets: I64, marks: I64, before: I64) -> None:
        """Correct, in place, how many tokens are before the marks that lie inside a word."""
        cut = np.flatnonzero(found.cut_words >= 0)
        starts = found.cut_words[cut]
        is_first = offsets[np.searchsorted(offsets, starts)] == starts
        keys = 2 * found.words[found.before_mark[cut] - 1].astype(np.int64) + is_first
        order = np.argsort(keys, kind="stable")
        distinct, first = np.unique(keys[order], return_index=True)
        bounds = np.append(first, len(order))
        for begins, start, stop in zip(
            self._find_begins(distinct), bounds[:-1], bounds[1:], strict=True
        ):
            rows = order[start:stop]
            inside = marks[cut[rows]] - starts[rows]
            before[cut[rows]] -= len(begins) - np.searchsorted(begins, inside)

    def _find_begins(self, keys: I64) -> Iterator[Ids]:
        """Yield integers (T,), where the tokens of a word begin, for 2 * its number + is it first.

        White space at the beginning of a text may be dropped that elsewhere is part of a token.
        """
        for i in range(0, len(keys), WORDS_PER_STRING):
            some = [
                (self._table.word(key >> 1), bool(key & 1))
                for key in keys[i : i + WORDS_PER_STRING]
            ]
            known = [self._matcher.begins(*each) if self._matcher else None for each in some]
            left = [each for each, begins in zip(some, known, strict=True) if begins is None]
            asked = iter(self._ask_begins(left))
            yield from (next(asked) if begins is None else begins for begins in known)

    def _ask_begins(self, words: list[tuple[bytes, bool]]) -> list[Ids]:
        """Return where `tokenizers` says that the tokens of words begin."""
        if not words:
            return []
        behind = "" if self._rule is None else "x"
        texts = [("" if is_first else behind) + word.decode("utf-8") for word, is_first in words]
        encodings = self._encodings.with_offsets([behind, *texts])
        found = []
        for (_, is_first), text, encoding in zip(words, texts, encodings[1:], strict=True):
            begins = first_bytes(text, encoding)
            skipped = 0 if is_first else len(encodings[0].ids)
            found.append(begins[skipped:] - (0 if is_first else len(behind)))
        return found

    def _encode_new_words(self) -> None:
        """Add the ids of the words that have none yet."""
        first, last = self._word_ids.num_words, self._table.num_words
        if first == last:
            return
        starts = self._table.starts[first : last + 1]
        if self._matcher is not None:
            ids, lengths = self._matcher.match(self._table.bytes, starts)
        else:
            ids, lengths = np.zeros(0, np.int64), np.full(last - first, -1, np.int64)
        self._word_ids.extend(ids, lengths)
        left = np.flatnonzero(lengths < 0)
        if self._rule is not None and len(left):
            is_loose = find_loose(
                frozen(self._table.bytes), frozen(starts), frozen(self._rule.classes)
            )[left]
            self._encode_left(first + left[is_loose], is_joined=False)
            left = left[~is_loose]
        self._encode_left(first + left, is_joined=self._separator is not None)

    def _encode_left(self, numbers: I64, *, is_joined: bool) -> None:
        """Give words the ids that `tokenizers` gives them."""
        step = WORDS_PER_STRING * STRINGS_PER_CALL
        for some in (numbers[i : i + step] for i in range(0, len(numbers), step)):
            words = [self._table.word(number) for number in some]
            encode = self._encode_joined if is_joined else self._encode_separately
            self._word_ids.replace(some, *encode(words))

    def _encode_joined(self, words: list[bytes]) -> tuple[I64, I64]:
        """Return the ids of words, one after the other, and how many each has."""
        groups = [words[i : i + WORDS_PER_STRING] for i in range(0, len(words), WORDS_PER_STRING)]
        assert self._separator is not None
        mark, separator_id = self._separator
        strings = [mark.join([*group, b""]).decode("utf-8") for group in groups]
        parts = [
            self._split(group, ids, separator_id)
            for group, ids in zip(groups, self._encodings.ids(strings), strict=True)
        ]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([n for _, n in parts])

    def _split(self, words: list[bytes], ids: I64, separator_id: int) -> tuple[I64, I64]:
        """Return the ids of joined words without their separators, and how many each has."""
        is_end = ids == separator_id
        if np.count_nonzero(is_end) == len(words):
            return ids[~is_end], np.diff(np.flatnonzero(is_end), prepend=-1) - 1
        if len(words) <= 8:  # the separator is among the words, or part of one
            return self._encode_separately(words)
        halves = [self._encode_joined(words[: len(words) // 2]),
                  self._encode_joined(words[len(words) // 2 :])]  # fmt: skip
        return np.concatenate([ids for ids, _ in halves]), np.concatenate([n for _, n in halves])

    def _encode_separately(self, words: list[bytes]) -> tuple[I64, I64]:
        each = self._encodings.ids([word.decode("utf-8") for word in words])
        return np.concatenate(each), np.array([len(ids) for ids in each], np.int64)


def describe_rules(tokenizer: Tokenizer, rule: CutRule) -> str:
    """Return which cuts are made for a tokenizer."""
    model = tokenizer.definition["model"]["type"]
    return f"{model}, cut before {rule.description}"


def find_separator(tokenizer: Tokenizer) -> tuple[bytes, int] | None:
    """Return a punctuation mark between spaces that is one piece, and its id; None if none is."""
    unknown = tokenizer.definition["model"]["unk_token"]
    for mark in _SEPARATORS:
        encoding = tokenizer.backend.encode(mark, add_special_tokens=False)
        if len(encoding.ids) == 1 and encoding.tokens[0] != unknown:
            return f" {mark} ".encode(), encoding.ids[0]
    return None


def find_rare_word(tokenizer: Tokenizer) -> tuple[bytes, int] | None:
    """Return the last piece that is a word of a few letters behind a space, and its id."""
    special = tokenizer.is_special
    for index in reversed(np.flatnonzero(tokenizer.is_piece & ~special).tolist()):
        letters = "".join(c for c in tokenizer.pieces[index] or "" if "a" <= c <= "z")
        if 4 <= len(letters) <= 8:
            spelled = f" {letters}"
            if tokenizer.backend.encode(spelled, add_special_tokens=False).ids == [index]:
                return spelled.encode(), index
    return None
