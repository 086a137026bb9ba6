"""Texts restored from noise by an encoder-decoder, which reads a source and writes a target.

t5      what spans held that sentinels stand for (Raffel et al., 2019)
bart    the whole text, of permuted sentences with masks for spans (Lewis et al., 2019)
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lmdata.batch import ExampleBatch
from lmdata.recipes import RECIPES
from lmmodel.objectives.objective import Definition, ObjectiveConfig, Part

if TYPE_CHECKING:
    from lmmodel.batch import Batch


def pack_targets(examples: ExampleBatch, max_seqlen: int | None) -> Batch:
    """Return examples as a batch of a source and a target, every token of which is asked."""
    from lmmodel.packing import pack_streams

    return pack_streams(examples, max_seqlen)


def _denoising_parts(config: ObjectiveConfig) -> tuple[Part, ...]:
    from lmmodel.objectives.terms import TargetTerm

    return (Part(terms=(TargetTerm(config.name),), pack=pack_targets),)


T5, BART = (
    Definition(
        summary=summary, make_parts=_denoising_parts,
        recipe=dataclasses.replace(RECIPES[name], max_seq_length=128), has_targets=True,
        decoder_start=start,
    )
    for name, start, summary in (
        ("t5", "pad", "what the spans held that sentinels stand for (T5)"),
        ("bart", "eos", "the text of permuted sentences with masks for spans (BART)"),
    )
)  # fmt: skip
