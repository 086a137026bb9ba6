"""Learning from a teacher: what is added, what it begins with, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
import torch.nn.functional as F

from lmdata.errors import ConfigError
from lmmodel.config import load_train_config
from lmmodel.data import open_data
from lmmodel.errors import FitError
from lmmodel.evaluation import evaluate_run
from lmmodel.exporting import export_run
from lmmodel.families import ModelConfig
from lmmodel.model import make_model
from lmmodel.objectives import ObjectiveConfig, make_objective
from lmmodel.objectives.distilled import distill, spread_layers, student_weights
from lmmodel.objectives.terms import sum_losses
from lmmodel.optimizing import DistillationConfig
from lmmodel.saving.checkpoint import load_tensors
from lmmodel.saving.metrics import read_metrics
from lmmodel.trainer import train
from tests.contracts import check_objective, check_resume
from tests.lmmodel.conftest import TINY
from tests.lmmodel.test_model import random_batch, tiny_config


def make_config(*overrides):
    return load_train_config(None, [
        *TINY, "objective.name=mlm", "budget.num_steps=4", "logging.picture=false",
        "batch.micro_batch_tokens=200", *overrides,
    ])  # fmt: skip


@pytest.fixture(scope="module")
def teacher(store, tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("teacher") / "run"
    train(make_config("model.num_hidden_layers=3"), store, path)
    return path


def test_losses_and_gradients_are_those_of_the_definition() -> None:
    """All logits at once, of both models, by the formula."""
    config = tiny_config("bert", has_nsp_head=False)
    deeper = dataclasses.replace(config, num_hidden_layers=4, num_hidden_groups=4)
    master, model = make_model(deeper, seed=2).double().eval(), make_model(config, seed=1).double()
    master.compute_dtype = model.compute_dtype = torch.float64
    batch = random_batch([11, 2, 17])
    taught = DistillationConfig(teacher="x", temperature=3.0)
    (part,) = distill(make_objective(ObjectiveConfig(name="mlm")), [master], taught).parts
    assert [term.name for term in part.terms] == ["mlm", "mlm_soft", "mlm_angle"]
    assert [term.weight for term in part.terms] == [2.0, 5.0, 1.0]
    sums = sum_losses(model, part, batch)
    weights, parameters = torch.tensor([2.0, 5.0, 1.0]), list(model.parameters())
    found = torch.autograd.grad(sums.float() @ weights, parameters)
    rows = batch.masked_positions
    own, theirs = model(batch)[rows], master(batch)[rows]
    logits = model.lm_logits(own)
    expected = torch.stack([
        F.cross_entropy(logits, batch.masked_labels, reduction="sum"),
        9 * F.kl_div((logits / 3).log_softmax(1), (master.lm_logits(theirs) / 3).softmax(1),
                     reduction="sum"),
        (1 - F.cosine_similarity(own, theirs, dim=1)).sum(),
    ])  # fmt: skip
    torch.testing.assert_close(sums.double(), expected, atol=1e-4, rtol=1e-5)
    wanted = torch.autograd.grad(expected @ weights.double(), parameters)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
    assert all(weight.grad is None for weight in master.parameters())


def test_it_keeps_the_contract_of_objectives(store) -> None:
    vocab_size = open_data(store).tokenizer.vocab_size
    master = make_model(ModelConfig(size="tiny", vocab_size=vocab_size), seed=4).double().eval()
    master.compute_dtype = torch.float64
    objective = make_objective(ObjectiveConfig(name="mlm"))
    check_objective(distill(objective, [master], DistillationConfig(teacher="x")), store)


def test_a_student_begins_with_layers_of_its_teacher_from_first_to_last() -> None:
    assert spread_layers(2, 3) == [0, 2]
    teacher, student = (
        ModelConfig(size="tiny", vocab_size=31, num_hidden_layers=n) for n in (3, 2)
    )
    state = make_model(teacher, seed=0).state_dict()
    model = make_model(student, seed=1)
    model.load_state_dict(student_weights(state, teacher, student))
    own = model.state_dict()
    assert torch.equal(own["layers.1.mlp.input.weight"], state["layers.2.mlp.input.weight"])
    assert torch.equal(own["embeddings.tokens.weight"], state["embeddings.tokens.weight"])


def test_a_student_is_trained_resumed_evaluated_and_exported(store, teacher, tmp_path) -> None:
    config = make_config(f"distillation.teacher={teacher}", "model.num_hidden_layers=1")
    check_resume(config, store, tmp_path, at=3)
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    first = next(line for line in lines if "mlm_soft_loss" in line)
    assert first["mlm_soft_loss"] >= 0
    assert 0 <= first["mlm_angle_loss"] <= 2
    assert not any("teacher" in name for name in load_tensors(tmp_path / "run/model.safetensors"))
    assert evaluate_run(tmp_path / "run", store).loss > 0
    assert export_run(tmp_path / "run", tmp_path / "hf").architecture == "BertForMaskedLM"


def test_what_does_not_fit_a_teacher_is_refused_in_a_line(store, teacher, tmp_path) -> None:
    named = f"distillation.teacher={teacher}"
    for overrides, message in (
        ((named, "model.hidden_size=16"), "have no angle: set distillation.hidden_weight=0"),
        ((named, "model.hidden_size=16", "distillation.hidden_weight=0"),
         "begin with layers of the teacher .*hidden_size is 16, there 32"),
        ((named, "model.num_hidden_layers=4"), "num_hidden_layers is 4, there only 3"),
        ((named, "model.family=electra"), "objective.name=rtd has no tokens that its own"),
    ):  # fmt: skip
        more = ["objective.name=rtd"] if "electra" in overrides[-1] else []
        more += ["distillation.takes_layers=false"] if more else []
        with pytest.raises(FitError, match=message):
            train(make_config(*overrides, *more), store, tmp_path / "no")
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    definition = json.loads((other / "tokenizer.json").read_text())
    definition["model"]["vocab"]["zzz"] = len(definition["model"]["vocab"])
    (other / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(FitError, match=r"another tokenizer than the teacher .*: it has"):
        train(make_config(f"distillation.teacher={other}"), store, tmp_path / "no")
    with pytest.raises(ConfigError, match="has no effect without a teacher"):
        make_config("distillation.temperature=3")


def test_several_teachers_are_learned_as_the_mean_of_their_probabilities() -> None:
    """Teachers of other widths; the angle is that to the first."""
    config = tiny_config("bert", has_nsp_head=False)
    wide = dataclasses.replace(
        config, hidden_size=2 * config.hidden_size, embedding_size=2 * config.hidden_size
    )
    masters = [make_model(own, seed=seed).double().eval() for seed, own in ((2, config), (3, wide))]
    model = make_model(config, seed=1).double()
    for own in (model, *masters):
        own.compute_dtype = torch.float64
    batch, taught = random_batch([11, 2, 17]), DistillationConfig(teacher="x", temperature=3.0)
    (part,) = distill(make_objective(ObjectiveConfig(name="mlm")), masters, taught).parts
    _, soft, angle = sum_losses(model, part, batch)
    rows = batch.masked_positions
    mean = torch.stack([
        (master.lm_logits(master(batch)[rows]) / 3).softmax(1) for master in masters
    ]).mean(0)  # fmt: skip
    own = model(batch)[rows]
    expected = 9 * F.kl_div((model.lm_logits(own) / 3).log_softmax(1), mean, reduction="sum")
    torch.testing.assert_close(soft.double(), expected, rtol=1e-5, atol=1e-5)
    first = 1 - F.cosine_similarity(own, masters[0](batch)[rows], dim=1)
    torch.testing.assert_close(angle.double(), first.sum(), rtol=1e-5, atol=1e-5)


def test_a_run_with_two_teachers_resumes_and_knows_both(store, teacher, tmp_path) -> None:
    other = tmp_path / "other"
    train(make_config("seed=5", "model.num_hidden_layers=3"), store, other)
    config = make_config(
        f"distillation.teacher={teacher}", f'distillation.more_teachers=["{other}"]',
        "model.num_hidden_layers=1",
    )  # fmt: skip
    check_resume(config, store, tmp_path, at=3)
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert record["config"]["distillation"]["teacher_xxh3"].count("+") == 1
    train(make_config("seed=6", "model.num_hidden_layers=3"), store, other, overwrite=True)
    with pytest.raises(FitError, match="has other weights now"):
        train(None, None, tmp_path / "run", resume=True)


def test_a_distilbert_begins_with_layers_of_a_bert_and_opens_stock(store, tmp_path) -> None:
    """Its positions are those of the teacher with its first segment."""
    train(make_config("model.num_hidden_layers=3", "model.family=bert"), store, tmp_path / "bert")
    config = make_config(
        f"distillation.teacher={tmp_path / 'bert'}", "model.num_hidden_layers=2",
        "model.family=distilbert", "budget.num_steps=1", "optimizer.lr=1e-9",
        "optimizer.muon_lr=1e-9",
    )  # fmt: skip
    train(config, store, tmp_path / "student")
    theirs, own = (
        load_tensors(tmp_path / name / "model.safetensors") for name in ("bert", "student")
    )
    positions = theirs["embeddings.positions.weight"] + theirs["embeddings.segments.weight"][:1]
    torch.testing.assert_close(own["embeddings.positions.weight"], positions, atol=1e-6, rtol=0)
    pytest.importorskip("transformers")
    done = export_run(tmp_path / "student", tmp_path / "folder")
    assert done.architecture == "DistilBertForMaskedLM"
    assert done.max_logit_difference < 1e-4
