from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lmdata.tokenizer import load_tokenizer
from lmmodel.branches import load_branches
from lmmodel.errors import HuggingFaceError, ResumeError, RunError
from lmmodel.handover.adapter import export_adapter, import_adapter
from lmmodel.handover.stock import export_model
from lmmodel.predicting.likelihood import embed, log_likelihoods
from lmmodel.saving.branch import find_weights, hash_weights
from lmmodel.saving.checkpoint import load_tensors
from lmmodel.saving.state import load_state
from lmmodel.trained import first_weights, load_run
from tests.lmmodel.branch_folders import PAIRS, write_branch, write_parent

TEXTS = ["the cat sees a dog", "a bird"]
FAMILIES = {
    "bert": ["model.family=bert", "objective.name=mlm"],
    "modern": ["model.family=modern", "objective.name=mlm"],
    "gpt2": ["model.family=gpt2"],
    "t5": ["model.family=t5"],
}


@pytest.fixture
def family(store: Path, tmp_path: Path) -> dict[str, Path]:
    """A parent and three branches of it."""
    parent = write_parent(
        tmp_path / "parent", load_tokenizer(store / "tokenizer"), *FAMILIES["bert"]
    )
    own = {"lora": (PAIRS, 0), "bias": (("trainable=bias",), 1), "other": (PAIRS, 5)}
    made = {
        name: write_branch(tmp_path / name, parent, *given, seed=seed)
        for name, (given, seed) in own.items()
    }
    return {"parent": parent, **made}


def test_a_branch_folder_holds_what_differs_and_whose_parent_it_is(family) -> None:
    assert find_weights(family["parent"]).name == "model.safetensors"
    parent = load_state(family["parent"])
    for name in ("bias", "lora"):
        assert find_weights(family[name]).name == "branch.safetensors"
        own, whole = load_tensors(family[name] / "branch.safetensors"), load_state(family[name])
        changed = {key for key, weight in whole.items() if not torch.equal(weight, parent[key])}
        kept = {key.removesuffix(".lora_b") + ".weight" if key.endswith(".lora_b") else key
                for key in own if not key.endswith(".lora_a")}  # fmt: skip
        assert changed == kept
    keys = [state["layers.0.attention.qkv.weight"].chunk(3)[1] for state in (whole, parent)]
    assert torch.equal(*keys)  # which have no pair
    assert hash_weights(family["lora"]) != hash_weights(family["other"])


def test_branches_on_one_parent_share_its_memory_and_answer_as_alone(family) -> None:
    runs = dict(zip(family, load_branches(list(family.values()), "cpu"), strict=True))
    places = [{p.data_ptr(): p.numel() for p in run.model.parameters()} for run in runs.values()]
    whole = sum(places[0].values())
    together = sum({key: num for own in places for key, num in own.items()}.values())
    own = sum(
        weight.numel() for name in ("lora", "bias", "other")
        for weight in load_tensors(family[name] / "branch.safetensors").values()
    )  # fmt: skip
    assert together == whole + own
    for name, run in runs.items():
        alone = load_run(family[name], "cpu")
        wanted = embed(alone, TEXTS).vectors
        np.testing.assert_allclose(embed(run, TEXTS).vectors, wanted, atol=1e-5)
        found, wanted = (log_likelihoods(one, TEXTS).total for one in (run, alone))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    lora, other = (embed(runs[name], TEXTS).vectors for name in ("lora", "other"))
    assert np.abs(lora - other).max() > 1e-3
    packs = runs["parent"].packs
    assert all(run.packs is packs for run in runs.values())
    assert len(packs) == len({id(pack) for pack in packs.values()})


def test_a_branch_of_a_branch_is_whole_again(family, tmp_path) -> None:
    later = write_branch(tmp_path / "later", family["lora"], "trainable=bias", seed=9)
    base, found = load_state(family["lora"]), load_state(later)
    for name, weight in found.items():
        assert torch.equal(weight, base[name]) != name.endswith(".bias")
    (together,) = load_branches([later], "cpu")
    wanted = embed(load_run(later, "cpu"), TEXTS).vectors
    np.testing.assert_allclose(embed(together, TEXTS).vectors, wanted, atol=1e-5)


