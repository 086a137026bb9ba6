"""Texts to the ids that a model reads, and windows of what is longer than it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmdata.tokenizer import Tokenizer
from lmmodel.errors import FitError
from lmmodel.trained import Run


@dataclass(frozen=True)
class Texts:
    """N texts of T tokens in all, without special tokens."""

    ids: np.ndarray  # int64 (T,), end to end
    offsets: np.ndarray  # int64 (N + 1,)
    num_bytes: np.ndarray  # int64 (N,), in UTF-8

    @property
    def num_texts(self) -> int:
        """N."""
        return len(self.offsets) - 1


@dataclass(frozen=True)
class Frame:
    """The special tokens around a text, as around the rows that the model was trained on."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """How many of its places a text can't have."""
        return len(self.before) + len(self.after)


@dataclass(frozen=True)
class Windows:
    """W pieces of texts, none longer than the model takes; a short text is one window.

    Windows of one text may overlap. Each token counts in one of them, `first` says from where on.
    """

    text: np.ndarray  # int64 (W,), which text
    start: np.ndarray  # int64 (W,), into the ids of all texts
    stop: np.ndarray  # int64 (W,)
    first: np.ndarray  # int64 (W,), in [start, stop): the tokens from here on count

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each window: int64 (W,)."""
        return np.asarray(self.stop - self.start)

    def num_longer(self, num_texts: int) -> int:
        """Return how many texts have more than one window."""
        return int((np.bincount(self.text, minlength=num_texts) > 1).sum())


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> Texts:
    """Return the ids of texts; special tokens that are spelled out in them are read as text.

    Raises:
        FitError: a text is empty, or nothing in it is a token
    """
    encoded = tokenizer.backend.encode_batch(list(texts), add_special_tokens=False)
    lengths = np.array([len(item.ids) for item in encoded], np.int64)
    for index in np.flatnonzero(lengths == 0)[:1]:
        raise FitError(
            f"text {index + 1} of {len(texts)} has no token in it: {texts[index]!r}; leave it out"
        )
    return Texts(
        ids=np.concatenate([np.array(item.ids, np.int64) for item in encoded])
        if encoded
        else np.zeros(0, np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        num_bytes=np.array(
            [len(text.encode("utf-8", "surrogatepass")) for text in texts], np.int64
        ),
    )


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
        return Frame((tokenizer.require_special("cls"),), (tokenizer.require_special("sep"),))
    if start_token is None:
        return Frame((), ())
    index = tokenizer.backend.token_to_id(start_token)
    if index is None:
        raise FitError(f"{start_token!r} is no piece of the tokenizer of {run.path}")
    return Frame((index,), ())


def cut_windows(offsets: np.ndarray, most: int, *, overlap: int = 0) -> Windows:
    """Return windows of at most `most` tokens over texts, each after the first one overlapping.

    Args:
        offsets: int64 (N + 1,) of texts
        most: tokens of a window, at least 1
        overlap: tokens that a window repeats of the one before, in [0, most)

    Example:
        >>> windows = cut_windows(np.array([0, 3, 11]), 4, overlap=2)
        >>> windows.start.tolist(), windows.stop.tolist(), windows.first.tolist()
        ([0, 3, 5, 7], [3, 7, 9, 11], [0, 3, 7, 9])
    """
    lengths = np.diff(offsets)
    num_windows = 1 + -(-np.maximum(lengths - most, 0) // (most - overlap))
    text = np.repeat(np.arange(len(lengths)), num_windows)
    number = np.arange(len(text)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    start = offsets[:-1][text] + number * (most - overlap)
    stop = np.minimum(start + most, offsets[1:][text])
    first = start + np.where(number > 0, overlap, 0)
    return Windows(text, start, stop, first)
