"""Answers of fine-tuned models: those of stock transformers on the export, text by text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lmmodel
from lmdata.tokenizer import load_tokenizer
from lmmodel.asking import Pretrained, Specialist
from lmmodel.errors import FitError, RunError
from lmmodel.handover.stock import export_model
from lmmodel.predicting.answering import answer, classify, tag
from lmmodel.tasks.words import split_words
from tests.lmmodel.fine_tuned_folders import write_fine_tuned

TEXTS = ["the cat sees the river.", "a dog", "one bird paints green apples without a word."]
LABELS = ("bad", "fair", "good")


@pytest.fixture
def make_tuned(store, tmp_path):
    """Return a function from a task to a fine-tuned model of it."""

    def make(task, labels=(), **shape) -> Specialist:
        tokenizer = load_tokenizer(store / "tokenizer")
        found = lmmodel.load(write_fine_tuned(tmp_path / task, task, tokenizer, labels, **shape))
        assert isinstance(found, Specialist)
        return found

    return make


def stock_logits(tuned, folder, class_name, *texts):
    """Return the logits of one text or pair, by transformers' own tokenizer and class."""
    transformers = pytest.importorskip("transformers")
    export_model(tuned.model, tuned.tuned.tokenizer, folder, tuned.tuned.record.labels)
    theirs = getattr(transformers, class_name).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return theirs(**tokenizer(*texts, return_tensors="pt")), tokenizer(*texts)


def test_classes_are_those_of_transformers(make_tuned, tmp_path):
    tuned = make_tuned("sequence-classification", LABELS)
    for text, found in zip(TEXTS, tuned.classify(TEXTS), strict=True):
        output, _ = stock_logits(tuned, tmp_path / "hf", "AutoModelForSequenceClassification", text)
        expected = output.logits[0].softmax(0).tolist()
        assert found.text == text
        assert found.label == LABELS[int(np.argmax(expected))]
        for label, probability in zip(LABELS, expected, strict=True):
            assert found.probabilities[label] == pytest.approx(probability, abs=1e-5)
        assert next(iter(found.probabilities)) == found.label
        assert found.value is None


def test_pairs_are_read_as_transformers_reads_them(make_tuned, tmp_path):
    tuned = make_tuned("sentence-pair", LABELS)
    found = tuned.classify(TEXTS[0], TEXTS[1])[0]
    output, _ = stock_logits(
        tuned, tmp_path / "hf", "AutoModelForSequenceClassification", *TEXTS[:2]
    )
    best = output.logits[0].softmax(0)
    assert found.probabilities[LABELS[int(best.argmax())]] == pytest.approx(best.max().item())
    assert found.pair == TEXTS[1]


def test_regression_gives_numbers(make_tuned, tmp_path):
    tuned = make_tuned("regression")
    output, _ = stock_logits(tuned, tmp_path / "hf", "AutoModelForSequenceClassification", TEXTS[0])
    found = tuned.classify(TEXTS)[0]
    assert (found.label, found.probabilities) == (None, {})
    assert found.value == pytest.approx(output.logits.item(), abs=1e-5)


def test_tags_are_those_of_the_first_piece_of_each_word(make_tuned, tmp_path):
    tuned = make_tuned("token-classification", LABELS)
    text = "the cat sees the river."
    found = tuned.tag([text, "a dog"])[0]
    output, encoded = stock_logits(tuned, tmp_path / "hf", "AutoModelForTokenClassification", text)
    words = encoded.word_ids()
    places = [words.index(word) for word in range(6)]
    assert found.words == ["the", "cat", "sees", "the", "river", "."]
    best = output.logits[0, places].softmax(1)
    assert found.tags == [LABELS[i] for i in best.argmax(1).tolist()]
    np.testing.assert_allclose(found.probabilities, best.max(1).values, rtol=0, atol=1e-5)
    assert found.text == text
    assert tuned.tag([found.words])[0].tags == found.tags


def test_answers_are_stretches_of_the_passage(make_tuned):
    tuned = make_tuned("question-answering")
    passage = "my friend follows the long road. " * 12
    found = answer(tuned.tuned, ["who follows?", "what?"], [passage])
    for one in found.answers:
        assert one.answer == one.passage[one.start : one.end]
        assert 0 < one.probability < 1
    assert found.counts["in windows"] == 2
    assert tuned.answer("who follows?", passage) == found.answers[:1]


def test_the_texts_beside_change_nothing(make_tuned):
    tuned = make_tuned("sequence-classification", LABELS)
    for text, together in zip(TEXTS, tuned.classify(TEXTS), strict=True):
        alone = tuned.classify(text)[0]
        assert together.label == alone.label
        assert together.probabilities == pytest.approx(alone.probabilities, abs=1e-6)


