"""`lmmodel export` and `import`: what they make and say, and going on with what was imported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.commands import TRAIN_FAST, Road, as_json, invoke, succeed

# A continued run takes its model from elsewhere.
TRAIN_ON = [setting for setting in TRAIN_FAST if setting not in ("--model", "tiny")]


@pytest.fixture(scope="module")
def exported(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "hf"
    succeed("lmmodel", "export", road.run, folder, "--quiet")
    return folder


def test_export_is_opened_by_transformers_with_the_same_logits(road: Road, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    found = as_json("lmmodel", "export", road.run, tmp_path / "bert")
    assert found["max_logit_difference"] < 1e-4
    transformers.BertForPreTraining.from_pretrained(tmp_path / "bert")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")
    lines = succeed("lmmodel", "export", road.run, tmp_path / "bert", "--overwrite").stdout
    assert "opens with transformers.BertForPreTraining.from_pretrained" in lines
    assert "largest difference of logits to transformers: " in lines


def test_there_and_back_and_there_again_gives_the_same_weights(
    exported: Path, tmp_path: Path
) -> None:
    lines = succeed("lmmodel", "import", exported, tmp_path / "run").stdout
    assert "parameters, a BertForPreTraining" in lines
    assert "largest difference of logits to transformers: " in lines
    assert f"next: lmdata tokenize CORPUS --tokenizer {tmp_path / 'run'}" in lines
    succeed("lmmodel", "export", tmp_path / "run", tmp_path / "hf")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (exported / name).read_bytes()


def test_an_import_is_evaluated_filled_in_and_trained_on(
    exported: Path, road: Road, inside: Path
) -> None:
    succeed("lmmodel", "import", exported, "runs/bert", "--quiet")
    found = as_json("lmmodel", "evaluate", "runs/bert", road.shards, "--num-examples", "4")
    own = as_json("lmmodel", "evaluate", road.run, road.shards, "--num-examples", "4")
    assert found == own
    assert succeed("lmmodel", "fill-mask", "runs/bert", "The [MASK] sees a bird.").stdout
    succeed("lmdata", "tokenize", road.corpus, "--tokenizer", "runs/bert", "--documents",
            "blank-line", "--set", "validation_ratio=0.2")  # fmt: skip
    lines = succeed("lmmodel", "train", "tokens/", "--init-from", "runs/bert", "--num-steps", "1",
                    *TRAIN_ON).stdout  # fmt: skip
    assert lines.startswith("runs/bert-continued/  1 step, ")
    record = json.loads((inside / "runs/bert-continued/config.json").read_text())
    assert record["config"]["init_from"] == "runs/bert"
    assert record["origin"]["run"] == str(inside / "runs" / "bert")


def test_a_base_model_and_what_is_left_out_are_told(exported: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shutil.copytree(exported, tmp_path / "hf")
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(exported)
    theirs.save_pretrained(tmp_path / "hf")
    lines = succeed("lmmodel", "import", tmp_path / "hf", tmp_path / "run").stdout
    assert "not in the folder, so random: head.bias, head.dense.weight" in lines
    assert "left out: classifier.bias, classifier.weight" in lines


def test_a_pickle_a_foreign_architecture_and_a_contradiction_are_one_line(
    exported: Path, road: Road, tmp_path: Path
) -> None:
    pickle, foreign = tmp_path / "pickle", tmp_path / "foreign"
    for folder in (pickle, foreign):
        shutil.copytree(exported, folder)
    (pickle / "model.safetensors").rename(pickle / "pytorch_model.bin")
    (foreign / "config.json").write_text('{"model_type": "mt5"}')
    for arguments, message in (
        (["import", pickle], "pytorch_model.bin only, which can run code when it is opened"),
        (["import", foreign], "model_type 'mt5' is not supported: import takes bert, modernbert, "),
        (["import", road.corpus], "holds no config.json: is it a Hugging Face folder?"),
        (["import", "bert-base-uncased"], "there is no folder bert-base-uncased: a model is read"),
        (["train", road.shards, "--init-from", road.run, "--model", "mini", *TRAIN_ON,
          "--output"], "model.num_hidden_layers is 4, there 2"),
        (["train", road.shards, "--init-from", exported, *TRAIN_ON, "--output"],
         "is a Hugging Face folder: make a run of it with `lmmodel import"),
    ):  # fmt: skip
        result = invoke("lmmodel", *arguments, tmp_path / "out")
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_onnx_file_is_written_beside_and_its_proof_printed(road: Road, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    lines = succeed("lmmodel", "export", road.run, tmp_path / "hf", "--onnx").stdout
    assert f"{tmp_path / 'hf/onnx/model.onnx'}: largest difference to onnxruntime: " in lines
    assert (tmp_path / "hf" / "onnx" / "model.onnx").is_file()
