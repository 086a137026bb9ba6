"""lmdata/corpus.py: which documents, in bounded batches; nothing disappears."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.corpus import (
    CorpusConfig,
    find_sources,
    read_documents,
)
from lmdata.errors import CorpusError
from tests.lmdata.corpus_files import (
    pieces,
    read_all,
    texts_of,
    totals_of,
    write,
)

DEFAULT = CorpusConfig()


def test_documents_positions_and_losses_of_a_worked_example(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n\r\n \xe3\x80\x80\nthree\rfour\n\n"
    )
    (lines,) = read_all(path, CorpusConfig(documents="line"))
    assert texts_of([lines]) == ["one", "two", "three", "four"]
    assert lines.positions.tolist() == [0, 1, 4, 5]
    assert lines.num_records == 7
    assert lines.dropped == {"empty": 3}
    assert lines.dropped_bytes == {"empty": 4}
    assert lines.num_source_bytes == path.stat().st_size
    (paragraphs,) = read_all(path, CorpusConfig(documents="blank-line"))
    assert texts_of([paragraphs]) == ["one\ntwo", "three\nfour"]
    assert paragraphs.positions.tolist() == [0, 4]
    assert paragraphs.num_records == 7
    assert paragraphs.dropped == {}
    (file,) = read_all(path, DEFAULT)
    assert texts_of([file]) == ["one\ntwo\n\n \u3000\nthree\nfour\n\n"]


@pytest.mark.parametrize("documents", ["file", "line", "blank-line"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.csv"])
def test_an_empty_file_is_one_document_dropped(tmp_path: Path, documents: Any, name: str) -> None:
    path = write(tmp_path / name, gzip.compress(b"") if name.endswith(".gz") else b"")
    batches = read_all(path, CorpusConfig(documents=documents))
    assert texts_of(batches) == []
    assert totals_of(batches, "dropped") == {"empty": 1}
    assert totals_of(batches, "dropped_bytes") == {"empty": 0}


@pytest.mark.parametrize("white", [" ", "\n \t\r\n", "\u3000\xa0\u2003\u2028\x1c\x85", "\ufeff"])
def test_a_document_of_white_space_is_dropped_and_counted(tmp_path: Path, white: str) -> None:
    batches = read_all(write(tmp_path / "a.txt", white), DEFAULT)
    assert texts_of(batches) == []
    assert totals_of(batches, "dropped") == {"empty": 1}


def test_nul_bytes_and_odd_separators_are_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a\0b\u2028c\x85d\x0ce\x0bf\n")
    batches = read_all(path, CorpusConfig(documents="line"))
    assert texts_of(batches) == ["a\0b\u2028c\x85d\x0ce\x0bf"]


@pytest.mark.parametrize("num_bytes", [1, 50_000_000])
def test_a_document_of_one_character_and_one_of_50_mb_on_a_line(
    tmp_path: Path, num_bytes: int
) -> None:
    path = write(tmp_path / "a.txt", b"x" * num_bytes)
    batches = read_all(path, CorpusConfig(documents="line"))
    assert sum(len(batch.text) for batch in batches) == num_bytes
    assert sum(len(batch.positions) for batch in batches) == 1


NAMES = ["a.txt", "a.jsonl", "a.csv", "a.parquet"]


def write_texts(path: Path, texts: list[str]) -> Path:
    table = pa.table({"text": texts})
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return path
    lines = {
        ".txt": texts,
        ".csv": ["text", *texts],
        ".jsonl": [f'{{"text": "{text}"}}' for text in texts],
    }
    return write(path, "".join(f"{line}\n" for line in lines[path.suffix]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_bytes", [1, 4096, 1 << 20])
def test_a_document_over_the_limit_is_refused_or_counted(
    tmp_path: Path, name: str, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmdata.reading.streams.CHUNK_BYTES", 1000)
    texts = ["first", "x" * 200_000, "second", "third"]
    path = write_texts(tmp_path / name, texts)
    strict = CorpusConfig(documents="line", max_document_bytes=199_999)
    with pytest.raises(CorpusError, match=r"max_document_bytes is 199999: raise it"):
        read_all(path, strict, batch_bytes=batch_bytes)
    skip = CorpusConfig(documents="line", max_document_bytes=150_000, errors="skip")
    batches = read_all(path, skip, batch_bytes=batch_bytes)
    assert texts_of(batches) == ["first", "second", "third"]
    assert totals_of(batches, "dropped") == {"too-large": 1}
    assert 200_000 <= totals_of(batches, "dropped_bytes")["too-large"] < 200_100
    assert sum(batch.num_records for batch in batches) == 4
    roomy = CorpusConfig(documents="line", max_document_bytes=200_000)
    assert texts_of(read_all(path, roomy, batch_bytes=batch_bytes)) == texts


@pytest.mark.parametrize("documents", ["file", "blank-line"])
def test_long_text_documents_are_refused_or_counted(
    tmp_path: Path, documents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmdata.reading.streams.CHUNK_BYTES", 1000)
    path = write(tmp_path / "a.txt", "one\n\n" + "two\n" * 5000 + "\nthree\n\nfour\n")
    strict = CorpusConfig(documents=documents, max_document_bytes=3000)
    with pytest.raises(CorpusError, match=r"a.txt takes .* max_document_bytes is 3000: raise it"):
        read_all(path, strict, batch_bytes=100)
    skip = CorpusConfig(documents=documents, max_document_bytes=3000, errors="skip")
    batches = read_all(path, skip, batch_bytes=100)
    assert texts_of(batches) == ([] if documents == "file" else ["one", "three", "four"])
    assert totals_of(batches, "dropped") == {"too-large": 1}
    if documents == "blank-line":
        positions = np.concatenate([batch.positions for batch in batches])
        assert positions.tolist() == [0, 5003, 5005]
        assert sum(batch.num_records for batch in batches) == 5006


@given(
    st.lists(pieces, max_size=60).map("".join),
    st.sampled_from(["file", "line", "blank-line"]),
    st.sampled_from([1, 16, 1 << 20]),
)
def test_documents_and_bytes_in_are_out_plus_dropped(
    tmp_path_factory: pytest.TempPathFactory, text: str, documents: Any, batch_bytes: int
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "ledger.txt", text)
    batches = read_all(path, CorpusConfig(documents=documents), batch_bytes=batch_bytes)
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = plain.split("\n")[: -1 if plain.endswith("\n") or not plain else None]
    if documents == "file":
        expected = [plain]
    elif documents == "line":
        expected = lines or [""]
    else:
        joined = "\n".join(line if line.strip() else "" for line in lines)
        expected = [group.strip("\n") for group in joined.split("\n\n")]
        expected = [group for group in expected if group] or ([] if lines else [""])
    num_out = sum(len(batch.positions) for batch in batches)
    bytes_out = sum(len(batch.text) for batch in batches)
    assert texts_of(batches) == [document for document in expected if document.strip()]
    assert num_out + totals_of(batches, "dropped").total() == len(expected)
    assert bytes_out + totals_of(batches, "dropped_bytes").total() == sum(
        len(document.encode()) for document in expected
    )


def test_real_folders_are_read_as_their_readme_says(shared_data: Path) -> None:
    for folder, settings, num_documents in (
        ("multilingual/ja-cp932", {"encoding": "cp932"}, 80),
        ("multilingual/th-bom", {}, 200),
        ("bert-format", {"documents": "blank-line"}, 3),
        ("blimp", {"text_field": "sentence_good"}, 10_000),
    ):
        config = CorpusConfig(**settings)
        count = 0
        for source in find_sources([str(shared_data / folder)], config):
            for batch in read_documents(source, config):
                count += len(batch.positions)
                assert not batch.text.tobytes().startswith(b"\xef\xbb\xbf")
        assert count == num_documents, folder


def test_reading_leaves_polars_and_its_threads_alone() -> None:
    code = "import sys, lmdata.corpus; sys.exit('polars' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
