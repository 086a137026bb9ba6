"""What a question to a model is: text to ids, ids to what a model computes, and what that says.

read     beside the model: the text's ids, and what is wrong with them
compute  the model's share, over the readings of many requests at once; the answers in order
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from lmmodel.errors import FitError
from lmmodel.finetuning.folder import FineTuned
from lmmodel.trained import Run

Model = Run | FineTuned


class UnableError(FitError):
    """A model can not do what is asked of it at all; says what it can."""


@dataclass(frozen=True)
class Tokens:
    """How many a request has, and how many the model computes for it."""

    read: int
    computed: int


ReadingT = TypeVar("ReadingT")


class Question(Protocol[ReadingT]):
    """One request to one model; questions of a class share batches."""

    verb: ClassVar[str]

    @classmethod
    def is_for(cls, model: Model) -> bool:
        """Whether a model can be asked this at all."""
        ...

    def read(self, model: Model) -> ReadingT:
        """Return the ids of the texts, called by any thread.

        Raises:
            FitError, TokenizerError, ValueError: a text is empty, or does not fit the model
        """
        ...

    def count_tokens(self, model: Model, reading: ReadingT) -> Tokens:
        """Return how many tokens were read, and how many the model will compute."""
        ...

    @classmethod
    def compute(cls, model: Model, asked: Sequence[tuple[Any, ReadingT]]) -> list[Any]:
        """Return the answer to each of some questions of this class, as if it were asked alone.

        Raises:
            DivergedError: what the model computes is not finite
        """
        ...


AnyQuestion = Question[Any]


def split_like(array: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    """Return the rows of each part.

    Example:
        >>> [part.tolist() for part in split_like(np.arange(3), [2, 1])]
        [[0, 1], [2]]
    """
    return np.split(array, np.cumsum(counts)[:-1])
