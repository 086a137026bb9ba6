"""A run and two task files to a fine-tuned model: several seeds, the best one kept."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmdata.config import json_text
from lmdata.files import Kind, output_errors, write_atomically, writing_folder
from lmdata.tokenizer import TOKENIZER_FILES, Tokenizer
from lmmodel.adapters import Trained
from lmmodel.device import describe_environment, resolve_device, resolve_precision
from lmmodel.errors import FitError, RunError
from lmmodel.families import ModelConfig
from lmmodel.finetuning.data import FinetuneConfig, TaskData, best_score, read_data
from lmmodel.finetuning.fit import Fit, FitProgress, fit
from lmmodel.finetuning.folder import (
    FineTunedRecord,
    is_fine_tuned,
    plot_confusion,
    plot_scatter,
    save_model,
)
from lmmodel.model import Transformer
from lmmodel.packing import Padding
from lmmodel.saving.branch import hash_weights
from lmmodel.saving.metrics import METRICS_NAME
from lmmodel.saving.run import RECORD_NAME, WEIGHTS_NAME
from lmmodel.tasks.examples import Predictions, TaskExamples
from lmmodel.tasks.known import find_task
from lmmodel.tasks.model import TaskModel, adopt_weights, make_task_model
from lmmodel.tasks.scores import mean_and_spread
from lmmodel.tasks.task import Scores
from lmmodel.tasks.task_files import hash_task_file
from lmmodel.trained import load_run

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
NUM_AVERAGED = 5  # last evaluations of random weights that learn to write
DEFAULT_LENGTH = 128  # tokens, as the shards of pretraining have by default


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """What one seed came to, at its best evaluation."""

    seed: int
    scores: Scores
    best_epoch: float
    num_epochs: float  # trained until it was stopped
    num_averaged: int  # evaluations whose weights the best are the mean of; 1: of no others


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """What a fine-tuning came to."""

    output: Path
    task: str
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
    signatures: dict[str, str]  # how scores are computed, by name, where others define it
    samples: tuple[tuple[str, str, str], ...]  # sources, what was written, what is right
    notes: tuple[str, ...]  # what was guessed, or is remarkable
    trained: Trained  # what of the model moved
    padding: Padding  # of the first micro-batches
    picture: Path | None
    elapsed_s: float


def finetune(
    run: Path | str | None,
    config: FinetuneConfig,
    train: Path | str,
    validation: Path | str | None,
    output: Path | str,
    *,
    tokenizer: Tokenizer | None = None,
    overwrite: bool = False,
    report: Callable[[FitProgress], None] | None = None,
) -> FinetuneResult:
    """Fine-tune a pretrained model on a task, once a seed, and write the best into a folder.

    The folder appears whole or not at all. The best weights are those of the seed and moment with
    the highest score on the validation file; the mean over the seeds is what to compare by.

    Args:
        run: folder of a trained or imported model; None: random weights of `config.model`
        config: of the fine-tuning
        train: task file
        validation: task file with labels that the training file has; None: a share of the training
            file, which is then not learned from
        output: folder to write
        tokenizer: where there is no run
        overwrite: replace the fine-tuned model that is there
        report: called after each step

    Raises:
        LmmodelError, LmdataError: anything that the user can mend; nothing was written
    """
    started_s = time.perf_counter()
    train, output = Path(train), Path(output)
    validation = None if validation is None else Path(validation)
    with writing_folder(output, FINE_TUNED, overwrite=overwrite) as folder:
        source = _load_source(run, config, tokenizer)
        config = resolve_config(config, source)
        data = read_data(config, source.tokenizer, train, validation, source.model)
        config = dataclasses.replace(config, task=data.task.name, score=best_score(config, data))
        fits = [
            fit(start_model(source, config, data, seed=seed), data.train, data.validation,
                data.score, config.best_score, config, seed=seed, report=report)
            for seed in range(config.seed, config.seed + config.num_seeds)
        ]  # fmt: skip
        best = max(fits, key=lambda one: one.best.scores[config.best_score])
        result = _make_result(config, data, fits, best, output)
        record = describe_result(config, source, data, (train, validation or train), result)
        with output_errors(output):
            save_model(folder, record, best.best.weights, source.tokenizer)
            lines = [json_text(line) + "\n" for one in fits for line in one.log]
            write_atomically(folder / METRICS_NAME, "".join(lines))
            write_atomically(folder / SCORES_NAME, json_text(_figures(result), indent=1) + "\n")
            if result.picture is not None:
                draw_predictions(folder / result.picture.name, data, best, config)
    return dataclasses.replace(result, elapsed_s=time.perf_counter() - started_s)


@dataclass(frozen=True)
class Source:
    """What a fine-tuning begins with."""

    model: ModelConfig
    tokenizer: Tokenizer
    weights: Transformer | None  # None: random ones
    origin: dict[str, Any]  # what the record says of it
    name: str  # for errors


def _load_source(run: Path | str | None, config: FinetuneConfig, fresh: Tokenizer | None) -> Source:
    """Return the run, or a shape and a tokenizer for it.

    Raises:
        RunError: no run there, or a fine-tuned one
        FitError: both are given, or neither
    """
    if run is None:
        if config.model is None or fresh is None:
            raise FitError(
                "there is nothing to begin with: name a run, or a family of random weights "
                "(--family transformer)"
            )
        shape = dataclasses.replace(config.model, vocab_size=fresh.vocab_size)
        origin = {"run": "", "weights_xxh3": "", "from_scratch": True}
        return Source(shape, fresh, None, origin, f"family {shape.family}")
    if config.model is not None or fresh is not None:
        raise FitError(
            f"the shape and the tokenizer are those of {run}: leave --family, --model and "
            "--tokenizer out, or the run"
        )
    run = Path(run)
    if is_fine_tuned(run):
        raise RunError(
            f"{run} is fine-tuned already: begin with the pretrained run that its config.json "
            "names as its origin"
        )
    opened = load_run(run, device="cpu")
    origin = {
        "run": str(run.resolve()), "weights_xxh3": hash_weights(run),
        "from_scratch": config.from_scratch,
    }  # fmt: skip
    return Source(opened.model.config, opened.tokenizer, opened.model, origin, str(run))


def resolve_config(config: FinetuneConfig, source: Source) -> FinetuneConfig:
    """Return the configuration with what depends on model and machine filled in.

    Raises:
        FitError: `max_seq_length` exceeds what the model takes
        DeviceError: a GPU is asked for and there is none
    """
    most = source.model.max_position_embeddings
    if config.max_seq_length is not None and config.max_seq_length > most:
        raise FitError(
            f"max_seq_length={config.max_seq_length} exceeds the {most} positions of {source.name}"
        )
    device = resolve_device(config.device)
    is_new = config.from_scratch or source.weights is None
    is_averaged = is_new and find_task(config.task).writes
    return dataclasses.replace(
        config,
        max_seq_length=config.max_seq_length or min(most, DEFAULT_LENGTH),
        lr=config.peak_lr(source.model.hidden_size),
        model=None if config.model is None else source.model,
        from_scratch=is_new,
        num_averaged=config.num_averaged or (NUM_AVERAGED if is_averaged else 1),
        device="cuda" if device.type == "cuda" else "cpu",
        precision=resolve_precision(config.precision, device),
    )


def start_model(source: Source, config: FinetuneConfig, data: TaskData, *, seed: int) -> TaskModel:
    """Return the model that a seed begins with, on its device."""
    shape = task_shape(source, config)
    model = make_task_model(shape, data.task, data.num_outputs, seed=seed)
    if not config.from_scratch and source.weights is not None:
        adopt_weights(model, source.weights)
    data.task.prepare_head(model.head, data.train.labels)
    model.backbone.compute_dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return model.to(resolve_device(config.device))


def task_shape(source: Source, config: FinetuneConfig) -> ModelConfig:
    """Return the model's shape as the task has it: no head for sentence pairs, other dropout."""
    return dataclasses.replace(
        source.model,
        has_nsp_head=False,
        dropout=config.dropout,
        attention_dropout=config.dropout,
    )


