"""What an objective is: which examples it takes, how they are read, what is learned and scored.

The view and the corruption make the examples (`lmdata.views`). An objective cuts a step's examples
into parts that are read one way each, labels them, and has terms that learn from the labels. A loss
is a sum, never a mean: the step divides once, by the labels of the whole step over all processes,
so that the result does not depend on how a step is cut into micro-batches. Scores are kept per
label and become figures once, over all held-out examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lmdata.batch import ExampleBatch
from lmdata.recipes import PAIR_VIEWS, Recipe
from lmdata.rng import draw, stream_key
from lmmodel.errors import FitError
from lmmodel.families import Family, ModelConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lmmodel.batch import Batch
    from lmmodel.model import Transformer

OBJECTIVES: dict[str, Definition] = {}
"""All objectives by name; the package fills it."""

TermScores = Mapping[str, np.ndarray]
"""What a term finds for each label, (P, ...) each, by name."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is learned."""

    name: str = "mlm+nsp"
    """One of `OBJECTIVES`: mlm, mlm+nsp, mlm+sop, clm, hybrid (both), rtd, plm, simcse."""
    pair_weight: float = 1.0
    """Weight of the pair loss (nsp, sop) beside the token loss; above 0."""
    causal_share: float = 0.5
    """Of `hybrid`: share of the rows read causally, and weight of their loss; in (0, 1)."""
    generator_ratio: float = 0.25
    """Of `rtd`: heads and width of the generator, by the model's; in (0, 1]."""
    replaced_weight: float = 50.0
    """Of `rtd`: weight of the model's loss beside the generator's; above 0."""
    is_disentangled: bool = False
    """Of `rtd`: whether the model has a table of tokens added to the generator's, which its
    gradient does not reach (DeBERTaV3); else they share one."""

    contrast_temperature: float = 0.05
    """Of `simcse`: cosines are divided by it; above 0."""

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise ValueError(f"name must be one of {', '.join(OBJECTIVES)}, got {self.name!r}")
        if self.pair_weight <= 0:
            raise ValueError(f"pair_weight must be above 0, got {self.pair_weight}: use name=mlm")
        if not 0 < self.causal_share < 1:
            raise ValueError(
                f"causal_share must be in (0, 1), got {self.causal_share}: use name=mlm or clm"
            )
        if not 0 < self.generator_ratio <= 1:
            raise ValueError(
                f"generator_ratio must be in (0, 1], got {self.generator_ratio}: a generator "
                "larger than the model makes tokens that nothing could tell from the original"
            )
        if not 0 < self.replaced_weight < math.inf:
            raise ValueError(
                f"replaced_weight must be above 0 and finite, got {self.replaced_weight}"
            )
        if not 0 < self.contrast_temperature < math.inf:
            raise ValueError(
                f"contrast_temperature must be above 0 and finite, got {self.contrast_temperature}"
            )


@dataclass(frozen=True)
class Vocabulary:
    """What figures need to know of the pieces."""

    piece_bytes: np.ndarray  # int64 (V,) bytes of text that each stands for
    counts: np.ndarray  # int64 (V,) of each in the training split
    is_special: np.ndarray  # bool (V,)


