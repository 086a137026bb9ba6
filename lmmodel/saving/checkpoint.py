"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

    checkpoints/step-00001000/
        model.safetensors, optimizer.safetensors, ...    one file a group of tensors
        checkpoint.json    written last: format version, step, state, size and xxh3 of each file

Nothing is ever unpickled. A folder is valid if its checkpoint.json parses and every file has the
size and the hash that it promises; resuming takes the newest valid one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lmdata.config import build_config, json_text, read_json
from lmdata.errors import ConfigError, OutputError
from lmdata.files import (
    make_folder,
    output_errors,
    partial_path,
    remove,
    sync,
    write_atomically,
    writing_file,
)
from lmdata.xxh3 import hash_file, xxh3_128
from lmmodel.device import put
from lmmodel.errors import CheckpointError
from lmmodel.record import STEP_FOLDER

FORMAT_VERSION = 1
INDEX_NAME = "checkpoint.json"

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
    """Write `folder`/step-NNNNNNNN whole or not at all, then delete all but the newest `keep`.

    Those of later steps go, too: they belong to an attempt that was not gone on with.

    Args:
        folder: the run's checkpoints/ folder; made if absent
        step: optimizer steps done
        groups: tensors by name, one file a group
        state: JSON values
        keep: how many checkpoints stay, at least 1

    Returns:
        The new folder.

    Raises:
        OutputError: the disk is full, the folder can't be written, or a link is in its place
    """
    target = folder / f"step-{step:08d}"
    partial = partial_path(target)
    make_folder(folder)
    with output_errors(target):
        remove(partial)
        partial.mkdir()
        for name, tensors in groups.items():
            save_tensors(partial / f"{name}.safetensors", tensors)
        files = {path.name: _fingerprint(path) for path in sorted(partial.iterdir())}
        index = {"format_version": FORMAT_VERSION, "step": step, "files": files, "state": state}
        write_atomically(partial / INDEX_NAME, json_text({**index, "xxh3": _hash(index)}, indent=1))
        remove(target)
        partial.rename(target)
        sync(folder)
    there = list_checkpoints(folder)
    since = there.index(target)
    for path in [*there[:since], *there[since + keep :]]:
        remove(path)
    return target


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in a folder, every file checked against its stored hash.

    Raises:
        CheckpointError: half-written, truncated, altered, of a newer version, or not safetensors
    """
    index = _read_index(path)
    for name, expected in index.files.items():
        _check_file(path / name, expected)
    groups = {Path(name).stem: load_tensors(path / name) for name in index.files}
    return Checkpoint(step=index.step, groups=groups, state=index.state)


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
    """Write a safetensors file, whole or not at all.

    Raises:
        OutputError: the disk is full, or the file can't be written
    """
    on_cpu = {name: _own_memory(tensor.detach().cpu()) for name, tensor in tensors.items()}
    with writing_file(path) as partial:
        try:
            save_file(on_cpu, partial, metadata=dict(metadata or {"format": "pt"}))
        except SafetensorError as error:
            raise OutputError(
                f"can't write {path}: {error}; free some space there and run again"
            ) from error


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, every number of which is finite.

    Raises:
        CheckpointError: the file is missing or is anything else, a pickle for example, or holds
            NaN or infinity, which no training keeps and which would be taken for the best of all
    """
    try:
        tensors = dict(load_file(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"no such file: {path}") from error
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); "
            "only safetensors is read, a pickle is never opened"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: {name} holds values that are no numbers (NaN or infinite), so nothing "
                "can be computed with it: take an earlier checkpoint, or train again"
            )
    return tensors


@torch.no_grad()
def load_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put saved weights into a model: see `load_named`."""
    load_named(dict(model.named_parameters()), tensors)


@torch.no_grad()
def load_named(mine: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Put saved weights into those of a model.

    Args:
        mine: parameters by name; they are written, on whatever device they are
        tensors: of the same names and shapes

    Raises:
        CheckpointError: they belong to another model
    """
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


def _own_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor alone in its memory: safetensors refuses views of a shared one."""
    is_alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor.contiguous() if is_alone else tensor.clone(memory_format=torch.contiguous_format)


def _match(path: Path) -> re.Match[str] | None:
    return STEP_FOLDER.match(path.name) if path.is_dir() else None


def _fingerprint(path: Path) -> dict[str, int | str]:
    return {"num_bytes": path.stat().st_size, "xxh3": hash_file(path)}


@dataclass(frozen=True, kw_only=True)
class _Index:
    """What checkpoint.json holds; `xxh3` is of all else in it, and absent in older ones."""

    step: int
    files: dict[str, dict[str, int | str]]
    state: dict[str, Any]
    xxh3: str | None = None


def _hash(index: Mapping[str, Any]) -> str:
    return xxh3_128(json_text(index).encode()).hexdigest()


def _read_index(path: Path) -> _Index:
    """Return what a checkpoint says of itself.

    Raises:
        CheckpointError: it is missing, damaged, of another step or another version
    """
    try:
        values = read_json(path / INDEX_NAME)
        version = values.pop("format_version")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} has no whole {INDEX_NAME} ({error})") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version}, this version reads {FORMAT_VERSION}: "
            "resume it with the version that wrote it"
        )
    hashed = {"format_version": version, **{k: v for k, v in values.items() if k != "xxh3"}}
    try:
        index = build_config(_Index, values)
    except ConfigError as error:
        raise CheckpointError(f"{path} has no whole {INDEX_NAME} ({error})") from error
    has_plain_names = all(Path(name).name == name for name in index.files)
    is_altered = index.xxh3 not in (None, _hash(hashed))
    if is_altered or not has_plain_names or path.name != f"step-{index.step:08d}":
        raise CheckpointError(f"{path / INDEX_NAME} is not what was saved: altered or replaced")
    return index


def _check_file(path: Path, expected: Mapping[str, int | str]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    size = path.stat().st_size
    if size != expected.get("num_bytes"):
        raise CheckpointError(
            f"{path} has {size} bytes instead of {expected.get('num_bytes')}: truncated or replaced"
        )
    if _fingerprint(path)["xxh3"] != expected.get("xxh3"):
        raise CheckpointError(f"{path} is not what was saved (xxh3 differs): altered or replaced")
