from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lmdata.dataset import open_store
from lmdata.errors import ConfigError
from lmdata.recipes import Recipe
from lmdata.tokenizer import load_tokenizer
from lmmodel.config import load_train_config
from lmmodel.data import StoreRows
from lmmodel.errors import FitError, RunError
from lmmodel.saving.metrics import read_metrics
from lmmodel.trainer import train
from lmmodel.training.replay import FIRST_EPOCH, ReplayRows
from tests.lmmodel.branch_folders import write_parent
from tests.lmmodel.conftest import TINY

OWN = [setting for setting in TINY if not setting.startswith("model.")]


def test_a_share_of_every_stretch_of_rows_is_the_parents(store) -> None:
    opened, recipe = open_store(store, "train"), Recipe(view="single", max_seq_length=32)
    own, parents = (StoreRows(opened, recipe, seed=seed) for seed in (0, 1))
    mixed = ReplayRows(own, parents, 0.25)
    assert mixed.num_rows == round(own.num_rows / 0.75)
    for start in (0, 7, 40):
        found = mixed.take(0, np.arange(start, start + 12))
        is_parents = found.epoch >= FIRST_EPOCH
        assert is_parents.sum() == 3
        alone = [mixed.take(0, np.array([row])) for row in range(start, start + 12)]
        assert [int(one.row[0]) for one in alone] == found.row.tolist()
        assert [one.input_ids.tolist() for one in alone] == [
            found.take(np.array([i])).input_ids.tolist() for i in range(12)
        ]
    own_rows = mixed.take(0, np.arange(12))
    assert own_rows.row[own_rows.epoch == 0].tolist() == list(range(9))
    next_epoch = mixed.take(1, np.arange(12))
    assert not set(zip(own_rows.epoch, own_rows.row, strict=False)) & set(
        zip(next_epoch.epoch, next_epoch.row, strict=False)
    )


def test_what_is_forgotten_of_the_parents_data_is_told(store, tmp_path) -> None:
    tokenizer = load_tokenizer(store / "tokenizer")
    parent = write_parent(tmp_path / "parent", tokenizer, "objective.name=mlm", data=store)
    settings = [f"init_from={parent}", *OWN, "budget.num_steps=2", "recipe.max_seq_length=32"]
    config = load_train_config(None, [*settings, "replay=0.5"])
    summary = train(config, store, tmp_path / "run")
    assert summary.forgotten.before > 0
    assert summary.forgotten.after != summary.forgotten.before
    told = [one for one in read_metrics(tmp_path / "run" / "metrics.jsonl")
            if one.get("notice") == "forgotten"]  # fmt: skip
    assert told[0]["message"] == summary.forgotten.sentence
    plain = train(load_train_config(None, [*settings, "replay=0"]), store, tmp_path / "plain")
    assert plain.forgotten.before == summary.forgotten.before
    assert plain.forgotten.after != summary.forgotten.after


def test_what_can_not_be_replayed_is_told(store, shards, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"replay=0.1 is of the data of the run that training"):
        load_train_config(None, ["replay=0.1"])
    tokenizer = load_tokenizer(store / "tokenizer")
    parent = write_parent(tmp_path / "parent", tokenizer, "objective.name=mlm")
    settings = [f"init_from={parent}", *OWN, "recipe.max_seq_length=32"]
    with pytest.raises(ConfigError, match=r"replay must be in \[0, 1\), got 1"):
        load_train_config(None, [*settings, "replay=1.0"])
    with pytest.raises(RunError, match="was imported and has no data of its own"):
        train(load_train_config(None, [*settings, "replay=0.1"]), store, tmp_path / "run")
    other = write_parent(tmp_path / "other", tokenizer, "objective.name=mlm", data=store)
    path = Path(other) / "config.json"
    path.write_text(path.read_text().replace('"data_hash": "', '"data_hash": "0'))
    changed = load_train_config(None, [f"init_from={other}", *settings[1:], "replay=0.1"])
    with pytest.raises(FitError, match="is other data now"):
        train(changed, store, tmp_path / "run")
