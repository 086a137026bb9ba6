"""An objective that nothing else knows goes the whole road; docs/adding-an-objective.md shows it.

Neighbours of a text are swapped here and there, and the model says of each token whether it was
moved: a column, a term and scores that no built-in objective has.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmdata.batch import Column, ExampleBatch
from lmdata.examples import write_examples
from lmdata.recipes import Recipe
from lmdata.rng import PURPOSES, draw, stream_key
from lmmodel.asking import load_pretrained
from lmmodel.batch import IGNORED, TOKENS, Batch
from lmmodel.config import load_train_config
from lmmodel.errors import FitError
from lmmodel.evaluation import evaluate_run, evaluate_sources
from lmmodel.exporting import export_run
from lmmodel.model import Linear, Transformer, make_model
from lmmodel.objectives import (
    OBJECTIVES,
    Definition,
    ObjectiveConfig,
    Part,
    make_objective,
    modules_of,
)
from lmmodel.objectives.terms import TokenTerm
from lmmodel.packing import pack_examples
from lmmodel.saving.checkpoint import load_tensors
from lmmodel.saving.metrics import read_metrics
from lmmodel.trainer import plan, train
from tests.contracts import check_objective, check_resume
from tests.lmmodel.conftest import TINY

IS_MOVED = Column("is_moved", "uint8", "token", is_stored=False)
SHARE = 0.2

ROOT = Path(__file__).parents[1]


def move_neighbours(examples: ExampleBatch) -> ExampleBatch:
    """Swap pairs of neighbours: drawn by epoch, row and place, whatever else is in the batch."""
    ids, lengths = examples.original_ids(), np.diff(examples.offsets)
    place = np.arange(len(ids)) - np.repeat(examples.offsets[:-1], lengths)
    known = examples.arrays()
    row, epoch = (np.repeat(known[name], lengths) for name in ("row", "epoch"))
    words = np.empty(len(ids), np.uint32)
    for number in np.unique(epoch):
        own = epoch == number
        words[own] = draw(stream_key(0, "move", int(number)), row[own], place[own])
    is_inside = (place > 0) & (place % 2 == 1) & (place + 2 < np.repeat(lengths, lengths))
    first = np.flatnonzero((words < SHARE * 2**32) & is_inside)
    is_moved = np.zeros(len(ids), np.uint8)
    is_moved[first] = is_moved[first + 1] = 1
    ids[first], ids[first + 1] = ids[first + 1], ids[first]
    arrays = {**known, "input_ids": ids, "is_moved": is_moved}
    return ExampleBatch((*examples.columns, IS_MOVED), **arrays)


def pack(examples: ExampleBatch, max_seqlen: int | None) -> Batch:
    """Return a batch in which every token is asked whether it was moved."""
    is_moved = torch.from_numpy(examples.arrays()["is_moved"].astype(np.int64))
    batch = pack_examples(examples, max_seqlen)
    return batch.with_labels("moved", torch.arange(len(is_moved)), is_moved)


@dataclasses.dataclass(frozen=True)
class MovedTerm:
    """Whether a token was moved, by a head of its own."""

    name: str = "moved"
    weight: float = 1.0
    needs: str = "texts, and {source} has none: build it from other text"

    def places(self, examples):
        return np.arange(len(examples.input_ids))

    def rows(self, batch):
        return batch.stream.labels["moved"].rows

    def loss(self, model, hidden, batch):
        labels = batch.stream.labels["moved"].values
        return F.cross_entropy(self._logits(model, hidden), labels, reduction="sum")

    def head_products(self, config):
        return 2 * config.hidden_size

    def score(self, model, hidden, batch):
        labels, logits = batch.stream.labels["moved"].values, self._logits(model, hidden)
        losses = F.cross_entropy(logits, labels, reduction="none")
        guesses = logits.argmax(1) == 1
        return {"losses": losses.double().numpy(), "guesses": guesses.numpy(),
                "labels": labels.numpy() == 1}  # fmt: skip

    def figures(self, scores, vocabulary):
        is_hit = scores["guesses"] & scores["labels"]
        return {
            "num_labels": len(scores["labels"]),
            "loss": float(scores["losses"].mean()),
            "accuracy": float((scores["guesses"] == scores["labels"]).mean()),
            "moved_recall": float(is_hit.sum() / scores["labels"].sum()),
        }

    def _logits(self, model, hidden):
        return model.extras["moved"](hidden).float()


MOVED = Definition(
    summary="whether a token was moved",
    make_parts=lambda config: (
        Part(terms=(MovedTerm(),), label=move_neighbours, pack=pack),
    ),
    make_modules=lambda config, model: {"moved": Linear(model.hidden_size, 2)},
    recipe=Recipe(view="single", corruption="none"),
)  # fmt: skip


# Another one, whose module makes the input: a small generator fills masks, each token is asked
# whether it is the original (ELECTRA; Clark et al., 2020), here with the likeliest guess.


def ask_all(examples: ExampleBatch, max_seqlen: int | None) -> Batch:
    """Return a batch in which every token will be asked whether it was replaced."""
    batch = pack_examples(examples, max_seqlen)
    num_tokens = len(batch.input_ids)
    return batch.with_labels(
        "replaced", torch.arange(num_tokens), torch.zeros(num_tokens, dtype=torch.int64)
    )


def read(model: Transformer, part: Part, batch: Batch) -> tuple[Batch, tuple[torch.Tensor, ...]]:
    """Fill masked places with the generator's guesses, and read what that makes."""
    generator = model.extras["generator"]
    generator.compute_dtype = model.compute_dtype
    rows, labels = batch.masked_positions, batch.masked_labels
    hidden = generator(batch, rows=rows)
    is_label = labels != IGNORED
    guesses = generator.lm_logits(hidden.detach()).argmax(1)[is_label].to(batch.input_ids.dtype)
    ids = batch.input_ids.index_copy(0, rows[is_label], guesses)
    is_new = torch.zeros(len(ids), dtype=torch.int64)
    is_new[rows[is_label]] = (guesses != labels[is_label]).long()
    asked = batch.stream.labels["replaced"]
    values = torch.where(asked.values == IGNORED, IGNORED, is_new[asked.rows])
    batch = batch.with_ids(ids).with_labels("replaced", asked.rows, values)
    return batch, (hidden, model(batch, rows=asked.rows))


