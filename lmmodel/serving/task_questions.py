"""What a fine-tuned model is asked: the class of texts, tags of words, answers to questions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from lmmodel.errors import FitError
from lmmodel.finetuning.folder import FineTuned
from lmmodel.predicting.answering import (
    Answered,
    encode_rows,
    rows_to_answer,
    rows_to_classify,
    rows_to_tag,
    tell_rows,
)
from lmmodel.serving.questions import Model, Tokens, split_like
from lmmodel.tasks.examples import TaskExamples
from lmmodel.tasks.model import join_examples, predict_logits


class TruncatedError(FitError):
    """A text is longer than the model takes, and nobody asked to cut it."""


@dataclass(frozen=True)
class TaskReading:
    """The rows of a task, and their examples."""

    rows: Any
    examples: TaskExamples


class OfTask(ABC):
    """What all questions to fine-tuned models share."""

    verb: ClassVar[str]
    truncate: bool

    @classmethod
    def is_for(cls, model: Model) -> bool:
        """Whether it was fine-tuned for this."""
        return isinstance(model, FineTuned) and model.task.verb == cls.verb

    @abstractmethod
    def rows(self, model: FineTuned) -> Any:
        """Return the rows of the task."""

    def read(self, model: Model) -> TaskReading:
        """Return the rows and their examples."""
        assert isinstance(model, FineTuned)
        rows = self.rows(model)
        examples = encode_rows(model, rows)
        num_cut = sum(n for what, n in examples.counts.items() if what.endswith("truncated"))
        if num_cut and not self.truncate:
            raise TruncatedError(
                f"{num_cut} of the texts are longer than the {model.record.max_seq_length} tokens "
                "that the model was fine-tuned with: shorten them, or set truncate to true"
            )
        return TaskReading(rows, examples)

    def count_tokens(self, model: Model, reading: TaskReading) -> Tokens:
        """Return the tokens of the examples."""
        num = len(reading.examples.input_ids)
        return Tokens(num, num)

    @classmethod
    def compute(cls, model: Model, asked: Sequence[tuple[Any, TaskReading]]) -> list[Answered[Any]]:
        """Return the answers to each question, and what was cut or read in windows."""
        assert isinstance(model, FineTuned)
        examples = [reading.examples for _, reading in asked]
        logits = predict_logits(model.prepared(), join_examples(examples))
        is_over_sequences = model.task.is_over_sequences
        counts = [len(own) if is_over_sequences else len(own.input_ids) for own in examples]
        return [
            question.tell(tell_rows(model, reading.rows, reading.examples, own))
            for (question, reading), own in zip(asked, split_like(logits, counts), strict=True)
        ]

    def tell(self, found: Answered[Any]) -> Answered[Any]:
        """Return the answers with the texts as they were asked."""
        return found


@dataclass(frozen=True, kw_only=True)
class Classify(OfTask):
    """The class of each text or pair, or the number: `Answered[Classification]`."""

    verb: ClassVar[str] = "classify"
    texts: Sequence[str]
    pairs: Sequence[str] | None = None
    truncate: bool = False

    def rows(self, model: FineTuned) -> Any:
        """Return texts, or pairs of them."""
        return rows_to_classify(model, self.texts, self.pairs)

    def tell(self, found: Answered[Any]) -> Answered[Any]:
        """Return the answers with the texts as they were asked."""
        answers = [
            replace(one, text=text, pair=self.pairs[index] if self.pairs else None)
            for index, (one, text) in enumerate(zip(found.answers, self.texts, strict=True))
        ]
        return Answered(answers, found.counts)


@dataclass(frozen=True, kw_only=True)
class Tag(OfTask):
    """A tag for each word: `Answered[Tagging]`."""

    verb: ClassVar[str] = "tag"
    texts: Sequence[str] | Sequence[Sequence[str]]
    truncate: bool = False

    def rows(self, model: FineTuned) -> Any:
        """Return lists of words."""
        return rows_to_tag(model, self.texts)


@dataclass(frozen=True, kw_only=True)
class Answer(OfTask):
    """Where passages answer questions: `Answered[SpanAnswer]`."""

    verb: ClassVar[str] = "answer"
    questions: Sequence[str]
    passages: Sequence[str]
    truncate: bool = False

    def rows(self, model: FineTuned) -> Any:
        """Return questions with their passages."""
        return rows_to_answer(model, self.questions, self.passages)

    def tell(self, found: Answered[Any]) -> Answered[Any]:
        """Return the answers with the questions as they were asked."""
        answers = [
            replace(one, question=question)
            for one, question in zip(found.answers, self.questions, strict=True)
        ]
        return Answered(answers, found.counts)
