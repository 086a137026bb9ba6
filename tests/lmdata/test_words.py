"""Words: numbered as a plain Python loop over characters numbers them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmdata.encoders.cut_kernels import ISOLATED, NUM_CLASSES, SPACE, WORD
from lmdata.encoders.words import WordTable, ascii_classes, frozen

ALPHABET = "aZ9 \t\n.,-é中ß\u3000\u2028、\U0001f600\U00020000\U000e0041\x00\x0b"


def classes_with_chinese():
    classes = ascii_classes()
    classes[0x4E00:0xA000] = ISOLATED
    classes[0x20000] = ISOLATED
    classes[[0x3001]] = ISOLATED
    classes[[0x3000, 0x2028]] = SPACE
    return classes


def packed(documents):
    raw = [document.encode() for document in documents]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in raw])]).astype(np.int64)
    return np.frombuffer(b"".join(raw), np.uint8), offsets


def plain_words(documents, classes):
    """Return (first byte, bytes) of each word: the definition, character by character."""
    found, position = [], 0
    for document in documents:
        open_word = False
        for character in document:
            kind = classes[ord(character)] if ord(character) < NUM_CLASSES else WORD
            raw = character.encode()
            if kind == WORD and open_word:
                found[-1][1] += raw
            elif kind != SPACE:
                found.append([position, raw])
            open_word = kind == WORD
            position += len(raw)
    return [(start, bytes(word)) for start, word in found]


documents_of = st.lists(st.text(st.sampled_from(ALPHABET), max_size=40), max_size=8)


@given(documents_of, st.data())
@settings(max_examples=300, deadline=None)
def test_scan_finds_the_words_that_a_loop_over_characters_finds(documents, data):
    classes = classes_with_chinese()
    text, offsets = packed(documents)
    marks = data.draw(st.lists(st.integers(0, len(text)), max_size=9).map(sorted))
    table = WordTable(classes)
    found = table.scan(text, offsets, np.array(marks, np.int64))
    expected = plain_words(documents, classes)
    assert [table.word(number) for number in found.words] == [word for _, word in expected]
    assert len(set(table)) == len(table)
    for mark, before, cut in zip(marks, found.before_mark, found.cut_words, strict=True):
        assert before == sum(start < mark for start, _ in expected)
        inside = [start for start, word in expected if start < mark < start + len(word)]
        assert cut == (inside[0] if inside else -1)


@given(st.lists(documents_of, max_size=5))
@settings(max_examples=100, deadline=None)
def test_numbers_do_not_depend_on_how_text_is_divided_into_blocks(blocks):
    classes = classes_with_chinese()
    piecewise, whole = WordTable(classes), WordTable(classes)
    parts = [piecewise.scan(*packed(block), np.zeros(0, np.int64)).words for block in blocks]
    documents = [document for block in blocks for document in block]
    joined = whole.scan(*packed(documents), np.zeros(0, np.int64)).words
    assert np.array_equal(np.concatenate([np.zeros(0, np.int32), *parts]), joined)
    assert list(piecewise) == list(whole)


def test_a_table_grows_to_hold_every_distinct_word():
    words = [f"w{number}x{number * 7919}" for number in range(50_021)]
    text, offsets = packed([" ".join(words)])
    table = WordTable(ascii_classes())
    found = table.scan(text, offsets, np.array([0, len(text)]))
    assert np.array_equal(found.words, np.arange(len(words)))
    assert [word.decode() for word in table] == words
    assert found.before_mark.tolist() == [0, len(words)]
    assert np.array_equal(table.scan(text, offsets, np.zeros(0, np.int64)).words, found.words)


@pytest.mark.parametrize("length", [7, 8, 9, 15, 16, 17, 55, 56, 57, 63, 64, 65, 127, 1031])
def test_words_of_any_length_are_told_apart_by_their_last_byte(length):
    stem = "q" * (length - 1)
    text, offsets = packed([f"{stem}a {stem}b {stem}a", f"{stem}b{stem}", f"{stem}b"])
    table = WordTable(ascii_classes())
    assert table.scan(text, offsets, np.zeros(0, np.int64)).words.tolist() == [0, 1, 0, 2, 1]


def test_a_word_that_ends_a_document_is_not_joined_with_the_next_document():
    text, offsets = packed(["ab", "", "cd", "é", "é"])
    table = WordTable(ascii_classes())
    table.scan(text, offsets, np.zeros(0, np.int64))
    assert list(table) == [b"ab", b"cd", "é".encode()]


def test_clear_forgets_words_and_numbers_them_from_0():
    text, offsets = packed(["one two"])
    table = WordTable(ascii_classes())
    table.scan(text, offsets, np.zeros(0, np.int64))
    table.clear()
    assert len(table) == table.num_bytes == 0
    assert table.scan(text, offsets, np.zeros(0, np.int64)).words.tolist() == [0, 1]


def test_no_documents_have_no_words():
    empty = np.zeros(0, np.uint8)
    for offsets in (np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(5, np.int64)):
        found = WordTable(ascii_classes()).scan(empty, offsets, np.zeros(1, np.int64))
        assert len(found.words) == 0
        assert found.before_mark.tolist() == [0]


def test_frozen_gives_a_read_only_view_of_the_same_memory():
    array = np.arange(5)
    view = frozen(array)
    assert np.shares_memory(array, view)
    assert not view.flags.writeable
    assert array.flags.writeable
