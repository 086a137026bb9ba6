"""Two processes under torchrun train as one does with the same global batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmmodel.checkpoint import load_tensors
from lmmodel.metrics import read_metrics
from lmmodel.trainer import train
from tests.lmmodel.conftest import TINY

ROOT = Path(__file__).parents[2]
CODE = (
    "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
    "from lmmodel.config import load_train_config; from lmmodel.trainer import train\n"
    "store, run, *overrides = sys.argv[1:]\n"
    "if __name__ == '__main__':\n"
    "    train(load_train_config(None, overrides), Path(store), Path(run))\n"
)
OVERRIDES = (*TINY, "objective.name=mlm+nsp", "averaging.kind=ema", "budget.num_steps=10")


def losses(run: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(run / "metrics.jsonl") if "loss" in entry]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tiny, store, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(CODE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", "2"]  # fmt: skip
    command = [*torchrun, str(script), str(store), str(tmp_path / "two"), *OVERRIDES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    train(tiny(*OVERRIDES), store, tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    two = load_tensors(tmp_path / "two/model.safetensors")
    for name, tensor in load_tensors(tmp_path / "one/model.safetensors").items():
        assert (tensor - two[name]).abs().max() < 1e-3
