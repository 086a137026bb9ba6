"""Slow, obvious oracles: BERT's procedure from the rules of docs/fidelity.md, on plain lists.

A rule asks a `draws` object for every chance it takes. `PlainDraws` answers from Python's
generator, `AddressedDraws` from the addresses that the fast path uses, so that the two can be
compared example by example.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from lmdata.masking import span_length_weights
from lmdata.rng import draw, stream_key
from lmdata.viewing.mask_kernels import MaskRules
from lmdata.word_starts import fixed_rule

Document = list[list[int]]
CLS, SEP, MASK, PAD, UNK = 1, 2, 3, 0, 4
_BLOCK = 64  # words that are drawn at once: they cost what one does
SPECIALS = {"cls": CLS, "sep": SEP, "mask": MASK, "pad": PAD, "unk": UNK, "eos": None, "bos": None}


@dataclass
class PlainDraws:
    """Chances from Python's generator, one after the other, as BERT's script takes them."""

    generator: random.Random

    def at(self, row: int, duplicate: int, ordinal: int) -> None:
        """Forget the address: nothing here depends on it."""

    def is_short(self, probability: float) -> bool:
        return self.generator.random() < probability

    def target(self, longest: int) -> int:
        return self.generator.randint(2, longest)

    def a_end(self, num_sentences: int) -> int:
        return self.generator.randint(1, num_sentences - 1)

    def is_random(self, probability: float) -> bool:
        return self.generator.random() < probability

    def document(self, attempt: int, num_documents: int) -> int:
        return self.generator.randint(0, num_documents - 1)

    def start(self, attempt: int, num_sentences: int) -> int:
        return self.generator.randint(0, num_sentences - 1)

    def drops_front(self, from_b: bool, count: int) -> bool:
        return self.generator.random() < 0.5

    def shuffled(self, count: int, stride: int = 1) -> list[int]:
        order = list(range(count))
        self.generator.shuffle(order)
        return order

    def span_length(self, step: int, corruption: str) -> int:
        weights = span_length_weights(corruption)
        return self.generator.choices(range(1, len(weights) + 1), weights)[0]

    def chance(self, rank: int) -> float:
        return self.generator.random()

    def piece(self, rank: int, count: int) -> int:
        return self.generator.randrange(count)


@dataclass
class AddressedDraws:
    """The same chances from addressed random numbers."""

    seed: int
    epoch: int = 0
    row: int = 0
    duplicate: int = 0
    ordinal: int = 0
    masked: tuple[int, int] | None = None
    drawn: dict[tuple[str, int, int, int], list[int]] = field(default_factory=dict)

    def at(self, row: int, duplicate: int, ordinal: int) -> None:
        self.row, self.duplicate, self.ordinal = row, duplicate, ordinal
        self.drawn.clear()

    def word(self, purpose: str, part: int, position: int, example: int | None = None) -> int:
        example = self.row if example is None else example
        block, place = divmod(position, _BLOCK)
        address = (purpose, example, part, block)
        if address not in self.drawn:
            key = stream_key(self.seed, purpose, self.epoch)
            positions = block * _BLOCK + np.arange(_BLOCK)
            words = draw(key, np.full(_BLOCK, example), positions, np.full(_BLOCK, part))
            self.drawn[address] = words.tolist()
        return self.drawn[address][place]

    def _wide(self, purpose: str, part: int, position: int, bound: int) -> int:
        high, low = (self.word(purpose, part, position + index) for index in (0, 1))
        return ((high % 2**30) * 2**32 + low) % bound

    def is_short(self, probability: float) -> bool:
        return self.word("length", self.duplicate, 0) < probability * 2**32

    def target(self, longest: int) -> int:
        return 2 + self._wide("length", self.duplicate, 1, longest - 1)

    def a_end(self, num_sentences: int) -> int:
        return 1 + self.word("pairs", self.ordinal, 0) * (num_sentences - 1) // 2**32

    def is_random(self, probability: float) -> bool:
        return self.word("pairs", self.ordinal, 1) < probability * 2**32

    def document(self, attempt: int, num_documents: int) -> int:
        return self._wide("pairs", self.ordinal, 4 * attempt, num_documents)

    def start(self, attempt: int, num_sentences: int) -> int:
        return self._wide("pairs", self.ordinal, 4 * attempt + 2, num_sentences)

    def drops_front(self, from_b: bool, count: int) -> bool:
        first = 2**26 if from_b else 0
        return bool(self.word("truncate", self.ordinal, first + count // 32) >> (count % 32) & 1)

    def _mask_word(self, purpose: str, position: int) -> int:
        example, part = self.masked or (self.row, self.ordinal)
        return self.word(purpose, part, position, example)

    def shuffled(self, count: int, stride: int = 1) -> list[int]:
        order = list(range(count))
        for step in range(count):
            word = self._mask_word("mask-positions", step * stride)
            other = step + word * (count - step) // 2**32
            order[step], order[other] = order[other], order[step]
        return order

    def span_length(self, step: int, corruption: str) -> int:
        word = self._mask_word("mask-positions", 2 * step + 1)
        bounds = np.round(np.cumsum(span_length_weights(corruption))[:-1] * 2**32)
        return 1 + int((word >= bounds).sum())

    def chance(self, rank: int) -> float:
        return self._mask_word("mask-replace", 2 * rank) / 2**32

    def piece(self, rank: int, count: int) -> int:
        return self._mask_word("mask-replace", 2 * rank + 1) * count // 2**32


@dataclass
class Pair:
    """One pair before its special tokens."""

    tokens_a: list[int]
    tokens_b: list[int]
    label: int
    document_a: int
    document_b: int
    duplicate: int
    ordinal: int


def flatten(lists: Sequence[list[Any]]) -> list[Any]:
    """Return the items of lists, one after the other."""
    return [item for items in lists for item in items]


def create_pairs(
    documents: Sequence[Document],
    row: int,
    draws: Any,
    *,
    max_seq_length: int,
    short_seq_prob: float = 0.1,
    duplicates: int = 1,
    bert: bool = False,
) -> list[Pair]:
    """Return the pairs of one document over all passes: rules 4 to 13."""
    pairs: list[Pair] = []
    for duplicate in range(duplicates):
        draws.at(row, duplicate, len(pairs))
        target = max_seq_length - 3
        if draws.is_short(short_seq_prob):
            target = draws.target(max_seq_length - 3)
        chunk: list[list[int]] = []
        i = 0
        while i < len(documents[row]):
            chunk.append(documents[row][i])
            if i == len(documents[row]) - 1 or sum(map(len, chunk)) >= target:
                draws.at(row, duplicate, len(pairs))
                pair, num_unused = _pair_of_chunk(chunk, documents, row, target, draws, bert)
                truncate(pair.tokens_a, pair.tokens_b, max_seq_length - 3, draws)
                pair.duplicate, pair.ordinal = duplicate, len(pairs)
                pairs.append(pair)
                i -= num_unused
                chunk = []
            i += 1
    return pairs


def _pair_of_chunk(
    chunk: list[list[int]],
    documents: Sequence[Document],
    row: int,
    target: int,
    draws: Any,
    bert: bool,
) -> tuple[Pair, int]:
    a_end = draws.a_end(len(chunk)) if len(chunk) >= 2 else 1
    tokens_a = flatten(chunk[:a_end])
    if len(chunk) == 1 or draws.is_random(0.5):
        other, attempt = _other_document(documents, row, draws, bert)
        start = draws.start(attempt, len(documents[other]))
        tokens_b: list[int] = []
        for sentence in documents[other][start:]:
            tokens_b.extend(sentence)
            if len(tokens_b) >= target - len(tokens_a):
                break
        return Pair(tokens_a, tokens_b, 1, row, other, 0, 0), len(chunk) - a_end
    return Pair(tokens_a, flatten(chunk[a_end:]), 0, row, row, 0, 0), 0


def _other_document(
    documents: Sequence[Document], row: int, draws: Any, bert: bool
) -> tuple[int, int]:
    attempt = 0
    while True:
        attempt += 1
        other = draws.document(attempt, len(documents))
        if documents[other] and (other != row or (bert and attempt >= 10)):
            return other, attempt


def truncate(tokens_a: list[int], tokens_b: list[int], longest: int, draws: Any) -> None:
    """Drop one token at a time from the longer segment, in place: rule 13."""
    dropped = {False: 0, True: 0}
    while len(tokens_a) + len(tokens_b) > longest:
        from_b = len(tokens_b) >= len(tokens_a)
        tokens = tokens_b if from_b else tokens_a
        if draws.drops_front(from_b, dropped[from_b]):
            del tokens[0]
        else:
            tokens.pop()
        dropped[from_b] += 1


def num_to_mask(length: int, rate: float, most: int) -> int:
    """Return k of rule 16, with Python's rounding of halves to even."""
    return min(most, max(1, round(length * rate)))


