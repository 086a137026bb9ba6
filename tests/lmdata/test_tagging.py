"""Words, figures and verdicts of the named rules, against a plain twin and against datatrove."""

import functools
import gzip
import io
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.errors import ConfigError
from lmdata.ragged import offsets_of
from lmdata.settings import TagConfig
from lmdata.tagging import words as words_module
from lmdata.tagging.characters import (
    DIGIT,
    ENDS_LINE,
    ENDS_SENTENCE,
    HAS_LETTER,
    IS_PUNCTUATION,
    IS_SYMBOL,
    SPACE,
    SYMBOLS,
    TERMINALS,
    WORD,
    character_bits,
)
from lmdata.tagging.rules import RULES, figures_of, judge, measure
from lmdata.tagging.taggers import RULE_TAGGERS, make_taggers
from lmdata.tagging.variants import measure_c4_as_dolma, measure_dclm, measure_dolma
from lmdata.tagging.words import CUTTERS, Cutter, Figures, PlainCutter
from references.curation import measure_as_dclm, measure_as_dolma, measure_plainly
from tests.lmdata.text_batches import tag_batch

SHARED = Path(__file__).parents[3] / "shared" / "data"
ODD_CHARACTERS = "ab .\n!#…-•●*é\t\r\x0b\x85\u2028'’_[]1٣{\u212a漢"
PHRASES = [
    "javascript", "lorem ipsum", "Privacy Policy", "uses cookies", "use coo\u212aies", "[edit]",
    "[12]", "[citation needed]", "terms of use", " ", "\n", ". ", "the cat and ", "a b c d. ",
    " \t", "x" * 1001, "one and two and three. ", "...", '."', ". . .", "\n\n", "The ", "- ",
]  # fmt: skip
texts_strategy = st.lists(
    st.text(st.sampled_from(ODD_CHARACTERS), min_size=1, max_size=60).filter(str.strip),
    min_size=1, max_size=5,
)  # fmt: skip
phrases_strategy = st.lists(
    st.lists(st.sampled_from(PHRASES), min_size=1, max_size=20).map("".join).filter(str.strip),
    min_size=1, max_size=3,
)  # fmt: skip


def measure_all(texts: list[str], cutter: Cutter | None = None) -> Figures:
    parts = [text.encode() for text in texts]
    content = np.frombuffer(b"".join(parts), np.uint8)
    return measure(content, offsets_of([len(part) for part in parts]), cutter or PlainCutter())


def check_figures(texts: list[str]) -> None:
    batch = tag_batch(texts)
    figures = measure_all(texts)
    for variant in (measure_dolma, measure_dclm):
        figures |= variant(batch.text, batch.offsets, batch.words)
    for row, text in enumerate(texts):
        expected = measure_plainly(text) | measure_as_dolma(text) | measure_as_dclm(text)
        found = {name: values[row] for name, values in figures.items()}
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == value or (np.isnan(found[name]) and np.isnan(value)), (name, text)


@given(texts_strategy)
def test_figures_are_those_of_a_plain_count(texts: list[str]) -> None:
    check_figures(texts)


@given(phrases_strategy)
def test_figures_of_phrases_of_the_rules_are_those_of_a_plain_count(texts: list[str]) -> None:
    check_figures(texts)


def test_bits_of_characters_are_what_python_says_of_them() -> None:
    bits = character_bits()
    codes = [*range(0xD800), *range(0xE000, 0x3000A, 7), *map(ord, SYMBOLS), 0x10FFFF]
    for code in codes:
        character = chr(code)
        said = (
            HAS_LETTER * character.isalpha() | WORD * bool(re.match(r"\w", character))
            | SPACE * character.isspace() | DIGIT * bool(re.match(r"\d", character))
            | IS_PUNCTUATION * unicodedata.category(character).startswith("P")
            | IS_SYMBOL * (character in SYMBOLS) | ENDS_SENTENCE * (character in TERMINALS)
            | ENDS_LINE * (len(f"a{character}b".splitlines()) == 2)
        )  # fmt: skip
        assert bits[code] == said, hex(code)


def test_the_first_limit_is_the_reason() -> None:
    text = "# " * 9 + "the and of\n" * 70
    figures = measure_all([text, "too short", "the x " * 60])
    limits = RULES["gopher_quality"]
    found = [limits[number].reason if number >= 0 else None
             for number in judge(figures, "gopher_quality").tolist()]  # fmt: skip
    assert found == [
        "mean_word_length below 3",
        "num_plain_words below 50",
        "mean_word_length below 3",
    ]
    assert judge(figures, "gopher_repetition").tolist()[0] >= 0


