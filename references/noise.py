"""The noise of T5 and BART, slow and obvious: what `lmdata.denoising` is compared with.

T5 follows google-research/text-to-text-transfer-transformer (`random_spans_noise_mask`,
`noise_span_to_unique_sentinel`, `nonnoise_span_to_unique_sentinel`): a mask of booleans first, then
two functions of it. BART follows section 2.2 of its paper. Random words are those of the addresses;
all else is written another way than in the kernels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lmdata.rng import draw, stream_key


@dataclass(frozen=True)
class Words:
    """The random words of one segment for one purpose."""

    seed: int
    purpose: str
    epoch: int
    document: int
    place: int
    duplicate: int = 0

    def below(self, position: int, bound: int) -> int:
        """Return the whole number in [0, bound) at a position."""
        return self.word(position) * bound >> 32

    def word(self, position: int) -> int:
        """Return the word at a position."""
        key = stream_key(self.seed, self.purpose, self.epoch)
        at = np.array([(self.duplicate << 18) + position])
        return int(draw(key, np.array([self.document]), at, np.array([self.place]))[0])


def random_segmentation(
    num_items: int, num_segments: int, below: Callable[[int], int]
) -> list[int]:
    """Return the lengths of segments, each at least 1; `below(k)` is uniform in [0, k).

    Which items begin a segment is a uniform subset: item by item, each is taken with the share of
    those that are still to be taken among those still to come.
    """
    first_in_segment = [True]
    for item in range(1, num_items):
        still = num_segments - sum(first_in_segment)
        first_in_segment.append(below(num_items - item) < still)
    segment_of = np.cumsum(first_in_segment)
    return np.bincount(segment_of)[1:].tolist()


def count_spans(length: int, rate: float, mean_length: float) -> tuple[int, int]:
    """Return how many tokens are noise, and in how many spans."""
    if length < 2:
        return 0, 0
    num_noise = min(max(round(length * rate), 1), length - 1)  # Python rounds half to even too
    num_spans = max(round(num_noise / mean_length), 1)
    return num_noise, min(num_spans, num_noise, length - num_noise)


def noise_mask(length: int, rate: float, mean_length: float, words: Words) -> list[bool]:
    """Return which tokens of a text are noise."""
    num_noise, num_spans = count_spans(length, rate, mean_length)
    if num_spans == 0:
        return [False] * length
    counter = itertools.count()
    kept = random_segmentation(
        length - num_noise, num_spans, lambda k: words.below(next(counter), k)
    )
    noise = random_segmentation(num_noise, num_spans, lambda k: words.below(next(counter) + 1, k))
    mask: list[bool] = []
    for num_kept, num_lost in zip(kept, noise, strict=True):
        mask += [False] * num_kept + [True] * num_lost
    return mask


def spans_to_sentinels(
    tokens: Sequence[int], mask: Sequence[bool], sentinels: Sequence[int]
) -> list[int]:
    """Return tokens with each run of masked ones as one sentinel."""
    unused = iter(sentinels)
    found = []
    for index, (token, is_noise) in enumerate(zip(tokens, mask, strict=True)):
        if not is_noise:
            found.append(token)
        elif index == 0 or not mask[index - 1]:
            found.append(next(unused))
    return found


def t5(tokens: Sequence[int], sentinels: Sequence[int], start: int, end: int, words: Words,
       rate: float = 0.15, mean_length: float = 3.0) -> tuple[list[int], list[int]]:  # fmt: skip
    """Return the source and the target of a text."""
    mask = noise_mask(len(tokens), rate, mean_length, words)
    source = spans_to_sentinels(tokens, mask, sentinels)
    target: list[int] = []
    unused = iter(sentinels)
    for index, (token, is_noise) in enumerate(zip(tokens, mask, strict=True)):
        if is_noise:
            begins = index == 0 or not mask[index - 1]
            target += [next(unused), token] if begins else [token]
    return [*source, end], [start, *target, end]


def poisson(word: int, mean: float) -> int:
    """Return the count whose cumulated probability is the first above a word's share."""
    share, count, total = word / 2**32, 0, math.exp(-mean)
    probability = total
    while share >= total:
        count += 1
        probability *= mean / count
        total += probability
    return count


def shuffled(items: Sequence, words: Words, first: int = 0) -> list:
    """Return items in another order, by Fisher and Yates."""
    left, found = list(items), []
    for step in range(len(items)):
        other = words.below(first + step, len(left))
        left[0], left[other] = left[other], left[0]
        found.append(left.pop(0))
    return found


def span_lengths(budget: int, mean: float, words: Words, *, inserts: bool = True) -> list[int]:
    """Return lengths of spans that sum to a budget, none more than the budget has words."""
    lengths: list[int] = []
    for step in range(budget):
        length = poisson(words.word(step), mean)
        if length or inserts:
            lengths.append(min(length, budget - sum(lengths)))
        if sum(lengths) == budget:
            return lengths
    lengths = lengths or [0] * bool(budget)
    lengths[-1:] = [last + budget - sum(lengths) for last in lengths[-1:]]
    return lengths


def bart(
    sentences: Sequence[Sequence[int]], mask: int, frame: tuple[int, int], spans: Words,
    orders: Words, *, rate: float = 0.3, mean: float = 3.0,
    find_units: Callable[[list[int]], list[list[int]]] = lambda ids: [[i] for i in ids],
    permutes: bool = True, inserts: bool = True,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """Return the source and the target of a text of sentences.

    Args:
        sentences: of ids
        mask: of the mask
        frame: special tokens before and after a text; the target also begins with the last
        spans: random words
        orders: of the sentences
        rate: share of the words
        mean: words of a span
        find_units: ids to the words that they are, each with its ids
        permutes: whether sentences come in another order
        inserts: whether spans of no word count
    """
    plain = [token for sentence in sentences for token in sentence]
    order = shuffled(sentences, orders) if permutes else sentences
    units = find_units([token for sentence in order for token in sentence])
    budget = math.ceil(len(units) * rate - 1e-9)
    lengths = shuffled(span_lengths(budget, mean, spans, inserts=inserts), spans, budget)
    num_slots, unused, at = len(units) - budget + len(lengths), list(lengths), 0
    source: list[int] = []
    for slot in range(num_slots):
        if spans.below(2 * budget + slot, num_slots - slot) < len(unused):
            source.append(mask)
            at += unused.pop(0)
        else:
            source += units[at]
            at += 1
    return [frame[0], *source, frame[1]], [frame[1], frame[0], *plain, frame[1]]
