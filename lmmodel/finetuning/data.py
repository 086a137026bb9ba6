"""What decides a fine-tuning: its settings, and both files as what is learned and scored."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmdata.order import permute
from lmdata.tokenizer import Tokenizer
from lmmodel.errors import FitError
from lmmodel.families import ModelConfig
from lmmodel.optimizing import LoraConfig, OptimizerConfig, Part, ScheduleConfig, check_lora
from lmmodel.tasks.examples import Predictions, TaskExamples
from lmmodel.tasks.known import find_task, read_task_file
from lmmodel.tasks.task import AnyTask, Scores, encode_task, make_predictions
from lmmodel.tasks.task_files import TaskFile, TaskFormat, hash_task_file
from lmmodel.texts import Integers


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A fine-tuning."""

    task: str
    """What is learned: the name of a task."""
    columns: TaskFormat = field(default_factory=TaskFormat)
    """Where the task files have their texts and labels."""
    validation_has_header: bool | None = None
    """Whether the validation file has a header; None: as `columns.has_header` says."""
    validation_ratio: float = 0.1
    """Share of the training file that validates where no other file does, in (0, 1)."""
    score: str | None = None
    """Score of the validation file that decides on the best weights; None: the task's first."""
    max_seq_length: int | None = None
    """Tokens of the longest example, special ones included; None: 128, or what the model takes."""
    num_epochs: int = 4
    """Passes over the training file, at least 1."""
    batch_size: int = 16
    """Examples of a step, at least 1."""
    num_seeds: int = 3
    """Trainings with the seeds `seed`, `seed` + 1, ...: at least 1."""
    seed: int = 0
    """Of the head's weights, the order and dropout: in [0, 2**63)."""
    trainable: Part = "full"
    """What is trained beside the head of the task: full, ffn (the feed-forward networks), head
    (nothing else), bias, or lora (thin pairs beside the matrices, added to them at the end)."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Of trainable=lora."""
    model: ModelConfig | None = None
    """Shape of a model that begins with random weights, where there is no run."""
    vocab_size: int = 8000
    """Pieces of a tokenizer that is learned from the training file at most, where none is given."""
    from_scratch: bool = False
    """Whether the model starts from random weights of the same shape, to compare."""
    evaluations_per_epoch: int = 1
    """How often the validation file is scored, at least 1."""
    patience: int | None = 2
    """Evaluations in a row without a better score after which training stops, at least 1; none:
    never."""
    lr: float | None = None
    """AdamW's peak learning rate, in (0, 1]; None: what suits the model's size, `default_lr`."""
    weight_decay: float = 0.01
    """Share of a weight lost per step at learning rate 1."""
    warmup_ratio: float = 0.1
    """Share of the steps in which the rate rises, in [0, 1); then it falls to 0 in a line."""
    dropout: float = 0.1
    """Probability of dropout everywhere in the model, in [0, 1)."""
    label_smoothing: float = 0.0
    """Of sequence-to-sequence: share of a token's probability that all others have, in [0, 1)."""
    prefix: str = ""
    """Of sequence-to-sequence: text before every source, "translate English to German: "."""
    max_target_length: int | None = None
    """Of sequence-to-sequence: tokens of the longest target; None: as `max_seq_length`."""
    num_beams: int = 1
    """Of sequence-to-sequence: hypotheses that are followed for the scores, at least 1."""
    num_averaged: int | None = None
    """At the end the mean of the weights at the last so many evaluations is scored too; 1: it is
    not. None: 5 where random weights learn to write (Vaswani et al., 2017, section 6.1), else 1."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm, above 0; none: never."""
    micro_batch_tokens: int = 4096
    """Tokens of one forward pass, at least 1; nearly no effect on the result."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Numbers of the products; weights stay fp32. auto: bf16 where the hardware has it."""

    def __post_init__(self) -> None:
        scores = find_task(self.task).stopping_scores
        if self.score is not None and self.score not in scores:
            raise ValueError(
                f"score must be one of {', '.join(scores)} for {self.task}, got {self.score!r}"
            )
        if not 0 < self.validation_ratio < 1:
            raise ValueError(f"validation_ratio must be in (0, 1), got {self.validation_ratio}")
        check_lora(self.trainable, self.lora)
        for name in ("num_epochs", "batch_size", "num_seeds", "evaluations_per_epoch",
                     "micro_batch_tokens"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63 - self.num_seeds:
            raise ValueError(f"seed must be in [0, 2**63), got {self.seed}")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1 or none, got {self.patience}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")
        if self.max_target_length is not None and self.max_target_length < 4:
            raise ValueError(f"max_target_length must be at least 4, got {self.max_target_length}")
        for name in ("num_beams", "num_averaged"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be above 0 or none, got {self.max_grad_norm}")
        if self.max_seq_length is not None and self.max_seq_length < 4:
            raise ValueError(f"max_seq_length must be at least 4, got {self.max_seq_length}")
        if not self.columns.has_labels:
            raise ValueError("columns.has_labels must be true: there is nothing to learn without")
        _ = self.optimizer_config(self.peak_lr(768)), self.schedule_config  # check their own ranges

    @property
    def validation_columns(self) -> TaskFormat:
        """Where the validation file has its texts and labels."""
        if self.validation_has_header is None:
            return self.columns
        return dataclasses.replace(self.columns, has_header=self.validation_has_header)

    @property
    def best_score(self) -> str:
        """The score that decides."""
        return find_task(self.task).stopping_scores[0] if self.score is None else self.score

    def peak_lr(self, hidden_size: int) -> float:
        """Return AdamW's peak learning rate for a model of this width."""
        return default_lr(hidden_size, self.trainable) if self.lr is None else self.lr

    def optimizer_config(self, lr: float) -> OptimizerConfig:
        """Return AdamW with the settings of BERT's fine-tuning (Devlin et al., 2019, A.3)."""
        return OptimizerConfig(
            name="adamw", lr=lr, betas=(0.9, 0.999), weight_decay=self.weight_decay
        )

    @property
    def schedule_config(self) -> ScheduleConfig:
        """A line up and a line down."""
        return ScheduleConfig(kind="linear", warmup_ratio=self.warmup_ratio)


def default_lr(hidden_size: int, trainable: Part = "full") -> float:
    """Return a peak learning rate by the model's width; small parts alone take ten times as much.

    It falls with the square of the width: near the 5e-5 of BERT base (Devlin et al., 2019, A.3) at
    768 features, 4e-4 at 256, where 3e-4 to 1e-3 was measured to be best.

    Example:
        >>> [default_lr(size) for size in (128, 256, 512, 768)]
        [0.001, 0.0004, 9.9e-05, 4.4e-05]
    """
    lr = min(26 / hidden_size**2, 1e-3) * (10 if trainable in ("head", "bias", "lora") else 1)
    return float(f"{lr:.2g}")


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Both files of a task, ready for a model."""

    task: AnyTask
    labels: tuple[str, ...]
    train: TaskExamples
    rows: Any  # of the validation file
    validation: TaskExamples
    references: Any  # of the validation file, as the task scores by them
    notes: tuple[str, ...] = ()  # what was guessed, or is remarkable

    @property
    def num_outputs(self) -> int:
        """C: logits of a sequence or token."""
        return self.task.num_outputs(self.labels)

    def predict(self, logits: Any) -> Predictions:
        """Return what logits of the validation examples say about its rows."""
        return make_predictions(self.task, self.validation, logits, self.rows, self.labels)

    def score(self, logits: Any) -> Scores:
        """Return the scores of logits of the validation examples."""
        return self.task.score(self.predict(logits), self.references, self.labels)


def read_data(
    config: FinetuneConfig, tokenizer: Tokenizer, train: Path, validation: Path | None,
    model: ModelConfig | None = None,
) -> TaskData:  # fmt: skip
    """Return both files as examples, the labels taken from the training file.

    Args:
        config: resolved
        tokenizer: of the model
        train: task file
        validation: task file, or None: a share of the training file
        model: its shape; None: of one stream, whatever the task asks for

    Raises:
        TaskError: a column is missing, a label of the validation file is unknown, ...
        FitError: no example is left to learn or to score
    """
    assert config.max_seq_length is not None
    task, train_file = find_task(config.task), TaskFile(train, config.columns)
    train_rows = read_task_file(train_file, task, config.columns)
    settled = task.settle(train_rows)
    if model is not None:
        settled = settled.bound(tokenizer, model, config)
    labels, notes = settled.find_labels(train_rows), list(train_file.notes)
    if settled.name != task.name:
        notes.append(f"{train}: learned as {settled.name}, which its labels are")
    if validation is None:
        train_rows, rows = split_rows(settled, train_rows, config)
        notes.append(f"{len(rows):,} of its rows validate, {len(train_rows):,} are learned from")
    else:
        file = TaskFile(validation, config.validation_columns)
        rows = read_task_file(file, settled, config.validation_columns)
        notes += [note for note in file.notes if note not in notes]
        notes += _remarks(train, validation, config.columns)
    settled.check_validation(train_rows, rows)
    wanted = settled.references(rows, labels)
    encode = functools.partial(
        encode_task, settled, tokenizer=tokenizer, labels=labels,
        max_seq_length=config.max_seq_length,
    )  # fmt: skip
    learned, scored = encode(train_rows, is_training=True), encode(rows, is_training=False)
    for path, examples in ((train, learned), (validation or train, scored)):
        if not len(examples):
            why = ", ".join(f"{count} {reason}" for reason, count in examples.counts.items())
            raise FitError(f"{path} leaves no example ({why or 'it has no rows'})")
    return TaskData(
        task=settled, labels=labels, train=learned, rows=rows, validation=scored,
        references=wanted, notes=tuple(notes),
    )  # fmt: skip


def split_rows(task: AnyTask, rows: Any, config: FinetuneConfig) -> tuple[Any, Any]:
    """Return the rows to learn from and those to validate by, drawn by the seed.

    Rows that belong together, such as questions about one passage, stay together.

    Raises:
        FitError: there are too few
    """
    groups, number = np.unique(task.groups(rows), return_inverse=True)
    num_groups = len(groups)
    num_held = max(1, round(config.validation_ratio * num_groups))
    if num_groups < 2 or num_held >= num_groups:
        raise FitError(
            f"{rows.path} has too few rows to hold some back ({len(rows)}): give --validation"
        )
    held = permute(np.arange(num_groups), num_groups, seed=config.seed, epoch=0)[:num_held]
    is_held = np.isin(number, held)
    parts: tuple[Integers, Integers] = (np.flatnonzero(~is_held), np.flatnonzero(is_held))
    return task.take_rows(rows, parts[0]), task.take_rows(rows, parts[1])


def _remarks(train: Path, validation: Path, columns: TaskFormat) -> list[str]:
    """Return a remark where both files hold the same."""
    hashes = {hash_task_file(path, columns) for path in (train, validation)}
    if len(hashes) > 1:
        return []
    return [
        f"{validation} is the training file: its scores say how well it is known by heart, not "
        "how well new texts are told; leave --validation out to hold some rows back"
    ]


def best_score(config: FinetuneConfig, data: TaskData) -> str:
    """Return the score that decides: the one asked for, or the first of the task.

    Raises:
        FitError: there is nothing to score, or no such score for these labels
    """
    num_logits = (
        len(data.validation) if data.task.is_over_sequences else len(data.validation.input_ids)
    )
    blank: Any = np.zeros((num_logits, data.num_outputs), np.float32)
    if data.task.writes:
        blank = [np.zeros(0, np.int64)] * num_logits
    try:
        known = data.score(blank)
    except ValueError as error:
        raise FitError(f"{data.rows.path}: {error}") from error
    scores = [name for name in data.task.stopping_scores if name in known]
    wanted = config.score if config.score in data.task.stopping_scores else None
    if wanted is not None and wanted not in scores:
        raise FitError(f"there is no {wanted} for these labels: score may be {', '.join(scores)}")
    return wanted or scores[0]