def test_variants_of_one_rule_judge_apart() -> None:
    """Copies count in all their places, or from the second on; a tie is broken in three ways."""
    tie = "a b x cccc dddd y a b z cccc dddd"
    copies = "The same is here.\n" * 2 + "\n".join(f"And number {n} is new." for n in range(5))
    batch = tag_batch([tie, copies])
    figures = measure_all([tie, copies])
    figures |= measure_dolma(batch.text, batch.offsets, batch.words)
    figures |= measure_dclm(batch.text, batch.offsets, batch.words)
    names = "top_2_gram_ratio", "dolma_top_2_gram_ratio", "dclm_top_2_gram_ratio"
    assert [figures[name][0] for name in names] == [6 / 33, 4 / 23, 16 / 23]
    names = "repeated_line_ratio", "dolma_repeated_line_ratio", "dclm_repeated_line_ratio"
    assert [figures[name][1] for name in names] == [1 / 7, 2 / 7, 2 / 7]
    assert judge(figures, "gopher_repetition_dclm").tolist() == [4, 2]


def test_c4_as_dolma_counts_it_takes_no_apostrophe_for_an_end() -> None:
    texts = ["He said 'yes'\nIt ends here.\nNo end\n", "Needs javascript to run.", "javascript:",
             "lorem\nipsum", "A LOREM Ipsum text", "if {", "漢字、だ。"]  # fmt: skip
    batch = tag_batch(texts)
    figures = measure_c4_as_dolma(batch.text, batch.offsets, batch.words)
    assert judge(figures, "c4_dolma").tolist() == [-1, 0, -1, -1, 1, 2, -1]
    assert figures["dolma_unended_line_ratio"].tolist() == [3 / 4, 0, 1, 1, 1, 1, 1]
    assert figures["dolma_few_word_line_ratio"][0] == 2 / 4
    figures["unspaced_ratio"] = np.ones(len(texts))
    assert judge(figures, "c4_dolma")[-1] == -1


def test_rules_have_the_columns_that_their_limits_ask_for() -> None:
    batch = tag_batch(["The cat sat on the mat. " * 9, "…"])
    for name in RULE_TAGGERS:
        tagger = make_taggers(TagConfig(rules=(name,)))[0]
        columns = dict(zip([field.name for field in tagger.fields], tagger.tag(batch), strict=True))
        assert set(columns) >= set(figures_of(tagger.versions))
        assert [column.type for column in columns.values()] == [f.type for f in tagger.fields]
    with pytest.raises(ConfigError, match=r"none by the name 'gopher@x'; there are gopher@dolma,"):
        make_taggers(TagConfig(rules=("gopher@x",)))


def test_lines_of_c4_are_kept_dropped_or_drop_the_page() -> None:
    good = "This is a sentence. And this is one more."
    pages = {
        "\n".join([good] * 3): (6, False, False),
        f"{good}\nno end mark here\ntoo short.\nIt needs JavaScript to run.": (2, False, False),
        f"{good}\nA lorem ipsum text is here.\n{good}": (2, True, False),
        f"{good}\nThe sign {{ is in here.": (2, False, True),
        f"{good}[12]\n{good} [edit]\nOur privacy policy is here.": (2, False, False),
        f"{good}\nThis trails off into dots...": (2, False, False),
        f"{good}\n{'x' * 1001} is too long.": (2, False, False),
    }
    figures = measure_all(list(pages))
    names = "c4_num_sentences", "c4_lorem_ipsum", "c4_curly_bracket"
    found = [tuple(figures[name][row] for name in names) for row in range(len(pages))]
    assert found == list(pages.values())


def test_a_forgotten_table_gives_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spacy", reason="cuts the words")
    texts = [["the cat sat. " * 5, "on the mat! " * 7], ["and the dog ran far " * 4]]
    whole = [measure_all(part, CUTTERS["spacy"]()) for part in texts]
    monkeypatch.setattr(words_module, "_MOST_CHUNKS", 1)
    cutter = CUTTERS["spacy"]()
    for part, expected in zip(texts, whole, strict=True):
        found = measure_all(part, cutter)
        for name, values in expected.items():
            assert np.array_equal(found[name], values, equal_nan=True), name


def test_words_of_spacy_need_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(ConfigError, match="pip install"):
        CUTTERS["spacy"]()


# ---- Against pip datatrove

