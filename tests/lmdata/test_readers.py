"""lmdata/reading: readers.py, csv_rows.py, tables.py: every format, every kind of broken record."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmdata.corpus import (
    CorpusConfig,
    find_sources,
    read_documents,
)
from lmdata.errors import CorpusError
from lmdata.reading import csv_rows
from tests.lmdata.corpus_files import (
    COMPRESS,
    encode,
    read,
    read_all,
    read_with_losses,
    texts_of,
    write,
)

TEXTS = ["One.\nTwo.", "naïve 日本語 😀", 'tab\tquote"back\\slash', "nul\0", "x" * 5000]


@pytest.mark.parametrize("compression", ["", *COMPRESS])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow", ".stream", ".csv"])
@pytest.mark.parametrize("batch_bytes", [1, 8 << 20])
def test_every_format_gives_back_the_texts(
    tmp_path: Path, suffix: str, compression: str, batch_bytes: int
) -> None:
    data = encode(list(TEXTS), suffix)
    data = COMPRESS[compression](data) if compression else data
    path = write(tmp_path / f"a{suffix.replace('stream', 'arrow')}{compression}", data)
    texts, losses, positions = read_with_losses(path, batch_bytes)
    assert texts == TEXTS
    assert losses == {}
    assert positions == list(range(len(TEXTS)))


@pytest.mark.parametrize("compression", COMPRESS)
def test_compressed_files_may_consist_of_several_streams(tmp_path: Path, compression: str) -> None:
    compress = COMPRESS[compression]
    path = write(tmp_path / f"a.txt{compression}", compress(b"one\n") + compress(b"two\n"))
    assert read(path) == ["one\ntwo\n"]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet", ".arrow", ".csv"])
@pytest.mark.parametrize("compression", ["", ".gz"])
def test_the_bytes_read_sum_to_the_size_of_the_file(
    tmp_path: Path, suffix: str, compression: str
) -> None:
    data = b"text" if suffix == ".txt" else encode(list(TEXTS), suffix)
    path = write(tmp_path / f"a{suffix}{compression}", gzip.compress(data) if compression else data)
    (source,) = find_sources([str(path)], CorpusConfig())
    batches = read_documents(source, CorpusConfig(), batch_bytes=1)
    assert sum(batch.num_source_bytes for batch in batches) == source.size_bytes


def test_batches_are_bounded_and_positions_go_on(tmp_path: Path) -> None:
    texts = [f"document {number} " * 50 for number in range(2000)]
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(encode(list(texts), ".jsonl")))
    (source,) = find_sources([str(path)], CorpusConfig())
    batches = list(read_documents(source, CorpusConfig(), batch_bytes=1 << 16))
    assert len(batches) == 1 or max(len(batch.text) for batch in batches) < 5 << 20
    assert np.concatenate([batch.positions for batch in batches]).tolist() == list(range(2000))
    assert sum(batch.num_source_bytes for batch in batches) == path.stat().st_size


@pytest.mark.parametrize("type_", ["large_string", "string_view", "dictionary"])
def test_string_types_of_every_kind_are_text(tmp_path: Path, type_: str) -> None:
    types = {
        "large_string": pa.large_string(),
        "string_view": pa.string_view(),
        "dictionary": pa.dictionary(pa.int8(), pa.string()),
    }
    texts = ["one", "two", "one"]
    table = pa.table({"text": pa.array(texts).cast(types[type_])})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert read(tmp_path / "a.arrow") == texts
    if type_ != "string_view":
        pq.write_table(table, tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet") == texts


def test_csv_fields_may_be_quoted_and_tsv_fields_are_taken_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,n\r\n"a, ""b""\r\nc",1\r\n\r\nd,2\r\n')
    texts, losses, positions = read_with_losses(path)
    assert (texts, losses, positions) == (['a, "b"\nc', "d"], {"empty": (1, 0)}, [0, 2])
    assert read(write(tmp_path / "a.tsv", 'n\ttext\n1\t"a\n2\tb"c"\n')) == ['"a', 'b"c"']


def test_the_text_field_can_be_named(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".parquet", ".arrow", ".csv"):
        path = write(tmp_path / f"a{suffix}", encode(["one"], suffix, "körper"))
        assert read(path, text_field="körper") == ["one"]


BROKEN = [
    ('{"text": "a"', "broken", "line 2 is not valid JSON: Expecting"),
    ('{"text": "a\tb"}', "broken", "line 2 is not valid JSON: Invalid control character"),
    ('{"text": "a"} {"text": "b"}', "broken", "line 2 is not valid JSON: Extra data"),
    ("[", "broken", "line 2 is not valid JSON: a JSON file must hold one object a line"),
    ('["a"]', "broken", "line 2 is not a JSON object but a list"),
    ("7", "broken", "line 2 is not a JSON object but a number"),
    ('{"body": "a", "id": 1}', "missing-field", "line 2 has no field 'text', its fields are: body"),
    ("{}", "missing-field", "line 2 has no field 'text', its fields are: none"),
    ('{"text": null}', "null", "line 2: 'text' is null"),
    ('{"text": 7}', "wrong-type", "line 2: 'text' is a number, not text"),
    ('{"text": true}', "wrong-type", "line 2: 'text' is true or false, not text"),
    ('{"text": ["a"]}', "wrong-type", "line 2: 'text' is a list, not text"),
    ('{"text": "a\\ud800"}', "lone-surrogate", r"line 2: the text has a lone surrogate \(.ud800\)"),
]


@pytest.mark.parametrize(("line", "reason", "message"), BROKEN)
def test_a_broken_json_line_is_refused_with_its_number_or_counted(
    tmp_path: Path, line: str, reason: str, message: str
) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"text": "one"}}\n{line}\n{{"text": "two"}}\n')
    with pytest.raises(CorpusError, match=f"a.jsonl {message}.*--errors skip"):
        read(path)
    texts, losses, positions = read_with_losses(path, errors="skip")
    assert texts == ["one", "two"]
    assert positions == [0, 2]
    assert losses == {reason: (1, 0 if reason == "null" else len(line))}


def test_a_lone_surrogate_can_be_replaced(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a\\ud800b\\udc00\\ud83d\\ude00"}\n')
    assert read(path, errors="replace") == ["a\ufffdb\ufffd\U0001f600"]


def test_odd_lines_are_read_by_the_standard_parser(tmp_path: Path) -> None:
    lines = [
        '{"text": "plain"}',
        '{"te\\u0078t": "key with an escape"}',
        '{"text": "first", "text": "the last one counts"}',
        '{"text": "after NaN", "x": NaN}',
        "",
        f'{{"x": {"[" * 90}{"]" * 90}, "text": "deep"}}',
        '{"text": "plain again"}',
    ]
    path = write(tmp_path / "a.jsonl", "\r\n".join(lines))
    texts, losses, positions = read_with_losses(path)
    assert texts == [
        "plain", "key with an escape", "the last one counts", "after NaN", "deep", "plain again",
    ]  # fmt: skip
    assert positions == [0, 1, 2, 3, 5, 6]
    assert losses == {"empty": (1, 0)}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow", ".csv"])
def test_a_missing_column_names_those_that_are_there(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", encode(["one"], suffix, "body"))
    message = f"a{suffix}.* has no field 'text', its fields are: id, body; name one with --text-f"
    with pytest.raises(CorpusError, match=message):
        read(path)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".stream"])
def test_a_null_text_is_refused_or_counted(tmp_path: Path, suffix: str) -> None:
    data = encode(["one", None, "two", None], suffix)
    path = write(tmp_path / f"a{suffix.replace('stream', 'arrow')}", data)
    with pytest.raises(CorpusError, match=r"record 2: 'text' is null; --errors skip"):
        read(path)
    assert read_with_losses(path, errors="skip") == (["one", "two"], {"null": (2, 0)}, [0, 2])


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("type_", [pa.int64(), pa.binary(), pa.list_(pa.string())])
def test_a_column_of_the_wrong_type_is_refused(tmp_path: Path, suffix: str, type_: Any) -> None:
    table = pa.table({"text": pa.array([], type_)})
    if suffix == ".parquet":
        pq.write_table(table, tmp_path / "a.parquet")
    else:
        with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(CorpusError, match=r"column 'text' is of type .*, not string"):
        read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('text,n\none,1\ntwo\nthree,3\n', "line 3 has 1 field where the header has 2"),
        ('text,n\none,1\ntwo,2,3\nthree,3\n', "line 3 has 3 fields where the header has 2"),
        ('text,n\none,1\n"two"x,2\nthree,3\n', "line 3 is not valid .csv: ',' expected after"),
    ],
)  # fmt: skip
def test_a_broken_csv_row_is_refused_with_its_line_or_counted(
    tmp_path: Path, data: str, message: str
) -> None:
    path = write(tmp_path / "a.csv", data)
    with pytest.raises(CorpusError, match=f"a.csv {message}"):
        read(path)
    texts, losses, positions = read_with_losses(path, errors="skip")
    assert texts == ["one", "three"]
    assert positions == [0, 2]
    assert losses == {"broken": (1, len(data.split("\n")[2]) + 1)}


def test_a_header_or_row_without_end_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    limit = {"max_document_bytes": 200_000}
    for header in (b"a" * 2_000_000, b"a," * 1_000_000):
        path = write(tmp_path / "a.csv", header)
        with pytest.raises(CorpusError, match=r"a.csv line 1 takes \d+ bytes or more"):
            read(path, **limit)
        with pytest.raises(CorpusError, match=r"a.csv: the names of its columns, its first row"):
            read(path, errors="skip", **limit)
    rows = b"text,b\nfirst,1\n" + b"x" * 3_000_000 + b",2\nlast,3\n"
    texts, losses, positions = read_with_losses(write(path, rows), errors="skip", **limit)
    assert (texts, positions) == (["first", "last"], [0, 2])
    assert losses == {"too-large": (1, 3_000_003)}


def test_delimiters_inside_quotes_make_no_columns(tmp_path: Path) -> None:
    numbers = "1," * 1_200_000
    path = write(tmp_path / "a.csv", f'text,b\n"{numbers}",1\n"a\nb",2\n')
    assert read(path) == [numbers, "a\nb"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_blank_lines_of_a_table_are_counted_and_keep_the_numbers_of_lines(
    tmp_path: Path, suffix: str
) -> None:
    path = write(tmp_path / f"a{suffix}", "text\n\n\n\none\n\n\ntwo\n\nx,y\tz\n")
    texts, losses, positions = read_with_losses(path, errors="skip")
    assert (texts, positions) == (["one", "two"], [3, 6])
    assert losses == {"empty": (6, 0), "broken": (1, 6)}
    with pytest.raises(CorpusError, match=r"line 10 has 2 fields where the header has 1"):
        read(path)


@pytest.mark.parametrize(("documents", "unit"), [
    ("line", "\n"), ("line", "a\n"), ("blank-line", "a\n\n"), ("blank-line", "\n"), ("json", "\n"),
])  # fmt: skip
def test_tiny_lines_come_in_batches_of_bounded_number(
    tmp_path: Path, documents: Any, unit: str
) -> None:
    path = write(tmp_path / ("a.jsonl" if documents == "json" else "a.txt"), unit * 10_000)
    config = CorpusConfig(documents="file" if documents == "json" else documents)
    batches = read_all(path, config, batch_bytes=8_000)
    assert max(batch.num_records for batch in batches) <= 500
    texts = texts_of(batches)
    assert texts == ["a"] * (10_000 * unit.count("a"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("seed", range(12))
def test_rows_cut_many_at_a_time_are_those_that_the_parser_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, seed: int
) -> None:
    draw = random.Random(seed)
    comma = "," if suffix == ".csv" else "\t"
    plain = [comma.join(["7", "é" * draw.randrange(5), f"a b{i}", ""]) for i in range(400)]
    odd = [
        "",
        "1",
        f"1{comma}2{comma}3{comma}4{comma}5",
        f'1{comma}"q{comma}"{comma}2{comma}3',
        "  ",
    ]
    rows = [draw.choice(odd) if draw.random() < 0.02 * (seed % 3) else row for row in plain]
    end = draw.choice(["\n", "\r\n", ""])
    text = comma.join(["n", "other", "text", "last"]) + "\n" + "\n".join(rows) + end
    path = write(tmp_path / f"rows{suffix}", text)
    monkeypatch.setattr(csv_rows, "_PLAIN_BYTES", draw.choice([40, 256, 1 << 18]))
    monkeypatch.setattr(csv_rows, "_LINES_BETWEEN_TRIES", draw.choice([1, 20]))
    for column in ("n", "text", "last", "other"):
        options: dict[str, Any] = {"text_field": column, "errors": "skip", "batch_bytes": 900}
        with monkeypatch.context() as one_by_one:
            one_by_one.setattr(csv_rows._Lines, "take_plain", lambda *_: None)
            expected = read_with_losses(path, **options)
        assert read_with_losses(path, **options) == expected
    assert len(expected[0]) > 200


def test_many_tiny_rows_are_not_parsed_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "tiny.csv", "id,text\n" + "1,ab\n" * 50_000)
    num_parsed = 0
    take_cell = csv_rows._take_cell

    def count(*arguments: Any) -> Any:
        nonlocal num_parsed
        num_parsed += 1
        return take_cell(*arguments)

    monkeypatch.setattr(csv_rows, "_take_cell", count)
    assert len(read(path)) == 50_000
    assert num_parsed <= 2
