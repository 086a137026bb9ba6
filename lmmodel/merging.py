"""Branches of one parent into one model: the parent, and by weight what each branch changed.

Weights that add up to 1 average the branches; others are task arithmetic (Ilharco et al., 2023): a
negative one takes away what a branch has learned.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmdata.files import output_errors, writing_folder
from lmdata.tokenizer import load_tokenizer
from lmmodel.device import describe_environment
from lmmodel.errors import FitError
from lmmodel.optimizing import LoraConfig
from lmmodel.record import RUN, WEIGHTS_NAME
from lmmodel.saving.branch import find_weights, hash_weights
from lmmodel.saving.checkpoint import save_tensors
from lmmodel.saving.run import RunRecord, create_run, read_record
from lmmodel.saving.state import load_state
from lmmodel.trained import shape_differences


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A run that began with another one, and what its changes count."""

    run: Path
    weight: float
    change: float  # how far it is from its parent: norm of the difference by that of the parent


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What became of several branches."""

    output: Path
    parent: Path
    branches: tuple[Branch, ...]
    num_parameters: int


def merge_runs(
    runs: Sequence[Path | str], weights: Sequence[float], output: Path | str, *,
    overwrite: bool = False,
) -> Merge:  # fmt: skip
    """Write a run of merged branches; it appears whole or not at all.

    Args:
        runs: at least two that began with the same run (`init_from`)
        weights: what the changes of each are multiplied by
        output: run folder to write
        overwrite: replace the run that is there

    Raises:
        FitError: the runs are not branches of one parent, or it has changed
        RunError, CheckpointError: a run is missing or damaged
        OutputError: `output` can't be written
    """
    paths, output = [Path(run) for run in runs], Path(output)
    if len(paths) < 2 or len(weights) != len(paths):
        raise FitError(f"{len(paths)} runs and {len(weights)} weights: two runs, a weight each")
    if not all(map(math.isfinite, weights)):
        raise FitError(f"weights must be numbers, got {', '.join(map(str, weights))}")
    with writing_folder(output, RUN, overwrite=overwrite) as folder:
        records = [read_record(path) for path in paths]
        parent = find_parent(paths, records)
        base = load_state(parent)
        branches = [load_branch(path, base, w) for path, w in zip(paths, weights, strict=True)]
        state = add_changes(base, ((load_state(b.run), b.weight) for b in branches))
        record = _make_record(records[0], branches)
        with output_errors(output):
            create_run(folder, record, load_tokenizer(paths[0]), overwrite=False)
            save_tensors(folder / WEIGHTS_NAME, state)
    return Merge(
        output=output,
        parent=parent,
        branches=tuple(branches),
        num_parameters=record.config.model.num_parameters,
    )


def find_parent(paths: Sequence[Path], records: Sequence[RunRecord]) -> Path:
    """Return the run that all of them began with.

    Raises:
        FitError: one began with none or with another, is of another shape, or the parent changed
    """
    first = records[0].origin or {}
    for path, record in zip(paths, records, strict=True):
        origin = record.origin or {}
        if "run" not in origin:
            raise FitError(
                f"{path} began with no other run: merge takes branches of one parent, as "
                "`lmmodel train --init-from PARENT` makes them"
            )
        if origin["weights_xxh3"] != first["weights_xxh3"]:
            raise FitError(
                f"{paths[0]} began with {first['run']} (weights {first['weights_xxh3']}), {path} "
                f"with {origin['run']} ({origin['weights_xxh3']}): branches need one parent"
            )
        if found := shape_differences(records[0].config.model, record.config.model):
            raise FitError(f"{path} is of another shape than {paths[0]}: {'; '.join(found)}")
    parent = Path(first["run"])
    if find_weights(parent) is None or hash_weights(parent) != first["weights_xxh3"]:
        raise FitError(
            f"the parent {parent} is gone, or its weights are others than {first['weights_xxh3']}, "
            "which the branches began with: what they changed can't be told"
        )
    return parent


def load_branch(path: Path, base: Mapping[str, Tensor], weight: float) -> Branch:
    """Return how far a branch is from its parent.

    Raises:
        FitError: it has other weights than its parent
    """
    own = load_state(path)
    if other := sorted(own.keys() ^ base.keys()):
        raise FitError(
            f"{path} and its parent differ in {len(other)} weights, first {other[0]}: they learn "
            "by other objectives"
        )
    moved = math.sqrt(
        sum(float((own[n].double() - w.double()).square().sum()) for n, w in base.items())
    )
    whole = math.sqrt(sum(float(w.double().square().sum()) for w in base.values()))
    return Branch(run=path, weight=weight, change=moved / max(whole, 1e-30))


def add_changes(
    base: Mapping[str, Tensor], branches: Iterable[tuple[Mapping[str, Tensor], float]]
) -> dict[str, Tensor]:
    """Return the parent's weights and what each branch changed, by weight; summed in float64.

    Args:
        base: float32 by name
        branches: weights of the same names, and what their changes count

    Example:
        >>> one, two = {"w": torch.tensor([3.0, 1.0])}, {"w": torch.tensor([1.0, 5.0])}
        >>> add_changes({"w": torch.tensor([1.0, 1.0])}, [(one, 0.5), (two, -1.0)])["w"].tolist()
        [2.0, -3.0]
    """
    sums = {name: weight.double() for name, weight in base.items()}
    for branch, weight in branches:
        for name, total in sums.items():
            total.add_(branch[name].double() - base[name].double(), alpha=weight)
    return {name: total.float() for name, total in sums.items()}


def _make_record(first: RunRecord, branches: Sequence[Branch]) -> RunRecord:
    """Return the record of a run without steps and without data of its own."""
    assert first.origin is not None
    config = dataclasses.replace(
        first.config, init_from=None, trainable="full", lora=LoraConfig(), replay=None
    )
    merged: list[dict[str, Any]] = [
        {"run": str(one.run.resolve()), "weight": one.weight,
         "weights_xxh3": hash_weights(one.run)}
        for one in branches
    ]  # fmt: skip
    return RunRecord(
        config=config,
        num_steps=0,
        data_path="",
        data_hash="",
        tokenizer_hash=first.tokenizer_hash,
        environment=describe_environment(torch.device("cpu")),
        origin={**first.origin, "merged": merged},
    )
