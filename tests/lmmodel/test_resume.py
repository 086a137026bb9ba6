"""Going on after a crash gives the weights that no crash would have given, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lmdata.errors import OutputError
from lmdata.recipes import RECIPES
from lmmodel.config import change_config, load_train_config
from lmmodel.errors import CheckpointError, ResumeError, RunError
from lmmodel.loader import Loader
from lmmodel.saving.checkpoint import INDEX_NAME, list_checkpoints
from lmmodel.saving.metrics import read_metrics
from lmmodel.saving.run import save_weights
from lmmodel.trainer import train
from lmmodel.training.plan import make_loader, resolve_config
from references.made_up import write_made_up_store
from tests.contracts import Killed, crash_at, logged, weights
from tests.lmmodel.conftest import TINY

ROOT = Path(__file__).parents[2]

# Dropout, pairs, masks, four micro-batches a step, an average: everything that could drift.
DRIFTING = (
    "model.dropout=0.1", "model.attention_dropout=0.1", "batch.micro_batch_tokens=64",
    "averaging.kind=ema", "budget.num_steps=12", "optimizer.name=muon",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory) -> Path:
    """A run that was never interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    torch.set_num_threads(1)
    train(load_train_config(None, [*TINY, *DRIFTING]), store, run)
    return run


@pytest.mark.parametrize("steps", [(5,), (1,), (2, 3, 9), (7, 7, 7)])
def test_crashes_leave_no_trace(tiny, store, tmp_path, whole, steps):
    run = tmp_path / "run"
    for number, step in enumerate(steps):
        with pytest.raises(Killed):
            train(tiny(*DRIFTING), store, run, resume=number > 0, progress=crash_at(step))
    train(tiny(*DRIFTING), store, run, resume=True)
    assert weights(run) == weights(whole)
    assert logged(run) == logged(whole)


