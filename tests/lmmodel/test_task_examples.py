"""Rows become the ids that the stock tokenizer gives, and nothing is lost but what is counted."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lmdata.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from lmmodel.batch import IGNORED
from lmmodel.errors import TaskError
from lmmodel.tasks import task as tasks
from lmmodel.tasks.examples import TaskExamples
from lmmodel.tasks.known import TASKS, read_task_file
from lmmodel.tasks.questions import Answer, QuestionRows, make_question_rows
from lmmodel.tasks.tagging import encode_words
from lmmodel.tasks.task_files import TaskFormat
from lmmodel.tasks.text_rows import TextRows, make_text_rows
from lmmodel.tasks.words import WordRows, make_word_rows
from lmmodel.texts import cut_windows, find_frame, fit_pairs
from tests.lmmodel.tiny_tokenizers import TINY, tiny_gpt2

KINDS = sorted(TINY)
TEXT = st.text("ab ct.'do猫ä😀\u0301\n", max_size=30)
WORD = st.text("abct.'do猫ä😀", min_size=1, max_size=8)


def pieces(examples: TaskExamples, example: int) -> list[int]:
    start, end = examples.offsets[example : example + 2]
    return examples.input_ids[start:end].tolist()


def encode_task(
    rows: Any, *arguments: Any, task: str | None = None, **options: Any
) -> TaskExamples:
    """Return the examples of rows, by the task that reads such rows."""
    usual = {TextRows: "sequence-classification", WordRows: "token-classification",
             QuestionRows: "question-answering"}  # fmt: skip
    name = task or usual[type(rows)]
    return tasks.encode_task(TASKS[name], rows, *arguments, **options)


def stock(tokenizer: Tokenizer, length: int, stride: int, strategy: str) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = True
    backend.enable_truncation(length, stride=stride, strategy=strategy)
    return backend


def with_labels(rows: Any, **columns: Any) -> Any:
    return type(rows)(**{**vars(rows), **columns})


# Texts and pairs.


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), length=st.integers(7, 24))
def test_pairs_are_those_of_the_stock_tokenizer(
    kind: str, texts: list[tuple[str, str]], length: int
) -> None:
    rows = make_text_rows([a for a, _ in texts], [b for _, b in texts])
    examples = encode_task(rows, TINY[kind], (), length, is_training=False)
    backend = stock(TINY[kind], length, 0, "longest_first")
    for row, (first, second) in enumerate(texts):
        expected = backend.encode(first.strip(), second.strip())
        start, end = examples.offsets[row : row + 2]
        if expected.ids:
            assert pieces(examples, row) == expected.ids
            assert examples.token_type_ids[start:end].tolist() == expected.type_ids
    assert examples.row.tolist() == list(range(len(texts)))
    assert examples.lengths.min() >= 1


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(texts=st.lists(TEXT, min_size=1, max_size=5), length=st.integers(4, 24))
def test_single_texts_are_those_of_the_stock_tokenizer(
    kind: str, texts: list[str], length: int
) -> None:
    rows = make_text_rows(texts)
    examples = encode_task(rows, TINY[kind], (), length, is_training=False)
    backend = stock(TINY[kind], length, 0, "longest_first")
    expected = [backend.encode(text.strip()) for text in texts]
    assert [pieces(examples, row) for row in range(len(texts))] == [
        encoding.ids or [TINY[kind].special_ids["eos"]] for encoding in expected
    ]
    num_cut = sum(bool(encoding.overflowing) for encoding in expected)
    assert examples.counts.get("truncated", 0) == num_cut


def test_layouts_by_hand() -> None:
    bert, gpt2 = find_frame(TINY["wordpiece"], 2), find_frame(TINY["gpt2"], 2)
    assert bert.specials == ((2,), (3,), (3,))
    assert (bert.special_types, bert.text_types) == (((0,), (0,), (1,)), (0, 1))
    assert (gpt2.specials, gpt2.num_tokens) == (((), (), ()), 0)
    assert find_frame(TINY["wordpiece"], 1).specials == ((2,), (3,))
    with pytest.raises(TaskError, match=r"max_seq_length 6 leaves no room .* at least 7"):
        bert.room(6)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(2, 20))
def test_the_longer_text_gives_way(first: int, second: int, room: int) -> None:
    kept = fit_pairs(np.array([first]), np.array([second]), room)
    one, two = int(kept[0][0]), int(kept[1][0])
    assert one + two == min(first + second, room)
    assert one <= first
    assert two <= second
    if one < first and two < second:
        assert abs(one - two) <= 1


def test_empty_texts_are_left_out_of_training_and_scored_in_validation() -> None:
    rows = with_labels(make_text_rows(["cat", " ", "the"]), labels=[("a",), ("b",), ("b",)])
    for kind in KINDS:
        train = encode_task(rows, TINY[kind], ("a", "b"), 8, is_training=True)
        assert train.row.tolist() == [0, 2]
        assert train.labels is not None
        assert train.labels.tolist() == [0, 1]
        assert train.counts == {"left out: empty text": 1}
        scored = encode_task(rows, TINY[kind], ("a", "b"), 8, is_training=False)
        assert scored.row.tolist() == [0, 1, 2]
        assert scored.counts == {"empty text": 1}
        assert scored.num_rows == 3


def test_special_tokens_in_a_text_are_text() -> None:
    rows = make_text_rows(["[SEP]"])
    ids = pieces(encode_task(rows, TINY["wordpiece"], (), 8, is_training=False), 0)
    assert ids.count(3) == 1


def test_types_of_what_is_returned() -> None:
    rows = with_labels(make_text_rows(["cat", "the"]), labels=np.array([0.5, 2.0]))
    examples = encode_task(rows, TINY["wordpiece"], (), 8, is_training=True, task="regression")
    assert examples.input_ids.dtype == np.int32
    assert examples.token_type_ids.dtype == np.uint8
    assert examples.offsets.dtype == examples.row.dtype == np.int64
    assert examples.labels is not None
    assert examples.labels.dtype == np.float32
    assert examples.labels.tolist() == [0.5, 2.0]
    assert len(examples) == 2


def test_an_unknown_label_stops_the_encoding() -> None:
    rows = with_labels(make_text_rows(["cat"]), labels=[("c",)])
    with pytest.raises(TaskError, match="unknown label 'c'"):
        encode_task(rows, TINY["wordpiece"], ("a", "b"), 8, is_training=False)
    with pytest.raises(ValueError, match="overlap must be at least 0, got -1"):
        encode_task(rows, TINY["wordpiece"], ("c", "b"), 8, is_training=False, window_overlap=-1)


# Words.


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(
    sentences=st.lists(st.lists(st.tuples(WORD, st.booleans()), max_size=12), max_size=4),
    length=st.integers(4, 30),
    overlap=st.none() | st.integers(0, 9),
)
def test_every_word_is_scored_once(
    kind: str,
    sentences: list[list[tuple[str, bool]]],
    length: int,
    overlap: int | None,
) -> None:
    words = [[word for word, _ in sentence] for sentence in sentences]
    rows = make_word_rows(words, [[space for _, space in sentence] for sentence in sentences])
    rows = with_labels(rows, tags=[f"t{number % 3}" for number in range(len(rows.words))])
    examples = encode_task(
        rows, TINY[kind], ("t0", "t1", "t2"), length, is_training=False, window_overlap=overlap
    )
    assert examples.labels is not None
    scored = examples.of_tokens["word"][examples.of_tokens["is_scored"]]
    num_pieceless = examples.counts.get("words without a piece", 0)
    assert len(np.unique(scored)) == len(scored) == len(rows.words) - num_pieceless
    assert examples.labels[examples.of_tokens["is_scored"]].tolist() == [
        word % 3 for word in scored
    ]
    assert (examples.labels[~examples.of_tokens["is_scored"]] == IGNORED).all()
    assert examples.lengths.max(initial=0) <= length
    owner = np.searchsorted(rows.offsets, scored, side="right") - 1
    tokens = np.flatnonzero(examples.of_tokens["is_scored"])
    example = np.searchsorted(examples.offsets, tokens, side="right") - 1
    assert (examples.row[example] == owner).all()


@given(st.lists(WORD, min_size=1, max_size=9))
def test_wordpiece_ids_are_those_of_words_given_to_the_stock_tokenizer(words: list[str]) -> None:
    rows = make_word_rows([words])
    examples = encode_task(rows, TINY["wordpiece"], (), 512, is_training=False)
    expected = TINY["wordpiece"].backend.encode(words, is_pretokenized=True)
    assert pieces(examples, 0) == expected.ids
    ids = [None if index is None else index for index in expected.word_ids]
    first = [place for place, w in enumerate(ids) if w is not None and ids[place - 1] != w]
    assert np.flatnonzero(examples.of_tokens["is_scored"]).tolist() == first


@pytest.mark.parametrize("kind", ["gpt2", "modern", "unigram"])
def test_a_word_carries_the_space_before_it_as_in_running_text(kind: str) -> None:
    words = [["the", "cat", ",", "do", "n't", "cat"]]
    spaces = [[True, True, False, True, False, True]]
    tokenizer = TINY[kind]
    rows = make_word_rows(words, spaces)
    assert rows.text(0) == "the cat, don't cat"
    encoded = encode_words(tokenizer, rows)
    texts = ["the", " cat", ",", " do", "n't", " cat"]
    if kind == "unigram":
        assert [tokenizer.piece(i) for i in encoded.rows.ids[:3]] == ["▁the", "▁cat", ","]
        assert [tokenizer.piece(i) for i in encoded.rows.ids[3:]] == ["▁do", "n't", "▁cat"]
    else:
        ids = [tokenizer.backend.encode(t, add_special_tokens=False).ids for t in texts]
        assert encoded.rows.ids.tolist() == [index for word in ids for index in word]
    assert encoded.word[encoded.is_first].tolist() == [0, 1, 2, 3, 4, 5]


def test_words_without_a_piece_are_counted() -> None:
    rows = with_labels(make_word_rows([["cat", "\u200b", "the"]]), tags=["a", "b", "a"])
    examples = encode_task(rows, TINY["wordpiece"], ("a", "b"), 8, is_training=True)
    assert examples.counts == {"words without a piece": 1}
    assert examples.of_tokens["word"][examples.of_tokens["is_scored"]].tolist() == [0, 2]


def test_a_long_sentence_is_scored_where_each_word_has_most_context() -> None:
    rows = with_labels(make_word_rows([["cat"] * 10]), tags=["a"] * 10)
    examples = encode_task(
        rows, TINY["wordpiece"], ("a", "b"), 6, is_training=True, window_overlap=2
    )
    assert examples.counts == {"in windows": 1, "windows": 4}
    words = [
        examples.of_tokens["word"][b:e][examples.of_tokens["is_scored"][b:e]].tolist()
        for b, e in zip(examples.offsets[:-1], examples.offsets[1:], strict=True)
    ]
    assert words == [[0, 1, 2], [3, 4], [5, 6], [7, 8, 9]]
    assert examples.row.tolist() == [0] * 4


def test_a_sentence_without_words_is_left_out_of_training() -> None:
    rows = with_labels(make_word_rows([[], ["cat"]]), tags=["a"])
    assert encode_task(rows, TINY["gpt2"], ("a", "b"), 8, is_training=True).row.tolist() == [1]
    scored = encode_task(rows, TINY["gpt2"], ("a", "b"), 8, is_training=False)
    assert scored.row.tolist() == [0, 1]
    assert scored.counts == {"no words": 1}


# Questions and windows.


@given(st.lists(st.integers(0, 60), max_size=5), st.integers(1, 20), st.none() | st.integers(0, 12))
def test_windows_hold_every_token_and_cores_hold_it_once(
    lengths: list[int], room: int, overlap: int | None
) -> None:
    sizes = np.array(lengths, np.int64)
    windows = cut_windows(sizes, np.full(len(sizes), room), overlap)
    assert (windows.lengths <= room).all()
    for sequence, length in enumerate(lengths):
        own = np.flatnonzero(windows.sequence == sequence)
        spans = [range(windows.starts[w], windows.starts[w] + windows.lengths[w]) for w in own]
        cores = [range(windows.core_starts[w], windows.core_ends[w]) for w in own]
        assert set().union(*spans) == set(range(length))
        assert [token for core in cores for token in core] == list(range(length))
        assert all(set(core) <= set(span) for core, span in zip(cores, spans, strict=True))
        shared = min(64 if overlap is None else overlap, room // 2)
        for before, after in itertools.pairwise(spans):
            assert before.stop - after.start == shared


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(
    question=st.text("abc ?", min_size=1, max_size=6).filter(str.strip),
    passage=TEXT.filter(str.strip),
    length=st.integers(20, 40),
    overlap=st.integers(0, 4),
)
def test_windows_of_passages_are_those_of_the_stock_tokenizer(
    kind: str, question: str, passage: str, length: int, overlap: int
) -> None:
    tokenizer = TINY[kind]
    rows = make_question_rows([question], [passage])
    examples = encode_task(rows, tokenizer, (), length, is_training=False, window_overlap=overlap)
    first = stock(tokenizer, length, overlap, "only_second").encode(question.strip(), passage)
    expected = [first, *first.overflowing]
    assert [pieces(examples, e) for e in range(len(examples))] == [e.ids for e in expected]
    types = [index for encoding in expected for index in encoding.type_ids]
    assert examples.token_type_ids.tolist() == types


def answered(question: str, passage: str, *answers: Answer) -> QuestionRows:
    rows: QuestionRows = with_labels(make_question_rows([question], [passage]), answers=[answers])
    return rows


def test_answers_by_hand() -> None:
    passage = "The old Cat sat. The dog."
    rows = answered("cat?", passage, Answer("Cat", 3), Answer("old Cat", 4))
    examples = encode_task(rows, TINY["wordpiece"], (), 64, is_training=True)
    assert examples.labels is not None
    first, last = examples.labels[0]
    assert [TINY["wordpiece"].piece(i) for i in examples.input_ids[first : last + 1]] == [
        "old", "cat",
    ]  # fmt: skip
    assert (
        passage[examples.of_tokens["starts"][first] : examples.of_tokens["ends"][last]] == "old Cat"
    )


def test_an_answer_outside_a_window_is_at_zero() -> None:
    passage = " ".join(["cat"] * 20 + ["old"] + ["the"] * 20)
    rows = answered("a?", passage, Answer("old", 80))
    examples = encode_task(rows, TINY["wordpiece"], (), 15, is_training=True, window_overlap=3)
    assert examples.labels is not None
    has_answer = examples.labels.any(1)
    old = TINY["wordpiece"].backend.token_to_id("old")
    holds = [old in pieces(examples, example) for example in range(len(examples))]
    assert has_answer.tolist() == holds
    assert sum(holds) >= 1
    for example in np.flatnonzero(has_answer):
        first, last = examples.labels[example]
        assert first == last
        assert pieces(examples, int(example))[first] == old


def test_answers_that_are_not_there_are_left_out_of_training_only() -> None:
    rows = QuestionRows(
        path="dev.json", lines=np.arange(1, 5),
        questions=["cat?", "cat?", "cat?", " "], passages=["the cat"],
        passage_of=np.zeros(4, np.int64), ids=list("abcd"),
        answers=[[Answer("cat", 4)], [Answer("cat", 5)], [], [Answer("cat", 4)]],
    )  # fmt: skip
    train = encode_task(rows, TINY["modern"], (), 32, is_training=True)
    assert train.row.tolist() == [0, 2]
    assert train.labels is not None
    assert train.labels[1].tolist() == [0, 0]  # no answer is learned as the first token
    assert train.counts == {
        "left out: answer not in its passage": 1,
        "questions without an answer": 1,
        "left out: empty question": 1,
    }
    scored = encode_task(rows, TINY["modern"], (), 32, is_training=False)
    assert scored.row.tolist() == [0, 1, 2, 3]
    assert scored.counts == {
        "answer not in its passage": 1, "questions without an answer": 1, "empty question": 1,
    }  # fmt: skip


def test_a_long_question_is_cut_to_half_of_the_room() -> None:
    rows = make_question_rows(["cat " * 30], ["the cat"])
    examples = encode_task(rows, TINY["wordpiece"], (), 13, is_training=False)
    assert examples.counts == {"questions truncated": 1}
    assert examples.input_ids.tolist() == [2, *[6] * 5, 3, 5, 6, 3]


def test_questions_without_labels_have_none() -> None:
    rows = make_question_rows(["cat?"], [""])
    examples = encode_task(rows, tiny_gpt2(), (), 32, is_training=False)
    assert examples.labels is None
    assert not examples.of_tokens["is_scored"].any()


# The stock library, and real data.


def test_the_stock_tokenizer_of_an_exported_folder_gives_these_ids(
    tmp_path: Path, shared_data: Path
) -> None:
    from transformers import AutoTokenizer

    bert = load_tokenizer(shared_data / "vocab/bert-base-uncased")
    save_tokenizer(bert, tmp_path)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    rows = read_task_file(shared_data / "tasks/rte/dev.tsv", "sentence-pair", TaskFormat())
    assert isinstance(rows, TextRows)
    examples = encode_task(
        rows, bert, TASKS["sentence-pair"].find_labels(rows), 64, is_training=False
    )
    expected = auto(list(rows.texts), list(rows.pairs or ()), truncation=True, max_length=64)
    assert [pieces(examples, row) for row in range(len(rows))] == expected["input_ids"]
    assert examples.token_type_ids.tolist() == list(
        itertools.chain.from_iterable(expected["token_type_ids"])
    )


@pytest.fixture(scope="module")
def treebank(shared_data: Path) -> WordRows:
    path = shared_data / "tasks/ud-en-ewt/train.conllu.zst"
    return read_task_file(path, "token-classification", TaskFormat())


@pytest.mark.parametrize("name", ["bert-base-cased", "gpt2"])
def test_tags_of_the_treebank(shared_data: Path, treebank: WordRows, name: str) -> None:
    tokenizer, rows = load_tokenizer(shared_data / "vocab" / name), treebank
    assert isinstance(rows, WordRows)
    examples = encode_task(
        rows, tokenizer, TASKS["token-classification"].find_labels(rows), 48, is_training=True
    )
    scored = np.sort(examples.of_tokens["word"][examples.of_tokens["is_scored"]])
    assert (scored == np.arange(len(rows.words))).all()
    words = encode_words(tokenizer, rows).rows
    texts = [rows.text(row) for row in range(200)]
    whole = tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)
    num_other = sum(
        (Counter(encoding.ids) - Counter(words.ids[start:end].tolist())).total()
        for encoding, start, end in zip(whole, words.offsets, words.offsets[1:], strict=False)
    )
    # Only pieces such as "don" differ, which stand for parts of two words ("do" and "n't").
    assert num_other / sum(len(encoding.ids) for encoding in whole) < 0.02
