"""Runs broken on purpose are each named, sound ones are not."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import lmmodel.objectives.tokens as tokens
from lmdata.batch import ExampleBatch
from lmdata.corpus import CorpusConfig, find_sources
from lmdata.settings import TokenizeConfig
from lmdata.tokenizer import load_tokenizer
from lmdata.tokens import tokenize_corpus
from lmmodel.config import load_train_config
from lmmodel.data import StoreRows
from lmmodel.diagnosing import examine, on_line_since
from lmmodel.doctor import Diagnosis, diagnose, pairs_are_told_by_length, told_by
from lmmodel.errors import DivergedError
from lmmodel.objectives import OBJECTIVES
from lmmodel.objectives.objective import Part
from lmmodel.trainer import train
from tests.lmmodel.conftest import TINY

# Long enough to come below the unigram line, and to have a curve.
SOUND = (
    *TINY, "budget.num_steps=120", "optimizer.name=muon", "optimizer.lr=4e-3", "batch.size=16",
    "batch.micro_batch_tokens=512", "evaluation.num_examples=48", "evaluation.every_steps=20",
    "checkpoint.every_steps=120", "logging.every_steps=5",
)  # fmt: skip


def run(store: Path, folder: Path, *overrides: str) -> Diagnosis:
    torch.set_num_threads(1)
    train(load_train_config(None, [*SOUND, *overrides]), store, folder)
    return diagnose(folder)


def names(found: Diagnosis) -> set[str]:
    return {finding.name for finding in found.findings}


def evaluated(losses: list[float], *, line: float = 7.0) -> list[dict[str, float]]:
    return [{"step": 10 * n, "validation_loss": loss, "validation_unigram_loss": line}
            for n, loss in enumerate(losses, start=1)]  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "since"),
    [
        ([9.7, 9.7, 9.6], None),  # warming up, far above the line
        ([9.7, 7.04, 6.2], None),  # crossed it
        ([9.7, 7.04, 6.99, 6.97], 20),
        ([7.0, 8.0, 7.0], 30),
        ([], None),
    ],
)
def test_a_loss_sits_on_the_unigram_line_while_it_is_near_it(losses, since):
    entries = [{"step": 1, "loss": 9.0}, *evaluated(losses), {"step": 99, "message": "x"}]
    assert on_line_since(entries, 0.05) == since


# ---- Sound runs

SOUND_RUNS = [
    (), ("seed=1",), ("seed=2",), ("objective.name=mlm",), ("objective.name=mlm+sop",),
    ("objective.name=mlm", "recipe.view=single"), ("objective.name=clm", "model.family=gpt2"),
    ("objective.name=clm", "model.family=gpt2", "seed=1"), ("objective.name=hybrid",),
    ("model.family=modern", "objective.name=mlm"),
    ("optimizer.name=adamw", "optimizer.lr=5e-3", "budget.num_steps=200", "seed=3"),
    ("optimizer.name=adamw", "optimizer.lr=5e-3", "budget.num_steps=200"),
    ("optimizer.lr=2e-3",), ("optimizer.lr=8e-3",), ("batch.size=32",), ("batch.size=8",),
    ("recipe.mlm_probability=0.3",), ("schedule.warmup_ratio=0.3",), ("max_grad_norm=0.5",),
    ("budget.num_steps=40", "evaluation.every_steps=10"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("overrides", SOUND_RUNS, ids=" ".join)
def test_a_sound_run_is_found_sound(overrides: tuple[str, ...], store: Path, tmp_path: Path):
    found = run(store, tmp_path / "run", *overrides)
    assert not found.findings, found.findings
    assert not found.notes


# ---- Broken runs


def with_labels(monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    """Have a causal model learn the token at another place."""

    def label(examples: ExampleBatch) -> ExampleBatch:
        labelled = causal_labels(examples)
        flat = labelled.flat_masked_positions()
        places = np.clip(flat + 1 + shift, 0, len(labelled.input_ids) - 1)
        return labelled.replace(masked_labels=labelled.input_ids[places])

    causal_labels = tokens.next_token_labels
    monkeypatch.setattr(tokens, "next_token_labels", label)


def with_masked_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a masked model learn the token behind the masked one."""

    def label(examples: ExampleBatch) -> ExampleBatch:
        flat, ids = examples.flat_masked_positions(), examples.original_ids()
        return examples.replace(masked_labels=ids[np.minimum(flat + 1, len(ids) - 1)])

    def parts(config: object, pair: str | None = None) -> tuple[Part, ...]:
        from lmmodel.objectives.terms import TokenTerm

        return (Part(terms=(TokenTerm("mlm"),), is_of_masks=True, label=label),)

    broken = dataclasses.replace(tokens.MLM, make_parts=parts)
    monkeypatch.setitem(OBJECTIVES, "mlm", broken)


