"""Exports are read back by readers written here from the formats' definitions, and by their own.

Megatron's and MosaicML's packages are heavy. Where they are absent, what their writers made of the
same documents is known by its hash.
"""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Iterable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import lmdata.exporting.flat as chunks
import lmdata.exporting.tables as tables
from lmcli.looking import FORMAT_NAMES
from lmdata.dataset import open_store
from lmdata.errors import ConfigError, IntegrityError, MismatchError, OutputError
from lmdata.examples import write_examples
from lmdata.exporting.export import EXPORT_NAME, FORMATS, export_store
from lmdata.exporting.flat import LitData, Mds
from lmdata.exporting.format import ExportFacts, ExportRows
from lmdata.ragged import Ragged, offsets_of
from lmdata.recipes import RECIPES
from lmdata.tokenizer import Tokenizer, load_tokenizer, wordpiece_backend
from references.made_up import write_store
from tests.lmdata.builds import all_bytes, build, make_tokenizer, random_documents, write_corpus

Documents = dict[str, list[list[int]]]  # split -> ids of each document
SEP = 3


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    corpus = write_corpus(folder / "corpus", {"a.txt": random_documents(60), "b.txt": ["cat"]})
    build(corpus, folder / "tokens", validation_ratio=0.2, test_ratio=0.1, shard_bytes=700)
    return folder / "tokens"


def documents(folder: Path) -> Documents:
    found = {}
    for split in ("train", "validation", "test"):
        store = open_store(folder, split)
        found[split] = [store.document(row)[0].tolist() for row in range(len(store))]
    return found


def flat(rows: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(rows))


# ---- Readers


def read_nanogpt(folder: Path, split: str) -> list[int]:
    name = {"validation": "val"}.get(split, split)
    return np.fromfile(folder / f"{name}.bin", "<u2").tolist()


def read_megatron(folder: Path, split: str) -> list[list[int]]:
    index, data = ((folder / f"{split}.{end}").read_bytes() for end in ("idx", "bin"))
    magic, version, code, num_rows, num_documents = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version, num_documents) == (b"MMIDIDX\0\0", 1, num_rows + 1)
    dtype = {8: np.dtype("<u2"), 4: np.dtype("<i4")}[code]
    place = struct.calcsize("<9sQBQQ")
    lengths = np.frombuffer(index, "<i4", num_rows, place)
    starts = np.frombuffer(index, "<i8", num_rows, place + lengths.nbytes)
    ends = np.frombuffer(index, "<i8", num_rows + 1, place + lengths.nbytes + starts.nbytes)
    assert ends.tolist() == list(range(num_rows + 1))
    assert len(index) == place + lengths.nbytes + starts.nbytes + ends.nbytes
    return [
        np.frombuffer(data, dtype, length, start).tolist()
        for length, start in zip(lengths.tolist(), starts.tolist(), strict=True)
    ]


