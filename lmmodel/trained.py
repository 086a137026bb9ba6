"""A trained model as its run folder holds it, and texts as it reads them: data.

What it can be asked is `lmmodel.asking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmmodel.device import resolve_device
from lmmodel.errors import DivergedError, FitError, RunError
from lmmodel.model import Transformer, make_model
from lmmodel.objectives import OBJECTIVES, Definition
from lmmodel.saving.checkpoint import load_tensors, load_weights
from lmmodel.saving.run import WEIGHTS_NAME, RunRecord, read_record
from lmmodel.texts import Frame, TextIds, encode_texts, frame_around


@dataclass(frozen=True)
class Run:
    """A trained model, its tokenizer and what it was trained by."""

    path: Path
    record: RunRecord
    model: Transformer  # float32, in evaluation mode
    tokenizer: Tokenizer
    device: torch.device

    @property
    def objective(self) -> Definition:
        """What it was trained on."""
        return OBJECTIVES[self.record.config.objective.name]

    @property
    def is_causal(self) -> bool:
        """Whether it was trained on next tokens only, so that a token sees no later ones."""
        return self.objective.is_causal

    @property
    def can_generate(self) -> bool:
        """Whether it was trained on next tokens, alone or beside masked ones."""
        return self.objective.can_generate


def load_run(path: Path | str, device: str = "auto") -> Run:
    """Return the model in a run folder, ready to answer.

    Raises:
        RunError: no run there, or no weights yet
        CheckpointError: the weights are damaged, not finite or of another model
        DeviceError: a GPU is asked for and there is none
    """
    path = Path(path)
    record, where = read_record(path), resolve_device(device)
    if not (path / WEIGHTS_NAME).is_file():
        raise RunError(f"{path} has no {WEIGHTS_NAME} yet: train it to its first checkpoint")
    model = make_model(record.config.model, seed=0)
    load_weights(model, load_tensors(path / WEIGHTS_NAME))
    return Run(path, record, model.to(where).eval(), load_tokenizer(path), where)


def listed(texts: Sequence[str] | str) -> Sequence[str]:
    """Return one text as a list of it, others as they are."""
    return [texts] if isinstance(texts, str) else texts


def encode_given(tokenizer: Tokenizer, texts: Sequence[str]) -> TextIds:
    """Return the ids of texts; special tokens that are spelled out in them are read as text.

    Raises:
        FitError: a text is empty, or nothing in it is a token
    """
    encoded = encode_texts(tokenizer.backend, texts)
    for index in np.flatnonzero(encoded.lengths == 0)[:1]:
        raise FitError(
            f"text {index + 1} of {len(texts)} has no token in it: {texts[index]!r}; leave it out"
        )
    return encoded


def frame_of(run: Run, *, start_token: str | None = None) -> Frame:
    """Return what stands around a text; causal rows were trained without anything before them.

    Args:
        run: the model
        start_token: of a causal model: the piece to begin with, so that the first token of a text
            is predicted too; None: the first token is given

    Raises:
        TokenizerError: the tokenizer lacks a special token that the model was trained with
        FitError: `start_token` is no piece, or the model is masked
    """
    tokenizer = run.tokenizer
    if not run.is_causal:
        if start_token is not None:
            raise FitError("a masked model sees the whole text: it takes no start token")
        return frame_around([tokenizer.require_special("cls")], [tokenizer.require_special("sep")])
    if start_token is None:
        return frame_around([], [])
    index = tokenizer.backend.token_to_id(start_token)
    if index is None:
        raise FitError(f"{start_token!r} is no piece of the tokenizer of {run.path}")
    return frame_around([index], [])


def check_finite(run: Run, values: np.ndarray | Tensor) -> None:
    """Check that what a model computed is numbers, as nothing may be said by others.

    Raises:
        DivergedError: one is not finite
    """
    is_finite = torch.isfinite(torch.as_tensor(values)).all()
    if not is_finite:
        raise DivergedError(
            f"what {run.path} computes is not finite: its weights are damaged, or training went "
            "astray; take an earlier checkpoint, or train again"
        )
