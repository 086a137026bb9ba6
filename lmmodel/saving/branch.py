"""The weights of a run folder: whole, or what differs from those of its parent.

model.safetensors    all weights
branch.safetensors   the trained ones, pairs of LoRA as such; its header names the parent's hash

A branch's parent lies where its record says, or beside the branch under the same name; where its
weights are others by now, the branch means nothing and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lmdata.config import config_to_dict, json_text
from lmdata.files import remove
from lmdata.xxh3 import hash_file
from lmmodel.config import TrainConfig
from lmmodel.errors import RunError
from lmmodel.objectives import OBJECTIVES
from lmmodel.record import BRANCH_NAME, WEIGHTS_NAME
from lmmodel.saving.checkpoint import save_tensors


def is_branch(config: TrainConfig) -> bool:
    """Whether a run keeps what differs only: a part is trained, and what is kept are its weights.

    An objective that puts its weights together at the end changes frozen ones too.
    """
    return config.trainable != "full" and OBJECTIVES[config.objective.name].finish is None


def find_weights(folder: Path) -> Path | None:
    """Return the file with a run's weights, or what differs; None: it has none yet."""
    return next((p for n in (WEIGHTS_NAME, BRANCH_NAME) if (p := folder / n).is_file()), None)


def hash_weights(folder: Path) -> str:
    """Return the xxh3_128 of a run's weights; that of a branch depends on its parent's.

    Raises:
        RunError: it has none yet
    """
    path = find_weights(folder)
    if path is None:
        raise RunError(f"{folder} has no {WEIGHTS_NAME} yet: train it to its first checkpoint")
    return hash_file(path)


def save_branch(
    folder: Path, tensors: Mapping[str, Tensor], config: TrainConfig, origin: Mapping[str, Any]
) -> None:
    """Write what differs from the parent, by name, and of which parent.

    Raises:
        OutputError: the disk is full, or the file can't be written
    """
    header = {"parent_xxh3": origin["weights_xxh3"], "trainable": config.trainable}
    if config.trainable == "lora":
        header["lora"] = config_to_dict(config.lora)
    save_tensors(folder / BRANCH_NAME, tensors, {"branch": json_text(header)})
    remove(folder / WEIGHTS_NAME)  # of an earlier version, which kept all


def find_parent(folder: Path, origin: Mapping[str, Any] | None) -> Path:
    """Return the run that a branch began with.

    Args:
        folder: of the branch
        origin: what its record says of its parent

    Raises:
        RunError: it is gone, or has other weights by now
    """
    if origin is None or "weights_xxh3" not in origin:
        raise RunError(f"{folder} holds what differs from another run, and does not say from which")
    named = Path(origin["run"])
    there = [path for path in (named, folder.resolve().parent / named.name) if find_weights(path)]
    if not there:
        raise RunError(
            f"{folder} holds only what differs from {named}, which is gone: put that run back "
            f"there, or beside {folder}"
        )
    found = {path: hash_weights(path) for path in there}
    for path, xxh3 in found.items():
        if xxh3 == origin["weights_xxh3"]:
            return path
    path = there[0]
    raise RunError(
        f"{folder} holds only what differs from {named} (weights xxh3 {origin['weights_xxh3']}), "
        f"and {path} has other weights now ({found[path]}): put those back, or train it again"
    )