def test_resuming_a_finished_run_changes_nothing(tiny, store, tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run")
    for _ in range(2):
        summary = train(None, None, run, resume=True)
        assert summary.evaluation is not None
    assert weights(run) == weights(whole)
    assert logged(run) == logged(whole)


def test_another_prefetch_and_logging_may_be_used_to_go_on(tiny, store, tmp_path, whole):
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(tiny(*DRIFTING), store, run, progress=crash_at(5))
    config = tiny(*DRIFTING, "batch.prefetch=0", "checkpoint.keep=5", "evaluation.every_steps=7")
    train(config, store, run, resume=True)
    assert weights(run) == weights(whole)


def start(store: Path, run: Path, *options: str) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1);"
        "from lmmodel.config import load_train_config; from lmmodel.trainer import train;"
        "store, run, resume, *overrides = sys.argv[1:];"
        "train(load_train_config(None, overrides), Path(store), Path(run),"
        " resume=resume == 'resume' and (Path(run) / 'config.json').exists(),"
        " overwrite=False)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(store), str(run), *options], cwd=ROOT,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def stop_after_step(process: subprocess.Popen[bytes], run: Path, step: int, delay_s: float) -> bool:
    """Halt it once `step` is logged and some time has passed; return whether it still ran."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        entries = read_metrics(run / "metrics.jsonl")
        if entries and entries[-1]["step"] >= step:
            time.sleep(delay_s)
            break
        time.sleep(0.005)
    was_running = process.poll() is None
    process.send_signal(signal.SIGSTOP)
    return was_running


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def finish(process: subprocess.Popen[bytes]) -> None:
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error.decode()


def test_kill_9_leaves_no_trace_and_until_then_nobody_else_trains_there(tiny, store, tmp_path):
    options = (*DRIFTING, "budget.num_steps=24", "checkpoint.every_steps=3")
    run = tmp_path / "run"
    first = start(store, run, "new", *TINY, *options)
    try:
        # Whatever it is doing, it has not gone.
        assert stop_after_step(first, run, 10, 0.01)
        record = (run / "config.json").read_bytes()
        for settings in ({"overwrite": True}, {"resume": True}, {}):
            with pytest.raises(OutputError, match="is being written by another command: wait"):
                train(tiny("seed=9"), store, run, **settings)
        assert (run / "config.json").read_bytes() == record
    finally:
        kill(first)  # its lease goes with it
    assert train(None, None, run, resume=True).num_steps == 24
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    train(tiny(*options), store, tmp_path / "whole")
    assert weights(run) == weights(tmp_path / "whole")
    assert logged(run) == logged(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "num_steps"), [("mlm+nsp", 300), ("t5", 120), ("bart", 120)])
def test_twenty_kills_at_random_moments_leave_no_trace(
    sentinel_store, tmp_path, objective, num_steps
):
    store = sentinel_store
    options = [
        *TINY, *DRIFTING, f"budget.num_steps={num_steps}", "checkpoint.every_steps=3",
        f"objective.name={objective}", "evaluation.every_steps=30",
    ]  # fmt: skip
    finish(start(store, tmp_path / "whole", "new", *options))
    run, draw, num_kills = tmp_path / "run", random.Random(0), 0
    for number in range(20):
        process = start(store, run, "resume", *options)
        num_kills += stop_after_step(process, run, num_steps * number // 23, draw.uniform(0, 0.3))
        kill(process)
    finish(start(store, run, "resume", *options))
    assert num_kills >= 15
    assert weights(run) == weights(tmp_path / "whole")
    assert logged(run) == logged(tmp_path / "whole")


def spoil(run: Path, name: str, content: bytes | None) -> None:
    path = list_checkpoints(run / "checkpoints")[0] / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", None, "is missing"),
        ("model.safetensors", b"half", "bytes instead of"),
        ("optimizer.safetensors", b"\x80\x04pickle", "truncated or replaced"),
        (INDEX_NAME, b'{"format_version": 1, "st', "has no whole checkpoint.json"),
        (INDEX_NAME, b'{"format_version": 99}', "has checkpoint format 99, this version reads 1"),
    ],
)
def test_a_spoilt_checkpoint_is_passed_over_for_the_last_good_one(
    tiny, store, tmp_path, whole, name, content, words
):
    run = shutil.copytree(whole, tmp_path / "run")
    spoil(run, name, content)
    summary = train(None, None, run, resume=True)
    assert words in summary.notes[0]
    assert weights(run) == weights(whole)


def test_no_good_checkpoint_is_an_error_that_loses_nothing(tiny, store, tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run")
    for path in list_checkpoints(run / "checkpoints"):
        (path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints .* is valid"):
        train(None, None, run, resume=True)
    assert weights(run) == weights(whole)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr=2e-3", r"optimizer\.lr was 0\.001, now 0\.002"),
        ("seed=5", "seed was 0, now 5"),
        ("recipe.mlm_probability=0.3", r"recipe\.mlm_probability was 0\.15, now 0\.3"),
        ("budget.num_steps=99", r"budget\.num_steps was 12, now 99"),
    ],
)
def test_another_configuration_is_refused_by_name(tiny, store, whole, override, words):
    with pytest.raises(ResumeError, match=f"another configuration: {words}"):
        train(tiny(*DRIFTING, override), store, whole, resume=True)


def test_other_data_is_refused(tiny, store, other_store, whole):
    with pytest.raises(ResumeError, match=r"the run began with (data|tokenizer) "):
        train(tiny(*DRIFTING), other_store, whole, resume=True)


def test_another_tokenizer_is_named_even_where_the_model_has_no_room_for_it(whole, tmp_path):
    write_made_up_store(tmp_path / "other", num_tokens=5000, vocab_size=3000)
    with pytest.raises(ResumeError, match=r"the run began with tokenizer \w+, .* has \w+: resume"):
        train(None, tmp_path / "other", whole, resume=True)


def test_trained_weights_without_a_checkpoint_are_not_trained_over(tiny, store, tmp_path):
    train(tiny(), store, tmp_path / "run")
    before = (tmp_path / "run/model.safetensors").read_bytes()
    lines = (tmp_path / "run/metrics.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "run/checkpoints")
    with pytest.raises(ResumeError, match=r"no checkpoint to go on from: --init-from .*run begins"):
        train(None, None, tmp_path / "run", resume=True)
    assert (tmp_path / "run/model.safetensors").read_bytes() == before
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == lines


def test_weights_that_a_kill_left_behind_their_checkpoint_are_written_on_resume(
    tiny, store, tmp_path, monkeypatch
):
    config = tiny("budget.num_steps=6", "checkpoint.every_steps=3")
    train(config, store, tmp_path / "whole")
    for step in (3, 6):  # killed beside the first checkpoint, or the last
        run = tmp_path / f"killed-{step}"

        def die_at(folder, *arguments, step=step):
            if (folder / f"checkpoints/step-{step:08d}").exists():
                raise Killed
            save_weights(folder, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr("lmmodel.saving.run.save_weights", die_at)
            with pytest.raises(Killed):
                train(config, store, run)
        train(None, None, run, resume=True)
        assert weights(run) == weights(tmp_path / "whole")


def test_a_finished_run_resumed_says_what_it_said(tiny, store, tmp_path):
    first = train(tiny("logging.every_steps=2"), store, tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    times = [path.stat().st_mtime_ns for path in list_checkpoints(tmp_path / "run/checkpoints")]
    again = train(None, None, tmp_path / "run", resume=True)
    assert again.loss == first.loss
    assert again.tokens_per_s == 0 < first.tokens_per_s
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    assert times == [
        path.stat().st_mtime_ns for path in list_checkpoints(tmp_path / "run/checkpoints")
    ]


def test_there_must_be_a_run_to_resume(tiny, store, tmp_path):
    with pytest.raises(RunError, match="holds no run: there is no such folder"):
        train(tiny(), store, tmp_path / "nothing", resume=True)
    with pytest.raises(ResumeError, match="contradict each other"):
        train(tiny(), store, tmp_path / "nothing", resume=True, overwrite=True)


def test_step_one_million_is_made_as_fast_as_step_one(tiny, store):
    from lmmodel.data import open_data
    from lmmodel.device import Processes, resolve_device

    data = open_data(store)
    config = resolve_config(tiny(), data, resolve_device("cpu"), Processes())
    loader: Loader = make_loader(config, data, 2_000_000, Processes())
    loader.batch(0)

    def seconds(step: int) -> float:
        began = time.perf_counter()
        loader.batch(step)
        return time.perf_counter() - began

    first = sorted(seconds(step) for step in (300, 600, 900, 1200, 1500))[2]
    late = sorted(seconds(1_000_000 + step) for step in (300, 600, 900, 1200, 1500))[2]
    assert late < 5 * first + 0.05


def test_metrics_are_whole_lines_after_a_crash_in_the_middle_of_one(tiny, store, tmp_path, whole):
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(list_checkpoints(run / "checkpoints")[0])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    train(None, None, run, resume=True)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["step"] <= 12 for line in lines)
    assert logged(run) == logged(whole)


def test_a_run_keeps_its_cut_on_another_machine(tiny, store, whole, tmp_path):
    """Not given, the number of micro-batches is that of the cores: of the machine it began on."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    config = json.loads((run / "config.json").read_text())
    for recorded in (7, None):  # other cores; written before there was the setting
        config["config"]["batch"]["min_micro_batches"] = recorded
        (run / "config.json").write_text(json.dumps(config))
        train(tiny(*DRIFTING), store, run, resume=True)
    with pytest.raises(ResumeError, match="min_micro_batches was None, now 3"):
        train(tiny(*DRIFTING, "batch.min_micro_batches=3"), store, run, resume=True)


