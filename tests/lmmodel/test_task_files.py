"""Task files of every format say the same, and say what is wrong with them."""

from __future__ import annotations

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lmmodel.errors import TaskError
from lmmodel.tasks import tables
from lmmodel.tasks.classification import label_ids
from lmmodel.tasks.examples import sort_labels
from lmmodel.tasks.known import TASKS, read_task_file
from lmmodel.tasks.questions import Answer, QuestionRows, make_question_rows
from lmmodel.tasks.task_files import TaskFile, TaskFormat
from lmmodel.tasks.text_rows import TextRows
from lmmodel.tasks.words import WordRows, make_word_rows, tag_ids

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.compress(data[:7]) + zstandard.compress(data[7:]),
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
RECORDS: list[dict[str, Any]] = [
    {"premise": "A cat sat.", "hypothesis": 'It "sat", so', "label": "yes"},
    {"premise": "Ein Tür, naïve 😀", "hypothesis": "nothing", "label": "no"},
]
MANY_LINES = "".join(f"line {number}\t1\n" for number in range(999)).encode()


def as_tsv(records: list[dict[str, Any]]) -> bytes:
    lines = [list(records[0]), *[map(str, record.values()) for record in records]]
    return "".join("\t".join(line) + "\n" for line in lines).encode()


def as_csv(records: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def as_jsonl(records: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, records)).encode()


def as_json(records: list[dict[str, Any]]) -> bytes:
    return json.dumps(records, indent=1).encode()


def as_parquet(records: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(records), sink)
    return sink.getvalue().to_pybytes()


FORMATS = {
    "tsv": as_tsv,
    "csv": as_csv,
    "jsonl": as_jsonl,
    "json": as_json,
    "parquet": as_parquet,
}


def read_text_rows(path: Path, task: str, **columns: Any) -> TextRows:
    rows = read_task_file(path, task, TaskFormat(**columns))
    assert isinstance(rows, TextRows)
    return rows


def read_word_rows(path: Path, **columns: Any) -> WordRows:
    rows = read_task_file(path, "token-classification", TaskFormat(**columns))
    assert isinstance(rows, WordRows)
    return rows


def read_question_rows(path: Path, **columns: Any) -> QuestionRows:
    rows = read_task_file(path, "question-answering", TaskFormat(**columns))
    assert isinstance(rows, QuestionRows)
    return rows


def find_labels(rows: Any, task: str = "sequence-classification") -> tuple[str, ...]:
    return TASKS[task].find_labels(rows)


def references(rows: Any, labels: tuple[str, ...], task: str = "sequence-classification") -> Any:
    return TASKS[task].references(rows, labels)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("extension", FORMATS)
def test_every_format_holds_the_same_pairs(
    tmp_path: Path, extension: str, compression: str
) -> None:
    data = COMPRESS[compression](FORMATS[extension](RECORDS))
    path = write(tmp_path / f"train.{extension}{compression}", data)
    rows = read_text_rows(path, "sentence-pair")
    assert rows.pairs is not None
    assert list(rows.texts) == [record["premise"] for record in RECORDS]
    assert list(rows.pairs) == [record["hypothesis"] for record in RECORDS]
    assert rows.labels == [("yes",), ("no",)]
    assert find_labels(rows) == ("no", "yes")


def test_a_lone_quotation_mark_is_text_in_tsv_and_quoting_in_csv(tmp_path: Path) -> None:
    tsv = write(tmp_path / "a.tsv", 'sentence\tlabel\n"so he said\t1\nno "\t0\n')
    assert list(read_text_rows(tsv, "sequence-classification").texts) == ['"so he said', 'no "']
    quoted = write(tmp_path / "a.csv", 'sentence,label\n"a, ""b""\nc",1\nd,0\n')
    rows = read_text_rows(quoted, "sequence-classification")
    assert list(rows.texts) == ['a, "b"\nc', "d"]
    assert rows.lines.tolist() == [2, 4]
    broken = write(tmp_path / "b.csv", 'sentence,label\n"a,1\nd,0\n')
    with pytest.raises(TaskError, match=r"b\.csv, line 2: .*a quotation mark inside"):
        read_text_rows(broken, "sequence-classification")


def test_byte_order_mark_carriage_returns_and_line_separators(tmp_path: Path) -> None:
    text = "\ufeffsentence\tlabel\r\na\u2028b \t1\r\nc\t0\r\n"
    rows = read_text_rows(write(tmp_path / "a.tsv", text), "sequence-classification")
    assert list(rows.texts) == ["a\u2028b", "c"]
    assert rows.labels == [("1",), ("0",)]


