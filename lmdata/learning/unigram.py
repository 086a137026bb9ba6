"""Learn the pieces of a Unigram tokenizer and their probabilities.

The method is that of Kudo, "Subword Regularization" (ACL 2018), section 3.2, as SentencePiece does
it: begin with many frequent substrings, estimate their probabilities by expectation maximisation,
take away those whose loss matters least, and repeat. Words are sorted first and sums are made in
one order, so the result is the same to the last bit whatever the order of the documents.
(`tokenizers`' own trainer adds up in the order of a randomly seeded hash table: its scores differ
from run to run.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lmdata.learning.substrings import (
    Substrings,
    Words,
    count_best,
    expect_counts,
    find_substrings,
    keep_nodes,
    removal_losses,
)

Bools = npt.NDArray[np.bool_]
Float64s = npt.NDArray[np.float64]

# SentencePiece's settings, but for the number of seeds, which is 1,000,000 there.
_SEEDS_PER_PIECE = 10
_NUM_STEPS = 2  # of expectation maximisation between two cuts
_SHRINKING = 0.75  # part of the pieces that a cut keeps
_MARGIN = 1.1  # cuts end at that many times the wanted pieces
_MIN_EXPECTED = 0.5  # pieces that are expected to be used less often than that are taken away


def learn_unigram(
    words: dict[str, int], alphabet: Sequence[str], num_pieces: int
) -> list[tuple[str, float]]:
    """Return pieces with their log probabilities, the most likely first.

    Args:
        words: how often each word occurs
        alphabet: the characters that become pieces in any case; words are cut at any others
        num_pieces: how many pieces to make, at least as many as the alphabet has; there are fewer
            if the words do not give so many

    Example:
        >>> pieces = learn_unigram({"_low": 9, "_lower": 3, "_new": 5}, sorted("_ewlorn"), 9)
        >>> [piece for piece, _ in pieces][:2]
        ['_low', '_new']
    """
    if not alphabet:
        return []
    split = cut_words(words, alphabet)
    trie, scores = _seeds(split, num_pieces)
    while True:
        for _ in range(_NUM_STEPS):
            trie, scores = _improve(split, trie, scores)
        if np.isfinite(scores).sum() <= _MARGIN * num_pieces:
            break
        trie, scores = _shrink(split, trie, scores, num_pieces)
    ranking = np.where(trie.lengths == 1, math.inf, scores)
    trie, scores = _keep(trie, scores, _largest(ranking, num_pieces))
    spelled = zip(_spellings(trie, alphabet), scores.tolist(), strict=True)
    pieces = [(piece, round(score, 6)) for piece, score in spelled if score > -math.inf]
    return sorted(pieces, key=lambda piece: (-piece[1], piece[0]))


def cut_words(words: dict[str, int], alphabet: Sequence[str]) -> Words:
    """Return words as numbers of characters, cut at characters outside the alphabet, sorted.

    Example:
        >>> cut_words({"ba": 2, "axb": 1}, ["a", "b"]).characters.tolist()  # a, b, ba
        [0, 1, 1, 0]
    """
    texts = sorted(words)
    number_of = np.full(0x110000, -1, np.int32)
    number_of[[ord(character) for character in alphabet]] = np.arange(len(alphabet))
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    numbers = number_of[codes]
    word_of = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    is_known = numbers >= 0
    is_first = np.ones(len(numbers), np.bool_)
    is_first[1:] = (word_of[1:] != word_of[:-1]) | ~is_known[:-1]
    starts = np.flatnonzero(is_first[is_known])
    offsets = np.append(starts, is_known.sum()).astype(np.int64)
    counts = np.array([words[text] for text in texts], np.int64)
    return Words(numbers[is_known], offsets, counts[word_of[is_known][starts]])


def _seeds(words: Words, num_pieces: int) -> tuple[Substrings, Float64s]:
    """Return the substrings to begin with and their log probabilities.

    A substring that always goes on with the same character is left out, as in SentencePiece.
    """
    trie = find_substrings(words, min_count=2)
    most_frequent_child = np.zeros(len(trie.counts), np.int64)
    np.maximum.at(most_frequent_child, trie.parents[1:], trie.counts[1:])
    weight = (trie.counts * trie.lengths).astype(np.float64)
    weight[(most_frequent_child == trie.counts) & (trie.lengths > 1)] = -math.inf
    weight[trie.lengths == 1] = math.inf
    weight[0] = -math.inf
    is_seed = _largest(weight, _SEEDS_PER_PIECE * num_pieces)
    frequency = np.where(is_seed, trie.counts * trie.lengths, 0).astype(np.float64)
    with np.errstate(divide="ignore"):
        scores = np.log(frequency / frequency.sum())
    return _keep(trie, scores, is_seed)


def _largest(values: Float64s, number: int) -> Bools:
    """Return which values are the largest `number` above -inf; of equal ones the first."""
    chosen = np.zeros(len(values), np.bool_)
    chosen[np.argsort(-values, kind="stable")[:number]] = True
    return chosen & (values > -math.inf)


def _keep(trie: Substrings, scores: Float64s, is_kept: Bools) -> tuple[Substrings, Float64s]:
    smaller, old = keep_nodes(trie, is_kept)
    return smaller, np.where(is_kept, scores, -math.inf)[old]


def _improve(words: Words, trie: Substrings, scores: Float64s) -> tuple[Substrings, Float64s]:
    """Return pieces and log probabilities after one step of expectation maximisation."""
    expected = expect_counts(words, trie, scores)
    is_character = trie.lengths == 1
    expected[is_character] = np.maximum(expected[is_character], _MIN_EXPECTED)
    is_kept = expected >= _MIN_EXPECTED
    # Bayesian: digamma in place of log makes rare pieces rarer (SentencePiece's M step).
    total = _digamma(np.array([expected[is_kept].sum()]))[0]
    improved = np.full(len(scores), -math.inf)
    improved[is_kept] = _digamma(expected[is_kept]) - total
    return _keep(trie, improved, is_kept)


def _shrink(
    words: Words, trie: Substrings, scores: Float64s, num_pieces: int
) -> tuple[Substrings, Float64s]:
    """Return the pieces without those that matter least."""
    losses = removal_losses(trie, scores, count_best(words, trie, scores))
    size = int(np.isfinite(scores).sum())
    number = max(int(_MARGIN * num_pieces), int(_SHRINKING * size))
    return _keep(trie, scores, _largest(losses, number))


def _spellings(trie: Substrings, alphabet: Sequence[str]) -> list[str]:
    """Return the substring of each node."""
    spellings = [""]
    for parent, character in zip(trie.parents[1:], trie.characters[1:], strict=True):
        spellings.append(spellings[parent] + alphabet[character])
    return spellings


def _digamma(values: Float64s) -> Float64s:
    """Return the logarithmic derivative of the gamma function for values > 0.

    Abramowitz and Stegun, 6.3.5 and 6.3.18: shifted up to where the asymptotic series holds.

    Example:
        >>> _digamma(np.array([1.0, 10.0])).round(9).tolist()
        [-0.577215665, 2.251752589]
    """
    shifted, result = values.astype(np.float64), np.zeros(len(values))
    for _ in range(8):
        result -= np.where(shifted < 8, 1 / shifted, 0)
        shifted = np.where(shifted < 8, shifted + 1, shifted)
    square = 1 / shifted**2
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
    return np.asarray(result + np.log(shifted) - 1 / (2 * shifted) - series)
