from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lmmodel.config import load_train_config
from lmmodel.errors import FitError, ResumeError
from lmmodel.evaluation import evaluate_run
from lmmodel.merging import merge_runs
from lmmodel.saving.run import read_record
from lmmodel.saving.state import load_state
from lmmodel.trainer import train
from tests.lmmodel.conftest import TINY

OWN = [setting for setting in TINY if not setting.startswith("model.")]


@pytest.fixture(scope="module")
def branches(trained: Path, store: Path, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("branches")
    for name, part in (("a", "ffn"), ("b", "lora")):
        config = load_train_config(
            None, [f"init_from={trained}", "budget.num_steps=3", f"trainable={part}", *OWN]
        )
        train(config, store, folder / name)
    return folder / "a", folder / "b"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_state(run)


def test_weights_are_the_parents_and_what_each_changed(trained, branches, store, tmp_path) -> None:
    result = merge_runs(branches, [0.5, 0.25], tmp_path / "both")
    base, first, second = map(weights, (trained, *branches))
    for name, weight in weights(tmp_path / "both").items():
        moved = 0.5 * (first[name] - base[name]) + 0.25 * (second[name] - base[name])
        torch.testing.assert_close(weight, base[name] + moved, rtol=1e-5, atol=1e-7)
    assert result.parent == trained.resolve()
    assert all(0 < one.change < 1 for one in result.branches)
    assert evaluate_run(tmp_path / "both", store, num_examples=16).loss > 0
    record = read_record(tmp_path / "both")
    assert record.config.trainable == "full"
    assert [one["weight"] for one in record.origin["merged"]] == [0.5, 0.25]


def test_taking_away_what_was_added_gives_the_parent(trained, branches, tmp_path) -> None:
    merge_runs([branches[0], branches[0]], [1, -1], tmp_path / "none")
    base, found = weights(trained), weights(tmp_path / "none")
    assert all(torch.equal(weight, base[name]) for name, weight in found.items())
    with pytest.raises(ResumeError, match="has no training to go on with"):
        train(None, None, tmp_path / "none", resume=True)


def test_what_are_no_branches_of_one_parent_is_told(trained, branches, store, tmp_path) -> None:
    first, second = branches
    with pytest.raises(FitError, match=r"1 runs and 1 weights: two runs, a weight each"):
        merge_runs([first], [1], tmp_path / "out")
    with pytest.raises(FitError, match="weights must be numbers, got nan, 1"):
        merge_runs(branches, [float("nan"), 1], tmp_path / "out")
    with pytest.raises(FitError, match="began with no other run: merge takes branches"):
        merge_runs([first, trained], [0.5, 0.5], tmp_path / "out")
    config = load_train_config(None, [f"init_from={first}", "budget.num_steps=1", *OWN])
    train(config, store, tmp_path / "later")
    with pytest.raises(FitError, match="branches need one parent"):
        merge_runs([first, tmp_path / "later"], [0.5, 0.5], tmp_path / "out")
    shutil.copytree(first, tmp_path / "moved")
    path = tmp_path / "moved" / "config.json"
    path.write_text(path.read_text().replace(str(trained.resolve()), str(tmp_path / "gone")))
    with pytest.raises(FitError, match=r"the parent .*gone is gone, or its weights are others"):
        merge_runs([tmp_path / "moved", second], [0.5, 0.5], tmp_path / "out")
    assert not (tmp_path / "out").exists()