def test_columns_are_numbers_where_there_is_no_header(tmp_path: Path) -> None:
    path = write(tmp_path / "cola.tsv", "gj04\t1\t\tBill broke it.\ngj04\t0\t*\tBill broken.\n")
    rows = read_text_rows(path, "sequence-classification", text="3", label="1", has_header=False)
    assert list(rows.texts) == ["Bill broke it.", "Bill broken."]
    assert rows.lines.tolist() == [1, 2]
    with pytest.raises(TaskError, match=r"--no-header and numbers"):
        read_text_rows(path, "sequence-classification")
    with pytest.raises(TaskError, match=r"no column '3'.*--no-header"):
        read_text_rows(path, "sequence-classification", text="3", label="1")
    with pytest.raises(TaskError, match=r"numbers only: 0 \('gj04'\), 1 \('1'\)"):
        read_text_rows(path, "sequence-classification", has_header=False)
    with pytest.raises(TaskError, match=r"has no column '4': it has numbers only: 0"):
        read_text_rows(path, "sequence-classification", text="4", label="1", has_header=False)


@pytest.mark.parametrize(
    ("header", "task", "text", "pair"),
    [
        ("sentence label", "sequence-classification", "sentence", None),
        ("index Text Label", "sequence-classification", "Text", None),
        ("index sentence1 sentence2 label", "sentence-pair", "sentence1", "sentence2"),
        ("index question sentence label", "sentence-pair", "question", "sentence"),
        ("id qid1 question1 question2 is_duplicate", "sentence-pair", "question1", "question2"),
        ("genre sentence1 sentence2 score", "regression", "sentence1", "sentence2"),
        ("sentence score", "regression", "sentence", None),
    ],
)
def test_usual_headers_are_known(
    tmp_path: Path, header: str, task: str, text: str, pair: str | None
) -> None:
    names = header.split()
    lines = [
        names,
        [f"{n}" if n.lower() in ("label", "score", "is_duplicate") else f"<{n}>" for n in names],
    ]
    lines[1][-1] = "1"
    path = write(tmp_path / "a.tsv", "".join("\t".join(line) + "\n" for line in lines))
    rows = read_text_rows(path, task)
    assert list(rows.texts) == [f"<{text}>"]
    assert (rows.pairs and rows.pairs[0]) == (pair and f"<{pair}>")


