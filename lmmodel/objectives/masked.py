"""Masked tokens, alone or beside pairs of sentences: mlm, mlm+nsp, mlm+sop."""

from __future__ import annotations

import dataclasses
from functools import partial

from lmdata.recipes import Recipe
from lmmodel.objectives.objective import Definition, ObjectiveConfig, Part, Term

EVALUATION_MLM_PROBABILITY = 0.15


def _parts(config: ObjectiveConfig, pair: str | None = None) -> tuple[Part, ...]:
    from lmmodel.objectives.terms import PairTerm, TokenTerm

    terms: list[Term] = [TokenTerm("mlm")]
    if pair is not None:
        terms.append(PairTerm(pair, config.pair_weight))
    return (Part(terms=tuple(terms), is_of_masks=True),)


def standard_masks(recipe: Recipe) -> Recipe:
    """Return a recipe with standard masks (0.15, single tokens), whatever the training's are."""
    if recipe.corruption == "none":
        return recipe
    return dataclasses.replace(
        recipe, corruption="token", coverage="independent", max_predictions=None,
        mlm_probability=EVALUATION_MLM_PROBABILITY,
    )  # fmt: skip


MLM = Definition(
    make_parts=_parts, recipe=Recipe(view="packed", count="bernoulli"), can_fill_masks=True,
    hold_out=standard_masks,
)  # fmt: skip
MLM_NSP, MLM_SOP = (
    Definition(
        make_parts=partial(_parts, pair=pair), recipe=Recipe(view=pair), can_fill_masks=True,
        hold_out=standard_masks,
    )
    for pair in ("nsp", "sop")
)  # fmt: skip