def choose_tokens(tokens: list[int], can_mask: set[int], k: int, draws: Any) -> list[int]:
    """Return the positions to mask: the first k candidates of a shuffle (rules 15, 17)."""
    candidates = [i for i, token in enumerate(tokens) if token in can_mask]
    return sorted(candidates[i] for i in draws.shuffled(len(candidates))[:k])


def group_words(
    tokens: list[int], can_mask: set[int], continues: set[int], bert: bool
) -> list[list[int]]:
    """Return the positions of each word (rule 19)."""
    words: list[list[int]] = []
    for i, token in enumerate(tokens):
        if token not in can_mask:
            continue
        if words and token in continues and (bert or words[-1][-1] == i - 1):
            words[-1].append(i)
        else:
            words.append([i])
    return words


def choose_words(
    words: list[list[int]], k: int, draws: Any, corruption: str = "whole-word"
) -> list[list[int]]:
    """Return spans of positions, sorted: words in a random order, those that fit in k."""
    spans: list[tuple[int, list[int]]] = []
    taken: set[int] = set()
    num_masked = 0
    order = draws.shuffled(len(words), 1 if corruption == "whole-word" else 2)
    for step, first in enumerate(order):
        if num_masked >= k:
            break
        length = 1 if corruption == "whole-word" else draws.span_length(step, corruption)
        span: list[int] = []
        for word in range(first, min(first + length, len(words))):
            is_apart = span and words[word][0] != span[-1] + 1
            if word in taken or is_apart or num_masked + len(words[word]) > k:
                break
            taken.add(word)
            span.extend(words[word])
            num_masked += len(words[word])
        if span:
            spans.append((first, span))
    return [span for _, span in sorted(spans)]


