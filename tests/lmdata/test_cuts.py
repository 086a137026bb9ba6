"""Cuts: whatever the rules of a tokenizer, a text in parts has the ids of the whole."""

from __future__ import annotations

import itertools
import json
import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from lmdata.encoders.cut_kernels import BLANK, PUNCT, TEXT, WORD
from lmdata.encoders.cuts import (
    WITNESSES,
    CutRule,
    battery,
    find_obstacle,
    find_unsafe_cut,
    split_alternatives,
)
from lmdata.encoders.unigram_matching import UnigramMatcher, build_trie, find_unigram_obstacle
from lmdata.encoders.word_encoding import WordEncoder, find_rare_word
from lmdata.encoding import make_encoder
from lmdata.tokenizer import Tokenizer
from tests.lmdata.encoding_oracle import (
    GPT4O_RULE,
    assert_is_reference,
    published,
    published_rules,
    split_bytes,
    trained,
)
from tests.lmdata.test_encoding import nasty

RULES = list(published_rules())
MADE = {}


def encoder_of(name):
    """Return one encoder for all examples, so that what it has seen is put to the test too."""
    if name not in MADE:
        MADE[name] = make_encoder(published(name))
    return MADE[name]


def rule_of(name):
    tokenizer = published(name)
    return CutRule(tokenizer.backend, tokenizer.definition)


@pytest.mark.parametrize("name", RULES)
def test_the_rules_of_published_tokenizers_are_taken(name):
    encoder = encoder_of(name)
    assert encoder.kind in ("word-cache", "gigatoken"), encoder.reason
    assert encoder.reason


@pytest.mark.parametrize("name", RULES)
@given(documents=st.lists(nasty, max_size=5), marks=st.lists(st.integers(0, 200), max_size=5))
@settings(max_examples=60)
def test_any_text_has_the_ids_of_tokenizers(name, documents, marks):
    size = sum(len(document.encode()) for document in documents)
    more = [mark for mark in marks if mark < size]
    assert_is_reference(published(name), encoder_of(name), documents, more)


witnesses = st.lists(
    st.sampled_from([*WITNESSES, "the", " fox", "  ", "\n\n", "12345"]), max_size=12
)


@pytest.mark.parametrize("name", RULES)
@given(documents=st.lists(witnesses.map("".join), max_size=4))
@settings(max_examples=60)
def test_characters_of_every_kind_side_by_side_have_the_ids_of_tokenizers(name, documents):
    assert_is_reference(published(name), encoder_of(name), documents)


@pytest.mark.parametrize("name", RULES)
def test_no_three_kinds_of_characters_make_a_cut_unsafe(name):
    rule = rule_of(name)
    assert rule.obstacle is None
    texts = ("".join(four) for four in itertools.product(WITNESSES[:14], repeat=4))
    assert find_unsafe_cut(rule, itertools.islice(texts, 0, None, 17)) is None


@pytest.mark.parametrize(
    ("name", "character", "wrong"),
    [("t5", ".", PUNCT), ("llama3", "\n", BLANK),
     ("deberta-v3", "\u00a0", TEXT),
     ("modernbert", "\u0301", PUNCT),
     ("roberta-prefix", "\n", BLANK), ("xlm-r", "\u00a0", WORD)],
)  # fmt: skip
def test_a_planted_unsafe_cut_fails_the_checker(name, character, wrong):
    rule = rule_of(name)
    assert find_unsafe_cut(rule, battery()) is None
    rule.classes[ord(character)] = wrong
    text, parts = find_unsafe_cut(rule, battery())
    assert character in text
    assert "".join(parts) == text


LETTERS = [code for code in range(0x80, 0x30000) if unicodedata.category(chr(code)) == "Lo"]


def one_by_one(name):
    """Return a rule that asks about every character by itself."""
    rule = rule_of(name)
    rule._find_alike = lambda *_: []
    return rule


