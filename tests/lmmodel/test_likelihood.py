"""Log-likelihoods: those of a plain loop over transformers, whatever the batches and windows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from lmmodel import inference
from lmmodel.asking import Pretrained, load_pretrained
from lmmodel.batch import make_batch
from lmmodel.errors import FitError
from lmmodel.families import ModelConfig
from lmmodel.handover.stock import export_model
from lmmodel.inference import map_batches, prepare
from lmmodel.model import make_model
from lmmodel.predicting.likelihood import log_likelihoods
from lmmodel.texts import cut_windows
from lmmodel.trained import load_run

CPU = torch.device("cpu")
TEXTS = [
    "the cat sees the river.", "a dog", "the cat likes the river.", "my friend forgets",
    "one bird paints green apples without a word. one bird paints a story.", "a dog",
]  # fmt: skip


def ids_of(run, text):
    return run.tokenizer.backend.encode(text, add_special_tokens=False).ids


def plain_pseudo_log_likelihood(theirs, run, text):
    """One masked copy at a time, through stock transformers."""
    cls, sep, mask = (run.tokenizer.require_special(name) for name in ("cls", "sep", "mask"))
    ids, total = torch.tensor([[cls, *ids_of(run, text), sep]]), 0.0
    for place in range(1, ids.shape[1] - 1):
        masked = ids.clone()
        masked[0, place] = mask
        with torch.no_grad():
            output = theirs(input_ids=masked)
        logits = output.prediction_logits if "prediction_logits" in output else output.logits
        total += logits[0, place].log_softmax(0)[ids[0, place]].item()
    return total


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (("objective.name=mlm+nsp", "model.has_nsp_head=true"), "BertForPreTraining"),
        (("objective.name=mlm",), "BertForMaskedLM"),
        (("objective.name=mlm", "model.family=modern"), "ModernBertForMaskedLM"),
    ],
)
def test_masked_models_score_as_a_plain_loop_over_transformers(
    make_untrained_run, tmp_path, overrides, name
):
    transformers = pytest.importorskip("transformers")
    run = make_untrained_run(*overrides)
    export_model(run.model, run.tokenizer, tmp_path / "hf")
    theirs = getattr(transformers, name).from_pretrained(tmp_path / "hf").eval()
    found = log_likelihoods(run, TEXTS)
    expected = [plain_pseudo_log_likelihood(theirs, run, text) for text in TEXTS]
    np.testing.assert_allclose(found.total, expected, rtol=1e-5)
    assert found.num_tokens.tolist() == [len(ids_of(run, text)) for text in TEXTS]
    assert found.num_bytes.tolist() == [len(text) for text in TEXTS]
    assert found.num_windowed == 0


def test_causal_models_score_as_transformers(causal_run, tmp_path):
    transformers = pytest.importorskip("transformers")
    run = load_run(causal_run)
    export_model(run.model, run.tokenizer, tmp_path / "hf")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    found, begun = log_likelihoods(run, TEXTS), log_likelihoods(run, TEXTS, start_token="[SEP]")
    start = run.tokenizer.require_special("sep")
    for index, text in enumerate(TEXTS):
        for ours, before in ((found, []), (begun, [start])):
            ids = torch.tensor([[*before, *ids_of(run, text)]])
            with torch.no_grad():
                loss = theirs(input_ids=ids, labels=ids).loss.item()
            assert ours.num_tokens[index] == ids.shape[1] - 1
            assert ours.total[index] == pytest.approx(-loss * (ids.shape[1] - 1), rel=1e-5)


def test_a_trained_model_prefers_its_own_language(trained, causal_run):
    for path in (trained, causal_run):
        model = load_pretrained(path)
        good, bad = model.score(["the cat sees the river.", "river the. sees cat the"]).per_token
        assert good > bad + 1
        per_byte = model.score("the cat sees the river.").per_byte[0]
        assert per_byte == pytest.approx(
            model.score("the cat sees the river.").total[0] / len("the cat sees the river.")
        )


def test_a_text_of_one_token_has_nothing_to_score_without_a_start(causal_run):
    found = log_likelihoods(load_run(causal_run), ["the", "the cat"])
    assert found.num_tokens.tolist() == [0, 1]
    assert found.total[0] == 0
    assert np.isnan(found.per_token[0])


@pytest.mark.parametrize("which", ["trained", "causal_run"])
def test_batches_and_threads_change_nothing(which, request, monkeypatch):
    run = load_run(request.getfixturevalue(which))
    expected = log_likelihoods(run, TEXTS).total
    alone = np.concatenate([log_likelihoods(run, [text]).total for text in TEXTS])
    monkeypatch.setattr(inference, "CPU_BATCH_TOKENS", 9)
    torch.set_num_threads(2)
    small = log_likelihoods(run, TEXTS).total
    assert torch.get_num_threads() == 2
    for other in (alone, small):
        np.testing.assert_allclose(other, expected, rtol=1e-5)


@pytest.mark.parametrize("which", ["trained", "causal_run"])
def test_longer_texts_are_windows_that_overlap_by_half(which, request):
    run = load_run(request.getfixturevalue(which))
    most = 64 - (0 if run.is_causal else 2)
    half = most // 2
    text = " ".join(TEXTS)
    ids = ids_of(run, text)
    assert 2 * most > len(ids) > most
    found = log_likelihoods(run, [text, "a dog"])
    assert found.num_windowed == 1
    assert found.num_tokens[0] == len(ids) - run.is_causal
    assert found.total[0] == pytest.approx(
        sum(score_of_ids(run, ids[start : start + most], first)
            for start, first in ((0, 0), (most - half, half))), rel=1e-4,
    )  # fmt: skip


def score_of_ids(run, ids, first):
    """Score the tokens from `first` on, by the definition."""
    total = 0.0
    frame = [] if run.is_causal else [run.tokenizer.require_special("cls")]
    after = [] if run.is_causal else [run.tokenizer.require_special("sep")]
    for place in range(max(first, int(run.is_causal)), len(ids)):
        seen = [*frame, *ids, *after]
        if not run.is_causal:
            seen[place + 1] = run.tokenizer.require_special("mask")
        with torch.no_grad():
            batch = make_batch(torch.tensor(seen), torch.tensor([len(seen)]))
            hidden = run.model(batch, is_causal=run.is_causal)
            row = place - 1 if run.is_causal else place + 1
            logits = run.model.lm_logits(hidden[row : row + 1])[0]
        total += logits.log_softmax(0)[ids[place]].item()
    return total


def test_equal_copies_are_computed_once(trained, monkeypatch):
    run, rows = load_run(trained), []
    monkeypatch.setattr(
        "lmmodel.predicting.likelihood.map_batches",
        lambda function, jobs, device: map_batches(
            function, (rows.append(len(job.rows)) or job for job in jobs), device
        ),
    )
    texts = ["the cat sees the river.", "the cat sees a river."]
    num_tokens = [len(ids_of(run, text)) for text in texts]
    assert num_tokens[0] == num_tokens[1]
    log_likelihoods(run, [*texts, texts[0]])
    assert sum(rows) == 2 * num_tokens[0] - 1


@pytest.mark.parametrize("which", ["trained", "causal_run"])
def test_bf16_is_close(which, request):
    run = load_run(request.getfixturevalue(which))
    exact, fast = (log_likelihoods(run, TEXTS, precision=p).total for p in ("fp32", "bf16"))
    assert 0 < np.abs(exact - fast).max() < 0.2


def test_special_tokens_spelled_out_are_text(trained):
    found = load_pretrained(trained).score(["a [MASK] dog"])
    assert np.isfinite(found.total).all()
    assert found.num_tokens[0] > 3


def test_progress_counts_every_token(trained):
    run, seen = load_run(trained), []
    log_likelihoods(run, TEXTS, progress=lambda done, total: seen.append((done, total)))
    total = sum(len(ids_of(run, text)) for text in TEXTS)
    assert seen[-1] == (total, total)


def test_what_can_not_be_scored_is_a_clear_error(trained, causal_run):
    run = load_run(causal_run)
    with pytest.raises(FitError, match=r"text 2 of 2 has no token in it: '  '; leave it out"):
        Pretrained(run).score(["the cat", "  "])
    with pytest.raises(FitError, match="it takes no start token"):
        log_likelihoods(load_run(trained), ["a"], start_token="[SEP]")
    with pytest.raises(FitError, match=r"'<x>' is no piece of the tokenizer of"):
        log_likelihoods(run, ["a"], start_token="<x>")


def test_a_model_too_short_for_a_frame_and_a_token_is_refused(make_untrained_run):
    run = make_untrained_run("objective.name=mlm")
    short = ModelConfig(vocab_size=run.model.config.vocab_size, max_position_embeddings=3)
    run = dataclasses.replace(run, model=make_model(short, seed=0).eval())
    with pytest.raises(FitError, match="the model takes 3 tokens: too few for any text"):
        Pretrained(run).score("a")


@pytest.mark.parametrize("overlap", [0, 1, 2])
@pytest.mark.parametrize("most", [4, 5])
def test_every_token_counts_in_one_window_no_longer_than_allowed(most, overlap):
    lengths = np.array([1, 4, 5, 0, 23])
    windows = cut_windows(lengths, np.full(5, most), overlap)
    begins = (np.cumsum(lengths) - lengths)[windows.sequence]
    stops = windows.starts + windows.lengths
    counted = [
        begin + np.arange(*pair)
        for begin, *pair in zip(begins, windows.new_starts, stops, strict=True)
    ]
    full = [own for own in counted if len(own)]
    assert np.array_equal(np.sort(np.concatenate(full)), np.arange(lengths.sum()))
    assert windows.lengths.max() <= most
    assert (windows.starts >= 0).all()
    assert (stops <= lengths[windows.sequence]).all()
    assert windows.num_cut == (2 if most == 4 else 1)


def test_a_prepared_model_gives_the_same_numbers_and_leaves_the_first_as_it_was(
    make_untrained_run,
):
    batch = make_batch(torch.arange(5, 18), torch.tensor([6, 7]))
    for overrides in (("model.family=modern",), ("model.family=gpt2", "objective.name=clm")):
        model = make_untrained_run(*overrides).model
        names = list(model.state_dict())
        with torch.inference_mode():
            expected = model.lm_logits(model(batch))
            twin = prepare(model)
            torch.testing.assert_close(twin.lm_logits(twin(batch)), expected, rtol=0, atol=1e-4)
            assert torch.equal(model.lm_logits(model(batch)), expected)
        assert list(model.state_dict()) == names


def test_an_error_in_a_thread_is_raised_and_threads_are_given_back():
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        list(map_batches(lambda n: 1 // n, [3, 2, 1, 0, 1, 2], CPU))
    assert torch.get_num_threads() == 2
    assert list(map_batches(lambda n: n * n, range(40), CPU)) == [n * n for n in range(40)]


def test_a_byte_is_one_of_utf8(trained):
    found = log_likelihoods(load_run(trained), ["a dog", "über"])
    assert found.num_bytes.tolist() == [5, 5]
