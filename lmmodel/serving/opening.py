"""Folders to models that are asked by name, and how far an answer depends on its neighbours."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lmdata.ragged import offsets_of
from lmmodel.errors import ServeError
from lmmodel.finetuning.folder import (
    FineTuned,
    is_fine_tuned,
    load_fine_tuned,
    read_fine_tuned_record,
)
from lmmodel.predicting.embedding import embed
from lmmodel.saving.run import read_record
from lmmodel.serving.question import Model
from lmmodel.tasks.examples import TaskExamples
from lmmodel.tasks.model import predict_logits
from lmmodel.texts import TextIds
from lmmodel.trained import load_run

_PROBES = (1, 2, 3, 7, 16, 31, 32, 33, 48)  # tokens of the texts that are tried


def name_folders(arguments: Sequence[str]) -> dict[str, Path]:
    """Return folders by the name that requests call them: their own, or one given as NAME=FOLDER.

    Raises:
        ServeError: two have one name, or none is given

    Example:
        >>> name_folders(["runs/wiki/", "films=runs/sst2"])
        {'wiki': PosixPath('runs/wiki'), 'films': PosixPath('runs/sst2')}
    """
    named: dict[str, Path] = {}
    for argument in arguments:
        name, equals, folder = argument.rpartition("=")
        if not equals or Path(argument).exists():
            name, folder = Path(argument).resolve().name, argument
        if name in named:
            raise ServeError(
                f"{named[name]} and {folder} are both called {name!r}: give one as NAME={folder}"
            )
        named[name] = Path(folder)
    if not named:
        raise ServeError("no model to serve: name the folder of a run or a fine-tuned model")
    return named


def check_folder(folder: Path) -> None:
    """Check that a folder says that it holds a model, without reading its weights.

    Raises:
        RunError: it does not
    """
    if is_fine_tuned(folder):
        read_fine_tuned_record(folder)
    else:
        read_record(folder)


def open_model(folder: Path, device: str) -> Model:
    """Return the model in a folder, its weights laid out.

    Raises:
        RunError, CheckpointError, DeviceError: as `load_run` and `load_fine_tuned`
    """
    model = load_fine_tuned(folder, device) if is_fine_tuned(folder) else load_run(folder, device)
    model.prepared()
    return model


def measure_dependence(model: Model) -> float:
    """Return the largest difference that neighbours make to what a model computes of a text.

    Texts of several lengths are computed each alone, then all together, and compared. On a CPU in
    float32 it is 0.
    """
    size = model.model.config.vocab_size
    assert size is not None
    most = model.model.config.max_position_embeddings - 2
    lengths = np.array([length for length in _PROBES if length <= most], np.int64)
    ids = (np.arange(lengths.sum()) * 7919 % size).astype(np.int32)
    offsets = offsets_of(lengths)
    together = _compute(model, ids, offsets)
    alone = [
        _compute(model, ids[a:b], np.array([0, b - a])) for a, b in itertools.pairwise(offsets)
    ]
    return float(np.abs(together - np.concatenate(alone)).max())


def _compute(model: Model, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    if not isinstance(model, FineTuned):
        return embed(model, TextIds(ids, offsets)).vectors
    examples = TaskExamples(
        num_rows=len(offsets) - 1, input_ids=ids, token_type_ids=np.zeros(len(ids), np.uint8),
        offsets=offsets, row=np.arange(len(offsets) - 1), labels=None,
    )  # fmt: skip
    return predict_logits(model.prepared(), examples)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have this thread compute as the engine's workers do."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
