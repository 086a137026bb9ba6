"""Replaced token detection: its numbers, its samples, and what opens it elsewhere."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from lmdata.errors import ConfigError
from lmmodel.asking import load_pretrained
from lmmodel.batch import Batch, make_batch
from lmmodel.config import load_train_config
from lmmodel.data import open_data
from lmmodel.device import Processes
from lmmodel.evaluation import evaluate_run
from lmmodel.exporting import export_run
from lmmodel.families import ModelConfig
from lmmodel.handover.stock_weights import to_their_weights
from lmmodel.handover.written import to_their_config
from lmmodel.importing import import_checkpoint
from lmmodel.minimal_pairs import Pairs, score_pairs
from lmmodel.model import Transformer, make_model
from lmmodel.objectives import ObjectiveConfig, make_objective, modules_of
from lmmodel.objectives.replaced import (
    GENERATOR,
    REPLACED,
    ask_all,
    begin,
    finish,
    generator_of,
    read,
    sample,
    uniforms,
)
from lmmodel.objectives.terms import combine, sum_losses
from lmmodel.optimizing import OptimizerConfig
from lmmodel.predicting.likelihood import log_likelihoods
from lmmodel.saving.checkpoint import load_tensors
from lmmodel.saving.metrics import read_metrics
from lmmodel.trained import load_run
from lmmodel.trainer import plan, train
from lmmodel.training.learner import Learner
from lmmodel.training.optimizer import Optimizer
from lmmodel.training.plan import make_loader, resolve_config
from tests.contracts import check_objective, check_resume, logged
from tests.lmmodel.conftest import SHORT

VOCAB = 61
LENGTHS = [13, 7, 19]


def tiny_config(**changes) -> ModelConfig:
    settings = {
        "family": "electra", "vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 20, "embedding_size": 10,
        "max_position_embeddings": 23, "initializer_range": 0.3,
    }  # fmt: skip
    return ModelConfig(**(settings | changes))


def make_both(dtype=torch.float64, **changes) -> Transformer:
    objective = ObjectiveConfig(name="rtd", generator_ratio=0.5, **changes)
    config = tiny_config()
    model = make_model(config, seed=3, extras=modules_of(objective, config)).to(dtype)
    model.compute_dtype = dtype
    return model


def make_rows(lengths=LENGTHS, addresses=None) -> Batch:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(5, VOCAB, (sum(lengths),), generator=generator)
    positions = torch.arange(1, len(ids), 3)
    labels, masked = ids[positions].clone(), ids.clone()
    masked[positions] = 4
    rows = torch.arange(len(lengths))
    known = torch.stack([rows * 0, rows + 5, rows * 0], dim=1) if addresses is None else addresses
    batch = make_batch(
        masked, torch.tensor(lengths), masked_positions=positions, masked_labels=labels,
        addresses=known,
    )  # fmt: skip
    return batch.with_labels(REPLACED, torch.arange(len(ids)), torch.zeros_like(ids))


def stock_twins(model: Transformer):
    """Return the stock classes of both, with one table of embeddings, as they share it here."""
    transformers = pytest.importorskip("transformers")
    found = []
    for own, objective in ((model, "rtd"), (generator_of(model)[GENERATOR], None)):
        settings = to_their_config(own.config, {"pad": 0}, objective=objective)
        cls = getattr(transformers, settings["architectures"][0])
        stock = cls(transformers.ElectraConfig(**settings)).double()
        state = {name: weight.detach().double() for name, weight in own.state_dict().items()}
        weights = to_their_weights(state, own.config, objective=objective)
        keys = stock.load_state_dict(weights, strict=False)
        assert not keys.unexpected_keys
        stock.tie_weights()
        found.append(stock.eval())
    judge, writer = found
    writer.electra.embeddings = judge.electra.embeddings
    writer.generator_lm_head.weight = judge.electra.embeddings.word_embeddings.weight
    return judge, writer


def their_loss(judge, writer, batch: Batch, changed: Batch) -> torch.Tensor:
    losses, counts = [0.0, 0.0], [0, 0]
    for start, end in zip(batch.cu_seqlens[:-1].tolist(), batch.cu_seqlens[1:].tolist(),
                          strict=True):  # fmt: skip
        logits = writer(input_ids=batch.input_ids[None, start:end]).logits[0]
        is_own = (batch.masked_positions >= start) & (batch.masked_positions < end)
        rows, labels = batch.masked_positions[is_own] - start, batch.masked_labels[is_own]
        losses[0] += F.cross_entropy(logits[rows], labels, reduction="sum")
        counts[0] += len(rows)
        labels = changed.stream.labels[REPLACED].values[None, start:end]
        output = judge(input_ids=changed.input_ids[None, start:end], labels=labels)
        losses[1] += output.loss * (end - start)
        counts[1] += end - start
    return losses[0] / counts[0] + 50 * losses[1] / counts[1]


def our_loss(model: Transformer, batch: Batch) -> torch.Tensor:
    (part,) = make_objective(ObjectiveConfig(name="rtd", generator_ratio=0.5)).parts
    counts = torch.tensor([len(batch.masked_labels), batch.num_tokens])
    return combine(sum_losses(model, part, batch), torch.tensor([1.0, 50.0]).double(), counts)


def test_loss_every_gradient_and_ten_steps_are_those_of_the_stock_classes() -> None:
    """Both classes of transformers, which share their embeddings here, get the same samples."""
    model = make_both()
    judge, writer = stock_twins(model)
    batch = make_rows()
    (part,) = make_objective(ObjectiveConfig(name="rtd")).parts
    config = OptimizerConfig(name="adamw", lr=2**-8, weight_decay=0.0)
    optimizer = Optimizer(model, config)
    theirs = list(dict.fromkeys([*judge.parameters(), *writer.parameters()]))
    their_optimizer = torch.optim.AdamW(
        theirs, lr=2**-8, betas=config.betas, eps=config.eps, weight_decay=0.0
    )
    for step in range(10):
        changed, _ = read(model, part, batch)
        loss, expected = our_loss(model, batch), their_loss(judge, writer, batch, changed)
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-6)  # ours is float32
        loss.backward()
        expected.backward()
        if step == 0:
            gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            assert not any(name.startswith("head.") for name in gradients)
            own = {n: p for n, p in model.state_dict().items() if n.startswith("head.")}
            mapped = to_their_weights({**own, **gradients}, model.config, objective="rtd")
            for name, parameter in judge.named_parameters():
                torch.testing.assert_close(mapped[name], parameter.grad, atol=1e-6, rtol=1e-5)
        for own_optimizer in (optimizer, their_optimizer):
            own_optimizer.step(*((1.0,) if own_optimizer is optimizer else ()))
            own_optimizer.zero_grad()
    mapped = to_their_weights(model.state_dict(), model.config, objective="rtd")
    for name, parameter in judge.named_parameters():
        torch.testing.assert_close(mapped[name], parameter, atol=1e-4, rtol=0, msg=name)
    alone = generator_of(model)[GENERATOR]
    mapped = to_their_weights(alone.state_dict(), alone.config)
    for name, parameter in writer.named_parameters():
        torch.testing.assert_close(mapped[name].double(), parameter, atol=1e-4, rtol=0, msg=name)


def test_samples_follow_the_softmax_and_a_likeliest_guess_does_not() -> None:
    logits = torch.randn(1, 11, generator=torch.Generator().manual_seed(1)).expand(20_000, 11)
    chances = logits[0].softmax(0).double().numpy()
    points = uniforms(make_rows([20_000]), torch.arange(20_000), seed=3)
    counts = np.bincount(sample(logits, points).numpy(), minlength=11)
    assert chisquare(counts, 20_000 * chances / chances.sum()).pvalue > 1e-3
    likeliest = np.bincount(logits.argmax(1).numpy(), minlength=11)
    assert chisquare(likeliest, 20_000 * chances / chances.sum()).pvalue < 1e-9


def test_a_token_has_its_sample_whatever_else_is_in_the_batch(store) -> None:
    rows = open_data(store).rows("train", make_objective(ObjectiveConfig(name="rtd")).definition
                                 .recipe, seed=0)  # fmt: skip
    together = ask_all(rows.take(1, np.arange(9)), None)
    points = uniforms(together, torch.arange(together.num_tokens), seed=0)
    for row in (8, 3, 0):
        alone = ask_all(rows.take(1, np.array([row])), None)
        own = uniforms(alone, torch.arange(alone.num_tokens), seed=0)
        where = (together.addresses[:, 1] == row).nonzero().flatten()
        start = together.cu_seqlens[where[0]]
        assert torch.equal(own, points[start : start + len(own)])
    assert len(points.unique()) == len(points)
    next_epoch = ask_all(rows.take(2, np.arange(9)), None)
    for batch, seed in ((together, 1), (next_epoch, 0)):
        other = uniforms(batch, torch.arange(9), seed=seed)
        assert not torch.equal(other[:9], points[:9])


def test_no_gradient_passes_through_the_sample_and_originals_count_as_such() -> None:
    model, batch = make_both(), make_rows()
    (part,) = make_objective(ObjectiveConfig(name="rtd")).parts
    changed, _ = read(model, part, batch)
    rows, values = batch.masked_positions, changed.stream.labels[REPLACED].values
    assert torch.equal(values[rows] == 1, changed.input_ids[rows] != batch.masked_labels)
    others = torch.ones(batch.num_tokens, dtype=torch.bool).index_fill(0, rows, False)
    assert torch.equal(changed.input_ids[others], batch.input_ids[others])
    assert not values[others].any()
    sum_losses(model, part, batch)[1].backward()
    learned = [p.grad for p in model.extras[GENERATOR].parameters()]
    assert not any(gradient is not None and gradient.any() for gradient in learned)


def test_disentangled_embeddings_learn_from_their_own_losses_alone() -> None:
    model = make_both(is_disentangled=True)
    before = model.embeddings.tokens.weight.detach().clone()
    begin(model, {"extras.tokens.weight"})
    own, table = model.embeddings.tokens.weight, model.extras["tokens"].weight
    assert torch.equal(table, before)
    assert not own.any()
    (part,) = make_objective(ObjectiveConfig(name="rtd")).parts
    sums = sum_losses(model, part, make_rows())
    of_judge = torch.autograd.grad(sums[1], [own, table], allow_unused=True)
    sums = sum_losses(model, part, make_rows())
    of_writer = torch.autograd.grad(sums[0], [own, table], allow_unused=True)
    assert of_judge[0].any()
    assert of_judge[1] is None or not of_judge[1].any()
    assert of_writer[0] is None or not of_writer[0].any()
    assert of_writer[1].any()
    with torch.no_grad():
        own += 0.125
        expected = model.encode(
            model.embeddings(make_rows(), (table + own)[make_rows().input_ids]), make_rows()
        )
        model.load_state_dict(finish(model.state_dict()))
        torch.testing.assert_close(model.eval()(make_rows()), expected)
    begin(model, ())
    torch.testing.assert_close(own, torch.full_like(own, 0.125), atol=1e-12, rtol=0)


@pytest.mark.parametrize("is_disentangled", [False, True])
def test_it_keeps_the_contract_of_objectives(store, is_disentangled) -> None:
    config = ObjectiveConfig(name="rtd", is_disentangled=is_disentangled)
    if not is_disentangled:
        return check_objective(make_objective(config), store)
    assert make_objective(config).terms[1].weight == 50
    return None


def make_config(*overrides):
    return load_train_config(None, [*SHORT, "model.family=electra", *overrides])


@pytest.mark.parametrize("sharing", ["false", "true"])
def test_a_run_is_counted_resumed_evaluated_exported_and_gone_on_with(
    store, tmp_path, sharing
) -> None:
    config = make_config(f"objective.is_disentangled={sharing}")
    assert config.objective.name == "rtd"
    planned = plan(config, store)
    check_resume(config, store, tmp_path, at=6)
    state = load_tensors(tmp_path / "run/model.safetensors")
    assert planned.num_parameters == sum(tensor.numel() for tensor in state.values())
    found = evaluate_run(tmp_path / "run", store)
    assert {"replaced_accuracy", "original_accuracy", "replaced_loss"} <= found.others.keys()
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    logged = [line for line in lines if "validation_loss" in line][-1]
    assert found.loss == pytest.approx(logged["validation_loss"], abs=1e-6)
    assert found.others["replaced_loss"] == pytest.approx(
        logged["validation_replaced_loss"], abs=1e-6
    )
    pairs = Pairs((("the cat sees.", "cat the sees."),), np.zeros(1, np.int64), ("order",))
    scored = score_pairs(load_run(tmp_path / "run"), pairs)
    assert scored.score == "log-originality"
    assert scored.good[0] < 0
    assert load_pretrained(tmp_path / "run").embed(["the cat."]).shape == (1, 32)
    transformers = pytest.importorskip("transformers")
    exported = export_run(tmp_path / "run", tmp_path / "hf")
    assert exported.architecture == "ElectraForPreTraining"
    assert exported.max_logit_difference < 1e-4
    writer, info = transformers.ElectraForMaskedLM.from_pretrained(
        tmp_path / "hf/generator", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = state["extras.tokens.weight" if sharing == "true" else "embeddings.tokens.weight"]
    assert torch.equal(writer.electra.embeddings.word_embeddings.weight, expected)
    more = make_config(f"objective.is_disentangled={sharing}", "budget.num_steps=2",
                       f"init_from={tmp_path / 'run'}")  # fmt: skip
    train(more, store, tmp_path / "more")


def test_a_published_discriminator_is_imported_with_its_head(store, tmp_path) -> None:
    """Its verdicts are those of the stock class, and of the run that it was exported from."""
    pytest.importorskip("transformers")
    train(make_config("budget.num_steps=1"), store, tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "hf")
    path = tmp_path / "hf/config.json"
    theirs = json.loads(path.read_text())
    del theirs["lmmodel_objective"]  # as others publish it
    path.write_text(json.dumps(theirs))
    done = import_checkpoint(tmp_path / "hf", tmp_path / "back")
    assert done.architecture == "ElectraForPreTraining"
    assert done.max_logit_difference < 1e-4
    assert "begin afresh" in done.notes[-1]
    texts = ["the cat sees a stone.", "stone a sees cat the."]
    before, after = (
        log_likelihoods(load_run(tmp_path / name), texts).total for name in ("run", "back")
    )
    np.testing.assert_allclose(after, before, atol=1e-5)
    train(make_config("budget.num_steps=1", f"init_from={tmp_path / 'back'}"), store,
          tmp_path / "more")  # fmt: skip


def test_static_shapes_give_the_numbers_of_others(store) -> None:
    """As it is compiled: padding asks nothing, and draws nothing."""
    eager = make_config("budget.num_steps=1", "optimizer.name=adamw")
    compiled = make_config("budget.num_steps=1", "optimizer.name=adamw", "compile=true")
    alone, model, found = Processes(), None, {}
    for name, config in (("eager", eager), ("static", compiled)):
        data = open_data(store)
        resolved = resolve_config(config, data, torch.device("cpu"), alone)
        loader = make_loader(resolved, data, 4, alone)
        model = model or Learner(resolved, loader, torch.device("cpu")).model
        batch, (part,) = loader.batch(0), loader.objective.parts
        sums = [sum_losses(model, part, micro.batch) for micro in batch.micro_batches]
        found[name] = torch.stack(sums).sum(0)
    torch.testing.assert_close(found["static"], found["eager"], rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_step_is_that_of_eager(store, tmp_path) -> None:
    overrides = ("budget.num_steps=2", "optimizer.name=adamw", "evaluation.num_examples=0")
    for name, more in (("eager", ()), ("compiled", ("compile=true",))):
        train(make_config(*overrides, "logging.every_steps=1", *more), store, tmp_path / name)
    eager, compiled = (
        [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in line]
        for name in ("eager", "compiled")
    )
    assert compiled == pytest.approx(eager, rel=1e-4)


def test_another_micro_batch_gives_the_same_samples_and_losses(store, tmp_path) -> None:
    """But for rounding, without dropout: what is drawn is addressed by seed, epoch, row, place."""
    for name, size in (("large", 300), ("small", 120)):
        own = ("optimizer.name=adamw", "budget.num_steps=4", f"batch.micro_batch_tokens={size}")
        train(make_config(*own, "logging.every_steps=1"), store, tmp_path / name)
    large, small = (dict(logged(tmp_path / name)) for name in ("large", "small"))
    assert small == pytest.approx(large, rel=1e-4)


def test_what_can_not_be_is_refused_in_a_line(store) -> None:
    for overrides, message in (
        (["objective.generator_ratio=2"], "got 2.0: a generator larger than the model"),
        (["objective.replaced_weight=0"], "replaced_weight must be above 0"),
        (["parallel=fsdp2"], "objective.name=rtd does not go with parallel=fsdp2"),
        (["vocabulary_bias=frequencies"], "objective.name=rtd does not train the model's vocab"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan(make_config(*overrides), store)


def test_the_generator_is_as_deep_and_thinner_and_its_work_is_counted(store) -> None:
    model = make_both()
    generator = model.extras[GENERATOR]
    assert (generator.config.num_hidden_layers, generator.config.hidden_size) == (2, 12)
    planned = plan(make_config(), store)
    smaller = plan(make_config("objective.generator_ratio=1"), store)
    assert planned.num_parameters < smaller.num_parameters
    (part,) = make_objective(ObjectiveConfig(name="rtd")).parts
    assert part.other_flops(dataclasses.replace(tiny_config()), 41, 579, 14) > 0