@pytest.mark.parametrize(
    ("header", "task", "columns", "message"),
    [
        (
            "sentence text label",
            "sequence-classification",
            {},
            "could be 'sentence' or 'text'.*The columns are 'sentence', 'text', 'label'",
        ),
        (
            "sentence label class",
            "sequence-classification",
            {},
            "label could be 'label' or 'class'",
        ),
        (
            "a b label",
            "sentence-pair",
            {},
            "which columns hold the text and the second text.*'a', 'b', 'label'",
        ),
        ("sentence1 sentence2 x", "sentence-pair", {}, "which column holds the label.*--label"),
        (
            "sentence label",
            "sequence-classification",
            {"text": "sentense"},
            "no column 'sentense'.*did you mean 'sentence'",
        ),
        (
            "sentence label",
            "sequence-classification",
            {"label": "tag"},
            "no column 'tag': it has 'sentence', 'label'",
        ),
        (
            "sentence label",
            "sequence-classification",
            {"pair": "label"},
            "reads one text.*take sentence-pair",
        ),
        (
            "sentence sentence label",
            "sequence-classification",
            {},
            "names the column 'sentence' twice",
        ),
        ("sentence label", "sequence-classification", {"tags": "xpos"}, "is no CoNLL-U"),
    ],
)
def test_columns_that_are_missing_or_ambiguous(
    tmp_path: Path, header: str, task: str, columns: dict[str, Any], message: str
) -> None:
    line = "\t".join(header.split())
    path = write(tmp_path / "a.tsv", f"{line}\n{line}\n")
    with pytest.raises(TaskError, match=message):
        read_task_file(path, task, TaskFormat(**columns))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "sentence\tlabel\na\t1\nb\n", r"line 3 has 1 field, the first line has 2"),
        ("a.tsv", "sentence\tlabel\n", "holds no rows"),
        ("a.tsv", "", "holds no rows"),
        ("a.tsv", b"sentence\tlabel\n\xff\t1\n", "not UTF-8 at byte 15"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1}\n\n{"text": 5, "label": 1}',
            "line 3: 'text' is '5'",
        ),
        ("a.jsonl", '{"text": "a", "label": 0.5}', "line 1: the label 'label' is '0.5'"),
        ("a.jsonl", '{"text": "a"', "line 1 is not JSON"),
        ("a.tsv", "text\tlabel\na\t1\n".encode("utf-16-le"), "name its --encoding utf-16-le"),
        ("a.tsv.gz", b"", "it is empty, it has no .gz header"),
        ("a.tsv", "text\tlabel\na\n", "line 2 has 1 field, the first line has 2"),
        ("a.jsonl", '["a"]', "line 1 is list: a JSON object"),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}', "half a character"),
        ("a.parquet", "no", "not a Parquet file"),
        ("a.tsv.gz", "no", "can't be read as .gz"),
        ("a.tsv.zst", "no", "can't be read as .zst"),
        ("a.tsv.xz", "no", "can't be read as .xz"),
        ("a.tsv.gz", gzip.compress(MANY_LINES)[:-9], "read as .gz: it ends in the middle"),
        ("a.tsv.zst", zstandard.compress(MANY_LINES)[:-9], "can't be read as .zst"),
        ("a.tsv.xz", lzma.compress(MANY_LINES)[:-9], "can't be read as .xz"),
        ("a.txt", "a", "no known extension: rename it to .tsv"),
        ("a.conllu", "1\ta\n", "its task is token-classification"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        read_task_file(write(tmp_path / name, content), "sequence-classification", TaskFormat())


def test_a_missing_file_and_settings_without_effect(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"can't read .*absent\.tsv: No such file"):
        read_task_file(tmp_path / "absent.tsv", "regression", TaskFormat())
    with pytest.raises(ValueError, match="no labels are read"):
        TaskFormat(label="a", has_labels=False)
    with pytest.raises(ValueError, match="tags must be upos or xpos, got 'pos'"):
        TaskFormat(tags="pos")  # type: ignore[arg-type]
    path = write(tmp_path / "a.jsonl", as_jsonl(RECORDS))
    with pytest.raises(TaskError, match="always names its columns"):
        read_task_file(path, "sentence-pair", TaskFormat(has_header=False))
    for name, task in (("a.conllu", "token-classification"), ("a.json", "question-answering")):
        with pytest.raises(TaskError, match="--no-header is for TSV"):
            read_task_file(write(tmp_path / name, ""), task, TaskFormat(has_header=False))
    with pytest.raises(ValueError, match="task must be one of sequence"):
        read_task_file(path, "pairs", TaskFormat())  # type: ignore[arg-type]


def test_a_format_can_be_named_and_labels_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "texts", "sentence\nthe cat\n")
    rows = read_text_rows(path, "sequence-classification", file_format="tsv", has_labels=False)
    assert rows.labels is None
    with pytest.raises(TaskError, match="read without labels"):
        references(rows, ("0", "1"))


