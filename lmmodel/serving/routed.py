"""What experts can be asked: each text goes to its own, and is computed with others that do.

A question to experts is cut into questions to runs; those of all requests that one run gets share
batches, and the answers come back in the order of the texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmmodel.predicting.generation import Generation
from lmmodel.predicting.likelihood import Likelihoods, TextVectors
from lmmodel.routing.team import Experts
from lmmodel.serving.questions import (
    AnyQuestion,
    FillMask,
    Generate,
    Model,
    Score,
    Tokens,
    given_ids,
)
from lmmodel.texts import TextIds, encode_texts
from lmmodel.trained import Run


@dataclass(frozen=True)
class Part:
    """What one run is asked of a question."""

    run: int  # into the experts' runs
    places: np.ndarray  # int64 (M,), of the texts in the question
    question: AnyQuestion
    reading: Any


@dataclass(frozen=True)
class Routed:
    """A question to experts; see `serving.questions.Question`."""

    inner: AnyQuestion

    @property
    def verb(self) -> str:
        """That of the question."""
        return self.inner.verb

    def is_for(self, model: Experts) -> bool:
        """Whether the experts can be asked it."""
        return self.inner.is_for(model.runs[-1])

    def read(self, model: Experts) -> list[Part]:
        """Return what each run is asked, told by the first tokens of the texts.

        Raises:
            FitError, TokenizerError, ValueError: as the question itself
        """
        self.inner.read(model.runs[-1])  # what is wrong with a text is said of all, in its place
        name = "prompts" if isinstance(self.inner, Generate) else "texts"
        texts = getattr(self.inner, name)
        likeliest = model.likeliest(_ids_of(model.runs[-1], texts))
        parts = []
        for number in np.unique(likeliest).tolist():
            places = np.flatnonzero(likeliest == number)
            own: Any = dataclasses.replace(  # type: ignore[type-var]
                self.inner, **{name: [texts[int(place)] for place in places]}
            )
            parts.append(Part(number, places, own, own.read(model.runs[number])))
        return parts

    def count_tokens(self, model: Experts, reading: Sequence[Part]) -> Tokens:
        """Return the tokens of all parts."""
        counts = [
            part.question.count_tokens(model.runs[part.run], part.reading) for part in reading
        ]
        return Tokens(sum(c.read for c in counts), sum(c.computed for c in counts))

    def steps(
        self, model: Experts, reading: Sequence[Part]
    ) -> Iterator[tuple[list[list[int]], list[Generation | None]]]:
        """Yield after each token the ids of the continuations, and what is finished of them."""
        num = sum(len(part.places) for part in reading)
        ids: list[list[int]] = [[] for _ in range(num)]
        found: list[Generation | None] = [None] * num
        for part in reading:
            assert isinstance(part.question, Generate)
            for own_ids, own_found in part.question.steps(model.runs[part.run], part.reading):
                for place, one, finished in zip(part.places, own_ids, own_found, strict=True):
                    ids[place], found[place] = one, finished
                yield ids, found

    @classmethod
    def compute(cls, model: Experts, asked: Sequence[tuple[Routed, list[Part]]]) -> list[Any]:
        """Return the answer to each question, as if it were asked alone."""
        if model.record.router.top_k > 1:
            together = [_mixture(model, routed.inner) for routed, _ in asked]
            if None not in together:
                return together
        jobs: dict[tuple[int, type], list[tuple[int, Part]]] = {}
        for index, (routed, parts) in enumerate(asked):
            for part in parts:
                jobs.setdefault((part.run, type(routed.inner)), []).append((index, part))
        answers: list[list[tuple[np.ndarray, Any]]] = [[] for _ in asked]
        for (number, kind), own in jobs.items():
            found = kind.compute(  # type: ignore[attr-defined]
                model.runs[number], [(part.question, part.reading) for _, part in own]
            )
            for (index, part), answer in zip(own, found, strict=True):
                answers[index].append((part.places, answer))
        return [join_answers(own) for own in answers]


def _ids_of(run: Run, texts: Sequence[Any]) -> TextIds:
    """Return the ids of texts, which may be given as ids already."""
    if texts and isinstance(texts[0], str):
        return encode_texts(run.tokenizer.backend, texts)
    return given_ids(run, texts)


def _mixture(model: Experts, question: AnyQuestion) -> Any:
    """Return the answer of several experts together; None: one alone answers such questions."""
    if isinstance(question, Score):
        return model.score(list(question.texts))
    if isinstance(question, FillMask):
        return model.fill_mask(list(question.texts), question.top_k)
    return None


def join_answers(parts: Sequence[tuple[np.ndarray, Any]]) -> Any:
    """Return the answers to one question in the order of its texts.

    Args:
        parts: places int64 (M,) of some texts, and the answer about them

    Example:
        >>> join_answers([(np.array([1]), ["b"]), (np.array([0, 2]), ["a", "c"])])
        ['a', 'b', 'c']
    """
    order = np.argsort(np.concatenate([places for places, _ in parts]), kind="stable")
    first = parts[0][1]
    if isinstance(first, list):
        joined = [answer for _, own in parts for answer in own]
        return [joined[index] for index in order.tolist()]
    if isinstance(first, TextVectors):
        vectors = np.concatenate([own.vectors for _, own in parts])[order]
        return TextVectors(vectors, sum(own.num_windowed for _, own in parts))
    assert isinstance(first, Likelihoods)
    arrays = {
        name: np.concatenate([getattr(own, name) for _, own in parts])[order]
        for name in ("total", "num_tokens", "num_bytes")
    }
    return Likelihoods(**arrays, num_windowed=sum(own.num_windowed for _, own in parts))


def wrapped(question: AnyQuestion, model: Model | Experts) -> Any:
    """Return the question as a model takes it: to experts, cut by who knows what."""
    return Routed(question) if isinstance(model, Experts) else question


def answering(model: Model | Experts) -> Model:
    """Return the model itself; of experts the parent, which can do what all of them can."""
    return model.runs[-1] if isinstance(model, Experts) else model
