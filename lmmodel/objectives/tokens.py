"""Masked tokens, alone or beside pairs of sentences, next tokens, and rows of both kinds.

mlm, mlm+nsp, mlm+sop   the loss is about masked tokens, and perhaps a label of each pair
clm                     next tokens
hybrid                  both, as in GPT-BERT (Charpentier and Samuel, 2024)
rtd                     which tokens a generator replaced, as in ELECTRA
simcse                  which vectors belong to equal sentences, as in SimCSE
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np

from lmdata.batch import ExampleBatch
from lmdata.recipes import RECIPES, Recipe
from lmmodel.objectives.objective import Definition, ObjectiveConfig, Part, Term, later

EVALUATION_MLM_PROBABILITY = 0.15


def _masked_parts(config: ObjectiveConfig, pair: str | None = None) -> tuple[Part, ...]:
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
    summary="masked tokens (RoBERTa)",
    make_parts=_masked_parts, recipe=Recipe(view="packed", count="bernoulli"), can_fill_masks=True,
    hold_out=standard_masks,
)  # fmt: skip
MLM_NSP, MLM_SOP = (
    Definition(
        summary=f"masked tokens, and {question}", make_parts=partial(_masked_parts, pair=pair),
        recipe=Recipe(view=pair), can_fill_masks=True, hold_out=standard_masks,
    )
    for pair, question in (
        ("nsp", "whether the second segment follows the first (BERT)"),
        ("sop", "whether two neighbours were swapped (ALBERT)"),
    )
)  # fmt: skip


NEXT_TOKENS_NEED = "texts of at least two tokens, and {source} has none: build it from other text"


def _causal_parts(config: ObjectiveConfig) -> tuple[Part, ...]:
    from lmmodel.objectives.terms import TokenTerm

    term = TokenTerm("clm", needs=NEXT_TOKENS_NEED)
    return (Part(terms=(term,), is_causal=True, label=next_token_labels),)


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


CLM = Definition(
    summary="the next token (GPT)",
    make_parts=_causal_parts, recipe=Recipe(view="packed", corruption="none"), is_causal=True,
    can_generate=True, hold_out=standard_masks,
)  # fmt: skip


def _hybrid_parts(config: ObjectiveConfig) -> tuple[Part, ...]:
    from lmmodel.objectives.terms import TokenTerm

    share = config.causal_share
    masked = TokenTerm("mlm", 1 - share)
    causal = TokenTerm("clm", share, is_main=False, needs=NEXT_TOKENS_NEED)
    return (
        Part(terms=(masked,), share=1 - share, is_of_masks=True),
        Part(terms=(causal,), share=share, is_causal=True, label=next_token_labels),
    )


HYBRID = Definition(
    summary="masked tokens of some rows, the next token of others (GPT-BERT)",
    make_parts=_hybrid_parts,
    recipe=MLM.recipe,
    can_generate=True,
    can_fill_masks=True,
    hold_out=standard_masks,
)


_REPLACED = "lmmodel.objectives.replaced"

RTD = Definition(
    summary="which tokens a small generator replaced (ELECTRA)",
    make_parts=later(_REPLACED, "make_parts"),
    recipe=Recipe(
        view="packed", count="bernoulli", mask_proportion=0.85, random_proportion=0.0,
        keep_proportion=0.15,
    ),
    make_modules=later(_REPLACED, "make_modules"),
    begin=later(_REPLACED, "begin"),
    finish=later(_REPLACED, "finish"),
    token_scores=later(_REPLACED, "log_originality"),
    models_within=later(_REPLACED, "generator_of"),
    hold_out=standard_masks,
)  # fmt: skip


_CONTRASTIVE = "lmmodel.objectives.contrastive"

SIMCSE = Definition(
    summary="vectors of sentences, each near itself under other dropout (SimCSE)",
    make_parts=later(_CONTRASTIVE, "make_parts"),
    recipe=RECIPES["simcse"], makes_vectors=True, dropout=0.1,
)  # fmt: skip
