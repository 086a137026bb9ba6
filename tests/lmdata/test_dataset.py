"""Opening: what was written comes back; what is not whole is refused in one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.dataset import ExampleSet, TokenStore, open_examples, open_store
from lmdata.errors import DatasetError, IntegrityError, MismatchError, VersionError
from lmdata.schema import (
    example_schema,
    token_schema,
)
from lmdata.tokenizer import Tokenizer, save_tokenizer
from references.made_up import write_dataset
from tests.lmdata.builds import edit_manifest, make_tokenizer, make_version_1

DOCUMENTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5], [3, 5], [8, 9, 7]]  # ids
SENTENCES = [[2, 1], [1], [5], [1, 1], [3]]


def token_batch() -> pa.RecordBatch:
    schema = token_schema(np.dtype(np.uint16))
    codes = pa.array([0, 0, 1, 1, 1], pa.int32())
    columns = [
        pa.DictionaryArray.from_arrays(codes, pa.array(["a.txt", "b.txt"])),
        pa.array([0, 4, 0, 1, 2], pa.uint64()),
        pa.array(DOCUMENTS, schema.field("input_ids").type),
        pa.array(SENTENCES, schema.field("sentence_lengths").type),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def example_batch(lengths: list[int]) -> pa.RecordBatch:
    schema = example_schema(np.dtype(np.uint16))
    rows = range(len(lengths))
    columns = [
        pa.array([[row + k for k in range(n)] for row, n in zip(rows, lengths, strict=True)],
                 schema.field("input_ids").type),
        pa.array([[k % 2 for k in range(n)] for n in lengths], schema.field(1).type),
        pa.array([list(range(n // 2)) for n in lengths], schema.field(2).type),
        pa.array([[row] * (n // 2) for row, n in zip(rows, lengths, strict=True)],
                 schema.field(3).type),
        pa.array([[None, 0, 1][row % 3] for row in rows], pa.int8()),
        pa.array(rows, pa.uint64()),
        pa.array([row + 100 for row in rows], pa.uint64()),
        pa.array([row % 7 for row in rows], pa.uint16()),
    ]  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_dataset(
        tmp_path / "tokens", "tokens", make_tokenizer(), token_batch(), shard_bytes=90
    )


def test_documents_and_their_provenance_come_back(store: Path) -> None:
    opened = open_store(store, verify="hashes")
    assert isinstance(opened, TokenStore)
    assert len(opened.manifest.splits["train"]) > 1
    assert (opened.num_documents, opened.num_tokens, opened.num_sentences) == (5, 14, 7)
    for row, (ids, lengths) in enumerate(zip(DOCUMENTS, SENTENCES, strict=True)):
        found_ids, found_lengths = opened.document(row)
        assert (found_ids.tolist(), found_lengths.tolist()) == (ids, lengths)
    assert [opened.provenance(row) for row in range(5)] == [
        ("a.txt", 0), ("a.txt", 4), ("b.txt", 0), ("b.txt", 1), ("b.txt", 2)
    ]  # fmt: skip


def test_blocks_are_views_with_the_promised_types(store: Path) -> None:
    opened = open_store(store)
    rows = 0
    for block in opened.blocks:
        assert block.first_row == rows
        rows += block.num_documents
        types = [a.dtype.name for a in (block.ids, block.id_offsets, block.sentence_lengths,
                 block.sentence_offsets, block.positions, block.source_codes)]  # fmt: skip
        assert types == ["uint16", "int64", "uint32", "int32", "uint64", "int32"]
        assert not block.ids.flags.owndata
        assert not block.ids.flags.writeable
        assert block.id_offsets[0] == 0
        assert block.id_offsets[-1] == len(block.ids)
        assert block.sentence_lengths.sum() == len(block.ids)
    assert rows == opened.num_documents


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_outside_is_an_index_error(store: Path, row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of split train: it has 5 rows"):
        open_store(store).document(row)


def test_a_split_may_be_empty(store: Path) -> None:
    opened = open_store(store, "validation")
    assert (opened.num_documents, opened.num_tokens, opened.blocks) == (0, 0, ())


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    data=st.data(),
    batch_bytes=st.integers(1, 300),
)
def test_examples_come_back_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    data: st.DataObject,
    batch_bytes: int,
) -> None:
    folder = tmp_path_factory.mktemp("shards") / "examples"
    batch = example_batch(lengths)
    write_dataset(
        folder,
        "examples",
        make_tokenizer(),
        batch,
        batch_bytes=batch_bytes,
        shard_bytes=2 * batch_bytes,
    )
    examples = open_examples(folder)
    assert isinstance(examples, ExampleSet)
    assert examples.num_examples == len(lengths)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=40))
    found = examples.rows(np.array(rows, np.int64))
    assert len(found) == len(rows)
    expected = batch.to_pylist()
    for place, row in enumerate(rows):
        tokens = slice(found.offsets[place], found.offsets[place + 1])
        masks = slice(found.mask_offsets[place], found.mask_offsets[place + 1])
        label = int(found.next_sentence_label[place])
        assert {
            "input_ids": found.input_ids[tokens].tolist(),
            "token_type_ids": found.token_type_ids[tokens].tolist(),
            "masked_positions": found.masked_positions[masks].tolist(),
            "masked_labels": found.masked_labels[masks].tolist(),
            "next_sentence_label": None if label == -1 else label,
            "document_a": int(found.document_a[place]),
            "document_b": int(found.document_b[place]),
            "duplicate": int(found.duplicate[place]),
        } == expected[row]
    shutil.rmtree(folder)


def test_an_example_outside_is_an_index_error(tmp_path: Path) -> None:
    write_dataset(tmp_path / "x", "examples", make_tokenizer(), example_batch([3, 4]))
    with pytest.raises(IndexError, match="row 2 of split train: it has 2 examples"):
        open_examples(tmp_path / "x").rows(np.array([0, 2]))


def shard(folder: Path, number: int = 0) -> Path:
    return folder / f"train-{number:05d}.arrow"


def truncate(folder: Path) -> None:
    shard(folder).write_bytes(shard(folder).read_bytes()[:-1])


def swap(folder: Path) -> None:
    first, second = shard(folder).read_bytes(), shard(folder, 1).read_bytes()
    assert len(first) != len(second)
    shard(folder).write_bytes(second)
    shard(folder, 1).write_bytes(first)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: shard(f).unlink(), IntegrityError, r"train-00000\.arrow is missing: restore"),
        (truncate, IntegrityError, r"train-00000\.arrow has \d+ bytes instead of \d+ "),
        (swap, IntegrityError, r"train-00000\.arrow has \d+ bytes instead of \d+ .*swapped"),
        (lambda f: shutil.rmtree(f / "tokenizer"), IntegrityError, "tokenizer is missing"),
        (lambda f: save_tokenizer(make_tokenizer(["bird"]), f / "tokenizer"), MismatchError,
         "tokenizer has hash .* made with .*: restore that tokenizer"),
        (lambda f: (f / "manifest.json").unlink(), IntegrityError, "not a dataset"),
        (lambda f: edit_manifest(f, format_version=3), VersionError, "upgrade lmdata"),
        (lambda f: edit_manifest(f, kind="examples"), MismatchError, "holds examples, not tokens"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff{"), IntegrityError, "can't read"),
    ],
)  # fmt: skip
def test_damage_is_one_line_that_names_the_file(
    store: Path, damage: Callable[[Path], object], error: type[DatasetError], message: str
) -> None:
    damage(store)
    with pytest.raises(error, match=message) as caught:
        open_store(store)
    assert "\n" not in str(caught.value)


def test_a_shard_of_the_same_size_but_other_columns_is_refused(store: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "x", "examples", make_tokenizer(), example_batch([2, 2]))
    size = shard(other).stat().st_size
    shutil.copy(shard(other), shard(store))
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["splits"]["train"][0]["bytes"] = size
    edit_manifest(store, splits=manifest["splits"])
    make_version_1(store)  # else the frame differs first
    with pytest.raises(IntegrityError, match="other columns than its manifest promises"):
        open_store(store)


def test_shards_of_one_size_that_were_swapped_are_found_by_their_rows(store: Path) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["splits"]["train"][0]["rows"] += 1
    edit_manifest(store, splits=manifest["splits"])
    with pytest.raises(IntegrityError, match=r"holds \d rows and \d+ tokens instead of"):
        open_store(store)


def test_a_planted_temporary_file_changes_nothing(store: Path) -> None:
    shutil.copy(shard(store), store / ".train-00009.arrow.partial")
    shutil.copy(shard(store), store / "train-00009.arrow")
    assert open_store(store, verify="hashes").num_documents == 5


def test_another_tokenizer_is_refused_with_both_hashes(store: Path) -> None:
    own: Tokenizer = make_tokenizer()
    other = make_tokenizer(["bird"])
    assert open_store(store, tokenizer=own).num_documents == 5
    with pytest.raises(MismatchError, match=f"{own.hash}.*{other.hash}"):
        open_store(store, tokenizer=other)


def test_an_unknown_split_names_the_known(store: Path) -> None:
    with pytest.raises(MismatchError, match="no split 'dev', it has train, validation"):
        open_store(store, "dev")


def test_polars_and_datasets_read_the_shards_without_this_project(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polars = pytest.importorskip("polars")
    table = polars.scan_ipc(store / "train-*.arrow").collect()
    assert table["input_ids"].to_list() == DOCUMENTS
    assert table["source"].cast(polars.String).to_list() == ["a.txt"] * 2 + ["b.txt"] * 3
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = sorted(str(path) for path in store.glob("train-*.arrow"))
    loaded = datasets.load_dataset(
        "arrow", data_files={"train": files}, cache_dir=str(tmp_path / "cache")
    )["train"]
    assert loaded["sentence_lengths"][:] == SENTENCES
    assert loaded["source"][:] == ["a.txt"] * 2 + ["b.txt"] * 3
