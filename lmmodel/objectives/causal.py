"""Next tokens: clm."""

from __future__ import annotations

import numpy as np

from lmdata.batch import ExampleBatch
from lmdata.recipes import Recipe
from lmmodel.objectives.masked import standard_masks
from lmmodel.objectives.objective import Definition, ObjectiveConfig, Part

NEEDS = "texts of at least two tokens, and {source} has none: build it from other text"


def _parts(config: ObjectiveConfig) -> tuple[Part, ...]:
    from lmmodel.objectives.terms import TokenTerm

    term = TokenTerm("clm", needs=NEEDS)
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
    make_parts=_parts, recipe=Recipe(view="packed", corruption="none"), is_causal=True,
    can_generate=True, hold_out=standard_masks,
)  # fmt: skip
