"""A task of its own, in this file alone, goes the whole road: how far along a word stands.

Its head, rows, loss, scores and answers are those of no built-in task: for each sentence it tells a
share in [0, 1] by a sigmoid over the mean of the last layer's rows, learned by squared error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lmmodel.batch import Batch
from lmmodel.families import ModelConfig
from lmmodel.finetune import finetune
from lmmodel.finetuning.folder import load_fine_tuned
from lmmodel.finetuning.settings import FinetuneConfig
from lmmodel.predicting.answering import answer_rows
from lmmodel.predicting.scoring import score_file
from lmmodel.tasks.columns import Usual
from lmmodel.tasks.examples import Encoding, Floats, Predictions, TaskExamples, make_examples
from lmmodel.tasks.known import TASKS, read_task_file
from lmmodel.tasks.task import Task
from lmmodel.tasks.task_files import TaskFile, TaskFormat
from lmmodel.texts import Integers, encode_texts, find_frame, put_into_frame


@dataclass(frozen=True)
class ShareRows:
    path: str
    texts: list[str]
    shares: Any  # float64 (R,), or None
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Share:
    text: str
    percent: int


class SigmoidHead(nn.Module):
    """Two layers and a sigmoid: no stock class has it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(size, 5), nn.Linear(5, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.sigmoid(self.outer(torch.relu(self.inner(hidden))))


class ShareTask(Task[ShareRows]):
    name = "share"
    verb = "share"
    stopping_scores = ("closeness",)
    is_over_sequences = True
    stock = None
    usual = Usual(texts=(("phrase",),), labels=("share",), num_texts=(1,))

    def read(self, file: TaskFile) -> ShareRows:
        names = ["phrase", *(["share"] if file.columns.has_labels else [])]
        _, rows = file.table.parse(names, lambda _, text, share=None: (text, share))
        shares = [share for _, share in rows] if file.columns.has_labels else None
        return ShareRows(str(file.path), [text for text, _ in rows], shares)

    def encode(self, rows: ShareRows, how: Encoding) -> TaskExamples:
        encoded = encode_texts(how.tokenizer.backend, rows.texts)
        frame = find_frame(how.tokenizer, 1)
        which = np.arange(len(rows))
        span = encoded.span(which, 0, np.minimum(encoded.lengths, frame.room(how.max_seq_length)))
        labels = None if rows.shares is None else np.array(rows.shares, np.float32)
        return make_examples(rows, put_into_frame(frame, [span]), which, labels=labels, counts={})

    def take_rows(self, rows: ShareRows, which: Integers) -> ShareRows:
        return ShareRows(
            rows.path, [rows.texts[i] for i in which], [rows.shares[i] for i in which]
        )  # fmt: skip

    def num_outputs(self, labels: Sequence[str]) -> int:
        return 1

    def make_head(self, config: ModelConfig, num_outputs: int) -> nn.Module:
        return SigmoidHead(config.hidden_size)

    def sum_loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        return (logits[:, 0] - labels).square().sum()

    def predict(
        self, examples: TaskExamples, logits: Floats, rows: ShareRows, labels: Sequence[str]
    ) -> Predictions:
        return Predictions(values=logits[:, 0])

    def references(self, rows: ShareRows, labels: Sequence[str]) -> Any:
        return np.array(rows.shares)

    def score(self, found: Predictions, references: Any, labels: Sequence[str]) -> dict[str, float]:
        return {"closeness": float(1 - np.abs(found.values - references).mean())}

    def answers(self, rows: ShareRows, found: Predictions, labels: Sequence[str]) -> list[Share]:
        return [
            Share(text, round(100 * float(share)))
            for text, share in zip(rows.texts, found.values, strict=True)
        ]


def write_rows(path: Path, count: int, seed: int) -> Path:
    draw = np.random.default_rng(seed)
    rows = [
        {"phrase": f"{who} sees a stone.", "share": 0.9 if who == "the cat" else 0.2}
        for who in draw.choice(["the cat", "a dog"], count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_task_of_its_own_goes_the_whole_road(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ShareTask()
    monkeypatch.setitem(TASKS, task.name, task)
    train = write_rows(tmp_path / "train.jsonl", 96, 1)
    config = FinetuneConfig(
        task="share", num_seeds=1, num_epochs=8, lr=5e-3, device="cpu", precision="fp32",
        dropout=0.0, validation_ratio=0.25,
    )  # fmt: skip
    result = finetune(trained, config, train, None, tmp_path / "out")
    assert result.mean["closeness"] > 0.85
    assert result.picture is None
    assert result.num_validation == 24
    tuned = load_fine_tuned(tmp_path / "out", device="cpu")
    assert tuned.task is task
    rows = read_task_file(train, "share", TaskFormat(has_labels=False))
    found = answer_rows(tuned, rows).answers
    assert all((one.percent > 50) == ("cat" in one.text) for one in found)
    test = TaskFile(write_rows(tmp_path / "test.jsonl", 40, 2), TaskFormat())
    scored = score_file(tuned, test)
    assert scored.scores["closeness"] > 0.85
    low, high = scored.intervals["closeness"]
    assert low <= scored.scores["closeness"] <= high
    assert scored.confusion is None


def test_the_page_shows_what_is_run_here() -> None:
    page = (Path(__file__).parents[2] / "docs" / "adding-a-task.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    own = Path(__file__).read_text(encoding="utf-8")
    for block in blocks:
        assert block in own
