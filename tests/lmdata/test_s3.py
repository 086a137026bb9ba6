"""A real S3 server on loopback: the bytes of a disk, and one line for what a person can mend."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmdata.build import finish_dataset
from lmdata.building.leftovers import clean_up
from lmdata.building.resumable import Part
from lmdata.copies import at_hand
from lmdata.corpus import CorpusConfig, find_sources
from lmdata.errors import CorpusError, LmdataError, OutputError
from lmdata.examples import write_examples
from lmdata.recipes import RECIPES
from lmdata.remote import RemotePlace, find_files
from lmdata.stores import _open_store
from tests.lmdata.builds import all_bytes, random_documents, write_corpus
from tests.lmdata.test_remote import tokenize

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("obstore", reason="the extra [remote] is not installed")
    moto = pytest.importorskip("moto.server", reason="there is no S3 server to ask")
    served = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    yield f"http://{host}:{port}"
    served.stop()


@pytest.fixture(autouse=True)
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty bucket, whose owner this process is."""
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST"))
    urllib.request.urlopen(urllib.request.Request(f"{server}/bucket", method="PUT"))
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": server, "AWS_ALLOW_HTTP": "true",
        "LMDATA_CACHE": str(tmp_path / "cache"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _open_store.cache_clear()
    yield
    _open_store.cache_clear()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    files = {f"{name}.txt": random_documents(20, seed) for seed, name in enumerate("ab")}
    folder = write_corpus(tmp_path / "corpus", files)
    for path in folder.iterdir():
        RemotePlace("s3://bucket/corpus").write(path.name, path.read_bytes())
    return folder


def read_all(uri: str) -> dict[str, bytes]:
    place = RemotePlace(uri)
    return {name: place.read(name) or b"" for name in place.names()}


def test_a_store_is_built_and_read_in_a_bucket(corpus: Path, tmp_path: Path) -> None:
    tokenize(corpus, tmp_path / "tokens")
    whole = all_bytes(tmp_path / "tokens")
    tokenize("s3://bucket/corpus", "s3://bucket/tokens")
    assert read_all("s3://bucket/tokens") == all_bytes(at_hand("s3://bucket/tokens")) == whole
    for number in (2, 1):
        tokenize("s3://bucket/corpus", "s3://bucket/parts", part=Part(number, 2))
    RemotePlace("s3://bucket/parts").write(".build/unit-000000-train_0123abcd.part", b"late")
    assert list(clean_up("s3://bucket/parts")) == [".build/unit-000000-train_0123abcd.part"]
    finish_dataset("s3://bucket/parts")
    assert read_all("s3://bucket/parts") == whole
    with pytest.raises(OutputError, match="exists and is complete"):
        tokenize("s3://bucket/corpus", "s3://bucket/tokens")


def test_masks_are_written_to_a_bucket_too(corpus: Path, tmp_path: Path) -> None:
    tokenize(corpus, tmp_path / "tokens")
    for output in (tmp_path / "shards", "s3://bucket/shards"):
        write_examples(tmp_path / "tokens", RECIPES["bert"], output, seed=1, shard_bytes=2000)
    here, there = all_bytes(tmp_path / "shards"), read_all("s3://bucket/shards")
    assert len(here) > 4
    assert {name: data for name, data in here.items() if name != "manifest.json"} == {
        name: data for name, data in there.items() if name != "manifest.json"
    }  # which says where the store lies


def test_an_object_that_changes_is_refused(corpus: Path) -> None:
    found = find_files("s3://bucket/corpus/a.txt")["a.txt"]
    RemotePlace("s3://bucket/corpus").write("a.txt", b"A new text.\n" * 50)
    with pytest.raises(OSError, match=r"s3://bucket/corpus/a\.txt is not what it was"):
        found.open().read()


def test_what_a_person_can_mend_is_one_line(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match="s3://nowhere is not there: no such bucket"):
        find_sources(["s3://nowhere/corpus"], CorpusConfig())
    with pytest.raises(LmdataError, match="s3://nowhere is not there: no such bucket"):
        tokenize(corpus, "s3://nowhere/tokens")
    with pytest.raises(CorpusError, match=r"no file matches s3://bucket/corpus/\*\.csv"):
        find_sources(["s3://bucket/corpus/*.csv"], CorpusConfig())
    _open_store.cache_clear()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CorpusError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        find_sources(["s3://bucket/corpus"], CorpusConfig())