def test_numbers_of_regression(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sentence,score\na,0.5\nb,-2\n")
    rows = read_text_rows(path, "regression")
    assert list(references(rows, (), "regression")) == [0.5, -2.0]
    assert find_labels(rows, "regression") == ()
    huge = write(tmp_path / "h.csv", "sentence,score\na,1e30\n")
    with pytest.raises(TaskError, match=r"line 2: 'score' is 1e\+30, at most 1e\+15 is: choose"):
        read_text_rows(huge, "regression")
    for value in ("high", "nan", ""):
        broken = write(tmp_path / "b.csv", f"sentence,score\na,{value}\n")
        with pytest.raises(TaskError, match=r"line 2: 'score' is .*a number is wanted"):
            read_text_rows(broken, "regression")


def test_an_unknown_label_is_an_error_with_the_known_and_the_near_one(tmp_path: Path) -> None:
    train = write(tmp_path / "a.tsv", "sentence\tlabel\na\tgood\nb\tbad\n")
    labels = find_labels(read_text_rows(train, "sequence-classification"))
    other = write(tmp_path / "b.tsv", "sentence\tlabel\na\tgood\nb\tgod\n")
    rows = read_text_rows(other, "sequence-classification")
    with pytest.raises(
        TaskError,
        match=r"b\.tsv, line 3: unknown label 'god'; .* 'bad', 'good'; did you mean 'good'",
    ):
        label_ids(rows, labels)
    only = write(tmp_path / "c.tsv", "sentence\tlabel\na\tgood\n")
    with pytest.raises(TaskError, match="only the label 'good': a classifier needs at least two"):
        find_labels(read_text_rows(only, "sequence-classification"))


def test_labels_are_sorted_by_number_where_they_are_numbers() -> None:
    assert sort_labels(["10", "2", "2", "-1"]) == ("-1", "2", "10")
    assert sort_labels(["b", "a", "10"]) == ("10", "a", "b")
    assert sort_labels(["5", "--5", "10"]) == ("--5", "10", "5")


def test_a_field_of_csv_may_be_a_whole_document(tmp_path: Path) -> None:
    text = "word " * 100_000
    limit = csv.field_size_limit()
    path = write(tmp_path / "a.csv", f'text,label\n"{text}",a\nb,b\n')
    rows = read_text_rows(path, "sequence-classification")
    assert list(rows.texts) == [text.strip(), "b"]
    assert csv.field_size_limit() == limit


def test_an_unknown_label_of_many_lists_a_few(tmp_path: Path) -> None:
    labels = tuple(f"label{n:02}" for n in range(60))
    rows = read_text_rows(
        write(tmp_path / "b.tsv", "sentence\tlabel\na\tother\n"), "sequence-classification"
    )
    with pytest.raises(TaskError, match=r"'label09' and 50 more: mend it, or add examples"):
        label_ids(rows, labels)


# Words and tags.

CONLLU = """# newdoc
# text = I don't, du!
1	I	I	PRON	PRP	_	0	root	_	_
2-3	don't	_	_	_	_	_	_	_	SpaceAfter=No
2	do	do	AUX	VB	_	0	_	_	_
3	n't	not	PART	RB	_	0	_	_	_
3.1	gone	go	VERB	VB	_	_	_	_	_
4	,	,	PUNCT	,	_	0	_	_	X=Y|SpaceAfter=No|A=B
5-6	du	_	_	_	_	_	_	_	SpaceAfter=No
5	de	de	ADP	_	_	0	_	_	_
6	le	le	DET	_	_	0	_	_	_
7	!	!	PUNCT	.	_	0	_	_	_

# text = Yes
1	Yes	yes	INTJ	UH	_	0	root	_	_
"""


def test_words_of_conllu_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conllu", CONLLU)
    rows = read_word_rows(path)
    assert rows.words == ["I", "do", "n't", ",", "de", "le", "!", "Yes"]
    assert rows.tags == ["PRON", "AUX", "PART", "PUNCT", "ADP", "DET", "PUNCT", "INTJ"]
    assert rows.offsets.tolist() == [0, 7, 8]
    assert rows.lines.tolist() == [3, 15]
    assert rows.text(0) == "I don't,de le!"
    assert rows.text(1) == "Yes"
    assert rows.counts == {
        "multiword tokens": 2,
        "multiword tokens whose words do not spell them": 1,
    }
    fine = read_word_rows(path, tags="xpos")
    assert fine.tags == ["PRP", "VB", "RB", ",", None, None, ".", "UH"]
    assert fine.counts["words without a tag"] == 2
    assert tag_ids(fine, find_labels(fine, "token-classification")).tolist()[4:6] == [-100, -100]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("1\tI\tI\tPRON\n", {}, r"line 1 has 4 fields .*tags that do not match their words"),
        ("1\ta" + "\t_" * 8 + "\n3\tb" + "\t_" * 8, {}, r"line 2: word '3' where word 2 is due"),
        ("1-2\ta" + "\t_" * 8 + "\n1\tb" + "\t_" * 8, {}, r"'1-2' is not a range of the 1 words"),
        ("1\ta" + "\t_" * 8 + "\n", {}, "no upos tags: try --set columns.tags=xpos"),
        ("# nothing\n\n", {}, "holds no words"),
        ("1\ta" + "\t_" * 8 + "\n", {"text": "form"}, "'form' would have no effect"),
    ],
)
def test_conllu_that_does_not_fit(
    tmp_path: Path, text: str, columns: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "a.conllu", text)
    with pytest.raises(TaskError, match=message):
        read_word_rows(path, **columns)


@pytest.mark.parametrize("extension", FORMATS)
def test_words_and_tags_in_columns(tmp_path: Path, extension: str) -> None:
    is_text = extension in ("tsv", "csv")
    records = [
        {"tokens": ["the", "cat"], "tags": ["D", "N"]},
        {"tokens": ["sat"], "tags": ["V"]},
    ]
    if is_text:
        records = [{k: " ".join(v) for k, v in record.items()} for record in records]  # type: ignore[misc]
    path = write(tmp_path / f"a.{extension}", FORMATS[extension](records))  # type: ignore[arg-type]
    rows = read_word_rows(path)
    assert rows.words == ["the", "cat", "sat"]
    assert rows.tags == ["D", "N", "V"]
    assert rows.has_space.tolist() == [False, True, False]


def test_tags_that_do_not_match_their_words(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", '{"words": ["a", "b"], "tags": [1, 2]}\n{"words": ["a"], "tags": []}'
    )
    with pytest.raises(
        TaskError,
        match=r"a\.jsonl, line 2: tags that do not match their words: 1 words, 0 tags",
    ):
        read_word_rows(path)
    path = write(tmp_path / "b.jsonl", '{"words": [["a"]], "tags": [1]}')
    with pytest.raises(TaskError, match=r"line 1: 'words' is .*a list of words"):
        read_word_rows(path)


