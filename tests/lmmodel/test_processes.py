"""Two processes under torchrun train as one does with the same global batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lmdata.errors import ConfigError
from lmmodel.saving.checkpoint import load_tensors
from lmmodel.saving.metrics import read_metrics
from lmmodel.trainer import train
from tests.lmmodel.conftest import TINY

ROOT = Path(__file__).parents[2]
CODE = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lmmodel.config import load_train_config
from lmmodel.trainer import train
store, run, crash_at, resume, *overrides = sys.argv[1:]

def report(progress):
    if progress.step == int(crash_at):
        os._exit(7)

if __name__ == '__main__':
    config = load_train_config(None, overrides)
    train(config, Path(store), Path(run), resume=resume == 'resume', progress=report)
"""
# 35 rows and 29 rows are odd: the processes' shares differ.
OVERRIDES = (
    *TINY, "averaging.kind=ema", "budget.num_steps=10", "model.hidden_size=35",
    "model.num_attention_heads=5", "model.intermediate_size=29",
)  # fmt: skip
EVERYTHING = {
    "ddp": ("parallel=ddp", "objective.name=mlm+nsp"),
    "fsdp2": ("parallel=fsdp2", "objective.name=mlm+nsp"),
    "ddp plm": (
        "parallel=ddp", "objective.name=plm", "model.family=xlnet", "model.hidden_size=30",
    ),
    "fsdp2 plm": (
        "parallel=fsdp2", "objective.name=plm", "model.family=xlnet", "model.hidden_size=30",
    ),
    "fsdp2 hybrid, AdamW": (
        "parallel=fsdp2", "objective.name=hybrid", "model.family=modern", "optimizer.name=adamw",
        "model.hidden_size=30", "model.num_attention_heads=5",
    ),
    # Without dropout, which is another in each process; Adam enlarges rounding less than Muon.
    "vectors": ("objective.name=simcse", "model.dropout=0", "optimizer.name=adamw"),
    "vectors, fsdp2": (
        "objective.name=simcse", "model.dropout=0", "optimizer.name=adamw", "parallel=fsdp2",
    ),
    "replaced tokens": ("objective.name=rtd", "optimizer.name=adamw"),
    "ddp t5": ("parallel=ddp", "objective.name=t5", "optimizer.name=adamw"),
    "fsdp2 t5": ("parallel=fsdp2", "objective.name=t5", "optimizer.name=adamw"),
    "ddp bart": ("parallel=ddp", "objective.name=bart", "optimizer.name=adamw"),
    "fsdp2 bart": ("parallel=fsdp2", "objective.name=bart", "optimizer.name=adamw"),
}  # fmt: skip


def start_two(
    folder: Path, store: Path, run: Path, *overrides: str, crash_at: int = 0, resume: bool = False
) -> subprocess.CompletedProcess[str]:
    script = folder / "run.py"
    script.write_text(CODE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", "2"]  # fmt: skip
    how = [str(crash_at), "resume" if resume else "new"]
    return subprocess.run(
        [*torchrun, str(script), str(store), str(run), *how, *overrides], cwd=ROOT, text=True,
        capture_output=True, timeout=300,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def logged(run: Path, name: str) -> list[float]:
    return [entry[name] for entry in read_metrics(run / "metrics.jsonl") if name in entry]


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERYTHING)
def test_two_processes_give_the_losses_of_one(tiny, sentinel_store, tmp_path, case):
    store = sentinel_store
    overrides = (*OVERRIDES, *EVERYTHING[case])
    done = start_two(tmp_path, store, tmp_path / "two", *overrides)
    assert done.returncode == 0, done.stderr
    train(tiny(*overrides, "parallel=ddp"), store, tmp_path / "one")
    for name in ("loss", "grad_norm", "validation_loss"):
        assert logged(tmp_path / "two", name) == pytest.approx(
            logged(tmp_path / "one", name), abs=1e-5
        )
    two = load_tensors(tmp_path / "two/model.safetensors")
    for name, tensor in load_tensors(tmp_path / "one/model.safetensors").items():
        assert (tensor - two[name]).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "parallel"), [("mlm+nsp", "fsdp2"), ("t5", "fsdp2"),
                                                     ("t5", "ddp")])  # fmt: skip
def test_two_processes_resume_bit_for_bit(sentinel_store, tmp_path, objective, parallel):
    store = sentinel_store
    overrides = (*OVERRIDES, f"parallel={parallel}", "model.dropout=0.1",
                 "checkpoint.every_steps=4", f"objective.name={objective}")  # fmt: skip
    for run, options in (
        ("whole", {}), ("crashed", {"crash_at": 6}), ("crashed", {"resume": True}),
    ):  # fmt: skip
        done = start_two(tmp_path, store, tmp_path / run, *overrides, **options)
        assert (done.returncode == 0) == ("crash_at" not in options), done.stderr
    one, two = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "crashed"))
    assert one == two
    assert logged(tmp_path / "whole", "loss") == logged(tmp_path / "crashed", "loss")


def test_one_process_has_nothing_to_shard(tiny, store, tmp_path):
    with pytest.raises(ConfigError, match=r"parallel=fsdp2 shares .* torchrun --nproc-per-node N"):
        train(tiny("parallel=fsdp2"), store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sharded_weights_are_not_compiled(tiny):
    with pytest.raises(ConfigError, match="compile=true does not go with parallel=fsdp2"):
        tiny("parallel=fsdp2", "compile=true")