@pytest.mark.parametrize("name", RULES)
def test_letters_asked_about_together_are_what_they_are_alone(name):
    codes = np.array(LETTERS[::151] + LETTERS[:3000:37] + list(range(0x0E30, 0x0E34)))
    together, alone = rule_of(name), one_by_one(name)
    assert together._ask_each(codes) == alone._ask_each(codes)
    if find_unigram_obstacle(published(name).definition) is None:
        matchers = [
            UnigramMatcher(published(name).backend, published(name).definition, rule)
            for rule in (together, alone)
        ]
        for matcher in matchers:
            matcher.learn(codes)
        assert np.array_equal(matchers[0]._plain, matchers[1]._plain)
        assert len(together.alike) > 500


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        ({"pre_tokenizer": None}, "there is no pre-tokenizer"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "split": False}}, "not split"),
        ({"pre_tokenizer": {"type": "UnicodeScripts"}}, "pre-tokenizer UnicodeScripts is not"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\s+|a b"}}}, "the part 'a b'"),
        (
            {"normalizer": {"type": "Replace", "pattern": {"Regex": "a.b"}, "content": ""}},
            "replaces",
        ),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a b"}, "content": ""}}, "'a b'"),
    ],
)
def test_rules_that_are_not_known_are_named(change, obstacle):
    assert obstacle in find_obstacle({**trained("unigram").definition, **change})


def test_alternatives_are_told_from_what_lies_inside_groups_and_classes():
    assert len(split_alternatives(GPT4O_RULE)) == 7
    assert split_alternatives(r"[\]|]+|(a|b)|\|") == [r"[\]|]+", "(a|b)", r"\|"]


def with_tokens(name, *tokens):
    backend = tokenizers.Tokenizer.from_str(published(name).backend.to_str())
    backend.add_tokens(list(tokens))
    return Tokenizer(backend)


TOKENS = {
    "double spaces": [AddedToken("  "), AddedToken("   ")],
    "marks": [AddedToken("|||IP_ADDRESS|||"), AddedToken("<b>", normalized=True)],
    "left": [AddedToken("<mask>", lstrip=True)],
    "single": [AddedToken("fox", single_word=True), AddedToken("_x", single_word=True)],
    "normalized": [AddedToken("\u00c9\u00c9", normalized=True), AddedToken("Fox", normalized=True)],
    "right": [AddedToken("<end>", rstrip=True)],
    "inside": [AddedToken("x fo")],
}


@pytest.mark.parametrize(
    "name", ["t5", "modernbert", "llama3", "starcoder", "albert", "first", "nfkc"]
)
@pytest.mark.parametrize("kind", TOKENS)
def test_added_tokens_are_found_as_tokenizers_finds_them(name, kind):
    tokenizer = with_tokens(name, *TOKENS[kind])
    encoder = make_encoder(tokenizer)
    contents = [token.content for token in TOKENS[kind]]
    parts = [
        *contents,
        "the",
        " fox",
        "fox",
        " ",
        "\n",
        ".",
        "\u00c9",
        "E\u0301",
        "x fox",
        "_xy",
        "a_x",
    ]
    documents = ["".join(three) for three in itertools.product(parts, repeat=3)][::7]
    assert_is_reference(tokenizer, encoder, documents)
    if kind in ("right", "inside"):
        assert encoder.kind in ("plain", "gigatoken")


# Of full and half width, ligatures, fractions, signs of several letters, marks that compose.
BECOMING = (
    "\uff0c\uff08\u2026\uff21\uff42\u00bd\uff76\uff9e\u3314\u00e9\u0301\ufb01\u0130\u03a3\u1e9e"
)


@given(
    st.lists(
        st.text(
            "abethfoxTHE.,- \u0e01\u0e34\u0e33\u0e48\u4e2d\u3002\u3000\n" + BECOMING, max_size=40
        ),
        max_size=4,
    )
)
@settings(max_examples=200)
def test_unigram_takes_the_best_path_of_tokenizers(documents):
    for name in ("t5", "our-unigram", "albert", "first", "nfkc-unigram"):
        encoder = encoder_of(name)
        assert isinstance(encoder._matcher, UnigramMatcher)
        size = sum(len(document.encode()) for document in documents)
        marks = [mark for mark in (3, 7) if mark < size]
        assert_is_reference(published(name), encoder, documents, marks)


@pytest.mark.parametrize("name", RULES)
def test_sentences_that_begin_inside_words_have_their_tokens(name):
    parts = ["a", "b.", "\u0e01\u0e34", "\u3000中", "。", "\n", " ", "E", "\uff0c\u2026", "\uff21"]
    documents = list(map("".join, itertools.product(parts, repeat=4)))[::29]
    documents += [f" {document}" for document in documents[::9]]
    size = sum(len(document.encode()) for document in documents)
    assert_is_reference(published(name), encoder_of(name), documents, range(0, size, 2))


