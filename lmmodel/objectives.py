"""What a model learns: view x corruption x head.

The view and the corruption make the examples (`lmdata.views`). Here an objective says which rows of
a step are read how, and which heads learn from them with which weight. A loss is a sum, never a
mean: the step divides once, by the labels of the whole step over all processes, so that the result
does not depend on how a step is cut into micro-batches.

To add an objective: one entry in `OBJECTIVES`, with a loss function if it needs a new one. Nothing
else names the objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from lmdata.batch import ExampleBatch
from lmdata.recipes import PAIR_VIEWS, Recipe
from lmdata.rng import draw, stream_key
from lmmodel.batch import IGNORED, Batch
from lmmodel.errors import FitError
from lmmodel.layers.cross_entropy import summed_cross_entropy
from lmmodel.model import Transformer


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is learned."""

    name: str = "mlm+nsp"
    """One of `OBJECTIVES`: mlm, mlm+nsp, mlm+sop, clm, hybrid (rows of both kinds)."""
    pair_weight: float = 1.0
    """Weight of the pair loss (nsp, sop) beside the token loss; above 0."""
    causal_share: float = 0.5
    """Of `hybrid`: share of the rows read causally, and weight of their loss; in (0, 1)."""

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise ValueError(f"name must be one of {', '.join(OBJECTIVES)}, got {self.name!r}")
        if self.pair_weight <= 0:
            raise ValueError(f"pair_weight must be above 0, got {self.pair_weight}: use name=mlm")
        if not 0 < self.causal_share < 1:
            raise ValueError(
                f"causal_share must be in (0, 1), got {self.causal_share}: use name=mlm or clm"
            )


@dataclass(frozen=True)
class Term:
    """One loss: which rows it reads, the sum over its labels, in nats, and what it weighs."""

    name: str
    weight: float
    count: Callable[[ExampleBatch], int]
    rows: Callable[[Batch], torch.Tensor]
    loss: Callable[[Transformer, torch.Tensor, Batch], torch.Tensor]

    @property
    def is_of_pairs(self) -> bool:
        """Whether it learns from pair labels; else from labelled tokens."""
        return self.rows is pair_rows


@dataclass(frozen=True)
class Part:
    """The rows that are read one way, and the terms they are trained on."""

    terms: tuple[Term, ...]
    is_causal: bool = False
    share: float = 1.0


