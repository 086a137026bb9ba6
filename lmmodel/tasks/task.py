"""What a task is: the object that fine-tuning, prediction, scoring and export ask; and its head.

R rows of a file; E examples of T tokens in all, made of them; C outputs of the head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmdata.tokenizer import Tokenizer
from lmmodel.batch import Batch
from lmmodel.cores import dropout
from lmmodel.errors import FitError, TaskError
from lmmodel.families import ModelConfig
from lmmodel.model import LayerNorm, Linear
from lmmodel.tasks.examples import Encoding, Floats, Labels, Predictions, Rows, TaskExamples
from lmmodel.tasks.task_files import TaskFile
from lmmodel.tasks.text_rows import Usual
from lmmodel.texts import Integers

POOLER_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "relu": F.relu,
}


class TaskHead(nn.Module):
    """Hidden states to logits.

    Attributes:
        scale, offset: what logits are multiplied by and what is added, while the head is trained:
            standard deviation and mean of regression's labels, so that one learning rate suits any
            unit; 1 and 0 in what is saved
    """

    def __init__(
        self,
        config: ModelConfig,
        num_outputs: int,
        *,
        is_over_sequences: bool,
        has_bias: bool,
        has_dropout: bool,
    ) -> None:
        super().__init__()
        size = config.hidden_size
        if config.traits.pooling == "first" and is_over_sequences:
            self.pooler = Linear(size, size)
        if config.traits.pooling == "mean":
            self.dense = Linear(size, size, bias=False)
            self.norm = LayerNorm(size, config.norm_eps, bias=False)
        self.classifier = Linear(size, num_outputs, bias=has_bias)
        self.dropout = config.dropout if has_dropout else 0.0
        self.pooler_activation = POOLER_ACTIVATIONS[config.traits.pooler_activation]
        self.scale, self.offset = 1.0, 0.0

    def forward(self, hidden: Tensor) -> Tensor:
        """Return floats (N, C) from hidden states (N, D)."""
        if hasattr(self, "pooler"):
            hidden = self.pooler_activation(self.pooler(hidden))
        if hasattr(self, "dense"):
            hidden = self.norm(F.gelu(self.dense(hidden)))
        hidden = dropout(hidden, self.dropout if self.training else 0.0)
        logits: Tensor = self.classifier(hidden)
        is_plain = (self.scale, self.offset) == (1.0, 0.0)
        return logits if is_plain else self.scale * logits + self.offset

    def plain_weights(self) -> dict[str, Tensor]:
        """Return the weights with scale and offset in the classifier's."""
        state = self.state_dict()
        state["classifier.weight"] = self.scale * state["classifier.weight"]
        if self.classifier.bias is not None:
            state["classifier.bias"] = self.scale * state["classifier.bias"] + self.offset
        return state


Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class StockClass:
    """The class of transformers that opens a fine-tuned model; families by their name here."""

    suffix: str  # behind the family's prefix and "For"
    pipeline_tag: str  # what the Hub calls the task
    problem_type: str | None = None  # as its config.json says
    classifiers: Mapping[str, str] = field(default_factory=dict)
    """What the last layer is called, by family, where not "classifier"."""
    suffixes: Mapping[str, str] = field(default_factory=dict)
    """What is behind the prefix, by family, where not `suffix`."""
    without_dropout: frozenset[str] = frozenset()
    """Families whose class drops no features right before the last layer."""
    without_bias: frozenset[str] = frozenset()
    """Families whose last layer has no bias."""
    note: str | None = None  # what a user of the class should know, for the model card

    def classifier(self, family: str) -> str:
        """Return what the last layer is called.

        Example:
            >>> stock = StockClass(suffix="x", pipeline_tag="y", classifiers={"gpt2": "score"})
            >>> stock.classifier("gpt2"), stock.classifier("bert")
            ('score', 'classifier')
        """
        return self.classifiers.get(family, "classifier")

    def has_dropout(self, family: str) -> bool:
        """Whether the class drops features right before the last layer."""
        return family not in self.without_dropout

    def has_bias(self, family: str) -> bool:
        """Whether the last layer has a bias."""
        return family not in self.without_bias


@dataclass(frozen=True, kw_only=True)
class GivenTexts:
    """What a model is asked: N texts, perhaps with a second one each, and what is said of them."""

    texts: list[Any]  # (N,) texts, or lists of words
    seconds: list[str] | None = None  # (N,) second texts or passages
    rows: list[dict[str, Any]]  # (N,) columns that answers stand beside