@pytest.mark.slow
def test_a_rate_that_is_too_high_is_named(store: Path, tmp_path: Path):
    with contextlib.suppress(DivergedError):
        run(
            store, tmp_path / "run", "optimizer.name=adamw", "optimizer.lr=1", "skip_bad_steps=true"
        )
    assert "rate-too-high" in names(diagnose(tmp_path / "run"))


def test_a_loss_that_rises_again_is_named():
    falls = [{"step": 10 * n, "lm_loss": 8 - n / 5} for n in range(1, 20)]
    assert not examine(falls, 400)
    rises = [{"step": 200 + 10 * n, "lm_loss": 4.2 + n / 4} for n in range(1, 12)]
    assert [finding.name for finding in examine([*falls, *rises], 400)] == ["rate-too-high"]


@pytest.mark.slow
def test_a_rate_that_is_too_low_is_named(store: Path, tmp_path: Path):
    found = run(store, tmp_path / "run", "optimizer.name=adamw", "optimizer.lr=2e-5")
    assert names(found) == {"rate-too-low"}


@pytest.mark.slow
def test_shifted_causal_labels_are_named(store: Path, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        with_labels(patch, 1)
        overrides = ("objective.name=clm", "model.family=gpt2")
        while_broken = run(store, tmp_path / "run", *overrides)
    assert "labels-shifted" in names(while_broken)  # the rows show it
    assert "labels-shifted" in names(diagnose(tmp_path / "run"))  # and the model alone


@pytest.mark.slow
def test_shifted_masked_labels_are_named(store: Path, tmp_path: Path, monkeypatch):
    with monkeypatch.context() as patch:
        with_masked_labels(patch)
        while_broken = run(store, tmp_path / "run", "objective.name=mlm", "budget.num_steps=200")
    assert "labels-shifted" in names(while_broken)
    assert "labels-shifted" in names(diagnose(tmp_path / "run"))


@pytest.mark.slow
def test_a_causal_model_that_sees_what_it_predicts_is_named(
    store: Path, tmp_path: Path, monkeypatch
):
    with_labels(monkeypatch, -1)
    found = run(store, tmp_path / "run", "objective.name=clm", "model.family=gpt2")
    assert "leak" in names(found)


@pytest.mark.slow
def test_masks_that_are_not_applied_are_named(store: Path, tmp_path: Path):
    kept = ("recipe.mask_proportion=0", "recipe.random_proportion=0", "recipe.keep_proportion=1")
    found = run(store, tmp_path / "run", *kept)
    assert "masks-not-applied" in names(found)


@pytest.mark.slow
def test_data_that_wait_are_named(store: Path, tmp_path: Path, monkeypatch):
    take = StoreRows.take

    def slowly(self: StoreRows, *arguments: object, **more: object) -> ExampleBatch:
        time.sleep(0.15)
        return take(self, *arguments, **more)

    monkeypatch.setattr(StoreRows, "take", slowly)
    found = run(store, tmp_path / "run", "budget.num_steps=40")
    assert "waiting" in names(found)


@pytest.fixture(scope="module")
def made_store(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function from documents to their token store, made with the same tokenizer."""

    def make(documents: list[str], validation_ratio: float = 0.2) -> Path:
        folder = tmp_path_factory.mktemp("made")
        (folder / "corpus.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
        config = CorpusConfig(documents="blank-line")
        plan = TokenizeConfig(corpus=config, sentences="lines", validation_ratio=validation_ratio)
        sources = find_sources([str(folder / "corpus.txt")], config)
        tokenizer = load_tokenizer(store / "tokenizer")
        tokenize_corpus(sources, plan, tokenizer, folder / "tokens", num_workers=1)
        return folder / "tokens"

    return make


def random_words(num_documents: int, num_words: int, seed: int) -> Iterator[str]:
    generator = np.random.default_rng(seed)
    words = [
        *[
            "the",
            "cat",
            "dog",
            "friend",
            "old",
            "king",
            "bird",
            "teacher",
            "sees",
            "likes",
            "finds",
            "river",
            "stone",
        ]
    ]
    for _ in range(num_documents):
        yield "\n".join(
            " ".join(generator.choice(words, generator.integers(3, 2 * num_words)))
            for _ in range(4)
        )


@pytest.mark.slow
def test_a_run_on_the_unigram_line_is_named(store: Path, tmp_path: Path):
    # Three times the rate at which AdamW learns this language.
    found = run(store, tmp_path / "run", "optimizer.name=adamw", "optimizer.lr=1e-2")
    assert names(found) == {"unigram-line"}
    assert "guesses by frequency alone (the two-sided " in found.findings[0].message


@pytest.mark.slow
def test_text_that_is_learned_by_heart_is_named(made_store: Callable[..., Path], tmp_path: Path):
    few = made_store(list(random_words(40, 8, seed=1)), 0.5)
    found = run(
        few, tmp_path / "run", "objective.name=clm", "model.family=gpt2", "budget.num_steps=600",
        "model.hidden_size=64", "model.num_attention_heads=2", "optimizer.lr=1e-2",
    )  # fmt: skip
    assert "repeated" in names(found)


def test_documents_that_are_copies_are_named(
    made_store: Callable[..., Path], store: Path, tmp_path: Path
):
    documents = list(random_words(30, 8, seed=2))
    copied = made_store(documents * 4)
    train(load_train_config(None, [*TINY]), copied, tmp_path / "run")
    found = diagnose(tmp_path / "run")
    assert "repeated" in names(found)
    assert "copies of others" in found.findings[-1].message


def test_a_gradient_that_grows_is_named():
    entries = [
        {"step": 10 * n, "lm_loss": 6 - n / 50, "grad_norm": 0.5 * 1.15**n} for n in range(1, 40)
    ]
    assert [finding.name for finding in examine(entries, 400)] == ["gradient-grows"]
    flat = [{**entry, "grad_norm": 0.5 + 0.1 * (n % 3)} for n, entry in enumerate(entries)]
    assert not examine(flat, 400)


def test_pairs_that_length_tells_are_named(store: Path):
    from lmdata.recipes import Recipe
    from lmmodel.data import open_data

    rows = open_data(store).rows("train", Recipe(max_seq_length=64), seed=0)
    batch = rows.take(0, np.arange(rows.num_rows))
    assert pairs_are_told_by_length(batch) is None
    second = np.add.reduceat(batch.token_type_ids.astype(np.int64), batch.offsets[:-1])
    is_long = (second > np.median(second)).astype(np.int8)
    found = pairs_are_told_by_length(batch.replace(next_sentence_label=is_long))
    assert found is not None
    assert found.message == "the length of the second alone tells 100% of the sentence pairs"


def test_a_bound_tells_no_more_than_chance_of_what_is_alike():
    values = np.tile(np.arange(5), 40)
    assert told_by(values, np.arange(200) % 2 == 0) < 0.6


def test_a_run_whose_data_are_gone_is_told_by_its_curves(trained: Path, tmp_path: Path):
    import json
    import shutil

    shutil.copytree(trained, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    record["data_path"] = str(tmp_path / "gone")
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    found = diagnose(tmp_path / "run")
    assert not found.findings
    assert "could not be looked at" in found.summary