@dataclasses.dataclass(frozen=True)
class GeneratorTerm(TokenTerm):
    """Masked tokens, guessed by the generator."""

    def loss(self, model, hidden, batch):
        return super().loss(model.extras["generator"], hidden, batch)

    def score(self, model, hidden, batch):
        return super().score(model.extras["generator"], hidden, batch)


@dataclasses.dataclass(frozen=True)
class ReplacedTerm:
    """Whether a token is the original."""

    name: str = "replaced"
    weight: float = 5.0
    needs: str = "texts, and {source} has none: build it from other text"

    def places(self, examples):
        return np.arange(len(examples.input_ids))

    def rows(self, batch):
        return batch.stream.labels["replaced"].rows

    def loss(self, model, hidden, batch):
        labels, logits = batch.stream.labels["replaced"].values, model.extras["detector"](hidden)
        return F.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=IGNORED)

    def head_products(self, config):
        return 2 * config.hidden_size

    def score(self, model, hidden, batch):
        labels, logits = batch.stream.labels["replaced"].values, model.extras["detector"](hidden)
        return {"hits": (logits.argmax(1) == labels).numpy()}

    def figures(self, scores, vocabulary):
        return {"replaced_accuracy": float(scores["hits"].mean())}


def generator_and_detector(config, model):
    small = dataclasses.replace(
        model, num_hidden_layers=1, num_hidden_groups=1, hidden_size=16, embedding_size=16,
        num_attention_heads=2, intermediate_size=32,
        has_nsp_head=False,
    )  # fmt: skip
    return {"generator": Transformer(small), "detector": Linear(model.hidden_size, 2)}


