"""What holds for every one of a kind, built in or added: each is sent through its contract.

A view gives the same rows however they are sliced, for any number of processes and after any
resume. Workers of any engine give the same bytes. A run that crashed ends as one that did not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmdata.batch import ExampleBatch, concatenate
from lmdata.order import batch_rows
from lmdata.views import View
from lmmodel.config import TrainConfig
from lmmodel.data import open_data
from lmmodel.encoder_decoder import build_model
from lmmodel.families import FAMILIES, ModelConfig
from lmmodel.loader import Shape, split_micro_batches
from lmmodel.objectives import Objective, ObjectiveConfig
from lmmodel.objectives.objective import Vocabulary, join_scores
from lmmodel.objectives.terms import combine, score_terms, sum_losses
from lmmodel.saving.metrics import read_metrics
from lmmodel.trainer import train


def check_view(make: Callable[[int], View], *, seed: int = 0) -> None:
    """Check that a view's examples depend on their row, and on nothing else.

    Args:
        make: a new view of an epoch, as a run makes it that begins or resumes
        seed: of the choices that the checks make
    """
    view = make(1)
    rows = np.arange(len(view))
    whole = view.examples(rows)
    assert len(whole) == len(view) == view.facts.examples
    _check_slices(view, whole, np.random.default_rng(seed))
    _check_resumes(make, whole)
    _check_processes(make, whole)
    if len(view):
        assert make(2).recipe == view.recipe
        assert_equal(make(2).at_epoch(1).examples(rows), whole)


def _check_slices(view: View, whole: ExampleBatch, generator: np.random.Generator) -> None:
    """Cut anywhere, in any order, with repeats, one by one and by several threads at a time."""
    num_rows = len(whole)
    cuts = np.sort(generator.integers(0, num_rows + 1, 4))
    parts = np.split(np.arange(num_rows), cuts)
    assert_equal(concatenate([view.examples(part) for part in parts]), whole)
    order = generator.integers(0, max(1, num_rows), 3 * num_rows)
    assert_equal(view.examples(order), whole.take(order))
    with ThreadPoolExecutor(3) as pool:
        singles = pool.map(lambda row: view.examples(np.array([row])), range(num_rows))
        if num_rows:
            assert_equal(concatenate(list(singles)), whole)


def _check_resumes(make: Callable[[int], View], whole: ExampleBatch) -> None:
    """Begin in the middle, with nothing but what a new view knows."""
    start = len(whole) // 2
    resumed = make(1).examples(np.arange(start, len(whole)))
    assert_equal(resumed, whole.slice(start, len(whole)))


def _check_processes(make: Callable[[int], View], whole: ExampleBatch) -> None:
    """A step's rows are those of one process, whoever computes them."""
    num_rows = len(whole)
    for num_ranks in (2, 3) if num_rows else ():
        views = [make(1) for _ in range(num_ranks)]
        for step in range(0, 5, 2):
            _, alone = batch_rows(step, 2 * num_ranks, num_rows)
            shares = [
                view.examples(batch_rows(step, 2, num_rows, rank=rank, num_ranks=num_ranks)[1])
                for rank, view in enumerate(views)
            ]
            assert_equal(concatenate(shares), whole.take(alone))


def assert_equal(found: ExampleBatch, expected: ExampleBatch) -> None:
    """Fail unless two batches hold the same examples, to the bit and to the type."""
    assert found.columns == expected.columns
    for name, array in expected.arrays().items():
        own = found.arrays()[name]
        assert own.dtype == array.dtype, name
        np.testing.assert_array_equal(own, array, name)


def check_same_bytes_by_any_engine(
    build: Callable[[Path, Any], object], engines: Mapping[str, Any], folder: Path
) -> None:
    """Check that workers of any engine give the same bytes, and leave nothing else behind.

    Args:
        build: writes a dataset to a folder by workers
        engines: workers by name, each of them fresh
        folder: to build in, one subfolder an engine
    """
    found = {}
    for name, workers in engines.items():
        build(folder / name, workers)
        paths = sorted(path for path in (folder / name).rglob("*") if path.is_file())
        found[name] = {path.relative_to(folder / name): path.read_bytes() for path in paths}
    first, *others = found
    for other in others:
        assert found[first] == found[other], f"{other} writes other bytes than {first}"
    assert {path.name for path in folder.iterdir()} == set(engines)


