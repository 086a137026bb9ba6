"""Statistics against counts by hand, and reports that stand alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers

from lmdata.config import config_to_dict
from lmdata.dataset import open_examples, open_store
from lmdata.errors import MismatchError, OutputError
from lmdata.examples import write_examples
from lmdata.recipes import Recipe
from lmdata.show import piece_texts
from lmdata.stats import LengthCounter, dataset_statistics, reach
from lmdata.stats_report import statistics_lines, write_report
from lmdata.tokenizer import Tokenizer
from tests.lmdata.builds import build, make_tokenizer, write_corpus
from tests.lmdata.test_examples import make_sentences


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("datasets")
    corpus = write_corpus(path / "corpus", {"a.txt": [*make_sentences(200), "cats 中 $ dog."]})
    build(corpus, path / "tokens", make_tokenizer(["$"]), validation_ratio=0.1)
    write_examples(path / "tokens", Recipe(max_seq_length=32, duplicates=2), path / "nsp", seed=1)
    single = Recipe(view="packed", corruption="none", max_seq_length=64)
    write_examples(path / "tokens", single, path / "causal", seed=1)
    return path


def test_a_store_is_described_as_counted_by_hand(folder):
    found = dataset_statistics(folder / "tokens")
    store = open_store(folder / "tokens")
    documents = [store.document(row) for row in range(len(store))]
    ids = np.concatenate([ids for ids, _ in documents])
    lengths = np.array([len(ids) for ids, _ in documents])
    sentences = np.concatenate([sizes for _, sizes in documents])
    assert (found.documents, found.tokens, found.sentences) == (
        len(documents),
        len(ids),
        len(sentences),
    )
    assert found.document_tokens.mean == pytest.approx(lengths.mean())
    assert found.document_tokens.largest == lengths.max()
    assert found.sentence_tokens.quantiles["50%"] == np.quantile(
        sentences, 0.5, method="inverted_cdf"
    )
    unknown = store.tokenizer.special_ids["unk"]
    assert found.pieces.unknown_ratio == pytest.approx((ids == unknown).mean())
    words = (~store.tokenizer.word_rule.continues(ids)).sum()
    assert found.pieces.pieces_per_word == pytest.approx(len(ids) / words)
    assert found.pieces.used == len(np.unique(ids[ids != unknown]))
    values, counts = np.unique(ids[ids != unknown], return_counts=True)
    assert found.pieces.top[0][1] == counts.max()
    assert found.pieces.top[0][0] == store.tokenizer.piece(int(values[counts.argmax()]))


def test_fertility_is_left_out_where_pieces_do_not_say_where_words_begin(tmp_path):
    alphabet = "abcdefghijklmnopqrstuvwxyz.\u2581"
    pieces = {piece: index for index, piece in enumerate([*alphabet, "e\u2581", "<unk>"])}
    backend = Backend(models.BPE(pieces, [("e", "\u2581")], unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    corpus = write_corpus(tmp_path / "corpus", {"a.txt": ["the lamp on the pier was green."]})
    build(corpus, tmp_path / "tokens", Tokenizer(backend))
    found = dataset_statistics(tmp_path / "tokens")
    assert found.pieces.pieces_per_word is None
    assert "pieces per word" not in "\n".join(statistics_lines(found))
    store = open_store(tmp_path / "tokens")
    texts = piece_texts(store.tokenizer, store.document(0)[0])
    assert "".join(texts) == "the lamp on the pier was green."


def test_examples_are_described_as_counted_by_hand(folder):
    found = dataset_statistics(folder / "nsp")
    examples = open_examples(folder / "nsp")
    batch = examples.rows(np.arange(len(examples)))
    lengths = np.diff(batch.offsets)
    assert found.fill == pytest.approx(lengths.mean() / 32)
    assert found.masked_share == pytest.approx(len(batch.masked_positions) / lengths.sum())
    assert found.positive_share == pytest.approx((batch.next_sentence_label == 1).mean())
    at_seven = (batch.masked_positions == 7).sum() / (lengths > 7).sum()
    assert found.mask_rate_by_position[7] == pytest.approx(at_seven)
    assert found.tokens_by_position[0] == len(examples)
    assert found.became_mask + found.became_random + found.kept == pytest.approx(1)
    second = sum((batch.token_type_ids == 1).astype(int)) / len(examples) - 1
    assert found.second_segment_tokens.mean == pytest.approx(second)


def test_causal_rows_have_neither_masks_nor_labels(folder):
    found = dataset_statistics(folder / "causal")
    assert found.masked_share == 0
    assert found.positive_share is None
    assert not any(line.strip().startswith(("masked", "share")) for line in statistics_lines(found))


def test_statistics_are_plain_values_for_json(folder):
    assert config_to_dict(dataset_statistics(folder / "nsp"))["pieces"]["vocab_size"] > 50


def test_a_split_that_is_not_there_is_named(folder):
    with pytest.raises(MismatchError, match="no split 'test'"):
        dataset_statistics(folder / "tokens", split="test")


@pytest.mark.parametrize("name", ["tokens", "nsp", "causal"])
def test_reports_stand_alone(folder, tmp_path, name):
    statistics = dataset_statistics(folder / name, num_top=60)
    write_report(statistics, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    write_report(statistics, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("https://www.w3.org", "")
    assert "<script" not in page
    with pytest.raises(OutputError, match=r"\.png or \.html, got .*report\.pdf"):
        write_report(statistics, tmp_path / "report.pdf")


def test_the_lines_for_a_terminal_name_the_facts(folder):
    text = "\n".join(statistics_lines(dataset_statistics(folder / "nsp")))
    for words in ("examples", "fill", "[MASK] / random / kept", "vocabulary used", "top pieces"):
        assert words in text


@given(st.lists(st.lists(st.integers(0, 5000), max_size=50), max_size=5))
def test_lengths_are_those_of_all_batches_together(batches):
    counter = LengthCounter()
    for batch in batches:
        counter.add(np.array(batch, np.int64))
    found, values = counter.result(), np.array([*itertools.chain(*batches)], np.int64)
    assert found.count == len(values) == sum(found.histogram)
    if len(values):
        assert found.mean == pytest.approx(values.mean())
        assert (found.smallest, found.largest) == (values.min(), values.max())
        expected = [int(np.quantile(values, q, method="inverted_cdf")) for q in (0.05, 0.5, 0.95)]
        assert [found.quantiles[name] for name in ("5%", "50%", "95%")] == expected
        assert np.histogram(values, [*found.edges[:-1], found.edges[-1] + 1])[0].tolist() == list(
            found.histogram
        )


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 40))
def test_reach_counts_the_examples_that_have_a_position(lengths, longest):
    expected = [sum(length > position for length in lengths) for position in range(longest)]
    assert reach(np.array(lengths, np.int64), longest).tolist() == expected


def test_a_split_without_rows_is_described_too(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", {"a.txt": ["The cat sat. The dog ran."]})
    build(corpus, tmp_path / "tokens", validation_ratio=1e-9)
    found = dataset_statistics(tmp_path / "tokens", split="validation")
    assert (found.documents, found.tokens, found.pieces.used) == (0, 0, 0)
    assert statistics_lines(found)
    write_report(found, tmp_path / "report.png")
