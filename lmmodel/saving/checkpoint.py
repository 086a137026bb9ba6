"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

    checkpoints/step-00001000/
        model.safetensors, optimizer.safetensors, ...    one file a group of tensors
        checkpoint.json    written last: format version, step, state, size and xxh3 of each file

Nothing is ever unpickled. A folder is valid if its checkpoint.json parses and every file has the
size and the hash that it promises; resuming takes the newest valid one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lmdata.xxh3 import hash_file
from lmmodel.errors import CheckpointError
from lmmodel.parallel import put

FORMAT_VERSION = 1
INDEX_NAME = "checkpoint.json"
_STEP_FOLDER = re.compile(r"step-(\d{8,})$")

TensorGroups = Mapping[str, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """What training goes on from: tensors by group and name, and a JSON state."""

    step: int
    groups: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: Path, step: int, groups: TensorGroups, state: Mapping[str, Any], *, keep: int
) -> Path:
    """Write `folder`/step-NNNNNNNN atomically, then delete all but the newest `keep`.

    Those of later steps go, too: they belong to an attempt that was not gone on with.

    Args:
        folder: the run's checkpoints/ folder; made if absent
        step: optimizer steps done
        groups: tensors by name, one file a group
        state: JSON values
        keep: how many checkpoints stay, at least 1

    Returns:
        The new folder.
    """
    target = folder / f"step-{step:08d}"
    temporary = folder / f".{target.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, tensors in groups.items():
        save_tensors(temporary / f"{name}.safetensors", tensors)
    files = {path.name: _fingerprint(path) for path in sorted(temporary.iterdir())}
    index = {"format_version": FORMAT_VERSION, "step": step, "files": files, "state": dict(state)}
    write_text(temporary / INDEX_NAME, json.dumps(index, indent=1) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    sync(folder)
    there = list_checkpoints(folder)
    since = there.index(target)
    for path in [*there[:since], *there[since + keep :]]:
        shutil.rmtree(path)
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a folder, every file checked against its stored hash.

    Raises:
        CheckpointError: half-written, truncated, altered, of a newer version, or not safetensors
    """
    index = _read_index(path)
    for name, expected in index["files"].items():
        _check_file(path / name, expected)
    groups = {Path(name).stem: load_tensors(path / name) for name in index["files"]}
    return Checkpoint(step=index["step"], groups=groups, state=index["state"])


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest valid checkpoint, or None, and why each newer one was passed over.

    Raises:
        CheckpointError: there are checkpoints, but none of them is valid
    """
    problems: list[str] = []
    for path in list_checkpoints(folder):
        try:
            return load_checkpoint(path), problems
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(
            f"none of the {len(problems)} checkpoints in {folder} is valid; the newest: "
            f"{problems[0]}. Start anew with --overwrite"
        )
    return None, problems


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders, newest first; unfinished ones carry another name."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _match(path))]
    return [path for _, path in sorted(found, reverse=True)]


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically: temporary name, fsync, rename.

    Raises:
        CheckpointError: the disk is full, or the file can't be written
    """
    on_cpu = {name: _own_memory(tensor.detach().cpu()) for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.partial")
    temporary.touch()
    mode = temporary.stat().st_mode  # that of any new file; safetensors lets only its owner read
    try:
        save_file(on_cpu, temporary, metadata=dict(metadata or {"format": "pt"}))
    except SafetensorError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"can't write {path} ({error}): free some space there and run again"
        ) from error
    temporary.chmod(mode)
    _finish(temporary, path)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        CheckpointError: the file is missing or is anything else, a pickle for example
    """
    try:
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {path}") from error
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); "
            "only safetensors is read, a pickle is never opened"
        ) from error


def check_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Check that weights are numbers: with one that is none a model gives the best of scores.

    Raises:
        CheckpointError: a tensor holds infinity or what is no number
    """
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path} holds weights that are no finite numbers, first in {name}: the training "
                "went wrong before they were saved. Take an earlier checkpoint, or train again "
                "with a lower optimizer.lr"
            )


@torch.no_grad()
def load_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put saved weights into a model.

    Raises:
        CheckpointError: they belong to another model
    """
    mine = dict(model.named_parameters())
    if differing := sorted(mine.keys() ^ tensors.keys()):
        raise CheckpointError(
            f"the weights are of another model: {len(differing)} names differ, first {differing[0]}"
        )
    for name, parameter in mine.items():
        if parameter.shape != tensors[name].shape:
            raise CheckpointError(
                f"the weights are of another model: {name} has shape "
                f"{tuple(tensors[name].shape)}, this one needs {tuple(parameter.shape)}"
            )
        put(parameter, tensors[name])


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    _finish(temporary, path)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _own_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor alone in its memory: safetensors refuses views of a shared one."""
    is_alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor.contiguous() if is_alone else tensor.clone(memory_format=torch.contiguous_format)


def _match(path: Path) -> re.Match[str] | None:
    return _STEP_FOLDER.match(path.name) if path.is_dir() else None


def _fingerprint(path: Path) -> dict[str, int | str]:
    return {"num_bytes": path.stat().st_size, "xxh3": hash_file(path)}


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads((path / INDEX_NAME).read_text(encoding="utf-8"))
        version = index["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has no whole {INDEX_NAME} ({error})") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version}, this version reads {FORMAT_VERSION}: "
            "resume it with the version that wrote it"
        )
    assert isinstance(index, dict)
    return index


def _check_file(path: Path, expected: Mapping[str, int | str]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    size = path.stat().st_size
    if size != expected["num_bytes"]:
        raise CheckpointError(
            f"{path} has {size} bytes instead of {expected['num_bytes']}: truncated or replaced"
        )
    if _fingerprint(path)["xxh3"] != expected["xxh3"]:
        raise CheckpointError(f"{path} is not what was saved (xxh3 differs): altered or replaced")


def _finish(temporary: Path, path: Path) -> None:
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)
