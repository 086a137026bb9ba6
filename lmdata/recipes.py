"""What examples are made of, as data: a view of the documents and a corruption of the ids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lmdata.corruptions import CORRUPTIONS, PAIR_VIEWS, VIEWS, Corruption, ViewTraits
from lmdata.denoising import MEAN_SPAN_LENGTH, Noise
from lmdata.errors import ConfigError
from lmdata.settings import LATE

__all__ = [
    "CORRUPTIONS", "PAIR_VIEWS", "RECIPES", "VIEWS", "Corruption", "Recipe", "ViewTraits",
    "named_recipe",
]  # fmt: skip


COUNTS = ("exact", "bernoulli")
COVERAGES = ("independent", "balanced")
COMPATIBLE = ("bert",)
MIN_SEQ_LENGTH = 8
MAX_SEQ_LENGTH = 65_535


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How examples are made from a token store.

    Attributes:
        view: "nsp" (pairs, half from another document), "sop" (neighbours, half swapped),
            "single" (one segment of whole sentences), "packed" (segments laid into full rows),
            "sentence" (one sentence each)
        corruption: "token", "whole-word", "span" (SpanBERT), "ngram" (ALBERT), "permutation"
            (XLNet), "none" (causal rows), "intact", or of a source and a target "sentinels" (T5),
            "infilling" (BART)
        max_seq_length: tokens of the longest example, specials included, 8 to 65,535
        mlm_probability: share of the tokens to predict, in (0, 1), or (start, end) of a straight
            line over the training progress
        max_predictions: most masked tokens of an example; by default
            ceil(max_seq_length * mlm_probability); exact count only
        count: "exact" (BERT: k positions an example) or "bernoulli" (each by itself)
        mask_proportion: share of the masked tokens that become [MASK]
        random_proportion: share that becomes a random piece
        keep_proportion: share that stays; the three sum to 1
        short_seq_prob: share of the documents with a shorter target length, in [0, 1]; pairs only,
            by default 0.1
        duplicates: passes over the documents within one epoch, 1 to 65,535
        balance_nsp: lower the share of random pairs, above a half by BERT's rules, to a half
        coverage: "independent" epochs, or "balanced": every token is masked once in about
            1 / mlm_probability epochs; single and packed views with token corruption only
        compat: "bert" for the script's own choices (docs/fidelity.md, rules 10, 15, 18, 19)
        shuffle: examples in a random order, another one each epoch
        mean_span_length: of noise, tokens (words) of a span on average, 1 to 100; by default 3
        whole_words, permute_sentences, insert_masks: of infilling, spans are of whole words,
            sentences come in another order, spans of no word are masks more; all three by default
    """

    view: str = "nsp"
    corruption: str = "token"
    max_seq_length: int = 128
    mlm_probability: float | tuple[float, float] = 0.15
    max_predictions: int | None = None
    count: str = "exact"
    mask_proportion: float = 0.8
    random_proportion: float = 0.1
    keep_proportion: float = 0.1
    short_seq_prob: float | None = None
    duplicates: int = 1
    balance_nsp: bool = False
    coverage: str = "independent"
    compat: str | None = None
    shuffle: bool = True
    mean_span_length: float | None = field(default=None, metadata=LATE)
    whole_words: bool | None = field(default=None, metadata=LATE)
    permute_sentences: bool | None = field(default=None, metadata=LATE)
    insert_masks: bool | None = field(default=None, metadata=LATE)

    def __post_init__(self) -> None:
        """Refuse values that are out of range or would have no effect."""
        _check_choices(self)
        _check_lengths(self)
        _check_rates(self)
        _check_effect(self)

    @property
    def view_traits(self) -> ViewTraits:
        """How documents are laid into examples."""
        return VIEWS[self.view]

    @property
    def corruption_traits(self) -> Corruption:
        """What becomes of the ids."""
        return CORRUPTIONS[self.corruption]

    @property
    def has_pairs(self) -> bool:
        """Whether examples have two segments and a label that relates them."""
        return self.view_traits.has_pairs

    @property
    def is_bert(self) -> bool:
        """Whether the choices are those of BERT's script where ours differ."""
        return self.compat == "bert"

    @property
    def noise(self) -> Noise | None:
        """How segments become a source and a target, None where they do not."""
        return self.corruption_traits.noise

    @property
    def span_length(self) -> float:
        """Mean length of a span of noise, the default resolved."""
        return MEAN_SPAN_LENGTH if self.mean_span_length is None else self.mean_span_length

    @property
    def num_special(self) -> int:
        """Special tokens around the segments of an example without noise, in each segment."""
        return 3 if self.has_pairs else 1 + self.corruption_traits.has_start

    @property
    def text_capacity(self) -> int:
        """The most tokens of text in an example, or of one segment in the packed view.

        Example:
            >>> Recipe().text_capacity, RECIPES["t5"].text_capacity
            (125, 568)
        """
        if self.noise is not None:
            return self.noise.text_capacity(self)
        return self.max_seq_length - self.num_special

    def row_lengths(self, lengths: np.ndarray) -> np.ndarray:
        """Return what segments of so many tokens take of a row, int64 (S,), before any noise."""
        if self.noise is not None:
            return self.noise.row_lengths(self, lengths)
        return lengths + self.num_special

    @property
    def is_masking(self) -> bool:
        """Whether tokens are masked."""
        return self.corruption_traits.is_masking

    @property
    def proportions(self) -> tuple[float, float, float]:
        """Shares of the tokens to predict that become [MASK], a random piece, and that stay."""
        if self.corruption_traits.orders:
            return 0.0, 0.0, 1.0
        return self.mask_proportion, self.random_proportion, self.keep_proportion

    @property
    def has_exact_count(self) -> bool:
        """Whether the number of masked tokens follows from the length of an example."""
        return self.is_masking and self.count == "exact"

    def needs_neighbours(self, num_documents: int) -> bool:
        """Return whether pairs are made of neighbours only, for want of another document too.

        Args:
            num_documents: of the split that are not empty
        """
        alone = num_documents == 1 and not self.is_bert
        return self.has_pairs and (not self.view_traits.draws_documents or alone)

    def frame(self, special_ids: Mapping[str, int | None]) -> tuple[int | None, int | None]:
        """Return the special tokens before and after a segment, None where there is none.

        Example:
            >>> ids = {"cls": 2, "sep": 3, "eos": None}
            >>> Recipe().frame(ids), Recipe(view="packed", corruption="none").frame(ids)
            ((2, 3), (None, 3))
        """
        first, last, end = (special_ids.get(name) for name in ("cls", "sep", "eos"))
        if not self.corruption_traits.has_start:
            return None, last if end is None else end
        return first, last

    @property
    def short_probability(self) -> float:
        """Share of the documents with a shorter target length, the default resolved."""
        if self.short_seq_prob is not None:
            return self.short_seq_prob
        return 0.1 if self.has_pairs else 0.0

    @property
    def highest_rate(self) -> float:
        """The largest `mlm_probability` of the training."""
        rate = self.mlm_probability
        return max(rate) if isinstance(rate, tuple) else rate

    @property
    def most_predictions(self) -> int:
        """Largest number of masked tokens of an example with an exact count.

        Example:
            >>> Recipe().most_predictions, Recipe(max_predictions=7).most_predictions
            (20, 7)
        """
        if self.max_predictions is not None:
            return self.max_predictions
        return math.ceil(self.max_seq_length * self.highest_rate - 1e-9)

    def rate_at(self, progress: float) -> float:
        """Return the mask rate at a training progress in [0, 1].

        Raises:
            ValueError: the progress is outside [0, 1]

        Example:
            >>> Recipe(mlm_probability=(0.50, 0.25)).rate_at(0.5)
            0.375
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress must be in [0, 1], got {progress}")
        if not isinstance(self.mlm_probability, tuple):
            return self.mlm_probability
        start, end = self.mlm_probability
        return start + (end - start) * progress


def _check_choices(recipe: Recipe) -> None:
    for name, allowed in (
        ("view", VIEWS), ("corruption", CORRUPTIONS), ("count", COUNTS), ("coverage", COVERAGES),
        ("compat", (None, *COMPATIBLE)),
    ):  # fmt: skip
        value = getattr(recipe, name)
        if value not in allowed:
            choices = ", ".join(str(choice) for choice in allowed)
            raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def _check_lengths(recipe: Recipe) -> None:
    if not MIN_SEQ_LENGTH <= recipe.max_seq_length <= MAX_SEQ_LENGTH:
        raise ValueError(
            f"max_seq_length must be in [{MIN_SEQ_LENGTH}, {MAX_SEQ_LENGTH}], "
            f"got {recipe.max_seq_length}"
        )
    if not 1 <= recipe.duplicates <= 65_535:
        raise ValueError(f"duplicates must be in [1, 65535], got {recipe.duplicates}")
    if recipe.max_predictions is not None and recipe.max_predictions < 1:
        raise ValueError(f"max_predictions must be at least 1, got {recipe.max_predictions}")


def _check_rates(recipe: Recipe) -> None:
    rate = recipe.mlm_probability
    rates = rate if isinstance(rate, tuple) else (rate,)
    if isinstance(rate, tuple) and len(rate) != 2:
        raise ValueError(f"mlm_probability must be a number or (start, end), got {rate}")
    if not all(0.0 < value < 1.0 for value in rates):
        raise ValueError(f"mlm_probability must be in (0, 1), got {rate}")
    proportions = (recipe.mask_proportion, recipe.random_proportion, recipe.keep_proportion)
    if min(proportions) < 0 or abs(sum(proportions) - 1) > 1e-6:
        raise ValueError(
            "mask_proportion, random_proportion and keep_proportion must be at least 0 and sum "
            f"to 1, got {proportions}"
        )
    if not 1.0 <= recipe.span_length <= 100.0:
        raise ValueError(f"mean_span_length must be in [1, 100], got {recipe.mean_span_length}")
    if recipe.corruption == "sentinels" and isinstance(rate, tuple):
        raise ValueError(
            f"mlm_probability must be one number with corruption=sentinels, got {rate}: rows are "
            "planned before there is noise"
        )
    if recipe.short_seq_prob is not None and not 0.0 <= recipe.short_seq_prob <= 1.0:
        raise ValueError(f"short_seq_prob must be in [0, 1], got {recipe.short_seq_prob}")


def _check_effect(recipe: Recipe) -> None:
    """Refuse a setting that the chosen view or corruption does not use."""
    view, corruption, traits = recipe.view, recipe.corruption, recipe.corruption_traits
    spans, no_masks = len(traits.span_weights) > 1, not traits.is_masking
    default = Recipe.__dataclass_fields__
    unused = {
        "short_seq_prob": not recipe.has_pairs and recipe.short_seq_prob is not None,
        "balance_nsp": recipe.balance_nsp and not recipe.view_traits.draws_documents,
        "compat": recipe.compat is not None and not recipe.view_traits.draws_documents,
        "max_predictions": recipe.max_predictions is not None
        and (no_masks or recipe.count == "bernoulli"),
        "count": recipe.count == "bernoulli" and (spans or no_masks),
        "mlm_probability": no_masks and traits.prepare is None and traits.noise is None
        and recipe.mlm_probability != default["mlm_probability"].default,
        "mask_proportion": (no_masks or traits.orders)
        and recipe.mask_proportion != default["mask_proportion"].default,
        "coverage": recipe.coverage == "balanced"
        and (recipe.has_pairs or traits.by_words or not recipe.has_exact_count),
        "mean_span_length": traits.noise is None and recipe.mean_span_length is not None,
    } | {
        name: recipe.corruption != "infilling" and getattr(recipe, name) is not None
        for name in ("whole_words", "permute_sentences", "insert_masks")
    }  # fmt: skip
    for name, is_unused in unused.items():
        if is_unused:
            raise ValueError(
                f"{name}={getattr(recipe, name)} has no effect with view={view}, "
                f"corruption={corruption}, count={recipe.count}: leave it out"
            )
    if recipe.is_bert and recipe.balance_nsp:
        raise ValueError("balance_nsp=True contradicts compat=bert, which has no such choice")
    if recipe.is_bert and recipe.count != "exact":
        raise ValueError(f"compat=bert masks an exact count, got count={recipe.count}")
    if recipe.has_pairs and (traits.is_causal or traits.noise is not None):
        raise ValueError(f"corruption={corruption} needs view single or packed, got view={view}")


RECIPES: dict[str, Recipe] = {
    "bert": Recipe(view="nsp", corruption="token", max_seq_length=128, duplicates=10),
    "roberta": Recipe(view="packed", corruption="token", max_seq_length=512, count="bernoulli"),
    "albert": Recipe(view="sop", corruption="ngram", max_seq_length=512),
    "spanbert": Recipe(view="single", corruption="span", max_seq_length=512),
    "xlnet": Recipe(
        view="packed", corruption="permutation", max_seq_length=512, mlm_probability=0.166
    ),
    "t5": Recipe(view="packed", corruption="sentinels", max_seq_length=512),
    "bart": Recipe(view="packed", corruption="infilling", max_seq_length=512, mlm_probability=0.3),
    "simcse": Recipe(view="sentence", corruption="intact", max_seq_length=32),
}
"""What the papers did, as near as it is data: BERT (Devlin et al., 2018), RoBERTa (Liu et al.,
2019), ALBERT (Lan et al., 2019), SpanBERT (Joshi et al., 2019), XLNet (Yang et al., 2019; 85 tokens
of 512), T5 (Raffel et al., 2019), BART (Lewis et al., 2019), SimCSE (Gao et al., 2021)."""


def named_recipe(name: str) -> Recipe:
    """Return a recipe of `RECIPES`.

    Raises:
        ConfigError: no such recipe

    Example:
        >>> named_recipe("roberta").view
        'packed'
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]