def replace_tokens(
    tokens: list[int],
    spans: list[list[int]],
    random_pieces: list[int],
    draws: Any,
    *,
    one_decision_a_span: bool = False,
    mask: float = 0.8,
    random_share: float = 0.1,
) -> tuple[list[int], list[int], list[int]]:
    """Return (corrupted tokens, positions, labels): rule 18."""
    tokens = list(tokens)
    positions: list[int] = []
    labels: list[int] = []
    for span in spans:
        first_rank = len(positions)
        for position in span:
            rank = len(positions)
            positions.append(position)
            labels.append(tokens[position])
            chance = draws.chance(first_rank if one_decision_a_span else rank)
            if chance < mask:
                tokens[position] = MASK
            elif chance < mask + random_share:
                tokens[position] = random_pieces[draws.piece(rank, len(random_pieces))]
    return tokens, positions, labels


def make_tokenizer(vocab_size: int, continues: set[int] | None = None) -> SimpleNamespace:
    """Return a stand-in for `lmdata.tokenizer.Tokenizer`: ids 0 to 4 are special."""
    is_special = np.arange(vocab_size) <= UNK
    goes_on = np.isin(np.arange(vocab_size), sorted(continues or ()))
    return SimpleNamespace(
        vocab_size=vocab_size,
        special_ids=SPECIALS,
        is_special=is_special,
        is_piece=np.ones(vocab_size, bool),
        word_rule=fixed_rule(goes_on, is_special),
    )


