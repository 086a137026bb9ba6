"""Signatures against their definition, and near duplicates against a count of all pairs."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.ragged import offsets_of
from lmdata.tagging.near import (
    MOST_COMPARED,
    WIDE_JACCARD,
    Neighbours,
    find_groups,
    find_neighbours,
    find_originals,
    rank_documents,
)
from lmdata.tagging.numbers import number_words
from lmdata.tagging.signatures import (
    NUM_BANDS,
    NUM_VALUES,
    Signatures,
    _key_bands,
    _take_least,
    permutations,
    sign,
)
from references.minhash import band_keys, shingles_of

GOLDEN = {
    "The quick brown fox jumps over 12 lazy dogs; don't!": (0x5E187CBDEF1F1A09, 0x7B32C5584EF0960B),
    "Ünïcode ÀÉ ΣΑΣ 漢字 İstanbul’s x_y ٣٤ and more": (0x3ED371118FA192B9, 0x1EB9E81541D6F3F7),
}
THRESHOLD = 0.8


def sign_texts(texts: list[str]) -> Signatures:
    parts = [text.encode() for text in texts]
    text, offsets = np.frombuffer(b"".join(parts), np.uint8), offsets_of([*map(len, parts)])
    return sign(number_words(text, offsets))


def test_first_keys_are_those_of_the_frozen_definition() -> None:
    found = sign_texts(list(GOLDEN)).keys
    assert [tuple(keys[:2].tolist()) for keys in found] == list(GOLDEN.values())


@given(st.lists(st.text(st.sampled_from("aB ,'1٣éİΣ漢_\n"), max_size=80), min_size=1, max_size=4))
def test_signatures_are_those_of_plain_python(texts: list[str]) -> None:
    signed = sign_texts(texts)
    for row, text in enumerate(texts):
        assert signed.keys[row].tolist() == band_keys(text)
        own = signed.shingles[signed.rows[row] : signed.rows[row + 1]]
        assert own.tolist() == shingles_of(text)


@pytest.mark.parametrize("similarity", [0.3, 0.5, 0.7, 0.8, 0.9])
def test_pairs_become_candidates_as_often_as_the_bands_say(similarity: float) -> None:
    choose, num_pairs, size = np.random.default_rng(11), 1000, 200
    common = round(2 * size * similarity / (1 + similarity))  # J = c / (2 size - c)
    exact = common / (2 * size - common)
    found = 0
    for _ in range(num_pairs):
        drawn = choose.integers(0, 1 << 64, 2 * size - common, np.uint64)
        one, other = drawn[:size], np.concatenate([drawn[:common], drawn[size:]])
        found += bool((key_bands(one) == key_bands(other)).any())
    expected = 1 - (1 - exact**8) ** 14
    bound = 3.3 * np.sqrt(num_pairs * expected * (1 - expected)) + 1  # of 99.9 %
    assert abs(found - num_pairs * expected) <= bound


def key_bands(shingles: np.ndarray) -> np.ndarray:
    keys, values = np.zeros(NUM_BANDS, np.uint64), np.full(NUM_VALUES, np.uint64(2**64 - 1))
    _take_least(shingles, *permutations(), values)
    _key_bands(values, keys)
    return keys


def make_corpus(seed: int) -> list[str]:
    """Return texts, copies of them with edits, truncations, and templates with other words."""
    choose = random.Random(seed)
    words = ["".join(choose.choices("abcdefgh", k=7)) for _ in range(3000)]  # digits are all 0
    texts = [choose.choices(words, k=choose.randint(20, 200)) for _ in range(60)]
    for share in (0.005, 0.01, 0.02, 0.05, 0.2, 0.4):
        texts += [
            [choose.choice(words) if choose.random() < share else word for word in text]
            for text in texts[:40]
        ]
    texts += [text[: len(text) * 9 // 10] for text in texts[:20]]
    frame = choose.choices(words, k=60)
    texts += [[*frame, "topic", *choose.choices(words, k=40)] for _ in range(50)]
    texts += [texts[3], texts[5], []]
    choose.shuffle(texts)
    return [" ".join(text) for text in texts]


def neighbours_of(texts: list[str]) -> tuple[Neighbours, np.ndarray, np.ndarray]:
    signed = sign_texts(texts)
    hashes = np.array([hash_text(text) for text in texts], np.uint64)
    originals = find_originals(hashes, hashes)
    order = rank_documents(np.array([*map(len, texts)]), hashes, hashes)

    is_compared = (originals == np.arange(len(texts))) & signed.keys.any(axis=1)
    groups = find_groups(signed.keys.T, is_compared)

    def shingles_at(place: int) -> np.ndarray:
        row = groups.documents[place]
        return np.unique(signed.shingles[signed.rows[row] : signed.rows[row + 1]])

    found = find_neighbours(groups, order, originals, shingles_at, THRESHOLD)
    return found, order, originals


def hash_text(text: str) -> int:
    return sum(ord(c) * pow(31, i, 1 << 61) for i, c in enumerate(text)) % (1 << 61)


def jaccard(one: str, other: str) -> float:
    a, b = set(shingles_of(one)), set(shingles_of(other))
    return len(a & b) / len(a | b)


def test_nothing_goes_but_for_a_document_that_stays_and_is_as_near_as_is_said() -> None:
    texts = make_corpus(1)
    found, order, originals = neighbours_of(texts)
    ranks = np.argsort(order)
    gone = np.flatnonzero(found.is_near).tolist()
    assert len(gone) > 60
    for row in gone:
        other = int(found.nearest[row])
        assert not found.is_near[other]
        assert originals[other] == other
        assert ranks[other] < ranks[row]
        assert found.jaccard[row] == jaccard(texts[row], texts[other]) >= THRESHOLD
        own, its = set(shingles_of(texts[row])), set(shingles_of(texts[other]))
        assert found.containment[row] == len(own & its) / len(own)


def test_of_all_pairs_of_documents_that_stay_few_are_near() -> None:
    texts = make_corpus(2)
    found, _, originals = neighbours_of(texts)
    sets = [set(shingles_of(text)) for text in texts]
    stays = [row for row in range(len(texts))
             if not found.is_near[row] and originals[row] == row and sets[row]]  # fmt: skip
    near = [
        (a, b) for i, a in enumerate(stays) for b in stays[:i]
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= THRESHOLD
    ]  # fmt: skip
    assert len(near) <= 0.08 * found.is_near.sum()  # at 0.8, bands find 92 %, above more


def test_templates_with_other_words_stay() -> None:
    texts = make_corpus(3)
    found, _, _ = neighbours_of(texts)
    templates = [row for row, text in enumerate(texts) if "topic" in text]
    assert len(templates) == 50
    assert not found.is_near[templates].any()


def test_the_same_documents_go_in_any_order_of_the_corpus() -> None:
    texts = sorted(set(make_corpus(4)))
    results = []
    for seed in range(4):
        shuffled = random.Random(seed).sample(texts, len(texts))
        found = neighbours_of(shuffled)[0]
        parts: dict[int, set[str]] = {}
        for text, component in zip(shuffled, found.component.tolist(), strict=True):
            parts.setdefault(component, set()).add(text)
        gone = {shuffled[row] for row in np.flatnonzero(found.is_near)}
        results.append((gone, {frozenset(part) for part in parts.values()}))
    assert all(result == results[0] for result in results)


def test_a_component_holds_what_overlaps_by_half_and_copies_to_the_byte() -> None:
    texts = make_corpus(5)
    found, _, originals = neighbours_of(texts)
    for row in range(len(texts)):
        if found.jaccard[row] >= WIDE_JACCARD:
            assert found.component[row] == found.component[found.nearest[row]]
        assert found.component[row] == found.component[originals[row]] <= row


def test_large_groups_are_compared_with_the_best_ones_and_counted() -> None:
    keys = np.ones((MOST_COMPARED + 5, 14), np.uint64)
    rows = [np.arange(100 * row, 100 * row + 50, dtype=np.uint64) for row in range(len(keys))]
    everything = np.arange(len(keys))
    groups = find_groups(keys.T, np.ones(len(keys), bool))
    found = find_neighbours(groups, everything, everything, rows.__getitem__, THRESHOLD)
    assert not found.is_near.any()
    assert found.num_passed_over == 5 * 14
