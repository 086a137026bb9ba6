"""A task that nothing else knows goes the whole road: docs/adding-a-task.md, as it stands."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lmmodel.config import load_train_config
from lmmodel.errors import HuggingFaceError
from lmmodel.exporting import export_run
from lmmodel.finetuner import finetune
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.finetuning.folder import load_fine_tuned
from lmmodel.predicting.answering import answer_rows, score_file
from lmmodel.tasks.known import TASKS, read_task_file
from lmmodel.tasks.task_files import TaskFile, TaskFormat
from lmmodel.trainer import train
from tests.lmmodel.conftest import TINY

PAGE = (Path(__file__).parents[1] / "docs" / "adding-a-task.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of pretraining: weights are nearly random, the folder is real."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    settings = ["objective.name=mlm", "budget.num_steps=2", "evaluation.num_examples=0"]
    train(load_train_config(None, [*TINY, *settings]), store, folder)
    return folder


@pytest.fixture(autouse=True)
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "share", None)  # taken away again afterwards
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    module = ModuleType("adding_a_task")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look
    exec(compile(block, "docs/adding-a-task.md", "exec"), module.__dict__)
    assert TASKS["share"].verb == "share"


def write_rows(path: Path, count: int, seed: int) -> Path:
    draw = np.random.default_rng(seed)
    rows = [
        {"phrase": f"{who} sees a stone.", "share": 0.9 if who == "the cat" else 0.2}
        for who in draw.choice(["the cat", "a dog"], count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_task_of_its_own_goes_the_whole_road(run: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "train.jsonl", 96, 1)
    config = FinetuneConfig(
        task="share", num_seeds=1, num_epochs=24, lr=1e-2, device="cpu", precision="fp32",
        dropout=0.0, patience=None, validation_ratio=0.25,
    )  # fmt: skip
    result = finetune(run, config, path, None, tmp_path / "out")
    assert result.mean["closeness"] > 0.85
    assert result.picture is None
    assert result.num_validation == 24
    tuned = load_fine_tuned(tmp_path / "out", device="cpu")
    assert tuned.task is TASKS["share"]
    rows = read_task_file(path, "share", TaskFormat(has_labels=False))
    found = answer_rows(tuned, rows).answers
    assert all((one.percent > 50) == ("cat" in one.text) for one in found)
    test = TaskFile(write_rows(tmp_path / "test.jsonl", 40, 2), TaskFormat())
    scored = score_file(tuned, test)
    low, high = scored.intervals["closeness"]
    assert 0.8 < low <= scored.scores["closeness"] <= high
    assert scored.confusion is None
    with pytest.raises(HuggingFaceError, match="transformers has no class for share"):
        export_run(tmp_path / "out", tmp_path / "hf")
