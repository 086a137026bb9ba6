"""Held-out figures: fixed masks, the unigram line, the same at every step and in every run."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest
import tokenizers
import torch

from lmdata.corpus import CorpusConfig, find_sources
from lmdata.dataset import open_store
from lmdata.settings import TokenizeConfig
from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmdata.tokens import tokenize_corpus
from lmmodel.data import open_data, piece_bytes
from lmmodel.device import Processes, resolve_device
from lmmodel.errors import CheckpointError, DivergedError, FitError, RunError
from lmmodel.evaluation import (
    evaluate,
    evaluate_run,
    evaluate_sources,
    make_held_out,
)
from lmmodel.inference import prepare
from lmmodel.model import make_model
from lmmodel.objectives.terms import per_byte, score_labels, unigram_cross_entropy
from lmmodel.saving.checkpoint import load_tensors, save_tensors
from lmmodel.saving.metrics import read_metrics
from lmmodel.trainer import train
from lmmodel.training.plan import resolve_config

CPU = torch.device("cpu")


def held_out_of(config, path, num_examples=24):
    data = open_data(path)
    resolved = resolve_config(config, data, resolve_device("cpu"), Processes())
    return resolved, make_held_out(resolved, data, num_examples=num_examples)


def figures_of(evaluation):
    return {name: value for name, value in evaluation.figures().items() if value is not None}


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
            num_bytes += int(held_out.vocabulary.piece_bytes[label])
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


def test_sitting_on_the_line_is_said_once_while_training(tiny, store, tmp_path, monkeypatch):
    monkeypatch.setattr("lmmodel.diagnosing.UNIGRAM_MARGIN", 9.0)
    reports = []
    config = tiny("evaluation.every_steps=1", "logging.every_steps=1")
    summary = train(config, store, tmp_path / "run", progress=reports.append)
    said = [report for report in reports if report.message is not None]
    assert [report.step for report in said] == [2]
    assert "on the unigram line since step 1" in said[0].message
    logged = [e["message"] for e in read_metrics(tmp_path / "run/metrics.jsonl") if "message" in e]
    assert list(summary.notes[:-1]) == logged == [said[0].message]
    assert summary.notes[-1].endswith("--family modern")


def test_causal_models_have_a_perplexity(tiny, store, tmp_path):
    config = tiny("objective.name=clm", "model.family=gpt2")
    found = train(config, store, tmp_path / "run").evaluation
    assert found is not None
    assert found.perplexity == pytest.approx(np.exp(found.loss))


def test_the_unigram_line_is_the_entropy_of_the_smoothed_training_counts():
    counts, special = np.array([50, 7, 0, 1]), np.array([True, False, False, False])
    probabilities = np.array([0, 8, 1, 2]) / 11
    labels = np.array([1, 1, 3, 2])
    expected = -np.log(probabilities[labels]).mean()
    assert unigram_cross_entropy(labels, counts, special) == pytest.approx(expected)


def test_the_line_guesses_ends_of_text_as_often_as_there_are():
    counts, special = np.array([0, 7, 0, 1]), np.array([True, False, False, False])
    probabilities = np.array([0, 8, 1, 2]) / 11
    labels = np.array([1, 1, 3, 2, 0])
    costs = [*-np.log(0.8 * probabilities[labels[:4]]), -np.log(0.2)]
    assert unigram_cross_entropy(labels, counts, special) == pytest.approx(np.mean(costs))
    assert unigram_cross_entropy(np.array([0, 0]), counts, special) < 3


def test_pieces_count_the_bytes_of_text_they_stand_for(store):
    tokenizer = load_tokenizer(store / "tokenizer")
    sizes, special = piece_bytes(tokenizer), tokenizer.is_special
    assert 0 < special.sum() < len(special)
    for index, piece in enumerate(tokenizer.pieces):
        expected = 0 if special[index] else len(piece.removeprefix("##").encode())
        assert sizes[index] == expected


def test_a_piece_of_one_byte_counts_as_one():
    pieces = {"</s>": 0, "<0xE2>": 1, "\u2581the": 2, "<0xe2>": 3, "\u00e9": 4}
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=pieces, merges=[], byte_fallback=True, fuse_unk=True)
    )
    backend.add_special_tokens(["</s>"])
    assert piece_bytes(Tokenizer(backend)).tolist() == [0, 1, 4, 6, 2]


def test_labels_without_text_have_a_loss_still():
    assert per_byte(np.array([4.0, 2.0]), np.array([0, 0])) == 3.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_have_no_figures(tiny, store, value):
    config, held_out = held_out_of(tiny(), store)
    model = make_model(config.model, seed=4)
    model.layers[1].mlp.output.weight.data[3, 5] = value
    with pytest.raises(DivergedError, match=r"the held-out loss is (nan|inf): .* not finite"):
        evaluate(model, held_out, CPU)


@pytest.mark.parametrize("objective", ["mlm", "clm", "hybrid"])
def test_logits_in_parts_score_as_all_at_once(tiny, store, monkeypatch, objective):
    overrides = (f"objective.name={objective}", "recipe.view=packed")
    config, held_out = held_out_of(tiny(*overrides), store)
    model = make_model(config.model, seed=4)
    whole = figures_of(evaluate(model, held_out, CPU))
    monkeypatch.setattr("lmmodel.inference.CPU_CHUNK", 3 * config.model.vocab_size)
    parts = figures_of(evaluate(model, held_out, CPU))
    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("is_prepared", [False, True])
def test_ranks_are_those_of_float32_whatever_layers_compute_in(tiny, store, is_prepared):
    config, _ = held_out_of(tiny(), store)
    model = make_model(config.model, seed=4).eval()
    model.embeddings.tokens.weight.data[1:40] = model.embeddings.tokens.weight.data[0] + 1e-3
    hidden = torch.randn(200, config.model.hidden_size, generator=torch.Generator().manual_seed(1))
    hidden, labels = hidden.bfloat16(), torch.arange(200) % 40
    with torch.no_grad():
        exact = model.lm_logits(hidden.float())
        model.compute_dtype = torch.bfloat16
        rough = model.lm_logits(hidden).float()
        _, ranks = score_labels(prepare(model, "bf16") if is_prepared else model, hidden, labels)
    right, rough_right = (logits.gather(1, labels[:, None]) for logits in (exact, rough))
    assert ranks.tolist() == (exact > right).sum(1).tolist()
    assert (rough == rough_right).sum() > 200  # in bf16 others are as likely as the right one


def test_held_out_batches_suit_the_device_evaluated_on(tiny, store, monkeypatch):
    monkeypatch.setattr("lmmodel.evaluation.MAX_TOKENS", 128)
    config = tiny("batch.micro_batch_tokens=65536")  # as on a card
    resolved, held_out = held_out_of(config, store)
    most = max(micro.batch.num_tokens for micro in held_out.micro_batches)
    assert most <= 128 < resolved.batch.micro_batch_tokens


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


def test_figures_by_source_add_up_and_name_the_files(trained, two_file_store):
    found = evaluate_sources(trained, two_file_store, split="train", num_examples=400)
    assert {source.source for source in found.sources} == {"left.txt", "right.txt"}
    assert sum(source.num_labels for source in found.sources) == found.total.num_labels
    mean = sum(source.num_labels * source.loss for source in found.sources) / found.total.num_labels
    assert mean == pytest.approx(found.total.loss, rel=1e-6)
    by_name = {source.source: source for source in found.sources}
    assert found.sources[0].source == "right.txt"  # scrambled
    assert by_name["right.txt"].loss > by_name["left.txt"].loss + 1
    assert by_name["left.txt"].accuracy > by_name["right.txt"].accuracy
    assert by_name["left.txt"].num_documents == 12


@pytest.mark.parametrize("objective", ["mlm", "clm", "hybrid"])
def test_rows_of_one_document_serve_where_training_packs_several(
    make_untrained_run, two_file_store, monkeypatch, objective
):
    run = make_untrained_run(f"objective.name={objective}")
    monkeypatch.setattr("lmmodel.evaluation.load_run", lambda *_, **__: run)
    found = evaluate_sources(run.path, two_file_store, split="train", num_examples=400)
    assert sorted(source.num_documents for source in found.sources) == [12, 12]


def test_frozen_examples_do_not_say_where_they_come_from(trained, shards):
    with pytest.raises(FitError, match="evaluate by source on the token store"):
        evaluate_sources(trained, shards)


def test_each_label_knows_its_document(tiny, store):
    for overrides in ((), ("objective.name=mlm", "recipe.view=single")):
        _, held_out = held_out_of(tiny(*overrides), store)
        opened = open_store(store, "validation")
        labels = np.concatenate([m.batch.masked_labels.numpy() for m in held_out.micro_batches])
        for document, label in zip(held_out.documents.tolist(), labels.tolist(), strict=True):
            assert label in opened.document(document)[0]


@pytest.fixture(scope="module")
def two_file_store(store, tmp_path_factory):
    """A file in the language of the store and one with its words in disorder, 12 documents each."""
    folder = tmp_path_factory.mktemp("two")
    text = (store.parent / "corpus.txt").read_text().split("\n\n")[:12]
    (folder / "left.txt").write_text("\n\n".join(text))
    scrambled = [" ".join(sorted(document.split(), key=hash_of)) for document in text]
    (folder / "right.txt").write_text("\n\n".join(scrambled))
    config = CorpusConfig(documents="blank-line")
    plan = TokenizeConfig(corpus=config, sentences="lines", validation_ratio=0.0)
    tokenizer = load_tokenizer(store / "tokenizer")
    sources = find_sources([str(folder)], config)
    tokenize_corpus(sources, plan, tokenizer, folder / "tokens", num_workers=1)
    return folder / "tokens"


def hash_of(word):
    return zlib.crc32(word.encode())


def test_a_run_with_a_weight_that_is_no_number_is_not_opened(tiny, store, tmp_path):
    run = tmp_path / "run"
    train(tiny("budget.num_steps=1"), store, run)
    weights = load_tensors(run / "model.safetensors")
    weights["layers.0.mlp.input.weight"][2, 3] = float("nan")
    save_tensors(run / "model.safetensors", weights)
    with pytest.raises(CheckpointError, match=r"layers.0.mlp.input.weight holds .* no numbers"):
        evaluate_run(run, store)