def make_store(
    documents: Sequence[Document],
    *,
    tokenizer: Any = None,
    num_blocks: int = 1,
    dtype: Any = np.uint16,
    offset_dtype: Any = np.int32,
) -> SimpleNamespace:
    """Return documents as a token store of `num_blocks` record batches, in memory."""
    bounds = np.linspace(0, len(documents), num_blocks + 1).astype(int)
    blocks = [
        _make_block(documents[first:last], int(first), dtype, offset_dtype)
        for first, last in itertools.pairwise(bounds)
    ]
    tokenizer = tokenizer or make_tokenizer(1000)
    return SimpleNamespace(blocks=tuple(blocks), tokenizer=tokenizer, num_documents=len(documents))


def _make_block(
    documents: Sequence[Document], first_row: int, dtype: Any, offset_dtype: Any
) -> SimpleNamespace:
    lengths = [len(sentence) for document in documents for sentence in document]
    num_tokens = [sum(map(len, document)) for document in documents]
    ids = [token for document in documents for sentence in document for token in sentence]
    # A leading stranger, so that the offsets of a block need not begin at zero.
    return SimpleNamespace(
        first_row=first_row,
        ids=np.array([77, *ids], dtype),
        unchecked_ids=np.array([77, *ids], dtype),
        id_offsets=np.cumsum([1, *num_tokens], dtype=np.int64),
        sentence_lengths=np.array([99, *lengths], np.uint32),
        sentence_offsets=np.cumsum([1, *map(len, documents)], dtype=offset_dtype),
    )


def make_documents(
    seed: int,
    num_documents: int,
    *,
    most_sentences: int = 13,
    most_tokens: int = 31,
    vocab_size: int = 1000,
) -> list[Document]:
    """Return random documents of ordinary pieces."""
    generator = random.Random(seed)
    return [
        [
            [
                generator.randrange(UNK + 1, vocab_size)
                for _ in range(generator.randint(1, most_tokens))
            ]
            for _ in range(generator.randint(1, most_sentences))
        ]
        for _ in range(num_documents)
    ]  # fmt: skip


def mask_each(
    ids: Any,
    examples: Any,
    parts: Any,
    positions: Any,
    starts: Any,
    rules: MaskRules,
    is_candidate: Any,
    random_pieces: Any,
) -> tuple[Any, Any]:
    """Return corrupted ids and what was masked: `mask_tokens` with a Bernoulli count, as arrays.

    Only operators are used, so this is the same computation for NumPy arrays and for torch tensors
    on any device, and the readable form of the kernel.

    Args:
        ids: int64 array or tensor (T,)
        examples: int64 (T,), address of each token's example
        parts: int64 (T,), the rest of the address
        positions: int64 (T,), within the example
        starts: int64 (T,), where in `ids` each token's example begins
        rules: from `mask_rules`
        is_candidate: `rules.is_candidate`, on the device of `ids`
        random_pieces: `rules.random_pieces` as int64, on the device of `ids`

    Returns:
        Corrupted ids int64 (T,), and bool (T,), true where `ids` holds the label.
    """
    is_masked = (draw(rules.position_key, examples, positions, parts) < rules.rate_word) & (
        is_candidate[ids]
    )
    before = is_masked.cumsum(0) - is_masked * 1
    rank = before - before[starts]
    word = draw(rules.replace_key, examples, 2 * rank, parts)
    piece_word = draw(rules.replace_key, examples, 2 * rank + 1, parts)
    piece = random_pieces[(piece_word * len(random_pieces)) >> 32]
    to_mask = is_masked & (word < rules.mask_word)
    to_random = is_masked & (word >= rules.mask_word) & (word < rules.random_word)
    kept = ids * ~(to_mask | to_random)
    return kept + rules.mask_id * to_mask + piece * to_random, is_masked