def read_mds(folder: Path, split: str) -> list[list[int]]:
    rows = []
    index = json.loads((folder / split / "index.json").read_text())
    assert index["version"] == 2
    for shard in index["shards"]:
        data = (folder / split / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"]
        kind, _, dtype = shard["column_encodings"][0].partition(":")
        assert (kind, shard["column_names"]) == ("ndarray", ["tokens"])
        (count,) = struct.unpack_from("<I", data)
        offsets = struct.unpack_from(f"<{count + 1}I", data, 4)
        assert (count, offsets[-1]) == (shard["samples"], len(data))
        for start, stop in pairwise(offsets):
            size, head = struct.unpack_from("<IB", data, start)
            assert (start + 4 + size, head >> 2) == (stop, 1)  # one axis
            width = 1 << (head & 3)
            length = int.from_bytes(data[start + 5 : start + 5 + width], "little")
            ids = np.frombuffer(data[start + 5 + width : stop], dtype)
            assert len(ids) == length
            rows.append(ids.tolist())
    return rows


def read_litdata(folder: Path, split: str) -> list[list[int]]:
    rows = []
    index = json.loads((folder / split / "index.json").read_text())
    dtype = {"no_header_tensor:20": "<u2", "no_header_tensor:15": "<i4"}[
        index["config"]["data_format"][0]
    ]
    for chunk in index["chunks"]:
        data = (folder / split / chunk["filename"]).read_bytes()
        offsets = np.frombuffer(data, "<u4", chunk["chunk_size"] + 1, 4).tolist()
        assert struct.unpack_from("<I", data) == (chunk["chunk_size"],)
        assert (offsets[0], offsets[-1]) == (4 * (chunk["chunk_size"] + 2), chunk["chunk_bytes"])
        assert chunk["dim"] * np.dtype(dtype).itemsize == len(data) - offsets[0]
        rows += [
            np.frombuffer(data[start:stop], dtype).tolist() for start, stop in pairwise(offsets)
        ]
    return rows


def read_parquet(folder: Path, split: str) -> list[list[int]]:
    paths = sorted((folder / "data").glob(f"{split}-*.parquet"))
    return [row for path in paths for row in pl.read_parquet(path)["input_ids"].to_list()]


def read_datasets(folder: Path, split: str) -> list[list[int]]:
    assert split in json.loads((folder / "dataset_dict.json").read_text())["splits"]
    state = json.loads((folder / split / "state.json").read_text())
    rows: list[list[int]] = []
    for file in state["_data_files"]:
        with pa.memory_map(str(folder / split / file["filename"])) as source:
            rows += pa.ipc.open_stream(source).read_all()["input_ids"].to_pylist()
    return rows


READERS: dict[str, Any] = {
    "nanogpt": read_nanogpt, "megatron": read_megatron, "mds": read_mds, "litdata": read_litdata,
    "parquet": read_parquet, "parquet-uncompressed": read_parquet,
    "datasets": read_datasets,
}  # fmt: skip


# ---- What is written


def test_every_format_is_an_option_and_read_here() -> None:
    assert list(FORMATS) == list(FORMAT_NAMES) == list(READERS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("end", ["auto", "none", "cat"])
def test_documents_come_back(
    name: str, end: str, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 600)  # several files
    monkeypatch.setattr(tables, "FILE_BYTES", 300)
    export = export_store(tokens, tmp_path / "out", name, end_token=end)
    kept = {"auto": [] if FORMATS[name].keeps_rows else [SEP], "none": []}
    ends = kept.get(end, [make_tokenizer().pieces.index("cat")])
    for split, ids in documents(tokens).items():
        expected: Any = [row + ends for row in ids]
        if name == "nanogpt":
            expected = flat(expected)
        assert READERS[name](tmp_path / "out", split) == expected
        assert export.rows[split] == len(ids)
    flow = export.ledger.flows["tokens"]
    num_ends = len(ends) * sum(export.rows.values())
    num_tokens = sum(len(row) for ids in documents(tokens).values() for row in ids)
    assert flow.read == flow.total_written == num_tokens + num_ends
    assert json.loads((tmp_path / "out" / EXPORT_NAME).read_text())["ledger"]["flows"]["tokens"]
    assert load_tokenizer(tmp_path / "out" / "tokenizer").hash == export.tokenizer.hash


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("row_length", [1, 7, 150])
def test_rows_of_equal_length(name: str, row_length: int, tokens: Path, tmp_path: Path) -> None:
    export = export_store(tokens, tmp_path, name, row_length=row_length)
    ends = [] if FORMATS[name].keeps_rows else [SEP]
    left = 0
    for split, ids in documents(tokens).items():
        ids_in_row = flat(row + ends for row in ids)
        num_rows = len(ids_in_row) // row_length
        rows = [ids_in_row[row * row_length :][:row_length] for row in range(num_rows)]
        left += len(ids_in_row) - num_rows * row_length
        assert export.rows[split] == num_rows
        if num_rows:
            expected: Any = flat(rows) if name == "nanogpt" else rows
            assert READERS[name](tmp_path, split) == expected
        else:
            assert not [path for path in tmp_path.rglob(f"{split}*") if path.is_file()]
    assert export.ledger.flows["tokens"].total_dropped == left


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "nanogpt"])
def test_ids_beyond_16_bits(name: str, tmp_path: Path) -> None:
    export_store(wide_store(tmp_path / "wide"), tmp_path / "out", name, end_token="none")
    assert READERS[name](tmp_path / "out", "train") == [[69_999, 5, 65_536], [7]]


def wide_store(folder: Path) -> Path:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(69_995))]
    tokenizer = Tokenizer(wordpiece_backend({p: i for i, p in enumerate(pieces)}, lower_case=True))
    ids, lengths = np.array([69_999, 5, 65_536, 7]), np.array([3, 1])
    write_store(folder, tokenizer, ids, lengths, lengths)
    return folder


def test_tables_keep_what_the_store_knows_of_documents(tokens: Path, tmp_path: Path) -> None:
    export_store(tokens, tmp_path / "p", "parquet")
    table = pl.concat(map(pl.read_parquet, sorted((tmp_path / "p/data").glob("train-*.parquet"))))
    store = open_store(tokens)
    known = [store.provenance(row) for row in range(len(store))]
    assert list(zip(table["source"], table["position"], strict=True)) == known
    lengths = [store.document(row)[1].tolist() for row in range(len(store))]
    assert table["sentence_lengths"].to_list() == lengths


