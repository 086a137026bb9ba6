"""Encoding: whatever the text, ids and sentences are those of `tokenizers`."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from lmdata.encoders import bpe_encoding, plain_encoding, word_encoding
from lmdata.encoders.cut_kernels import ISOLATED
from lmdata.encoders.plain_encoding import (
    EncodedDocuments,
    EncodingError,
    PlainEncoder,
    assemble,
    without_post_processor,
)
from lmdata.encoders.word_encoding import WordEncoder, find_separator
from lmdata.encoders.wordpiece_matching import ask_classes, cut_classes, find_wordpiece_obstacle
from lmdata.encoding import (
    CHANGED,
    WITHOUT_PIECE,
    RoundTrip,
    check_encoding,
    first_difference,
    make_encoder,
    measure_round_trip,
)
from lmdata.errors import TokenizerError
from lmdata.tokenizer import Tokenizer, wordpiece_backend
from lmdata.tokenizer_training import TokenizerConfig, train_tokenizer
from tests.lmdata.encoding_oracle import assert_is_reference, packed, starts_with, trained
from tests.lmdata.text_batches import batch

KINDS = {
    "wordpiece": "word-cache",
    "wordpiece-cased": "word-cache",
    "byte-level": "gigatoken",
    "bpe": "word-cache",
    "unigram": "word-cache",
}

WORDS = ["fox", "Quick", "the", "naïve", "ABC", "1,234", "don't", "[MASK]", "[SEP]", "##s", "ﬁ"]
SPACES = [" ", "\t", "\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u2028", "\u3000"]
CONTROLS = ["\x00", "\x07", "\x7f", "\xad", "\u200b", "\u200d", "\ufeff", "\ufffd", "\ue000"]
MARKS = ["e\u0301", "\u0301", "\u0327\u0301", "\u302e", "\U0001d165", "\u3099", "\u0338", "क्ष"]
PUNCTUATION = [".", "'", "``", "\u2019", "—", "。", "、", "？", "।", "؟", "≠", "\u037e", "\u1fef"]
SCRIPTS = ["中文", "か\u3099", "カタカナ", "한국", "\u1112\u1161\u11ab", "ไทย", "豈", "\U00020000"]
OTHERS = ["😀", "👩‍👩‍👧", "🇩🇪", "İ", "ß", "Σς", "x" * 99, "y" * 101, "é" * 101, "𝔘", "\U0010ffff"]
nasty = st.lists(
    st.one_of(
        st.sampled_from(WORDS + SPACES + CONTROLS + MARKS + PUNCTUATION + SCRIPTS + OTHERS),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=30,
).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize("expected", [KINDS])
def test_each_kind_of_tokenizer_gets_its_encoder(kind, expected):
    encoder = make_encoder(trained(kind))
    assert encoder.kind == expected[kind]
    assert encoder.reason


@given(st.lists(nasty, max_size=6), st.lists(st.integers(0, 200), max_size=6))
@settings(max_examples=200)
def test_any_text_has_the_ids_and_sentences_of_tokenizers(kind, documents, marks):
    tokenizer = trained(kind)
    size = sum(len(document.encode()) for document in documents)
    more = [mark for mark in marks if mark < size]
    assert_is_reference(tokenizer, make_encoder_once(kind), documents, more)


ENCODERS = {}


def make_encoder_once(kind):
    """Return one encoder for all examples, so that what it has seen is put to the test too."""
    if kind not in ENCODERS:
        ENCODERS[kind] = make_encoder(trained(kind))
    return ENCODERS[kind]


@given(st.lists(nasty, max_size=5), st.booleans(), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=100)
def test_every_setting_of_the_bert_normalizer_is_exact(documents, clean, chinese, strip, lower):
    backend = tokenizers.Tokenizer.from_str(trained("wordpiece-cased").backend.to_str())
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=clean, handle_chinese_chars=chinese, strip_accents=strip, lowercase=lower
    )
    tokenizer = Tokenizer(backend)
    assert_is_reference(tokenizer, WordEncoder(tokenizer), documents)


@given(st.lists(st.text("abqtheTHEfox019 ", max_size=30), max_size=5))
@settings(max_examples=200)
def test_longest_match_of_ascii_words_is_that_of_tokenizers(documents):
    for kind in ("wordpiece", "wordpiece-cased"):
        assert_is_reference(trained(kind), make_encoder_once(kind), documents)


@pytest.mark.parametrize("limit", [3, 100, 1500])
def test_words_at_and_over_the_longest_that_a_tokenizer_allows(limit):
    definition = trained("wordpiece").definition
    model = {**definition["model"], "max_input_chars_per_word": limit}
    definition = {**definition, "model": model}
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(definition)))
    lengths = [1, 2, 3, 4, 99, 100, 101, 1023, 1024, 1025, 1499, 1500, 1501]
    documents = [f"fox {letter * length} the" for letter in "xé" for length in lengths]
    assert_is_reference(tokenizer, WordEncoder(tokenizer), documents)


def test_ids_do_not_depend_on_how_documents_are_put_into_blocks(kind):
    documents = ["The fox. " * 5, "", "中文。字", " naïve  fox\u2028", "ab", "cd", "😀"] * 3
    whole, piecewise = make_encoder(trained(kind)), make_encoder(trained(kind))
    joined = whole.encode(*with_starts(documents)).ids
    parts = [piecewise.encode(*with_starts([document])).ids for document in documents]
    assert np.array_equal(joined, np.concatenate(parts))


def with_starts(documents):
    text, offsets = packed(documents)
    return text, offsets, starts_with(text, offsets, [])


def test_a_cache_that_is_full_starts_anew_and_changes_nothing():
    documents = [f"fox{number} naïve{number} 中{number}" for number in range(97)]
    tokenizer = trained("wordpiece")
    expected = WordEncoder(tokenizer).encode(*with_starts(documents)).ids
    encoder = WordEncoder(tokenizer)
    encoder.keep_within(1)
    parts = [encoder.encode(*with_starts([document])).ids for document in documents]
    assert np.array_equal(np.concatenate(parts), expected)
    assert encoder._table.num_words <= 7


def test_a_backend_without_post_processor_has_the_same_ids_and_its_own_offsets():
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(trained("byte-level").backend.to_str()))
    backend = tokenizer.backend
    backend.add_tokens(
        [tokenizers.AddedToken("<a>", lstrip=True), tokenizers.AddedToken("Fox", normalized=False)]
    )
    backend.add_special_tokens(["<s>"])
    backend.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    tokenizer = Tokenizer(backend)
    shared = without_post_processor(tokenizer)
    assert shared.get_added_tokens_decoder() == backend.get_added_tokens_decoder()
    text = "The Fox  <a> and <s> a naïve fox"
    assert shared.encode(text, add_special_tokens=False).ids == backend.encode(text).ids
    assert shared.post_processor is None
    trimmed, whole = (encoded.encode(text).offsets for encoded in (backend, shared))
    assert trimmed != whole
    assert [stop for _, stop in trimmed] == [stop for _, stop in whole]


def test_read_only_text_is_encoded_like_any_other(kind):
    text, offsets, starts = with_starts(["The fox. naïve"])
    writable = text.copy()
    assert not text.flags.writeable
    encoder = make_encoder(trained(kind))
    first, second = (encoder.encode(array, offsets, starts).ids for array in (text, writable))
    assert np.array_equal(first, second)


def test_no_documents_and_empty_documents_have_no_tokens(kind):
    encoder = make_encoder(trained(kind))
    for documents in ([], [""], ["", "", ""]):
        encoded = encoder.encode(*with_starts(documents))
        assert len(encoded.ids) == len(encoded.sentence_lengths) == 0
        assert encoded.document_offsets.tolist() == [0] * (len(documents) + 1)


def test_a_document_that_begins_no_sentence_is_refused(kind):
    text, offsets = packed(["ab", "cd"])
    with pytest.raises(ValueError, match="start of every document"):
        make_encoder(trained(kind)).encode(text, offsets, np.array([0]))


def test_a_cut_in_an_unsafe_place_is_caught(monkeypatch):
    tokenizer = trained("wordpiece")
    classes = cut_classes(tokenizer.backend, tokenizer.definition)
    classes[ord("é")] = ISOLATED
    text, offsets, starts = with_starts(["the fox", "Déjà vu"])
    safe = WordEncoder(tokenizer).encode(text, offsets, starts)
    monkeypatch.setattr(word_encoding, "cut_classes", lambda *_: classes)
    unsafe = WordEncoder(tokenizer).encode(text, offsets, starts)
    check_encoding(tokenizer, text, offsets, safe, [0, 1])
    check_encoding(tokenizer, text, offsets, unsafe, [0])
    with pytest.raises(TokenizerError, match=r"row 1: token \d+ differs from what"):
        check_encoding(tokenizer, text, offsets, unsafe, [0, 1])


def test_a_changed_a_missing_and_an_extra_token_are_caught():
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(trained("byte-level").backend.to_str()))
    text, offsets, starts = with_starts(["the fox", "the quick fox"])
    good = PlainEncoder(tokenizer).encode(text, offsets, starts)
    changed = good.ids.copy()
    changed[-1] += 1
    for ids in (changed, good.ids[:-1], np.append(good.ids, good.ids[:1])):
        bounds = np.append(good.document_offsets[:-1], len(ids))
        bad = EncodedDocuments(ids, bounds, good.sentence_lengths, good.sentence_offsets)
        with pytest.raises(TokenizerError, match="row 1"):
            check_encoding(tokenizer, text, offsets, bad, [0, 1])


def test_wordpiece_without_any_punctuation_is_exact():
    vocabulary = {"[UNK]": 0, "the": 1, "fox": 2, "##é": 3, "e": 4, "naive": 5}
    tokenizer = Tokenizer(wordpiece_backend(vocabulary, lower_case=True))
    assert find_separator(tokenizer) is None
    assert_is_reference(tokenizer, WordEncoder(tokenizer), ["the fox, naïve é. 中", "", "!?"], [4])


def test_wordpiece_whose_unknown_piece_is_missing_takes_the_plain_path():
    definition = trained("wordpiece").definition
    model = {**definition["model"], "unk_token": "[NONE]"}
    assert "[NONE]" in str(find_wordpiece_obstacle({**definition, "model": model}))


def test_the_tokenizer_is_asked_which_characters_it_cuts_at():
    tokenizer = trained("wordpiece-cased")
    codes = [ord(character) for character in "é\u3000。\u2028\u0085\u200b≠中"]
    classes = ask_classes(tokenizer.backend, codes)
    assert classes.tolist() == [0, 1, 2, 1, 0, 0, 0, 2]


def test_sentences_without_tokens_vanish():
    encoded = assemble(
        np.arange(3), np.array([0, 0, 2, 2, 3]), np.array([0, 5, 5, 9]), np.array([0, 2, 4, 5, 8])
    )
    assert encoded.sentence_lengths.tolist() == [2, 1]
    assert encoded.sentence_offsets.tolist() == [0, 1, 1, 2]
    assert encoded.document_offsets.tolist() == [0, 2, 2, 3]


def test_first_difference_sees_a_shorter_array():
    assert first_difference(np.array([1, 2]), np.array([1, 2])) is None
    assert first_difference(np.array([1, 2]), np.array([1])) == 1
    assert first_difference(np.array([]), np.array([])) is None


@pytest.mark.slow
def test_every_character_is_classed_safely():
    """Between letters, after a mark and before one, each character gives the reference ids."""
    documents = [
        f"a{chr(code)}b a\u0301{chr(code)}\u0327b {chr(code)} "
        for code in range(0x20, 0x30000)
        if not 0xD800 <= code < 0xE000
    ]
    documents = ["".join(documents[i : i + 256]) for i in range(0, len(documents), 256)]
    for kind in ("wordpiece", "wordpiece-cased"):
        assert_is_reference(trained(kind), make_encoder_once(kind), documents)


SCRIPTS = (
    "รัฐบาลไทยที่ไม่ได้น้ำ", "हिन्दी में ज़िन्दगी", "がぎぐげご ヴァイオリン", "Tiếng Việt phở", "한국어 각",
    "йод Йорк ёлка", "Ελλάς ΆΝΘΡΩΠΟΣ", "العَرَبِيَّة", "می‌خواهم", "ශ්‍රී ලංකාව", "ᎠᎴ", "naïve Ångström",
    "İstanbul",
)  # fmt: skip


@pytest.mark.parametrize("text", SCRIPTS)
def test_the_default_tokenizer_gives_every_letter_of_every_script_back(text):
    tokenizer = train_tokenizer([batch([text] * 3)], TokenizerConfig(allow_smaller=True))
    trip = measure_round_trip(tokenizer, [text])
    assert trip.characters == len("".join(text.lower().split()))
    assert trip.lost == {}
    assert trip.sentence is None
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    back = tokenizer.decode(ids).replace("σ", "ς")
    assert "".join(back.split()) == "".join(text.lower().replace("σ", "ς").split())


@pytest.mark.parametrize(
    ("text", "back"), [("รัฐบาล", "รฐบาล"), ("हिन्दी", "हिनदी"), ("Tiếng", "tieng"), ("й", "и")]
)
def test_what_strip_accents_takes_away_is_counted_and_shown(text, back):
    config = TokenizerConfig(allow_smaller=True, strip_accents=True)
    tokenizer = train_tokenizer([batch([f"{text} abc"] * 3)], config)
    trip = measure_round_trip(tokenizer, [text, "abc"], counts=[2, 5])
    assert trip.characters == 2 * len(text) + 15
    assert trip.lost[CHANGED] >= 2
    assert WITHOUT_PIECE not in trip.lost
    assert trip.examples == {text: back}
    assert f"changed by the normalizer ({text} becomes {back})" in trip.sentence


def test_words_without_a_piece_are_counted_and_a_remedy_named():
    tokenizer = trained("wordpiece")
    trip = measure_round_trip(tokenizer, ["the \U00013080\U00013080 fox", "x" * 101])
    assert trip.lost == {WITHOUT_PIECE: 103}
    assert trip.characters == 109
    assert trip.examples == {"\U00013080\U00013080": ""}
    assert trip.sentence.startswith("94.5 % of the characters do not come back: 94.5 % without")
    assert "--model unigram" in trip.sentence
    two = trip + RoundTrip(characters=91, lost={CHANGED: 1}, examples={"é": "e"})
    assert two.characters == 200
    assert two.lost == {CHANGED: 1, WITHOUT_PIECE: 103}


def test_byte_level_bpe_gives_everything_back():
    trip = measure_round_trip(trained("byte-level"), [*SCRIPTS, "e\u0301 \x00\ufeff ﬁ ①"])
    assert trip.lost == {}
    assert trip.characters > 100


def test_every_declaration_of_human_rights_comes_back_from_the_default_tokenizer(shared_data):
    files = sorted((shared_data / "adversarial/udhr2_utf8").glob("*.txt"))
    texts = {path.stem: path.read_bytes().decode("utf-8-sig") for path in files}
    assert len(texts) == 388
    tokenizer = train_tokenizer([batch(texts.values())], TokenizerConfig(allow_smaller=True))
    for name, text in texts.items():
        trip = measure_round_trip(tokenizer, [text])
        assert trip.lost.get(CHANGED, 0) == 0, (name, trip.sentence)
        long = sum(len(word) for word in re.findall(r"\S{101,}", text))
        assert trip.lost.get(WITHOUT_PIECE, 0) <= long, (name, trip.sentence)


RULES = {
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


def with_rule(rule):
    backend = tokenizers.Tokenizer.from_str(trained("byte-level").backend.to_str())
    split = pre_tokenizers.Split(tokenizers.Regex(rule), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    return Tokenizer(backend)


@pytest.mark.parametrize("kind", ["llama3", "byte-level", "unigram", "bpe", "wordpiece"])
def test_a_long_document_is_cut_where_that_changes_nothing(kind, monkeypatch):
    monkeypatch.setattr(plain_encoding, "GROUP_BYTES", 1 << 10)
    tokenizer = with_rule(RULES[kind]) if kind in RULES else trained(kind)
    encoder = PlainEncoder(tokenizer)
    line = "The (quick) fox, it's 12345 lamps;  two\n\n\tspaces naïve façade 中文。\n日本語。\n"
    documents = ["short", line * 100, "", "x" * 3000, line * 30]
    text, offsets = packed(documents)
    bounds, rows = encoder._cut_documents(text, offsets)
    assert len(bounds) - 1 == len(rows) > 12
    assert np.diff(bounds)[rows != 3].max() < 2000
    assert_is_reference(tokenizer, encoder, documents, range(0, 8000, 37))
    assert encoder.memory_for(text[offsets[1] : offsets[2]]) < 8 * 10_000 + 140 * 2000


def test_a_tokenizer_without_words_is_not_cut_and_its_memory_is_told(monkeypatch):
    monkeypatch.setattr(plain_encoding, "GROUP_BYTES", 1 << 10)
    backend = tokenizers.Tokenizer.from_str(trained("bpe").backend.to_str())
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    encoder = PlainEncoder(Tokenizer(backend))
    text, offsets = packed(["the fox " * 1000])
    assert len(encoder._cut_documents(text, offsets)[1]) == 1
    assert encoder.memory_for(text) == 148 * 8000


def test_a_text_that_tokenizers_stumbles_over_is_one_error_that_names_its_row():
    backend = tokenizers.Tokenizer(models.WordLevel({"lamp": 0}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = PlainEncoder(Tokenizer(backend))
    text, offsets = packed(["lamp", "lamp lamp", "lamp pier", "lamp"])
    with pytest.raises(EncodingError, match="`tokenizers` can't encode this text: ") as caught:
        encoder.encode(text, offsets, offsets[:-1])
    assert caught.value.row == 2
    assert "\n" not in str(caught.value)


def test_a_regular_expression_without_end_is_one_error():
    encoder = PlainEncoder(with_rule("(a|a)*$"))
    text, offsets = packed(["a" * 40 + "b"])
    with pytest.raises(
        EncodingError, match=r"can't encode this text: .*; the regular expression in"
    ):
        encoder.encode(text, offsets, offsets[:-1])


@pytest.mark.parametrize("text", ["\U000323b0\U000323b0's", "x \u0378's \U0003fffdabc 12"])
def test_characters_younger_than_a_library_are_encoded_by_tokenizers(text):
    tokenizer = trained("byte-level")
    encoder = make_encoder(tokenizer)
    assert encoder.kind == "gigatoken"
    assert_is_reference(tokenizer, encoder, ["plain text", text, "é 中 😀", text], [3])
    raw, offsets = packed(["é 中 😀", text, ""])
    marks = np.zeros(256, np.bool_)
    marks[ord("中".encode()[:1])] = True
    flags = bpe_encoding.find_unusual(raw, offsets, bpe_encoding.unusual_characters(), marks)
    assert (flags & bpe_encoding.NEW).tolist() == [0, bpe_encoding.NEW, 0]
    assert (flags & bpe_encoding.MARKED).tolist() == [bpe_encoding.MARKED, 0, 0]


def test_pieces_that_merges_do_not_reach_are_left_to_tokenizers():
    definition = trained("byte-level").definition
    model = {**definition["model"], "vocab": {**definition["model"]["vocab"], "Ġthezzz": 409}}
    model["merges"] = [["t", "h"], ["Ġt", "h"], *model["merges"]]
    model["vocab"] |= {"th": 410, "Ġt": 411, "Ġth": 412}
    backend = tokenizers.Tokenizer.from_str(json.dumps({**definition, "model": model}))
    tokenizer = Tokenizer(backend)
    encoder = make_encoder(tokenizer)
    assert_is_reference(tokenizer, encoder, ["the thezzz with", " the thezzz"])
