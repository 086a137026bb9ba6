"""All weights of a run, put together from what its folder and its parents' hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lmmodel.adapters import merged
from lmmodel.errors import RunError
from lmmodel.objectives import modules_of
from lmmodel.record import WEIGHTS_NAME
from lmmodel.saving.branch import find_parent, find_weights
from lmmodel.saving.checkpoint import load_tensors
from lmmodel.saving.run import RunRecord, read_record


def load_state(path: Path, record: RunRecord | None = None) -> dict[str, Tensor]:
    """Return all weights of a run by name, float32; of a branch its parent's and what differs.

    Raises:
        RunError: no run there, no weights yet, or the parent of a branch is gone or has changed
        CheckpointError: the weights are damaged, or not finite
    """
    record = record or read_record(path)
    weights = find_weights(path)
    if weights is None:
        raise RunError(f"{path} has no {WEIGHTS_NAME} yet: train it to its first checkpoint")
    if weights.name == WEIGHTS_NAME:
        return load_tensors(weights)
    base = own_names(load_state(find_parent(path, record.origin)), record)
    return merged({**base, **load_tensors(weights)}, record.config.lora)


def own_names(parent: Mapping[str, Tensor], record: RunRecord) -> dict[str, Tensor]:
    """Return the weights of a parent without those that only its own objective has."""
    config = record.config
    with torch.device("meta"):
        own = tuple(f"extras.{name}." for name in modules_of(config.objective, config.model))
    return {n: w for n, w in parent.items() if not n.startswith("extras.") or n.startswith(own)}
