"""Runs and fine-tuned models as folders that others open: proof, card, tokenizer, refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from lmdata.errors import OutputError
from lmdata.tokenizer import load_tokenizer
from lmdata.xxh3 import hash_file
from lmmodel.errors import HuggingFaceError
from lmmodel.exporting import export_run
from lmmodel.finetuning.folder import load_fine_tuned
from lmmodel.trainer import train
from tests.lmmodel.fine_tuned_folders import write_fine_tuned

LABELS = ("bad", "good|ish", "so")
FIGURES = {
    "best_score": "accuracy", "kept_seed": 1, "mean": {"accuracy": 0.55, "f1_macro": 0.5},
    "spread": {"accuracy": 0.0707, "f1_macro": 0.1}, "guess": {"accuracy": 0.4},
    "seeds": [
        {"seed": 0, "scores": {"accuracy": 0.5, "f1_macro": 0.4}},
        {"seed": 1, "scores": {"accuracy": 0.6, "f1_macro": 0.6, "accuracy_low": 0.5,
                               "accuracy_high": 0.7}},
    ],
}  # fmt: skip


@pytest.fixture
def make_tuned(store: Path, trained: Path, tmp_path: Path):
    """Return a function from a task to a folder with random weights and a whole record."""

    def make(task: str, **shape) -> Path:
        labels = () if task in ("regression", "question-answering") else LABELS
        tokenizer = load_tokenizer(store / "tokenizer")
        folder = write_fine_tuned(tmp_path / "tuned" / task, task, tokenizer, labels, **shape)
        path = folder / "config.json"
        file = {"path": "/there/sst.tsv", "xxh3": "ab12", "num_rows": 7, "num_examples": 8}
        record = json.loads(path.read_text()) | {
            "figures": FIGURES,
            "data": {"train": file, "validation": file},
            "environment": {"torch": "2.13"},
            "origin": {"run": str(trained), "from_scratch": False,
                       "weights_xxh3": hash_file(trained / "model.safetensors")},
        }  # fmt: skip
        path.write_text(json.dumps(record))
        return folder

    return make


def front_matter(text: str) -> dict[str, object]:
    parsed: dict[str, object] = yaml.safe_load(text.split("---\n")[1])
    return parsed


def run_example(text: str, monkeypatch, folder: Path) -> dict[str, object]:
    """Run the Python of a card where the folder lies; it is as a reader would type it."""
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(folder)
    *lines, last = code[1].rstrip().split("\n")
    names: dict[str, object] = {}
    exec("\n".join([*lines, f"answer = {last}"]), names)
    return names


def test_the_card_of_a_run_tells_its_data_recipe_shape_training_and_figures(
    trained, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("transformers")
    found = export_run(trained, tmp_path / "mine")
    assert found.architecture == "BertForPreTraining"
    assert found.max_logit_difference < 1e-4
    text = (tmp_path / "mine" / "README.md").read_text()
    assert front_matter(text) == {
        "library_name": "transformers", "pipeline_tag": "fill-mask",
        "tags": ["bert", "pretraining", "lmmodel"],
    }  # fmt: skip
    record = json.loads((trained / "config.json").read_text())
    last = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()
            if "validation_loss" in line][-1]  # fmt: skip
    for row in (
        f"| dataset manifest (xxh3) | `{record['data_hash']}` |",
        "| source `corpus.txt` |",
        "| view | nsp |",
        "| corruption | token |",
        "| mlm probability | 0.15 |",
        "| hidden size | 32 |",
        "| steps | 300 |",
        f"| held-out loss, nats a token | {last['validation_loss']:.4g} |",
    ):
        assert row in text
    answer = run_example(text, monkeypatch, tmp_path)["answer"]
    assert len(answer) == 5
    assert str(tmp_path) not in text


def test_a_causal_export_reads_a_prompt_as_it_is(causal_run, tmp_path, monkeypatch) -> None:
    transformers = pytest.importorskip("transformers")
    export_run(causal_run, tmp_path / "gpt")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt")
    own = load_tokenizer(causal_run)
    expected = own.backend.encode("the cat sees", add_special_tokens=False).ids
    assert tokenizer("the cat sees").input_ids == expected
    text = (tmp_path / "gpt" / "README.md").read_text()
    assert front_matter(text)["pipeline_tag"] == "text-generation"


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize(
    "task", ["sequence-classification", "token-classification", "question-answering"]
)
def test_the_three_lines_in_a_card_open_the_fine_tuned_model(
    task, family, make_tuned, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("transformers")
    export_run(make_tuned(task, family=family), tmp_path / "hf")
    text = (tmp_path / "hf" / "README.md").read_text()
    answer = run_example(text, monkeypatch, tmp_path)["answer"]
    if task == "sequence-classification":
        assert answer[0]["label"] in LABELS
    if task == "token-classification":
        assert {piece["entity"] for piece in answer} <= set(LABELS)
    if task == "question-answering":
        assert isinstance(answer, str)


def test_a_pipeline_pads_texts_of_different_lengths_right(make_tuned, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    for family in ("bert", "gpt2"):
        source = make_tuned("sequence-classification", family=family).rename(tmp_path / family)
        export_run(source, tmp_path / f"{family}-hf")
        classify = transformers.pipeline("text-classification", str(tmp_path / f"{family}-hf"))
        texts = ["the cat", "a dog sees the river at night. my friend likes a story again."]
        together = classify(texts, batch_size=2, top_k=None)
        for text, scores in zip(texts, together, strict=True):
            alone = {item["label"]: item["score"] for item in classify(text, top_k=None)}
            for item in scores:
                assert item["score"] == pytest.approx(alone[item["label"]], abs=1e-5)


def test_the_card_of_a_fine_tuned_model_tells_scores_with_their_spread(
    make_tuned, store, tmp_path
) -> None:
    folder = make_tuned("sequence-classification")
    export_run(folder, tmp_path / "hf")
    text = (tmp_path / "hf" / "README.md").read_text()
    assert front_matter(text)["pipeline_tag"] == "text-classification"
    for row in (
        "| | this model | mean of 2 seeds | spread | most frequent label |",
        "| accuracy | 0.6 | 0.55 | 0.0707 | 0.4 |",
        "| accuracy, 95 % interval | 0.5 to 0.7 | | | |",
        "| 1 | `good\\|ish` |",
        "| train | 7 | 8 | `sst.tsv` (`ab12`) |",
        "## Data of the pretraining",
        "| source `corpus.txt` |",
    ):
        assert row in text
    model = load_fine_tuned(folder, device="cpu").model
    count = sum(w.numel() for n, w in model.named_parameters() if "backbone.head." not in n)
    assert f"{count:,} parameters" in text
    assert "/there/" not in text


def test_a_card_does_not_ask_for_data_that_is_gone(trained, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    path = run / "config.json"
    record = json.loads(path.read_text()) | {"data_path": "/nowhere"}
    path.write_text(json.dumps(record))
    export_run(run, tmp_path / "hf")
    text = (tmp_path / "hf" / "README.md").read_text()
    assert record["data_hash"] in text
    assert "source `" not in text


def test_whoever_can_read_the_settings_can_read_the_weights(trained, tmp_path) -> None:
    export_run(trained, tmp_path / "hf")
    modes = {path.stat().st_mode for path in (tmp_path / "hf").iterdir()}
    assert len(modes) == 1


def test_nothing_but_an_export_is_ever_replaced(trained, tmp_path) -> None:
    export_run(trained, tmp_path / "hf")
    with pytest.raises(OutputError, match="hf already holds an exported model: add --overwrite"):
        export_run(trained, tmp_path / "hf")
    export_run(trained, tmp_path / "hf", overwrite=True)
    with pytest.raises(OutputError, match="exists and is not an exported model, so nothing"):
        export_run(trained, trained, overwrite=True)
    assert (trained / "checkpoints").is_dir()
    (tmp_path / "hf" / "README.md").write_text("# A checkpoint of others\n")
    with pytest.raises(OutputError, match="exists and is not an exported model"):
        export_run(trained, tmp_path / "hf", overwrite=True)


def test_an_output_that_can_not_be_written_is_told_before_the_work(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"can't write .*file/hf"):
        export_run(tmp_path / "nothing", tmp_path / "file" / "hf")


def test_an_export_that_computes_something_else_is_not_written(
    trained, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("lmmodel.handover.parity.MAX_LOGIT_DIFFERENCE", 0.0)
    with pytest.raises(HuggingFaceError, match="nothing was written; please report this"):
        export_run(trained, tmp_path / "hf")
    assert not list(tmp_path.iterdir())


def test_an_encoder_trained_on_next_tokens_is_not_shown_filling_masks(
    tiny, store, tmp_path, monkeypatch
) -> None:
    transformers = pytest.importorskip("transformers")
    train(tiny("model.family=modern", "objective.name=clm"), store, tmp_path / "run")
    export = export_run(tmp_path / "run", tmp_path / "hf")
    assert any("trained on next tokens only" in note for note in export.notes)
    text = (tmp_path / "hf/README.md").read_text()
    assert front_matter(text)["pipeline_tag"] == "feature-extraction"
    names = run_example(text, monkeypatch, tmp_path)
    assert isinstance(names["embed"], transformers.FeatureExtractionPipeline)
    assert len(names["answer"][0][0]) == tiny().model.hidden_size
