"""Training examples to a model, and what it answers.

tokens/ or shards/ --train--> runs/NAME/ --evaluate, fill-mask, finetune, export--> answers, folders

    lmmodel.train("shards/", "runs/wiki", model="mini", num_steps=1000)
    lmmodel.evaluate("runs/wiki").loss
    lmmodel.finetune("runs/wiki", "sequence-classification", "films.tsv", output="runs/films")
    lmmodel.export("runs/films", "films-hf/")
    lmmodel.serve("runs/films", port=8000)

    lmmodel.load("runs/wiki").fill_mask("The capital of France is [MASK].")
    lmmodel.load("runs/wiki").embed(["A cat sleeps.", "A dog barks."])
    lmmodel.load("runs/wiki-sequence-classification").classify("What a film!")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmmodel.asking import Pretrained, Specialist
    from lmmodel.evaluation import Evaluation
    from lmmodel.exporting import Export
    from lmmodel.finetuner import FinetuneResult
    from lmmodel.finetuning.fit import FitProgress
    from lmmodel.ngrams import NgramModel
    from lmmodel.predicting.answering import FileScores
    from lmmodel.training.loop import Summary
    from lmmodel.training.reporting import Listener

__all__ = ["evaluate", "export", "finetune", "load", "serve", "train"]


def load(path: Path | str, device: str = "auto") -> Pretrained | Specialist | NgramModel:
    """Return the model in a folder, ready to answer.

    Args:
        path: what `lmmodel train` or `lmmodel import` wrote: a `Pretrained`, with `.fill_mask`,
            `.score`, `.embed` and `.generate`; or what `lmmodel finetune` wrote: a `Specialist`,
            with `.classify`, `.tag` and `.answer`; or what `lmmodel count` wrote: an `NgramModel`,
            with `.score` and `.generate`
        device: "auto" (a GPU if there is one), "cpu" or "cuda"

    Raises:
        RunError: no model there, no weights yet, or written by another version
        CheckpointError: the weights are damaged or of another model
        DeviceError: a GPU is asked for and there is none
    """
    from lmmodel.asking import load_pretrained, load_specialist
    from lmmodel.counting.folder import is_ngrams
    from lmmodel.finetuning.folder import is_fine_tuned

    if is_ngrams(path):
        from lmmodel.ngrams import load_ngrams

        return load_ngrams(path)
    return load_specialist(path, device) if is_fine_tuned(path) else load_pretrained(path, device)


def _place(path: Path | str | None) -> Path | str | None:
    """Return a path, or a URI as it is."""
    return path if path is None or "://" in str(path) else Path(path)


def train(
    data: Path | str | None, output: Path | str, *, model: str | None = None,
    family: str | None = None, objective: str | None = None, init_from: Path | str | None = None,
    num_steps: int | None = None, num_epochs: float | None = None,
    num_minutes: float | None = None, seed: int | None = None, device: str | None = None,
    settings: Mapping[str, Any] | None = None, resume: bool = False, overwrite: bool = False,
    progress: Listener | None = None,
) -> Summary:  # fmt: skip
    """Train a model into a run folder: `lmmodel train`.

    What is None is left to its default, or with `resume` to what the run began with.

    Args:
        data: a token store, viewed afresh in each epoch, or frozen shards; also by its URI
        output: the run folder, or its URI
        model: a published size, such as "mini"
        family: how the model is built, such as "bert"
        objective: what it learns; None: what the family is for
        init_from: begin with the model of this run instead of a fresh one
        num_steps: budget in optimizer steps
        num_epochs: budget in passes over the data
        num_minutes: budget in wall-clock time
        seed: of every random draw
        device: "auto" (a GPU if there is one), "cpu" or "cuda"
        settings: any others by their keys, such as `{"optimizer.lr": 1e-3, "batch.size": 64}`
        resume: go on from the newest checkpoint, bit for bit
        overwrite: replace the run that is there
        progress: called with each report

    Raises:
        LmmodelError, LmdataError: anything that the user can mend; nothing is lost
    """
    from lmmodel.config import change_config, load_train_config
    from lmmodel.saving.run import read_record
    from lmmodel.trainer import train as run_training

    named = {
        "model.size": model, "model.family": family, "objective.name": objective,
        "init_from": init_from and str(init_from), "budget.num_steps": num_steps,
        "budget.num_epochs": num_epochs, "budget.num_minutes": num_minutes, "seed": seed,
        "device": device,
    }  # fmt: skip
    given = {
        **{key: value for key, value in named.items() if value is not None},
        **(settings or {}),
    }
    config = None
    if not resume:
        config = load_train_config(options=given)
    elif any(value is not None for value in given.values()):
        config = change_config(read_record(Path(output)).config, options=given)
    return run_training(
        config, _place(data), _place(output) or Path(), resume=resume,
        overwrite=overwrite, progress=progress,
    )  # fmt: skip


def finetune(
    run: Path | str, task: str, train: Path | str, validation: Path | str | None = None, *,
    output: Path | str, num_seeds: int | None = None, num_epochs: int | None = None,
    seed: int | None = None, device: str | None = None, settings: Mapping[str, Any] | None = None,
    overwrite: bool = False, progress: Callable[[FitProgress], None] | None = None,
) -> FinetuneResult:  # fmt: skip
    """Fine-tune a pretrained model on a task, several seeds, the best one kept: `lmmodel finetune`.

    Args:
        run: folder of a trained or imported model
        task: such as "sequence-classification"; others are named by a wrong one
        train: task file: TSV, CSV, JSON lines, Parquet, CoNLL-U or SQuAD JSON
        validation: task file that gives the scores; None: a tenth of `train`
        output: folder to write
        num_seeds: trainings, of which the best is kept
        num_epochs: passes over the training file at most
        seed: the first
        device: "auto" (a GPU if there is one), "cpu" or "cuda"
        settings: any others by their keys, such as `{"columns.text": "sentence", "lr": 3e-5}`
        overwrite: replace the fine-tuned model that is there
        progress: called after each step

    Raises:
        LmmodelError, LmdataError: anything that the user can mend; nothing was written
    """
    from lmdata.config import load_config
    from lmmodel.finetuner import finetune as run_finetuning
    from lmmodel.finetuning.data import FinetuneConfig

    named = {"task": task, "num_seeds": num_seeds, "num_epochs": num_epochs, "seed": seed,
             "device": device}  # fmt: skip
    given = {
        **{key: value for key, value in named.items() if value is not None},
        **(settings or {}),
    }
    config = load_config(FinetuneConfig, options=given)
    return run_finetuning(
        run, config, train, validation, output, overwrite=overwrite, report=progress
    )


def evaluate(
    model: Path | str, data: Path | str | None = None, *, split: str = "validation",
    num_examples: int | None = None, device: str = "auto",
    columns: Mapping[str, Any] | None = None,
) -> Evaluation | FileScores:  # fmt: skip
    """Return how good a model is on what it was not trained on: `lmmodel evaluate`.

    Args:
        model: a run, or a fine-tuned model
        data: of a run: a token store or shards; None: those it was trained on. Of a fine-tuned
            model: a task file
        split: of a run's data
        num_examples: of a run's data; None: as many as during training
        device: "auto" (a GPU if there is one), "cpu" or "cuda"
        columns: of a task file, such as `{"text": "sentence"}`; None: by their usual names

    Raises:
        ValueError: a fine-tuned model without a task file
        LmmodelError, LmdataError: no model there, or data that does not fit it
    """
    from lmmodel.finetuning.folder import is_fine_tuned, load_fine_tuned

    if not is_fine_tuned(Path(model)):
        from lmmodel.evaluation import evaluate_run

        return evaluate_run(
            Path(model), _place(data), split=split, num_examples=num_examples, device=device
        )
    if data is None:
        raise ValueError(f"{model} is fine-tuned: name the task file to score it on as data")
    from lmmodel.predicting.answering import score_file
    from lmmodel.predicting.given import open_table, usual_of

    tuned = load_fine_tuned(Path(model), device)
    usual = usual_of(tuned.record)
    file = open_table(Path(data), usual, tuned.record, columns or {}, has_labels=True)
    return score_file(tuned, file)


def export(
    run: Path | str, output: Path | str, *, overwrite: bool = False, onnx: bool = False
) -> Export:
    """Write a model as a folder that a stock transformers class opens: `lmmodel export`.

    Args:
        run: a run, or a fine-tuned model
        output: folder to write
        overwrite: replace the export that is there
        onnx: write onnx/model.onnx as well

    Raises:
        LmmodelError, LmdataError: no model there, other numbers than transformers', or no place
    """
    from lmmodel.exporting import export_run

    return export_run(run, output, overwrite=overwrite, onnx=onnx)


def serve(
    *models: Path | str, host: str | None = None, port: int | None = None,
    device: str | None = None, settings: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> int:  # fmt: skip
    """Answer over HTTP what models can be asked, until a signal: `lmmodel serve`.

    Args:
        models: folders, each called by its own name or by the one in NAME=FOLDER
        host: address to listen at; None: this machine alone
        port: None: 8000; 0: any that is free
        device: "auto" (a GPU if there is one), "cpu" or "cuda"
        settings: any others by their keys, such as `{"engine.max_batch_tokens": 4096}`
        say: told what a user should know, a line each

    Returns:
        The number of requests that were not finished.

    Raises:
        LmmodelError: the port can't be had, or a model can't be opened
    """
    from lmdata.config import load_config
    from lmmodel.serving.server import ServeConfig, name_folders
    from lmmodel.serving.server import serve as run_server

    named = {"host": host, "port": port, "device": device}
    given = {
        **{key: value for key, value in named.items() if value is not None},
        **(settings or {}),
    }
    config = load_config(ServeConfig, options=given)
    return run_server(name_folders([str(model) for model in models]), config, say)
