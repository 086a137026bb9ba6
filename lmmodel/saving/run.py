"""The run folder: what lies in runs/NAME/, and whether a run may go on there.

model.safetensors   the latest weights (the averaged ones where averaging is on)
config.json         the resolved configuration, the data's and the tokenizer's hash, the machine
tokenizer.json ...  the tokenizer's files
metrics.jsonl       one line a logged step
loss.png            the losses against the step
report.html         a page about it all, where one was asked for
checkpoints/        step-00001000/ ...
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmdata.config import build_config, config_to_dict, differences, json_text
from lmdata.errors import ConfigError
from lmdata.files import (
    output_errors,
    partial_path,
    remove,
    write_atomically,
)
from lmdata.stores import is_uri
from lmdata.tokenizer import Tokenizer, save_tokenizer
from lmmodel.adapters import merged
from lmmodel.config import TrainConfig, without_none
from lmmodel.data import TrainingData
from lmmodel.errors import ResumeError, RunError
from lmmodel.objectives import OBJECTIVES
from lmmodel.optimizing import LoraConfig
from lmmodel.record import CHECKPOINTS_NAME, FORMAT_VERSION, RUN_FILES, check_output, read_values
from lmmodel.record import RECORD_NAME as RECORD_NAME
from lmmodel.record import WEIGHTS_NAME as WEIGHTS_NAME
from lmmodel.saving.checkpoint import (
    TensorGroups,
    list_checkpoints,
    save_checkpoint,
    save_tensors,
)
from lmmodel.settings import MOST_STEPS

if TYPE_CHECKING:
    from torch import Tensor

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

    def __post_init__(self) -> None:
        if not 0 <= self.num_steps <= MOST_STEPS:
            raise ValueError(f"num_steps must be in [0, {MOST_STEPS:,}], got {self.num_steps}")

    @property
    def is_imported(self) -> bool:
        """Whether the model came from elsewhere: no data, no step of ours."""
        return not self.data_path


def new_record(
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
        data_path=data.name,
        data_hash=data.hash,
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
    config = without_none(values["config"], config_to_dict(TrainConfig()))
    try:
        return build_config(RunRecord, {**values, "config": config})
    except ConfigError as error:
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
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(RUN_FILES - {RECORD_NAME}):
            remove(folder / name)
            remove(partial_path(folder / name))
        remove(folder / RECORD_NAME)  # last: until then it is a run, which may be replaced
        save_tokenizer(tokenizer, folder)
        values = {"format_version": FORMAT_VERSION, **vars(record)}
        write_atomically(folder / RECORD_NAME, json_text(values, indent=1) + "\n")


def save_state(
    folder: Path, step: int, groups: TensorGroups, state: Mapping[str, Any], *, keep: int,
    config: TrainConfig | None = None,
) -> None:  # fmt: skip
    """Write a checkpoint, and beside the checkpoints the weights that are used: see its arguments.

    Raises:
        CheckpointError: the disk is full
    """
    save_checkpoint(folder / CHECKPOINTS_NAME, step, groups, state, keep=keep)
    save_weights(folder, groups, config)


def save_weights(folder: Path, groups: TensorGroups, config: TrainConfig | None = None) -> None:
    """Write the weights that are used: the averaged ones where there are, what pairs add in them.

    They are in the form that the objective of the configuration keeps.

    Raises:
        CheckpointError: the disk is full
    """
    lora = LoraConfig() if config is None else config.lora
    weights: Mapping[str, Tensor] = merged(groups.get("average", groups["model"]), lora)
    finish = None if config is None else OBJECTIVES[config.objective.name].finish
    if finish is not None:
        weights = finish(weights)
    save_tensors(folder / WEIGHTS_NAME, weights)


def own_data(folder: Path, record: RunRecord) -> Path | str:
    """Return the dataset that a run was trained on: its path, or its URI in a store.

    Raises:
        RunError: on none, because it was imported
    """
    if record.is_imported:
        raise RunError(
            f"{folder} was imported and has no data of its own: name a token store or shards, "
            f"made with `lmdata tokenize --tokenizer {folder}`"
        )
    return record.data_path if is_uri(record.data_path) else Path(record.data_path)


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
    if data.hash != record.data_hash:
        raise ResumeError(
            f"the run began with data {record.data_path} (manifest {record.data_hash}), "
            f"{data.path} is {data.hash}: resume with the same data, or start a new run"
        )


def check_same_config(record: RunRecord, config: TrainConfig) -> None:
    """Check that the settings that decide the weights are those the run began with.

    Raises:
        ResumeError: one differs; the message names it
    """
    before, after = (_settings_of_weights(each) for each in (record.config, config))
    if changes := list(differences(before, after)):
        raise ResumeError(
            f"the run began with another configuration: {'; '.join(changes)}. "
            "Resume with the same one (or none: it is remembered), or start a new run"
        )


def _settings_of_weights(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that decide the weights, as nested tables."""
    values = config_to_dict(config)
    for key in FREE_ON_RESUME:
        *tables, name = key.split(".")
        del functools.reduce(dict.__getitem__, tables, values)[name]
    return values
