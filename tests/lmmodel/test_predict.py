"""What a trained model answers, and that stock transformers answers the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmmodel.asking import Pretrained, load_pretrained
from lmmodel.errors import CheckpointError, FitError, RunError
from lmmodel.predicting.mask_filling import encode_prompts, fill_mask, masked_logits
from lmmodel.trained import load_run

PROMPTS = ["the cat [MASK] the river at night.", "a [MASK] finds cold [MASK] every day."]


def test_guesses_are_sorted_sensible_and_in_place(trained):
    run = load_run(trained)
    answers = Pretrained(run).fill_mask(PROMPTS, top_k=5)
    assert [len(places) for places in answers] == [1, 2]
    first = answers[0][0]
    assert first[0].piece in {"sees", "likes", "finds", "follows", "paints", "forgets"}
    assert first[0].piece in first[0].text
    assert [filling.probability for filling in first] == sorted(
        (filling.probability for filling in first), reverse=True
    )


def test_batching_changes_nothing(trained):
    run = load_run(trained)
    together = Pretrained(run).fill_mask(PROMPTS)
    alone = [Pretrained(run).fill_mask(prompt)[0] for prompt in PROMPTS]
    for many, one in zip(together, alone, strict=True):
        for left, right in zip(many, one, strict=True):
            assert [f.piece for f in left] == [f.piece for f in right]
            assert left[0].probability == pytest.approx(right[0].probability, abs=1e-6)


def test_weights_are_prepared_once_and_again_when_they_change(trained):
    run = load_run(trained)
    before = fill_mask(run, PROMPTS)
    kept = run.prepared()
    assert fill_mask(run, PROMPTS) == before
    assert run.prepared() is kept
    assert run.prepared("bf16") is not kept
    with torch.no_grad():
        run.model.embeddings.tokens.weight[7:] *= 0.5
    assert run.prepared() is not kept
    assert fill_mask(run, PROMPTS) != before
    assert run.prompt_backend is run.prompt_backend


def test_logits_are_those_of_transformers_on_the_export(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    from lmmodel.handover.stock import export_model

    run = load_run(trained)
    export_model(run.model, run.tokenizer, tmp_path / "hf")
    theirs = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    encoded = encode_prompts(run, PROMPTS)
    for prompt, ids in zip(PROMPTS, encoded, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == ids.tolist()
        with torch.no_grad():
            logits = theirs(**inputs).prediction_logits[0]
        ours = masked_logits(run, [ids], [np.arange(len(ids))])[0]
        torch.testing.assert_close(ours, logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["the cat sees the river."], r"has no \[MASK\]: put it where a word is"),
        (["[MASK] " + "the cat " * 60], "tokens is longer than the model takes, 64"),
    ],
)
def test_a_prompt_that_can_not_be_answered_is_named(trained, texts, words):
    with pytest.raises(FitError, match=words):
        fill_mask(load_run(trained), texts)


def test_top_k_must_be_in_range(trained):
    with pytest.raises(ValueError, match=r"top_k must be in \[1, \d+\], got 0"):
        fill_mask(load_run(trained), PROMPTS, top_k=0)
    with pytest.raises(FitError, match=r"there are no 121 guesses, .* has only 120 pieces"):
        fill_mask(load_run(trained), PROMPTS, top_k=121)


def test_rows_that_no_piece_uses_are_no_guesses(make_untrained_run):
    run = make_untrained_run("model.vocab_size=320")  # as models are padded for speed
    size = run.tokenizer.vocab_size
    assert size < 320
    found = fill_mask(run, ["a [MASK]."], top_k=size)[0][0]
    assert sorted(filling.piece for filling in found) == sorted(run.tokenizer.pieces)
    assert sum(filling.probability for filling in found) == pytest.approx(1, abs=1e-5)


def test_a_causal_model_fills_no_masks(tiny, store, tmp_path):
    from lmmodel.trainer import train

    train(tiny("objective.name=clm", "budget.num_steps=1"), store, tmp_path / "run")
    with pytest.raises(FitError, match="objective clm, which fills in no masks"):
        load_pretrained(tmp_path / "run").fill_mask("a [MASK].")


def test_a_folder_without_a_run_or_weights_is_an_error(trained, tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    with pytest.raises(RunError, match=r"has no model.safetensors yet"):
        load_run(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match="a pickle is never opened"):
        load_run(tmp_path)
