"""Learning from a teacher: its guesses for the labelled tokens, softened, and its hidden states.

As in DistilBERT (Sanh et al., 2019): beside the loss of the labels stands the divergence of the
student's guesses from the teacher's, both at a temperature, and the angle between their hidden
states. The teacher reads the same batches and learns nothing. Of several, the mean of their
probabilities is learned, as from an ensemble (Hinton et al., 2015). Logits of a few rows exist at a
time: backward computes them again.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lmdata.batch import ExampleBatch
from lmmodel.batch import IGNORED, Batch
from lmmodel.errors import FitError
from lmmodel.families import ModelConfig
from lmmodel.inference import chunk_rows
from lmmodel.model import Transformer, forward_flops, vocabulary_products
from lmmodel.objectives.objective import Objective, Part, Term, TermScores, read_once
from lmmodel.objectives.terms import TokenTerm
from lmmodel.optimizing import DistillationConfig


def distill(
    objective: Objective, teachers: Sequence[Transformer], config: DistillationConfig
) -> Objective:
    """Return the objective with what is learned from teachers beside each part's labelled tokens.

    Args:
        objective: each of its parts begins with tokens guessed by the vocabulary head
        teachers: on the device of the training, in evaluation mode, of the same vocabulary
        config: weights and temperature

    Raises:
        FitError: the objective has no such tokens
    """
    for part in objective.parts:
        if type(part.terms[0]) is not TokenTerm or part.read is not read_once:
            raise FitError(
                f"objective.name={objective.name} has no tokens that its own vocabulary head "
                "guesses, so a teacher has nothing to say: take mlm, mlm+nsp, mlm+sop or clm"
            )
    for teacher in teachers:
        teacher.requires_grad_(False)
    parts = tuple(_with_teachers(part, tuple(teachers), config) for part in objective.parts)
    return dataclasses.replace(objective, parts=parts)


def _with_teachers(
    part: Part, teachers: tuple[Transformer, ...], config: DistillationConfig
) -> Part:
    first, *others = part.terms
    assert isinstance(first, TokenTerm)
    taught: list[Term] = [
        SoftTerm(
            hard=first, teachers=teachers, temperature=config.temperature, weight=config.soft_weight
        )
    ]
    if config.hidden_weight:
        taught.append(AngleTerm(hard=first, weight=config.hidden_weight))
    hard = dataclasses.replace(first, weight=first.weight * config.label_weight)

    def flops(model: ModelConfig, num_tokens: int, num_pairs: int, num_labels: int) -> int:
        """Return a third of the teachers' operations, which have no backward pass."""
        return sum(
            forward_flops(
                teacher.config, num_tokens=num_tokens, num_pairs=num_pairs, num_rows=num_labels,
                head_products=num_labels * vocabulary_products(teacher.config),
            )
            for teacher in teachers
        ) // 3  # fmt: skip

    return dataclasses.replace(
        part, terms=(hard, *others, *taught), other_flops=flops,
        read=partial(read_all, teachers, len(taught)),
    )  # fmt: skip


def read_all(
    teachers: Sequence[Transformer], num_taught: int, model: Transformer, part: Part, batch: Batch
) -> tuple[Batch, list[Tensor]]:
    """Return each term's hidden states; of those taught, the student's beside the teachers'."""
    own = dataclasses.replace(part, terms=part.terms[:-num_taught])
    batch, states = read_once(model, own, batch)
    with torch.no_grad():
        rows = part.terms[0].rows(batch)
        theirs = [teacher(batch, is_causal=part.is_causal, rows=rows) for teacher in teachers]
    every = torch.cat([states[0], *(own.to(states[0].dtype) for own in theirs)], dim=1)
    return batch, [*states, *[every] * num_taught]


