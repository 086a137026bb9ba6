"""A run folder to a stock Hugging Face folder, with the proof that the numbers agree."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmmodel.errors import HuggingFaceError, RunError
from lmmodel.huggingface import check_parity, export_model
from lmmodel.huggingface_names import architecture
from lmmodel.metrics import METRICS_NAME, read_metrics
from lmmodel.predict import Run, load_run

MAX_LOGIT_DIFFERENCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written, and how far its logits are from ours."""

    output: Path
    architecture: str  # the transformers class that opens it
    max_logit_difference: float | None  # None where transformers is not installed


def export_run(run_path: Path, output: Path, *, overwrite: bool = False) -> Export:
    """Write a folder that a stock transformers class opens; it appears whole or not at all.

    Raises:
        RunError: no run there, `output` exists, or it is no export and thus not replaced
        HuggingFaceError: transformers, where installed, computes other logits from the export
    """
    _check_replaceable(output, overwrite)
    run = load_run(run_path, device="cpu")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        export_model(run.model, run.tokenizer, temporary, figures=describe_run(run))
        difference = check_parity(run.model, temporary)
        _check_difference(difference)
        if output.exists():
            shutil.rmtree(output)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Export(
        output=output,
        architecture=architecture(run.model.config),
        max_logit_difference=difference,
    )


def _check_replaceable(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise RunError(f"{output} exists: add --overwrite to replace it, or choose another folder")
    is_empty = output.is_dir() and not any(output.iterdir())
    if not is_empty and not (output / "model.safetensors").is_file():
        raise RunError(
            f"{output} is no exported model, so --overwrite leaves it alone: choose another folder"
        )


def _check_difference(difference: float | None) -> None:
    if difference is not None and not difference <= MAX_LOGIT_DIFFERENCE:
        raise HuggingFaceError(
            f"transformers computes other logits from the export, by up to {difference:.2g} "
            f"(allowed {MAX_LOGIT_DIFFERENCE:g}): nothing was written; please report this"
        )


def describe_run(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return what a model card tells of a run: tables of names and values."""
    record, config = run.record, run.record.config
    training = {
        "Objective": config.objective.name,
        "Steps": f"{record.num_steps:,}",
        "Examples a step": config.batch.size,
        "Precision": config.precision,
        "Seed": config.seed,
    }
    data = {
        "Dataset manifest (xxh3)": f"`{record.data_hash}`",
        "Tokenizer (xxh3)": f"`{record.tokenizer_hash}`",
    }
    return {"Training": training, "Data": data, "Held-out figures": held_out_figures(run.path)}


def held_out_figures(run_path: Path) -> dict[str, Any]:
    """Return the last held-out figures in a run's metrics, empty where there are none."""
    prefix = "validation_"
    entries = [entry for entry in read_metrics(run_path / METRICS_NAME) if f"{prefix}loss" in entry]
    last = entries[-1] if entries else {}
    return {
        name.removeprefix(prefix).replace("_", " "): _rounded(value)
        for name, value in last.items()
        if name.startswith(prefix) and value is not None
    }


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
