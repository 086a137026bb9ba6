"""`lmmodel evaluate`: on data, by source file, and on minimal pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmdata.tokenizer import load_tokenizer
from tests.cli.commands import Road, as_json, invoke, succeed
from tests.lmmodel.fine_tuned_folders import write_fine_tuned


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [("The river sees a stone.", "The river a sees stone."), ("A bird.", "A bird.")]
    text = "".join(json.dumps({"sentence_good": g, "sentence_bad": b}) + "\n" for g, b in rows)
    (tmp_path / "order.jsonl").write_text(text)
    return tmp_path


def test_the_held_out_figures(road: Road) -> None:
    lines = succeed("lmmodel", "evaluate", road.run, "--num-examples", "4").stdout
    assert "held-out loss" in lines
    assert "pair accuracy" in lines
    other = as_json("lmmodel", "evaluate", road.run, road.shards, "--num-examples", "4",
                    "--split", "train")  # fmt: skip
    assert other["num_examples"] == 4


def test_figures_by_source_are_a_row_a_file(road: Road) -> None:
    lines = succeed("lmmodel", "evaluate", road.run, road.tokens, "--by-source").stdout.splitlines()
    assert lines[-2].split() == [
        "source", "documents", "tokens", "nats", "a", "token", "nats", "a", "byte", "accuracy",
    ]  # fmt: skip
    assert lines[-1].startswith("text.txt")
    found = as_json("lmmodel", "evaluate", road.run, road.tokens, "--by-source")
    assert found["sources"][0]["num_labels"] == found["total"]["num_labels"]
    result = invoke("lmmodel", "evaluate", road.run, "--by-source")
    assert result.exit_code == 1
    assert "evaluate by source on the token store" in result.stderr


def test_figures_by_a_tag_are_a_row_a_group(road: Road, tmp_path: Path) -> None:
    evaluate = ("lmmodel", "evaluate", road.run, road.tokens)
    tags = ("--documents", "blank-line", "--output", tmp_path / "tags")
    succeed("lmdata", "tag", road.corpus, *tags)
    by = ("--by", "num_words > 100", "--tags", tmp_path / "tags")
    lines = succeed(*evaluate, "--split", "train", *by).stdout.splitlines()
    assert any(line.startswith("num_words > 100  documents") for line in lines)
    found = as_json(*evaluate, "--split", "train", *by)
    by_source = as_json(*evaluate, "--split", "train", "--by", "source")
    assert found["total"] == by_source["total"]
    groups = found["groups"]
    assert {own["group"] for own in groups} <= {"true", "false"}
    assert sum(own["num_labels"] for own in groups) == found["total"]["num_labels"]
    for arguments, message in [
        (("--by", "language"), "needs the tags"),
        (("--tags", tmp_path / "tags"), "are for --by"),
        (("--by", "source", "--by-source"), "give one of them"),
    ]:
        result = invoke(*evaluate, *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    result = invoke(*evaluate, "--by", "num_word", "--tags", tmp_path / "tags")
    assert "did you mean 'num_words'?" in result.stderr
    succeed("lmdata", "tag", road.corpus, "--documents", "file", "--output", tmp_path / "whole")
    result = invoke(*evaluate, "--by", "c4", "--tags", tmp_path / "whole")
    assert result.exit_code == 1
    assert "tells nothing of text.txt" in result.stderr


def test_minimal_pairs_are_a_row_a_paradigm_and_one_for_all(road: Road, pairs: Path) -> None:
    lines = succeed("lmmodel", "evaluate", road.run, "--minimal-pairs", pairs).stdout.splitlines()
    assert lines[0].split() == ["paradigm", "pairs", "right", "95", "%", "interval", "ties"]
    assert [line.split()[0] for line in lines[1:3]] == ["order", "all"]
    assert lines[1].split()[1:] != lines[0].split()[1:]
    assert "the higher pseudo-log-likelihood; a tie is not right" in lines[3]
    found = as_json("lmmodel", "evaluate", road.run, "--minimal-pairs", pairs / "order.jsonl")
    assert found["total"]["num_ties"] == 1
    assert found["paradigms"][0]["name"] == "order"


def test_bf16_is_close_and_for_minimal_pairs_only(road: Road, pairs: Path) -> None:
    arguments = ("lmmodel", "evaluate", road.run, "--minimal-pairs", pairs)
    assert as_json(*arguments, "--precision", "bf16")["total"]["num_ties"] == 1
    result = invoke("lmmodel", "evaluate", road.run, "--precision", "bf16")
    assert result.exit_code == 2
    assert "--precision and --start-token are for --minimal-pairs" in result.stderr


def test_a_masked_model_takes_no_start_token(road: Road, pairs: Path) -> None:
    arguments = ("lmmodel", "evaluate", road.run, "--minimal-pairs", pairs, "--start-token", "the")
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert "it takes no start token" in result.stderr


def test_minimal_pairs_take_no_data(road: Road, pairs: Path) -> None:
    for options in ([road.shards], ["--num-examples", "3"], ["--by-source"], ["--split", "test"]):
        result = invoke("lmmodel", "evaluate", road.run, *options, "--minimal-pairs", pairs)
        assert result.exit_code == 2
        assert "--minimal-pairs brings its own sentences" in result.stderr


def test_what_are_no_pairs_is_one_line(road: Road, tmp_path: Path) -> None:
    result = invoke("lmmodel", "evaluate", road.run, "--minimal-pairs", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "holds no file of minimal pairs" in result.stderr


# Fine-tuned models.


@pytest.fixture(scope="module")
def tuned(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned") / "model"
    tokenizer = load_tokenizer(road.tokenizer)
    return write_fine_tuned(folder, "sequence-classification", tokenizer, ("bad", "good"))


def test_a_fine_tuned_model_is_scored_on_a_file(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    rows = [f"The {word} sees.,{label}" for word in ("river", "stone") for label in ("good", "bad")]
    path.write_text("\n".join(["sentence,label", *rows, "A bird.,-1", ""]))
    found = as_json("lmmodel", "evaluate", tuned, path)
    assert found["scores"]["accuracy"] == 0.5
    assert found["intervals"]["accuracy"] == pytest.approx([0.15, 0.85], abs=0.01)
    assert set(found["intervals"]) == {"accuracy", "f1_macro", "matthews"}
    assert [one["label"] for one in found["by_label"]] == ["bad", "good"]
    assert sum(map(sum, found["confusion"])) == 4
    assert found["counts"] == {"left out: without a label": 1}
    lines = succeed("lmmodel", "evaluate", tuned, path).stdout
    for part in ("accuracy", "95 % interval", "precision", "right, taken for", "without a label"):
        assert part in lines


def test_what_a_fine_tuned_model_can_not_be_scored_by_is_told(
    road: Road, tuned: Path, tmp_path: Path
) -> None:
    path = tmp_path / "test.csv"
    path.write_text("sentence,label\nThe river.,fair\n")
    unknown = invoke("lmmodel", "evaluate", tuned, path)
    assert (unknown.exit_code, unknown.stderr.count("\n")) == (1, 1)
    assert "unknown label 'fair'; training has 'bad', 'good'" in unknown.stderr
    path.write_text("sentence,label\nThe river.,-\n")
    assert "nothing to score" in invoke("lmmodel", "evaluate", tuned, path).stderr
    for arguments in ([tuned], [tuned, path, "--by-source"], [road.run, path, "--text-field", "a"]):
        assert invoke("lmmodel", "evaluate", *arguments).exit_code == 2
