"""Interpolated modified Kneser-Ney, slowly, from the definition: dictionaries and no array.

Chen and Goodman (1998), section 3, with the discounts of Heafield et al. (ACL 2013) where lines
begin. Logarithms are natural.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

BEGIN, END = "<s>", "</s>"
FALLBACK = (0.5, 1.0, 1.5)

Gram = tuple[int | str, ...]


class KneserNey:
    """An n-gram model of lines; `num_words` are the pieces that there may be."""

    def __init__(self, lines: Iterable[Sequence[int]], order: int, num_words: int) -> None:
        self.order = order
        self.uniform = 1 / (num_words + 1)  # the end of a line is one more
        counts = _count(lines, order)
        self.counts = [*map(_adjust, counts, counts[1:]), counts[-1]]
        self.counts[0].pop((BEGIN,))
        self.discounts = [find_discounts(counts.values()) for counts in self.counts]
        self.followers = [_by_context(counts) for counts in self.counts]

    def p(self, word: int | str, context: Gram) -> float:
        """Return the probability of a word after a context of any length."""
        context = context[max(0, len(context) - self.order + 1) :]
        if context and context not in self.followers[len(context)]:
            return self.p(word, context[1:])
        lower = self.p(word, context[1:]) if context else self.uniform
        own = self.followers[len(context)][context]
        amounts = (0.0, *self.discounts[len(context)])
        total = sum(own.values())
        left = sum(amounts[min(count, 3)] for count in own.values()) / total
        count = own.get(word, 0)
        return (count - amounts[min(count, 3)]) / total + left * lower

    def backoff(self, context: Gram) -> float:
        """Return what a context leaves to shorter ones; 1 where nothing follows it."""
        own = self.followers[len(context)].get(context) if len(context) < self.order else None
        if own is None:
            return 1.0
        amounts = (0.0, *self.discounts[len(context)])
        return sum(amounts[min(count, 3)] for count in own.values()) / sum(own.values())

    def score(self, line: Sequence[int]) -> list[float]:
        """Return the log-probability of each word of a line, and of its end."""
        words: Gram = (BEGIN, *line, END)
        return [math.log(self.p(words[n], words[:n])) for n in range(1, len(words))]


def _count(lines: Iterable[Sequence[int]], order: int) -> list[Counter[Gram]]:
    """Return how often each n-gram of each order occurs."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for line in lines:
        words: Gram = (BEGIN, *line, END)
        for n in range(1, order + 1):
            for start in range(len(words) - n + 1):
                counts[n - 1][words[start : start + n]] += 1
    return counts


def _adjust(counts: Counter[Gram], longer: Counter[Gram]) -> Counter[Gram]:
    """Return how many words stand before each n-gram; of what begins a line, its count."""
    before = Counter(gram[1:] for gram in longer)
    return Counter({gram: counts[gram] if gram[0] == BEGIN else before[gram] for gram in counts})


def _by_context(counts: Counter[Gram]) -> dict[Gram, dict[int | str, int]]:
    followers: dict[Gram, dict[int | str, int]] = defaultdict(dict)
    for gram, count in counts.items():
        followers[gram[:-1]][gram[-1]] = count
    return followers


def find_discounts(counts: Iterable[int]) -> tuple[float, float, float]:
    """Return what is taken from counts of 1, 2 and 3 or more."""
    n = Counter(counts)
    if not (n[1] and n[2] and n[3]):
        return FALLBACK
    share = n[1] / (n[1] + 2 * n[2])
    amounts = tuple(k - (k + 1) * share * n[k + 1] / n[k] for k in (1, 2, 3))
    in_range = all(0 <= amount <= k for k, amount in enumerate(amounts, start=1))
    return amounts if in_range else FALLBACK
