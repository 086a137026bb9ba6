"""Rules of languages: stop words of a table or of a corpus, and scripts without spaces."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.corpus import CorpusConfig, find_sources
from lmdata.errors import ConfigError, CorpusError
from lmdata.settings import OwnWords, TagConfig
from lmdata.tagging.languages import LANGUAGES
from lmdata.tagging.rules import ABSTAINS, DEFAULT_RULES, judge, measure
from lmdata.tagging.stop_words import StopWords, choose_words, derive_words, own_words
from lmdata.tagging.taggers import make_taggers
from lmdata.tagging.words import PlainCutter
from references.curation import cut
from tests.lmdata.text_batches import tag_batch

DECLARATION = Path(__file__).parents[3] / "shared" / "data" / "adversarial" / "udhr2_utf8"
FILES = {
    "bulgarian": "bul", "catalan": "cat", "croatian": "hrv", "czech": "ces", "danish": "dan",
    "dutch": "nld", "finnish": "fin", "french": "fra", "german": "deu", "greek": "ell_monotonic",
    "hungarian": "hun", "italian": "ita", "norwegian": "nob", "polish": "pol",
    "portuguese": "por_PT", "romanian": "ron", "russian": "rus", "slovak": "slk",
    "spanish": "spa", "swedish": "swe", "turkish": "tur", "ukrainian": "ukr",
}  # fmt: skip
UNSPACED = ["cmn_hans", "jpn", "tha", "khm", "mya", "lao"]


def read_declaration(names: Sequence[str]) -> list[str]:
    if not DECLARATION.is_dir():
        pytest.skip("needs the Universal Declaration in many languages")
    return [(DECLARATION / f"{name}.txt").read_text(encoding="utf-8") for name in names]


@given(st.lists(st.text(st.sampled_from("aé die y漢Ж'"), min_size=1).filter(str.strip), max_size=4))
def test_stop_words_are_those_of_a_plain_count(texts: list[str]) -> None:
    lists = [["a", "die", "é"], ["y", "die", "Ж", "aaaaaaaaaaaa"]]
    texts = [*texts, "die aaaaaaaaaaaa die Ж"]
    found = StopWords(lists).count(tag_batch(texts).words).tolist()
    assert found == [[len(set(own) & set(cut(text))) for own in lists] for text in texts]


def test_a_text_is_kept_by_the_rule_of_its_language() -> None:
    assert FILES.keys() == LANGUAGES.keys()
    batch = tag_batch(read_declaration([*FILES.values(), "cmn_hans", "amh"]))
    figures = measure(batch.text, batch.offsets, PlainCutter())
    tagger = make_taggers(TagConfig(rules=tuple(FILES)))[0]
    columns = tagger.tag(batch)
    figures |= {f.name: np.array(c) for f, c in zip(tagger.fields, columns, strict=True)}
    verdicts = {name: judge(figures, f"gopher_quality_{name}") for name in FILES}
    for row, (name, found) in enumerate(verdicts.items()):
        assert found[row] == -1, name
        assert figures[f"num_stop_words_{name}"][row] >= 6, name
        assert found[-2] == ABSTAINS
        assert found[-1] >= 0, name
    assert verdicts["german"][list(FILES).index("turkish")] >= 0


def test_rules_that_count_words_say_nothing_where_no_space_divides_them() -> None:
    texts = ["这是一个关于语言的句子。" * 20, "이것은 한국어 문장입니다. " * 20,
             "ภาษาไทยไม่มีช่องว่าง" * 9, "the cat and 漢字 to be with you " * 9]  # fmt: skip
    batch = tag_batch(texts)
    figures = measure(batch.text, batch.offsets, PlainCutter())
    for rule in DEFAULT_RULES:
        says_nothing = (judge(figures, rule) == ABSTAINS).tolist()
        assert says_nothing == [rule != "fineweb_paper" and row in (0, 2) for row in range(4)]

    class Other(PlainCutter):
        needs_spaces = False

    judged = measure(batch.text, batch.offsets, Other())
    assert np.isnan(judged["unspaced_ratio"]).all()
    assert not (judge(judged, "gopher_quality") == ABSTAINS).any()


def test_scripts_without_spaces_are_told_in_the_declaration() -> None:
    batch = tag_batch(read_declaration([*UNSPACED, *FILES.values(), "kor", "hin", "amh", "kat"]))
    ratios = measure(batch.text, batch.offsets, PlainCutter())["unspaced_ratio"]
    assert (ratios[: len(UNSPACED)] > 0.5).all()
    assert (ratios[len(UNSPACED) :] == 0).all()


def test_words_of_a_corpus_are_derived_in_the_same_way_each_time(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("o gato e o rato\n" * 50, encoding="utf-8")
    (corpus / "b.txt").write_text("a casa e a rua não são o fim 12\n" * 50, encoding="utf-8")
    sources = find_sources([str(corpus)], CorpusConfig())
    found = derive_words(sources, CorpusConfig())
    assert found == derive_words(sources[::-1], CorpusConfig())
    assert found.stop_words == ("o", "a", "e", "casa", "fim", "gato", "não", "rato", "rua", "são")
    assert found.length == round(31 / 14, 2)
    (tmp_path / "words").write_text("o a\ne o\n", encoding="utf-8")
    own = own_words(str(tmp_path / "words"), sources, CorpusConfig())
    assert own == OwnWords(stop_words=("o", "a", "e"), length=found.length)


def test_eight_words_at_least_and_those_that_make_8_in_1000_are_chosen() -> None:
    counts = Counter({f"w{number:02}": 100 - number for number in range(40)})
    counts["rare"] = 100_000
    assert len(choose_words(counts).stop_words) == 8
    del counts["rare"]
    assert len(choose_words(counts).stop_words) == 32


def test_words_that_can_not_be_had_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "zh.txt").write_text("这是一个关于语言的句子。\n" * 50, encoding="utf-8")
    sources = find_sources([str(tmp_path / "zh.txt")], CorpusConfig())
    with pytest.raises(ConfigError, match="written without spaces between words"):
        derive_words(sources, CorpusConfig())
    (tmp_path / "digits.txt").write_text("12 34\n")
    with pytest.raises(CorpusError, match="no word was found"):
        derive_words(find_sources([str(tmp_path / "digits.txt")], CorpusConfig()), CorpusConfig())
    (tmp_path / "a.txt").write_text("a text of some words\n")
    sources = find_sources([str(tmp_path / "a.txt")], CorpusConfig())
    with pytest.raises(ConfigError, match="can't be read from nowhere"):
        own_words("nowhere", sources, CorpusConfig())
    (tmp_path / "one").write_text("the")
    with pytest.raises(ConfigError, match="from 2 to 63 different words, got 1"):
        own_words(str(tmp_path / "one"), sources, CorpusConfig())
    with pytest.raises(ValueError, match="length must be above 0, got 0"):
        OwnWords(stop_words=("a", "b"), length=0)


def test_own_words_judge_by_shares_of_their_length() -> None:
    own = OwnWords(stop_words=("la", "casa"), length=4.0)
    tagger = make_taggers(TagConfig(own_words=own))[0]
    batch = tag_batch(["la casa blanca"])
    batch.figures["mean_word_length"] = np.array([4.0])
    stop_words, ratio = tagger.tag(batch)
    assert (stop_words.to_pylist(), ratio.to_pylist()) == ([2], [1.0])
    assert tagger.versions["gopher_quality_own"].startswith("gopher@own-")