def test_an_unknown_tag_names_line_and_word() -> None:
    rows = make_word_rows([["a"], ["b", "c"]])
    rows = WordRows(**{**vars(rows), "tags": ["X", "Y", "Z"], "path": "dev.conllu"})
    with pytest.raises(
        TaskError,
        match=r"dev\.conllu, line 2, word 2 \('c'\): unknown label 'Z'",
    ):
        tag_ids(rows, ("X", "Y"))


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=4), max_size=5))
def test_made_rows_of_words_keep_every_word(
    sentences: list[list[tuple[str, bool]]],
) -> None:
    words = [[word for word, _ in sentence] for sentence in sentences]
    spaces = [[space for _, space in sentence] for sentence in sentences]
    rows = make_word_rows(words, spaces)
    assert len(rows) == len(sentences)
    for number, sentence in enumerate(sentences):
        expected = "".join(" " * space + word for word, space in sentence).removeprefix(" ")
        assert rows.text(number) == expected


# Questions.

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "The old cat sat.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Who?",
                            "answers": [
                                {"text": "old cat", "answer_start": 4},
                                {"text": "cat", "answer_start": 8},
                            ],
                        },
                        {
                            "id": "q2",
                            "question": "What?",
                            "answers": [{"text": "sat", "answer_start": 3}],
                        },
                    ],
                },
                {"context": "猫在家。", "qas": [{"id": "q3", "question": "谁?", "answers": []}]},
            ],
        }
    ],
}


def test_questions_of_squad_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json.xz", lzma.compress(json.dumps(SQUAD).encode()))
    rows = read_question_rows(path)
    assert rows.questions == ["Who?", "What?", "谁?"]
    assert rows.passages == ["The old cat sat.", "猫在家。"]
    assert rows.passage_of.tolist() == [0, 0, 1]
    assert rows.ids == ["q1", "q2", "q3"]
    assert rows.answers == [[Answer("old cat", 4), Answer("cat", 8)], [Answer("sat", 3)], []]
    assert references(rows, (), "question-answering") == [["old cat", "cat"], ["sat"], []]
    assert read_question_rows(path, has_labels=False).answers is None


def test_questions_in_columns(tmp_path: Path) -> None:
    records = [
        {
            "id": "x",
            "question": "Who?",
            "context": "A cat, a cat.",
            "answers": {"text": ["cat"], "answer_start": [9]},
        },
        {
            "id": "y",
            "question": "What?",
            "context": "A cat, a cat.",
            "answers": {"text": [], "answer_start": []},
        },
    ]
    for extension in ("jsonl", "parquet", "json"):
        path = write(tmp_path / f"a.{extension}", FORMATS[extension](records))
        rows = read_question_rows(path)
        assert rows.answers == [[Answer("cat", 9)], []]
        assert rows.ids == ["x", "y"]
        assert len(rows.passages) == 1
    flat = write(tmp_path / "b.tsv", "question\tcontext\tanswer\nWho?\tA cat, a cat.\tcat\n")
    assert read_question_rows(flat).answers == [[Answer("cat", 2)]]
    placed = write(
        tmp_path / "c.tsv", "question\tcontext\tanswer\tanswer_start\nWho?\tA cat, a cat.\tcat\t9\n"
    )
    assert read_question_rows(placed).answers == [[Answer("cat", 9)]]
    broken = write(tmp_path / "d.jsonl", '{"question": "a", "context": "b", "answers": [5]}')
    with pytest.raises(TaskError, match=r"line 1: the answers are '\[5\]'"):
        read_question_rows(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": 3}, "the file has no list 'data'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "article 1, paragraph 1 has no text 'context'"),
        (
            {"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "q", "question": "b"}]}]}]},
            "question 'q' has no list 'answers'",
        ),
        ({"data": [{"paragraphs": []}]}, "holds no questions"),
    ],
)
def test_squad_that_is_not_squad(tmp_path: Path, change: Any, message: str) -> None:
    path = write(
        tmp_path / "a.json", json.dumps({**change, "note": "paragraphs"} | {"paragraphs": 1})
    )
    with pytest.raises(TaskError, match=message):
        read_question_rows(path)


def test_squad_is_for_questions(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps(SQUAD))
    with pytest.raises(TaskError, match="its task is question-answering, not sentence-pair"):
        read_task_file(path, "sentence-pair", TaskFormat())


