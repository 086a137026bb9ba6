"""Documents as the arrays that training and counting read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lmdata.tagging import words as tagging


@dataclass
class Batch:
    text: np.ndarray
    offsets: np.ndarray


def batch(documents: Iterable[str]) -> Batch:
    encoded = [document.encode() for document in documents]
    text = np.frombuffer(b"".join(encoded), np.uint8)
    return Batch(text, np.cumsum([0, *map(len, encoded)]).astype(np.int64))


def tag_batch(documents: Iterable[str]) -> tagging.Batch:
    documents = list(documents)
    own = batch(documents)
    words = tagging.PlainCutter().words(own.text, own.offsets)
    return tagging.Batch([text.encode() for text in documents], own.text, own.offsets, words, {})
