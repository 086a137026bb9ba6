"""Outputs on the hub: one commit with everything, or none; asked by the hub's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmdata.building.resumable import Part
from lmdata.copies import at_hand
from lmdata.errors import ConfigError, IntegrityError, OutputError
from lmdata.exporting.export import export_store
from lmdata.hub import HubFolder, Repository, parse_repository
from lmdata.stores import is_hub
from tests.lmdata.builds import InlineWorkers, all_bytes, random_documents, write_corpus
from tests.lmdata.hub import Hub, serve_hub
from tests.lmdata.test_remote import tokenize

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # the client's own
OUTPUT = "hf://datasets/me/mine/tokens"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Hub, str]]:
    with serve_hub() as served:
        yield served


@pytest.fixture
def hub(served: tuple[Hub, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    pytest.importorskip("fsspec")
    from huggingface_hub import HfFileSystem

    found, address = served
    found.__init__()  # type: ignore[misc]  # as it began
    url = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("lmdata.hub._WAITS_S", (0.0, 0.0))
    monkeypatch.setenv("LMDATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_testing")
    HfFileSystem.clear_instance_cache()
    from lmdata.stores import _open_store

    _open_store.cache_clear()
    yield found
    _open_store.cache_clear()
    HfFileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {"a.txt": random_documents(40, 1)}
    return write_corpus(tmp_path_factory.mktemp("hub") / "corpus", files)


def published(hub: Hub, prefix: str = "tokens/") -> dict[str, bytes]:
    return {
        name.removeprefix(prefix): data
        for name, data in hub.files.items()
        if name.startswith(prefix)
    }


class Resting(InlineWorkers):
    """Workers that may not be given anything to do."""

    def submit(self, worker: int, task: Any) -> None:
        raise AssertionError(task)


def commits(hub: Hub) -> int:
    return sum("/commit/" in request for request in hub.requests)


def test_a_repository_is_named_as_the_hub_names_it() -> None:
    assert parse_repository("hf://datasets/me/mine@dev/a/b/") == Repository(
        "dataset", "me/mine", "dev", "a/b"
    )
    assert parse_repository("hf://me/model") == Repository("model", "me/model", None, "")
    found = parse_repository("hf://datasets/me/mine@refs/pr/7/a")
    assert (found.revision, found.folder) == ("refs/pr/7", "a")
    assert parse_repository("hf://datasets/me/mine@refs%2Fpr%2F7/a") == found
    for uri in ("hf://", "hf://me", "hf://datasets/me", "hf://datasets/me/@main"):
        with pytest.raises(ConfigError, match="names no repository: it is hf://datasets/OWNER"):
            parse_repository(uri)
    assert is_hub(OUTPUT)
    assert not is_hub(Path("hf:"))


def test_a_store_is_published_by_one_commit_and_read_back(
    hub: Hub, corpus: Path, tmp_path: Path
) -> None:
    tokenize(corpus, tmp_path / "tokens")
    tokenize(corpus, OUTPUT)
    whole = all_bytes(tmp_path / "tokens")
    assert (published(hub), commits(hub), len(hub.commits)) == (whole, 1, 2)
    assert hub.files[".gitattributes"]  # what others have there stays
    assert not list((tmp_path / "cache").rglob("*.arrow"))  # nothing is left on this machine
    assert all_bytes(at_hand(OUTPUT)) == whole
    with pytest.raises(OutputError, match=r"hf://.*/tokens exists and is complete: add --over"):
        tokenize(corpus, OUTPUT)
    with pytest.raises(OutputError, match=r"takes one commit .*: parts need a disk or a store"):
        tokenize(corpus, OUTPUT, part=Part(1, 2))


def test_what_is_replaced_goes_with_the_same_commit(hub: Hub, corpus: Path, tmp_path: Path) -> None:
    tokenize(corpus, OUTPUT)
    few = write_corpus(tmp_path / "few", {"a.txt": random_documents(3, 1)})
    before = set(published(hub))
    hub.commits.append({**hub.files, "tokens/README.md": b"of a person"})
    tokenize(few, OUTPUT, overwrite=True)
    tokenize(few, tmp_path / "tokens")
    assert commits(hub) == 2
    assert published(hub) == {**all_bytes(tmp_path / "tokens"), "README.md": b"of a person"}
    assert before - set(published(hub))


def test_a_commit_is_never_made_twice(hub: Hub, corpus: Path, tmp_path: Path) -> None:
    tokenize(corpus, tmp_path / "tokens")
    hub.lost = 1
    tokenize(corpus, OUTPUT)
    assert (published(hub), len(hub.commits)) == (all_bytes(tmp_path / "tokens"), 2)


def test_a_commit_that_was_not_made_is_tried_again(hub: Hub, corpus: Path, tmp_path: Path) -> None:
    tokenize(corpus, tmp_path / "tokens")
    hub.failing = 2
    tokenize(corpus, OUTPUT)
    assert (published(hub), len(hub.commits)) == (all_bytes(tmp_path / "tokens"), 2)
    sent = [request for request in hub.requests if request.startswith("PUT /large")]
    assert len(sent) == len(set(sent))  # nothing was sent again


def test_a_commit_in_between_is_an_error_and_nothing_is_lost(
    hub: Hub, corpus: Path, tmp_path: Path
) -> None:
    hub.others = 1
    with pytest.raises(OutputError, match=r"was changed by another commit meanwhile, and nothing"):
        tokenize(corpus, OUTPUT)
    assert published(hub) == {}
    tokenize(corpus, OUTPUT, Resting())
    tokenize(corpus, tmp_path / "tokens")
    assert published(hub) == all_bytes(tmp_path / "tokens")


def test_a_file_that_is_left_out_is_told(hub: Hub, corpus: Path) -> None:
    hub.ignored = {"tokens/train-00000.arrow"}
    with pytest.raises(IntegrityError, match=r"train-00000\.arrow is not what was sent: .*\.gitig"):
        tokenize(corpus, OUTPUT)


def test_files_of_others_are_not_replaced(hub: Hub, corpus: Path) -> None:
    hub.commits.append({**hub.files, "tokens/train-00000.arrow": b"of a person"})
    with pytest.raises(OutputError, match=r"holds a file train-00000\.arrow that no manifest"):
        tokenize(corpus, OUTPUT)
    assert len(hub.commits) == 2


def test_a_repository_that_is_not_there_is_told(hub: Hub, corpus: Path) -> None:
    with pytest.raises(OutputError, match=r"/me/other is not there, or .* set HF_TOKEN to a token"):
        tokenize(corpus, "hf://datasets/me/other")
    with pytest.raises(OutputError, match="is not there, or this process may not write it"):
        HubFolder("hf://datasets/me/mine@dev", "manifest.json", lambda data: set()).look()


def test_an_export_is_published_too(hub: Hub, corpus: Path, tmp_path: Path) -> None:
    tokenize(corpus, tmp_path / "tokens")
    export_store(tmp_path / "tokens", tmp_path / "mds", "mds")
    export_store(tmp_path / "tokens", "hf://datasets/me/mine", "mds")
    files = all_bytes(tmp_path / "mds")
    assert {name: hub.files[name] for name in files} == files
    with pytest.raises(OutputError, match="already holds an export: add --overwrite"):
        export_store(tmp_path / "tokens", "hf://datasets/me/mine", "mds")
    export_store(tmp_path / "tokens", "hf://datasets/me/mine", "litdata", overwrite=True)
    assert json.loads(hub.files["export.json"])["format"] == "litdata"
    assert not [name for name in hub.files if name.endswith(".mds")]
    assert len(hub.commits) == 3
    with pytest.raises(ConfigError, match=r"s3://b/c is in a store, and this is written on this"):
        export_store(tmp_path / "tokens", "s3://b/c", "mds")


def test_sources_on_the_hub_have_the_hash_of_their_content(hub: Hub) -> None:
    from lmdata.remote import find_files

    hub.commits.append({**hub.files, "a/x.txt": b"A text.\n", "a/y.txt": b"Another.\n"})
    found = find_files("hf://datasets/me/mine/a/*.txt")
    assert {name: file.size_bytes for name, file in found.items()} == {"x.txt": 8, "y.txt": 9}
    assert all(len(file.version) == 40 for file in found.values())
    assert found["x.txt"].open().read() == b"A text.\n"
