"""Rows of both kinds, as in GPT-BERT (Charpentier and Samuel, 2024): hybrid."""

from __future__ import annotations

from lmmodel.objectives.causal import NEEDS, next_token_labels
from lmmodel.objectives.masked import MLM, standard_masks
from lmmodel.objectives.objective import Definition, ObjectiveConfig, Part


def _parts(config: ObjectiveConfig) -> tuple[Part, ...]:
    from lmmodel.objectives.terms import TokenTerm

    share = config.causal_share
    masked = TokenTerm("mlm", 1 - share)
    causal = TokenTerm("clm", share, is_main=False, needs=NEEDS)
    return (
        Part(terms=(masked,), share=1 - share, is_of_masks=True),
        Part(terms=(causal,), share=share, is_causal=True, label=next_token_labels),
    )


HYBRID = Definition(
    make_parts=_parts,
    recipe=MLM.recipe,
    can_generate=True,
    can_fill_masks=True,
    hold_out=standard_masks,
)