REASONS = {
    "gopher_quality": [
        "gopher_short_doc", "gopher_long_doc", "gopher_below_avg_threshold",
        "gopher_above_avg_threshold", "gopher_too_many_hashes", "gopher_too_many_ellipsis",
        "gopher_too_many_bullets", "gopher_too_many_end_ellipsis", "gopher_below_alpha_threshold",
        "gopher_enough_stop_words",
    ],
    "gopher_repetition": [
        "dup_para_frac", "dup_para_char_frac", "dup_line_frac", "dup_line_char_frac",
        *(f"top_{n}_gram" for n in (2, 3, 4)), *(f"duplicated_{n}_n_grams" for n in range(5, 11)),
    ],
    "c4": ["lorem_ipsum", "curly_bracket", "too_few_sentences"],
    "fineweb": ["line_punct_ratio", "short_line_ratio", "char_dup_ratio", "list_ratio"],
}  # fmt: skip
ODD = [
    'Don\'t stop... (really?) "Yes!" he said.  Two  blanks\there. ' * 8,
    "- a\n- b\n- c\n" * 30 + "the end of it and that is with to be.",
    "The same line is here again.\n" * 30,
    "The first of them.\n\nThe first of them.\n\nA last one that is new.\n" * 4,
    "# # # # the and of to be\n" * 40,
    "the cat and the dog went to the house that day. " * 40,
    "e.g. the U.S.A. and 3.5% of $4,000 (i.e. 10-20) at 5p.m. — that’s it… " * 20,
    "Lorem ipsum dolor sit amet. The end of it.\n" * 9,
]


def read_shared() -> Iterator[str]:
    """Yield texts of the shared data: Wikipedia, books, and a text in 388 languages."""
    zstandard = pytest.importorskip("zstandard")
    if not SHARED.is_dir():
        pytest.skip("needs the shared data")
    with zstandard.open(min(SHARED.glob("wikipedia-en/*.zst")), "rb") as stream:
        for line in itertools.islice(io.TextIOWrapper(stream, "utf-8"), 800):
            yield json.loads(line)["text"]
    for path in sorted(SHARED.glob("gutenberg/*.gz"))[:30]:
        yield gzip.decompress(path.read_bytes()).decode(errors="replace")[:200_000]
    for path in sorted(SHARED.glob("adversarial/udhr2_utf8/*")):
        yield path.read_text(encoding="utf-8")


def pieces_of(text: str) -> list[str]:
    """Return runs of 1 to 24 lines: shorter documents fail in more ways than whole ones."""
    lines = text.split("\n")
    sizes = [1 + number * 7 % 24 for number in range(len(lines))]
    ends = list(itertools.takewhile(lambda end: end < len(lines), itertools.accumulate(sizes)))
    return ["\n".join(lines[a:b]) for a, b in itertools.pairwise([0, *ends, len(lines)])]


@functools.cache
def read_pieces() -> list[str]:
    return [part for text in read_shared() for part in pieces_of(text) if part.strip()]


def compare_with_datatrove(texts: list[str]) -> Counter[str]:
    """Return how often each reason occurs; fails where datatrove gives another one."""
    pytest.importorskip("spacy", reason="datatrove takes the words of spaCy")
    data = pytest.importorskip("datatrove.data", reason="is the peer of this test")
    filters = pytest.importorskip("datatrove.pipeline.filters")
    peers = {
        "gopher_quality": filters.GopherQualityFilter(),
        "gopher_repetition": filters.GopherRepetitionFilter(),
        "c4": filters.C4QualityFilter(),
        "fineweb": filters.FineWebQualityFilter(),
    }
    figures = measure_all(texts, CUTTERS["spacy"]())
    counts, others = Counter[str](), []
    for rule, peer in peers.items():
        ours = judge(figures, rule).tolist()
        for number, (text, verdict) in enumerate(zip(texts, ours, strict=True)):
            found = peer.filter(data.Document(text=text, id=str(number)))
            expected = None if found is True else found[1]
            reason = REASONS[rule][verdict] if verdict >= 0 else None
            if reason != expected:
                others.append((rule, reason, expected, text[:200]))
            counts[f"{rule}: {reason}"] += 1
    assert not others, (len(others), others[:5])
    return counts


def test_odd_documents_are_judged_as_by_datatrove() -> None:
    counts = compare_with_datatrove(ODD)
    assert len(counts) > 8, counts


@pytest.mark.slow
@pytest.mark.parametrize("piece", range(20))
def test_20_000_documents_are_judged_as_by_datatrove(piece: int) -> None:
    texts = read_pieces()[piece:20_000:20]
    assert len(texts) == 1000
    compare_with_datatrove(texts)
