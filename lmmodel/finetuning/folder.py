"""The folder of a fine-tuned model.

model.safetensors   the weights of the best seed
config.json         the task, its labels, the model's shape, where it comes from, its scores
tokenizer.json ...  the tokenizer's files
metrics.jsonl       one line an evaluation of each seed
scores.json         the scores of each seed, their mean and spread
confusion.png       which labels are taken for which; scatter.png where they are numbers
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmdata.config import build_config, config_to_dict, json_text
from lmdata.errors import ConfigError
from lmdata.files import write_atomically
from lmdata.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from lmmodel.device import resolve_device
from lmmodel.errors import CheckpointError, RunError
from lmmodel.families import ModelConfig
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.inference import state_of_weights
from lmmodel.saving.checkpoint import load_tensors, save_tensors
from lmmodel.saving.run import RECORD_NAME, WEIGHTS_NAME
from lmmodel.tasks.known import TASKS
from lmmodel.tasks.model import TaskModel, prepare_task
from lmmodel.tasks.task import AnyTask

# 2: whether numbers are of pairs was not said; 1: modern models spoke by their first token.
FORMAT_VERSION = 3
KIND = "fine-tuned"


@dataclass(frozen=True, kw_only=True)
class FineTunedRecord:
    """What config.json holds."""

    task: str  # its name
    labels: tuple[str, ...]  # by number; what they are is the task's
    max_seq_length: int  # tokens of the longest example
    model: ModelConfig
    config: FinetuneConfig  # resolved
    tokenizer_hash: str
    origin: dict[str, Any]  # the run that it began with
    data: dict[str, Any]  # files, hashes, and how many examples were made of how many rows
    figures: dict[str, Any]  # scores of the kept seed, mean and spread over the seeds
    environment: dict[str, str | int]
    has_pairs: bool  # whether it reads pairs of texts


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned model, its tokenizer and what it was trained by."""

    path: Path
    record: FineTunedRecord
    model: TaskModel  # float32, in evaluation mode
    tokenizer: Tokenizer
    device: torch.device
    _prepared: list[tuple[object, TaskModel]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

    def prepared(self) -> TaskModel:
        """Return the model with its products laid out: made at the first call, then kept.

        It is made anew where the weights were changed since.
        """
        state = state_of_weights(self.model)
        if not self._prepared or self._prepared[0][0] != state:
            self._prepared[:] = [(state, prepare_task(self.model))]
        return self._prepared[0][1]

    @property
    def task(self) -> AnyTask:
        """What it was fine-tuned for."""
        return self.model.task


def is_fine_tuned(path: Path | str) -> bool:
    """Whether a folder says that it holds a fine-tuned model."""
    try:
        values = json.loads((Path(path) / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("kind") == KIND


def load_fine_tuned(path: Path | str, device: str = "auto") -> FineTuned:
    """Return the model in a fine-tuned folder, ready to answer.

    Raises:
        RunError: no fine-tuned model there, or written by another version
        CheckpointError: the weights are missing, damaged or of another model
        DeviceError: a GPU is asked for and there is none
    """
    path = Path(path)
    record, where = read_fine_tuned_record(path), resolve_device(device)
    tokenizer = load_tokenizer(path)
    task = TASKS[record.task].bound(tokenizer, record.model, record.config)
    model = TaskModel(record.model, task, task.num_outputs(record.labels))
    try:
        model.load_state_dict(load_tensors(path / WEIGHTS_NAME))
    except RuntimeError as error:
        raise CheckpointError(
            f"{path / WEIGHTS_NAME} does not hold the weights that {RECORD_NAME} describes: {error}"
        ) from error
    return FineTuned(path, record, model.to(where).eval(), tokenizer, where)


def read_fine_tuned_record(folder: Path) -> FineTunedRecord:
    """Return what a fine-tuned folder says of itself.

    Raises:
        RunError: no fine-tuned model there, or written by another version
    """
    path = folder / RECORD_NAME
    if folder.is_file():
        raise RunError(f"{folder} is a file: name the folder of the fine-tuned model")
    if not folder.exists():
        raise RunError(f"there is no folder {folder}: `lmmodel finetune` makes a fine-tuned model")
    if not is_fine_tuned(folder):
        raise RunError(f"{folder} holds no fine-tuned model: `lmmodel finetune` makes one of a run")
    values = json.loads(path.read_text(encoding="utf-8"))
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise RunError(
            f"{path} has format {version}, this version reads {FORMAT_VERSION}: fine-tune again"
        )
    del values["kind"]
    if isinstance(config := values.get("config"), dict) and "freeze" in config:  # as it was called
        config["trainable"] = "head" if config.pop("freeze") else "full"
    try:
        record = build_config(FineTunedRecord, values)
    except ConfigError as error:
        raise RunError(f"{path} was not written by this version: {error}") from error
    if record.task not in TASKS:
        raise RunError(
            f"{path} is of the task {record.task!r}, which this version does not know: it knows "
            f"{', '.join(TASKS)}"
        )
    return record


def save_model(
    folder: Path, record: FineTunedRecord, weights: dict[str, Tensor], tokenizer: Tokenizer
) -> None:
    """Write the weights, the tokenizer and the record into an existing folder."""
    save_tensors(folder / WEIGHTS_NAME, weights)
    save_tokenizer(tokenizer, folder)
    values = {"format_version": FORMAT_VERSION, "kind": KIND, **config_to_dict(record)}
    write_atomically(folder / RECORD_NAME, json_text(values, indent=1, ensure_ascii=False) + "\n")


# Pictures.


# Labels beyond so many are too small to read in a picture: the rarest go into one.
MAX_LABELS = 30
OTHERS = "all others"
# A cell's share is written into it while it is still to be read.
MAX_WRITTEN = 18


def plot_confusion(
    counts: npt.NDArray[np.int64], labels: Sequence[str], path: Path, title: str
) -> None:
    """Write a picture of which labels are taken for which, each row as shares of its right label.

    Args:
        counts: int64 (C, C), rows are the right labels
        labels: C names
        path: a .png file
        title: of the picture
    """
    from matplotlib.figure import Figure

    counts, names = merge_rare(counts, labels, MAX_LABELS)
    names = [drawable(name) for name in names]
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)  # (C, C)
    side = 2.5 + 0.42 * max(len(names), 4)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90 if len(names) > 4 else 0, parse_math=False)
    rows = [f"{name} ({total:,})" for name, total in zip(names, totals[:, 0], strict=True)]
    axes.set_yticks(places, rows, parse_math=False)
    axes.set(xlabel="predicted", ylabel="right (how many)", title=title)
    if len(names) <= MAX_WRITTEN:
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            color = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=color, size=8)
    figure.colorbar(image, ax=axes, label="share of the right label", shrink=0.8)
    figure.savefig(path, dpi=120)