@pytest.mark.parametrize(
    ("text", "is_matched"),
    [
        ("\u4f60\u597d\uff0c\u4e16\u754c\uff08\uff01\uff09\u2026", True),  # ， （ ！ ） …
        ("\u3000\u4e2d\u3002", True),
        ("\u0e19\u0e33", True),  # sara am, two characters behind it
        ("\uff76\uff9e", False),  # ka and a mark of half width, which become one
        ("x\u0301", False),
        ("\u1112\u1161\u11ab", False),
        ("\ufdfa", False),  # eighteen characters
        ("a\u00a0b", False),  # a space
    ],
)
def test_characters_that_become_others_are_matched_where_neighbours_do_not_matter(text, is_matched):
    encoder = encoder_of("nfkc-unigram")
    assert_is_reference(published("nfkc-unigram"), encoder, [text, f"x{text}x {text}"])
    raw = np.frombuffer(text.encode(), np.uint8)
    _, lengths = encoder._matcher.match(raw, np.array([0, len(raw)]))
    assert (lengths[0] >= 0) == is_matched


@pytest.mark.parametrize("name", RULES)
def test_no_break_spaces_are_cut_at_but_not_before_marks(name):
    parts = ["5", "km", "\u00a0", " ", "\u0301", "\u0e33", "\u4e2d", "\n", "."]
    documents = list(map("".join, itertools.product(parts, repeat=4)))[::23]
    assert_is_reference(published(name), encoder_of(name), documents)
    assert rule_of(name).cut("x\u00a0\u0301y 5\u00a0km")[0] == "x\u00a0\u0301y"


def test_most_words_are_matched_without_tokenizers():
    encoder = encoder_of("t5")
    words = [
        "The",
        " fox",
        " fox,",
        "\nnaïve",
        " \u0e01\u0e34\u0e48",
        " e\u0301",
        " \ufb01",
        "\t x",
    ]
    raw = [word.encode() for word in words]
    encoder._rule.learn(np.frombuffer(b"".join(raw), np.uint8))
    encoder._matcher.learn(np.array(sorted({ord(c) for word in words for c in word if c > "\x7f"})))
    starts = np.concatenate([[0], np.cumsum([len(word) for word in raw])])
    _, lengths = encoder._matcher.match(np.frombuffer(b"".join(raw), np.uint8), starts)
    assert (lengths >= 0).tolist() == [True] * 5 + [False, True, False]


def test_a_tree_finds_every_piece():
    pieces = [b"a", b"ab", b"abc", b"b", "é".encode()]
    keys, children, numbers = build_trie(pieces)
    assert sorted(numbers[numbers >= 0].tolist()) == list(range(5))
    assert np.count_nonzero(keys >= 0) == np.count_nonzero(children) == len(numbers) - 1


def test_unigrams_that_tokenizers_must_match_are_named():
    definition = published("t5").definition
    model = definition["model"]
    twice = {**model, "vocab": [*model["vocab"], model["vocab"][-1]]}
    assert "twice" in find_unigram_obstacle({**definition, "model": twice})
    assert "bytes" in find_unigram_obstacle(
        {**definition, "model": {**model, "byte_fallback": True}}
    )


def test_text_without_spaces_is_encoded_without_tokenizers():
    tokenizer = published("our-unigram")
    encoder = WordEncoder(tokenizer, rule_of("our-unigram"))
    text = "中文维基百科是维基百科协作计划的中文版本。" * 30
    assert_is_reference(tokenizer, encoder, [text, f"{text}\n{text}"], range(0, 900, 63))


def test_a_separator_is_a_word_of_one_piece_and_found_words_that_hold_it_are_encoded():
    tokenizer = published("lower")
    separator, index = find_rare_word(tokenizer)
    encoder = WordEncoder(tokenizer, rule_of("lower"))
    word = separator.decode()
    assert tokenizer.backend.encode(word, add_special_tokens=False).ids == [index]
    assert_is_reference(tokenizer, encoder, [f"a{word} b{word}x c{word}" * 3 + " d e f g h i j k"])


def test_a_regular_expression_of_ones_own_takes_the_plain_path_and_says_why():
    backend = tokenizers.Tokenizer.from_str(trained("byte-level").backend.to_str())
    backend.pre_tokenizer = split_bytes(r"\w+ \w+|.")
    encoder = make_encoder(Tokenizer(backend))
    assert encoder.kind == "plain"
    assert r"the part '\\w+ \\w+'" in encoder.reason


def test_a_prepended_mark_is_asked_about_and_not_cut():
    backend = tokenizers.Tokenizer(models.BPE(json.loads('{"x": 0}'), []))
    backend.normalizer = normalizers.Prepend("_")
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    assert "before a space depends" in CutRule(backend, {"added_tokens": []}).obstacle