@dataclass(frozen=True, kw_only=True)
class TaughtTerm(ABC):
    """What a teacher says of the tokens of another term; a `Term`, beside that of the labels."""

    kind: ClassVar[str]
    hard: TokenTerm
    weight: float

    @property
    def name(self) -> str:
        """As in `Term`."""
        return f"{self.hard.name}_{self.kind}"

    @property
    def needs(self) -> str:
        """As in `Term`."""
        return self.hard.needs

    def places(self, examples: ExampleBatch) -> np.ndarray:
        """As in `Term`."""
        return self.hard.places(examples)

    def rows(self, batch: Batch) -> Tensor:
        """As in `Term`."""
        return self.hard.rows(batch)

    @abstractmethod
    def losses(self, model: Transformer, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each label, float32 (P,), by the states of student and teacher."""

    def loss(self, model: Transformer, hidden: Tensor, batch: Batch) -> Tensor:
        """As in `Term`."""
        return self.losses(model, hidden, batch).sum()

    @abstractmethod
    def head_products(self, config: ModelConfig) -> int:
        """As in `Term`."""

    def score(self, model: Transformer, hidden: Tensor, batch: Batch) -> TermScores:
        """As in `Term`."""
        return {"losses": self.losses(model, hidden, batch).double().cpu().numpy()}

    def figures(self, scores: TermScores, vocabulary: object) -> dict[str, float]:
        """As in `Term`."""
        return {f"{self.name}_loss": float(scores["losses"].mean())}


@dataclass(frozen=True, kw_only=True)
class SoftTerm(TaughtTerm):
    """Divergence of the student's guesses from the teachers', in nats.

    It is multiplied by the temperature squared, so that its gradients keep their size.
    """

    kind = "soft"
    teachers: tuple[Transformer, ...]
    temperature: float

    def losses(self, model: Transformer, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each label: float32 (P,)."""
        sizes = [own.config.hidden_size for own in (model, *self.teachers)]
        num_rows = chunk_rows(model.config.vocab_size, hidden.device)
        parts = [
            checkpoint(
                self._divergence, model, *torch.split(rows, sizes, dim=1), use_reentrant=False,
                preserve_rng_state=False,
            )
            for rows in torch.split(hidden, num_rows)
        ]  # fmt: skip
        losses = torch.cat(parts)
        return torch.where(batch.masked_labels == IGNORED, 0, losses)

    def _divergence(self, model: Transformer, student: Tensor, *states: Tensor) -> Tensor:
        logits = model.lm_logits(student).float() / self.temperature
        with torch.no_grad():
            said = [
                (teacher.lm_logits(own).float() / self.temperature).log_softmax(1)
                for teacher, own in zip(self.teachers, states, strict=True)
            ]
            theirs = said[0] if len(said) == 1 else _mean_of_logarithms(said)
        pieces = F.kl_div(logits.log_softmax(1), theirs, reduction="none", log_target=True)
        divergence: Tensor = pieces.sum(1) * self.temperature**2
        return divergence

    def head_products(self, config: ModelConfig) -> int:
        """As in `Term`: the student's head, once more."""
        return vocabulary_products(config)


@dataclass(frozen=True, kw_only=True)
class AngleTerm(TaughtTerm):
    """1 - cosine of the student's and the teacher's hidden states of labelled tokens."""

    kind = "angle"

    def losses(self, model: Transformer, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each label: float32 (P,)."""
        size = model.config.hidden_size
        student, teacher = hidden[:, :size].float(), hidden[:, size : 2 * size].float()
        losses = 1 - F.cosine_similarity(student, teacher, dim=1)
        return torch.where(batch.masked_labels == IGNORED, 0, losses)

    def head_products(self, config: ModelConfig) -> int:
        """As in `Term`: none worth counting."""
        return 0


def _mean_of_logarithms(values: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the mean of what they are logarithms of."""
    return torch.stack(list(values)).logsumexp(0) - math.log(len(values))


def spread_layers(num_layers: int, num_theirs: int) -> list[int]:
    """Return which of the teacher's layers each layer of a student begins with, from first to last.

    Example:
        >>> spread_layers(6, 12)
        [0, 2, 4, 7, 9, 11]
    """
    if num_layers == 1:
        return [0]
    return [round(layer * (num_theirs - 1) / (num_layers - 1)) for layer in range(num_layers)]


def student_weights(
    state: Mapping[str, Tensor], teacher: ModelConfig, student: ModelConfig
) -> dict[str, Tensor]:
    """Return the weights that a student begins with: the teacher's, and of its layers some.

    Args:
        state: the teacher's weights by name
        teacher: as wide as the student; it may tell segments apart, where the student does not
        student: at most as deep
    """
    kept = {
        name: weight
        for name, weight in state.items()
        if not name.startswith(("layers.", "extras."))
        and (student.has_nsp_head or not name.startswith("nsp_head."))
    }
    segments = kept.pop("embeddings.segments.weight", None)
    if segments is not None and student.traits.has_segments:
        kept["embeddings.segments.weight"] = segments
    elif segments is not None:  # each token is of the first, as of a text by itself
        positions = kept["embeddings.positions.weight"]
        kept["embeddings.positions.weight"] = positions + segments[:1]
    sources = spread_layers(student.num_hidden_groups, teacher.num_hidden_groups)
    for layer, source in enumerate(sources):
        prefix = f"layers.{source}."
        kept |= {
            f"layers.{layer}.{name.removeprefix(prefix)}": weight
            for name, weight in state.items()
            if name.startswith(prefix)
        }
    return kept
