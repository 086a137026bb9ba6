"""`lmmodel finetune`: what it makes and says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import pytest

from lmcli.finetuning import TASK_NAMES
from lmmodel.tasks.known import TASKS
from tests.cli.commands import VERBS, WORDS, Road, as_json, invoke, succeed

FAST = (
    "--seeds", "2", "--num-epochs", "1", "--device", "cpu", "--set", "precision=fp32",
    "--set", "max_seq_length=32",
)  # fmt: skip
CLASSES = ("--task", "sequence-classification")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plot_confusion", "plot_scatter"):
        monkeypatch.setattr(f"lmmodel.finetuner.{name}", lambda *a: a[-2].touch())


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("reviews")
    lines = [
        f"The {word} {verb} a {word}.\t{'good' if verb in VERBS[:3] else 'bad'}"
        for word in WORDS
        for verb in VERBS
    ]
    for name, part in (("train", lines[:40]), ("held-out", lines[40:])):
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *part]) + "\n")
    return folder / "train.tsv", folder / "held-out.tsv"


def test_a_table_and_the_path_of_the_picture_end_a_fine_tuning(
    road: Road, reviews: tuple[Path, Path], inside: Path
) -> None:
    train, validation = reviews
    lines = succeed("lmmodel", "finetune", road.run, *CLASSES, "--train", train,
                    "--validation", validation, *FAST).stdout.splitlines()  # fmt: skip
    assert lines[0].startswith(
        "runs/run-sequence-classification/  sequence-classification, 40 examples, 20 to validate"
    )
    assert lines[1].split() == ["accuracy", "f1_macro", "matthews", "epoch"]
    assert [line.split()[0] for line in lines[2:7]] == ["seed", "seed", "mean", "spread", "guess"]
    assert sum(" * " in line for line in lines[2:4]) == 1
    assert "with 95 % confidence" in "\n".join(lines)
    assert lines[-1] == "  picture: runs/run-sequence-classification/confusion.png"
    assert (inside / "runs/run-sequence-classification/confusion.png").exists()


def test_json_holds_the_same_facts(road: Road, reviews: tuple[Path, Path], tmp_path: Path) -> None:
    train, validation = reviews
    found = as_json("lmmodel", "finetune", road.run, *CLASSES, "--train", train,
                    "--validation", validation, "--output", tmp_path / "out", *FAST, "--freeze",
                    "--seed", "5", "--text", "sentence", "--label", "label")  # fmt: skip
    assert [one["seed"] for one in found["seeds"]] == [5, 6]
    assert found["labels"] == ["bad", "good"]
    record = json.loads((tmp_path / "out" / "config.json").read_text())
    assert record["kind"] == "fine-tuned"
    assert record["config"]["trainable"] == "head"
    assert record["config"]["columns"]["text"] == "sentence"
    assert record["figures"]["mean"] == found["mean"]


def test_columns_are_numbers_where_there_is_no_header(
    road: Road, reviews: tuple[Path, Path], tmp_path: Path
) -> None:
    for path in reviews:
        (tmp_path / path.name).write_text("".join(path.read_text().splitlines(True)[1:]))
    found = as_json(
        "lmmodel", "finetune", road.run, *CLASSES, "--train", tmp_path / "train.tsv",
        "--validation", tmp_path / "held-out.tsv", "--output", tmp_path / "out", *FAST,
        "--no-header", "--text", "0", "--label", "1", "--from-scratch",
    )  # fmt: skip
    assert found["num_train"] == 40


def test_what_is_wrong_is_one_line(road: Road, reviews: tuple[Path, Path], tmp_path: Path) -> None:
    train, validation = reviews
    output = ("--output", tmp_path / "out")
    arguments = ("lmmodel", "finetune", road.run, *CLASSES, "--train", train, *output, *FAST)
    (tmp_path / "odd.tsv").write_text("sentence\tlabel\nA stone.\tgodo\n")
    odd = invoke(*arguments, "--validation", tmp_path / "odd.tsv")
    column = invoke(*arguments, "--validation", validation, "--text", "sentense")
    setting = invoke(*arguments, "--validation", validation, "--set", "learning_rate=1")
    no_run = invoke("lmmodel", "finetune", tmp_path, *arguments[3:], "--validation", validation)
    for result in (odd, column, setting, no_run):
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
    assert "unknown label 'godo'" in odd.stderr
    assert "did you mean 'good'?" in odd.stderr
    assert "sentense" in column.stderr
    assert "unknown key learning_rate" in setting.stderr
    assert "holds no run" in no_run.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_refused_without_overwrite(
    road: Road, reviews: tuple[Path, Path], tmp_path: Path
) -> None:
    train, validation = reviews
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").touch()
    result = invoke("lmmodel", "finetune", road.run, *CLASSES, "--train", train, "--validation",
                    validation, "--output", tmp_path / "out", "--overwrite", *FAST)  # fmt: skip
    assert result.exit_code == 1
    assert "is not a fine-tuned model, so nothing replaces it" in result.stderr
    assert (tmp_path / "out" / "letter.txt").exists()


def test_an_interruption_says_that_nothing_is_there(
    road: Road, reviews: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, validation = reviews
    monkeypatch.setattr("lmmodel.finetuner.fit", Mock(side_effect=KeyboardInterrupt))
    result = invoke("lmmodel", "finetune", road.run, *CLASSES, "--train", train, "--validation",
                    validation, "--output", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 130
    assert "Interrupted. Nothing was written; type the same command again" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["--task", "--train"])
def test_wrong_usage_exits_2(road: Road, reviews: tuple[Path, Path], missing: str) -> None:
    given = {"--task": "regression", "--train": reviews[0], "--validation": reviews[1]}
    del given[missing]
    arguments = [part for pair in given.items() for part in pair]
    result = invoke("lmmodel", "finetune", road.run, *arguments)
    assert result.exit_code == 2
    assert f"Missing option '{missing}'" in result.stderr


def test_the_help_names_every_task() -> None:
    for name in TASKS:
        assert name in TASK_NAMES


def test_a_share_of_the_training_file_validates_where_no_other_does(
    road: Road, reviews: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = ("lmmodel", "finetune", road.run, *CLASSES, "--train", reviews[0], *FAST)
    found = as_json(*arguments, "--output", tmp_path / "out", "--set", "validation_ratio=0.25")
    assert (found["num_train"], found["num_validation"]) == (30, 10)
    assert "10 of its rows validate, 30 are learned from" in found["notes"][0]
    itself = as_json(*arguments, "--output", tmp_path / "two", "--validation", reviews[0])
    assert "is the training file" in itself["notes"][0]
