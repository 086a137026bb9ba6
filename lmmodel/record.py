"""What a run folder holds, by name, and how it is told from others; needs no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lmdata.config import read_json
from lmdata.errors import OutputError
from lmdata.files import Kind, check_replaceable
from lmdata.tokenizer import TOKENIZER_FILES
from lmmodel.errors import RunError

FORMAT_VERSION = 1
RECORD_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
BRANCH_NAME = "branch.safetensors"
NGRAM_KIND = "n-gram"
CHECKPOINTS_NAME = "checkpoints"
STEP_FOLDER = re.compile(r"step-(\d{8,})$")
EVENTS_NAME = "tensorboard"
REPORT_NAME = "report.html"
RUN_FILES = TOKENIZER_FILES | {
    RECORD_NAME, WEIGHTS_NAME, BRANCH_NAME, CHECKPOINTS_NAME, "metrics.jsonl", "loss.png",
    EVENTS_NAME, REPORT_NAME,
}  # fmt: skip


def read_values(folder: Path) -> dict[str, Any]:
    """Return what a run's config.json holds, unchecked but for its version and main tables.

    Raises:
        RunError: no run there, or written by another version
    """
    path = folder / RECORD_NAME
    values = _read_object(path)
    if values is None:
        raise RunError(_why_no_record(folder))
    if "model_type" in values or "hidden_size" in values:
        raise RunError(
            f"{folder} is a Hugging Face folder: make a run of it with "
            f"`lmmodel import {folder} runs/{folder.resolve().name}`"
        )
    if values.get("kind") == "fine-tuned":
        raise RunError(f"{folder} holds a fine-tuned model, a run is needed here")
    if values.get("kind") == "experts":
        raise RunError(
            f"{folder} holds experts, which score, fill-mask, embed, generate, evaluate and serve "
            "take: one run is needed here"
        )
    if values.get("kind") == NGRAM_KIND:
        raise RunError(
            f"{folder} holds an n-gram model, which evaluate, score, generate and export take: a "
            "run of a Transformer is needed here"
        )
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise RunError(f"{path} has format {version}, this version reads {FORMAT_VERSION}")
    config = values.get("config")
    if not isinstance(config, dict) or not all(
        isinstance(config.get(name), dict) for name in ("model", "objective")
    ):
        raise RunError(f"{path} is not the record of a run of this version: it has no settings")
    return values


def _why_no_record(folder: Path) -> str:
    from lmdata.schema import MANIFEST_NAME  # brings PyArrow, which a sound record needs not

    if not folder.exists():
        why = "there is no such folder; `lmmodel train` and `lmmodel import` make runs"
    elif (folder / MANIFEST_NAME).is_file():
        why = f"it is a dataset; `lmmodel train {folder}` makes a run of it"
    else:
        why = f"it has no {RECORD_NAME}"
    return f"{folder} holds no run: {why}"


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of any version: its record says so, nothing else is taken."""
    try:
        values = _read_object(folder / RECORD_NAME)
    except RunError:
        return False
    return values is not None and values.keys() >= {"format_version", "num_steps", "config"}


def _read_object(path: Path) -> dict[str, Any] | None:
    """Return a JSON object, None where there is no such file.

    Raises:
        RunError: it is something else
    """
    try:
        values = read_json(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise RunError(f"{path.parent} is a file: name the folder of the run") from error
    except (ValueError, OSError) as error:
        raise RunError(f"{path} is not the record of a run of this version: {error}") from error
    if not isinstance(values, dict):
        raise RunError(f"{path} is not the record of a run of this version: it holds no table")
    return values


RUN = Kind("a run", is_run, RUN_FILES)


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Check that a new run may be made here; anything but a run is never deleted.

    Raises:
        OutputError: there is a run already, or something that is not a run
    """
    resume = "--resume goes on with it, "
    check_replaceable(folder, RUN, overwrite=overwrite, instead=resume)
    events = folder / EVENTS_NAME
    found = _strangers_among(folder / CHECKPOINTS_NAME)
    if events.is_dir() and not events.is_symlink():
        found += [path for path in events.iterdir() if ".tfevents." not in path.name]
    if found:
        raise OutputError(
            f"{folder} holds more than a run (such as {found[0].relative_to(folder)}), which "
            "--overwrite would delete: move it away, or choose another place"
        )


def _strangers_among(folder: Path) -> list[Path]:
    """Return what lies among checkpoints and is none, nor one that was not finished."""
    if not folder.is_dir() or folder.is_symlink():
        return []
    own = re.compile(rf"\.?{STEP_FOLDER.pattern[:-1]}(\.partial)?$")
    return sorted(path for path in folder.iterdir() if not own.match(path.name))
