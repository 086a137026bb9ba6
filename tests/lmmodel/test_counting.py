from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmodel.counting.folder import arpa_words
from lmmodel.counting.keys import Lines, lay_out
from lmmodel.counting.smoothing import find_discounts, smooth
from lmmodel.counting.sorting import Level, find_levels
from lmmodel.counting.trie import Trie, fill_distribution, find_state, join_levels, score_lines
from references.kneser_ney import BEGIN, END, KneserNey

GOLDEN = json.loads((Path(__file__).parent / "lmplz.json").read_text(encoding="utf-8"))
QUIRK = "the last n-grams are taken by their raw counts"
NEVER = 13  # the piece that no golden line has

IdLists = list[list[int]]
lines_of_ids = st.lists(st.lists(st.integers(0, 5), max_size=9), min_size=1, max_size=25)


def text_of(lines: IdLists, num_pieces: int) -> Lines:
    ids = np.array([word for line in lines for word in line], np.uint32)
    offsets = np.cumsum([0, *map(len, lines)])
    return Lines(lay_out(ids, offsets, np.ones(len(lines), bool), num_pieces), num_pieces)


def count(lines: IdLists, order: int, num_pieces: int) -> Trie:
    return join_levels(smooth(find_levels(text_of(lines, num_pieces), order))[0])


def grams_of(trie: Trie) -> list[list[tuple[int, ...]]]:
    """Return the n-grams of each order, as ids."""
    found, start = [[(word,) for word in range(trie.sizes[0])]], 0
    for size in trie.sizes[:-1]:
        first = trie.first_child[start : start + size + 1]
        found.append([
            (*gram, int(trie.words[child]))
            for gram, a, b in zip(found[-1], first[:-1], first[1:], strict=True)
            for child in range(a, b)
        ])  # fmt: skip
        start += size
    return found


def score(trie: Trie, line: list[int]) -> list[float]:
    """Return the log-probability of each id of a line, and of its end."""
    ids = np.array([trie.num_pieces + 1, *line, trie.num_pieces])
    return score_lines(trie, ids, np.array([0, len(ids)]))[1:].tolist()


def parse_arpa(text: str) -> dict[tuple[str, ...], tuple[float, float]]:
    """Return the decimal log-probability and back-off of each n-gram."""
    rows = [line.split("\t") for line in text.splitlines() if "\t" in line]
    return {
        tuple(row[1].split(" ")): (float(row[0]), float(row[2]) if len(row) > 2 else 0.0)
        for row in rows
    }


def as_arpa(trie: Trie, words: list[str]) -> dict[tuple[str, ...], tuple[float, float]]:
    flat = [gram for grams in grams_of(trie) for gram in grams]
    backoffs = [*trie.log_backoff.tolist(), *[0.0] * trie.sizes[-1]][: len(flat)]
    values = zip(flat, trie.log_p.tolist(), backoffs, strict=True)
    return {
        tuple(words[word] for word in gram): (p / math.log(10), backoff / math.log(10))
        for gram, p, backoff in values
    }


def largest_difference(case: dict) -> float:
    trie = count(case["lines"], case["order"], case["num_pieces"])
    words = arpa_words([f"w{n}" for n in range(case["num_pieces"])], None)
    ours, theirs = as_arpa(trie, words), parse_arpa(case["arpa"])
    theirs[(f"w{NEVER}",)] = theirs.pop(("<unk>",))
    assert {gram for gram in ours if len(gram) > 1} == {gram for gram in theirs if len(gram) > 1}
    del theirs[("<s>",)]  # its probability is never asked for
    return max(
        abs(a - b) for gram, own in theirs.items() for a, b in zip(own, ours[gram], strict=True)
    )


# ---- Equal to KenLM's lmplz


@pytest.mark.parametrize("case", [case for case in GOLDEN["cases"] if case["name"] != QUIRK],
                         ids=lambda case: case["name"])  # fmt: skip
def test_probabilities_and_back_offs_are_those_of_lmplz(case: dict) -> None:
    assert largest_difference(case) < 1e-6


def test_the_last_n_grams_of_lmplz_are_counted_wrongly_and_ours_by_the_definition() -> None:
    # It closes its counts of counts with raw counts where all others are adjusted ones.
    (case,) = (case for case in GOLDEN["cases"] if case["name"] == QUIRK)
    assert largest_difference(case) > 1e-4
    trie = count(case["lines"], 3, 14)
    oracle = KneserNey(case["lines"], 3, 14)
    for line in case["lines"]:
        assert score(trie, line) == pytest.approx(oracle.score(line), abs=2e-6)


def test_an_order_that_skips_a_discount_differs_from_lmplz() -> None:
    case = GOLDEN["cases"][2]
    broken = {**case, "lines": [*case["lines"], [0, 0, 0]]}
    with pytest.raises(AssertionError):
        assert largest_difference(broken) < 1e-6


# ---- Equal to the definition


