"""The run folder: what lies in runs/NAME/, and whether a run may go on there.

model.safetensors   the latest weights (the averaged ones where averaging is on)
config.json         the resolved configuration, the data's and the tokenizer's hash, the machine
tokenizer.json ...  the tokenizer's files
metrics.jsonl       one line a logged step
loss.png            the losses against the step
checkpoints/        step-00001000/ ...
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmdata.config import config_to_dict
from lmdata.errors import ConfigError, OutputError
from lmdata.tokenizer import TOKENIZER_FILES, Tokenizer, save_tokenizer
from lmmodel.config import TrainConfig, config_from_dict
from lmmodel.data import TrainingData
from lmmodel.errors import FitError, ResumeError, RunError
from lmmodel.record import FORMAT_VERSION, is_run, read_values
from lmmodel.record import RECORD_NAME as RECORD_NAME
from lmmodel.record import WEIGHTS_NAME as WEIGHTS_NAME
from lmmodel.saving.checkpoint import (
    TensorGroups,
    list_checkpoints,
    save_checkpoint,
    save_tensors,
    write_text,
)
from lmmodel.saving.output_folder import Kind, check_replaceable
from lmmodel.saving.starting import tokenizer_difference

CHECKPOINTS_NAME = "checkpoints"
RUN = Kind(
    "a run",
    is_run,
    TOKENIZER_FILES
    | {RECORD_NAME, WEIGHTS_NAME, CHECKPOINTS_NAME, "metrics.jsonl", "loss.png", "tensorboard"},
)

# What may differ when a run goes on: it does not change the weights.
FREE_ON_RESUME = ("checkpoint", "logging", "evaluation", "batch.prefetch", "skip_bad_steps")


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What config.json holds."""

    config: TrainConfig  # resolved
    num_steps: int  # of the whole run, frozen when it began
    data_path: str
    data_hash: str  # of the dataset's manifest
    tokenizer_hash: str
    environment: dict[str, str | int]
    origin: dict[str, Any] | None = None  # where its first weights are from, unless fresh

    @property
    def is_imported(self) -> bool:
        """Whether the model came from elsewhere: no data, no step of ours."""
        return not self.data_path


def make_record(
    config: TrainConfig,
    num_steps: int,
    data: TrainingData,
    environment: dict[str, str | int],
    origin: dict[str, Any] | None = None,
) -> RunRecord:
    """Return the record of a new run."""
    return RunRecord(
        config=config,
        num_steps=num_steps,
        data_path=str(data.path.resolve()),
        data_hash=data.manifest.hash,
        tokenizer_hash=data.tokenizer.hash,
        environment=environment,
        origin=origin,
    )


def read_record(folder: Path) -> RunRecord:
    """Return what a run folder says of itself.

    Raises:
        RunError: no run there, or written by another version
    """
    values = read_values(folder)
    try:
        return RunRecord(**{**values, "config": config_from_dict(values["config"])})
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise RunError(
            f"{folder / RECORD_NAME} is not the record of a run of this version: {error}"
        ) from error


def create_run(folder: Path, record: RunRecord, tokenizer: Tokenizer, *, overwrite: bool) -> None:
    """Make a run folder with its record and tokenizer, the record last.

    Raises:
        RunError: there is a run already, or something that is not a run
        OutputError: the folder can't be written
    """
    check_output(folder, overwrite=overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _empty(folder)
        save_tokenizer(tokenizer, folder)
        values = {"format_version": FORMAT_VERSION, **vars(record)}
        values["config"] = config_to_dict(record.config)
        write_text(folder / RECORD_NAME, json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"can't write {folder}: {error}; choose another --output") from error


def _empty(folder: Path) -> None:
    """Delete what is in a folder; the folder stays, which may be a link or where the user is."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def save_state(
    folder: Path, step: int, groups: TensorGroups, state: Mapping[str, Any], *, keep: int
) -> None:
    """Write a checkpoint, and beside the checkpoints the weights that are used: see its arguments.

    Raises:
        CheckpointError: the disk is full
    """
    save_checkpoint(folder / CHECKPOINTS_NAME, step, groups, state, keep=keep)
    save_weights(folder, groups)


def save_weights(folder: Path, groups: TensorGroups) -> None:
    """Write the weights that are used: the averaged ones where there are.

    Raises:
        CheckpointError: the disk is full
    """
    save_tensors(folder / WEIGHTS_NAME, groups.get("average", groups["model"]))


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Check that a new run may be made here; anything but a run is never deleted.

    Raises:
        RunError: there is a run already, or something that is not a run
    """
    resume = "--resume goes on with it, "
    check_replaceable(folder, RUN, overwrite=overwrite, instead=resume)


def own_data(folder: Path, record: RunRecord) -> Path:
    """Return the dataset that a run was trained on.

    Raises:
        RunError: on none, because it was imported
    """
    if record.is_imported:
        raise RunError(
            f"{folder} was imported and has no data of its own: name a token store or shards, "
            f"made with `lmdata tokenize --tokenizer {folder}`"
        )
    return Path(record.data_path)


def check_tokenizer(tokenizer: Tokenizer, data: TrainingData) -> None:
    """Check that data was made with the tokenizer of the model.

    Raises:
        FitError: with another one
    """
    if difference := tokenizer_difference(tokenizer, data.tokenizer):
        raise FitError(
            f"{data.path} was made with tokenizer {data.tokenizer.hash}, the run with "
            f"{tokenizer.hash}: {difference}. Tokenize with the tokenizer of the run folder"
        )


def check_has_checkpoint(folder: Path) -> None:
    """Check that a run that has learned something has kept what it would go on from.

    Raises:
        ResumeError: there are weights, and no checkpoint
    """
    if (folder / WEIGHTS_NAME).is_file() and not list_checkpoints(folder / CHECKPOINTS_NAME):
        raise ResumeError(
            f"{folder} has trained weights and no checkpoint to go on from: --init-from {folder} "
            "begins a new run with them, --overwrite trains from the start"
        )


def check_same_data(record: RunRecord, data: TrainingData) -> None:
    """Check that the tokenizer and the data are those the run began with.

    Raises:
        ResumeError: one differs; the message names it
    """
    if data.tokenizer.hash != record.tokenizer_hash:
        raise ResumeError(
            f"the run began with tokenizer {record.tokenizer_hash}, {data.path} has "
            f"{data.tokenizer.hash}: resume with the data it began with, or start a new run"
        )
    if data.manifest.hash != record.data_hash:
        raise ResumeError(
            f"the run began with data {record.data_path} (manifest {record.data_hash}), "
            f"{data.path} is {data.manifest.hash}: resume with the same data, or start a new run"
        )


def check_same_config(record: RunRecord, config: TrainConfig) -> None:
    """Check that the settings that decide the weights are those the run began with.

    Raises:
        ResumeError: one differs; the message names it
    """
    if differences := list(config_differences(record.config, config)):
        raise ResumeError(
            f"the run began with another configuration: {'; '.join(differences)}. "
            "Resume with the same one (or none: it is remembered), or start a new run"
        )


def config_differences(old: TrainConfig, new: TrainConfig) -> Iterator[str]:
    """Yield "key was OLD, now NEW" for each setting that differs and decides the weights."""
    before, after = _flatten(config_to_dict(old)), _flatten(config_to_dict(new))
    for key in sorted(before.keys() | after.keys()):
        is_free = any(key == name or key.startswith(f"{name}.") for name in FREE_ON_RESUME)
        if not is_free and before.get(key) != after.get(key):
            yield f"{key} was {before.get(key)}, now {after.get(key)}"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