RowsT = TypeVar("RowsT", bound=Rows)


class Task(Protocol[RowsT]):
    """One thing to fine-tune for.

    A task subclasses this protocol, sets its five facts, and says how files are read, rows are
    encoded, logits are understood and answers are scored; what is common has a default here.
    """

    name: str
    verb: str  # of the command that asks a model of it
    stopping_scores: tuple[str, ...]
    """Scores that may decide when to stop, higher is better; the first is the default."""
    is_over_sequences: bool  # one row of logits a sequence; otherwise one a token
    stock: StockClass | None  # None: stock transformers has no class for it
    usual: Usual  # what the columns of its files are usually called
    writes: bool = False  # whether a decoder writes the answers, by its own vocabulary head

    def bound(self, tokenizer: Tokenizer, model: ModelConfig, settings: Any) -> Task[RowsT]:
        """Return the task as a model of this shape is fine-tuned for it: most often this one.

        Args:
            tokenizer: of the model
            model: its shape
            settings: a `FinetuneConfig`

        Raises:
            FitError: such a model can't do it
        """
        if model.traits.is_encoder_decoder:
            raise FitError(
                f"{self.name} is learned by an encoder or a decoder: of an encoder-decoder, family "
                f"{model.family}, take --task sequence-to-sequence"
            )
        own = {"label_smoothing": 0.0, "prefix": "", "max_target_length": None, "num_beams": 1}
        for name, usual in own.items():
            if getattr(settings, name) != usual:
                raise FitError(
                    f"{name} has no effect on {self.name}: it is of targets; leave it out"
                )
        return self

    # Files.

    def owns(self, file: TaskFile) -> bool:
        """Whether a file's format says that it is of this task, whatever its columns."""
        return False

    def read(self, file: TaskFile) -> RowsT:
        """Return the rows of a file.

        Raises:
            TaskError: a column is missing or ambiguous, or a value is of another kind
        """

    def settle(self, rows: RowsT) -> Task[RowsT]:
        """Return the task that the rows of a training file ask for: most often this one."""
        return self

    def find_labels(self, rows: RowsT) -> tuple[str, ...]:
        """Return the labels of a training file in the order of their ids; most often none.

        Raises:
            TaskError: there are too few
        """
        return ()

    def check_validation(self, train: RowsT, validation: RowsT) -> None:
        """Check that the validation file can be scored by what is learned of the training file.

        Raises:
            TaskError, FitError: it can not
        """
        return

    def has_pairs(self, rows: RowsT) -> bool:
        """Whether texts come in pairs that a user may give or leave out."""
        return False

    def encode(self, rows: RowsT, how: Encoding) -> TaskExamples:
        """Return the examples of rows.

        Raises:
            TaskError: a label is unknown, or `max_seq_length` leaves no room for text
        """

    def given(self, rows: RowsT) -> GivenTexts:
        """Return what a model is asked about the rows of a file that is the task's own."""
        raise TaskError(f"{rows.path} is no table of texts")

    def take_rows(self, rows: RowsT, which: Integers) -> RowsT:
        """Return some rows, int64 (N,) ascending, in their order."""
        ...

    def groups(self, rows: RowsT) -> Integers:
        """Return which rows belong together, int64 (R,): all are learned from, or none is."""
        return np.arange(len(rows))

    # The model.

    def output_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return what the outputs of the stock class are called; none where it names none."""
        return tuple(labels)

    def num_outputs(self, labels: Sequence[str]) -> int:
        """Return C: logits of a sequence or token."""
        return len(self.output_names(labels))

    def make_head(self, config: ModelConfig, num_outputs: int) -> nn.Module:
        """Return what makes logits float32 (N, C) of hidden states (N, D), with fresh weights."""
        stock, family = self.stock, config.family
        return TaskHead(
            config,
            num_outputs,
            is_over_sequences=self.is_over_sequences,
            has_bias=stock is None or stock.has_bias(family),
            has_dropout=stock is None or stock.has_dropout(family),
        )

    def prepare_head(self, head: nn.Module, labels: Labels | None) -> None:
        """Set where a head begins, by the labels of the training file."""
        return

    def saved_head(self, head: nn.Module) -> dict[str, Tensor]:
        """Return the weights of a head as they are kept."""
        return head.state_dict()

    def loss_unit(self, labels: Labels | None) -> float:
        """Return what the loss of a step is divided by, above 0."""
        return 1.0

    def sum_loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Return the summed loss of a batch of B sequences and T tokens.

        Args:
            logits: float32 (B, C), or (T, C) where the task is not over sequences
            labels: as the examples of the task have them
            batch: what the logits are of

        Returns:
            float32 scalar; divided by `count_labels` it is the loss of the stock class.
        """

    def count_labels(self, labels: Tensor) -> int:
        """Return over how many labels `sum_loss` sums."""
        return len(labels)

    # Answers.

    def write(self, model: Any, examples: TaskExamples) -> list[Any]:
        """Return what the decoder says about each example, E ids int64; TypeError: it has none."""
        raise TypeError(f"{self.name} writes nothing")

    def predict(
        self, examples: TaskExamples, logits: Floats, rows: RowsT, labels: Sequence[str]
    ) -> Predictions:
        """Return what logits say about the rows of the file.

        Args:
            examples: of all rows
            logits: float32 (E, C), or (T, C) where the task is not over sequences
            rows: of which `examples` were made
            labels: of the model, in the order of their ids
        """

    def references(self, rows: RowsT, labels: Sequence[str]) -> Any:
        """Return what predictions are scored against, as `Predictions.values` are.

        Raises:
            TaskError: a label is not among `labels`, or the rows were read without labels
        """

    def score(self, found: Predictions, references: Any, labels: Sequence[str]) -> Scores:
        """Return the scores of predictions, `stopping_scores` among them.

        Raises:
            ValueError: there is nothing to score, or the lengths differ
        """

    def resample(
        self, found: Predictions, references: Any, rows: Integers
    ) -> tuple[Predictions, Any]:
        """Return predictions and references of some rows, int64 (N,), some perhaps repeated."""
        if isinstance(references, list):
            values = [found.values[row] for row in rows]
            return Predictions(values=values), [references[row] for row in rows]
        return Predictions(values=found.values[rows]), references[rows]

    def scorer(
        self, found: Predictions, references: Any, labels: Sequence[str]
    ) -> Callable[[Integers], Scores]:
        """Return what gives the scores of some rows, int64 (N,): intervals ask for hundreds."""
        return lambda rows: self.score(*self.resample(found, references, rows), labels)

    def guess(self, learned: Labels | None, num_outputs: int, references: Any) -> Any | None:
        """Return values that know only which answer is most frequent in training; None: none."""
        return None

    def confusion(self, found: Predictions, references: Any, num_labels: int) -> Any | None:
        """Return how often each right label (row) got each prediction (column): int64 (C, C).

        None where labels can't be taken for each other.
        """
        return None

    def signatures(self, references: Any) -> dict[str, str]:
        """Return how scores by `references` are computed, where a package of others says so."""
        return {}

    def samples(
        self, rows: RowsT, found: Predictions, references: Any
    ) -> tuple[tuple[str, str, str], ...]:
        """Return a few sources, what was written about them and what is right; most often none."""
        return ()

    def draws_numbers(self) -> bool:
        """Whether predictions are numbers, drawn against the right ones."""
        return False

    def answers(self, rows: RowsT, found: Predictions, labels: Sequence[str]) -> list[Any]:
        """Return an answer for each row, a dataclass each."""
        ...


