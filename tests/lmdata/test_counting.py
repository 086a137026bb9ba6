from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.errors import TokenizerError
from lmdata.learning.counting import count_words, split_text, sum_up, tally_words
from lmdata.learning.safe_cuts import cut_chunks
from lmdata.tokenizer_training import METHODS, TokenizerConfig
from tests.lmdata.text_batches import Batch, batch

MODELS = ("wordpiece", "bpe", "unigram")
NASTY = [
    *"abcA12',-.()_\n\t\r\x00\x1c\x7f\x85\xa0\u1680\u2003\u2028\u3000éßİſﬁ中文あカ한ไท▁Ġ",
    "'s", "'ve", "e\u0301", "\u0308", "\u200d", "👩\u200d👩\u200d👧", "🇩🇪", "##", "[MASK]", "<s>",
]  # fmt: skip
texts = st.lists(
    st.one_of(st.sampled_from([*NASTY, " ", "  ", " x"]), st.characters(codec="utf-8")), max_size=40
).map("".join)


def count(model: str, batches: Iterable[Batch], max_bytes: int = 1 << 30, num_threads: int = 1):
    recipe = METHODS[model]
    backend = recipe.make_backend(TokenizerConfig(model=model))
    return count_words(
        batches, backend, recipe.rule, max_bytes=max_bytes, num_threads=num_threads
    ).pre_tokens


@pytest.mark.parametrize("model", MODELS)
def test_words_are_counted_as_the_pre_tokenizer_cuts_them(model: str) -> None:
    documents = ["The cat, the CAT.", "don't 1,234  x\n", "", "naïve (cat)"]
    backend = METHODS[model].make_backend(TokenizerConfig(model=model))
    expected = Counter(token for text in documents for token in split_text(backend, text))
    counts = count(model, [batch(documents)])
    if model == "unigram":
        # White space is counted by nobody: pieces do not span it.
        expected.pop("▁")
    assert counts == expected


@given(st.lists(texts, max_size=5))
def test_wordpiece_counts_are_those_of_whole_documents(documents: list[str]) -> None:
    if not any(documents):
        return
    backend = METHODS["wordpiece"].make_backend(TokenizerConfig())
    expected = Counter(token for text in documents for token in split_text(backend, text))
    assert count("wordpiece", [batch(documents)]) == expected


@given(st.lists(texts, max_size=5))
def test_byte_level_counts_are_those_of_whole_documents(documents: list[str]) -> None:
    if not any(documents):
        return
    backend = METHODS["bpe"].make_backend(TokenizerConfig(model="bpe"))
    expected = Counter(token for text in documents for token in split_text(backend, text))
    assert count("bpe", [batch(documents)]) == expected


def test_a_cut_in_an_unsafe_place_would_be_noticed() -> None:
    backend = METHODS["bpe"].make_backend(TokenizerConfig(model="bpe"))
    for whole, parts in (("a  b", ("a ", " b")), ("x'ss", ("x", "'ss")), ("a b", ("a", " b"))):
        assert split_text(backend, whole) == [
            t for part in parts for t in split_text(backend, part)
        ]
    for whole, parts in (("a  b", ("a  ", "b")), ("('s", ("(", "'s")), ("'s", ("'", "s"))):
        assert split_text(backend, whole) != [
            t for part in parts for t in split_text(backend, part)
        ]
        inner = np.frombuffer(whole.encode(), np.uint8)
        assert len(parts[0]) not in cut_chunks(inner, np.array([0, len(inner)]))


@pytest.mark.parametrize("model", MODELS)
def test_batches_order_and_threads_do_not_matter(model: str) -> None:
    documents = [f"word{number % 7} and {number} more, isn't it\n" * 3 for number in range(101)]
    expected = count(model, [batch(documents)])
    pieces = [batch(documents[start : start + 11]) for start in range(0, 101, 11)]
    assert count(model, pieces, num_threads=2) == expected
    assert count(model, [batch(reversed(documents))]) == expected


def test_the_sample_is_the_same_in_any_order_and_uses_much_of_what_is_allowed() -> None:
    documents = [f"word{number}" for number in range(1000, 5000)]  # 8 bytes each
    sampled = count("wordpiece", [batch(documents)], max_bytes=8000)
    assert 400 <= len(sampled) <= 1000
    backwards = [batch([document]) for document in reversed(documents)]
    assert count("wordpiece", backwards, max_bytes=8000, num_threads=2) == sampled
    assert set(sampled) < set(count("wordpiece", [batch(documents)], max_bytes=32_000))


def test_offsets_may_begin_inside_the_text() -> None:
    inner = Batch(np.frombuffer(b"left out kept x", np.uint8), np.array([8, 13, 15], np.int64))
    assert count("wordpiece", [inner]) == {"kept": 1, "x": 1}


@pytest.mark.parametrize("documents", [[], ["", ""]])
def test_no_text_is_an_error(documents: list[str]) -> None:
    with pytest.raises(TokenizerError, match="no text to train on: every document is empty"):
        count("wordpiece", [batch(documents)])


def test_documents_larger_than_the_sample_are_an_error() -> None:
    with pytest.raises(TokenizerError, match=r"fits into max_training_bytes 10: .* 23 bytes"):
        count("wordpiece", [batch(["a document of 23 bytes."])], max_bytes=10)


@pytest.mark.parametrize("max_bytes", [1 << 30, 700])
def test_words_counted_in_parts_are_those_counted_together(max_bytes: int) -> None:
    documents = [f"document {number} of {'some ' * (number % 7)}words." for number in range(60)]
    recipe = METHODS["wordpiece"]
    backend = recipe.make_backend(TokenizerConfig())
    whole = count_words([batch(documents)], backend, recipe.rule, max_bytes=max_bytes)
    tallies = [
        tally_words([batch(documents[start : start + 13])], recipe.rule, max_bytes)
        for start in range(0, 60, 13)
    ]
    found = sum_up(tallies[::-1], backend, recipe.rule, max_bytes=max_bytes)
    assert found == whole
    assert sum(whole.pre_tokens.values()) < 1000 or max_bytes > 700
    with pytest.raises(TokenizerError, match="no sample of whole documents fits"):
        sum_up(tallies, backend, recipe.rule, max_bytes=5)
