"""Ray as one more engine: the bytes of the built-in ones, also when a node is lost."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmdata.building.memory import MemoryBudget
from lmdata.building.plan import UnitSetup
from lmdata.building.ray_workers import RayWorkers, do_unit, start_ray
from lmdata.corpus import find_sources
from lmdata.errors import ConfigError, OutputError
from lmdata.examples import start_masking, write_examples
from lmdata.places import LocalPlace
from lmdata.recipes import Recipe
from lmdata.tagging.units import TagConfig
from lmdata.tags import start_tagging, tag_corpus
from tests.contracts import check_same_bytes_by_any_engine
from tests.lmdata.builds import (
    LINES,
    InlineWorkers,
    TokenizeConfig,
    all_bytes,
    tokenize_in_small_units,
    write_three_files,
)


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray: pip install 'lmdata-lmmodel\[ray\]'"):
        start_ray("tokens", 2)


def test_a_machine_that_does_not_see_the_output_says_so(tmp_path: Path) -> None:
    setup = UnitSetup(
        sources=[], config=TokenizeConfig(), place=LocalPlace(tmp_path / "elsewhere"),
        memory=MemoryBudget(1, 1), tokenizer_hash="",
    )  # fmt: skip
    prepare = "lmdata.building.units:prepare_units"
    with pytest.raises(OutputError, match=r"the worker on .* does not see .*elsewhere: write to a"):
        do_unit(prepare, "key", pickle.dumps(setup), None)


def test_an_address_belongs_to_ray() -> None:
    from tests.cli.commands import invoke

    result = invoke("lmdata", "tokenize", "corpus", "--address", "auto")
    assert result.exit_code == 2
    assert "--address is for --engine ray" in result.stderr


# ---- On a cluster of several nodes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_three_files(tmp_path_factory.mktemp("ray") / "corpus", 60)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Ray
def test_ray_gives_the_bytes_of_one_machine(
    cluster: Any, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmdata.examples._MAX_TASK_ROWS", 50)
    ray = {f"ray-{count}": start_ray("tokens", count) for count in (1, 2, 4)}
    check_same_bytes_by_any_engine(
        partial(tokenize_in_small_units, corpus),
        {"inline": InlineWorkers(2, 1), **ray},
        tmp_path / "tokens",
    )
    config = TagConfig(corpus=LINES)
    check_same_bytes_by_any_engine(
        lambda output, workers: tag_corpus(
            find_sources([str(corpus)], LINES), config, output, workers=workers, unit_bytes=3000
        ),
        {"local": start_tagging(1), "ray": start_ray("tags", 2)},
        tmp_path / "tags",
    )
    store, recipe = tmp_path / "tokens" / "inline", Recipe(view="nsp", max_seq_length=32)
    check_same_bytes_by_any_engine(
        lambda output, workers: write_examples(store, recipe, output, seed=1, workers=workers),
        {"threads": start_masking(2), "ray": start_ray("examples", 2)},
        tmp_path / "shards",
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of Ray
def test_a_node_that_is_killed_changes_no_byte(cluster: Any, corpus: Path, tmp_path: Path) -> None:
    tokenize_in_small_units(corpus, tmp_path / "whole", InlineWorkers())
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    output = tmp_path / "tokens"

    def kill() -> None:
        end = time.monotonic() + 120
        while len(list(output.glob(".build/unit-*.json"))) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    tokenize_in_small_units(corpus, output, RayWorkers(3, "lmdata.building.units:prepare_units"))
    killer.join()
    assert all_bytes(output) == all_bytes(tmp_path / "whole")


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_named() -> None:
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "):
        start_ray("tokens", 1, "127.0.0.1:1")
