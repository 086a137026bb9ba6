"""What a model thinks of a few held-out places, kept while it trains."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lmmodel.batch import make_batch
from lmmodel.data import open_data
from lmmodel.guesses import NUM_PLACES, choose_places, guess, make_prompts
from lmmodel.saving.metrics import read_metrics
from lmmodel.trained import load_run
from lmmodel.trainer import train


def places_of(run, store):
    config = run.record.config
    prompts = make_prompts(config, open_data(store))
    assert prompts is not None
    return prompts, guess(run.model, prompts, torch.device("cpu"))


def test_a_masked_model_is_asked_about_one_hidden_word_at_a_time(trained, store):
    run = load_run(trained, device="cpu")
    prompts, found = places_of(run, store)
    assert len(found) == NUM_PLACES
    mask = run.tokenizer.special_ids["mask"]
    assert prompts.batch.input_ids.eq(mask).sum() == NUM_PLACES
    for one in found:
        assert one.right.isalpha()
        assert one.probabilities == tuple(sorted(one.probabilities, reverse=True))
        assert one.rank >= len(one.pieces) or one.pieces[one.rank] == one.right
    assert np.median([one.rank for one in found]) < 8  # of 100 pieces; a place has six words


def test_guesses_are_those_of_each_text_alone(trained, store):
    run = load_run(trained, device="cpu")
    prompts, found = places_of(run, store)
    batch, ends = prompts.batch, prompts.batch.cu_seqlens.tolist()
    for one, (first, last) in zip(found, itertools.pairwise(ends), strict=True):
        alone = make_batch(
            batch.input_ids[first:last],
            torch.tensor([last - first]),
            token_type_ids=batch.token_type_ids[first:last],
        )
        with torch.no_grad():
            logits = run.model.lm_logits(run.model(alone))
        hidden = batch.input_ids[first:last].eq(run.tokenizer.special_ids["mask"])
        likely = logits[hidden][0, : run.tokenizer.vocab_size].softmax(0)
        assert one.probabilities == pytest.approx(likely.topk(5).values.tolist(), abs=1e-4)
        assert one.probability == pytest.approx(float(likely[prompts.labels[found.index(one)]]))


def test_a_causal_model_sees_only_what_comes_before(causal_run, store):
    run = load_run(causal_run, device="cpu")
    prompts, found = places_of(run, store)
    assert run.tokenizer.special_ids["mask"] not in prompts.batch.input_ids.tolist()
    ends = prompts.batch.cu_seqlens.tolist()
    ids = prompts.batch.input_ids.tolist()
    for place, label in zip(prompts.batch.masked_positions.tolist(), prompts.labels, strict=True):
        assert ids[place + 1] == label
        assert place + 1 not in ends  # in the same sequence
    assert any(one.rank < 5 for one in found)


def test_places_are_whole_words_of_rows_that_lie_apart(trained, store):
    run, data = load_run(trained, device="cpu"), open_data(store)
    recipe = run.objective.hold_out(run.record.config.recipe)
    examples = data.held_out(recipe, 64)
    chosen = choose_places(examples, data.tokenizer)
    assert len({row for row, _ in chosen}) == NUM_PLACES
    assert chosen[-1][0] - chosen[0][0] > 10
    assert choose_places(examples.take(np.arange(0)), data.tokenizer) == []


def test_each_evaluation_keeps_them_and_a_resumed_run_the_same(tiny, store, tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(tiny(), store, whole)
    train(tiny("budget.num_steps=4"), store, parted)
    kept = [entry["guesses"] for entry in read_metrics(whole / "metrics.jsonl")
            if "guesses" in entry]  # fmt: skip
    assert len(kept) == 2
    assert [len(places) for places in kept] == [NUM_PLACES, NUM_PLACES]
    assert [one["right"] for one in kept[0]] == [one["right"] for one in kept[1]]
    first = next(e["guesses"] for e in read_metrics(parted / "metrics.jsonl") if "guesses" in e)
    assert [one["before"] for one in first] == [one["before"] for one in kept[0]]


def test_memory_is_told_with_every_line(tiny, store, tmp_path):
    train(tiny(), store, tmp_path / "run")
    lines = [e for e in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in e]
    assert all(e["memory_bytes"] > 1_000_000 for e in lines)
