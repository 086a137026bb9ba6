"""One little road, walked once with the commands themselves: corpus to trained model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cli.commands import TRAIN_FAST, Road, make_text, succeed
from tests.lmdata.builds import start_no_processes


@pytest.fixture(scope="session", autouse=True)
def workers_in_this_process() -> Iterator[None]:
    """No processes are started; test_interruption.py has real ones."""
    with pytest.MonkeyPatch.context() as patch:
        start_no_processes(patch)
        patch.setattr(
            "lmmodel.training.reporting.plot_losses", lambda _entries, path, *_: path.touch()
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """A corpus, a tokenizer, a store, shards and a run of two steps; nobody may change them."""
    folder = tmp_path_factory.mktemp("road")
    road = Road(*(folder / name for name in ("corpus", "tokenizer", "tokens", "shards", "run")))
    road.corpus.mkdir()
    (road.corpus / "text.txt").write_text(make_text(60))
    reading = ("--documents", "blank-line")
    succeed("lmdata", "train-tokenizer", road.corpus, "--output", road.tokenizer,
            "--vocab-size", "100", "--set", "allow_smaller=true", *reading)  # fmt: skip
    succeed("lmdata", "tokenize", road.corpus, "--output", road.tokens,
            "--tokenizer", road.tokenizer, "--set", "validation_ratio=0.2", *reading)  # fmt: skip
    succeed("lmdata", "mask", road.tokens, "--output", road.shards, "--max-seq-length", "32")
    succeed("lmmodel", "train", road.shards, "--output", road.run, "--num-steps", "2", *TRAIN_FAST)
    return road


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, for commands that are typed without paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