AnyTask = Task[Any]


def encode_task(
    task: AnyTask,
    rows: Any,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    max_seq_length: int,
    *,
    is_training: bool,
    window_overlap: int | None = None,
) -> TaskExamples:
    """Return the examples of the rows of a task file; arguments as `Encoding` has them."""
    how = Encoding(
        tokenizer=tokenizer, labels=labels, max_seq_length=max_seq_length,
        is_training=is_training, overlap=window_overlap,
    )  # fmt: skip
    return task.encode(rows, how)


def make_predictions(
    task: AnyTask, examples: TaskExamples, logits: Floats, rows: Any, labels: Sequence[str] = ()
) -> Predictions:
    """Return what logits say about the rows of the file.

    Args:
        task: of the model
        examples: encoded with `is_training=False`, so that every row has one
        logits: float32 (E, C) for tasks over sequences, (T, C) for those over tokens
        rows: of which `examples` were made
        labels: of the model, in the order of their ids

    Raises:
        ValueError: the logits are not those of the examples, or rows were left out
    """
    expected = len(examples) if task.is_over_sequences else len(examples.input_ids)
    if len(logits) != expected:
        raise ValueError(f"logits of {len(logits)} rows for {expected} of the examples")
    if len(np.unique(examples.row)) != len(rows):
        raise ValueError("rows were left out: encode them with is_training=False")
    return task.predict(examples, logits, rows, labels)
