from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.learning.merges import learn_merges

Word = tuple[int, ...]


def learn(words: dict[Word, int], num_symbols: int, max_new: int, min_frequency: int):
    symbols = np.array([symbol for word in words for symbol in word], np.int32)
    offsets = np.cumsum([0, *map(len, words)]).astype(np.int64)
    counts = np.array(list(words.values()), np.int64)
    pairs, pieces = learn_merges(symbols, offsets, counts, num_symbols, max_new, min_frequency)
    return [tuple(pair) for pair in pairs.tolist()], pieces.tolist()


def slow_merges(words: dict[Word, int], num_symbols: int, max_new: int, min_frequency: int):
    """The oracle: count every pair anew before each merge."""
    spelled = {(symbol,): symbol for symbol in range(num_symbols)}
    split = {word: [(symbol,) for symbol in word] for word in words}
    pairs, pieces = [], []
    while len(spelled) < num_symbols + max_new:
        counts: Counter = Counter()
        for word, parts in split.items():
            for left, right in itertools.pairwise(parts):
                counts[spelled[left], spelled[right], left, right] += words[word]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair[0], pair[1]))
        if counts[best] < min_frequency:
            break
        left, right = best[2:]
        pairs.append(best[:2])
        pieces.append(spelled.setdefault(left + right, len(spelled)))
        split = {word: joined(parts, left, right) for word, parts in split.items()}
    return pairs, pieces


def joined(parts: list[Word], left: Word, right: Word) -> list[Word]:
    result, index = [], 0
    while index < len(parts):
        if parts[index : index + 2] == [left, right]:
            result.append(left + right)
            index += 2
        else:
            result.append(parts[index])
            index += 1
    return result


def test_the_most_frequent_pair_is_joined_first() -> None:
    assert learn({(0, 1, 2): 5, (1, 2): 1, (0, 1): 3}, 3, 7, 1) == (
        [(0, 1), (3, 2), (1, 2)],
        [3, 4, 5],
    )


def test_ties_go_to_the_smaller_ids() -> None:
    assert learn({(2, 1): 4, (0, 3): 4, (0, 2): 4}, 5, 2, 1) == ([(0, 2), (0, 3)], [5, 6])


def test_overlapping_pairs_are_joined_from_the_left() -> None:
    pairs, pieces = learn({(0,) * 7: 3}, 1, 9, 1)  # aaaaaaa -> AA AA AA a -> AAAA AA a
    assert (pairs, pieces) == ([(0, 0), (1, 1), (1, 0), (2, 3)], [1, 2, 3, 4])


def test_the_same_spelling_by_other_merges_is_the_same_piece() -> None:
    words = {(0, 1, 2): 9, (0, 1): 50, (3, 1, 2): 40, (1, 2): 45}
    words |= {(0, 1, 2, 4): 6, (4, 0, 1, 2): 5}
    pairs, pieces = learn(words, 5, 20, 1)
    assert (pairs, pieces) == slow_merges(words, 5, 20, 1)
    spellings = {piece: (piece,) for piece in range(5)}
    for (left, right), piece in zip(pairs, pieces, strict=True):
        spelling = spellings[left] + spellings[right]
        assert spellings.setdefault(piece, spelling) == spelling
    assert len(set(spellings.values())) == len(spellings)


def test_merging_stops_at_the_wanted_number_and_at_rare_pairs() -> None:
    words = {(0, 1, 2, 3): 5, (4, 5): 4, (6, 7): 1}
    assert len(learn(words, 8, 3, 1)[0]) == 3
    assert learn(words, 8, 99, 2)[1] == [8, 9, 10, 11]
    assert learn(words, 8, 0, 1) == ([], [])


def test_no_words_give_no_merges() -> None:
    assert learn({}, 3, 5, 1) == ([], [])
    assert learn({(2,): 7}, 3, 5, 1) == ([], [])


@given(
    st.dictionaries(
        st.lists(st.integers(0, 3), max_size=11).map(tuple), st.integers(0, 5), max_size=13
    ),
    st.integers(0, 17),
    st.integers(1, 4),
)
def test_merges_equal_the_oracle(words: dict[Word, int], max_new: int, min_frequency: int) -> None:
    assert learn(words, 4, max_new, min_frequency) == slow_merges(words, 4, max_new, min_frequency)


def test_a_long_text_equals_the_oracle_and_needs_room_to_grow() -> None:
    generator = np.random.default_rng(5)
    words = {
        tuple(generator.integers(0, 211, generator.integers(1, 97)).tolist()): int(count)
        for count in generator.integers(1, 7, 401)
    }
    assert learn(words, 211, 23, 2) == slow_merges(words, 211, 23, 2)
    assert len(learn(words, 211, 20_000, 1)[0]) > 10_000  # more pairs than the first table holds


def test_the_order_of_words_does_not_matter() -> None:
    generator = np.random.default_rng(3)
    words = {
        tuple(generator.integers(0, 7, generator.integers(1, 13)).tolist()): int(count)
        for count in generator.integers(1, 101, 307)
    }
    expected = learn(words, 7, 211, 2)
    for _ in range(3):
        shuffled = sorted(words, key=lambda _: generator.random())
        assert learn({word: words[word] for word in shuffled}, 7, 211, 2) == expected


@pytest.mark.parametrize(
    ("offsets", "max_new", "min_frequency", "message"),
    [
        ([0, 3], 5, 0, "min_frequency must be at least 1"),
        ([0, 3], -1, 1, "max_new_pieces at least 0, got 1 and -1"),
        ([0, 2], 5, 1, r"1 words need 2 offsets that end at 3, got 2 that end at 2"),
        ([0, 1, 3], 5, 1, "got 3 that end at 3"),
    ],
)
def test_wrong_arguments_are_named(offsets, max_new, min_frequency, message) -> None:
    symbols, counts = np.zeros(3, np.int32), np.ones(1, np.int64)
    with pytest.raises(ValueError, match=message):
        learn_merges(symbols, np.array(offsets), counts, 1, max_new, min_frequency)
