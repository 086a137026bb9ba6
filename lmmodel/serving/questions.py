"""What models can be asked: text to ids, ids to what a model computes, and what that says.

read     beside the model: the text's ids, and what is wrong with them
compute  the model's share, over the readings of many requests at once; the answers in order

A question is the request of one client; those of one class and model share batches. Each calls the
functions that the command line calls one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from lmdata.ragged import offsets_of
from lmmodel.errors import FitError
from lmmodel.finetuning.folder import FineTuned
from lmmodel.predicting.generation import (
    Generation,
    GenerationConfig,
    GenerationLoop,
    describe,
    encode_beginnings,
    room_after,
)
from lmmodel.predicting.likelihood import (
    Likelihoods,
    TextVectors,
    embed,
    sum_scores,
    token_scores,
    windows_of,
)
from lmmodel.predicting.mask_filling import Filling, fillings, masked_logits, read_masks
from lmmodel.predicting.written import is_writing, writer_of
from lmmodel.texts import TextIds, join_texts
from lmmodel.trained import Run, encode_given, frame_of

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


# ---- What a run can be asked


@dataclass(frozen=True, kw_only=True)
class Embed:
    """A vector for each text; the answer is `likelihood.TextVectors`."""

    verb: ClassVar[str] = "embed"
    texts: Sequence[str] | Sequence[Sequence[int]]
    """Each a text or, all of them, ids of the model's tokenizer."""
    normalize: bool = True

    @classmethod
    def is_for(cls, model: Model) -> bool:
        """Whether it is pretrained, and reads one text."""
        return isinstance(model, Run) and not is_writing(model)

    def read(self, model: Model) -> TextIds:
        """Return the ids of the texts."""
        assert isinstance(model, Run)
        if self.texts and isinstance(self.texts[0], str):
            return encode_given(model.tokenizer, self.texts)  # type: ignore[arg-type]
        return given_ids(model, self.texts)  # type: ignore[arg-type]

    def count_tokens(self, model: Model, reading: TextIds) -> Tokens:
        """Return the tokens of the texts, special ones included."""
        assert isinstance(model, Run)
        num = len(reading.ids) + len(reading) * frame_of(model).num_tokens
        return Tokens(num, num)

    @classmethod
    def compute(cls, model: Model, asked: Sequence[tuple[Embed, TextIds]]) -> list[TextVectors]:
        """Return the vectors of each question."""
        assert isinstance(model, Run)
        most = model.model.config.max_position_embeddings - frame_of(model).num_tokens
        answers: list[Any] = [None] * len(asked)
        for normalize in (True, False):
            own = [i for i, (question, _) in enumerate(asked) if question.normalize == normalize]
            readings = [asked[i][1] for i in own]
            if own:
                found = embed(model, join_texts(readings), normalize=normalize).vectors
                parts = split_like(found, list(map(len, readings)))
                for i, ids, vectors in zip(own, readings, parts, strict=True):
                    answers[i] = TextVectors(vectors, int((ids.lengths > most).sum()))
        return answers


