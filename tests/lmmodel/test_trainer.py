"""The loop: it learns, repeats itself to the byte, and stops in words."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lmdata import views
from lmdata.errors import DatasetError, OutputError
from lmmodel import data
from lmmodel.device import Processes
from lmmodel.errors import DeviceError, DivergedError, FitError, MemoryLimitError, RunError
from lmmodel.saving.checkpoint import list_checkpoints, load_tensors
from lmmodel.saving.metrics import read_metrics
from lmmodel.saving.run import read_record
from lmmodel.trainer import plan, train
from lmmodel.training.budget import Pace
from lmmodel.training.first_weights import find_first_weights
from lmmodel.training.learner import Learner
from lmmodel.training.loop import Interrupted
from lmmodel.training.plan import prepare, resolve_config


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_a_run_folder_holds_all_that_it_promises(tiny, store, tmp_path):
    summary = train(tiny("logging.tensorboard=true"), store, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"model.safetensors", "config.json", "tokenizer.json", "metrics.jsonl",
                     "loss.png", "checkpoints", "tensorboard"}  # fmt: skip
    assert [path.name for path in list_checkpoints(tmp_path / "run/checkpoints")] == [
        "step-00000006", "step-00000004",
    ]  # fmt: skip
    assert summary.evaluation is not None
    assert summary.evaluation.num_examples == 16


def test_the_picture_needs_no_held_out_figures(tiny, store, tmp_path):
    train(tiny("evaluation.num_examples=0"), store, tmp_path / "run")
    assert (tmp_path / "run" / "loss.png").is_file()
    train(tiny("logging.picture=false"), store, tmp_path / "bare")
    assert not (tmp_path / "bare" / "loss.png").exists()


def test_the_same_seed_gives_the_same_bytes(tiny, store, tmp_path):
    config = tiny("model.dropout=0.1")
    train(config, store, tmp_path / "a")
    train(config, store, tmp_path / "b")
    train(tiny("model.dropout=0.1", "seed=1"), store, tmp_path / "c")
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


def test_how_far_the_loader_works_ahead_changes_nothing(tiny, store, tmp_path):
    for depth in (0, 1, 5):
        train(tiny(f"batch.prefetch={depth}"), store, tmp_path / str(depth))
    assert weights(tmp_path / "0") == weights(tmp_path / "1") == weights(tmp_path / "5")


def test_the_size_of_a_micro_batch_does_not_change_the_result(tiny, store, tmp_path):
    for tokens in (32, 100, 10_000):
        train(tiny(f"batch.micro_batch_tokens={tokens}"), store, tmp_path / str(tokens))
    reference = load_tensors(tmp_path / "10000/model.safetensors")
    for tokens in (32, 100):
        for name, tensor in load_tensors(tmp_path / f"{tokens}/model.safetensors").items():
            torch.testing.assert_close(tensor, reference[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ("objective.name=mlm",),
        ("objective.name=mlm+nsp",),
        ("objective.name=mlm+sop",),
        ("objective.name=clm", "model.family=gpt2"),
        ("objective.name=hybrid", "model.family=modern", "vocabulary_bias=zeros"),
        ("averaging.kind=ema", "optimizer.name=muon"),
        ("averaging.kind=tail", "schedule.kind=wsd"),
        ("precision=bf16", "max_grad_norm=none"),
    ],
)
def test_every_objective_family_and_option_learns(tiny, store, tmp_path, overrides):
    config = tiny("budget.num_steps=40", "optimizer.lr=3e-3", "logging.every_steps=5",
                  "evaluation.every_steps=40", "checkpoint.every_steps=40", *overrides)  # fmt: skip
    train(config, store, tmp_path / "run")
    losses = [entry["loss"] for entry in read_metrics(tmp_path / "run/metrics.jsonl")
              if "loss" in entry]  # fmt: skip
    assert losses[-1] < losses[0] - 0.5


def test_fresh_weights_may_begin_with_what_the_data_say(tiny, store, tmp_path):
    """From the first step on it guesses by frequency, in every process and after any crash."""
    begins = ("vocabulary_bias=frequencies", "first_embeddings=co-occurrences")
    settings = (*begins, "checkpoint.every_steps=4", "logging.every_steps=1")
    train(tiny(*settings), store, tmp_path / "whole")
    zeros = tiny("vocabulary_bias=zeros", "logging.every_steps=1")
    train(zeros, store, tmp_path / "zeros")
    first, usual = (read_metrics(tmp_path / name / "metrics.jsonl")[0]["mlm_loss"]
                    for name in ("whole", "zeros"))  # fmt: skip
    assert first < usual - 0.3

    def crash(progress) -> None:
        if progress.step == 2 + 4 * (tmp_path / "run/checkpoints").exists():
            raise KeyboardInterrupt

    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            train(tiny(*settings), store, tmp_path / "run", resume=resume, progress=crash)
    train(tiny(*settings), store, tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    opened = data.open_data(store)
    config = resolve_config(tiny(*settings), opened, torch.device("cpu"), Processes())
    for rank in range(2):
        prepared = prepare(config, opened, torch.device("cpu"), Processes(rank, 2))
        first = find_first_weights(prepared)
        assert first.bias is not None
        assert first.embeddings is not None
        bias = first.bias
        chances = bias.double().exp().numpy()
        assert chances.sum() == pytest.approx(1, abs=0.01)
        counts = opened.token_counts / opened.token_counts.sum()
        np.testing.assert_allclose(chances[counts > 0.001], counts[counts > 0.001], rtol=0.1)
        model = Learner(config, prepared.loader, prepared.device, first=first).model
        drawn = Learner(config, prepared.loader, prepared.device).model.embeddings.tokens.weight
        own, is_found = model.embeddings.tokens.weight, first.embeddings.any(1)
        assert 0 < is_found.sum() < len(own)
        assert torch.equal(own[~is_found], drawn[~is_found])
        torch.testing.assert_close(own[is_found].std(), drawn.std(), rtol=1e-3, atol=0)


def test_a_model_overfits_a_single_batch(tiny, tmp_path):
    from tests.lmmodel.conftest import make_store

    store = make_store(tmp_path / "few", num_documents=12)
    config = tiny(
        "budget.num_steps=150", "recipe.shuffle=false", "objective.name=clm", "model.family=gpt2",
        "recipe.max_seq_length=64", "batch.size=4", "optimizer.lr=1e-2", "logging.every_steps=10",
        "evaluation.num_examples=0", "checkpoint.every_steps=150",
    )  # fmt: skip
    train(config, store, tmp_path / "run")
    losses = [entry["loss"] for entry in read_metrics(tmp_path / "run/metrics.jsonl")]
    assert losses[-1] < 0.5 < 3 < losses[0]


def test_curriculum_stages_change_length_and_batch(tiny, store, tmp_path):
    config = tiny("stages=[{until=0.5, max_seq_length=16, batch_size=4}, {until=1.0}]")
    train(config, store, tmp_path / "run")
    tokens = [entry["num_tokens"] for entry in read_metrics(tmp_path / "run/metrics.jsonl")
              if "num_tokens" in entry]  # fmt: skip
    sizes = np.diff([0, *tokens])
    assert sizes[:3].max() <= 4 * 16
    assert sizes[3:].min() > 4 * 16


def test_a_budget_in_tokens_epochs_or_minutes_becomes_steps(tiny, store, tmp_path):
    for name, budget in (("t", "budget.num_tokens=1500"), ("e", "budget.num_epochs=0.5"),
                         ("m", "budget.num_minutes=0.02")):  # fmt: skip
        config = tiny("budget.num_steps=none", budget)
        summary = train(config, store, tmp_path / name)
        assert summary.num_steps == read_record(tmp_path / name).num_steps >= 1
    assert read_record(tmp_path / "t").num_steps < 8


def test_the_least_budget_is_one_step(tiny, store, tmp_path):
    for name in ("num_epochs=1e-9", "num_tokens=1", "num_minutes=1e-9"):
        config = tiny("budget.num_steps=none", f"budget.{name}")
        assert plan(config, store).num_steps == 1
        summary = train(config, store, tmp_path / name)
        assert (summary.num_steps, summary.num_tokens > 0) == (1, True)


def test_a_plan_says_what_would_happen(tiny, store):
    made = plan(tiny(), store)
    assert made.num_steps == 6
    assert made.num_parameters > 10_000
    assert made.num_tokens == pytest.approx(6 * made.tokens_per_step, abs=1)
    assert made.memory_bytes > 16 * made.num_parameters
    assert made.expected_s is not None


def test_progress_is_reported(tiny, store, tmp_path):
    reports = []
    train(tiny(), store, tmp_path / "run", progress=reports.append)
    steps = [report.step for report in reports if report.message is None]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert all(0 <= report.data_wait_ratio <= 1 for report in reports)


def test_a_run_folder_with_a_run_is_not_touched(tiny, store, tmp_path):
    train(tiny(), store, tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(OutputError, match=r"already holds a run: --resume .* --overwrite"):
        train(tiny("seed=1"), store, tmp_path / "run")
    assert weights(tmp_path / "run") == before
    train(tiny("seed=1"), store, tmp_path / "run", overwrite=True)
    assert weights(tmp_path / "run") != before


def test_a_folder_that_is_no_run_is_never_deleted(tiny, store, tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(OutputError, match="is not a run, so nothing replaces it"):
        train(tiny(), store, tmp_path, overwrite=True)
    assert (tmp_path / "precious.txt").exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_saves_and_leaves_with_a_message(tiny, store, tmp_path, name):
    def kill_self(report):
        if report.step == 3:
            os.kill(os.getpid(), getattr(signal, name))

    with pytest.raises(Interrupted, match="stopped after step 3 of 6; everything is saved"):
        train(tiny(), store, tmp_path / "run", progress=kill_self)
    train(None, None, tmp_path / "run", resume=True)
    train(tiny(), store, tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def spoil_loss(monkeypatch, *, step, value):
    from lmmodel.training import learner

    true_accumulate = learner.accumulate
    calls = []

    def accumulate(*args, **options):
        calls.append(None)
        sums = true_accumulate(*args, **options)
        return sums * value if len(calls) == step else sums

    monkeypatch.setattr(learner, "accumulate", accumulate)


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "the loss is nan"), (1e3, "the loss is .* times a guess")]
)
def test_a_bad_loss_stops_with_the_rows_and_what_to_try(
    tiny, store, tmp_path, monkeypatch, value, words
):
    spoil_loss(monkeypatch, step=4, value=value)
    with pytest.raises(DivergedError, match=f"step 4: {words}.* rows of epoch 0: .*optimizer.lr"):
        train(tiny(), store, tmp_path / "run")
    assert list_checkpoints(tmp_path / "run/checkpoints")[0].name == "step-00000002"


def test_bad_steps_are_skipped_when_asked(tiny, store, tmp_path, monkeypatch):
    spoil_loss(monkeypatch, step=4, value=float("nan"))
    summary = train(tiny("skip_bad_steps=true"), store, tmp_path / "run")
    assert any("step 4 is left out" in note for note in summary.notes)
    assert np.isfinite(summary.loss)


def test_too_many_bad_steps_stop_the_run(tiny, store, tmp_path, monkeypatch):
    monkeypatch.setattr("lmmodel.training.loop.MAX_SKIPPED_IN_A_ROW", 3)
    monkeypatch.setattr("lmmodel.training.learner.find_fault", lambda *_: "the loss is nan")
    with pytest.raises(DivergedError, match="3 bad steps in a row"):
        train(tiny("skip_bad_steps=true"), store, tmp_path / "run")


def test_out_of_memory_halves_the_micro_batches_and_keeps_the_result(
    tiny, store, tmp_path, monkeypatch
):
    from lmmodel.training import learner

    train(tiny("batch.micro_batch_tokens=256"), store, tmp_path / "roomy")
    true_accumulate = learner.accumulate

    def accumulate(model, objective, micro_batches, num_labels, **options):
        if max(micro.batch.num_tokens for micro in micro_batches) > 100:
            raise torch.OutOfMemoryError("no room")
        return true_accumulate(model, objective, micro_batches, num_labels, **options)

    monkeypatch.setattr(learner, "accumulate", accumulate)
    summary = train(tiny("batch.micro_batch_tokens=256"), store, tmp_path / "tight")
    said = [re.search(r"micro-batches are now (\d+) tokens", note) for note in summary.notes]
    (sizes,) = [found for found in said if found]
    assert 50 <= int(sizes[1]) <= 100
    roomy = load_tensors(tmp_path / "roomy/model.safetensors")
    for name, tensor in load_tensors(tmp_path / "tight/model.safetensors").items():
        torch.testing.assert_close(tensor, roomy[name], rtol=0, atol=2e-5)


def test_no_micro_batch_is_small_enough(tiny, store, tmp_path, monkeypatch):
    tried: list[int] = []

    def refuse(model, objective, micro_batches, *_, **__):
        tried.append(max(micro.batch.num_tokens for micro in micro_batches))
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("lmmodel.training.learner.num_at_once", lambda *_: 1)
    monkeypatch.setattr("lmmodel.training.learner.accumulate", refuse)
    with pytest.raises(MemoryLimitError, match=r"not even a micro-batch of (\d+) tokens") as caught:
        train(tiny("batch.micro_batch_tokens=512"), store, tmp_path / "run")
    assert tried == sorted(set(tried), reverse=True)  # each try is a smaller one
    assert f"of {tried[-1]} tokens" in str(caught.value)


def test_a_run_can_be_made_where_the_user_is_and_through_a_link(tiny, store, tmp_path, monkeypatch):
    (tmp_path / "disk/run").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk/run")
    monkeypatch.chdir(tmp_path / "disk/run")
    train(tiny(), store, Path())
    expected = weights(tmp_path / "link")
    (tmp_path / "link/loss.png").unlink(missing_ok=True)
    train(tiny("seed=1"), store, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert weights(tmp_path / "disk/run") != expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


def test_a_missing_tensorboard_is_told_before_another_run_is_replaced(
    tiny, store, tmp_path, monkeypatch
):
    train(tiny(), store, tmp_path / "run")
    before = weights(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for output in ("run", "new"):
        with pytest.raises(RunError, match=r"pip install .lmdata-lmmodel\[tensorboard\]"):
            train(tiny("logging.tensorboard=true"), store, tmp_path / output, overwrite=True)
    assert weights(tmp_path / "run") == before
    assert not (tmp_path / "new").exists()


def test_a_step_that_no_memory_could_hold_is_refused_before_it_is_read(tiny, store, tmp_path):
    config = tiny("batch.size=4000000000")
    with pytest.raises(MemoryLimitError, match=r"a step of 4,000,000,000 examples .* batch\.size"):
        train(config, store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_no_memory_could_hold_is_refused_at_once(tiny, store, tmp_path):
    config = tiny(
        "model.hidden_size=8192", "model.num_attention_heads=64", "model.num_hidden_layers=100"
    )
    with pytest.raises(MemoryLimitError, match=r"needs about \d+ GiB, the device has"):
        train(config, store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error(tiny, store, tmp_path):
    with pytest.raises(DeviceError, match="sees no CUDA device: use device=cpu"):
        train(tiny("device=cuda"), store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.vocab_size=20",), "model.vocab_size=20 is smaller than the vocabulary"),
        (("stages=[{until=1.0, max_seq_length=128}]",), "up to 128 tokens, the model takes 64"),
    ],
)
def test_data_and_model_that_do_not_fit_are_refused(tiny, store, tmp_path, overrides, words):
    with pytest.raises(FitError, match=words):
        train(tiny(*overrides), store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_validation_split_without_pairs_is_a_note_not_an_error(
    tiny, store, tmp_path, monkeypatch
):
    true_view = views.view

    def view(store, recipe, *, seed, epoch):
        if epoch == data.EVALUATION_EPOCH:
            raise DatasetError("view=nsp pairs sentences, but none of the 3 documents has two")
        return true_view(store, recipe, seed=seed, epoch=epoch)

    monkeypatch.setattr(views, "view", view)
    summary = train(tiny(), store, tmp_path / "run")
    assert summary.evaluation is None
    assert "trained without held-out figures: split validation of " in summary.notes[0]
    assert "none of the 3 documents has two" in summary.notes[0]


def test_a_view_of_each_split_is_built_once(tiny, store, tmp_path, monkeypatch):
    true_view, built = views.view, []

    def view(store, recipe, *, seed, epoch):
        built.append(epoch)
        return true_view(store, recipe, seed=seed, epoch=epoch)

    monkeypatch.setattr(views, "view", view)
    monkeypatch.setattr("lmmodel.trainer.LIMIT_S", 0.0)
    minutes = tiny("budget.num_steps=none", "budget.num_minutes=0.001")
    for name, config in (("steps", tiny()), ("minutes", minutes)):
        built.clear()
        train(config, store, tmp_path / name)
        assert sorted(built) == [0, data.EVALUATION_EPOCH]
        built.clear()
        train(None, None, tmp_path / name, resume=True)
        assert sorted(built) == [0, data.EVALUATION_EPOCH]


def test_the_kernels_that_attention_takes_are_planned_and_recorded(
    tiny, store, tmp_path, monkeypatch
):
    monkeypatch.setattr("lmmodel.trainer.calibrate", lambda *_, **__: Pace(step_s=1.0))
    assert plan(tiny(), store).attention == ("buckets", "dense")
    assert plan(tiny("compile=true"), store).attention == ("padded",)
    train(tiny("evaluation.num_examples=0"), store, tmp_path / "run")
    assert read_record(tmp_path / "run").environment["attention"] == "buckets, dense"