def test_what_is_cut_or_windowed_is_counted(make_tuned):
    assert classify(
        make_tuned("sequence-classification", LABELS).tuned, ["the cat " * 50, "a dog"]
    ).counts == {"truncated": 1}
    tagged = tag(make_tuned("token-classification", LABELS).tuned, ["the cat " * 50, "a dog"])
    assert tagged.counts["in windows"] == 1
    assert len(tagged.answers[0].tags) == 100
    assert None not in tagged.answers[0].tags


def test_nothing_given_is_nothing_answered(make_tuned):
    assert make_tuned("sequence-classification", LABELS).classify([]) == []
    assert make_tuned("token-classification", LABELS).tag([]) == []
    assert make_tuned("question-answering").answer([], []) == []


def test_what_can_not_be_answered_is_a_clear_error(make_tuned):
    single, pair = (
        make_tuned("sequence-classification", LABELS),
        make_tuned("sentence-pair", LABELS),
    )
    tagger, reader = make_tuned("token-classification", LABELS), make_tuned("question-answering")
    with pytest.raises(FitError, match=r"fine-tuned for token-classification, .*: use tag"):
        tagger.classify("a")
    with pytest.raises(FitError, match=r"fine-tuned for question-answering, .*: use answer"):
        reader.tag("a")
    with pytest.raises(FitError, match=r"fine-tuned for sentence-pair, .*: use classify"):
        pair.answer("a", "b")
    with pytest.raises(FitError, match="give a second text for each"):
        pair.classify("a")
    with pytest.raises(FitError, match="it takes no second ones"):
        single.classify("a", "b")
    with pytest.raises(FitError, match="1 texts and 2 second texts: one each"):
        pair.classify("a", ["b", "c"])
    with pytest.raises(FitError, match=r"^text 2 of 2 is blank: ' '; give one"):
        single.classify(["a", " "])
    with pytest.raises(FitError, match=r"^second text is blank: ''; give one$"):
        pair.classify("a", "")
    with pytest.raises(FitError, match=r"^passage is blank: ''; give one$"):
        reader.answer("a", "")
    with pytest.raises(FitError, match="text 1 has no word, or an empty one"):
        tagger.tag(" ")
    with pytest.raises(FitError, match="text 1 has no word, or an empty one"):
        tagger.tag([["a", ""]])
    with pytest.raises(FitError, match="2 questions and 3 passages"):
        reader.answer(["a", "b"], ["c", "d", "e"])


def test_words_are_split_at_spaces_and_around_punctuation():
    words, spaces = split_words('She said: "I don’t!" (2 times)')
    assert words == ["She", "said", ":", '"', "I", "don’t", "!", '"', "(", "2", "times", ")"]
    assert [w for w, s in zip(words, spaces, strict=True) if s] == [
        "said",
        chr(34),
        "don’t",
        "(",
        "times",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Pay 3.50, not 1,000.", ["Pay", "3.50", ",", "not", "1,000", "."]),
        ("U.S. law, U.S.A., e.g. a.m", ["U.S.", "law", ",", "U.S.A.", ",", "e.g.", "a.m"]),
        ("Mr. X. node.js", ["Mr", ".", "X", ".", "node", ".", "js"]),
        ("हिन्दी भाषा।", ["हिन्दी", "भाषा", "।"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("مُحَمَّد هنا", ["مُحَمَّد", "هنا"]),
        ("می\u200cخواهم.", ["می\u200cخواهم", "."]),
        ("an \U0001f469\u200d\U0001f33e!", ["an", "\U0001f469\u200d\U0001f33e", "!"]),
        (
            "ok\U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
            ["ok", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7"],
        ),
        ("", []),
    ],
)
def test_words_keep_their_marks_and_numbers_their_points(text, words):
    found, spaces = split_words(text)
    assert found == words
    together = zip(words, spaces, strict=True)
    assert "".join((" " if space else "") + word for word, space in together) == text


@given(st.text(alphabet="ab1.,'’ \u0301\u093f\u200d!क\U0001f469\n"))
def test_splitting_loses_nothing_but_white_space(text):
    words, spaces = split_words(text)
    assert "".join(words) == "".join(text.split())
    assert len(words) == len(spaces)
    assert all(word and not any(map(str.isspace, word)) for word in words)


def test_texts_are_read_as_in_training_without_the_space_around_them(make_tuned):
    gpt = make_tuned("sequence-classification", LABELS)
    plain, spaced = gpt.classify(["a dog", " \ta dog \u2003"])
    assert spaced.probabilities == pytest.approx(plain.probabilities, abs=1e-7)


def test_load_tells_runs_from_fine_tuned_models(trained, make_tuned, tmp_path):
    assert isinstance(lmmodel.load(trained), Pretrained)
    assert isinstance(lmmodel.load(str(make_tuned("regression").tuned.path)), Specialist)
    with pytest.raises(RunError, match="holds no run"):
        lmmodel.load(tmp_path)