def test_made_questions_share_passages() -> None:
    rows = make_question_rows(["a", "b", "c"], ["x", "y", "x"])
    assert rows.passage_of.tolist() == [0, 1, 0]
    assert rows.passage(2) == "x"


# Real data.


def test_english_web_treebank_is_its_own_text(shared_data: Path) -> None:
    path = shared_data / "tasks/ud-en-ewt/train.conllu.zst"
    rows = read_word_rows(path)
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        texts = [line[9:].rstrip("\n") for line in file if line.startswith("# text = ")]
    assert [rows.text(row) for row in range(len(rows))] == texts
    assert len(rows) == 12544
    assert len(find_labels(rows, "token-classification")) == 17
    assert rows.counts == {"multiword tokens": 2614}


def test_glue_files(shared_data: Path) -> None:
    tasks = shared_data / "tasks"
    assert len(read_text_rows(tasks / "sst2/dev.tsv", "sequence-classification")) == 872
    assert len(read_text_rows(tasks / "rte/dev.tsv", "sentence-pair")) == 277
    columns: dict[str, Any] = {"has_header": False, "text": "1", "pair": "2", "label": "3"}
    assert len(read_text_rows(tasks / "rte/val.tsv", "sentence-pair", **columns)) == 363
    cola: dict[str, Any] = {"has_header": False, "text": "3", "label": "1"}
    rows = read_text_rows(tasks / "cola/dev.tsv", "sequence-classification", **cola)
    assert len(rows) == 1043
    assert find_labels(rows) == ("0", "1")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_xquad_answers_are_where_they_say(shared_data: Path, language: str) -> None:
    rows = read_question_rows(shared_data / f"tasks/xquad/xquad.{language}.json")
    assert len(rows) == 1190
    assert rows.answers is not None
    for row, answers in enumerate(rows.answers):
        assert all(answer.is_in(rows.passage(row)) for answer in answers)


# As people have them.


def both(path: Path, task: str, **columns: Any) -> tuple[Any, tuple[str, ...], TaskFile]:
    file = TaskFile(path, TaskFormat(**columns))
    rows = read_task_file(file, task, file.columns)
    return rows, TASKS[task].settle(rows).find_labels(rows), file


def test_a_ragged_line_is_named_or_left_out_and_counted(tmp_path: Path) -> None:
    text = "question1\tquestion2\tis_duplicate\na\tb\t0\nbroken\nc\td\t1\n"
    path = write(tmp_path / "qqp.tsv", text)
    with pytest.raises(TaskError, match=r"line 3 has 1 field.*by --errors skip"):
        read_task_file(path, "sentence-pair", TaskFormat())
    rows, labels, _ = both(path, "sentence-pair", errors="skip")
    assert (list(rows.texts), labels) == (["a", "c"], ("0", "1"))
    assert rows.counts == {"left out: lines that do not fit": 1}
    assert rows.lines.tolist() == [2, 4]


def test_fields_behind_the_last_column_are_passed_over_and_counted(tmp_path: Path) -> None:
    text = "score\tsentence1\tsentence2\n1.5\ta b\tc\tlicence\tanother\n2\td\te\n"
    rows, _, _ = both(write(tmp_path / "sts.tsv", text), "regression")
    assert list(rows.labels) == [1.5, 2.0]
    assert sum(rows.counts.values()) == 1
    csv_file = write(tmp_path / "a.csv", "sentence,label\na,1,extra\nb,0\n")
    with pytest.raises(TaskError, match="line 2 has 3 fields"):
        read_task_file(csv_file, "sequence-classification", TaskFormat())


@pytest.mark.parametrize("none", ["-1", "-", "", None, -1, "nan", "NaN", float("nan")])
def test_the_labels_of_hidden_tests_are_no_classes(tmp_path: Path, none: Any) -> None:
    records = [{"sentence": f"text {n}", "label": n % 2} for n in range(4)]
    records.append({"sentence": "hidden", "label": none})
    rows, labels, _ = both(
        write(tmp_path / "a.jsonl", as_jsonl(records)), "sequence-classification"
    )
    assert labels == ("0", "1")
    assert label_ids(rows, labels).tolist() == [0, 1, 0, 1, -100]


def test_minus_one_is_a_class_where_there_would_be_one_class_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "sentence\tlabel\na\t-1\nb\t1\nc\t-1\n")
    rows, labels, _ = both(path, "sequence-classification")
    assert labels == ("-1", "1")
    assert label_ids(rows, labels).tolist() == [0, 1, 0]