def check_objective(objective: Objective, store: Path, num_examples: int = 11) -> None:
    """Check that an objective's sums, gradients and scores are those of its rows one by one.

    Each row is computed alone, by the definition of attention, in float64; then all of them in
    micro-batches of several sizes, by the kernels that training takes.

    Args:
        objective: any
        store: tokens to view as it does
        num_examples: to compute with
    """
    data, recipe = open_data(store), objective.definition.recipe
    rows = data.rows("train", recipe, seed=3)
    examples = rows.take(0, np.arange(min(num_examples, rows.num_rows)))
    family = "bert"
    if not objective.definition.fits(FAMILIES[family]):
        families = [own for own, known in FAMILIES.items() if known.objective == objective.name]
        family = families[0]
    config = ModelConfig(
        family=family, size="tiny", vocab_size=data.tokenizer.vocab_size, initializer_range=0.3,
        has_nsp_head=objective.definition.pair_view is not None,
    )  # fmt: skip
    extras = objective.definition.make_modules(ObjectiveConfig(name=objective.name), config)
    model = build_model(config, seed=5, extras=extras).double()
    model.compute_dtype = torch.float64
    assert abs(sum(part.share for part in objective.parts) - 1) < 1e-12
    for part in objective.parts:
        labelled = part.label(examples)
        counts = torch.tensor(part.count(labelled))
        weights = torch.tensor([term.weight for term in part.terms], dtype=torch.float64)
        alone = [labelled.slice(row, row + 1) for row in range(len(labelled))]
        assert counts.tolist() == np.sum([part.count(row) for row in alone], axis=0).tolist()

        def step(batches: list[Any], part: Any = part, counts: Any = counts,
                 weights: Any = weights) -> list[torch.Tensor]:  # fmt: skip
            """Return the sums and all gradients of a step cut into these batches."""
            model.zero_grad()
            total = torch.zeros(len(part.terms), dtype=torch.float64)
            if part.compare is not None:
                with torch.no_grad():
                    states = [part.read(model, part, batch)[1][0] for batch in batches]
                batches = part.compare(batches, states)
            for batch in batches:
                sums = sum_losses(model, part, batch)
                combine(sums, weights, counts).backward()
                total += sums.detach()
            learned = [p.grad for p in model.parameters() if p.grad is not None]
            return [total, *(gradient.clone() for gradient in learned)]

        model.kernel = "reference"
        expected = step([part.pack(row, None) for row in alone])
        scores = _scores(model, part, [part.pack(row, None) for row in alone])
        model.kernel = None
        for num_tokens in (40, 90, 10**6):
            batches = split_micro_batches(labelled, Shape(num_tokens), part.pack)
            for one, other in zip(step(batches), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
            vocabulary = Vocabulary(
                np.ones(config.vocab_size, np.int64), np.ones(config.vocab_size, np.int64),
                data.tokenizer.is_special,
            )  # fmt: skip
            found = _scores(model, part, batches)
            for term, one, other, count in zip(part.terms, found, scores, counts, strict=True):
                assert {len(values) for values in one.values()} == {int(count)}, term.name
                figures = term.figures(one, vocabulary)
                for name, value in term.figures(other, vocabulary).items():
                    assert abs(figures[name] - value) <= 1e-4 * max(1, abs(value)), (term, name)


def _scores(model: Any, part: Any, batches: list[Any]) -> list[Mapping[str, np.ndarray]]:
    with torch.no_grad():
        found = [score_terms(model, part, batch) for batch in batches]
    return [join_scores([scores[place] for scores in found]) for place in range(len(part.terms))]


class Killed(Exception):  # it ends a training without a word, and is no error of ours
    """Raised in a progress report, as a crash that saves nothing."""


def crash_at(step: int) -> Callable[[Any], None]:
    """Return a listener to training that ends it at a step."""

    def report(progress: Any) -> None:
        if progress.step == step:
            raise Killed

    return report


def weights(run: Path) -> bytes:
    """Return the bytes of a run's weights."""
    return (run / "model.safetensors").read_bytes()


def logged(run: Path) -> list[tuple[int, float]]:
    """Return the losses of a run's steps."""
    return [(e["step"], e["loss"]) for e in read_metrics(run / "metrics.jsonl") if "loss" in e]


def check_resume(config: TrainConfig, data: Path, folder: Path, *, at: int) -> None:
    """Check that a run which crashes, and goes on, ends as one that did not: weights and losses.

    Args:
        config: of both runs
        data: a token store or shards
        folder: where they are left, as `whole` and `run`
        at: step of the crash, behind a checkpoint
    """
    train(config, data, folder / "whole")
    with pytest.raises(Killed):
        train(config, data, folder / "run", progress=crash_at(at))
    train(None, None, folder / "run", resume=True)
    assert weights(folder / "run") == weights(folder / "whole")
    assert logged(folder / "run") == logged(folder / "whole")
