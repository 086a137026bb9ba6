"""A family that nothing else knows goes the whole road: docs/adding-a-family.md, as it stands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from lmmodel.asking import load_pretrained
from lmmodel.config import load_train_config
from lmmodel.errors import HuggingFaceError
from lmmodel.evaluation import evaluate_run
from lmmodel.exporting import export_run
from lmmodel.families import FAMILIES, Family
from lmmodel.handover.stock_families import STOCK_FAMILIES
from lmmodel.importing import import_checkpoint
from lmmodel.saving.checkpoint import load_tensors
from lmmodel.trainer import train
from tests.lmmodel.conftest import TINY

PAGE = (Path(__file__).parents[1] / "docs" / "adding-a-family.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for table in (FAMILIES, STOCK_FAMILIES):
        monkeypatch.setitem(table, "gpt", None)  # taken away again afterwards
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(block, "docs/adding-a-family.md", "exec"), {})
    assert isinstance(FAMILIES["gpt"], Family)


def make_config(*overrides: str):
    own = ["model.family=gpt", "objective.name=clm", "budget.num_steps=4"]
    return load_train_config(None, [*TINY, *own, *overrides])


def test_a_family_is_trained_resumed_evaluated_and_asked(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(make_config("checkpoint.every_steps=2"), store, run)
    shutil.copytree(run, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    train(None, None, tmp_path / "cut", resume=True)
    whole, cut = ((path / "model.safetensors").read_bytes() for path in (run, tmp_path / "cut"))
    assert whole == cut
    assert evaluate_run(run, store, num_examples=8).loss > 0
    model = load_pretrained(run)
    assert model.generate(["the"], max_new_tokens=3)
    state = load_tensors(run / "model.safetensors")
    assert not any("final_norm" in name for name in state)


def test_stock_transformers_computes_the_same_and_the_way_back_is_exact(
    store: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    run = tmp_path / "run"
    train(make_config(), store, run)
    exported = export_run(run, tmp_path / "hf")
    assert exported.architecture == "OpenAIGPTLMHeadModel"
    assert exported.max_logit_difference is not None
    assert exported.max_logit_difference < 1e-4
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert type(theirs).__name__ == "OpenAIGPTLMHeadModel"
    import_checkpoint(tmp_path / "hf", tmp_path / "back")
    before, after = (load_tensors(p / "model.safetensors") for p in (run, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_trait_that_is_wrong_is_found_by_the_proof(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    right = FAMILIES["gpt"]
    wrong = Family(**{**vars(right), "activation": "gelu"})
    monkeypatch.setitem(FAMILIES, "gpt", wrong)
    train(make_config("model.initializer_range=0.5"), store, tmp_path / "run")
    with pytest.raises(HuggingFaceError, match="computes other logits"):
        export_run(tmp_path / "run", tmp_path / "hf")


def test_a_family_without_names_is_no_family_to_export(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_config("budget.num_steps=1"), store, tmp_path / "run")
    monkeypatch.delitem(STOCK_FAMILIES, "gpt")
    with pytest.raises(HuggingFaceError, match="family 'gpt' has no class in transformers"):
        export_run(tmp_path / "run", tmp_path / "hf")
