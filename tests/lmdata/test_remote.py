"""Sources and outputs in stores: the bytes of a disk, whatever fails, or one clear line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmdata.build import finish_dataset
from lmdata.building.leftovers import clean_up
from lmdata.building.resumable import Part
from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.errors import ConfigError, CorpusError, IntegrityError, LmdataError, OutputError
from lmdata.remote import RemoteFile, RemotePlace
from lmdata.stores import BrieflyError, StoreError, split_uri
from lmdata.tokens import tokenize_corpus
from tests.lmdata.builds import (
    LINES,
    InlineWorkers,
    TokenizeConfig,
    all_bytes,
    make_tokenizer,
    random_documents,
    write_corpus,
)
from tests.lmdata.stores import KINDS, DoubledWorkers, FaultyStore

CONFIG = TokenizeConfig(corpus=LINES, validation_ratio=0.2, shard_bytes=3000)
OUTPUT = "s3://bucket/tokens"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    files = {f"{name}.txt": random_documents(20, seed) for seed, name in enumerate("ab")}
    return write_corpus(folder / "corpus", files)


def tokenize(corpus: Path | str, output: Path | str, workers: Any = None, **options: Any) -> Any:
    return tokenize_corpus(
        find_sources([str(corpus)], LINES), CONFIG, make_tokenizer(), output,
        workers=workers or InlineWorkers(), unit_bytes=900, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("whole") / "tokens"
    tokenize(corpus, output)
    return all_bytes(output)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lmdata.remote._FIRST_WAIT_S", 0.0)
    monkeypatch.setattr("lmdata.building.receipts._NUM_READERS", 1)  # the same faults each time
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def use(monkeypatch: pytest.MonkeyPatch, store: Any) -> Any:
    monkeypatch.setattr("lmdata.remote.open_store", lambda root: store)
    return store


def dataset_of(store: FaultyStore) -> dict[str, bytes]:
    """Return what a reader finds that follows the manifest alone."""
    manifest = json.loads(store.objects["tokens/manifest.json"])
    named = [shard["file"] for shards in manifest["splits"].values() for shard in shards]
    tokenizer = [key.removeprefix("tokens/") for key in store.objects if "/tokenizer/" in key]
    return {name: store.objects[f"tokens/{name}"] for name in ["manifest.json", *named, *tokenizer]}


# ---- Writing


def test_a_store_in_a_store_has_the_bytes_of_one_on_a_disk(
    corpus: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = use(monkeypatch, FaultyStore())
    tokenize(corpus, OUTPUT)
    assert {key.removeprefix("tokens/") for key in store.objects} == whole.keys()
    assert dataset_of(store) == whole
    with pytest.raises(OutputError, match=r"s3://bucket/tokens exists and is complete"):
        tokenize(corpus, OUTPUT)
    tokenize(corpus, OUTPUT, overwrite=True)
    assert dataset_of(store) == whole
    store.objects["other/notes.txt"] = b"mine"
    with pytest.raises(OutputError, match=r"s3://bucket/other holds other files \(such as notes"):
        tokenize(corpus, "s3://bucket/other")
    assert clean_up(OUTPUT) == {}


def test_parts_of_several_machines_end_in_a_store(
    corpus: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = use(monkeypatch, FaultyStore())
    tokenize(corpus, OUTPUT, part=Part(2, 2))
    with pytest.raises(IntegrityError, match="are not done yet"):
        finish_dataset(OUTPUT)
    tokenize(corpus, OUTPUT, part=Part(1, 2))
    store.objects["tokens/.build/unit-000001-train_0123abcd.part"] = b"late"
    assert clean_up(OUTPUT) == {".build/unit-000001-train_0123abcd.part": 4}
    finish_dataset(OUTPUT)
    assert dataset_of(store) == whole


def fail_and_try_again(corpus: Path, store: FaultyStore, seed: int) -> int:
    """Type the command until it ends, and return how often."""
    for number in range(1, 30):
        doubled = DoubledWorkers(seed + number)
        workers = doubled if store.kind == "doubled tasks" else InlineWorkers()
        try:
            tokenize(corpus, OUTPUT, workers)
        except LmdataError:
            continue
        finally:
            store.num_faults += doubled.num_doubled
        return number
    raise AssertionError("it never ends")


def check_faults(
    corpus: Path, whole: dict[str, bytes], kind: str, seeds: range, monkeypatch: pytest.MonkeyPatch
) -> int:
    num_faults = 0
    for seed in seeds:
        store = use(monkeypatch, FaultyStore(kind, seed))
        fail_and_try_again(corpus, store, seed)
        assert dataset_of(store) == whole, (kind, seed)
        store.settle()
        assert dataset_of(store) == whole, (kind, seed)  # whatever comes late changes nothing
        num_faults += store.num_faults
    return num_faults


@pytest.mark.parametrize("kind", KINDS)
def test_no_fault_gives_a_wrong_manifest(
    corpus: Path, whole: dict[str, bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_faults(corpus, whole, kind, range(2), monkeypatch) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_fault_of_five_hundred_gives_a_wrong_manifest(
    corpus: Path, whole: dict[str, bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_faults(corpus, whole, kind, range(500), monkeypatch) > 500


class Forgetful(FaultyStore):
    """It writes over what is to be created only if there is none, as some stores do."""

    def create(self, key: str, data: bytes) -> bool:
        self.objects[key] = data
        return True


def test_a_store_that_ignores_create_only_is_refused(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = use(monkeypatch, Forgetful())
    with pytest.raises(
        OutputError, match=r"can't write s3://bucket/tokens: this store writes over"
    ):
        tokenize(corpus, OUTPUT)
    assert store.objects == {}


def test_a_shard_of_another_build_is_never_written_over(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = use(monkeypatch, FaultyStore())
    tokenize(corpus, OUTPUT, part=Part(1, 1))
    store.objects["tokens/train-00000.arrow"] = b"of another"
    with pytest.raises(IntegrityError, match=r"train-00000\.arrow is there and holds other bytes"):
        finish_dataset(OUTPUT)
    assert store.objects["tokens/train-00000.arrow"] == b"of another"


def test_what_fails_for_good_is_said_once_tried_often(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Down(FaultyStore):
        def find(self, key: str) -> Any:
            calls.append(key)
            raise BrieflyError("503 Slow Down")

    use(monkeypatch, Down())
    with pytest.raises(IntegrityError, match=r"can't read s3://bucket/tokens/a: 503 Slow Down"):
        RemotePlace(OUTPUT).read("a")
    assert len(calls) == 7


# ---- Reading


@pytest.fixture
def memory() -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def put(memory: Any, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/{prefix}/{path.relative_to(folder)}", path.read_bytes())


def test_sources_in_a_store_give_the_bytes_of_those_on_a_disk(
    corpus: Path, whole: dict[str, bytes], memory: Any, tmp_path: Path
) -> None:
    put(memory, corpus, "corpus")
    for number, name in enumerate(("corpus", "corpus/", "corpus/*.txt", "corpus/**")):
        tokenize(f"memory://{name}", tmp_path / f"tokens-{number}")
        assert all_bytes(tmp_path / f"tokens-{number}") == whole
    tokenize("memory://corpus", "memory://out/tokens")
    found = {key.removeprefix("/out/tokens/"): bytes(memory.cat_file(key))
             for key in memory.find("/out/tokens")}  # fmt: skip
    assert found == whole


def test_files_of_every_kind_are_read_in_ranges_or_whole(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmdata.remote._FIRST_BYTES", 64)  # so that many requests are made
    monkeypatch.setattr("lmdata.remote._READ_BYTES", 512)
    texts = random_documents(60, 3)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    table = pa.table({"text": texts})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(lines)
    (tmp_path / "in" / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "in" / "d.csv").write_text("text\n" + "".join(f'"{text}"\n' for text in texts))
    pq.write_table(table, tmp_path / "in" / "c.parquet", row_group_size=7)
    with (
        pa.OSFile(str(tmp_path / "in" / "e.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    put(memory, tmp_path / "in", "in")
    config = CorpusConfig()
    local, remote = (find_sources([each], config) for each in (str(tmp_path / "in"), "memory://in"))
    assert [source.name for source in local] == [source.name for source in remote]
    for one, other in zip(local, remote, strict=True):
        cuts = [(0, None)]
        if one.name in ("a.jsonl", "c.parquet"):
            middle = one.size_bytes // 2
            cuts += [(0, middle), (middle, one.size_bytes)]
        for start, stop in cuts:
            found = [
                [batch.text.tobytes() for batch in read_documents(each, config, start=start,
                                                                  stop=stop)]
                for each in (one, other)
            ]  # fmt: skip
            assert b"".join(found[0]) == b"".join(found[1]), one.name
    assert b"".join(found[1])


def test_our_own_and_unknown_files_of_a_store_are_passed_over(memory: Any) -> None:
    from lmdata.corpus import survey_sources

    memory.pipe_file("/c/a.txt", b"A text.")
    memory.pipe_file("/c/b.png", b"no text")
    memory.pipe_file("/c/.hidden.txt", b"no text")
    memory.pipe_file("/c/model/vocab.txt", b"[PAD]")
    memory.pipe_file("/c/model/tokenizer.json", b"{}")
    survey = survey_sources(["memory://c"], CorpusConfig())
    assert [str(source) for source in survey.sources] == ["memory://c/a.txt"]
    assert sorted(survey.skipped) == ["hidden", "part of a tokenizer or model", "unknown extension"]


def test_an_object_that_changes_under_a_build_ends_it(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changing(FaultyStore):
        def read(self, key: str, start: int, stop: int, version: str) -> bytes:
            raise StoreError(f"s3://bucket/{key} is not what it was")

    store = use(monkeypatch, Changing())
    store.objects["corpus/a.txt"] = b"One line.\n" * 300
    with pytest.raises(CorpusError, match=r"s3://bucket/corpus/a.txt.* is not what it was"):
        tokenize("s3://bucket/corpus", tmp_path / "tokens")


# ---- What a person can mend


def test_an_unknown_scheme_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"s4://b/c: s4:// is not known here, only s3://, gs://"):
        find_sources(["s4://b/c"], CorpusConfig())
    with pytest.raises(ConfigError, match="names no bucket or host"):
        split_uri("s3:///a")


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"s3:// needs obstore.*lmdata-lmmodel\[remote\]"):
        find_sources(["s3://extra-missing/c"], CorpusConfig())


def test_what_is_not_there_is_said(memory: Any, corpus: Path) -> None:
    with pytest.raises(CorpusError, match="memory://nothing is not there"):
        find_sources(["memory://nothing"], CorpusConfig())
    with pytest.raises(CorpusError, match=r"no file matches memory://a/\*\.txt"):
        find_sources(["memory://a/*.txt"], CorpusConfig())


def test_what_is_only_read_is_said() -> None:
    pytest.importorskip("aiohttp", reason="the extra [remote] is not installed")
    with pytest.raises(OutputError, match=r"https:// is only read: choose another place"):
        RemotePlace("https://localhost:1/tokens").create("a", b"")


def test_a_remote_file_reads_as_a_file_does(memory: Any) -> None:
    data = bytes(range(256)) * 40
    memory.pipe_file("/a/b.bin", data)
    with RemoteFile("memory://a/b.bin", len(data), "").open() as file:
        assert file.read(10) == data[:10]
        assert file.seek(-6, 2) == len(data) - 6
        assert file.read() == data[-6:]
        assert file.seek(5000) == 5000
        assert file.read(3000) == data[5000:8000]
        assert file.tell() == 8000
