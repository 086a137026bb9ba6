"""Another engine goes the whole road: it is given to the builds, and nothing else is touched.

`Diary` hands its units and results through bytes, as an engine on other machines would, keeps
them in memory, and takes them in an order of its own.
"""

from __future__ import annotations

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmdata.building.workers import Died, Finished, Message, Reported, find_function
from lmdata.errors import LmdataError
from lmdata.examples import start_masking, write_examples
from lmdata.recipes import Recipe
from lmdata.schema import read_manifest
from lmdata.verification import verify_dataset
from tests.contracts import check_same_bytes_by_any_engine
from tests.lmdata.builds import (
    InlineWorkers,
    all_bytes,
    tokenize_in_small_units,
    write_three_files,
)

PAGE = (Path(__file__).parents[1] / "docs" / "adding-an-engine.md").read_text(encoding="utf-8")
NUM_UNITS_AT_ONCE = 3
RECIPE = Recipe(view="nsp", max_seq_length=32, duplicates=3)


class Diary:
    """Workers that live in memory: the unit that came last is done first."""

    def __init__(self, prepare: str, *, dies_after: int | None = None) -> None:
        self.num_workers = NUM_UNITS_AT_ONCE
        self.done: list[bytes] = []
        self._prepare, self._dies_after = prepare, dies_after
        self._waiting: list[tuple[int, bytes]] = []

    def prepare(self, setup: Any, lock: int) -> None:
        sent = pickle.dumps(setup)
        self._work = find_function(self._prepare)(lambda: pickle.loads(sent))

    def submit(self, worker: int, task: Any) -> None:
        self._waiting.append((worker, pickle.dumps(task)))

    def receive(self, timeout_s: float) -> list[Message]:
        worker, sent = self._waiting.pop()
        if self._dies_after is not None and len(self.done) >= self._dies_after:
            return [Died(worker, "was unplugged")]
        reports: list[Message] = []
        task = pickle.loads(sent)
        result = self._work(task, lambda value: reports.append(Reported(worker, value)))
        self.done.append(sent)
        return [*reports, Finished(worker, pickle.loads(pickle.dumps(result)))]

    def close(self) -> None:
        self._waiting.clear()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_three_files(tmp_path_factory.mktemp("workers") / "corpus", 40)


def mask(store: Path, output: Path, workers: Any) -> None:
    write_examples(store, RECIPE, output, seed=5, shard_bytes=4000, workers=workers)


def test_a_store_and_its_shards_have_the_same_bytes_by_any_engine(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmdata.examples._MAX_TASK_ROWS", 7)
    diary = Diary("lmdata.building.units:prepare_units")
    check_same_bytes_by_any_engine(
        partial(tokenize_in_small_units, corpus),
        {"inline": InlineWorkers(2, 1), "diary": diary},
        tmp_path / "tokens",
    )
    assert len(diary.done) > NUM_UNITS_AT_ONCE
    store = tmp_path / "tokens" / "diary"
    diary = Diary("lmdata.examples:prepare_examples")
    check_same_bytes_by_any_engine(
        lambda output, workers: mask(store, output, workers),
        {"threads": start_masking(2), "diary": diary},
        tmp_path / "shards",
    )
    assert len(diary.done) > NUM_UNITS_AT_ONCE
    assert verify_dataset(tmp_path / "shards" / "diary").passed
    assert read_manifest(tmp_path / "shards" / "diary").num_rows("train") > 100


def test_the_page_about_engines_is_one(corpus: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/adding-an-engine.md", "exec"), names)

    def futures(prepare: str) -> Any:
        return names["FutureWorkers"](ThreadPoolExecutor(2), NUM_UNITS_AT_ONCE, prepare)

    units, examples = re.findall(r'FutureWorkers\(engine, 8, "(.*?)"\)', PAGE)
    check_same_bytes_by_any_engine(
        partial(tokenize_in_small_units, corpus),
        {"inline": InlineWorkers(2, 1), "futures": futures(units)},
        tmp_path / "tokens",
    )
    store = tmp_path / "tokens" / "futures"
    check_same_bytes_by_any_engine(
        lambda output, workers: mask(store, output, workers),
        {"threads": start_masking(2), "futures": futures(examples)},
        tmp_path / "shards",
    )


def test_a_build_that_one_engine_began_is_ended_by_another(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = "lmdata.building.units:prepare_units"
    tokenize_in_small_units(corpus, tmp_path / "whole", InlineWorkers())
    with pytest.raises(LmdataError, match=r"a worker was unplugged while it read .*\.txt"):
        tokenize_in_small_units(corpus, tmp_path / "tokens", Diary(prepare, dies_after=4))
    tokenize_in_small_units(corpus, tmp_path / "tokens", InlineWorkers(2))
    assert all_bytes(tmp_path / "tokens") == all_bytes(tmp_path / "whole")
    monkeypatch.setattr("lmdata.examples._MAX_TASK_ROWS", 7)
    prepare = "lmdata.examples:prepare_examples"
    mask(tmp_path / "tokens", tmp_path / "shards", start_masking(2))
    expected = all_bytes(tmp_path / "shards")
    (tmp_path / "shards").rename(tmp_path / "other")
    with pytest.raises(LmdataError, match="a worker was unplugged while it read rows"):
        mask(tmp_path / "tokens", tmp_path / "shards", Diary(prepare, dies_after=14))
    assert list((tmp_path / "shards").glob("*.arrow"))
    mask(tmp_path / "tokens", tmp_path / "shards", start_masking(2))
    assert all_bytes(tmp_path / "shards") == expected