def test_one_label_is_spelled_in_many_ways(tmp_path: Path) -> None:
    floats = pa.table({"sentence": ["a", "b", "c"], "label": pa.array([1.0, 0.0, None])})
    sink = pa.BufferOutputStream()
    pq.write_table(floats, sink)
    files = {
        "a.parquet": sink.getvalue().to_pybytes(),
        "b.csv": "sentence,label\na,True\nb,FALSE\n",
        "c.jsonl": as_jsonl([{"sentence": "a", "label": True}, {"sentence": "b", "label": False}]),
        "d.tsv": "sentence\tlabel\na\t1.0\nb\t0\n",
    }
    for name, content in files.items():
        rows, labels, _ = both(write(tmp_path / name, content), "sequence-classification")
        assert len(labels) == 2
        assert label_ids(rows, ("0", "1")).tolist()[:2] == [1, 0]
        assert label_ids(rows, ("false", "true")).tolist()[:2] == [1, 0]


def test_lists_of_classes_are_learned_as_such(tmp_path: Path) -> None:
    records = [
        {"text": "a", "label": [0, 2]},
        {"text": "b", "label": [1]},
        {"text": "c", "label": []},
    ]
    rows, labels, _ = both(
        write(tmp_path / "a.jsonl", as_jsonl(records)), "sequence-classification"
    )
    task = TASKS["sequence-classification"].settle(rows)
    assert task.name == "multi-label-classification"
    assert labels == ("0", "1", "2")
    assert task.references(rows, labels).tolist() == [
        [True, False, True], [False, True, False], [False, False, False],
    ]  # fmt: skip


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_what_plainly_separates_fields_is_taken_and_told(tmp_path: Path, delimiter: str) -> None:
    lines = [["sentence", "label"], ["The river is good.", "good"], ["A bad, cruel ship.", "bad"]]
    content = "".join(delimiter.join(line) + "\n" for line in lines).replace(",", "")
    path = write(tmp_path / "a.csv", content)
    rows, labels, file = both(path, "sequence-classification")
    assert labels == ("bad", "good")
    assert "separated by" in file.notes[0]
    told, _, quiet = both(path, "sequence-classification", delimiter=delimiter)
    assert list(told.texts) == list(rows.texts)
    assert quiet.notes == []
    with pytest.raises(ValueError, match="delimiter must be one character"):
        TaskFormat(delimiter="ab")


@pytest.mark.parametrize(
    ("encoding", "is_marked"),
    [("utf-16", True), ("utf-8-sig", True), ("utf-32", True), ("cp1252", False), ("cp932", False)],
)
def test_encodings_are_told_by_their_mark_or_named(
    tmp_path: Path, encoding: str, is_marked: bool
) -> None:
    text = "sentence,label\nDer König geht.,good\nEin Fluß.,bad\n"
    if encoding == "cp932":
        text = "sentence,label\n王は行く。,good\n川。,bad\n"
    path = write(tmp_path / "a.csv", text.encode(encoding))
    if is_marked:
        rows, _, _ = both(path, "sequence-classification")
    else:
        with pytest.raises(TaskError, match=r"not UTF-8 at byte .*name its --encoding"):
            read_task_file(path, "sequence-classification", TaskFormat())
        rows, _, _ = both(path, "sequence-classification", encoding=encoding)
    assert list(rows.texts) == [line.split(",")[0] for line in text.split("\n")[1:3]]


def test_records_inside_one_json_object_are_found_or_named(tmp_path: Path) -> None:
    records = [{"sentence": "The king.", "label": "a"}, {"sentence": "A ship.", "label": "b"}]
    for indent in (None, 2):
        path = write(
            tmp_path / "a.json", json.dumps({"version": "1", "data": records}, indent=indent)
        )
        rows, labels, file = both(path, "sequence-classification")
        assert (list(rows.texts), labels) == (["The king.", "A ship."], ("a", "b"))
        assert "from its list 'data'" in file.notes[0]
    two = write(tmp_path / "b.json", json.dumps({"train": records, "test": records}, indent=1))
    with pytest.raises(TaskError, match="is one JSON object with 'train', 'test', not a list of"):
        read_task_file(two, "sequence-classification", TaskFormat())


def test_null_is_like_empty(tmp_path: Path) -> None:
    records = [{"sentence": "a", "label": 1}, {"sentence": None, "label": 0}]
    rows, _, _ = both(write(tmp_path / "a.jsonl", as_jsonl(records)), "sequence-classification")
    assert list(rows.texts) == ["a", ""]


CONLL_2003 = """-DOCSTART- -X- -X- O

the NN I-NP O
bird NN I-NP O
of NN I-NP O
Rome NN I-NP I-LOC

-DOCSTART- -X- -X- O

Paris NN I-NP B-LOC
"""