@settings(max_examples=60, deadline=None)
@given(lines_of_ids, st.integers(1, 6))
def test_every_line_costs_what_the_definition_says(lines: IdLists, order: int) -> None:
    trie, oracle = count(lines, order, 7), KneserNey(lines, order, 7)
    for line in [*lines, [6, 0, 6, 1], [5, 4, 3, 2, 1, 0]]:
        assert score(trie, line) == pytest.approx(oracle.score(line), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(lines_of_ids, st.integers(1, 5), st.lists(st.integers(0, 6), max_size=6))
def test_the_probabilities_after_any_context_sum_to_one(
    lines: IdLists, order: int, context: list[int]
) -> None:
    trie, oracle = count(lines, order, 7), KneserNey(lines, order, 7)
    ids = np.array([8, *context])
    state, p = np.empty(order - 1, np.int64), np.empty(trie.sizes[0])
    find_state(trie.words, trie.first_child, ids, state)
    unigrams = np.exp(trie.log_p[:9].astype(np.float64))
    fill_distribution(*trie.arrays, unigrams, state, p)
    assert p[:8].sum() == pytest.approx(1, abs=1e-5)
    for word in (0, 6, END):
        own = p[7 if word == END else word]
        assert own == pytest.approx(oracle.p(word, (BEGIN, *context)), rel=1e-4)


# ---- Counting


@settings(max_examples=60, deadline=None)
@given(
    lines_of_ids, st.integers(1, 7), st.sampled_from([7, 60_000, 300_000]),
    st.sampled_from([None, 1, 5]), st.integers(1, 3),
)  # fmt: skip
def test_levels_hold_each_n_gram_once_in_order_with_its_count(
    lines: IdLists, order: int, num_pieces: int, most: int | None, num_threads: int
) -> None:
    levels = find_levels(text_of(lines, num_pieces), order, num_threads, most)
    counts: Counter[tuple[int, ...]] = Counter()
    for line in lines:
        ids = (num_pieces + 1, *line, num_pieces)
        counts.update(ids[a:b] for a in range(len(ids)) for b in range(a + 1, len(ids) + 1))
    assert levels[0].words.tolist() == list(range(num_pieces + 2))
    grams = levels[0].words[:, None]  # (n-grams, n)
    for n, (below, level) in enumerate(pairwise(levels), start=2):
        assert below.first_child[0] == 0
        num_children = np.diff(below.first_child.astype(np.int64))
        grams = np.column_stack([np.repeat(grams, num_children, axis=0), level.words])
        expected = sorted(gram for gram in counts if len(gram) == n)
        assert grams.tolist() == [list(gram) for gram in expected]
        if level is levels[-1]:
            assert level.counts.tolist() == [counts[gram] for gram in expected]


def test_a_key_of_two_words_is_sorted_as_one() -> None:
    generator = np.random.default_rng(0)
    lines = [generator.integers(0, 3, 400).tolist() for _ in range(40)]
    wide, narrow = (find_levels(text_of(lines, n), 6)[1:] for n in (300_000, 60_000))
    for one, other in zip(wide, narrow, strict=True):
        # Ends and begins of lines have other numbers.
        assert (one.words % 300_000).tolist() == (other.words % 60_000).tolist()
        assert one.counts.tolist() == other.counts.tolist()


def test_reversed_lines_are_counted_as_lines() -> None:
    lines = [[0, 1, 2], [], [2, 2]]
    text = text_of(lines, 3).reversed()
    assert text.ids.tolist() == text_of([line[::-1] for line in reversed(lines)], 3).ids.tolist()


# ---- Discounts


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ([2, 2, 3, 4], "no n-gram has count 1"),
        ([1, 3, 4], "no n-gram has count 2"),
        ([1, 2, 4], "no n-gram has count 3"),
        ([1, *[2] * 9, 3, 4], "the discount of count 1 would be"),
    ],
)
def test_counts_that_give_no_discount_fall_back_and_say_why(counts: list[int], why: str) -> None:
    if "would be" in why:
        counts = [1, *[2] * 2, 3, *[4] * 9]
        why = "the discount of count 3 would be -4.2, outside [0, 3]"
    found = find_discounts(np.array(counts, np.uint32), 2)
    assert found.amounts == (0.5, 1.0, 1.5)
    assert found.why_fallback == why


def test_a_trie_that_leads_outside_is_refused() -> None:
    trie = count([[0, 1], [1, 0, 1]], 3, 2)
    trie.check()
    for name, place, value in (("first_child", 1, 99), ("words", 5, 9), ("first_child", 0, 0)):
        array = getattr(trie, name).copy()
        array[place] = value
        broken = Trie(**{**vars(trie), name: array})
        with pytest.raises(ValueError, match="where each n-gram lies"):
            broken.check()
    with pytest.raises(ValueError, match="other lengths"):
        Trie(**{**vars(trie), "log_p": trie.log_p[1:]}).check()


def test_the_highest_order_alone_has_no_children() -> None:
    levels = find_levels(text_of([[0, 1]], 2), 1)
    assert [type(level) for level in levels] == [Level]
    assert levels[0].counts.tolist() == [1, 1, 1, 1]
