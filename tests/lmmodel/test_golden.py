"""A refactor shows the same loss curve: a small run against the one that was recorded.

To record it anew after a change that is meant to change it, print `losses` below.
"""

from __future__ import annotations

import pytest

from lmmodel.saving.metrics import read_metrics
from lmmodel.trainer import train

# Every fifth of 30 steps, nats; torch 2.13 on x86-64. Other machines differ in the last digits.
GOLDEN = {
    "adamw": [5.3715, 4.9377, 4.8318, 4.6754, 4.7393, 4.7343],
    "muon": [5.3734, 4.9398, 4.8329, 4.6752, 4.7376, 4.7351],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_loss_curve_is_the_recorded_one(tiny, store, tmp_path, name):
    config = tiny(
        f"optimizer.name={name}", "optimizer.lr=5e-3", "budget.num_steps=30",
        "logging.every_steps=5", "evaluation.every_steps=30", "checkpoint.every_steps=30",
    )  # fmt: skip
    train(config, store, tmp_path / "run")
    entries = read_metrics(tmp_path / "run/metrics.jsonl")
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert losses == pytest.approx(GOLDEN[name], abs=0.01)
