"""Documents as the arrays that training and counting read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass
class Batch:
    text: np.ndarray
    offsets: np.ndarray


def batch(documents: Iterable[str]) -> Batch:
    encoded = [document.encode() for document in documents]
    text = np.frombuffer(b"".join(encoded), np.uint8)
    return Batch(text, np.cumsum([0, *map(len, encoded)]).astype(np.int64))
