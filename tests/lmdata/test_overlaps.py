"""What documents share with evaluations: against a plain search, planted items, common phrases."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmdata.errors import CorpusError
from lmdata.ragged import offsets_of
from lmdata.tagging.evaluations import EvaluationFile, read_evaluations
from lmdata.tagging.numbers import number_words
from lmdata.tagging.overlap_index import make_index
from lmdata.tagging.overlaps import FIELDS, Overlaps
from references.curation import find_overlaps

WORDS = [f"w{number}" for number in range(500)]


def evaluation(texts: list[str]) -> EvaluationFile:
    return EvaluationFile(
        name="e", bytes=1, xxh3="", texts=tuple(texts), rows=tuple(range(1, len(texts) + 1))
    )


def compare(texts: list[str], documents: list[str]) -> list[dict[str, Any]]:
    """Return the columns of documents, each a component of its own."""
    files = [evaluation(texts)]
    index = make_index(files)
    parts = [document.encode() for document in documents]
    content = np.frombuffer(b"".join(parts), np.uint8)
    found, ends = index.find(number_words(content, offsets_of([*map(len, parts)])))
    overlaps = Overlaps(files, index)
    for row, (start, stop) in enumerate(itertools.pairwise(ends.tolist())):
        overlaps.note(found[start:stop], np.array([0, stop - start]), np.array([row]))
    overlaps.close()
    return pa.table(overlaps.columns(found, ends), schema=pa.schema(FIELDS)).to_pylist()


def sentence(choose: random.Random, size: int) -> str:
    return " ".join(choose.choices(WORDS, k=size))


@settings(max_examples=40)
@given(
    st.lists(st.text("ab ", min_size=1, max_size=60), min_size=1, max_size=4),
    st.lists(st.text("ab ", max_size=80), min_size=1, max_size=14),
)
def test_columns_are_those_of_a_plain_search(texts: list[str], documents: list[str]) -> None:
    texts = list(dict.fromkeys(texts))
    for row, expected in zip(
        compare(texts, documents), find_overlaps(texts, documents), strict=True
    ):
        found = {name: row[name] for name in expected}
        assert found == expected


@pytest.mark.parametrize("size", [4, 7, 8, 13, 40])
def test_planted_items_are_found_whatever_their_case_and_marks(size: int) -> None:
    choose = random.Random(size)
    items = [sentence(choose, size) for _ in range(50)]
    noise = [sentence(choose, 30) for _ in range(100)]
    planted = [
        f"{a} — “{', '.join(item.upper().split())}!” {b}"
        for item, a, b in zip(items, noise, noise[50:], strict=False)
    ]
    rows = compare(items, [*planted, *noise])
    for number, row in enumerate(rows):
        is_planted = number < len(items)
        assert row["contaminated_gpt3"] == (is_planted and size >= 13)
        assert row["contaminated_palm"] == (is_planted and size >= 8)
        assert row["contaminated_phi"] == (is_planted and size >= 10)
        assert row["eval_num_short"] == (is_planted and size < 8)
        if is_planted and size >= 8:
            assert row["eval_item"] == f"e:{number + 1}"
            assert row["eval_text"] == items[number]
            shown = planted[number].encode()[row["eval_start"] : row["eval_stop"]].decode()
            assert shown == ", ".join(items[number].upper().split())
        elif is_planted:
            assert row["eval_short_text"] == items[number]


@pytest.mark.parametrize("most_pairs", [1, 1 << 20])
def test_phrases_that_many_documents_use_do_not_contaminate(
    most_pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmdata.tagging.overlaps._MOST_PAIRS", most_pairs)
    choose = random.Random(1)
    phrase = "it was the best of times it was the worst of times indeed"
    many = [f"{sentence(choose, 20)} {phrase} {sentence(choose, 20)}" for _ in range(11)]
    rows = compare([phrase], many)
    assert not any(row["contaminated_gpt3"] or row["contaminated_palm"] for row in rows)
    assert all(row["eval_longest"] == 13 for row in rows)
    assert all(row["contaminated_gpt3"] for row in compare([phrase], many[:10]))


def test_scripts_without_spaces_are_compared_by_the_character() -> None:
    item = "人人生而自由在尊严和权利上一律平等"
    rows = compare([item], [f"前{item}后", "无关的文字。"])
    assert [row["eval_longest"] for row in rows] == [17, 0]


def test_texts_of_evaluation_files_are_read_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "One two?", "choices": ["three", 4]}\n\n')
    (tmp_path / "b.json").write_text(json.dumps({"data": [{"context": "Ein Satz."}]}))
    (tmp_path / "c.tsv").write_text('id\ttext\n7\t"quoted" words\n')
    (tmp_path / "d.csv").write_text('id,text\n7,"a, b"\n')
    (tmp_path / "e.conll").write_text("We\tO\nran\tO\n\nIt\tO\n")
    (tmp_path / "f.conllu").write_text("# text = no\n1\tWe\twe\n2\tran\trun\n")
    (tmp_path / "g.txt").write_bytes(b"\xef\xbb\xbffirst\r\n\r\nsecond\n")
    pa.feather.write_feather(pa.table({"n": [1], "text": ["in a table"]}), tmp_path / "h.arrow")
    found = [list(zip(f.rows, f.texts, strict=True)) for f in read_evaluations([tmp_path])]
    assert found == [
        [(1, "One two?"), (1, "three")],
        [(1, "Ein Satz.")],
        [(1, "id"), (1, "text"), (2, "7"), (2, 'quoted" words')],
        [(1, "id"), (1, "text"), (2, "7"), (2, "a, b")],
        [(1, "We ran"), (4, "It")],
        [(2, "We ran")],
        [(1, "first"), (3, "second")],
        [(1, "in a table")],
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b" \n--\n", "holds no text to compare with"),
        ("a.jsonl", b"{", r"can't be read as an evaluation: Expecting"),
        ("a.bin", b"\xff\x00", r"can't be read as an evaluation: 'utf-8' codec"),
        ("a.parquet", b"PAR1", "can't be read as an evaluation"),
    ],
)
def test_evaluations_without_text_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read_evaluations([tmp_path / name])


def test_evaluations_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such evaluation file"):
        read_evaluations([tmp_path / "none"])
    with pytest.raises(CorpusError, match="holds no evaluation file"):
        read_evaluations([tmp_path])
