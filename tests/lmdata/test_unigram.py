from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.learning.substrings import (
    MAX_LENGTH,
    Words,
    count_best,
    expect_counts,
    find_substrings,
    keep_nodes,
    removal_losses,
)
from lmdata.learning.unigram import cut_words, learn_unigram

counted_words = st.dictionaries(
    st.text("abc", min_size=1, max_size=7), st.integers(1, 5), min_size=1, max_size=11
)


def spelled(trie) -> list[str]:
    names = [""]
    for parent, character in zip(trie.parents[1:], trie.characters[1:], strict=True):
        names.append(names[parent] + "abc"[character])
    return names


def ways(word: str, scores: dict[str, float]):
    """The oracle: every way to spell a word, with its probability."""
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        bounds = [0, *(index + 1 for index, cut in enumerate(cuts) if cut), len(word)]
        parts = [word[start:stop] for start, stop in itertools.pairwise(bounds)]
        if all(part in scores for part in parts):
            yield parts, math.exp(sum(scores[part] for part in parts))


@given(counted_words, st.integers(1, 4))
def test_substrings_and_their_counts_equal_the_oracle(words, min_count) -> None:
    expected: dict[str, int] = {}
    for word, count in words.items():
        for start, stop in itertools.combinations(range(len(word) + 1), 2):
            expected[word[start:stop]] = expected.get(word[start:stop], 0) + count
    trie = find_substrings(cut_words(words, "abc"), min_count)
    found = dict(zip(spelled(trie)[1:], trie.counts[1:].tolist(), strict=True))
    assert found == {s: n for s, n in expected.items() if n >= min_count or len(s) == 1}


def test_substrings_are_not_longer_than_allowed() -> None:
    trie = find_substrings(cut_words({"a" * 40: 1}, "abc"), 1)
    assert trie.lengths.tolist() == list(range(MAX_LENGTH + 1))
    assert trie.counts[-1] == 40 - MAX_LENGTH + 1


@given(counted_words, st.randoms(use_true_random=False))
def test_expected_and_best_counts_equal_the_oracle(words, random) -> None:
    split = cut_words(words, "abc")
    trie = find_substrings(split, 1)
    names = spelled(trie)
    scores = np.array([random.uniform(-9, -1) for _ in names])
    scores[
        [node > 0 and len(names[node]) > 1 and random.random() < 0.4 for node in range(len(names))]
    ] = -math.inf
    scores[0] = -math.inf
    known = {
        name: score for name, score in zip(names, scores.tolist(), strict=True) if score > -math.inf
    }
    expected, best = dict.fromkeys(known, 0.0), dict.fromkeys(known, 0)
    for word, count in words.items():
        all_ways = list(ways(word, known))
        total = sum(probability for _, probability in all_ways)
        for parts, probability in all_ways:
            for part in parts:
                expected[part] += count * probability / total
        for part in max(all_ways, key=lambda way: way[1])[0]:
            best[part] += count
    found = expect_counts(split, trie, scores)
    used = count_best(split, trie, scores)
    for node, name in enumerate(names):
        assert found[node] == pytest.approx(expected.get(name, 0.0), rel=1e-9, abs=1e-12)
        assert used[node] == best.get(name, 0)


def test_a_piece_that_is_better_spelled_by_others_is_of_no_use() -> None:
    split = cut_words({"ab": 3, "bc": 2}, "abc")
    trie = find_substrings(split, 1)
    names = spelled(trie)
    scores = np.full(len(names), -math.inf)
    for name, score in {"a": -1.0, "b": -1.0, "c": -2.0, "ab": -1.5, "bc": -3.5}.items():
        scores[names.index(name)] = score
    used = count_best(split, trie, scores)
    losses = dict(zip(names, removal_losses(trie, scores, used).tolist(), strict=True))
    assert losses["a"] == math.inf
    assert losses["bc"] == -math.inf
    # "ab" is used 3 times of 7; without it "a" and "b" are used 3 and 5 times of 10.
    expected = 3 * (math.log(3 / 7) - math.log(3 / 10) - math.log(5 / 10))
    assert losses["ab"] == pytest.approx(expected)


def test_keeping_nodes_keeps_what_they_begin_with() -> None:
    trie = find_substrings(cut_words({"abc": 1, "ca": 1}, "abc"), 1)
    names = spelled(trie)
    smaller, old = keep_nodes(trie, np.array([name == "abc" for name in names]))
    assert spelled(smaller) == ["", "a", "ab", "abc"]
    assert [names[node] for node in old] == ["", "a", "ab", "abc"]


def test_words_are_cut_at_unknown_characters() -> None:
    split = cut_words({"axb": 2, "xx": 5, "c": 1}, "abc")
    assert split.characters.tolist() == [0, 1, 2]
    assert (split.offsets.tolist(), split.counts.tolist()) == ([0, 1, 2, 3], [2, 2, 1])


def test_frequent_words_become_pieces_and_probabilities_are_sorted() -> None:
    words = {"_the": 90, "_then": 20, "_other": 15, "_he": 30, "_her": 25, "_rent": 5}
    pieces = learn_unigram(words, sorted(set("".join(words))), 12)
    assert len(pieces) == 12
    assert pieces[0][0] == "_the"
    assert {piece for piece, _ in pieces} >= set("_thenor")
    assert [score for _, score in pieces] == sorted((score for _, score in pieces), reverse=True)
    assert sum(math.exp(score) for _, score in pieces) < 1.1


def test_there_are_fewer_pieces_where_the_words_give_no_more() -> None:
    assert [piece for piece, _ in learn_unigram({"ab": 1}, "ab", 50)] == ["a", "b"]
    assert learn_unigram({}, [], 50) == []


def test_the_order_of_words_does_not_matter() -> None:
    words = {f"_w{number % 17}x{number % 5}": number for number in range(1, 200)}
    alphabet = sorted(set("".join(words)))
    backwards = dict(reversed(words.items()))
    assert learn_unigram(words, alphabet, 40) == learn_unigram(backwards, alphabet, 40)


def test_words_may_be_longer_than_any_piece() -> None:
    pieces = learn_unigram({"ab" * 500: 2, "c": 1}, "abc", 10)
    assert all(len(piece) <= MAX_LENGTH for piece, _ in pieces)
    assert isinstance(cut_words({"ab": 1}, "ab"), Words)