def drawable(text: str) -> str:
    """Return a text that the font of the picture can show: what it lacks, by its number."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else f"U+{ord(c):04X}" for c in text)


def merge_rare(
    counts: npt.NDArray[np.int64], labels: Sequence[str], most: int
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return a confusion of at most `most` labels, the rarest as one, in the order they had.

    Args:
        counts: int64 (C, C), rows are the right labels
        labels: C names
        most: at least 2

    Example:
        >>> counts = np.array([[5, 1, 0], [0, 1, 0], [1, 0, 2]])
        >>> merge_rare(counts, ["a", "b", "c"], 2)
        (array([[5, 1],
               [1, 3]]), ['a', 'all others'])
    """
    if len(labels) <= most:
        return counts, list(labels)
    common = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[: most - 1])
    group = np.full(len(labels), most - 1)
    group[common] = np.arange(most - 1)
    merged = np.zeros((most, most), np.int64)
    np.add.at(merged, (group[:, None], group[None, :]), counts)
    return merged, [*(labels[index] for index in common), OTHERS]


def plot_scatter(
    values: npt.NDArray[np.float64], references: npt.NDArray[np.float64], path: Path, title: str
) -> None:
    """Write a picture of predicted against right numbers.

    Args:
        values: float64 (R,) predictions
        references: float64 (R,)
        path: a .png file
        title: of the picture
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(references, values, s=12, alpha=0.4, linewidths=0)
    ends = [min(values.min(), references.min()), max(values.max(), references.max())]
    axes.plot(ends, ends, color="gray", linestyle="--", label="right")
    axes.ticklabel_format(style="sci", scilimits=(-3, 5))
    axes.set(xlabel="right number", ylabel="predicted", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
