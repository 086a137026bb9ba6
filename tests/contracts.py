"""What holds for every one of a kind, built in or added: each is sent through its contract.

A view gives the same rows however they are sliced, for any number of processes and after any
resume. Workers of any engine give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lmdata.batch import ExampleBatch, concatenate
from lmdata.order import batch_rows
from lmdata.views import View


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
