"""A run and two task files to a fine-tuned model: several seeds, the best one kept."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmdata.files import Kind, output_errors, write_atomically, writing_folder
from lmdata.tokenizer import TOKENIZER_FILES, Tokenizer
from lmdata.xxh3 import hash_file
from lmmodel.device import describe_environment, resolve_device, resolve_precision
from lmmodel.errors import FitError, RunError, TaskError
from lmmodel.families import ModelConfig
from lmmodel.fine_tuned import FineTunedRecord, is_fine_tuned, save_model
from lmmodel.finetuning.answers import Predictions, make_predictions
from lmmodel.finetuning.examples import TaskExamples, encode_task
from lmmodel.finetuning.fit import Fit, Report, Scores, fit
from lmmodel.finetuning.pictures import plot_confusion, plot_scatter
from lmmodel.finetuning.rows import QuestionRows, TaskRows, find_labels, has_pairs, references
from lmmodel.finetuning.scores import confusion, mean_and_spread, score_task
from lmmodel.finetuning.settings import FinetuneConfig
from lmmodel.finetuning.task_files import read_task_file
from lmmodel.finetuning.tasks import TaskName
from lmmodel.saving.metrics import METRICS_NAME
from lmmodel.saving.run import RECORD_NAME, WEIGHTS_NAME
from lmmodel.task_model import TaskModel, adopt_weights, make_task_model
from lmmodel.trained import Run, load_run

SCORES_NAME = "scores.json"
CONFUSION_NAME = "confusion.png"
SCATTER_NAME = "scatter.png"
INTERVAL = ("accuracy_low", "accuracy_high")  # of one training: no figures to average
FINE_TUNED = Kind(
    "a fine-tuned model",
    is_fine_tuned,
    TOKENIZER_FILES
    | {RECORD_NAME, WEIGHTS_NAME, METRICS_NAME, SCORES_NAME, CONFUSION_NAME, SCATTER_NAME},
)
DEFAULT_LENGTH = 128  # tokens, as the shards of pretraining have by default


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """What one seed came to, at its best evaluation."""

    seed: int
    scores: Scores
    best_epoch: float
    num_epochs: float  # trained until it was stopped


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """What a fine-tuning came to."""

    output: Path
    task: TaskName
    labels: tuple[str, ...]
    best_score: str  # name of the score that decided
    seeds: tuple[SeedResult, ...]
    mean: Scores  # over the seeds
    spread: Scores  # sample standard deviation over the seeds, 0 where there is one
    guess: Scores  # of the answer most frequent in training; empty where there is none
    kept_seed: int
    num_train: int  # examples
    num_validation: int
    counts: dict[str, dict[str, int]]  # of each file, what was truncated, windowed or left out
    picture: Path | None
    elapsed_s: float


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Both files of a task, ready for a model."""

    labels: tuple[str, ...]
    train: TaskExamples
    rows: TaskRows  # of the validation file
    validation: TaskExamples
    references: Any  # of the validation file, as `score_task` takes them

    @property
    def num_outputs(self) -> int:
        """C: logits of a sequence or token."""
        if self.train.task == "question-answering":
            return 2
        return 1 if self.train.task == "regression" else len(self.labels)

    def predict(self, logits: np.ndarray) -> Predictions:
        """Return what logits of the validation examples say about its rows."""
        return make_predictions(self.validation, logits, self.rows)

    def score(self, logits: np.ndarray) -> Scores:
        """Return the scores of logits of the validation examples."""
        return score_task(self.train.task, self.predict(logits).values, self.references)


