"""Hand-worked boundaries for every rule, properties for any text, and a look at real languages."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lmdata.sentences import find_sentence_starts
from lmdata.splitting.line_wrapping import page_width
from lmdata.splitting.tables import character_classes, hash_word, word_flags, word_table

DATA = Path(__file__).parents[2] / "../shared/data"
CLASSES = character_classes()


def starts_of(documents, mode="rules"):
    encoded = [document.encode() for document in documents]
    text = np.frombuffer(b"".join(encoded), np.uint8)
    offsets = np.cumsum([0, *map(len, encoded)])
    return find_sentence_starts(text, offsets, mode), text, offsets


def split(document, mode="rules"):
    starts, text, _ = starts_of([document], mode)
    ends = [*starts[1:], text.size][: starts.size]
    return [text[a:b].tobytes().decode() for a, b in zip(starts, ends, strict=True)]


def assert_split(marked, mode="rules"):
    """Check that a text is cut exactly where its bars stand."""
    assert split(marked.replace("|", ""), mode) == marked.split("|")


def page(document):
    text = np.frombuffer(document.encode(), np.uint8)
    return page_width(text, 0, text.size, CLASSES)


@pytest.mark.parametrize(
    "marked",
    [
        "It rains.| We stay.",
        "Really?| Yes!| Good.",
        "What?!| No way!!!| Fine.",
        "Wait...| Then he left.",
        "Wait…| Then he left.",
        "He waited... and left.",
        "He waited… and left.",
        "One . . . two.",
        "He paid.|  Two spaces follow.",
        "He paid.|\u00a0A space that does not break.",
    ],
)
def test_a_terminator_before_white_space_ends_a_sentence(marked):
    assert_split(marked)


@pytest.mark.parametrize(
    "marked",
    [
        'She said "Stop."| He did.',
        "She said “Stop!”| He did.",
        "Sie sagte: „Halt!“| Er hielt.",
        "»Halt!«| Er hielt.",
        "(It was late.)| They left.",
        "It was late (really!).| They left.",
        "So it is said.[12]| Others doubt it.",
        "Well done! :)| See you.",
        '"Why?" he asked.| "Because."',
        '"Go!" she cried.',
    ],
)
def test_closing_marks_belong_to_the_sentence_before(marked):
    assert_split(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "Mr. Smith met Dr. Jones.| They talked.",
        "J. R. R. Tolkien wrote it.| It is long.",
        "In 1910, G. A. Moore found it.",
        "See e.g. Paris, i.e. France.| Next.",
        "Acme Inc. Chairman Lee spoke.",
        "He joined Acme Inc.| The pay was good.",
        "He lived in the U.S. Senate building.",
        "He lived in the U.S.| They moved.",
        "We met at 5 p.m. Monday.| It was fun.",
        "Take No. 5 instead.| No.| I won't.",
        "See pp. 12-14 and Fig. 3 there.",
        "On Jan. 3 it froze.",
        "Jan Hus (c. 1369) preached.",
        "Das gilt z.B. Kindern, d.h. allen.| Gut.",
        "Am 3. Oktober 1990 geschah es.| Gut.",
        "Im 19. Jahrhundert war es so.| Gut.",
        "Они жили на ул. Мира.| Потом нет.",
        "Пришёл А. С. Пушкин.| Все встали.",
        "डॉ. ली एम.ए. की छात्रा है।| अच्छा।",
    ],
)
def test_abbreviations_initials_and_ordinals_go_on(marked):
    assert_split(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "Pi is 3.14 or so.| Next.",
        "1. Beat the eggs.| 2. Add milk.",
        "Do this: 1. Beat the eggs.",
        "It was in 1999.| Then came more.",
        "Visit www.example.com or mail a.b@example.com today.| Bye.",
        "Use Node.js or Config.Value there.",
        "He was late.|The bus was gone.",
        "Is it so?|Yes it is.",
    ],
)
def test_stops_inside_numbers_addresses_and_items_do_not_end_a_sentence(marked):
    assert_split(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "The approx. value is known.",
        "i went home.| it was late.| she slept.",
        "Yahoo! is a firm.",
        "are you sure?| yes i am.",
    ],
)
def test_lower_case_goes_on_unless_the_sentence_itself_began_so(marked):
    assert_split(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "今日は雨です。|明日は晴れますか？|はい！",
        "「行こう。」|彼は言った。",
        "「行こう。」と彼は言った。|終わり。",
        "他来了。|她走了！|为什么？",
        "यह एक घर है।| वह बड़ा है॥| अच्छा।",
        "هل أنت هنا؟| نعم.| شكرا.",
        "یہ گھر ہے۔| وہ بڑا ہے۔",
        "Նա եկավ։| Նա գնաց։",
        "ሰላም።| ደህና፧| አዎ።",
        "그는 왔다.| 그녀는 갔다.",
        "ခင်ဗျား။| ကျွန်တော်။",
    ],
)
def test_other_scripts_have_their_own_terminators(marked):
    assert_split(marked)


def test_thai_is_cut_at_the_space_after_a_long_enough_stretch():
    phrase = "ก" * 20
    assert_split(f"{phrase} {phrase} {phrase}| {phrase} {phrase}")
    assert_split("กห. เปิดเผยว่า")


def test_a_blank_line_is_a_boundary_even_without_a_terminator():
    assert_split("A title|\n\nSome text|\r\n \r\nMore text")
    assert_split("  Indented text|\u2029More.\n\n ")


def test_line_ends_are_boundaries_where_lines_are_paragraphs():
    long = "words and more words " * 10
    assert_split(f"History|\n{long}.|\n{long}!|\nOrigins|\nEnd")


WRAPPED = """The man walked down the road to the town
where he had lived when he was young and
full of hope, as our old friend, Mr.
Brown, had told us; nothing had been
built there since. He sat down and began
to think of what was left of those days.
"""


def test_line_ends_are_white_space_in_hard_wrapped_text():
    assert page(WRAPPED) == 40
    assert [s.strip() for s in split(WRAPPED)] == [
        WRAPPED[: WRAPPED.index(" He sat")],
        WRAPPED[WRAPPED.index("He sat") :].strip(),
    ]


def test_a_short_line_of_a_wrapped_document_ends_on_purpose():
    assert split("CHAPTER ONE\n" + WRAPPED)[0] == "CHAPTER ONE"


@pytest.mark.parametrize(
    "document",
    [
        "Milk\nBread and butter\nEggs\nA very long item of the list\nTea",
        "Each line is a whole sentence here.\nEach line is a whole sentence now.\n" * 4,
        "x" * 130 + "\n" + "y" * 130 + "\n" + "z" * 130,
        "",
        "one line",
    ],
)
def test_lists_paragraphs_and_single_lines_are_not_wrapped(document):
    assert page(document) == 0


def test_two_lines_are_wrapped_if_the_second_goes_on_in_lower_case():
    line = "The man walked down the road to the old town"
    assert page(f"{line}\nwhere he had lived.") == len(line)
    assert page(f"{line}\nWhere he had lived.") == 0


def test_lines_mode_makes_each_line_with_text_a_sentence():
    assert_split("\nOne. Two!|\n \t\r\nThree|\r\nfour\n\n", "lines")


@pytest.mark.parametrize("following", ["The end", "Smith came", "A", "X. Y", "It's so", "I"])
def test_the_quick_look_at_plain_words_says_what_the_rules_say(following):
    words = [*word_flags(), *map(str.title, word_flags()), "a", "B", "see)", "unquestionable", "x1"]
    for beginning in ("", "He saw ", "He saw (", "go-", "é"):
        quick = [f"{beginning}{word}. {following}" for word in words]
        slow = [f"{beginning}{word}.  {following}" for word in words]  # two spaces: no quick look
        counts = [
            [len(split(document)) for document in documents] for documents in (quick, slow)
        ]  # fmt: skip
        assert counts[0] == counts[1]


@pytest.mark.parametrize("mode", ["rules", "lines"])
def test_sentences_of_a_letter_find_room(mode):
    end = "! " if mode == "rules" else "\n"
    starts, _, offsets = starts_of([f"A{end}" * 500, "", f"A{end}"], mode)
    assert len(starts) == 501
    assert starts[-1] == offsets[-2]


def test_none_mode_makes_each_document_a_sentence():
    starts, _, offsets = starts_of(["One. Two.\n\nThree.", "", "Four."], "none")
    assert starts.tolist() == [0, offsets[2]]


def test_white_space_alone_is_one_sentence():
    assert split(" \n\n \n") == [" \n\n \n"]
    assert split("") == []


def test_wrong_arguments_are_named():
    text = np.frombuffer(b"abc", np.uint8)
    with pytest.raises(ValueError, match="rules, lines, none, got 'words'"):
        find_sentence_starts(text, np.array([0, 3]), "words")
    with pytest.raises(ValueError, match="from 0 to the text's 3 bytes"):
        find_sentence_starts(text, np.array([0, 2]))


def test_every_listed_word_is_found_in_the_table():
    table = word_table()
    for word, flags in word_flags().items():
        key = hash_word(word.encode())
        slot = (key >> 8) % table.size
        while int(table[slot]) >> 8 != key >> 8:
            assert table[slot], word
            slot = (slot + 1) % table.size
        assert int(table[slot]) & 255 == flags


TROUBLE = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n\r\t.!?…。।\"')]“Aa1กJ")),
    max_size=60,
)


@given(st.lists(TROUBLE, max_size=5), st.sampled_from(["rules", "lines", "none"]))
def test_starts_are_sorted_character_boundaries_and_hold_every_document(documents, mode):
    starts, text, offsets = starts_of(documents, mode)
    assert (np.diff(starts) > 0).all()
    assert set(offsets[:-1][np.diff(offsets) > 0]) <= set(starts)
    assert ((text[starts] & 0xC0) != 0x80).all()
    sentences = [split(document, mode) for document in documents]
    assert ["".join(parts) for parts in sentences] == documents
    for document, parts in zip(documents, sentences, strict=True):
        assert all(part.strip() for part in parts) or not document.strip()


@given(st.lists(TROUBLE, max_size=5))
def test_a_document_is_split_alike_alone_and_among_others(documents):
    starts, _, offsets = starts_of(documents)
    alone = [starts_of([d])[0] + o for d, o in zip(documents, offsets, strict=False)]
    assert starts.tolist() == np.concatenate([*alone, []]).tolist()


@given(st.binary(max_size=40))
def test_bytes_that_are_not_utf8_do_no_harm(data):
    starts = find_sentence_starts(np.frombuffer(data, np.uint8), np.array([0, len(data)]))
    assert (starts < max(1, len(data))).all()


def mean_length(document):
    return len(document) / len(split(document))


@pytest.mark.parametrize(
    ("file", "encoding", "low", "high"),
    [
        ("multilingual/hi/hi-pud.txt", "utf-8", 90, 130),
        ("multilingual/th-bom/001.txt", "utf-8-sig", 40, 120),
        ("multilingual/ja-cp932/000035_1582_ruby_4914.txt", "cp932", 15, 60),
    ],
)
def test_real_documents_have_sentences_of_sensible_length(file, encoding, low, high):
    path = DATA / file
    if not path.exists():
        pytest.skip(f"real data absent: {path}")
    assert low < mean_length(path.read_text(encoding=encoding)) < high


@pytest.mark.parametrize(("language", "low", "high"), [("zh", 15, 100), ("ko", 20, 80)])
def test_real_wikipedia_has_sentences_of_sensible_length(language, low, high):
    files = sorted((DATA / "multilingual" / language).glob("*.jsonl.zst"))
    if not files:
        pytest.skip("real data absent: multilingual")
    with zstandard.open(files[0], "rt", encoding="utf-8") as lines:
        documents = [json.loads(line)["text"] for line, _ in zip(lines, range(500), strict=False)]
    longest = max(documents, key=len)
    assert low < mean_length(longest) < high


def test_real_prose_is_seen_as_wrapped_and_verse_is_not():
    files = sorted((DATA / "gutenberg").glob("*.txt.gz"))
    if not files:
        pytest.skip("real data absent: gutenberg")
    pages = {f.name: page(gzip.decompress(f.read_bytes()).decode()) for f in files}
    verse = {name for name, width in pages.items() if width == 0}
    assert len(verse) <= 4
    assert all(name.startswith(("dante", "homer", "poe")) for name in verse)
    assert {width for width in pages.values() if width} <= set(range(66, 80))
