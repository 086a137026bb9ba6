"""Generation: greedy is what transformers does, sampling follows seed and settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmmodel.asking import Pretrained, load_pretrained
from lmmodel.errors import FitError
from lmmodel.handover.stock import export_model
from lmmodel.predicting.generation import GenerationConfig, generate, sample
from lmmodel.trained import load_run

PROMPTS = ["the cat sees", "my", "one bird likes the river at night. one bird"]


def greedy_ids_by_the_whole_text(run, prompt, num_tokens):
    """Read everything again for each new token."""
    from lmmodel.batch import make_batch

    ids = run.tokenizer.backend.encode(prompt, add_special_tokens=False).ids
    ids = ids if run.is_causal else [run.tokenizer.require_special("cls"), *ids]
    start = len(ids)
    for _ in range(num_tokens):
        batch = make_batch(torch.tensor(ids), torch.tensor([len(ids)]))
        hidden = run.model(batch, is_causal=True)
        ids.append(int(run.model.lm_logits(hidden[-1:]).argmax()))
    return ids[start:]


def test_greedy_is_that_of_transformers_token_by_token(causal_run, tmp_path):
    transformers = pytest.importorskip("transformers")
    run = load_run(causal_run)
    export_model(run.model, run.tokenizer, tmp_path / "hf")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    found = generate(run, PROMPTS, GenerationConfig(max_new_tokens=40, temperature=0))
    end = run.tokenizer.special_ids["eos"]
    for prompt, ours in zip(PROMPTS, found, strict=True):
        ids = run.tokenizer.backend.encode(prompt, add_special_tokens=False).ids
        expected = theirs.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            do_sample=False, max_new_tokens=min(40, 64 - len(ids)), eos_token_id=end,
            pad_token_id=end,
        )[0, len(ids) :].tolist()  # fmt: skip
        assert ours.ids == [token for token in expected if token != end]
        assert (ours.stopped_by == "end of text") == (end in expected)


@pytest.mark.parametrize("family", ["bert", "modern"])
def test_remembering_changes_nothing_in_other_families(make_untrained_run, family):
    run = make_untrained_run(
        f"model.family={family}", "objective.name=clm", "model.local_window=6",
        "model.global_every=2",
    )  # fmt: skip
    found = Pretrained(run).generate(PROMPTS, max_new_tokens=12, temperature=0)
    for prompt, ours in zip(PROMPTS, found, strict=True):
        expected = greedy_ids_by_the_whole_text(run, prompt, 12)
        assert ours.ids == expected[: len(ours.ids)]


def test_a_hybrid_model_begins_with_the_token_its_rows_began_with(make_untrained_run):
    run = make_untrained_run("objective.name=hybrid")
    found = Pretrained(run).generate("the cat", max_new_tokens=8, temperature=0)[0]
    assert found.ids == greedy_ids_by_the_whole_text(run, "the cat", 8)[: len(found.ids)]


def test_a_seed_decides_whatever_the_prompts_beside(causal_run):
    run = load_run(causal_run)
    config = GenerationConfig(max_new_tokens=20, seed=3)
    first = generate(run, PROMPTS, config)
    assert generate(run, PROMPTS, config) == first
    assert generate(run, [PROMPTS[0], "a dog"], config)[0] == first[0]
    other = generate(run, PROMPTS, GenerationConfig(max_new_tokens=20, seed=4))
    assert [g.ids for g in other] != [g.ids for g in first]
    assert generate(run, [PROMPTS[0]] * 2, config)[0].ids != first[1].ids


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.6}, {"top_k": 9, "top_p": 0.8}]
)
def test_draws_follow_the_distribution_that_transformers_warps(settings):
    process = pytest.importorskip("transformers.generation.logits_process")
    torch.manual_seed(1)
    logits = torch.randn(1, 23) * 2
    expected = logits
    if "temperature" in settings:
        expected = process.TemperatureLogitsWarper(settings["temperature"])(None, expected)
    if "top_k" in settings:
        expected = process.TopKLogitsWarper(settings["top_k"])(None, expected)
    if "top_p" in settings:
        expected = process.TopPLogitsWarper(settings["top_p"])(None, expected)
    num_points = 20_000
    points = (torch.arange(num_points, dtype=torch.float64) + 0.5) / num_points
    drawn = sample(logits.expand(num_points, -1), points, GenerationConfig(**settings))
    shares = torch.bincount(drawn, minlength=23) / num_points
    torch.testing.assert_close(shares, expected.softmax(1)[0], rtol=0, atol=2e-4)


def test_a_full_model_stops_and_says_so(causal_run):
    run = load_run(causal_run)
    prompt = "the cat sees the river at night. " * 6
    config = GenerationConfig(max_new_tokens=500, temperature=1.0, seed=1)
    found = [g for g in generate(run, [prompt] * 20, config) if g.stopped_by != "end of text"]
    length = len(run.tokenizer.backend.encode(prompt, add_special_tokens=False).ids)
    assert found
    assert {(g.stopped_by, len(g.ids)) for g in found} == {("model full", 64 - length)}


def test_text_is_prompt_and_continuation(causal_run):
    run = load_run(causal_run)
    found = Pretrained(run).generate("the cat", max_new_tokens=1, temperature=0)[0]
    assert found.stopped_by == "max_new_tokens"
    assert len(found.ids) == 1
    assert found.text == f"the cat {found.continuation}"


def test_what_can_not_be_gone_on_with_is_a_clear_error(causal_run, trained):
    run = load_run(causal_run)
    with pytest.raises(FitError, match=r"objective mlm\+nsp, which does not tell what comes next"):
        load_pretrained(trained).generate("the cat")
    with pytest.raises(FitError, match=r"leaves no room: the model takes 64 in all"):
        Pretrained(run).generate("the cat " * 40)
    with pytest.raises(FitError, match=r"text 2 of 2 has no token in it: ''"):
        Pretrained(run).generate(["the cat", ""])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be at least 0, got -1"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"temperature": 0, "top_k": 3}, "top_k and top_p have no effect"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        GenerationConfig(**settings)


def test_no_prompts_give_no_texts(causal_run):
    assert load_pretrained(causal_run).generate([]) == []
    assert np.array(load_pretrained(causal_run).score([]).total).shape == (0,)