REPLACED = Definition(
    summary="masked tokens by a generator, and which tokens it replaced (ELECTRA)",
    make_parts=lambda config: (
        Part(terms=(GeneratorTerm("generator"), ReplacedTerm()), pack=ask_all, read=read),
    ),
    make_modules=generator_and_detector,
    recipe=Recipe(view="single", count="bernoulli"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def moved(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setitem(OBJECTIVES, "moved", MOVED)
    monkeypatch.setitem(OBJECTIVES, "replaced", REPLACED)
    monkeypatch.setitem(PURPOSES, "move", 1001)  # the address of its random numbers


def make_config(*overrides):
    return load_train_config(None, [
        *TINY, "objective.name=moved", "budget.num_steps=48", "optimizer.name=muon",
        "optimizer.lr=5e-3", "batch.size=24", "batch.micro_batch_tokens=300",
        "checkpoint.every_steps=16", "evaluation.every_steps=24", "logging.every_steps=4",
        "logging.picture=false", *overrides,
    ])  # fmt: skip


def test_the_whole_road_from_a_token_store(store, tmp_path):
    assert make_config().recipe == dataclasses.replace(MOVED.recipe, max_seq_length=32)
    check_resume(make_config(), store, tmp_path, at=36)
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    losses = [line["moved_loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    found = evaluate_run(tmp_path / "run", store)
    logged = [line for line in lines if "validation_loss" in line][-1]
    assert found.loss == pytest.approx(logged["validation_loss"], abs=1e-6)
    assert found.others["moved_recall"] == pytest.approx(logged["validation_moved_recall"])
    assert found.perplexity is None
    assert found.accuracy is not None
    by_source = evaluate_sources(tmp_path / "run", store, split="train", num_examples=50)
    assert by_source.sources[0].num_labels == by_source.total.num_labels
    model = load_pretrained(tmp_path / "run")
    assert model.embed(["the cat sees the river."]).shape[1] == model.model.config.hidden_size
    with pytest.raises(FitError, match="objective moved, which fills in no masks"):
        model.fill_mask("the [MASK] sees the river.")


def test_the_whole_road_from_frozen_shards(store, tmp_path):
    recipe = Recipe(view="single", max_seq_length=32)
    write_examples(store, recipe, tmp_path / "shards", seed=0, num_workers=1)
    config = dataclasses.replace(make_config("budget.num_steps=4"), recipe=None)
    summary = train(config, tmp_path / "shards", tmp_path / "run")
    assert summary.evaluation is not None
    assert 0 <= summary.evaluation.others["moved_recall"] <= 1


def test_the_page_shows_what_is_run_here():
    page = (ROOT / "docs" / "adding-an-objective.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    own = Path(__file__).read_text(encoding="utf-8")
    for block in blocks:
        assert block in own


@pytest.mark.parametrize("name", ["moved", "replaced"])
def test_it_keeps_the_contract_of_objectives(store, name):
    check_objective(make_objective(ObjectiveConfig(name=name)), store)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_module_that_makes_the_input_goes_the_same_road(store, tmp_path, precision):
    """Its weights learn, are counted, resumed, left out of exports and of other objectives."""
    config = make_config("objective.name=replaced", f"precision={precision}")
    planned = plan(config, store)
    check_resume(config, store, tmp_path, at=36)
    state = load_tensors(tmp_path / "run/model.safetensors")
    assert planned.num_parameters == sum(tensor.numel() for tensor in state.values())
    first = make_model(planned.config.model, seed=0, extras=modules_of(
        planned.config.objective, planned.config.model)).state_dict()  # fmt: skip
    extras = [name for name in state if name.startswith("extras.")]
    assert {name.split(".")[1] for name in extras} == {"generator", "detector"}
    assert not any(torch.equal(state[name], first[name]) for name in extras)
    found = evaluate_run(tmp_path / "run", store)
    assert 0.8 < found.others["replaced_accuracy"] <= 1
    assert found.loss < found.unigram_loss
    result = export_run(tmp_path / "run", tmp_path / "hf")
    assert result.max_logit_difference is None or result.max_logit_difference < 1e-4
    card = (tmp_path / "hf/README.md").read_text()
    assert "Modules of the objective are left out: detector, generator." in card
    other = make_config("objective.name=mlm", f"init_from={tmp_path / 'run'}", "budget.num_steps=2")
    train(other, store, tmp_path / "other")
    assert not any(name.startswith("extras.") for name in load_tensors(
        tmp_path / "other/model.safetensors"))  # fmt: skip


def test_what_is_drawn_does_not_depend_on_the_packing(store, tmp_path):
    """The same rows in one batch, and alone: the same tokens are moved."""
    from lmmodel.data import open_data

    rows = open_data(store).rows("train", MOVED.recipe, seed=0)
    together = pack(move_neighbours(rows.take(0, np.arange(9))), None)
    for row in range(9):
        alone = pack(move_neighbours(rows.take(0, np.array([row]))), None)
        start, end = together.cu_seqlens[row : row + 2].tolist()
        assert torch.equal(alone.input_ids, together.input_ids[start:end])
        assert together.addresses[row].tolist() == alone.addresses[0].tolist() == [0, row, 0]
    assert together.stream.labels.keys() == {TOKENS, "moved"}