def guess_scores(data: TaskData) -> Scores:
    """Return the scores of knowing only what is most frequent in training, {} where none is."""
    values = data.task.guess(data.train.labels, data.num_outputs, data.references)
    if values is None:
        return {}
    return data.task.score(Predictions(values=values), data.references, data.labels)


def draw_predictions(path: Path, data: TaskData, best: Fit, config: FinetuneConfig) -> None:
    """Write the picture of the best weights' predictions."""
    found = data.predict(best.best.logits)
    title = f"{config.best_score} {best.best.scores[config.best_score]:.3f}, seed {best.seed}"
    if data.task.draws_numbers():
        plot_scatter(np.asarray(found.values, np.float64), data.references, path, title)
    else:
        counts = data.task.confusion(found, data.references, len(data.labels))
        assert counts is not None
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
                       num_epochs=one.num_epochs, num_averaged=one.best.num_averaged)
            for one in fits
        ),
        mean={name: mean for name, (mean, _) in table.items()},
        spread={name: spread for name, (_, spread) in table.items()},
        guess=guess_scores(data),
        kept_seed=best.seed,
        num_train=len(data.train),
        num_validation=len(data.validation),
        counts={"train": dict(data.train.counts), "validation": dict(data.validation.counts)},
        signatures=data.task.signatures(data.references),
        samples=data.task.samples(data.rows, data.predict(best.best.logits), data.references),
        notes=data.notes,
        trained=best.trained,
        padding=best.padding,
        picture=_picture(data, best, output),
        elapsed_s=0.0,
    )  # fmt: skip


def _picture(data: TaskData, best: Fit, output: Path) -> Path | None:
    """Return where the picture goes; None where there is nothing to draw."""
    if data.task.draws_numbers():
        return output / SCATTER_NAME
    found = data.predict(best.best.logits)
    has_confusion = data.task.confusion(found, data.references, len(data.labels)) is not None
    return output / CONFUSION_NAME if has_confusion else None


def _figures(result: FinetuneResult) -> dict[str, Any]:
    names = ("best_score", "mean", "spread", "guess", "kept_seed")
    seeds = [dataclasses.asdict(one) for one in result.seeds]
    return {**{name: getattr(result, name) for name in names}, "seeds": seeds}


def describe_result(
    config: FinetuneConfig,
    source: Source,
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
        origin=source.origin,
        data={
            name: {"path": str(path.resolve()), "xxh3": hash_task_file(path, config.columns),
                   "num_rows": part.num_rows, "num_examples": len(part),
                   "counts": dict(part.counts)}
            for path, (name, part) in zip(files, examples.items(), strict=True)
        },
        figures=_figures(result),
        environment=describe_environment(resolve_device(config.device)),
        has_pairs=data.task.has_pairs(data.rows),
    )  # fmt: skip
