"""lmdata/reading/blank_lines.py and split_source: any cut of a source gives the same documents."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.corpus import (
    CorpusConfig,
    Documents,
    find_sources,
    read_documents,
    split_source,
)
from tests.lmdata.corpus_files import (
    pieces,
    texts_of,
    totals_of,
    write,
)

DEFAULT = CorpusConfig()


def expect_union(path: Path, config: CorpusConfig, cuts: list[int], batch_bytes: int) -> None:
    """Assert that reading a file in ranges gives what reading it at once gives."""
    (source,) = find_sources([str(path)], config)
    whole = list(read_documents(source, config))
    size = source.size_bytes
    edges = [0, *sorted(cut % (size + 1) for cut in cuts if size), size]
    parts: list[Documents] = []
    first, positions = 0, []
    for start, stop in itertools.pairwise(edges):
        for batch in read_documents(
            source, config, start=start, stop=stop, batch_bytes=batch_bytes
        ):
            parts.append(batch)
            positions += (batch.positions.astype(int) + first).tolist()
        first = sum(batch.num_records for batch in parts)
    assert texts_of(parts) == texts_of(whole)
    assert positions == [int(p) for batch in whole for p in batch.positions]
    assert first == sum(batch.num_records for batch in whole)
    for name in ("dropped", "dropped_bytes"):
        assert totals_of(parts, name) == totals_of(whole, name)


@given(
    st.lists(pieces, max_size=40).map("".join),
    st.lists(st.integers(0, 1 << 20), max_size=4),
    st.sampled_from(["line", "blank-line"]),
    st.sampled_from([1, 5, 64, 1 << 20]),
)
def test_any_cut_of_a_text_gives_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    cuts: list[int],
    documents: Any,
    batch_bytes: int,
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "range.txt", text)
    expect_union(path, CorpusConfig(documents=documents), cuts, batch_bytes)


@given(
    st.lists(
        st.sampled_from(
            ['{"text": "a"}', '{"text": "bc\\u00e9"}', "", " ", '{"t":1, "text":"\\n"}']
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 1 << 20), max_size=4),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_any_cut_of_json_lines_gives_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[str],
    cuts: list[int],
    end: str,
    is_ended: bool,
) -> None:
    text = end.join(lines) + (end if is_ended else "")
    expect_union(write(tmp_path_factory.getbasetemp() / "range.jsonl", text), DEFAULT, cuts, 16)


@given(st.lists(st.integers(0, 1 << 20), max_size=4))
def test_any_cut_of_parquet_gives_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "range.parquet"
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(23)]}), path, row_group_size=5)
    expect_union(path, DEFAULT, cuts, 1 << 20)


def test_a_long_line_of_blanks_before_a_cut_is_looked_through(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.txt", "one\n" + " " * 70_000 + "\ntwo\n" + "x" * 70_000 + "\nthree\n"
    )
    config = CorpusConfig(documents="blank-line")
    for cut in (3, 5, 4100, 60_000, 70_004, 70_006, 70_010, 140_000, 140_010, 140_015):
        expect_union(path, config, [cut], 1 << 20)


def test_split_source_covers_a_source_in_ranges_of_about_the_target(tmp_path: Path) -> None:
    config = CorpusConfig(documents="line")
    (source,) = find_sources([str(write(tmp_path / "a.txt", "ten bytes\n" * 101))], config)
    ranges = split_source(source, config, 100)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 1010
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    assert {stop - start for start, stop in ranges} <= {91, 92}
    assert split_source(source, config, 1010) == [(0, 1010)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("a.txt", {}),
        ("a.txt.gz", {"documents": "line"}),
        ("a.txt", {"documents": "line", "encoding": "utf-16"}),
        ("a.txt", {"documents": "line", "encoding": "auto"}),
        ("a.csv", {}),
        ("a.arrow", {}),
    ],
)
def test_what_cannot_be_split_is_one_range(tmp_path: Path, name: str, settings: Any) -> None:
    config = CorpusConfig(**settings)
    (source,) = find_sources([str(write(tmp_path / name, "x" * 999))], config)
    assert split_source(source, config, 100) == [(0, 999)]
    with pytest.raises(ValueError, match="can't be read in ranges"):
        list(read_documents(source, config, start=5))


def test_the_one_range_of_a_compressed_file_is_all_of_it(tmp_path: Path) -> None:
    text = "the same again\n" * 5000
    config = CorpusConfig(documents="line")
    (source,) = find_sources(
        [str(write(tmp_path / "a.txt.gz", gzip.compress(text.encode())))], config
    )
    ((start, stop),) = split_source(source, config, 10)
    batches = list(read_documents(source, config, start=start, stop=stop))
    assert len(texts_of(batches)) == 5000
