"""What a model learns: view x corruption x head. Nothing else names one.

Needs no torch until an objective's parts are asked for. To add one: an entry in `OBJECTIVES`.
"""

from __future__ import annotations

from lmdata.recipes import PAIR_VIEWS, Recipe
from lmmodel.families import ModelConfig
from lmmodel.objectives.denoising import BART, T5
from lmmodel.objectives.objective import (
    OBJECTIVES,
    Definition,
    Objective,
    ObjectiveConfig,
    Part,
    Term,
    make_objective,
    modules_of,
    num_parameters,
)
from lmmodel.objectives.permuted import PLM
from lmmodel.objectives.tokens import CLM, HYBRID, MLM, MLM_NSP, MLM_SOP, RTD, SIMCSE

OBJECTIVES |= {
    "mlm": MLM, "mlm+nsp": MLM_NSP, "mlm+sop": MLM_SOP, "clm": CLM, "hybrid": HYBRID,
    "rtd": RTD, "plm": PLM, "simcse": SIMCSE,
    "t5": T5, "bart": BART,
}  # fmt: skip

__all__ = [
    "OBJECTIVES", "Definition", "Objective", "ObjectiveConfig", "Part", "Term", "check_fits",
    "made_for", "make_objective", "modules_of", "num_parameters",
]  # fmt: skip


def made_for(recipe: Recipe) -> list[str]:
    """Return the names of the objectives that learn from examples of a recipe as they are meant.

    Masks may be of any kind for who guesses masked tokens, and nothing but them; all else is one
    corruption's own.
    """

    def masks(own: Recipe) -> bool:
        return own.corruption_traits.is_masking and not own.corruption_traits.orders

    pair_view = recipe.view if recipe.view in PAIR_VIEWS else None
    return [
        name for name, own in OBJECTIVES.items()
        if own.pair_view == pair_view and (own.recipe.corruption == recipe.corruption
                                           or (masks(own.recipe) and masks(recipe)))
        and not (own.can_generate and masks(recipe))
    ]  # fmt: skip


def check_fits(config: ObjectiveConfig, model: ModelConfig, recipe: Recipe | None) -> None:
    """Refuse an objective that a model, or examples of a recipe, can't be about.

    Raises:
        ValueError: says which ones fit
    """
    name, own, family = config.name, OBJECTIVES[config.name], model.traits
    if not own.fits(family):
        what = (
            "reads a source and writes a target that begins with its "
            f"{family.decoder_start} token" if family.is_encoder_decoder
            else "only sees what came before" if family.is_causal
            else "is told the order in which tokens are read" if family.is_two_stream
            else "has no queries of their own for hidden tokens, which are needed here"
            if own.recipe.corruption_traits.orders
            else "has no decoder, and what is learned here needs one"
        )  # fmt: skip
        fitting = " or ".join(other for other, known in OBJECTIVES.items() if known.fits(family))
        raise ValueError(
            f"model.family={model.family} {what}: objective.name must be {fitting}, got {name}"
        )
    for kind, wanted in (("view", own.pair_view), ("corruption", own.corruption)):
        if recipe is not None and wanted not in (None, getattr(recipe, kind)):
            raise ValueError(
                f"objective.name={name} learns from recipe.{kind}={wanted}, "
                f"got {getattr(recipe, kind)}"
            )
