"""Checkpoints of others as runs: what they are good for at once, and going on with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lmdata.errors import ConfigError, OutputError
from lmdata.tokenizer import load_tokenizer
from lmmodel.asking import Pretrained
from lmmodel.config import TrainConfig, load_train_config
from lmmodel.errors import FitError, HuggingFaceError, ResumeError, RunError
from lmmodel.evaluation import evaluate_run
from lmmodel.exporting import export_run
from lmmodel.importing import import_checkpoint
from lmmodel.saving.checkpoint import load_tensors
from lmmodel.saving.run import read_record
from lmmodel.saving.state import load_state
from lmmodel.trained import load_run, shape_differences, tokenizer_difference
from lmmodel.trainer import plan, train
from tests.lmmodel.conftest import TINY
from tests.lmmodel.fine_tuned_folders import write_fine_tuned

# What a continued run sets for itself: its model comes from elsewhere.
OWN = [setting for setting in TINY if not setting.startswith("model.")]


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "hf"
    export_run(trained, folder)
    return folder


@pytest.fixture(scope="session")
def imported(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "run"
    import_checkpoint(exported, folder)
    return folder


@pytest.fixture
def continued() -> Callable[..., TrainConfig]:
    """Return a function to the configuration of a run that begins with another one."""
    return lambda run, *overrides: load_train_config(None, [f"init_from={run}", *OWN, *overrides])


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def loss(run: Path, data: Path) -> float:
    return evaluate_run(run, data, num_examples=16).loss


def test_an_import_is_the_run_that_was_exported(trained, imported, shards) -> None:
    before, after = load_run(trained), load_run(imported)
    for name, weight in before.model.state_dict().items():
        assert torch.equal(weight, after.model.state_dict()[name])
    assert after.tokenizer.hash == before.tokenizer.hash
    text = "the cat [MASK] the river."
    assert Pretrained(after).fill_mask(text) == Pretrained(before).fill_mask(text)
    assert loss(imported, shards) == loss(trained, shards)


def test_the_record_says_where_an_import_is_from(imported, exported) -> None:
    record = read_record(imported)
    assert record.is_imported
    assert (record.num_steps, record.data_hash) == (0, "")
    assert record.config.objective.name == "mlm+nsp"
    assert record.origin is not None
    assert record.origin["folder"] == str(exported)
    assert record.origin["architecture"] == "BertForPreTraining"


def test_an_import_proves_its_logits(exported, tmp_path) -> None:
    pytest.importorskip("transformers")
    found = import_checkpoint(exported, tmp_path / "run")
    assert found.architecture == "BertForPreTraining"
    assert found.max_logit_difference < 1e-4
    assert found.fresh == found.unused == ()


def test_a_causal_import_is_evaluated_on_its_own_data(causal_run, shards, tmp_path) -> None:
    """The export puts nothing around a text; the ids of the text are the same all the same."""
    export_run(causal_run, tmp_path / "hf")
    import_checkpoint(tmp_path / "hf", tmp_path / "run")
    assert loss(tmp_path / "run", shards) == loss(causal_run, shards)


def test_an_import_without_data_says_what_to_name(imported) -> None:
    with pytest.raises(RunError, match="was imported and has no data of its own: name a token sto"):
        evaluate_run(imported)
    with pytest.raises(ResumeError, match="was imported, it has no training to go on with"):
        train(None, None, imported, resume=True)


def test_a_base_model_has_fresh_heads_and_says_so(exported, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    base = tmp_path / "base"
    shutil.copytree(exported, base)
    transformers.BertModel.from_pretrained(exported).save_pretrained(base)
    found = import_checkpoint(base, tmp_path / "run")
    assert "head.dense.weight" in found.fresh
    assert "nsp_head.pooler.weight" not in found.fresh
    assert found.max_logit_difference is None
    assert read_record(tmp_path / "run").config.objective.name == "mlm"


def test_an_architecture_is_refused_before_its_weights_are_asked_for(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mt5"}')
    with pytest.raises(HuggingFaceError, match=r"model_type .mt5. is not supported: import takes"):
        import_checkpoint(tmp_path, tmp_path / "run")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("tokenizer.json", "vocab.txt"), r"holds no tokenizer: .*AutoTokenizer.from_pretrained"),
        (("model.safetensors",), "holds no model.safetensors: get the folder again"),
        (("config.json",), "holds no config.json: is it a Hugging Face folder"),
    ],
)
def test_what_a_folder_lacks_is_named_and_nothing_is_written(
    names, message, exported, tmp_path
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(exported, folder)
    for name in names:
        (folder / name).unlink()
    with pytest.raises(HuggingFaceError, match=message):
        import_checkpoint(folder, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(exported, tmp_path) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(exported, folder)
    own = load_tokenizer(folder).backend
    own.add_tokens(["brandnew"])
    own.save(str(folder / "tokenizer.json"))
    with pytest.raises(HuggingFaceError, match=r"has \d+ ids, the model only \d+: take the token"):
        import_checkpoint(folder, tmp_path / "run")


def test_an_encoder_of_next_tokens_stays_one(tiny, store, tmp_path) -> None:
    train(tiny("model.family=modern", "objective.name=clm", "budget.num_steps=1"), store,
          tmp_path / "run")  # fmt: skip
    export_run(tmp_path / "run", tmp_path / "hf")
    import_checkpoint(tmp_path / "hf", tmp_path / "again")
    own, again = (load_run(tmp_path / name) for name in ("run", "again"))
    assert again.record.config.objective.name == "clm"
    assert not again.model.config.is_causal
    with pytest.raises(FitError, match="objective clm, which fills in no masks"):
        Pretrained(again).fill_mask("a [MASK].")
    found = [evaluate_run(run.path, store, num_examples=8).loss for run in (own, again)]
    assert found[0] == pytest.approx(found[1], rel=0.02)  # rows of other lengths


def test_only_a_run_is_replaced_by_an_import(exported, imported, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(imported, run)
    with pytest.raises(OutputError, match="already holds a run: add --overwrite"):
        import_checkpoint(exported, run)
    import_checkpoint(exported, run, overwrite=True)
    with pytest.raises(OutputError, match="exists and is not a run"):
        import_checkpoint(exported, exported, overwrite=True)
    assert (exported / "README.md").is_file()


def test_what_is_ours_needs_no_import(exported, imported, store, tmp_path) -> None:
    tuned = write_fine_tuned(tmp_path / "tuned", "regression", load_tokenizer(store / "tokenizer"))
    for folder, message in (
        (imported, "is a run already: it needs no import"),
        (tuned, "is a fine-tuned model of ours: it needs no import"),
        (exported / "config.json", "is a file: name the Hugging Face folder"),
    ):
        with pytest.raises(RunError, match=message):
            import_checkpoint(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_output_that_can_not_be_written_is_told_before_the_work(exported, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"can't write .*file/run"):
        import_checkpoint(tmp_path / "nothing", tmp_path / "file" / "run")


def test_a_folder_of_others_is_not_taken_for_a_run(exported, tmp_path) -> None:
    with pytest.raises(RunError, match="is a Hugging Face folder: make a run of it with `lmmodel"):
        load_run(exported)
    (tmp_path / "config.json").write_text('{"kind": "fine-tuned"}')
    with pytest.raises(RunError, match="holds a fine-tuned model, a run is needed here"):
        read_record(tmp_path)


@pytest.mark.parametrize("sizes", [(), ("model.dropout=0.1",)])
def test_training_goes_on_from_the_weights_of_a_run(
    sizes, trained, imported, store, continued, tmp_path
) -> None:
    for name, run in (("own", trained), ("imported", imported)):
        config = continued(run, "budget.num_steps=2", "optimizer.lr=1e-9", "optimizer.muon_lr=1e-9",
                           *sizes)  # fmt: skip
        train(config, store, tmp_path / name)
        before, after = (load_tensors(p / "model.safetensors") for p in (run, tmp_path / name))
        for key, weight in before.items():
            torch.testing.assert_close(after[key], weight, atol=1e-6, rtol=1e-4)
        record = read_record(tmp_path / name)
        assert record.origin is not None
        assert record.origin["run"] == str(run.resolve())
        assert record.origin["num_steps"] == read_record(run).num_steps
        assert record.config.model.dropout == (0.1 if sizes else 0.0)
        assert not record.is_imported


def test_the_average_begins_with_those_weights_too(imported, store, continued, tmp_path) -> None:
    config = continued(imported, "budget.num_steps=1", "averaging.kind=ema", "optimizer.lr=1e-9",
                       "optimizer.muon_lr=1e-9")  # fmt: skip
    train(config, store, tmp_path / "run")
    before, after = (load_tensors(p / "model.safetensors") for p in (imported, tmp_path / "run"))
    for key, weight in before.items():
        torch.testing.assert_close(after[key], weight, atol=1e-6, rtol=1e-4)


def test_a_continued_run_resumes_to_the_bit(imported, store, continued, tmp_path) -> None:
    config = continued(imported, "budget.num_steps=6", "checkpoint.keep=9", "model.dropout=0.1")
    train(config, store, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("step-00000004", "step-00000006"):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / name)
    train(None, None, tmp_path / "cut", resume=True)
    whole, cut = (load_tensors(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(whole[name], weight) for name, weight in cut.items())
    shutil.rmtree(tmp_path / "cut" / "checkpoints")  # as killed before the first checkpoint
    (tmp_path / "cut" / "model.safetensors").unlink()
    train(config, store, tmp_path / "cut", resume=True)
    again = load_tensors(tmp_path / "cut" / "model.safetensors")
    assert all(torch.equal(whole[name], weight) for name, weight in again.items())


@pytest.mark.parametrize("part", ["ffn", "head", "bias", "lora"])
def test_a_part_is_trained_and_the_rest_stays_to_the_bit(
    part, imported, store, continued, tmp_path
) -> None:
    config = continued(imported, "budget.num_steps=4", "checkpoint.keep=9", f"trainable={part}",
                       "averaging.kind=ema", "optimizer.lr=1e-2")  # fmt: skip
    run = tmp_path / "run"
    summary = train(config, store, run)
    assert summary.notes[0].startswith("trained: ")
    assert "frozen: " in summary.notes[0]
    before, after = load_state(imported), load_state(run)
    assert before.keys() == after.keys()  # what pairs add is in the weights
    own = load_tensors(run / "branch.safetensors")  # and the folder holds what differs only
    assert sum(w.numel() for w in own.values()) < sum(w.numel() for w in after.values())
    checkpoint = load_tensors(run / "checkpoints" / "step-00000004" / "model.safetensors")
    assert checkpoint.keys() == own.keys()
    for name, weight in before.items():
        is_matrix = name.startswith("layers.") and weight.ndim == 2
        moves = {
            "ffn": ".mlp." in name, "head": name.startswith(("head.", "nsp_head.")),
            "bias": name.endswith(".bias"), "lora": is_matrix,
        }[part]  # fmt: skip
        assert torch.equal(after[name], weight) != moves, name
    assert evaluate_run(run, store, num_examples=16).loss == pytest.approx(
        summary.evaluation.loss, rel=0.2
    )
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    (run / "branch.safetensors").unlink()
    train(None, None, run, resume=True)
    again = load_state(run)
    assert all(torch.equal(after[name], weight) for name, weight in again.items())


def test_what_has_no_effect_on_a_part_is_refused(imported) -> None:
    with pytest.raises(ConfigError, match=r"trainable=lora leaves the rest .* \(--init-from\)"):
        load_train_config(None, ["trainable=lora"])
    with pytest.raises(ConfigError, match="lora has no effect with trainable=full: leave it out"):
        load_train_config(None, ["lora.rank=4"])
    with pytest.raises(ConfigError, match="trainable=lora does not go with parallel=fsdp2"):
        load_train_config(None, [f"init_from={imported}", "trainable=lora", "parallel=fsdp2"])


def test_a_resumption_needs_the_origin_only_before_the_first_checkpoint(
    imported, store, continued, tmp_path
) -> None:
    origin = tmp_path / "origin"
    shutil.copytree(imported, origin)
    run = tmp_path / "run"
    train(continued(origin, "budget.num_steps=4"), store, run)
    shutil.rmtree(origin)
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    train(None, None, run, resume=True)
    shutil.rmtree(run / "checkpoints")
    (run / "model.safetensors").unlink()
    with pytest.raises(ResumeError, match=r"began with the weights of .* no longer there, and"):
        train(None, None, run, resume=True)


def test_another_origin_is_another_configuration(trained, imported, store, continued, tmp_path):
    train(continued(trained, "budget.num_steps=2"), store, tmp_path / "run")
    with pytest.raises(ResumeError, match=r"init_from was .*, now"):
        train(continued(imported, "budget.num_steps=2"), store, tmp_path / "run", resume=True)


def test_a_model_that_contradicts_the_origin_is_refused(imported, store, continued, tmp_path):
    for override, message in (
        ("model.size=mini", r"model.num_hidden_layers is 4, there 2; .*model.hidden_size is 256"),
        ("model.hidden_size=64", "model.hidden_size is 64, there 32: leave these settings out"),
        ("model.vocab_size=999", "model.vocab_size is 999, there"),
    ):
        config = continued(imported, override)
        with pytest.raises(ConfigError, match=message):
            train(config, store, tmp_path / "run")
        with pytest.raises(ConfigError, match=message):
            plan(config, store)
    python = TrainConfig(init_from=str(imported), device="cpu")
    with pytest.raises(ConfigError, match=r"model\.hidden_size is 256, there 32"):
        train(python, store, tmp_path / "run")
    with pytest.raises(RunError, match="holds no run"):
        continued(tmp_path)
    assert not (tmp_path / "run").exists()


def test_data_of_another_tokenizer_is_refused_with_the_difference(
    imported, other_store, continued, tmp_path
) -> None:
    with pytest.raises(FitError, match=r"made with another tokenizer than .*: .*lmdata tokenize"):
        train(continued(imported), other_store, tmp_path / "run")


def test_a_run_does_not_take_the_place_of_the_one_it_begins_with(
    trained, store, continued, tmp_path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    with pytest.raises(RunError, match=r"can't begin with .* and take its place"):
        train(continued(run), store, run, overwrite=True)
    assert (run / "checkpoints").is_dir()


def test_a_head_for_pairs_may_come_in_addition(tiny, store, continued, tmp_path) -> None:
    plain, pairs = tmp_path / "plain", tmp_path / "pairs"
    train(tiny("objective.name=mlm", "budget.num_steps=1"), store, plain)
    train(continued(plain, "objective.name=mlm+nsp", "budget.num_steps=1"), store, pairs)
    assert "nsp_head.pooler.weight" in load_tensors(pairs / "model.safetensors")


def test_what_differs_between_tokenizers_is_named(store) -> None:
    own = load_tokenizer(store / "tokenizer")
    assert tokenizer_difference(own, own) is None

    def changed(**parts) -> str | None:
        definition = json.loads(own.backend.to_str())
        for name, value in parts.items():
            definition[name] = value(definition[name])
        other = type(own)(type(own.backend).from_str(json.dumps(definition)), own.special_tokens)
        return tokenizer_difference(own, other)

    assert changed(post_processor=lambda _: None) is None
    found = changed(normalizer=lambda old: old | {"lowercase": not old["lowercase"]})
    assert found == "the pieces are the same, its normalizer is not"


def test_a_config_that_is_no_table_is_refused_by_the_strict_reader(imported) -> None:
    with pytest.raises(ConfigError, match="model"):
        load_train_config(None, [f"init_from={imported}", "model=7"])
    with pytest.raises(ConfigError, match="objective must be a table"):
        load_train_config(None, [f"init_from={imported}", "objective=mlm"])


def test_shapes_differ_by_what_decides_about_weights() -> None:
    run = TrainConfig().model
    assert shape_differences(run, run) == []