@dataclass(frozen=True)
class Objective:
    """Parts whose shares sum to 1."""

    name: str
    parts: tuple[Part, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms, in the order of every array of sums and counts."""
        return tuple(term for part in self.parts for term in part.terms)

    @property
    def is_causal(self) -> bool:
        """Whether every row is read causally, as a decoder must."""
        return all(part.is_causal for part in self.parts)

    @property
    def weights(self) -> np.ndarray:
        """float64 (K,): what each term weighs in the loss."""
        return np.array([term.weight for term in self.terms])


def token_rows(batch: Batch) -> torch.Tensor:
    """Return the rows of the labelled tokens."""
    return batch.masked_positions


def token_loss(model: Transformer, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the summed cross-entropy of the labelled tokens, from their hidden states."""
    return summed_cross_entropy(model.lm_logits(hidden), batch.masked_labels)


def pair_rows(batch: Batch) -> torch.Tensor:
    """Return the rows of each sequence's first token."""
    return batch.first_positions


def pair_loss(model: Transformer, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the summed cross-entropy of the pair labels, from the first tokens' hidden states."""
    logits = model.nsp_logits(hidden).float()
    return F.cross_entropy(logits, batch.next_sentence_label, reduction="sum", ignore_index=IGNORED)


def _num_token_labels(examples: ExampleBatch) -> int:
    return len(examples.masked_labels)


def _num_pair_labels(examples: ExampleBatch) -> int:
    return int((examples.next_sentence_label >= 0).sum())


def _masked(config: ObjectiveConfig, pair: str | None = None) -> tuple[Part, ...]:
    terms = [Term("mlm", 1.0, _num_token_labels, token_rows, token_loss)]
    if pair is not None:
        terms.append(Term(pair, config.pair_weight, _num_pair_labels, pair_rows, pair_loss))
    return (Part(tuple(terms)),)


def _causal() -> tuple[Part, ...]:
    return (Part((Term("clm", 1.0, _num_token_labels, token_rows, token_loss),), is_causal=True),)


def _hybrid(config: ObjectiveConfig) -> tuple[Part, ...]:
    share = config.causal_share
    masked = Term("mlm", 1 - share, _num_token_labels, token_rows, token_loss)
    causal = Term("clm", share, _num_token_labels, token_rows, token_loss)
    return Part((masked,), share=1 - share), Part((causal,), is_causal=True, share=share)


@dataclass(frozen=True)
class Definition:
    """What an objective is: its parts, and how it reads a token store unless told otherwise."""

    parts: Callable[[ObjectiveConfig], tuple[Part, ...]]
    recipe: Recipe

    @property
    def pair_view(self) -> str | None:
        """The view of sentence pairs that its pair loss is about; it can't do with another."""
        return self.recipe.view if self.recipe.view in PAIR_VIEWS else None


_BERNOULLI = Recipe(view="packed", count="bernoulli")

OBJECTIVES: dict[str, Definition] = {
    "mlm": Definition(_masked, _BERNOULLI),
    "mlm+nsp": Definition(lambda config: _masked(config, "nsp"), Recipe(view="nsp")),
    "mlm+sop": Definition(lambda config: _masked(config, "sop"), Recipe(view="sop")),
    "clm": Definition(lambda config: _causal(), Recipe(view="packed", corruption="none")),
    "hybrid": Definition(_hybrid, _BERNOULLI),
}


def make_objective(config: ObjectiveConfig) -> Objective:
    """Return the objective of a configuration.

    Example:
        >>> [term.name for term in make_objective(ObjectiveConfig(name="mlm+nsp")).terms]
        ['mlm', 'nsp']
    """
    return Objective(config.name, OBJECTIVES[config.name].parts(config))


def count_labels(part: Part, examples: ExampleBatch) -> list[int]:
    """Return the labels that each term of a part finds in its examples."""
    return [term.count(examples) for term in part.terms]


def sum_losses(model: Transformer, part: Part, batch: Batch) -> torch.Tensor:
    """Return the summed loss of each term of a part, in nats: float32 (terms of the part,)."""
    rows = [term.rows(batch) for term in part.terms]
    hidden = model(batch, is_causal=part.is_causal, rows=torch.cat(rows))
    pieces = torch.split(hidden, [len(own) for own in rows])
    losses = zip(part.terms, pieces, strict=True)
    return torch.stack([term.loss(model, piece, batch) for term, piece in losses])


def combine(sums: torch.Tensor, weights: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of the means, a scalar; a term without labels contributes 0.

    Args:
        sums: float (K,) nats
        weights: float (K,)
        counts: int64 (K,) labels of the whole step over all processes

    Example:
        >>> combine(torch.tensor([6.0, 1.0]), torch.tensor([1.0, 0.5]), torch.tensor([3, 0])).item()
        2.0
    """
    return (sums * weights * (counts > 0) / counts.clamp(min=1)).sum()


def next_token_labels(examples: ExampleBatch) -> ExampleBatch:
    """Return the same rows uncorrupted, each token labelled with the one after it.

    The original ids come back from the labels of the corruption, so frozen masked shards serve too.
    Segments of packed rows stay apart: the last token of each has no label.
    """
    input_ids = examples.original_ids()
    lengths = examples.segment_lengths.astype(np.int64)
    ends = np.cumsum(lengths)
    has_next = np.ones(len(input_ids), bool)
    has_next[ends[lengths > 0] - 1] = False
    flat = np.flatnonzero(has_next)
    starts = examples.offsets[:-1]
    mask_offsets = np.searchsorted(flat, examples.offsets)
    rows = np.repeat(np.arange(len(starts)), np.diff(mask_offsets))
    return examples.replace(
        input_ids=input_ids,
        masked_positions=(flat - starts[rows]).astype(examples.masked_positions.dtype),
        mask_offsets=mask_offsets.astype(np.int64),
        masked_labels=input_ids[flat + 1],
    )


def causal_rows(rows: np.ndarray, epoch: int, share: float, seed: int) -> np.ndarray:
    """Return which rows are read causally: bool (B,), drawn by row number, so fixed for each row.

    Args:
        rows: int64 (B,) row numbers in the epoch's view
        epoch: the view's epoch
        share: in [0, 1]
        seed: of the run

    Example:
        >>> causal_rows(np.arange(8), 0, 1.0, seed=1).all()
        np.True_
    """
    words = draw(stream_key(seed, "objective", epoch), rows, np.zeros_like(rows))
    return np.asarray(words < share * 2**32)


def check_labels(objective: Objective, examples: ExampleBatch, source: str) -> None:
    """Check that a sample of the data carries what the objective's terms need.

    Raises:
        FitError: a term would never see a label
    """
    for part in objective.parts:
        for term in part.terms:
            if not part.is_causal and term.count(examples) == 0:
                raise FitError(_why_no_labels(term, objective, source))


def _why_no_labels(term: Term, objective: Objective, source: str) -> str:
    if term.is_of_pairs:
        view = OBJECTIVES[objective.name].pair_view
        return (
            f"objective.name={objective.name} needs pair labels, and {source} has none: make "
            f"it with pairs (view {view}), or train with objective.name=mlm"
        )
    return (
        f"objective.name={objective.name} needs masked tokens, and {source} has none: "
        "mask it, or train with objective.name=clm"
    )
