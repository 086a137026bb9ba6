"""All that a page says of runs and fine-tuned models, one or several side by side, as data.

The same folders give the same report. What a training does not keep is not made up: curves, times
and guesses come from metrics.jsonl, settings from config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmdata.config import changes, config_to_dict
from lmdata.page import flat_settings
from lmdata.schema import MANIFEST_NAME
from lmmodel.doctor import Diagnosis, diagnose
from lmmodel.errors import LmmodelError, RunError
from lmmodel.finetuning.folder import is_fine_tuned, read_fine_tuned_record
from lmmodel.minimal_pairs import ParadigmScore, read_pairs, score_pairs
from lmmodel.reporting.history import History, read_history
from lmmodel.reporting.tuned import TunedReport, report_tuned
from lmmodel.saving.metrics import METRICS_NAME, read_metrics
from lmmodel.saving.run import read_record
from lmmodel.trained import load_run

MOST_RUNS = 8  # side by side: as many as there are colours

Cell = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class PairReport:
    """How often the acceptable sentence of a minimal pair is the likelier one."""

    path: str
    score: str
    total: ParadigmScore
    paradigms: tuple[ParadigmScore, ...]


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """One run, imported model or fine-tuned model."""

    name: str
    path: str
    kind: str  # "run", "imported run", "fine-tuned model"
    model: str  # family and shape
    objective: str  # or the task
    num_parameters: int
    num_steps: int | None  # of the whole run
    is_finished: bool | None
    history: History | None  # None of a fine-tuned model
    tuned: TunedReport | None
    pairs: PairReport | None
    diagnosis: Diagnosis | None  # None of imported and fine-tuned models
    settings: Mapping[str, Cell]
    environment: Mapping[str, Cell]
    origin: Mapping[str, Cell]  # the data, and what it began with


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting, or a fact of the machine or the data, in which runs differ."""

    name: str
    values: tuple[Cell, ...]  # one a run


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """What there is to say of runs."""

    runs: tuple[RunReport, ...]
    differences: tuple[Difference, ...]


def model_report(
    paths: Sequence[Path],
    *,
    pairs_path: Path | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> ModelReport:
    """Return the report on runs and fine-tuned models.

    Args:
        paths: of their folders, at most `MOST_RUNS`
        pairs_path: minimal pairs to score the runs on, a file or a folder of them
        device: where fine-tuned models answer and pairs are scored
        progress: called with the tokens scored and their number

    Raises:
        RunError: too many, one twice, or no run there
        LmmodelError: as `read_pairs` and `score_pairs`
    """
    if len(paths) > MOST_RUNS:
        raise RunError(
            f"at most {MOST_RUNS} runs can be told apart side by side, got {len(paths)}: name fewer"
        )
    resolved = [path.resolve() for path in paths]
    if twice := [
        path for path, own in zip(paths, resolved, strict=True) if resolved.count(own) > 1
    ]:
        raise RunError(f"{twice[0]} is named twice: name each run once")
    names = _short_names(resolved)
    runs = tuple(
        _report(path, name, pairs_path, device, progress)
        for path, name in zip(paths, names, strict=True)
    )
    return ModelReport(runs=runs, differences=tuple(_differences(runs)))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the last part of each path, or as many as tell them apart.

    Example:
        >>> _short_names([Path("/a/x"), Path("/b/x")]), _short_names([Path("/a/x"), Path("/a/y")])
        (['a/x', 'b/x'], ['x', 'y'])
    """
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _report(
    path: Path,
    name: str,
    pairs_path: Path | None,
    device: str,
    progress: Callable[[int, int], None] | None,
) -> RunReport:
    if (path / MANIFEST_NAME).is_file():
        raise RunError(f"{path} is a dataset: `lmdata report {path}` describes it")
    entries = read_metrics(path / METRICS_NAME)
    if is_fine_tuned(path):
        return _report_tuned(path, name, entries, device)
    record = read_record(path)
    history = read_history(entries)
    model, data = record.config.model, {"data": record.data_path, "data hash": record.data_hash}
    pairs = None if pairs_path is None else _score(path, pairs_path, device, progress)
    return RunReport(
        name=name,
        path=str(path),
        kind="imported run" if record.is_imported else "run",
        model=f"{model.family}, {model.num_hidden_layers} × {model.hidden_size}",
        objective=record.config.objective.name,
        num_parameters=model.num_parameters,
        num_steps=None if record.is_imported else record.num_steps,
        is_finished=None if record.is_imported else history.last_step >= record.num_steps,
        history=history,
        tuned=None,
        pairs=pairs,
        diagnosis=None if record.is_imported else _diagnose(path, history),
        settings=flat_settings(config_to_dict(record.config)),
        environment=dict(record.environment),
        origin=flat_settings(
            {**data, "tokenizer hash": record.tokenizer_hash, "began with": record.origin or {}}
        ),
    )


def _report_tuned(
    path: Path, name: str, entries: Sequence[Mapping[str, Any]], device: str
) -> RunReport:
    record = read_fine_tuned_record(path)
    model = record.model
    return RunReport(
        name=name,
        path=str(path),
        kind="fine-tuned model",
        model=f"{model.family}, {model.num_hidden_layers} × {model.hidden_size}",
        objective=record.task,
        num_parameters=model.num_parameters,
        num_steps=None,
        is_finished=None,
        history=None,
        tuned=report_tuned(path, record, entries, device),
        pairs=None,
        diagnosis=None,
        settings=flat_settings(config_to_dict(record.config)),
        environment=dict(record.environment),
        origin=flat_settings(
            {"began with": record.origin, "data": record.data,
             "tokenizer hash": record.tokenizer_hash}
        ),
    )  # fmt: skip


def _diagnose(path: Path, history: History) -> Diagnosis:
    """Return what is wrong with a run; of one that can't be looked at, why not."""
    try:
        return diagnose(path)
    except LmmodelError as error:
        return Diagnosis(num_steps=history.last_step, findings=(), notes=(str(error),))


def _score(
    path: Path, pairs_path: Path, device: str, progress: Callable[[int, int], None] | None
) -> PairReport:
    found = score_pairs(load_run(path, device), read_pairs(pairs_path), progress=progress)
    return PairReport(
        path=str(pairs_path), score=found.score, total=found.total, paradigms=found.paradigms
    )


def _differences(runs: Sequence[RunReport]) -> list[Difference]:
    """Return in what the settings, machines and data of runs differ."""
    facts = [
        {**{f"settings: {k}": v for k, v in run.settings.items()},
         **{f"machine: {k}": v for k, v in run.environment.items()},
         **{f"origin: {k}": v for k, v in run.origin.items()}}
        for run in runs
    ]  # fmt: skip
    names = dict.fromkeys(name for other in facts[1:] for name, _, _ in changes(facts[0], other))
    return [Difference(name=name, values=tuple(own.get(name) for own in facts)) for name in names]