def finetune(
    run: Path | str,
    config: FinetuneConfig,
    train: Path | str,
    validation: Path | str,
    output: Path | str,
    *,
    overwrite: bool = False,
    report: Report | None = None,
) -> FinetuneResult:
    """Fine-tune a pretrained model on a task, once a seed, and write the best into a folder.

    The folder appears whole or not at all. The best weights are those of the seed and moment with
    the highest score on the validation file; the mean over the seeds is what to compare by.

    Args:
        run: folder of a trained or imported model
        config: of the fine-tuning
        train: task file
        validation: task file with labels that the training file has
        output: folder to write
        overwrite: replace the fine-tuned model that is there
        report: called after each step

    Raises:
        LmmodelError, LmdataError: anything that the user can mend; nothing was written
    """
    started_s = time.perf_counter()
    run, train, validation, output = map(Path, (run, train, validation, output))
    with writing_folder(output, FINE_TUNED, overwrite=overwrite) as folder:
        source = _load_source(run)
        config = resolve_config(config, source)
        data = read_data(config, source.tokenizer, train, validation)
        fits = [
            fit(start_model(source, config, data, seed=seed), data.train, data.validation,
                data.score, config.best_score, config, seed=seed, report=report)
            for seed in range(config.seed, config.seed + config.num_seeds)
        ]  # fmt: skip
        best = max(fits, key=lambda one: one.best.scores[config.best_score])
        result = _make_result(config, data, fits, best, output)
        record = make_record(config, source, data, (train, validation), result)
        with output_errors(output):
            save_model(folder, record, best.best.weights, source.tokenizer)
            lines = [json.dumps(line) + "\n" for one in fits for line in one.log]
            write_atomically(folder / METRICS_NAME, "".join(lines))
            write_atomically(folder / SCORES_NAME, json.dumps(_figures(result), indent=1) + "\n")
            if result.picture is not None:
                draw(folder / result.picture.name, data, best, config)
    return dataclasses.replace(result, elapsed_s=time.perf_counter() - started_s)


def _load_source(run: Path) -> Run:
    if is_fine_tuned(run):
        raise RunError(
            f"{run} is fine-tuned already: begin with the pretrained run that its config.json "
            "names as its origin"
        )
    return load_run(run, device="cpu")


def resolve_config(config: FinetuneConfig, source: Run) -> FinetuneConfig:
    """Return the configuration with what depends on model and machine filled in.

    Raises:
        FitError: `max_seq_length` exceeds what the model takes
        DeviceError: a GPU is asked for and there is none
    """
    most = source.model.config.max_position_embeddings
    if config.max_seq_length is not None and config.max_seq_length > most:
        raise FitError(
            f"max_seq_length={config.max_seq_length} exceeds the {most} positions of {source.path}"
        )
    device = resolve_device(config.device)
    return dataclasses.replace(
        config,
        max_seq_length=config.max_seq_length or min(most, DEFAULT_LENGTH),
        lr=config.peak_lr(source.model.config.hidden_size),
        score=config.best_score,
        device="cuda" if device.type == "cuda" else "cpu",
        precision=resolve_precision(config.precision, device),
    )


def read_data(
    config: FinetuneConfig, tokenizer: Tokenizer, train: Path, validation: Path
) -> TaskData:
    """Return both files as examples, the labels taken from the training file.

    Raises:
        TaskError: a column is missing, a label of the validation file is unknown, ...
        FitError: no example is left to learn or to score
    """
    assert config.max_seq_length is not None
    train_rows = read_task_file(train, config.task, config.columns)
    rows = read_task_file(validation, config.task, config.validation_columns)
    labels = find_labels(train_rows)
    wanted = references(rows, labels)
    _check_alike(train_rows, rows)
    length = config.max_seq_length
    learned = encode_task(train_rows, tokenizer, labels, length, is_training=True)
    scored = encode_task(rows, tokenizer, labels, length, is_training=False)
    for path, examples in ((train, learned), (validation, scored)):
        if not len(examples):
            why = ", ".join(f"{count} {reason}" for reason, count in examples.counts.items())
            raise FitError(f"{path} leaves no example ({why or 'it has no rows'})")
    return TaskData(
        labels=labels, train=learned, rows=rows, validation=scored, references=wanted
    )  # fmt: skip


def _check_alike(train: TaskRows, validation: TaskRows) -> None:
    """Check that the validation file can be scored by what is learned of the training file.

    Raises:
        TaskError: one has pairs, the other single texts
        FitError: no question has a right answer
    """
    if isinstance(validation, QuestionRows):
        texts = [answer.text for answers in validation.answers or () for answer in answers]
        if not any(map(str.strip, texts)):
            raise FitError(f"{validation.path} has no right answers to score by: add them")
    if has_pairs(train) != has_pairs(validation):
        one, other = (train, validation) if has_pairs(train) else (validation, train)
        raise TaskError(
            f"{one.path} has pairs, {other.path} single texts: name the columns of both by --text "
            "and --pair, or of single texts by --text"
        )


