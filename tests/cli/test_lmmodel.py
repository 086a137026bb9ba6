"""`lmmodel`: what each verb makes and says."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from lmmodel.training.budget import Pace
from lmmodel.training.loop import Interrupted
from tests.cli.commands import TRAIN_FAST, Road, as_json, invoke, make_text, succeed


def test_a_run_is_trained_from_the_defaults_of_the_verbs_before(inside: Path, road: Road) -> None:
    (inside / "shards").symlink_to(road.shards)
    lines = succeed("lmmodel", "train", "--num-steps", "1", *TRAIN_FAST).stdout
    assert lines.startswith("runs/tiny/  1 step, ")
    assert "held-out loss" in lines
    assert "unigram loss" in lines
    assert {path.name for path in (inside / "runs" / "tiny").iterdir()} >= {
        "model.safetensors", "config.json", "metrics.jsonl", "loss.png", "checkpoints",
        "tokenizer.json",
    }  # fmt: skip


def test_a_corpus_too_small_to_hold_anything_out_is_trained_on_all_the_same(inside: Path) -> None:
    (inside / "corpus").mkdir()
    for number in range(3):
        (inside / "corpus" / f"{number}.txt").write_text(make_text(3, seed=number))
    succeed("lmdata", "tokenize", "corpus/")
    succeed("lmdata", "mask", "--rate", "0.15")
    lines = succeed("lmmodel", "train", "shards/", "--num-steps", "1", *TRAIN_FAST).stdout
    assert "note: trained without held-out figures: split validation of shards is empty" in lines
    result = invoke("lmmodel", "evaluate", "runs/tiny")
    assert result.exit_code == 1
    assert "split validation of" in result.stderr


def test_a_run_on_the_store_itself_and_its_resumption(road: Road, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("lmmodel", "train", road.tokens, "--output", run, *TRAIN_FAST,
                 "--set", "recipe.max_seq_length=32")  # fmt: skip
    first = as_json(*arguments, "--num-steps", "2", "--seed", "5")
    again = as_json("lmmodel", "train", "--resume", "--output", run)
    assert first["num_steps"] == again["num_steps"] == 2
    assert json.loads((run / "config.json").read_text())["config"]["seed"] == 5


@pytest.fixture
def known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan times a few steps for five seconds."""
    pace = Pace(step_s=0.25)
    monkeypatch.setattr("lmmodel.trainer.calibrate", lambda *_, **__: pace)


@pytest.mark.usefixtures("known_speed")
def test_a_dry_run_plans_and_writes_nothing(road: Road, tmp_path: Path) -> None:
    plan = succeed("lmmodel", "train", road.shards, "--output", tmp_path / "run", "--dry-run",
                   "--num-steps", "7", *TRAIN_FAST).stdout  # fmt: skip
    assert "steps       7, " in plan
    assert "time        1." in plan
    assert "2 x 128" in plan
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("known_speed")
def test_the_config_file_and_the_options_are_one_configuration(road: Road, tmp_path: Path) -> None:
    (tmp_path / "it.toml").write_text('[optimizer]\nname = "muon"\n[budget]\nnum_steps = 9\n')
    plan = as_json("lmmodel", "train", road.shards, "--dry-run", "--num-steps", "3",
                   "--config", tmp_path / "it.toml", *TRAIN_FAST)  # fmt: skip
    assert plan["num_steps"] == 3
    assert plan["config"]["optimizer"]["name"] == "muon"


def test_an_interrupted_training_exits_130_and_says_how_to_go_on(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = Interrupted("stopped after step 3 of 9; everything is saved: go on with --resume")
    monkeypatch.setattr("lmmodel.trainer.train", Mock(side_effect=stopped))
    result = invoke("lmmodel", "train", road.shards, "--output", tmp_path / "run", *TRAIN_FAST)
    assert result.exit_code == 130
    assert result.stderr == (
        "\nInterrupted. stopped after step 3 of 9; everything is saved: go on with --resume\n"
    )


def test_control_c_outside_the_steps_says_what_there_is(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the data is opened, or a second time while the first one saves."""
    run = tmp_path / "run"

    def begin_and_stop(*_: object, **__: object) -> None:
        run.mkdir()
        (run / "config.json").touch()
        raise KeyboardInterrupt

    arguments = ("lmmodel", "train", road.shards, "--output", run, *TRAIN_FAST)
    monkeypatch.setattr("lmmodel.trainer.train", Mock(side_effect=KeyboardInterrupt))
    early = invoke(*arguments)
    monkeypatch.setattr("lmmodel.trainer.train", begin_and_stop)
    late = invoke(*arguments)
    assert (early.exit_code, late.exit_code) == (130, 130)
    assert early.stderr == "\nInterrupted. Nothing was begun; type the same command again.\n"
    assert late.stderr.endswith(f"is kept: go on with --resume --output {run}\n")


def test_settings_of_a_resumed_run_are_laid_over_its_own(road: Road, tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed("lmmodel", "train", road.shards, "--output", run, "--num-steps", "2", *TRAIN_FAST)
    resume = ("lmmodel", "train", "--resume", "--output", run)
    succeed(*resume, "--set", "checkpoint.keep=7")  # decides no weight
    result = invoke(*resume, "--set", "optimizer.lr=0.5")
    assert result.exit_code == 1
    named = result.stderr.split("another configuration: ")[1].split(". Resume")[0]
    assert named.startswith("optimizer.lr was ")
    assert named.endswith("now 0.5")
    assert ";" not in named


def test_budgets_and_what_is_kept_are_options(road: Road, tmp_path: Path) -> None:
    def trained(name: str, *options: str) -> Path:
        output = tmp_path / name
        succeed("lmmodel", "train", road.tokens, "--output", output, *options, *TRAIN_FAST)
        return output

    many = trained("many", "--num-steps", "6", "--keep", "3", "--set", "checkpoint.every_steps=1")
    assert len(list((many / "checkpoints").iterdir())) == 3
    for name, option, value in (("tokens", "--num-tokens", "400"), ("epochs", "--num-epochs", "1")):
        record = json.loads((trained(name, option, value) / "config.json").read_text())
        assert record["config"]["budget"][option[2:].replace("-", "_")] == float(value)
    both = invoke("lmmodel", "train", road.tokens, "--output", tmp_path / "both", "--num-tokens",
                  "400", "--num-epochs", "1")  # fmt: skip
    assert "the budget is one number, got num_epochs, num_tokens" in both.stderr
    alone = invoke("lmmodel", "train", road.tokens, "--output", tmp_path / "alone", "--parallel",
                   "fsdp2", *TRAIN_FAST)  # fmt: skip
    assert "start the command with torchrun --nproc-per-node" in alone.stderr