def test_same_store_same_bytes(tokens: Path, tmp_path: Path) -> None:
    for name in FORMATS:
        for place in ("a", "b"):
            export_store(tokens, tmp_path / name / place, name)
        first, second = (all_bytes(tmp_path / name / place) for place in ("a", "b"))
        assert first == second
        files = json.loads(first[EXPORT_NAME])["files"]
        own = {key for key in first if not key.startswith("tokenizer/")} - {EXPORT_NAME}
        assert {file["file"] for file in files} == own
        for file in files:
            assert xxhash.xxh3_128_hexdigest(first[file["file"]]) == file["xxh3"]


# ---- Their own readers and writers

# Made of the documents of `tokens` by megatron-core 0.16.1 (IndexedDatasetBuilder, an end behind
# each document) and mosaicml-streaming 0.13.0 (MDSWriter, columns {"tokens": "ndarray:uint16"}).
BY_THEIR_WRITERS = {
    "megatron": {
        "train.bin": "595b27db73a7950da6bcd486bb2d61fa",
        "train.idx": "3a036897d7bace02cf28540dd4cc8bd8",
    },
    "mds": {
        "train/shard.00000.mds": "f741c8e9463138794584ba398260114d",
        "train/index.json": "5520f1247ad83f759c79d6bfade765f0",
    },
}


@pytest.mark.parametrize("name", BY_THEIR_WRITERS)
def test_bytes_are_those_of_their_own_writer(name: str, tokens: Path, tmp_path: Path) -> None:
    export = export_store(tokens, tmp_path, name)
    ours = {file.file: file.xxh3 for file in export.files}
    assert {file: ours[file] for file in BY_THEIR_WRITERS[name]} == BY_THEIR_WRITERS[name]


@pytest.mark.filterwarnings("ignore")  # Megatron's own
def test_megatron_reads_it(tokens: Path, tmp_path: Path) -> None:
    module = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    export_store(tokens, tmp_path, "megatron", end_token="none")
    for split, ids in documents(tokens).items():
        dataset = module.IndexedDataset(str(tmp_path / split))
        assert [row.tolist() for row in dataset] == ids


@pytest.mark.filterwarnings("ignore")  # those of streaming
def test_streaming_reads_it(tokens: Path, tmp_path: Path) -> None:
    streaming = pytest.importorskip("streaming")
    export_store(tokens, tmp_path, "mds")
    dataset = streaming.StreamingDataset(local=str(tmp_path / "train"), batch_size=1)
    assert [dataset[row]["tokens"].tolist() for row in range(dataset.num_samples)] == (
        documents(tokens)["train"]
    )


@pytest.mark.filterwarnings("ignore")  # those of LitData
def test_litdata_reads_it(tokens: Path, tmp_path: Path) -> None:
    litdata = pytest.importorskip("litdata")
    export_store(tokens, tmp_path, "litdata")
    loader = litdata.TokensLoader(block_size=8)
    dataset = litdata.StreamingDataset(str(tmp_path / "train"), item_loader=loader)
    ids_in_row = flat(documents(tokens)["train"])
    assert len(dataset) == len(ids_in_row) // 8
    assert [dataset[row].tolist() for row in range(len(dataset))] == (
        [ids_in_row[start : start + 8] for start in range(0, len(ids_in_row) - 7, 8)]
    )


@pytest.mark.parametrize("row_length", [None, 9])
def test_datasets_reads_both_tables(row_length: int | None, tokens: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for name in ("datasets", "parquet"):
        export_store(tokens, tmp_path / name, name, row_length=row_length)
    saved = datasets.load_from_disk(str(tmp_path / "datasets"))
    loaded = datasets.load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "cache"))
    for split in ("train", "validation", "test"):
        expected = read_parquet(tmp_path / "parquet", split)
        assert saved[split]["input_ids"][:] == loaded[split]["input_ids"][:] == expected


# ---- The parts


