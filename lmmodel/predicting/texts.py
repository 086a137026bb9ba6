"""Texts to the ids that a run reads, with what stands around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lmdata.tokenizer import Tokenizer
from lmmodel.errors import DivergedError, FitError
from lmmodel.texts import Frame, TextIds, encode_texts, frame_around
from lmmodel.trained import Run


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
