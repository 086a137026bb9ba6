"""One little road, walked once with the commands themselves: corpus to trained model."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import lmcli.lmdata
import lmcli.lmmodel
from tests.lmdata.builds import InlineWorkers

WORDS = ("river", "stone", "apple", "road", "story", "water", "teacher", "bird", "winter", "house")
VERBS = ("sees", "likes", "finds", "follows", "paints", "forgets")

TRAIN_FAST = [
    "--model", "tiny", "--device", "cpu", "--set", "batch.size=4",
    "--set", "batch.micro_batch_tokens=128", "--set", "evaluation.num_examples=4",
]  # fmt: skip

Run = Callable[..., Result]


@dataclass(frozen=True)
class Road:
    """Everything that the commands make of one little corpus."""

    corpus: Path
    tokenizer: Path
    tokens: Path
    shards: Path
    run: Path


def make_text(num_documents: int, seed: int = 0) -> str:
    """Documents of a few short sentences, one a line, a blank line between documents."""
    draw = random.Random(seed)
    documents = [
        "\n".join(
            f"The {draw.choice(WORDS)} {draw.choice(VERBS)} a {draw.choice(WORDS)}."
            for _ in range(draw.randint(3, 6))
        )
        for _ in range(num_documents)
    ]
    return "\n\n".join(documents) + "\n"


def invoke(*arguments: str | Path, input: bytes | str | None = None) -> Result:
    """Run `lmdata ...` or `lmmodel ...` in this process; a traceback fails the test."""
    command, *rest = map(str, arguments)
    group: click.Group = {"lmdata": lmcli.lmdata, "lmmodel": lmcli.lmmodel}[command].main
    result = CliRunner().invoke(group, rest, input=input, prog_name=command)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments: str | Path, **options: Any) -> Result:
    result = invoke(*arguments, **options)
    assert result.exit_code == 0, result.stderr
    return result


def as_json(*arguments: str | Path, **options: Any) -> Any:
    return json.loads(succeed(*arguments, "--json", **options).stdout)


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and time of change of whatever lies below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    } | {str(path.relative_to(folder)): (0, 0) for path in folder.rglob("*") if path.is_dir()}


@pytest.fixture(scope="session", autouse=True)
def workers_in_this_process() -> Iterator[None]:
    """Worker processes take seconds to start; test_interruption.py has real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmdata.tokenize.start_tokenizing", InlineWorkers)
        patch.setattr("lmmodel.reporting.plot_losses", lambda _entries, path, *_: path.touch())
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

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
def inside(tmp_path: Path) -> Iterator[Path]:
    """An empty folder to be in, for commands that are typed without paths."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)