class Term(Protocol):
    """One loss and its scores."""

    @property
    def name(self) -> str:
        """Of its loss, as in metrics.jsonl: NAME_loss."""

    @property
    def weight(self) -> float:
        """In the loss of a step, beside the other terms'."""

    @property
    def needs(self) -> str:
        """What it learns from and what to do where {source} has none; {view} is of the pairs."""

    def places(self, examples: ExampleBatch) -> np.ndarray:
        """Return the token of each label, as an index into all tokens of examples: int64 (P,)."""

    def rows(self, batch: Batch) -> Tensor:
        """Return the rows whose hidden states it reads: int64 (R,)."""

    def loss(self, model: Transformer, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the summed loss of its labels, a float32 scalar, from those rows, (R, D)."""

    def head_products(self, config: ModelConfig) -> int:
        """Return the multiplications of its head for one label."""

    def score(self, model: Transformer, hidden: Tensor, batch: Batch) -> TermScores:
        """Return what it finds for each label, from those rows, without gradients."""

    def figures(self, scores: TermScores, vocabulary: Vocabulary) -> dict[str, float]:
        """Return the figures of all held-out labels, by name; fields of `Evaluation` or others."""


def later(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module that needs torch, which is loaded when it is called."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(module), name)(*arguments)

    return call


def as_they_are(examples: ExampleBatch) -> ExampleBatch:
    """Return examples that are labelled already."""
    return examples


def pack_as_they_are(examples: ExampleBatch, max_seqlen: int | None) -> Batch:
    """Return examples as a batch of one stream, with the labels that every view makes."""
    from lmmodel.packing import pack_examples

    return pack_examples(examples, max_seqlen)


def read_once(model: Transformer, part: Part, batch: Batch) -> tuple[Batch, Sequence[Tensor]]:
    """Return the batch, and the hidden states of each term by one pass of the model."""
    import torch

    rows = [term.rows(batch) for term in part.terms]
    hidden = model(batch, is_causal=part.is_causal, rows=torch.cat(rows))
    return batch, torch.split(hidden, [len(own) for own in rows])


def no_flops(model: ModelConfig, num_tokens: int, num_pairs: int, num_labels: int) -> int:
    """Return none: the model itself is counted anyway."""
    return 0


def no_modules(config: ObjectiveConfig, model: ModelConfig) -> Mapping[str, nn.Module]:
    """Return nothing: the heads that every model has are enough."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Part:
    """The rows that are read one way, and the terms they are trained on."""

    terms: tuple[Term, ...]
    share: float = 1.0
    """Of the rows of a step."""
    is_causal: bool = False
    """Whether a token sees no later ones; else all of its sequence."""
    is_of_masks: bool = False
    """Whether tokens are labelled by masks alone, whose rate then bounds their number."""
    label: Callable[[ExampleBatch], ExampleBatch] = as_they_are
    """Examples as the view made them to those that the terms learn from."""
    pack: Callable[[ExampleBatch, int | None], Batch] = pack_as_they_are
    """Labelled examples, and the longest sequence there may be, to a batch."""
    read: Callable[[Transformer, Part, Batch], tuple[Batch, Sequence[Tensor]]] = read_once
    """A batch to the hidden states that each term asks for, (R, D) each, and to the batch that the
    terms then see: the same, or one that a module of the objective has made of it. What is drawn
    there is addressed by the batch. Sharded weights are whole from the model's forward on."""

    compare: Callable[[Sequence[Batch], Sequence[Tensor]], list[Batch]] | None = None
    """Of a loss about all rows of a step at once: the batches of a process and the hidden states of
    the first term in each, computed without gradients, to the batches that the term then sees.
    Every process must ask. None: each row has a loss of its own."""
    other_flops: Callable[[ModelConfig, int, int, int], int] = no_flops
    """Floating-point operations of a forward pass of other modules than the model and the heads,
    by tokens, by pairs of them that attention sees, and by labels of the first term."""
    seed: int = 0
    """Of what `read` draws; that of the run, and 0 for held-out examples."""

    def count(self, examples: ExampleBatch) -> list[int]:
        """Return the labels that each term finds in labelled examples."""
        return [len(term.places(examples)) for term in self.terms]


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What an objective is whatever its settings, and how it reads a token store unless told."""

    summary: str
    """What is learned, in a few words, for people."""
    make_parts: Callable[[ObjectiveConfig], tuple[Part, ...]]
    recipe: Recipe
    make_modules: Callable[[ObjectiveConfig, ModelConfig], Mapping[str, nn.Module]] = no_modules
    """Modules of its own for a model, by name: a head, a generator. They lie in `model.extras`,
    begin as `model.init_weights` fills them by their names, and learn with all else. A run keeps
    them; fine-tuning, export and a run of another objective that begins with it leave them out."""
    is_causal: bool = False
    """Whether every row is read causally, as a decoder must."""
    can_generate: bool = False
    """Whether next tokens are learned."""
    can_fill_masks: bool = False
    """Whether masked tokens are learned."""
    makes_vectors: bool = False
    """Whether vectors of texts are learned: the mean of the last layer over their tokens."""
    dropout: float = 0.0
    """Of a model that learns it, unless the configuration says otherwise."""
    begin: Callable[[Transformer, Container[str]], None] = lambda model, fresh: None
    """Puts weights, those named fresh and those that were trained before, into the form that is
    trained."""
    finish: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None
    """Trained weights by name to the form that is evaluated and kept; None: it is the same."""
    token_scores: Callable[[Transformer, Tensor], Tensor] | None = None
    """How surely tokens are right, by their hidden states (R, D): logarithms, float32 (R,); None:
    the vocabulary says it."""
    models_within: Callable[[Transformer], Mapping[str, Transformer]] = lambda model: {}
    """Models among the modules that are of use by themselves, by the folder of an export."""
    has_targets: bool = False
    """Whether examples are a source and a target, which an encoder-decoder reads and writes."""
    decoder_start: str = "eos"
    """Purpose of the special token that its targets begin with."""
    hold_out: Callable[[Recipe], Recipe] = lambda recipe: recipe
    """The training's recipe to that of held-out examples."""

    @property
    def pair_view(self) -> str | None:
        """The view of sentence pairs that its pair loss is about; it can't do with another."""
        return self.recipe.view if self.recipe.view in PAIR_VIEWS else None

    @property
    def corruption(self) -> str | None:
        """The corruption that makes its sources and targets, or orders; it needs that one."""
        is_needed = self.has_targets or self.recipe.corruption_traits.orders
        return self.recipe.corruption if is_needed else None

    def fits(self, family: Family) -> bool:
        """Return whether models of a family can learn it."""
        if (orders := self.recipe.corruption_traits.orders) or family.is_two_stream:
            return orders and family.is_two_stream
        if self.has_targets or family.is_encoder_decoder:
            is_both = self.has_targets and family.is_encoder_decoder
            return is_both and self.decoder_start == family.decoder_start
        return self.is_causal or not family.is_causal


@dataclass(frozen=True)
class Objective:
    """A definition with its settings: parts whose shares sum to 1."""

    name: str
    definition: Definition
    parts: tuple[Part, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms, in the order of every array of sums and counts."""
        return tuple(term for part in self.parts for term in part.terms)

    @property
    def weights(self) -> np.ndarray:
        """float64 (K,): what each term weighs in the loss."""
        return np.array([term.weight for term in self.terms])

    @property
    def causal_share(self) -> float:
        """Share of the rows that are read causally."""
        return sum(part.share for part in self.parts if part.is_causal)

    def most_labels(self, recipe: Recipe | None) -> float:
        """Return the highest share of tokens that may have a label, by a recipe if there is one."""
        if recipe is None or not all(part.is_of_masks for part in self.parts):
            return 1.0
        return recipe.highest_rate

    def split(
        self, examples: ExampleBatch, addresses: Sequence[tuple[int, np.ndarray]], seed: int
    ) -> list[ExampleBatch]:
        """Return the examples of each part, labelled; the same part in every run for a row.

        Args:
            examples: of some rows
            addresses: those rows: (epoch, int64 row numbers), one after the other
            seed: of the run
        """
        if len(self.parts) == 1:
            return [self.parts[0].label(examples)]
        shares = [part.share for part in self.parts]
        drawn = [draw_parts(rows, epoch, shares, seed) for epoch, rows in addresses]
        of_row = np.concatenate(drawn)
        return [
            part.label(examples.take(np.flatnonzero(of_row == index)))
            for index, part in enumerate(self.parts)
        ]

    def check_labels(self, examples: ExampleBatch, source: str) -> None:
        """Check that a sample of the data carries what the terms need.

        Raises:
            FitError: a term would never see a label
        """
        for part in self.parts:
            for term, count in zip(part.terms, part.count(part.label(examples)), strict=True):
                if count == 0:
                    needs = term.needs.format(source=source, view=self.definition.pair_view)
                    raise FitError(f"objective.name={self.name} needs {needs}")

    def figures(
        self, scores: Sequence[Sequence[TermScores]], vocabulary: Vocabulary
    ) -> dict[str, float]:
        """Return all figures by name.

        Args:
            scores: of each term, what it found in each micro-batch of its part
            vocabulary: the pieces
        """
        found: dict[str, float] = {}
        for term, parts in zip(self.terms, scores, strict=True):
            joined = join_scores(parts)
            if any(len(values) for values in joined.values()):
                found |= term.figures(joined, vocabulary)
        return found


def make_objective(config: ObjectiveConfig, seed: int = 0) -> Objective:
    """Return the objective of a configuration; `seed` is that of what its parts draw.

    Example:
        >>> [term.name for term in make_objective(ObjectiveConfig(name="mlm+nsp")).terms]
        ['mlm', 'nsp']
    """
    own = OBJECTIVES[config.name]
    parts = tuple(replace(part, seed=seed) for part in own.make_parts(config))
    return Objective(config.name, own, parts)


def modules_of(config: ObjectiveConfig, model: ModelConfig) -> Mapping[str, nn.Module]:
    """Return fresh modules that an objective adds to a model, their weights not yet filled."""
    return OBJECTIVES[config.name].make_modules(config, model)


def num_parameters(config: ObjectiveConfig, model: ModelConfig) -> int:
    """Return how many weights a model has with the modules of an objective, without making them.

    Example:
        >>> num_parameters(ObjectiveConfig(name="mlm"), ModelConfig(size="base", vocab_size=30522))
        109514298
    """
    import torch

    with torch.device("meta"):
        extras = modules_of(config, model).values()
    own = sum(weight.numel() for module in extras for weight in module.parameters())
    return model.num_parameters + own


def join_scores(parts: Sequence[TermScores]) -> TermScores:
    """Return the scores of several micro-batches as one.

    Example:
        >>> join_scores([{"losses": np.ones(2)}, {"losses": np.zeros(1)}])["losses"].tolist()
        [1.0, 1.0, 0.0]
    """
    names = parts[0].keys() if parts else ()
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def draw_parts(rows: np.ndarray, epoch: int, shares: Sequence[float], seed: int) -> np.ndarray:
    """Return the part that reads each row: int64 (B,), drawn by row number, so fixed for each row.

    Args:
        rows: int64 (B,) row numbers in the epoch's view
        epoch: the view's epoch
        shares: of the parts, which sum to 1
        seed: of the run

    Example:
        >>> draw_parts(np.arange(3), 0, [0.0, 1.0], seed=1).tolist()
        [1, 1, 1]
    """
    words = draw(stream_key(seed, "objective", epoch), rows, np.zeros_like(rows))
    ends = np.cumsum(shares[:0:-1]) * 2**32  # the last part has the lowest words
    return np.asarray(len(shares) - 1 - np.searchsorted(ends, words, side="right"))