@dataclass(frozen=True, kw_only=True)
class FillMask:
    """Guesses for each masked place of each text, as `mask_filling.fill_mask` returns them."""

    verb: ClassVar[str] = "fill-mask"
    texts: Sequence[str]
    top_k: int = 5

    @classmethod
    def is_for(cls, model: Model) -> bool:
        """Whether it was trained on masked tokens."""
        return isinstance(model, Run) and model.objective.can_fill_masks

    def read(self, model: Model) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the ids of each text, and its masked places."""
        assert isinstance(model, Run)
        return read_masks(model, self.texts, top_k=self.top_k)

    def count_tokens(
        self, model: Model, reading: tuple[list[np.ndarray], list[np.ndarray]]
    ) -> Tokens:
        """Return the tokens of the texts."""
        num = sum(map(len, reading[0]))
        return Tokens(num, num)

    @classmethod
    def compute(
        cls,
        model: Model,
        asked: Sequence[tuple[FillMask, tuple[list[np.ndarray], list[np.ndarray]]]],
    ) -> list[list[list[list[Filling]]]]:
        """Return the guesses of each question."""
        assert isinstance(model, Run)
        encoded = [ids for _, reading in asked for ids in reading[0]]
        places = [own for _, reading in asked for own in reading[1]]
        logits = iter(masked_logits(model, encoded, places))
        return [
            [
                fillings(model, ids, own, next(logits), question.top_k)
                for ids, own in zip(*reading, strict=True)
            ]
            for question, reading in asked
        ]


@dataclass(frozen=True, kw_only=True)
class Score:
    """How likely a model finds each text: `likelihood.Likelihoods`."""

    verb: ClassVar[str] = "score"
    texts: Sequence[str]

    @classmethod
    def is_for(cls, model: Model) -> bool:
        """Whether it is pretrained, and reads one text."""
        return isinstance(model, Run) and not is_writing(model)

    def read(self, model: Model) -> TextIds:
        """Return the ids of the texts."""
        assert isinstance(model, Run)
        return encode_given(model.tokenizer, self.texts)

    def count_tokens(self, model: Model, reading: TextIds) -> Tokens:
        """Return the tokens of the texts, and those computed: of a masked model each copy's."""
        assert isinstance(model, Run)
        lengths = reading.lengths + frame_of(model).num_tokens
        computed = lengths.sum() if model.is_causal else (lengths * reading.lengths).sum()
        return Tokens(int(lengths.sum()), int(computed))

    @classmethod
    def compute(cls, model: Model, asked: Sequence[tuple[Score, TextIds]]) -> list[Likelihoods]:
        """Return the likelihoods of each question."""
        assert isinstance(model, Run)
        joined, frame = join_texts([ids for _, ids in asked]), frame_of(model)
        windows = windows_of(model, joined, frame)
        scores = token_scores(model, model.prepared(), joined, frame, windows)
        most = model.model.config.max_position_embeddings - frame.num_tokens
        return [
            sum_scores(question.texts, ids, own, int((ids.lengths > most).sum()))
            for (question, ids), own in zip(
                asked, split_like(scores, [len(ids.ids) for _, ids in asked]), strict=True
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Generate:
    """A continuation of each prompt: `generation.Generation`; one token of each at a time.

    Its steps take turns with what others ask; prompts of one request share them. What an
    encoder-decoder writes about a prompt is one step.
    """

    verb: ClassVar[str] = "generate"
    prompts: Sequence[str]
    config: GenerationConfig = field(default_factory=GenerationConfig)

    @classmethod
    def is_for(cls, model: Model) -> bool:
        """Whether it was trained on next tokens, or to write."""
        return is_writing(model) or (isinstance(model, Run) and model.can_generate)

    def read(self, model: Model) -> list[np.ndarray]:
        """Return the ids of the prompts."""
        if is_writing(model):
            writer = writer_of(model)
            return writer.task.sources(self.prompts, writer.max_source)
        assert isinstance(model, Run)
        return encode_beginnings(model, self.prompts)

    def count_tokens(self, model: Model, reading: list[np.ndarray]) -> Tokens:
        """Return the tokens of the prompts, and those with all that may follow."""
        if is_writing(model):
            num = sum(map(len, reading))
            return Tokens(num, num + len(reading) * self.config.max_new_tokens)
        assert isinstance(model, Run)
        lengths, room = room_after(model, reading, self.config)
        return Tokens(int(lengths.sum()), int(lengths.sum() + room.sum()))

    def steps(
        self, model: Model, reading: list[np.ndarray]
    ) -> Iterator[tuple[list[list[int]], list[Generation | None]]]:
        """Yield after each token the ids of the continuations, and what is finished of them."""
        if is_writing(model):
            written = writer_of(model).continuations(self.prompts, reading, self.config)
            yield [one.ids for one in written], list(written)
            return
        assert isinstance(model, Run)
        found: list[Generation | None] = [None] * len(reading)
        _, room = room_after(model, reading, self.config)
        loop = GenerationLoop(model, self.config, reading, np.arange(len(reading)), room)
        for finished in loop.steps():
            for index, ids, why in finished:
                found[index] = describe(model, self.prompts[index], reading[index], ids, why)
            yield loop.ids, found

    @classmethod
    def compute(
        cls, model: Model, asked: Sequence[tuple[Generate, list[np.ndarray]]]
    ) -> list[list[Generation]]:
        """Return the continuations of each question, one question after the other."""
        answers = []
        for question, reading in asked:
            found: list[Generation | None] = []
            for _, found in question.steps(model, reading):  # noqa: B007 - the last one counts
                pass
            answers.append([one for one in found if one is not None])
        return answers


def given_ids(model: Run, texts: Sequence[Sequence[int]]) -> TextIds:
    """Return ids that a client gives itself.

    Raises:
        FitError: one is no piece of the tokenizer, or a text has none
    """
    lengths = np.array([len(ids) for ids in texts], np.int64)
    for index in np.flatnonzero(lengths == 0)[:1]:
        raise FitError(f"text {index + 1} of {len(texts)} has no token in it; leave it out")
    flat = np.array([number for ids in texts for number in ids], np.int64)
    most = model.tokenizer.vocab_size
    for number in flat[(flat < 0) | (flat >= most)][:1]:
        raise FitError(f"{number} is no piece of the tokenizer: ids are in [0, {most})")
    return TextIds(flat.astype(np.int32), offsets_of(lengths))
