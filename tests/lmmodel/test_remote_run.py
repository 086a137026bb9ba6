"""A run in a store: whole checkpoints, the same weights, and a way on from any of its deaths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lmmodel
from lmdata.copies import at_hand
from lmdata.errors import ConfigError, IntegrityError, OutputError
from lmmodel.errors import ResumeError
from lmmodel.saving.checkpoint import INDEX_NAME
from tests.lmdata.builds import build, random_documents, write_corpus
from tests.lmdata.stores import FaultyStore

RUN = "s3://bucket/runs/tiny"
SETTINGS = {
    "model.hidden_size": 16, "model.num_hidden_layers": 1, "model.num_attention_heads": 2,
    "model.intermediate_size": 16, "batch.size": 2, "checkpoint.every_steps": 2,
    "evaluation.num_examples": 2, "recipe.max_seq_length": 16, "recipe.view": "packed",
    "objective.name": "mlm",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote-run")
    write_corpus(folder / "corpus", {"a.txt": random_documents(40)})
    build(folder / "corpus", folder / "tokens", validation_ratio=0.2)
    return folder / "tokens"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokens: Path) -> FaultyStore:
    store = FaultyStore()
    monkeypatch.setattr("lmdata.remote.open_store", lambda root: store)
    monkeypatch.setenv("LMDATA_CACHE", str(tmp_path / "cache"))
    for path in tokens.rglob("*"):
        if path.is_file():
            store.objects[f"tokens/{path.relative_to(tokens).as_posix()}"] = path.read_bytes()
    return store


def train(data: Path | str | None, output: Path | str, **options: Any) -> Any:
    settings = None if options.get("resume") else SETTINGS
    steps = None if options.get("resume") else 5
    return lmmodel.train(
        data, output, num_steps=steps, device=None if options.get("resume") else "cpu",
        settings=settings, **options,
    )  # fmt: skip


def weights_of(store: FaultyStore) -> bytes:
    return store.objects["runs/tiny/model.safetensors"]


class Killed(Exception):  # it ends a training without a word
    """Raised in the middle of it."""


def test_a_run_from_a_store_to_a_store_has_the_weights_of_one_here(
    store: FaultyStore, tokens: Path, tmp_path: Path
) -> None:
    train(tokens, tmp_path / "run")
    expected = (tmp_path / "run" / "model.safetensors").read_bytes()
    summary = train("s3://bucket/tokens", RUN)
    assert summary.output == RUN
    assert weights_of(store) == expected
    record = json.loads(store.objects["runs/tiny/config.json"])
    assert record["data_path"] == "s3://bucket/tokens"
    steps = {key.split("/")[3] for key in store.objects if key.startswith("runs/tiny/checkpoints/")}
    assert steps == {"step-00000004", "step-00000005"}
    with pytest.raises(OutputError, match="already holds a run: --resume goes on with it"):
        train("s3://bucket/tokens", RUN)
    train("s3://bucket/tokens", RUN, overwrite=True)
    assert weights_of(store) == expected
    store.objects["runs/tiny/notes.txt"] = b"mine"
    with pytest.raises(OutputError, match=r"holds more than a run \(such as notes\.txt\)"):
        train("s3://bucket/tokens", RUN, overwrite=True)

    class Dying(FaultyStore):
        num_left = 6

        def write(self, key: str, data: bytes) -> None:
            self.num_left -= 1
            if not self.num_left:
                raise Killed
            self.objects[key] = data

    for num_left in (1, 3, 6, 8, 11):
        dying = Dying()
        dying.num_left = num_left
        dying.objects = {k: v for k, v in store.objects.items() if k.startswith("tokens/")}
        lmdata_remote = pytest.MonkeyPatch()
        lmdata_remote.setattr("lmdata.remote.open_store", lambda root, dying=dying: dying)
        with pytest.raises(Killed):
            train("s3://bucket/tokens", RUN)
        keys = set(dying.objects)
        if "runs/tiny/config.json" in keys:
            train(None, RUN, resume=True)
        else:
            with pytest.raises(ResumeError, match="holds no run to go on with"):
                train(None, RUN, resume=True)
            train("s3://bucket/tokens", RUN, overwrite=True)
        assert weights_of(dying) == expected, num_left
        assert any(key.endswith(f"step-00000005/{INDEX_NAME}") for key in dying.objects)
        lmdata_remote.undo()


def test_a_run_is_not_written_to_the_hub(tokens: Path) -> None:
    with pytest.raises(OutputError, match=r"hf://me/run takes one commit, .* a commit each"):
        train(tokens, "hf://me/run")


def test_a_copy_is_verified_bounded_and_made_once(
    store: FaultyStore, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "s3://bucket/tokens"
    folder = at_hand(uri)
    assert folder.parent == tmp_path / "cache"
    assert (folder / "train-00000.arrow").read_bytes() == (
        tokens / "train-00000.arrow"
    ).read_bytes()
    reads = []
    read = store.read
    monkeypatch.setattr(store, "read", lambda key, *rest: reads.append(key) or read(key, *rest))
    assert at_hand(uri) == folder
    assert not any(key.endswith(".arrow") for key in reads)
    older, run = tmp_path / "cache" / ("0" * 32), tmp_path / "cache" / "runs"
    for other in (older, run):
        other.mkdir()
        (other / "a.arrow").write_bytes(b"x" * 5000)
    (folder / "manifest.json").unlink()
    size = sum(path.stat().st_size for path in folder.glob("*.arrow"))
    monkeypatch.setenv("LMDATA_CACHE_GB", str((size + 100) / 1e9))
    at_hand(uri)
    assert run.exists()  # what is no copy makes no room
    assert not older.exists()
    monkeypatch.setenv("LMDATA_CACHE_GB", "1e-6")
    (folder / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"copies of datasets may take 1e-06 GB in .*: raise"):
        at_hand(uri)
    monkeypatch.setenv("LMDATA_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="LMDATA_CACHE_GB must be a number of gigabytes"):
        at_hand(uri)


def test_what_was_altered_or_is_no_dataset_is_refused(store: FaultyStore) -> None:
    data = bytearray(store.objects["tokens/train-00000.arrow"])
    data[len(data) // 2] ^= 1
    store.objects["tokens/train-00000.arrow"] = bytes(data)
    with pytest.raises(IntegrityError, match=r"s3://bucket/tokens/train-00000\.arrow was altered"):
        at_hand("s3://bucket/tokens")
    with pytest.raises(IntegrityError, match="s3://bucket/nothing is not a finished dataset"):
        at_hand("s3://bucket/nothing")