def test_another_parent_or_a_changed_one_is_refused(family, tmp_path) -> None:
    moved = tmp_path / "elsewhere"
    lora = Path(shutil.copytree(family["lora"], moved / "lora"))
    other = write_branch(tmp_path / "x", family["parent"], "trainable=ffn")
    shutil.move(family["parent"], tmp_path / "away")
    with pytest.raises(RunError, match=r"holds only what differs from .*parent, which is gone"):
        load_run(lora)
    shutil.copytree(tmp_path / "away", moved / "parent")  # beside it is where it is found, too
    assert load_run(lora, "cpu").model is not None
    shutil.copy(other / "branch.safetensors", moved / "parent" / "model.safetensors")
    with pytest.raises(RunError, match=r"has other weights now .*: put those back, or train it"):
        load_run(lora)
    with pytest.raises(RunError, match="has other weights now"):
        load_branches([lora])
    origin = {"run": str(moved / "parent"), "weights_xxh3": "0"}
    with pytest.raises(ResumeError, match=r"no longer there, and what it has of its own is not"):
        first_weights("parent", origin)


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("pairs", [PAIRS, ("trainable=lora", "lora.rank=3", "lora.alpha=4.5")])
def test_peft_opens_what_is_exported_and_theirs_come_back(name, pairs, store, tmp_path) -> None:
    pytest.importorskip("peft")
    tokenizer = load_tokenizer(store / "tokenizer")
    parent = write_parent(tmp_path / "parent", tokenizer, *FAMILIES[name])
    run = write_branch(tmp_path / "run", parent, *pairs)
    result = export_adapter(run, tmp_path / "adapter")
    assert result.max_logit_difference < 1e-4
    export_adapter(run, tmp_path / "adapter", overwrite=True)  # known as one of ours
    moved = max(
        float((w - b).abs().max())
        for w, b in zip(load_state(run).values(), load_state(parent).values(), strict=True)
    )
    assert moved > 0.01
    back = import_adapter(tmp_path / "adapter", parent, tmp_path / "back")
    assert back.parent == parent
    for (key, weight), own in zip(
        load_state(tmp_path / "back").items(), load_state(run).values(), strict=True
    ):
        torch.testing.assert_close(weight, own, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_peft_made_is_a_branch_with_the_same_logits(store, tmp_path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    tokenizer = load_tokenizer(store / "tokenizer")
    parent = write_parent(tmp_path / "parent", tokenizer, *FAMILIES["bert"])
    export_model(load_run(parent, "cpu").model, tokenizer, tmp_path / "base", (), "mlm")
    base = transformers.BertForMaskedLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value"])
    model = peft.get_peft_model(base, config).eval()
    torch.manual_seed(1)
    for key, weight in model.named_parameters():
        if "lora_B" in key:
            weight.data.normal_(std=0.3)
    model.save_pretrained(tmp_path / "theirs")
    found = import_adapter(tmp_path / "theirs", parent, tmp_path / "run")
    assert (found.rank, found.targets) == (4, ("query", "value"))
    ids = torch.tensor([[5, 7, 9, 6, 8]])
    assert export_adapter(tmp_path / "run", tmp_path / "again").max_logit_difference < 1e-4
    again = peft.PeftModel.from_pretrained(
        transformers.BertForMaskedLM.from_pretrained(tmp_path / "base"), tmp_path / "again"
    ).eval()
    with torch.no_grad():
        wanted, got = (one(ids).logits for one in (model, again))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_adapter_is_told(family, tmp_path) -> None:
    with pytest.raises(HuggingFaceError, match=r"no branch of LoRA pairs \(trainable=bias\)"):
        export_adapter(family["bias"], tmp_path / "out")
    folder = tmp_path / "adapter"
    export_adapter(family["lora"], folder)
    text = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(text.replace('"bias": "none"', '"bias": "all"'))
    with pytest.raises(HuggingFaceError, match="says bias='all': plain LoRA pairs are imported"):
        import_adapter(folder, family["parent"], tmp_path / "out")
    (folder / "adapter_config.json").write_text(text)
    tokenizer = load_run(family["parent"], "cpu").tokenizer
    other = write_parent(tmp_path / "gpt2", tokenizer, *FAMILIES["gpt2"])
    with pytest.raises(HuggingFaceError, match="weights that have no place in this parent"):
        import_adapter(folder, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