@given(lengths=st.lists(st.sampled_from([1, 2, 255, 256, 300, 65_535, 65_536]), max_size=12),
       wide=st.booleans())  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_rows_of_mds_as_its_definition_says(lengths: list[int], wide: bool) -> None:
    dtype = np.dtype(np.uint32 if wide else np.uint16)
    facts = ExportFacts(dtype, 70_000, None, "")
    ids = Ragged(np.arange(sum(lengths)).astype(dtype), offsets_of(lengths))
    writer = Mds.__new__(Mds)
    writer._facts = facts
    expected = b""
    for row in range(len(lengths)):
        kind, size = next((k, s) for k, s in enumerate((1, 2, 4)) if lengths[row] < 1 << 8 * s)
        body = bytes([1 << 2 | kind]) + lengths[row].to_bytes(size, "little")
        body += ids.row(row).tobytes()
        expected += struct.pack("<I", len(body)) + body
    assert writer._rows(ids, writer.row_bytes(ids) - 4).tobytes() == expected


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=60),
       blocks=st.lists(st.integers(1, 60), min_size=1, max_size=6))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_files_are_filled_as_far_as_they_go(sizes: list[int], blocks: list[int]) -> None:
    """However the rows arrive: no file beyond the limit but of one row, none that had room."""
    written: list[list[int]] = []
    writer = LitData.__new__(LitData)
    writer._facts, writer._parts, writer._num_bytes, writer._index = (
        ExportFacts(np.dtype(np.uint16), 100, None, ""), [], 0, [],
    )  # fmt: skip
    writer.write_file = lambda number, ids: written.append(ids.lengths.tolist()) or {}  # type: ignore[method-assign,func-returns-value]
    writer.write_index = lambda files: None  # type: ignore[method-assign]
    limit, chunks.CHUNK_BYTES = chunks.CHUNK_BYTES, 100
    try:
        done = 0
        for count in (*blocks, len(sizes)):
            part = sizes[done : done + count]
            done += len(part)
            values = np.zeros(sum(part), np.uint16)
            writer.write(ExportRows(Ragged(values, offsets_of(part)), None))
        writer.finish()
    finally:
        chunks.CHUNK_BYTES = limit
    assert flat(written) == sizes
    weights = [[8 + sum(4 + 2 * size for size in file), len(file)] for file in written]
    assert all(weight <= 100 or count == 1 for weight, count in weights)
    for (weight, _), after in zip(weights[:-1], written[1:], strict=True):
        assert weight + 4 + 2 * after[0] > 100


# ---- What is refused


def test_refusals(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"format must be one of nanogpt.* got 'tfrecord'"):
        export_store(tokens, tmp_path / "out", "tfrecord")
    with pytest.raises(ConfigError, match="end_token must be a piece of the tokenizer"):
        export_store(tokens, tmp_path / "out", "mds", end_token="<|none such|>")
    with pytest.raises(ConfigError, match=r"row_length 99,999 is more than the [\d,]+ tokens"):
        export_store(tokens, tmp_path / "out", "mds", row_length=99_999)
    with pytest.raises(ConfigError, match="row_length must be at least 1, got 0"):
        export_store(tokens, tmp_path / "out", "mds", row_length=0)
    with pytest.raises(ConfigError, match=r"nanogpt holds ids below 65,536, .* 70,000: choose"):
        export_store(wide_store(tmp_path / "wide"), tmp_path / "out", "nanogpt")
    with pytest.raises(IntegrityError, match="no such dataset folder"):
        export_store(tmp_path / "nothing", tmp_path / "out", "mds")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_an_end_is_told(tmp_path: Path) -> None:
    vocabulary = {"[UNK]": 0, "a": 1, "b": 2}
    tokenizer = Tokenizer(wordpiece_backend(vocabulary, lower_case=True))
    write_store(tmp_path / "t", tokenizer, np.array([1, 2]), np.array([2]), np.array([2]))
    with pytest.raises(ConfigError, match=r"keeps no boundaries .* --end-token none"):
        export_store(tmp_path / "t", tmp_path / "out", "nanogpt")
    export_store(tmp_path / "t", tmp_path / "out", "nanogpt", end_token="none")
    assert read_nanogpt(tmp_path / "out", "train") == [1, 2]
    assert pickle.loads((tmp_path / "out/meta.pkl").read_bytes()) == {"vocab_size": 3}


def test_nothing_is_replaced_unasked(tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(OutputError, match="not an export"):
        export_store(tokens, tmp_path / "mine", "mds", overwrite=True)
    export_store(tokens, tmp_path / "out", "mds")
    with pytest.raises(OutputError, match="already holds an export"):
        export_store(tokens, tmp_path / "out", "litdata")
    export_store(tokens, tmp_path / "out", "litdata", overwrite=True)
    assert not (tmp_path / "out/train/shard.00000.mds").exists()


def test_shards_are_not_a_store(tokens: Path, tmp_path: Path) -> None:
    write_examples(tokens, RECIPES["bert"], tmp_path / "shards", seed=0)
    with pytest.raises(MismatchError, match="holds examples, not tokens"):
        export_store(tmp_path / "shards", tmp_path / "out", "mds")


def test_damage_is_found_before_it_is_written(tokens: Path, tmp_path: Path) -> None:
    shutil.copytree(tokens, tmp_path / "tokens")
    path = min((tmp_path / "tokens").glob("train-*.arrow"))
    data = bytearray(path.read_bytes())
    data[data.index(open_store(tokens).document(0)[0].tobytes()) + 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(IntegrityError):
        export_store(tmp_path / "tokens", tmp_path / "out", "nanogpt")
    assert not (tmp_path / "out").exists()