def start_model(source: Run, config: FinetuneConfig, data: TaskData, *, seed: int) -> TaskModel:
    """Return the model that a seed begins with, on its device."""
    shape = task_shape(source, config)
    model = make_task_model(shape, config.task, data.num_outputs, seed=seed)
    if not config.from_scratch:
        adopt_weights(model, source.model)
    if config.task == "regression":
        assert data.train.labels is not None
        model.head.scale = float(np.std(data.train.labels)) or 1.0
        if model.head.classifier.bias is not None:  # it is where the offset will be kept
            model.head.offset = float(np.mean(data.train.labels))
    model.backbone.compute_dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return model.to(resolve_device(config.device))


def task_shape(source: Run, config: FinetuneConfig) -> ModelConfig:
    """Return the model's shape as the task has it: no head for sentence pairs, other dropout."""
    return dataclasses.replace(
        source.model.config,
        has_nsp_head=False,
        dropout=config.dropout,
        attention_dropout=config.dropout,
    )


def guess_scores(data: TaskData) -> Scores:
    """Return the scores of always giving the label most frequent in training, {} without labels."""
    if not data.labels:
        return {}
    learned = np.asarray(data.train.labels)
    most_frequent = int(np.bincount(learned[learned >= 0]).argmax())
    values = np.full(len(data.references), most_frequent)
    return score_task(data.train.task, values, data.references)


def draw(path: Path, data: TaskData, best: Fit, config: FinetuneConfig) -> None:
    """Write the picture of the best weights' predictions."""
    values = data.predict(best.best.logits).values
    value = best.best.scores[config.best_score]
    title = f"{config.best_score} {value:.3f}, seed {best.seed}"
    if config.task == "regression":
        plot_scatter(np.asarray(values, np.float64), data.references, path, title)
    else:
        counts = confusion(values, data.references, len(data.labels))
        plot_confusion(counts, data.labels, path, title)


def _make_result(
    config: FinetuneConfig, data: TaskData, fits: Sequence[Fit], best: Fit, output: Path
) -> FinetuneResult:
    names = [name for name in best.best.scores if name not in INTERVAL]
    table = {name: mean_and_spread([one.best.scores[name] for one in fits]) for name in names}
    return FinetuneResult(
        output=output,
        task=config.task,
        labels=data.labels,
        best_score=config.best_score,
        seeds=tuple(
            SeedResult(seed=one.seed, scores=one.best.scores, best_epoch=one.best.epoch,
                       num_epochs=one.num_epochs)
            for one in fits
        ),
        mean={name: mean for name, (mean, _) in table.items()},
        spread={name: spread for name, (_, spread) in table.items()},
        guess=guess_scores(data),
        kept_seed=best.seed,
        num_train=len(data.train),
        num_validation=len(data.validation),
        counts={"train": dict(data.train.counts), "validation": dict(data.validation.counts)},
        picture=_picture(config.task, output),
        elapsed_s=0.0,
    )  # fmt: skip


def _picture(task: TaskName, output: Path) -> Path | None:
    if task == "question-answering":  # answers are no labels: nothing to confuse
        return None
    return output / (SCATTER_NAME if task == "regression" else CONFUSION_NAME)


def _figures(result: FinetuneResult) -> dict[str, Any]:
    names = ("best_score", "mean", "spread", "guess", "kept_seed")
    seeds = [dataclasses.asdict(one) for one in result.seeds]
    return {**{name: getattr(result, name) for name in names}, "seeds": seeds}


def make_record(
    config: FinetuneConfig,
    source: Run,
    data: TaskData,
    files: tuple[Path, Path],
    result: FinetuneResult,
) -> FineTunedRecord:
    """Return what config.json holds."""
    examples: Mapping[str, TaskExamples] = {"train": data.train, "validation": data.validation}
    assert config.max_seq_length is not None
    return FineTunedRecord(
        task=config.task,
        labels=data.labels,
        max_seq_length=config.max_seq_length,
        model=task_shape(source, config),
        config=config,
        tokenizer_hash=source.tokenizer.hash,
        origin={
            "run": str(source.path.resolve()),
            "weights_xxh3": hash_file(source.path / WEIGHTS_NAME),
            "from_scratch": config.from_scratch,
        },
        data={
            name: {"path": str(path.resolve()), "xxh3": hash_file(path), "num_rows": part.num_rows,
                   "num_examples": len(part), "counts": dict(part.counts)}
            for path, (name, part) in zip(files, examples.items(), strict=True)
        },
        figures=_figures(result),
        environment=describe_environment(resolve_device(config.device)),
        has_pairs=has_pairs(data.rows),
    )  # fmt: skip
