"""Held-out figures: fixed masks, the unigram line, the same at every step and in every run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lmdata.tokenizer import load_tokenizer
from lmmodel.data import open_data
from lmmodel.device import Processes, resolve_device
from lmmodel.errors import FitError, RunError
from lmmodel.evaluation import (
    evaluate,
    evaluate_run,
    make_held_out,
    piece_bytes,
    unigram_cross_entropy,
)
from lmmodel.metrics import read_metrics
from lmmodel.model import make_model
from lmmodel.plan import resolve_config
from lmmodel.trainer import train

CPU = torch.device("cpu")


def held_out_of(config, path, num_examples=24):
    data = open_data(path)
    resolved = resolve_config(config, data, resolve_device("cpu"), Processes())
    return resolved, make_held_out(resolved, data, num_examples=num_examples)


def test_masks_do_not_depend_on_seed_rate_or_micro_batches(tiny, store):
    variants = [(), ("seed=9",), ("recipe.mlm_probability=0.4",), ("batch.micro_batch_tokens=50",)]
    labels = [
        np.concatenate([m.batch.masked_labels.numpy() for m in held_out.micro_batches])
        for held_out in (held_out_of(tiny(*overrides), store)[1] for overrides in variants)
    ]
    assert all(np.array_equal(labels[0], other) for other in labels[1:])


def test_figures_are_those_of_a_plain_loop(tiny, store):
    config, held_out = held_out_of(tiny(), store)
    model = make_model(config.model, seed=4)
    found = evaluate(model, held_out, CPU)
    losses, hits, top, num_bytes = [], [], [], 0
    for micro in held_out.micro_batches:
        logits = model.lm_logits(model(micro.batch)[micro.batch.masked_positions])
        for row, label in zip(logits, micro.batch.masked_labels.tolist(), strict=True):
            losses.append(-row.log_softmax(0)[label].item())
            hits.append(int(row.argmax()) == label)
            top.append(label in row.topk(5).indices.tolist())
            num_bytes += int(held_out.piece_bytes[label])
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.nats_per_byte == pytest.approx(np.sum(losses) / num_bytes, rel=1e-5)
    assert (found.accuracy, found.top5_accuracy) == (np.mean(hits), np.mean(top))
    assert found.num_labels == len(losses)


def test_a_model_keeps_its_mode(tiny, store):
    config, held_out = held_out_of(tiny("model.dropout=0.5"), store)
    model = make_model(config.model, seed=4).train()
    assert evaluate(model, held_out, CPU) == evaluate(model, held_out, CPU)
    assert model.training


def test_a_trained_model_is_far_below_the_unigram_line(trained):
    found = evaluate_run(trained)
    assert found.unigram_loss is not None
    assert found.loss < found.unigram_loss - 0.5
    assert not found.is_at_unigram
    assert found.top5_accuracy > found.accuracy > 0.2
    assert found.pair_accuracy is not None


def test_evaluating_a_run_repeats_what_training_logged(trained, store):
    logged = [e for e in read_metrics(trained / "metrics.jsonl") if "validation_loss" in e][-1]
    found = evaluate_run(trained, store, num_examples=64)
    assert found.loss == pytest.approx(logged["validation_loss"], abs=1e-6)


def test_shards_can_be_evaluated_on(trained, shards, store):
    from lmdata.examples import write_examples
    from lmdata.recipes import Recipe

    assert evaluate_run(trained, shards).num_examples > 0
    other = shards.with_name("single")
    write_examples(store, Recipe(view="single", max_seq_length=32), other, seed=0, num_workers=1)
    found = evaluate_run(trained, other)
    assert found.pair_accuracy is None


def test_training_that_sits_on_the_unigram_line_is_told_so(tiny, store, tmp_path):
    summary = train(tiny("optimizer.lr=1e-6"), store, tmp_path / "run")
    assert summary.evaluation is not None
    assert summary.evaluation.is_at_unigram
    assert any("no better than guessing by frequency" in note for note in summary.notes)


def test_causal_models_have_a_perplexity(tiny, store, tmp_path):
    config = tiny("objective.name=clm", "model.family=gpt2")
    found = train(config, store, tmp_path / "run").evaluation
    assert found is not None
    assert found.perplexity == pytest.approx(np.exp(found.loss))


def test_the_unigram_line_is_the_entropy_of_the_smoothed_training_counts():
    counts, special = np.array([50, 7, 0, 1]), np.array([True, False, False, False])
    probabilities = np.array([0, 8, 1, 2]) / 11
    labels = np.array([1, 1, 3, 2, 0])
    expected = -np.log(probabilities[labels[:4]]).mean()
    assert unigram_cross_entropy(labels, counts, special) == pytest.approx(expected)


def test_pieces_count_the_bytes_of_text_they_stand_for(store):
    tokenizer = load_tokenizer(store / "tokenizer")
    sizes = piece_bytes(tokenizer)
    for index, piece in enumerate(tokenizer.pieces):
        assert sizes[index] == len(piece.removeprefix("##").encode())


def test_data_of_another_tokenizer_is_refused(trained, other_store):
    with pytest.raises(FitError, match="was made with tokenizer"):
        evaluate_run(trained, other_store)


def test_there_must_be_a_run_to_evaluate(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        evaluate_run(tmp_path)


def test_a_missing_validation_split_is_a_clear_error(tiny, store):
    data = open_data(store)
    splits = {"train": data.manifest.splits["train"]}
    lonely = dataclasses.replace(data, manifest=dataclasses.replace(data.manifest, splits=splits))
    resolved = resolve_config(tiny(), data, resolve_device("cpu"), Processes())
    with pytest.raises(
        FitError, match=r"split validation of .* is empty .*evaluation.num_examples=0"
    ):
        make_held_out(resolved, lonely, num_examples=5)
