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
from lmdata.tokenizer import Tokenizer, save_tokenizer
from lmmodel.checkpoint import write_text
from lmmodel.config import TrainConfig, config_from_dict
from lmmodel.data import TrainingData
from lmmodel.errors import FitError, ResumeError, RunError

FORMAT_VERSION = 1
RECORD_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
CHECKPOINTS_NAME = "checkpoints"

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


def make_record(
    config: TrainConfig, num_steps: int, data: TrainingData, environment: dict[str, str | int]
) -> RunRecord:
    """Return the record of a new run."""
    return RunRecord(
        config=config,
        num_steps=num_steps,
        data_path=str(data.path.resolve()),
        data_hash=data.manifest.hash,
        tokenizer_hash=data.tokenizer.hash,
        environment=environment,
    )


def read_record(folder: Path) -> RunRecord:
    """Return what a run folder says of itself.

    Raises:
        RunError: no run there, or written by another version
    """
    path = folder / RECORD_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("format_version")
        if version != FORMAT_VERSION:
            raise RunError(f"{path} has format {version}, this version reads {FORMAT_VERSION}")
        return RunRecord(**{**values, "config": config_from_dict(values["config"])})
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no run: it has no {RECORD_NAME}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise RunError(f"{path} is not the record of a run of this version: {error}") from error


def create_run(folder: Path, record: RunRecord, tokenizer: Tokenizer, *, overwrite: bool) -> None:
    """Make a run folder with its record and tokenizer, the record last.

    Raises:
        RunError: there is a run already, or something that is not a run
        OutputError: the folder can't be written
    """
    check_output(folder, overwrite=overwrite)
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        save_tokenizer(tokenizer, folder)
        values = {"format_version": FORMAT_VERSION, **vars(record)}
        values["config"] = config_to_dict(record.config)
        write_text(folder / RECORD_NAME, json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise OutputError(f"can't write {folder}: {error}; choose another --output") from error


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Check that a new run may be made here; anything but a run is never deleted.

    Raises:
        RunError: there is a run already, or something that is not a run
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / RECORD_NAME).is_file():
        raise RunError(f"{folder} exists and is not a run: choose another --output")
    if not overwrite:
        raise RunError(
            f"{folder} already has a run: --resume goes on with it, --overwrite deletes it, "
            "or choose another --output"
        )


def check_tokenizer(record: RunRecord, data: TrainingData) -> None:
    """Check that data was made with the tokenizer that the model was trained with.

    Raises:
        FitError: with another one
    """
    if data.tokenizer.hash != record.tokenizer_hash:
        raise FitError(
            f"{data.path} was made with tokenizer {data.tokenizer.hash}, the run with "
            f"{record.tokenizer_hash}: tokenize with the tokenizer of the run folder"
        )


def check_resumable(record: RunRecord, config: TrainConfig | None, data: TrainingData) -> None:
    """Check that the data, tokenizer and configuration are those the run began with.

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
    differences = [] if config is None else list(config_differences(record.config, config))
    if differences:
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