def test_the_cut_remembered_is_the_cut_taken(tiny, store, tmp_path):
    """Begun on three cores and gone on with on one."""
    torch.set_num_threads(3)
    options = (*DRIFTING, "checkpoint.keep=9")
    train(tiny(*options), store, tmp_path / "whole")
    run = shutil.copytree(tmp_path / "whole", tmp_path / "run")
    for path in list_checkpoints(run / "checkpoints")[:-1]:
        shutil.rmtree(path)
    torch.set_num_threads(1)
    train(tiny(*options), store, run, resume=True)
    assert weights(run) == weights(tmp_path / "whole")
    alone = tmp_path / "alone"
    train(tiny(*options), store, alone)
    assert weights(alone) != weights(run)  # the cut matters to the last bit


def test_settings_laid_over_those_of_a_run():
    config = load_train_config(None, ["objective.name=mlm", "preset=spanbert"])
    changed = change_config(config, ["preset=roberta", "recipe.mlm_probability=0.25"])
    assert changed.recipe.view == RECIPES["roberta"].view != config.recipe.view
    assert changed.recipe.mlm_probability == 0.25
    assert change_config(config, ["checkpoint.keep=9"]).recipe == config.recipe
    frozen = dataclasses.replace(config, recipe=None)
    assert change_config(frozen, ["seed=3"]).recipe is None
    longer = change_config(config, ["budget.num_minutes=2"])
    assert (longer.budget.num_minutes, longer.budget.num_steps) == (2.0, None)