def test_conll_of_2003_has_a_word_a_line(tmp_path: Path) -> None:
    rows = read_word_rows(write(tmp_path / "a.conll", CONLL_2003))
    assert rows.words == ["the", "bird", "of", "Rome", "Paris"]
    assert rows.tags == ["O", "O", "O", "I-LOC", "B-LOC"]
    assert rows.offsets.tolist() == [0, 4, 5]
    assert rows.text(0) == "the bird of Rome"
    ragged = write(tmp_path / "b.conll", "the NN O\nbird O\n")
    with pytest.raises(TaskError, match="line 2 has 2 fields separated by white space"):
        read_word_rows(ragged)


def test_columns_of_other_names_are_guessed_by_what_is_in_them_and_told(tmp_path: Path) -> None:
    lines = [f"{n},The {word} sleeps well.,{n % 2}" for n, word in enumerate(["king", "dog"] * 4)]
    path = write(tmp_path / "a.csv", "\n".join(["id,body,stars", *lines]))
    rows, labels, file = both(path, "sequence-classification")
    assert rows.texts[0] == "The king sleeps well."
    assert labels == ("0", "1")
    assert ["'body' is taken as the text" in file.notes[0], "'stars'" in file.notes[1]] == [
        True
    ] * 2
    nothing = write(tmp_path / "b.csv", "a,b\n1,2\n")
    with pytest.raises(
        TaskError, match=r"which columns hold the text and the label.*--text-field and --label"
    ):
        read_task_file(nothing, "sequence-classification", TaskFormat())
    with pytest.raises(TaskError, match="has no column 'x' and no column 'y'"):
        read_task_file(path, "sequence-classification", TaskFormat(text="x", label="y"))


# Hostile files: one line, and bounded.


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("a.jsonl", '{"sentence": "a", "label": 1' + "0" * 9999 + "}", "regression", "digits"),
        ("a.jsonl", '{"sentence": "a", "label": 1' + "0" * 400 + "}", "regression", "at most"),
        ("a.jsonl", '{"sentence": "a", "label": 1e999}', "regression", "a number is wanted"),
        ("a.jsonl", '{"sentence": "a", "label": 1' + "0" * 40 + "}", "sequence-classification",
         "more than 40 digits"),
        ("a.jsonl", "[" * 100_000, "regression", "nested too deeply|not JSON"),
        ("a.json", '{"a":' * 100_000, "regression", "nested too deeply|not JSON"),
        ("a.jsonl", '{"question": "Who?", "context": "Ada", "answers": {"text": ["Ada"], '
         '"answer_start": [Infinity]}}', "question-answering", "answer_start is 'inf', a whole"),
        ("a.conllu", "1\tx" + "\t_" * 8 + "\n1-" + "9" * 5000 + "\tx" + "\t_" * 8 + "\n",
         "token-classification", "is not a range of the 1 words"),
        ("a.jsonl", json.dumps({"sentence": "a" * 2_000_001, "label": 1}),
         "sequence-classification", "has 2,000,001 characters, at most 2,000,000 are read"),
    ],
)  # fmt: skip
def test_hostile_values_are_one_line(
    tmp_path: Path, name: str, content: str, task: str, message: str
) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        read_task_file(write(tmp_path / name, content), task, TaskFormat())
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@given(st.data())
def test_a_mutated_parquet_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(as_parquet(RECORDS))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = write(tmp_path_factory.mktemp("p") / "a.parquet", bytes(content))
    with contextlib.suppress(TaskError):
        read_task_file(path, "sentence-pair", TaskFormat())


@pytest.mark.parametrize("extension", [".bz2", ".gz", ".xz", ".zst"])
def test_a_bomb_is_refused_before_it_unfolds(tmp_path: Path, extension: str) -> None:
    piece = b"sentence\tlabel\n" + b"a" * (1 << 20)
    path = write(tmp_path / f"a.tsv{extension}", COMPRESS[extension](piece + bytes(100 << 20)))
    assert path.stat().st_size < 200_000
    with pytest.raises(TaskError, match=r"read as .*: it holds more than the"):
        read_task_file(path, "sequence-classification", TaskFormat())


def test_a_bomb_in_the_pages_of_parquet_is_refused_before_it_unfolds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"sentence": ["a" * 100_000] * 11, "label": ["0"] * 11})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, use_dictionary=False, compression="zstd")
    assert path.stat().st_size < 100_000
    read_task_file(path, "sequence-classification", TaskFormat())
    monkeypatch.setattr(tables, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda _: pytest.fail("it unfolds"))
    with pytest.raises(TaskError, match="unfolds to more than the 1 MiB that a task file may"):
        read_task_file(path, "sequence-classification", TaskFormat())
