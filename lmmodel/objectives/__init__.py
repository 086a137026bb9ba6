"""What a model learns: view x corruption x head. Nothing else names one.

Needs no torch until an objective's parts are asked for. To add one: an entry in `OBJECTIVES`.
"""

from __future__ import annotations

from lmdata.recipes import Recipe
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
from lmmodel.objectives.tokens import CLM, HYBRID, MLM, MLM_NSP, MLM_SOP, RTD

OBJECTIVES |= {
    "mlm": MLM, "mlm+nsp": MLM_NSP, "mlm+sop": MLM_SOP, "clm": CLM, "hybrid": HYBRID,
    "rtd": RTD,
    "t5": T5, "bart": BART,
}  # fmt: skip

__all__ = [
    "OBJECTIVES", "Definition", "Objective", "ObjectiveConfig", "Part", "Term", "check_fits",
    "make_objective", "modules_of", "num_parameters",
]  # fmt: skip


def check_fits(config: ObjectiveConfig, model: ModelConfig, recipe: Recipe | None) -> None:
    """Refuse an objective that a model, or examples of a recipe, can't be about.

    Raises:
        ValueError: says which ones fit
    """
    name, own, family = config.name, OBJECTIVES[config.name], model.traits

    def fits(known: Definition) -> bool:
        of_sides = known.has_targets == family.is_encoder_decoder
        return of_sides and (known.is_causal or not model.is_causal)

    if not fits(own):
        what = (
            "reads a source and writes a target" if family.is_encoder_decoder
            else "only sees what came before" if model.is_causal
            else "has no decoder, and what is learned here needs one"
        )  # fmt: skip
        fitting = " or ".join(other for other, known in OBJECTIVES.items() if fits(known))
        raise ValueError(
            f"model.family={model.family} {what}: objective.name must be {fitting}, got {name}"
        )
    if own.has_targets and own.decoder_start != family.decoder_start:
        raise ValueError(
            f"objective.name={name} begins targets with the {own.decoder_start} token, "
            f"model.family={model.family} with {family.decoder_start}: learn {family.objective}"
        )
    for kind, wanted in (("view", own.pair_view), ("corruption", own.corruption)):
        found = wanted if recipe is None else getattr(recipe, kind)
        if wanted not in (None, found):
            raise ValueError(
                f"objective.name={name} learns from recipe.{kind}={wanted}, got {found}"
            )
